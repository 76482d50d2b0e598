"""A command becomes one transaction, whose authority is part of what it has read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from capabilities.service import REVOCATION, TASK, Asked, Call, Ok, Reads, Result, provide
from capabilities.service.provider import TOLERANCE_MS
from stmflow import codec
from stmflow.errors import Busy, InvalidWorkflow, LimitExceeded, NotOutside
from stmflow.job import Head
from stmflow.store.memory import MemoryStore
from stmflow.transactor import Transactor
from stmflow.workflow import Workflow, same
from tests.capabilities.service.world import (
    NOTE,
    READ,
    WRITE,
    Draft,
    Printed,
    StandingClock,
    World,
    error,
    grant,
    ok,
    read,
    reading,
    revoking,
    world,
    write,
    writes,
)
from tests.capabilities.ucanto.tokens import ALICE, BOB, NOW, SPACE


async def test_a_call_brings_its_event_and_waits_for_something_to_answer() -> None:
    async with world() as at:
        asked = write()
        told = ok(await at.ask(asked))
        assert told == {"text": "hello", "first": True, "verdict": "committed"}
        assert at.printer.printed == ["hello"]


async def test_a_later_call_of_the_same_finds_the_job_and_starts_none() -> None:
    async with world() as at:
        await at.ask(write())
        told = ok(await at.ask(write(nonce="again")))
        assert told == {"text": "hello", "first": False, "verdict": "no change"}
        assert (await at.notes(), at.printer.printed) == (1, ["hello"])


async def test_a_repeat_gets_the_first_verdict_and_the_present_answer() -> None:
    async with world(paper=False, request_ms=50) as at:
        asked = write()
        assert error(await at.ask(asked))["name"] == "DeadlineExceeded"
        at.printer.paper.set()
        assert ok(await at.ask(asked))["verdict"] == "committed"
        assert at.printer.printed == ["hello"]


async def test_a_job_is_looked_after_before_a_later_call_or_a_repeat_is_answered() -> None:
    looks: list[str] = []

    async def look(transactor: Transactor, head: Head) -> Head:
        looks.append(head.state.text)
        return head

    clock = StandingClock()
    async with world(writes(look=look), clock=clock) as at:
        asked = write()
        ok(await at.ask(asked))
        assert looks == []
        clock.set(clock.now() + 1)
        ok(await at.ask(asked))
        assert looks == ["hello"]
        ok(await at.ask(write(nonce="later")))
        assert looks == ["hello"] * 2


async def test_what_was_taken_is_answered_even_if_no_look_is_taken_any_more() -> None:
    async def look(transactor: Transactor, head: Head) -> Head:
        raise Busy("too much", retry_after=1_000)

    async with world(writes(look=look)) as at:
        ok(await at.ask(write()))
        assert ok(await at.ask(write(nonce="later")))["text"] == "hello"


async def test_a_repeat_signed_anew_or_with_other_facts_is_the_same_delivery() -> None:
    async with world() as at:
        root = grant()
        first = write(ALICE, root)
        other = grant(expires=NOW + 900)  # another proof of the same
        ok(await at.ask(first, proofs=[root]))
        again = write(ALICE, other)
        assert again.cid != first.cid
        assert ok(await at.ask(again, proofs=[other]))["verdict"] == "committed"
        assert at.printer.printed == ["hello"]


async def test_what_the_reducer_rejects_is_told_by_its_code_and_not_remembered() -> None:
    async with world() as at:
        await at.ask(write())
        asked = write(text="another")
        told = error(await at.ask(asked))
        assert (told["name"], told["detail"]) == ("Taken", {"text": "hello"})
        assert await at.transactor.get(TASK.job(asked.cid)) is None


async def test_a_host_may_say_itself_what_a_rejection_comes_to() -> None:
    def rejected(asked: Asked, code: str, detail: Any) -> Result:
        return Ok({"code": code, "detail": detail})

    async with world(writes(rejected=rejected)) as at:
        await at.ask(write())
        told = ok(await at.ask(write(text="another")))
        assert told == {"code": "Taken", "detail": {"text": "hello"}}


async def test_reading_writes_nothing_and_is_not_remembered() -> None:
    async with world() as at:
        assert error(await at.ask(reading()))["name"] == "NoteNotFound"
        assert await at.jobs() == 0
        await at.ask(write())
        assert ok(await at.ask(reading())) == {"text": "hello"}


async def test_an_event_from_inside_cannot_be_wired_to_an_invocation() -> None:
    async with world(writes(event=lambda asked: Printed())) as at:
        told = error(await at.ask(write()))
        assert (told["name"], await at.jobs()) == ("HandlerExecutionError", 0)
        assert NotOutside.__name__ in told["message"]


def test_a_workflow_that_takes_nothing_from_outside_is_not_provided() -> None:
    inner = Workflow(
        "inner",
        state=Draft,
        events=(Printed,),
        outside=(),
        update=lambda event, state: same(),
        key=lambda event: ("",),
    )
    with pytest.raises(InvalidWorkflow):
        provide(WRITE, inner, event=lambda asked: Printed(), result=lambda asked, head: Ok({}))


async def test_a_provider_that_raises_is_told_by_kind_and_written_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def result(asked: Asked, head: Any) -> Result:
        raise ZeroDivisionError("a secret of the service")

    async with world(writes(result=result)) as at:
        told = error(await at.ask(write()))
        assert told["name"] == "HandlerExecutionError"
        assert "secret" not in str(told)
    assert "a provider raised" in caplog.text


# --- authority is in the read-set -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Between:
    """note/write, but `meanwhile` happens between acceptance and commit."""

    then: Any
    meanwhile: Any

    @property
    def capability(self) -> Any:
        return self.then.capability

    async def perform(self, call: Call) -> Result:
        await self.meanwhile()
        result: Result = await self.then.perform(call)
        return result

    async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
        return None


@pytest.mark.parametrize("revoker", [SPACE, ALICE], ids=["who granted", "who was granted"])
async def test_a_revocation_between_acceptance_and_commit_is_refused_and_nothing_written(
    revoker: Any,
) -> None:
    root = grant()
    places: list[World] = []

    async def meanwhile() -> None:
        ok(await places[0].ask(revoking(revoker, root), proofs=[root]))

    async with world(Between(writes(), meanwhile)) as at:
        places.append(at)
        asked = write(ALICE, root)
        told = error(await at.ask(asked, proofs=[root]))
        assert told["name"] == "Unauthorized"
        assert "Revoked" in told["message"]
        assert await at.notes() == 0
        assert await at.transactor.get(TASK.job(asked.cid)) is None
        head = await at.transactor.get(REVOCATION.job(root.cid, revoker.did.text))
        assert head is not None


async def test_a_strangers_revocation_between_acceptance_and_commit_does_no_harm() -> None:
    root = grant()
    places: list[World] = []

    async def meanwhile() -> None:
        ok(await places[0].ask(revoking(BOB, root), proofs=[root]))

    async with world(Between(writes(), meanwhile)) as at:
        places.append(at)
        assert ok(await at.ask(write(ALICE, root), proofs=[root]))["first"]


async def test_a_commit_names_the_revocations_that_it_relies_on_among_its_reads() -> None:
    root = grant()
    async with world() as at:
        asked = write(ALICE, root)
        ok(await at.ask(asked, proofs=[root]))
        job = NOTE.job(SPACE.did.text, "a")
        *_, first = await at.transactor.store.revisions(job.id)
        reads = {one[0] for one in codec.decode(first.revision)["reads"]}
        assert {REVOCATION.job(cid, "").id for cid in (asked.cid, root.cid)} <= reads


@pytest.mark.parametrize(
    ("expires", "until"),
    [(NOW + 30, (NOW + 30) * 1_000 + TOLERANCE_MS), (None, NOW * 1_000 + 24 * 3_600_000)],
)
async def test_an_answer_is_kept_until_the_invocation_has_expired_and_a_minute_more(
    expires: int | None, until: int
) -> None:
    store = MemoryStore()
    async with world(store=store) as at:
        await at.ask(write(expires=expires))
        assert {kept for _, kept in store._deliveries.values()} == {until}


async def test_a_commit_gives_a_repeat_its_first_value() -> None:
    values = iter(range(10))

    @dataclasses.dataclass(frozen=True, slots=True)
    class Counts:
        capability: Any = READ

        async def perform(self, call: Call) -> Result:
            job = NOTE.job(SPACE.did.text, "counted")
            write_it = writes()
            event = write_it.event(  # type: ignore[attr-defined]
                dataclasses.replace(call.asked(), arguments=_Text("counted", "x"))
            )
            number = next(values)

            def body(tx: Any) -> int:
                tx.apply(job, event)
                return number

            return Ok({"number": await call.commit(job, body)})

        async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
            return None

    async with world(Counts()) as at:
        asked = reading()
        assert [ok(await at.ask(asked))["number"] for _ in range(3)] == [0, 0, 0]
        assert ok(await at.ask(reading(nonce="n")))["number"] == 3


@dataclasses.dataclass(frozen=True, slots=True)
class _Text:
    name: str
    text: str


async def test_ten_at_once_of_one_delivery_are_applied_once() -> None:
    async with world() as at:
        asked = write()
        told: list[Mapping[str, Any]] = []

        async def one() -> None:
            told.append(ok(await at.ask(asked)))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)
        assert [each["verdict"] for each in told] == ["committed"] * 10
        assert at.printer.printed == ["hello"]


async def test_two_services_over_one_database_do_it_once() -> None:
    store = MemoryStore()
    async with world(store=store) as one, world(store=store) as other:
        asked = write()
        ok(await one.ask(asked))
        assert ok(await other.ask(asked))["verdict"] == "committed"
        assert one.printer.printed + other.printer.printed == ["hello"]


async def test_more_arguments_than_the_bound_are_refused_before_anything_is_written() -> None:
    async with world() as at:
        told = error(await at.ask(write(text="x" * 16 * 1024)))
        assert LimitExceeded.__name__ in told["message"]
        assert await at.jobs() == 0


async def test_recall_of_what_is_read_is_read_anew() -> None:
    async with world(Reads(READ, read)) as at:
        provider = at.service.providers[READ.command]
        asked = Asked(
            invocation=reading().cid,
            issuer=SPACE.did,
            subject=SPACE.did,
            command=READ.command,
            arguments=READ.read({"name": "a"}),
            signer=at.service.signer,
        )
        found = await provider.recall(asked, at.transactor)
        assert getattr(found, "name", None) == "NoteNotFound"
