"""Replay: never a second job, and never a second delivery of one invocation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from capabilities import twin
from capabilities.did import DID, P256, P384, P521, SECP256K1
from capabilities.principal import Verifier, verifier
from capabilities.service.provider import TOLERANCE_MS
from capabilities.ucan1 import container
from capabilities.ucanto import token as tokens
from stmflow import codec
from stmflow.cid import CID
from stmflow.store import Commit, Store, Sweep
from stmflow.store.memory import MemoryStore
from tests.attack import tokens1
from tests.attack.world import Clock, Family, Held, World, message_of, pack, post, world
from tests.capabilities.ucan1.tokens import ask as ask1
from tests.capabilities.ucan1.tokens import forged as forged1
from tests.capabilities.ucan1.tokens import grant as grant1
from tests.capabilities.ucanto.tokens import (
    ALICE,
    LINK,
    NOW,
    SERVICE,
    SPACE,
    ask,
    blocks_of,
    claim,
    forged,
    grant,
)

ROOT = grant(SPACE, ALICE)
ASK = ask(ALICE, ROOT)
OTHER_ROOT = grant(SPACE, ALICE, expires=None)
ROOT1 = tokens1.ROOT
ASK1 = tokens1.ASK
ARGUMENTS = tokens1.ARGUMENTS
BODY: dict[Family, bytes] = {"ucanto": post(ASK, ROOT), "ucan1": pack(ASK1, ROOT1)}
FAMILIES: tuple[Family, ...] = ("ucanto", "ucan1")


async def held_once(service: World) -> None:
    assert await service.jobs() == 1
    assert await service.held(SPACE.did, LINK) == Held(100, 1)


# --- the same delivery in other clothes -----------------------------------------------------------

AGAIN: dict[str, tuple[Family, Callable[[], bytes]]] = {
    "the same bytes": ("ucanto", lambda: BODY["ucanto"]),
    "other blocks beside it": ("ucanto", lambda: post(ASK, ROOT, OTHER_ROOT)),
    "listed twice in one message": (
        "ucanto",
        lambda: message_of([ASK.cid, ASK.cid], blocks_of(ROOT, ASK)),
    ),
    "over another proof": ("ucanto", lambda: post(ask(ALICE, OTHER_ROOT), OTHER_ROOT)),
    "with the proof listed twice": ("ucanto", lambda: post(ask(ALICE, ROOT, ROOT), ROOT)),
    "with other facts": ("ucanto", lambda: post(with_facts({"again": 1}), ROOT)),
    "under another version": ("ucanto", lambda: post(forged(ASK, ALICE, v="0.9.2"), ROOT)),
    "the same bytes, UCAN 1.0": ("ucan1", lambda: BODY["ucan1"]),
    "zipped": ("ucan1", lambda: container.encode([ASK1.data, ROOT1.data], gzip=True)),
    "in base64": ("ucan1", lambda: container.encode([ASK1.data, ROOT1.data], form="base64url")),
    "unsorted": ("ucan1", lambda: unsorted()),
    "with another expiry": (
        "ucan1",
        lambda: pack(ask1(ALICE, [ROOT1], arguments=ARGUMENTS, expires=NOW + 59), ROOT1),
    ),
    "over another proof, UCAN 1.0": ("ucan1", lambda: over_another()),
    "under the other version": (
        "ucan1",
        lambda: pack(forged1(ASK1, ALICE, tag="ucan/inv@1.0.0"), ROOT1),
    ),
    "with a field that nobody knows": ("ucan1", lambda: pack(forged1(ASK1, ALICE, x=1), ROOT1)),
    "by another agent": ("ucan1", lambda: by_another()),
}


def with_facts(fact: dict[str, Any]) -> tokens.Token:
    return tokens.issue(
        ALICE,
        SERVICE.did,
        [claim(link=LINK, size=100)],
        expires=NOW + 30,
        facts=[fact],
        proofs=[ROOT.cid],
    )


def unsorted() -> bytes:
    """The container with its tokens in the other order."""
    parts = sorted((ASK1.data, ROOT1.data), reverse=True)
    heads = [b"\x59" + len(each).to_bytes(2, "big") + each for each in parts]
    return b"@\xa1\x66ctn-v1\x82" + b"".join(heads)


def over_another() -> bytes:
    proof = grant1(SPACE, ALICE, command="/", nonce=b"another")
    return pack(ask1(ALICE, [proof], arguments=ARGUMENTS), proof)


def by_another() -> bytes:
    proof = grant1(SPACE, tokens1.BOB)
    return pack(ask1(tokens1.BOB, [proof], arguments=ARGUMENTS), proof)


@pytest.mark.parametrize("again", AGAIN)
async def test_a_repeat_gets_the_answer_and_is_not_applied_again(again: str) -> None:
    family, build = AGAIN[again]
    async with world() as service:
        first = await service.post(family, BODY[family])
        assert first.ok == {"size": 100, "times": 1}
        before = service.snapshot()
        assert (await service.post(family, build())).ok == first.ok
        assert service.snapshot() == before


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_new_invocation_finds_the_same_job(family: Family) -> None:
    """Another nonce or expiry is another delivery: what it means is the reducer's to say."""
    later: dict[Family, bytes] = {
        "ucanto": post(ask(ALICE, ROOT, nonce="again"), ROOT),
        "ucan1": pack(ask1(ALICE, [ROOT1], arguments=ARGUMENTS, nonce=b"again"), ROOT1),
    }
    async with world() as service:
        await service.post(family, BODY[family])
        assert (await service.post(family, later[family])).ok == {"size": 100, "times": 2}
        assert await service.jobs() == 1


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_repeat_at_another_service_is_refused(family: Family) -> None:
    from capabilities.service import Service, application
    from tests.attack.world import PROVIDERS

    async with world() as service:
        other = Service(
            SERVICE.named("did:web:other.example"), service.service.transactor, PROVIDERS
        )
        service.http._transport.app = application(other)  # type: ignore[attr-defined]
        before = service.snapshot()
        told = await service.http.post(
            "/" if family == "ucanto" else "/ucan",
            content=BODY[family],
            headers={"content-type": "application/vnd.ipld.car"} if family == "ucanto" else {},
        )
        assert told.status_code == 200
        assert b"InvalidAudience" in told.content
        assert service.snapshot() == before


