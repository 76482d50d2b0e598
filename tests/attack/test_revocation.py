"""Revocation: who may, and that authority is part of what a commit has read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from capabilities.did import DID
from capabilities.principal import Signer
from capabilities.ucanto import Token
from capabilities.ucanto import token as tokens
from capabilities.ucanto.signature import Signature
from capabilities.ucanto.token import Claim
from stmflow import codec
from stmflow.cid import CID
from stmflow.store.memory import MemoryStore
from tests.attack import tokens1
from tests.attack.test_replay import CURVES, Curve, Slow, flipped, twin_of
from tests.attack.world import Family, Held, Told, World, pack, post, world
from tests.capabilities.ucan1.tokens import ask as ask1
from tests.capabilities.ucan1.tokens import grant as grant1
from tests.capabilities.ucanto.tokens import (
    ALICE,
    BOB,
    CAROL,
    LINK,
    MALLORY,
    NOW,
    SERVICE,
    SPACE,
    ask,
    grant,
)

PEOPLE = {
    each.did.text[-4:]: name
    for each, name in ((SPACE, "space"), (ALICE, "Alice"), (BOB, "Bob"), (CAROL, "Carol"))
}
FAMILIES: tuple[Family, ...] = ("ucanto", "ucan1")

# A chain of three in each family: the space to Alice to Bob to Carol, who asks.
ROOT, ROOT1 = grant(SPACE, ALICE), grant1(SPACE, ALICE)
SECOND, SECOND1 = grant(ALICE, BOB, proofs=[ROOT]), grant1(ALICE, BOB)
THIRD, THIRD1 = grant(BOB, CAROL, proofs=[SECOND]), grant1(BOB, CAROL)
CHAIN, CHAIN1 = (ROOT, SECOND, THIRD), (ROOT1, SECOND1, THIRD1)
PROOF: dict[Family, dict[str, bytes]] = {
    "ucanto": {"root": ROOT.data, "second": SECOND.data, "third": THIRD.data},
    "ucan1": {"root": ROOT1.data, "second": SECOND1.data, "third": THIRD1.data},
}


def asked(family: Family, nonce: str = "", link: CID = LINK) -> bytes:
    """Carol asks."""
    if family == "ucanto":
        wanted = Claim("store/add", SPACE.did.text, {"link": link, "size": 100})
        return post(ask(CAROL, THIRD, claims=[wanted], nonce=nonce or None), *CHAIN)
    arguments = {"link": link, "size": 100}
    made = ask1(CAROL, CHAIN1, arguments=arguments, nonce=nonce.encode())
    return pack(made, *CHAIN1)


def revocation(by: Signer, token: bytes, *proofs: Token) -> bytes:
    """`by` takes a token back, in its own name."""
    made = tokens.issue(
        by,
        SERVICE.did,
        [Claim("ucan/revoke", by.did.text, {"ucan": CID.of(token)})],
        expires=NOW + 30,
        proofs=[each.cid for each in proofs],
    )
    return post(made, token, *proofs)


async def revoke(service: World, by: Signer, token: bytes) -> None:
    told = await service.post("ucanto", revocation(by, token))
    assert told.ok == {"time": NOW * 1_000}, told


async def refused(service: World, family: Family, **options: Any) -> Told:
    """Carol asks in vain: told that it was revoked, and nothing written."""
    before = service.snapshot()
    with anyio.fail_after(5):
        told = await service.post(family, asked(family, **options))
    assert "Revoked" in told.names, told
    assert service.snapshot() == before
    return told


# --- who may ------------------------------------------------------------------------------------

ISSUERS = [
    ("root", SPACE),
    ("second", SPACE),
    ("second", ALICE),
    ("third", SPACE),
    ("third", ALICE),
    ("third", BOB),
]
AUDIENCES = [("root", ALICE), ("second", BOB), ("third", CAROL)]
STRANGERS = [
    ("root", MALLORY),
    ("root", BOB),
    ("root", CAROL),
    ("second", CAROL),
    ("root", SERVICE),
]


def called(pairs: list[tuple[str, Signer]]) -> list[Any]:
    names = {**PEOPLE, MALLORY.did.text[-4:]: "Mallory", SERVICE.did.text[-4:]: "the service"}
    return [
        pytest.param(proof, by, id=f"{proof} proof, by {names[by.did.text[-4:]]}")
        for proof, by in pairs
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("proof", "by"), called(ISSUERS))
async def test_an_issuer_of_a_proof_or_of_one_above_revokes_it(
    family: Family, proof: str, by: Signer
) -> None:
    async with world() as service:
        await revoke(service, by, PROOF[family][proof])
        await refused(service, family)
        assert await service.jobs() == 0


@pytest.mark.parametrize(("proof", "by"), called(AUDIENCES))
async def test_in_ucanto_whom_a_proof_is_for_may_give_it_up(proof: str, by: Signer) -> None:
    async with world() as service:
        await revoke(service, by, PROOF["ucanto"][proof])
        await refused(service, "ucanto")


@pytest.mark.parametrize(("proof", "by"), called(AUDIENCES))
async def test_in_ucan_1_whom_a_proof_is_for_revokes_nothing(proof: str, by: Signer) -> None:
    async with world() as service:
        await revoke(service, by, PROOF["ucan1"][proof])
        with anyio.fail_after(5):
            assert (await service.post("ucan1", asked("ucan1"))).ok == {"size": 100, "times": 1}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("proof", "by"), called(STRANGERS))
async def test_the_revocation_of_a_stranger_is_kept_and_counts_for_nothing(
    family: Family, proof: str, by: Signer
) -> None:
    async with world() as service:
        await revoke(service, by, PROOF[family][proof])
        with anyio.fail_after(5):
            assert (await service.post(family, asked(family))).ok == {"size": 100, "times": 1}


async def test_nobody_revokes_in_the_name_of_another() -> None:
    claim = Claim("ucan/revoke", SPACE.did.text, {"ucan": ROOT.cid})
    made = tokens.issue(MALLORY, SERVICE.did, [claim], expires=NOW + 30)
    async with world() as service:
        before = service.snapshot()
        told = await service.post("ucanto", post(made, ROOT))
        assert "InvalidClaim" in told.names
        assert service.snapshot() == before


async def test_a_token_that_did_not_travel_with_its_revocation_is_not_revoked() -> None:
    claim = Claim("ucan/revoke", SPACE.did.text, {"ucan": ROOT.cid})
    made = tokens.issue(SPACE, SERVICE.did, [claim], expires=NOW + 30)
    async with world() as service:
        before = service.snapshot()
        assert "UCANNotFound" in (await service.post("ucanto", post(made))).names
        assert service.snapshot() == before


async def test_what_is_no_token_is_not_revoked() -> None:
    async with world() as service:
        before = service.snapshot()
        told = await service.post("ucanto", revocation(SPACE, b"\xa0"))
        assert "UCANNotFound" in told.names
        assert service.snapshot() == before


async def test_a_token_under_the_name_of_raw_bytes_is_not_revoked() -> None:
    """Its revocation would be found by nobody: so it is refused, not kept."""
    from stmflow.cid import RAW
    from tests.attack.world import message_of

    for token in (ROOT.data, ROOT1.data):
        name = CID.of(token, RAW)
        claim = Claim("ucan/revoke", SPACE.did.text, {"ucan": name})
        made = tokens.issue(SPACE, SERVICE.did, [claim], expires=NOW + 30)
        async with world() as service:
            before = service.snapshot()
            told = await service.post(
                "ucanto", message_of([made.cid], {name: token, made.cid: made.data})
            )
            assert "UCANNotFound" in told.names
            assert service.snapshot() == before


# --- when ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_after_the_start_of_the_job_it_stays_and_nothing_new_is_taken(
    family: Family,
) -> None:
    async with world() as service:
        assert (await service.post(family, asked(family))).ok
        await revoke(service, SPACE, PROOF[family]["root"])
        await refused(service, family)
        await refused(service, family, nonce="new")
        await refused(service, family, link=CID.of(b"another"))
        assert await service.held(SPACE.did, LINK) == Held(100, 1)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_revocation_is_not_taken_back(family: Family) -> None:
    async with world() as service:
        body = revocation(SPACE, PROOF[family]["root"])
        assert (await service.post("ucanto", body)).ok
        cancelled = revocation(SPACE, invocation_of(body))
        assert (await service.post("ucanto", cancelled)).ok
        await refused(service, family)


def invocation_of(body: bytes) -> bytes:
    from capabilities.ucanto import message

    told = message.decode(body)
    return told.blocks[told.invocations[0]]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_revoked_invocation_is_refused(family: Family) -> None:
    if family == "ucanto":
        data = ask(CAROL, THIRD).data
    else:
        arguments = {"link": LINK, "size": 100}
        data = ask1(CAROL, CHAIN1, arguments=arguments, nonce=b"").data
    async with world() as service:
        await revoke(service, SPACE, data)
        await refused(service, family)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_revocation_between_acceptance_and_commit_wins(family: Family) -> None:
    """The commit has read that nothing was revoked: what has changed since makes it run again."""
    slow = Slow(MemoryStore(), anyio.Event(), anyio.Event())
    told: list[Told] = []
    # Two services, each with its own transactor, over one store: one is slow to commit.
    async with world(slow) as late, world(slow.store) as prompt:  # type: ignore[arg-type]

        async def send() -> None:
            told.append(await late.post(family, asked(family)))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await slow.reached.wait()
            await revoke(prompt, SPACE, PROOF[family]["root"])
            before = prompt.snapshot()
            slow.gate.set()
        assert "Revoked" in told[0].names
        assert told[0].ok is None
        assert prompt.snapshot() == before
        assert await prompt.jobs() == 0


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_revocation_by_a_stranger_between_acceptance_and_commit_loses(
    family: Family,
) -> None:
    slow = Slow(MemoryStore(), anyio.Event(), anyio.Event())
    told: list[Told] = []
    async with world(slow) as late, world(slow.store) as prompt:  # type: ignore[arg-type]

        async def send() -> None:
            told.append(await late.post(family, asked(family)))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await slow.reached.wait()
            await revoke(prompt, MALLORY, PROOF[family]["root"])
            slow.gate.set()
        assert told[0].ok == {"size": 100, "times": 1}


# --- another path, another signature --------------------------------------------------------------


async def test_another_path_that_is_not_revoked_is_found() -> None:
    other = grant(SPACE, ALICE, expires=None)
    async with world() as service:
        await revoke(service, SPACE, ROOT.data)
        told = await service.post("ucanto", post(ask(ALICE, ROOT, other), ROOT, other))
        assert told.ok == {"size": 100, "times": 1}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_twin_of_a_revoked_delegation_is_revoked(family: Family, curve: str) -> None:
    signer: Any = Curve(*CURVES[curve])
    if family == "ucanto":
        data = grant(signer, ALICE, Claim("store/*", signer.did.text)).data
        wanted = Claim("store/add", signer.did.text, {"link": LINK, "size": 100})
        other = tokens.decode(None, twin_of(data))
        body = post(ask(ALICE, other, claims=[wanted]), other)
    else:
        data = grant1(signer, ALICE, subject=signer).data
        other1 = delegation_twin(data)
        made = ask1(ALICE, [other1], subject=signer, arguments=tokens1.ARGUMENTS)
        body = pack(made, other1)
    async with world() as service:
        assert (await service.post(family, body)).ok
        told = await service.post("ucanto", post(own_revocation(signer, data), data))
        assert told.ok, told
        before = service.snapshot()
        assert "Revoked" in (await service.post(family, body)).names
        assert service.snapshot() == before


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("family", FAMILIES)
async def test_so_is_the_twin_of_what_a_name_with_such_a_key_delegated(
    family: Family, curve: str
) -> None:
    """A did:web: nothing in it tells of which kind its key is."""
    signer: Any = Curve(*CURVES[curve])
    key, signer.did = signer.did, DID.parse("did:web:ann.example")
    if family == "ucanto":
        root = grant(SPACE, signer)
        second = grant(signer, ALICE, proofs=[root])
        flip = flipped(key.text, second.signature.raw)
        sealed = replace(second.signature, raw=flip).encode()
        other = tokens.decode(None, codec.encode({**codec.decode(second.data), "s": sealed}))
        data, body = second.data, post(ask(ALICE, other), other, root)
    else:
        root1 = grant1(SPACE, signer)
        data = grant1(signer, ALICE).data
        other1 = delegation_twin(data, key)
        body = pack(ask1(ALICE, [root1, other1], arguments=tokens1.ARGUMENTS), root1, other1)
    async with world(resolver=lambda did: [key] if did == signer.did else []) as service:
        assert (await service.post(family, body)).ok
        await revoke(service, SPACE, data)
        before = service.snapshot()
        assert "Revoked" in (await service.post(family, body)).names
        assert service.snapshot() == before


async def test_a_signature_that_is_too_short_for_its_kind_has_no_twin() -> None:
    signer: Any = Curve(*CURVES["P-256"])
    fields = codec.decode(grant(signer, ALICE).data)
    short = Signature(signer.verifier.code, signer.verifier.algorithm, b"\1\1").encode()
    async with world() as service:
        await revoke(service, SPACE, codec.encode({**fields, "s": short}))


def delegation_twin(data: bytes, key: DID | None = None) -> Any:
    from capabilities.ucan1 import delegation

    signature, content = codec.decode(data)
    issuer = content["ucan/dlg@1.0.0-rc.1"]["iss"] if key is None else key.text
    return delegation.decode(codec.encode([flipped(issuer, signature), content]))


def own_revocation(signer: Any, data: bytes) -> Token:
    claim = Claim("ucan/revoke", signer.did.text, {"ucan": CID.of(data)})
    return tokens.issue(signer, SERVICE.did, [claim], expires=NOW + 30)
