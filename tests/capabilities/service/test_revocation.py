"""Who may take a token back, what is written of it, and what still works afterwards."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from capabilities.service import REVOCATION
from capabilities.ucan1 import container, delegation, invocation
from capabilities.ucanto import token
from capabilities.ucanto.token import Claim
from stmflow import CID
from stmflow.store.sqlite import SQLiteStore
from tests.capabilities.service.world import (
    StandingClock,
    World,
    error,
    grant,
    ok,
    revoking,
    world,
    write,
)
from tests.capabilities.ucanto import tokens
from tests.capabilities.ucanto.tokens import (
    ACCOUNT,
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    NOW,
    SERVICE,
    SPACE,
    WEB,
)

ROOT = grant()
MIDDLE = grant(ALICE, BOB, proofs=[ROOT])


async def written(at: World, cid: CID, scope: str) -> Any:
    head = await at.transactor.get(REVOCATION.job(cid, scope))
    return None if head is None else head.state


async def test_a_revocation_writes_a_mark_on_the_token_and_the_pair() -> None:
    clock = StandingClock()
    async with world(clock=clock) as at:
        asked = revoking(SPACE, ROOT)
        assert ok(await at.ask(asked, proofs=[ROOT])) == {"time": clock.now()}
        for scope in ("", SPACE.did.text):
            state = await written(at, ROOT.cid, scope)
            assert (state.cause, state.at) == (asked.cid, clock.now())
        assert await written(at, ROOT.cid, ALICE.did.text) is None


async def test_a_second_revocation_tells_the_time_of_the_first() -> None:
    clock = StandingClock()
    async with world(clock=clock) as at:
        first = ok(await at.ask(revoking(SPACE, ROOT), proofs=[ROOT]))
        clock.set(clock.now() + 5_000)
        again = ok(await at.ask(revoking(SPACE, ROOT, nonce="again"), proofs=[ROOT]))
        assert again == first
        other = ok(await at.ask(revoking(ALICE, ROOT), proofs=[ROOT]))
        assert other["time"] == first["time"] + 5_000


@pytest.mark.parametrize(
    ("revoker", "token", "works"),
    [
        (SPACE, ROOT, False),
        (ALICE, ROOT, False),
        (BOB, ROOT, True),
        (SPACE, MIDDLE, False),
        (ALICE, MIDDLE, False),
        (BOB, MIDDLE, False),
        (MALLORY, ROOT, True),
        (MALLORY, MIDDLE, True),
        (SERVICE, MIDDLE, True),
    ],
    ids=[
        "root by the space",
        "root by its audience",
        "root by who stands below it",
        "middle by who stands above it",
        "middle by its issuer",
        "middle by its audience",
        "root by a stranger",
        "middle by a stranger",
        "middle by the service",
    ],
)
async def test_a_revocation_counts_where_the_revoker_stands_in_the_token_or_above_it(
    revoker: Any, token: Any, works: bool
) -> None:
    async with world() as at:
        ok(await at.ask(revoking(revoker, token), proofs=[ROOT, MIDDLE]))
        told = await at.ask(write(BOB, MIDDLE), proofs=[ROOT, MIDDLE])
        assert ("ok" in told.out) is works
        assert await at.notes() == int(works)
        if not works:
            assert error(told)["name"] == "Unauthorized"
            assert "Revoked" in error(told)["message"]


@pytest.mark.parametrize("first", [True, False])
async def test_another_proof_still_works_when_one_was_revoked(first: bool) -> None:
    spare = grant(expires=NOW + 700)
    async with world() as at:
        ok(await at.ask(revoking(SPACE, ROOT), proofs=[ROOT]))
        proofs = [ROOT, spare] if first else [spare, ROOT]
        assert ok(await at.ask(write(ALICE, *proofs), proofs=proofs))["first"]


async def test_when_every_proof_was_revoked_nothing_works() -> None:
    spares = [grant(expires=NOW + 700 + more) for more in range(5)]
    async with world() as at:
        for one in spares:
            ok(await at.ask(revoking(SPACE, one), proofs=[one]))
        told = error(await at.ask(write(ALICE, *spares), proofs=spares))
        assert told["message"].count("Revoked") == len(spares)
        assert await at.notes() == 0


async def test_an_invocation_may_be_revoked_itself() -> None:
    async with world() as at:
        asked = write()
        ok(await at.ask(revoking(SPACE, asked), proofs=[asked]))
        assert "Revoked" in error(await at.ask(asked))["message"]


async def test_who_had_it_done_before_is_told_that_it_was_revoked_since() -> None:
    async with world() as at:
        asked = write(ALICE, ROOT)
        ok(await at.ask(asked, proofs=[ROOT]))
        ok(await at.ask(revoking(SPACE, ROOT), proofs=[ROOT]))
        assert "Revoked" in error(await at.ask(asked, proofs=[ROOT]))["message"]
        assert await at.notes() == 1


async def test_a_revocation_of_a_revocation_brings_nothing_back() -> None:
    async with world() as at:
        asked = revoking(SPACE, ROOT)
        ok(await at.ask(asked, proofs=[ROOT]))
        ok(await at.ask(revoking(SPACE, asked), proofs=[asked]))
        assert "Revoked" in error(await at.ask(write(ALICE, ROOT), proofs=[ROOT]))["message"]


async def test_in_somebody_elses_name_nobody_revokes() -> None:
    async with world() as at:
        claim = Claim("ucan/revoke", SPACE.did.text, {"ucan": ROOT.cid})
        asked = tokens.ask(MALLORY, claims=(claim,))
        assert error(await at.ask(asked, proofs=[ROOT]))["name"] == "Unauthorized"
        assert await at.jobs() == 0


async def test_who_was_let_revoke_does_it_in_the_others_name() -> None:
    right = tokens.grant(SPACE, CAROL, Claim("ucan/revoke", SPACE.did.text))
    async with world() as at:
        claim = Claim("ucan/revoke", SPACE.did.text, {"ucan": ROOT.cid})
        asked = tokens.ask(CAROL, right, claims=(claim,))
        ok(await at.ask(asked, proofs=[right, ROOT]))
        assert "Revoked" in error(await at.ask(write(ALICE, ROOT), proofs=[ROOT]))["message"]


async def test_what_did_not_travel_or_is_no_token_is_not_revoked() -> None:
    async with world() as at:
        assert error(await at.ask(revoking(SPACE, ROOT)))["name"] == "UCANNotFound"
        assert await at.jobs() == 0


async def test_in_ucan_1_who_was_granted_may_send_it_back_and_the_search_ends() -> None:
    """The search for a path in which nothing is revoked must not go on for ever."""
    root = delegation.issue(
        SPACE,
        audience=ALICE.did,
        subject=SPACE.did,
        command="/note",
        nonce=b"n",
        expires=NOW + 600,
    )

    def asked(nonce: bytes) -> bytes:
        made = invocation.issue(
            ALICE,
            subject=SPACE.did,
            command="/note/write",
            arguments={"name": "a", "text": "hello"},
            audience=SERVICE.did,
            proofs=[root.cid],
            nonce=nonce,
            expires=NOW + 60,
        )
        return container.encode([made.data, root.data], form="raw")

    async with world() as at:
        _, told = await at.service.respond1(asked(b"1"))
        ok(told.receipt)
        for revoker, works in ((MALLORY, True), (ALICE, None), (SPACE, False)):
            taken = invocation.issue(
                revoker,
                subject=revoker.did,
                command="/ucan/revoke",
                arguments={"ucan": root.cid},
                audience=SERVICE.did,
                nonce=b"r",
                expires=NOW + 60,
            )
            body = container.encode([taken.data, root.data], form="raw")
            _, said = await at.service.respond1(body)
            ok(said.receipt)
            with anyio.fail_after(2):
                _, told = await at.service.respond1(asked(revoker.did.raw))
            if works is not None:  # whether a grant may be sent back, its family says
                assert ("ok" in told.receipt.out) is works


async def test_a_revocation_holds_after_a_restart(tmp_path: Any) -> None:
    for revoked in (False, True):
        async with SQLiteStore.open(tmp_path / "jobs.db") as store, world(store=store) as at:
            if revoked:
                told = await at.ask(write(ALICE, ROOT), proofs=[ROOT])
                assert "Revoked" in error(told)["message"]
            else:
                ok(await at.ask(revoking(SPACE, ROOT), proofs=[ROOT]))


# --- what an attestation rests on -----------------------------------------------------------------

RIGHT = tokens.grant(WEB, BOB, Claim("ucan/attest", WEB.did.text))
TO_ACCOUNT = token.issue(SPACE, ACCOUNT, [Claim("note/*", SPACE.did.text)], expires=None)
SESSION = grant(ACCOUNT, ALICE, proofs=[TO_ACCOUNT])
ATTESTED = tokens.grant(
    BOB, ALICE, Claim("ucan/attest", WEB.did.text, {"proof": SESSION.cid}), proofs=[RIGHT]
)
LOGIN = [SESSION, TO_ACCOUNT, ATTESTED, RIGHT]


def logged_in() -> Any:
    return write(ALICE, SESSION, ATTESTED, audience=WEB)


@pytest.mark.parametrize(
    ("revoker", "revoked", "works"),
    [
        (WEB, ATTESTED, False),
        (BOB, ATTESTED, False),
        (ALICE, ATTESTED, False),
        (SPACE, ATTESTED, True),
        (MALLORY, ATTESTED, True),
        (WEB, RIGHT, False),
        (BOB, RIGHT, False),
        (ALICE, RIGHT, True),
    ],
    ids=[
        "by the service",
        "by who attested",
        "by whom it is for",
        "by the space",
        "by a stranger",
        "the right to attest, by the service",
        "the right to attest, by who attested",
        "the right to attest, by who stands below it",
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["before", "between acceptance and commit"])
async def test_an_attestation_is_revoked_as_any_other_token(
    revoker: Any, revoked: Any, works: bool, late: bool
) -> None:
    async with world(signer=WEB) as at:

        async def revoke() -> None:
            asked = revoking(revoker, revoked, audience=WEB)
            ok(await at.ask(asked, proofs=[ATTESTED, RIGHT]))

        if late:
            at.transactor.transact = before_the_first(at.transactor.transact, revoke)  # type: ignore[method-assign]
        else:
            await revoke()
        told = await at.ask(logged_in(), proofs=LOGIN)
        assert ("ok" in told.out) is works
        assert await at.notes() == int(works)
        if not works:
            assert "Revoked" in error(told)["message"]


def before_the_first(transact: Any, first: Any) -> Any:
    """`transact`, once `first` has been awaited: what it does itself goes through at once."""
    waiting = [first]

    async def after(*args: Any, **options: Any) -> Any:
        if waiting:
            await waiting.pop()()
        return await transact(*args, **options)

    return after
