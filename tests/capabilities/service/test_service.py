"""Messages in, signed receipts out: several at once, in time or not, over a store that fails."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any

import anyio
import pytest

from capabilities import DID
from capabilities.service import Asked, Fault, Ok, Reads, Result
from capabilities.service import service as service_module
from capabilities.ucan1 import container, delegation, invocation
from capabilities.ucanto import blocks as car
from capabilities.ucanto import message, receipt, token
from capabilities.ucanto.message import VARIANT, Message
from capabilities.ucanto.token import Claim
from capabilities.ucanto.verified import verify_all
from scheduler.testing import VirtualLoop
from stmflow import CID, LIMITS, SystemClock, Transactor, codec
from stmflow.errors import HashMismatch, Indeterminate, MalformedBlock, Unavailable
from stmflow.store import Batch, Commit, StoredHead
from stmflow.store import Result as Written
from stmflow.store.memory import MemoryStore
from tests.capabilities.service.world import (
    NOTE,
    READ,
    StandingClock,
    error,
    grant,
    ok,
    read,
    reading,
    receipts,
    revoking,
    sent,
    world,
    write,
)
from tests.capabilities.ucanto import tokens
from tests.capabilities.ucanto.tokens import (
    ACCOUNT,
    ALICE,
    BOB,
    MALLORY,
    NOW,
    OTHER,
    SERVICE,
    SPACE,
    WEB,
)

# --- several in one message -----------------------------------------------------------------------


async def test_invocations_of_one_message_run_side_by_side() -> None:
    """Each waits for the other: one after the other neither would end."""
    met = {"a": anyio.Event(), "b": anyio.Event()}

    async def meet(asked: Asked, transactor: Transactor) -> Result:
        mine = asked.arguments.name
        met[mine].set()
        await met["b" if mine == "a" else "a"].wait()
        return Ok({"met": True})

    async with world(Reads(READ, meet), request_ms=2_000) as at:
        told = await at.ask_all(reading(name="a"), reading(name="b"))
        assert [ok(one) for one in told.values()] == [{"met": True}] * 2


async def test_one_that_is_refused_does_no_harm_to_one_that_is_not() -> None:
    async with world() as at:
        good, bad = write(), write(MALLORY, name="b")
        told = await at.ask_all(bad, good)
        assert error(told[bad.cid])["name"] == "Unauthorized"
        assert ok(told[good.cid])["text"] == "hello"
        assert await at.notes() == 1


async def test_one_that_raises_does_no_harm_to_one_that_does_not() -> None:
    async def fail(asked: Asked, transactor: Transactor) -> Result:
        if asked.arguments.name == "bad":
            raise RuntimeError
        return Ok({"fine": True})

    async with world(Reads(READ, fail)) as at:
        good, bad = reading(), reading(name="bad")
        told = await at.ask_all(good, bad)
        assert (ok(told[good.cid]), error(told[bad.cid])["name"]) == (
            {"fine": True},
            "HandlerExecutionError",
        )


async def test_the_same_invocation_twice_gets_one_receipt() -> None:
    async with world() as at:
        one = write()
        told = message.decode(await at.service.respond(_listed(one, one)))
        assert list(told.receipts) == [one.cid]
        assert at.printer.printed == ["hello"]


def _listed(*asked: token.Token) -> bytes:
    """A message that lists its invocations as given, repeats too."""
    root = codec.encode({VARIANT: {"execute": [one.cid for one in asked]}})
    blocks = {one.cid: one.data for one in asked} | {CID.of(root): root}
    return car.write(CID.of(root), blocks)


async def test_a_message_without_invocations_gets_one_without_receipts() -> None:
    async with world() as at:
        told = message.decode(await at.service.respond(message.encode(Message())))
        assert (told.receipts, told.invocations) == ({}, ())


async def test_what_is_invoked_and_is_no_token_is_told_so_in_a_receipt() -> None:
    rubbish = codec.encode({"not": "a token"})
    body = message.encode(Message((CID.of(rubbish),), blocks={CID.of(rubbish): rubbish}))
    async with world() as at:
        told = receipts(message.decode(await at.service.respond(body)), SERVICE)
        assert "MalformedBlock" in error(told[CID.of(rubbish)])["message"]


async def test_an_answer_larger_than_a_block_is_an_error_of_that_invocation_alone() -> None:
    async def much(asked: Asked, transactor: Transactor) -> Result:
        return Ok({"text": ["x" * 60_000] * (5 if asked.arguments.name == "b" else 1)})

    async with world(Reads(READ, much)) as at:
        small, large = reading(), reading(name="b")
        told = await at.ask_all(small, large)
        assert len(ok(told[small.cid])["text"]) == 1
        assert "name" in error(told[large.cid])
        assert "name" in error(await at.ask(large))


async def test_a_body_that_is_no_message_is_refused_by_name() -> None:
    async with world() as at:
        with pytest.raises(MalformedBlock):
            await at.service.respond(b"\x00")
        body = bytearray(sent(write()))
        body[-1] ^= 1
        with pytest.raises(HashMismatch):
            await at.service.respond(bytes(body))


# --- signatures of a whole message are checked on a thread ----------------------------------------


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_from_so_many_signatures_on_they_are_checked_off_the_loop(
    more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[threading.Thread] = []
    usual = verify_all

    def noted(checks: Any) -> list[bool]:
        where.append(threading.current_thread())
        return usual(checks)

    monkeypatch.setattr(service_module, "verify_all", noted)
    async with world() as at:
        asked = [write(name=str(number)) for number in range(service_module.THREADED + more)]
        told = await at.ask_all(*asked)
        assert all(ok(one) for one in told.values())
        assert [one is threading.main_thread() for one in where] == ([False] if more >= 0 else [])
        await at.ask_all(*asked)  # all known by now
        assert len(where) == int(more >= 0)


async def test_one_bad_signature_among_many_is_found_and_only_that_one() -> None:
    async with world() as at:
        asked = [write(name=str(number)) for number in range(8)]
        data = bytearray(tokens.forged(asked[3], MALLORY))
        forged = token.decode(None, bytes(data))
        told = await at.ask_all(*asked[:3], forged, *asked[4:])
        bad = [cid for cid, one in told.items() if "error" in one.out]
        assert bad == [forged.cid]
        assert "InvalidSignature" in error(told[forged.cid])["message"]
        assert await at.notes() == 7


# --- time -----------------------------------------------------------------------------------------


async def test_a_job_that_does_not_settle_in_time_is_told_so_and_goes_on() -> None:
    async with world(paper=False, request_ms=50) as at:
        asked = write()
        told = error(await at.ask(asked))
        assert told["name"] == "DeadlineExceeded"
        assert (await at.notes(), at.printer.printed) == (1, [])
        at.printer.paper.set()
        assert ok(await at.ask(write(nonce="later")))["text"] == "hello"
        assert at.printer.printed == ["hello"]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_request_takes_so_long_at_most(off: int) -> None:
    """`request_ms`: what ends in that very moment may be told either way, and is told then."""
    loop = VirtualLoop(Random(1))

    async def work(asked: Asked, transactor: Transactor) -> Result:
        await anyio.sleep((LIMITS.request_ms + off) / 1_000)
        return Ok({"done": True})

    async def ask() -> bool:
        async with world(Reads(READ, work)) as at:
            began = loop.time()
            told = await at.ask(reading())
            assert loop.time() == began + (LIMITS.request_ms + min(off, 0)) / 1_000
            done = "ok" in told.out
            assert done or error(told)["name"] == "DeadlineExceeded"
            return done

    try:
        assert loop.run_until_complete(ask()) in {-1: [True], 0: [True, False], 1: [False]}[off]
    finally:
        loop.close()


async def test_one_that_is_late_does_not_hold_up_what_is_sent_with_it() -> None:
    async with world(paper=False, request_ms=50) as at:
        slow, quick = write(), reading(name="other")
        told = await at.ask_all(slow, quick)
        assert error(told[slow.cid])["name"] == "DeadlineExceeded"
        assert error(told[quick.cid])["name"] == "NoteNotFound"


async def test_a_store_that_does_not_answer_holds_no_request_for_ever() -> None:
    class Silent(MemoryStore):
        silent = False

        async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
            if self.silent:
                await anyio.sleep_forever()
            return await super().heads(jobs)

    store = Silent()
    async with world(store=store, request_ms=50) as at:
        store.silent = True
        with anyio.fail_after(5):
            assert error(await at.ask(write()))["name"] == "DeadlineExceeded"
        store.silent = False


async def test_time_is_that_of_the_transactors_clock() -> None:
    clock = StandingClock()
    async with world(clock=clock) as at:
        asked = write(expires=NOW + 30)
        clock.set((NOW + 30) * 1_000)
        assert "Expired" in error(await at.ask(asked))["message"]
        clock.set((NOW + 30) * 1_000 - 1)
        assert ok(await at.ask(asked))


# --- a store that fails ---------------------------------------------------------------------------


class Failing(MemoryStore):
    """Raises `error` at the next commit that writes: before it, or after."""

    def __init__(self, error: Exception, *, after: bool) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.after = after

    async def commit(self, batch: Batch) -> Sequence[Written]:
        writes = any(isinstance(member, Commit) and member.writes for member in batch.members)
        if self.error is None or not writes:
            return await super().commit(batch)
        if self.after:
            await super().commit(batch)
        raise self.error


@pytest.mark.parametrize(
    ("failure", "after"),
    [
        (Unavailable("the disk is away"), False),
        (Indeterminate("the line was cut"), False),
        (Indeterminate("the line was cut"), True),
    ],
    ids=["unavailable", "unknown and lost", "unknown and done"],
)
async def test_a_store_that_fails_is_told_by_name_and_the_same_invocation_settles_it(
    failure: Exception, after: bool
) -> None:
    store = Failing(failure, after=after)
    async with world(store=store, clock=SystemClock(), request_ms=300) as at:
        asked = write(expires=None)
        told = await at.ask(asked)
        if after:  # it was looked for under its delivery id, and found
            assert ok(told)["first"]
        else:
            assert error(told)["name"] in (type(failure).__name__, "DeadlineExceeded")
        store.error = None
        settled = ok(await at.ask(asked))
        assert (settled["text"], settled["first"]) == ("hello", True)
        assert await at.notes() == 1
        head = await at.transactor.get(NOTE.job(SPACE.did.text, "a"))
        assert head is not None
        assert at.printer.printed == ["hello"]


async def test_a_store_that_cannot_be_read_is_told_by_name() -> None:
    class Deaf(MemoryStore):
        deaf = False

        async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
            if self.deaf:
                raise Unavailable("not now")
            return await super().heads(jobs)

    store = Deaf()
    async with world(store=store) as at:
        store.deaf = True
        assert error(await at.ask(write()))["name"] == "Unavailable"
        assert error(await at.ask(reading()))["name"] == "Unavailable"
        with pytest.raises(Unavailable):
            await at.service.receipt(write().cid)
        store.deaf = False
        assert ok(await at.ask(write()))


# --- names ----------------------------------------------------------------------------------------


async def test_a_service_speaks_by_its_name_and_signs_by_its_key() -> None:
    async with world(signer=WEB) as at:
        one = await at.ask(write(audience=WEB))
        assert (one.issuer, ok(one)["text"]) == (WEB.did, "hello")
        assert receipt.verify_signature(one, SERVICE.verifier)
        told = error(await at.ask(write(audience=SERVICE, nonce="n")))
        assert told["name"] == "InvalidAudience"


async def test_a_service_answers_to_its_other_names() -> None:
    async with world(signer=WEB, aliases=(SERVICE.did,)) as at:
        assert ok(await at.ask(write(audience=SERVICE)))
        assert error(await at.ask(write(audience=OTHER)))["name"] == "InvalidAudience"


async def test_who_is_no_key_is_found_by_the_resolver_and_else_refused() -> None:
    web = ALICE.named("did:web:alice.example")
    asked = write(web, root := tokens.grant(SPACE, web, Claim("note/*", SPACE.did.text)))

    def resolver(did: DID) -> list[DID]:
        return [ALICE.key] if did == web.did else []

    async with world() as at:
        told = error(await at.ask(asked, proofs=[root]))
        assert "DIDKeyResolutionError" in told["message"]
        assert await at.jobs() == 0
    async with world(resolver=resolver) as at:
        assert ok(await at.ask(asked, proofs=[root]))


# --- accounts -------------------------------------------------------------------------------------

TO_ACCOUNT = token.issue(SPACE, ACCOUNT, [Claim("*", SPACE.did.text)], expires=None)
SESSION = token.issue(
    ACCOUNT, ALICE.did, [Claim("*", "ucan:*")], expires=None, proofs=[TO_ACCOUNT.cid]
)
ATTESTED = tokens.grant(
    WEB, ALICE, Claim("ucan/attest", WEB.did.text, {"proof": SESSION.cid}), expires=None
)


async def test_an_account_whose_session_the_service_attests_may_do_what_it_was_granted() -> None:
    async with world(signer=WEB) as at:
        asked = write(ALICE, SESSION, ATTESTED, audience=WEB)
        assert ok(await at.ask(asked, proofs=[TO_ACCOUNT, SESSION, ATTESTED]))["first"]


async def test_without_an_attestation_or_with_somebody_elses_a_session_is_worth_nothing() -> None:
    theirs = tokens.grant(
        MALLORY.named(WEB.did), ALICE, Claim("ucan/attest", WEB.did.text, {"proof": SESSION.cid})
    )
    async with world(signer=WEB) as at:
        for more in ([], [theirs]):
            asked = write(ALICE, SESSION, *more, audience=WEB)
            told = error(await at.ask(asked, proofs=[TO_ACCOUNT, SESSION, *more]))
            assert told["name"] == "Unauthorized"
        assert await at.jobs() == 0


@pytest.mark.parametrize("taken", [TO_ACCOUNT, SESSION, ATTESTED], ids=["root", "session", "word"])
async def test_a_session_ends_when_any_part_of_it_is_revoked(taken: token.Token) -> None:
    revoker = WEB if taken is ATTESTED else SPACE
    async with world(signer=WEB) as at:
        body = [TO_ACCOUNT, SESSION, ATTESTED]
        ok(await at.ask(revoking(revoker, taken, audience=WEB), proofs=body))
        asked = write(ALICE, SESSION, ATTESTED, audience=WEB)
        assert error(await at.ask(asked, proofs=body))["name"] == "Unauthorized"
        assert await at.notes() == 0


# --- both families --------------------------------------------------------------------------------


async def test_both_families_find_the_same_job() -> None:
    later = invocation.issue(
        SPACE,
        subject=SPACE.did,
        command="/note/write",
        arguments={"name": "a", "text": "hello"},
        audience=SERVICE.did,
        nonce=b"",
        expires=NOW + 60,
    )
    async with world() as at:
        assert ok(await at.ask(write()))["first"]
        cid, told = await at.service.respond1(later.data)
        assert cid == later.cid == told.receipt.ran
        assert receipt.verify_signature(told.receipt, SERVICE.verifier)
        assert ok(told.receipt) == {"text": "hello", "first": False, "verdict": "no change"}
        assert at.printer.printed == ["hello"]


async def test_a_refusal_of_ucan_1_is_a_signed_receipt_too() -> None:
    root = delegation.issue(
        SPACE,
        audience=ALICE.did,
        subject=SPACE.did,
        command="/note",
        statements=[["==", ".name", "b"]],
        nonce=b"n",
        expires=NOW + 600,
    )
    asked = invocation.issue(
        ALICE,
        subject=SPACE.did,
        command="/note/write",
        arguments={"name": "a", "text": "hello"},
        audience=SERVICE.did,
        proofs=[root.cid],
        nonce=b"",
        expires=NOW + 60,
    )
    body = container.encode([asked.data, root.data], form="raw")
    async with world() as at:
        cid, told = await at.service.respond1(body)
        assert cid == asked.cid
        assert "MatchError" in error(told.receipt)["message"]
        assert receipt.verify_signature(told.receipt, SERVICE.verifier)
        assert await at.jobs() == 0


async def test_what_cannot_be_signed_is_an_error_of_the_service() -> None:
    async def odd(asked: Asked, transactor: Transactor) -> Result:
        return Fault("Odd", "a detail that no block holds", {"detail": object()})

    async with world(Reads(READ, odd)) as at:
        assert error(await at.ask(reading()))["name"] == "HandlerExecutionError"


async def test_a_delegation_that_is_known_by_now_is_still_judged_anew() -> None:
    clock = StandingClock()
    root = grant(expires=NOW + 100)
    async with world(Reads(READ, read), clock=clock) as at:
        assert error(await at.ask(reading(ALICE, root), proofs=[root]))["name"] == "NoteNotFound"
        clock.set((NOW + 100) * 1_000)
        told = error(await at.ask(reading(ALICE, root, expires=NOW + 200), proofs=[root]))
        assert "Expired" in told["message"]
        told = error(await at.ask(reading(BOB, root, expires=NOW + 200), proofs=[root]))
        assert told["name"] == "Unauthorized"