# --- at the same time, and afterwards -------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_pair_at_the_same_time_is_applied_once(family: Family) -> None:
    told = []
    async with world() as service:

        async def send() -> None:
            told.append((await service.post(family, BODY[family])).ok)

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(send)
        assert told == [{"size": 100, "times": 1}] * 10
        await held_once(service)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_repeat_after_a_restart_is_not_applied_again(
    tmp_path: Path, family: Family
) -> None:
    async with world(file=tmp_path / "jobs.db") as service:
        assert (await service.post(family, BODY[family])).ok
    async with world(file=tmp_path / "jobs.db") as service:
        before = service.snapshot()
        assert (await service.post(family, BODY[family])).ok == {"size": 100, "times": 1}
        await held_once(service)
        assert service.snapshot() == before


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_repeat_after_the_cleaning_up_is_refused_as_expired(
    tmp_path: Path, family: Family
) -> None:
    clock = Clock()
    async with world(file=tmp_path / "jobs.db", clock=clock) as service:
        assert (await service.post(family, BODY[family])).ok
        clock.time = (NOW + 62) * 1_000 + TOLERANCE_MS
        await swept(service, clock.time)
        before = service.snapshot()
        told = await service.post(family, BODY[family])
        assert "Expired" in told.names
        assert service.snapshot() == before
        await held_once(service)


@pytest.mark.parametrize("family", FAMILIES)
async def test_nothing_is_forgotten_before_it_has_expired(family: Family) -> None:
    """The sweep in the last second in which the invocation holds."""
    clock = Clock()
    async with world(clock=clock) as service:
        assert (await service.post(family, BODY[family])).ok
        clock.time = (NOW + (29 if family == "ucanto" else 60)) * 1_000 + 999
        await swept(service, clock.time)
        assert (await service.post(family, BODY[family])).ok == {"size": 100, "times": 1}
        await held_once(service)


