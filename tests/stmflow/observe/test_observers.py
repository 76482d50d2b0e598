"""Observers: what they are told, when, and that they can do no harm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from stmflow import Transactor
from stmflow.errors import Busy, Indeterminate, Unavailable
from stmflow.observe import Answered, Observer
from stmflow.store import Batch, Result
from stmflow.store.memory import MemoryStore
from tests.stmflow.observe.work import FILE, SOON, Added, Notes, Rude, file, running


async def test_a_job_is_told_from_event_to_event() -> None:
    notes = Notes()
    async with running(notes) as transactor:
        job = await file(transactor, "a", delivery="first")
    send, stat, mark = [fact for fact in notes.answers if fact.answer.kind == "committed"]
    assert [fact.asked.request for fact in (send, stat, mark)] == ["send", "settle", "settle"]
    assert (send.asked.about, send.asked.job, send.asked.delivery) == ("Added", job.id, b"first")
    assert (send.asked.task, send.asked.origin) == (None, "here")
    assert [armed.tag for armed in send.armed] == ["Stat"]
    assert stat.asked.task == send.armed[0].id
    assert stat.asked.delivery == send.armed[0].id.bytes
    assert mark.asked.task == stat.armed[0].id
    assert all(fact.revision == fact.answer.revision for fact in (send, stat, mark))
    assert all(fact.at >= fact.asked.since > 0 for fact in (send, stat, mark))
    attempts = [(attempt.task, attempt.tag, done.error) for attempt, done in notes.attempts]
    assert attempts == [(stat.asked.task, "Stat", None), (mark.asked.task, "Mark", None)]
    assert all(attempt.token == 1 and attempt.attempt == 1 for attempt, _ in notes.attempts)
    assert len(notes.parts) == 2
    assert sum(batch.requests for batch in notes.batches) >= 3


async def test_answers_that_write_nothing_are_told_too() -> None:
    notes = Notes()
    async with running(notes) as transactor:
        await file(transactor, "a", delivery="first")
        again = await transactor.send(FILE, Added("a"), delivery="first")
        await transactor.send(FILE, Added("a"))
        await transactor.send(FILE, Added("b", "no"))
    assert again.repeated
    outside = [fact for fact in notes.answers if fact.asked.request == "send"]
    kinds = [(fact.answer.kind, fact.answer.repeated, fact.revision) for fact in outside[1:]]
    assert kinds == [("committed", True, None), ("ignored", False, None), ("rejected", False, None)]


@pytest.mark.parametrize(
    ("how", "errors", "last"),
    [
        ("flaky", ["Away", "Away", None, None], "committed"),
        ("gone", ["Gone"], "committed"),
        ("uncaught", ["Odd"], "parked"),
    ],
)
async def test_attempts_tell_what_came_of_them(how: str, errors: list[Any], last: str) -> None:
    notes = Notes()
    async with running(notes) as transactor:
        await file(transactor, "a", how)
    assert [done.error for _, done in notes.attempts] == errors
    again = [done.again is not None for _, done in notes.attempts]
    assert again == [error == "Away" for error in errors]
    assert [attempt.attempt for attempt, _ in notes.attempts][: len(errors)][:3] in (
        [1, 2, 3],
        [1],
    )
    assert notes.told()[-1] == ("settle", last)


async def test_a_timer_is_told_with_when_it_was_due() -> None:
    notes = Notes()
    async with running(notes) as transactor:
        await file(transactor, "a", "sleepy")
    (send,) = [fact for fact in notes.answers if fact.asked.request == "send"]
    (fire,) = [fact for fact in notes.answers if fact.asked.request == "fire"]
    (armed,) = send.armed
    assert (armed.tag, armed.id, armed.due) == ("sleep", fire.asked.task, fire.asked.due)
    assert fire.at >= armed.due


async def test_an_error_is_told_with_its_kind() -> None:
    class Away(MemoryStore):
        kind: type[Exception] | None = None

        async def commit(self, batch: Batch) -> Sequence[Result]:
            if self.kind is not None:
                raise self.kind("the test says so")
            return await super().commit(batch)

    notes, store = Notes(), Away()
    async with Transactor(store, [FILE], observers=[notes], queued_requests=1) as transactor:
        for kind in (Unavailable, Indeterminate):
            store.kind = kind
            with pytest.raises(kind):
                await transactor.transact(lambda tx: tx.apply(FILE.job("a"), Added("a")))
        store.kind = None
    assert [type(fact.error) for fact in notes.errors] == [Unavailable, Indeterminate]
    assert [fact.asked.request for fact in notes.errors] == ["transact"] * 2
    assert notes.answers == []


async def test_who_is_refused_for_a_full_queue_is_told() -> None:
    notes = Notes()
    async with Transactor(
        MemoryStore(), [FILE], observers=[notes], queued_requests=0
    ) as transactor:
        with pytest.raises(Busy):
            await transactor.send(FILE, Added("a"))
    assert [type(fact.error) for fact in notes.errors] == [Busy]


async def test_nothing_is_told_before_it_is_durable() -> None:
    class Slow(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.free = anyio.Event()

        async def commit(self, batch: Batch) -> Sequence[Result]:
            await self.free.wait()
            return await super().commit(batch)

    class Looks(Observer):
        """Looks whether the store has what it is told of."""

        def __init__(self) -> None:
            self.seen: list[bool] = []

        def answered(self, fact: Answered) -> None:
            assert fact.revision is not None
            self.seen.append(fact.revision in store._packed)

    store, looks, notes = Slow(), Looks(), Notes()
    async with (
        Transactor(store, [FILE], observers=[looks, notes]) as transactor,
        anyio.create_task_group() as group,
    ):
        for name in ("a", "b"):
            group.start_soon(transactor.send, FILE, Added(name))
        await anyio.sleep(0.02)
        assert (looks.seen, notes.batches) == ([], [])
        store.free.set()
        await transactor.wait(FILE.job("b"), lambda state: True, timeout=SOON)
    assert looks.seen == [True, True]


async def test_what_an_observer_raises_harms_nobody_and_is_told_once() -> None:
    notes, told = Notes(), list[str]()
    async with running(Rude(), notes, alarm=told.append) as transactor:
        await file(transactor, "a", "flaky")
        assert transactor.observers is not None
        assert transactor.observers.errors > 5
    assert [text for text in told if "an observer's own trouble" in text] == told
    assert len(told) == 1
    assert len(notes.attempts) == 4


async def test_an_alarm_that_raises_harms_nobody_either() -> None:
    def alarm(text: str) -> None:
        raise RuntimeError(text)

    async with running(Rude(), alarm=alarm) as transactor:
        await file(transactor, "a")


async def test_without_observers_nothing_is_kept_for_them() -> None:
    async with Transactor(MemoryStore(), [FILE]) as transactor:
        assert transactor.observers is None
        await transactor.send(FILE, Added("a"))