async def test_a_task_signed_anew_is_not_applied_once_the_first_has_expired() -> None:
    """UCAN 1.0: with a nonce it is one delivery, however long each signature of it holds."""
    root = grant1(SPACE, ALICE, expires=None)
    clock = Clock()
    async with world(clock=clock) as service:
        for seconds in (10, 80_000):
            asked = ask1(ALICE, [root], arguments=ARGUMENTS, expires=NOW + seconds)
            assert (await service.post("ucan1", pack(asked, root))).ok
        clock.time += 79_000 * 1_000
        await swept(service, clock.time)
        told = await service.post("ucan1", pack(asked, root))
        assert told.ok == {"size": 100, "times": 1}
        await held_once(service)


async def swept(service: World, now: int) -> None:
    from stmflow.store import Batch

    await service.store.commit(Batch([Sweep(now, 1_000)]))


@dataclass
class Slow:
    """A store whose commits wait for a gate: what happens between acceptance and commit."""

    store: Store
    gate: anyio.Event
    reached: anyio.Event

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def commit(self, batch: Any) -> Sequence[Any]:
        if any(isinstance(member, Commit) for member in batch.members):
            self.reached.set()
            await self.gate.wait()
        return await self.store.commit(batch)


async def test_an_expiry_that_passes_before_the_commit_changes_nothing_for_the_accepted() -> None:
    """Time is judged once, at acceptance, and the repeat is refused later."""
    clock = Clock()
    slow = Slow(MemoryStore(), anyio.Event(), anyio.Event())
    told = []
    async with world(slow, clock=clock) as service:  # type: ignore[arg-type]

        async def send() -> None:
            told.append(await service.post("ucanto", BODY["ucanto"]))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await slow.reached.wait()
            clock.time += 60_000
            slow.gate.set()
        assert told[0].ok
        assert "Expired" in (await service.post("ucanto", BODY["ucanto"])).names
        await held_once(service)


# --- the other signature of an ECDSA key ----------------------------------------------------------


class Curve:
    """A key of ECDSA that signs, as a principal of either family."""

    def __init__(self, code: bytes, curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> None:
        self._key = ec.derive_private_key(7, curve)
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        self.did = DID.decode(code + point)
        self.verifier: Verifier = verifier(self.did)
        self._digest = digest

    def sign(self, payload: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(payload, ec.ECDSA(self._digest)))
        size = self.verifier.signature_bytes // 2
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")


CURVES = {
    "P-256": (P256, ec.SECP256R1(), hashes.SHA256()),
    "P-384": (P384, ec.SECP384R1(), hashes.SHA384()),
    "P-521": (P521, ec.SECP521R1(), hashes.SHA512()),
    "secp256k1": (SECP256K1, ec.SECP256K1(), hashes.SHA256()),
}


def twin_of(data: bytes) -> bytes:
    """The block with the signature that nobody made."""
    if data[:1] == b"\x82":
        signature, content = codec.decode(data)
        made = flipped(codec.decode(data)[1]["ucan/inv@1.0.0-rc.1"]["iss"], signature)
        other = codec.encode([made, content])
    else:
        old = tokens.decode(None, data)
        raw = flipped(old.issuer.text, old.signature.raw)
        head = codec.decode(data)["s"][: -len(raw)]
        other = codec.encode({**codec.decode(data), "s": head + raw})
    assert twin.twins(CID.of(data), data) == (CID.of(data), CID.of(other))
    return other


def flipped(issuer: str, signature: bytes) -> bytes:
    order = twin._ORDERS[verifier(DID.parse(issuer)).algorithm]
    size = len(signature) // 2
    s = order - int.from_bytes(signature[size:], "big")
    return signature[:size] + s.to_bytes(size, "big")


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_twin_of_an_invocation_is_not_applied_again(family: Family, curve: str) -> None:
    signer: Any = Curve(*CURVES[curve])
    if family == "ucanto":
        root = grant(SPACE, signer)
        data = ask(signer, root).data
        bodies = [post(each, root) for each in (data, twin_of(data))]
    else:
        root1 = grant1(SPACE, signer)
        data = ask1(signer, [root1], arguments=ARGUMENTS).data
        bodies = [pack(each, root1) for each in (data, twin_of(data))]
    assert bodies[0] != bodies[1]
    async with world() as service:
        first = await service.post(family, bodies[0])
        assert first.ok == {"size": 100, "times": 1}
        assert (await service.post(family, bodies[1])).ok == first.ok
        await held_once(service)
