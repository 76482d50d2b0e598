"""Registered transactions: they wait as rows, over restarts, and whoever changes something wakes
them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from scheduler import Policy, Scheduler, Transaction
from stmflow import Workflow, codec, perform
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import Err
from stmflow.errors import InvalidEvent
from stmflow.registered import asked, ended, registered, returning
from stmflow.store import Batch, Done, Drop, Finished, Revive
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.transaction import Tx
from stmflow.transactor import Transactor

SOON = 5.0
A, B = CELL.job("a"), CELL.job("b")


@dataclass(frozen=True, slots=True)
class Take:
    """Take so much out of a cell; wait until it holds so much."""

    cell: str
    amount: int


def take(tx: Tx, task: Take) -> Any:
    cell = CELL.job(task.cell)
    found = tx.read(cell)
    held = 0 if found is None else found.value
    if task.amount < 0:
        tx.write(cell, held - task.amount)
        return Err("Negative", task.amount)
    if task.amount == 666:
        raise ValueError("not this one")
    if held < task.amount:
        tx.retry()
    tx.write(cell, held - task.amount)
    return held - task.amount


TAKES = registered(Take)


@asynccontextmanager
async def engine(
    store: Any, seed: int = 1, policy: Policy | None = None, body: Any = take
) -> AsyncIterator[Transactor]:
    policies = {} if policy is None else {Take: policy}
    async with (
        Transactor(store, [TAKES], random=Random(seed), pure=True) as transactor,
        Scheduler(transactor, {Take: Transaction(returning(body))}, policies=policies),
    ):
        yield transactor


async def put(transactor: Transactor, name: str, value: Any) -> None:
    await transactor.transact(lambda tx: tx.write(CELL.job(name), value).kind)


async def value(transactor: Transactor, name: str) -> Any:
    head = await transactor.get(CELL.job(name))
    return None if head is None else head.state.value


async def until_it_waits(transactor: Transactor, count: int = 1) -> None:
    """So many tasks lie in the store as nobody's and not due."""
    with anyio.fail_after(SOON):
        while True:
            rows = await transactor.store.tasks()
            if sum(row.worker is None and row.due > 2**60 for row in rows) == count:
                return
            await anyio.sleep(0.002)


async def test_one_that_need_not_wait_is_done_at_once() -> None:
    async with engine(MemoryStore()) as transactor:
        await put(transactor, "a", 7)
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert (head.state.status, head.state.value) == ("done", 2)
        assert await value(transactor, "a") == 2


async def test_its_writes_and_its_outcome_are_one_revision() -> None:
    async with engine(MemoryStore()) as transactor:
        await put(transactor, "a", 7)
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        cell = await transactor.get(A)
        assert cell is not None
        assert cell.revision == head.revision


async def test_it_waits_as_a_row_and_is_woken_by_what_it_has_read() -> None:
    async with engine(MemoryStore()) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        await until_it_waits(transactor)
        await put(transactor, "b", 5)
        await put(transactor, "a", 4)
        await until_it_waits(transactor)
        await put(transactor, "a", 6)
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert head.state.value == 1


async def test_it_waits_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(path) as store, engine(store) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        await until_it_waits(transactor)
    async with SQLiteStore.open(path) as store:
        async with Transactor(store, [TAKES]) as elsewhere:  # somebody who cannot run it
            await put(elsewhere, "a", 5)
        async with engine(store, 2) as transactor:
            head = await transactor.wait(answer.job, ended, timeout=SOON)
            assert head.state.value == 0
            assert await value(transactor, "a") == 0


async def test_a_neighbour_wakes_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with (
        SQLiteStore.open(path) as ours,
        SQLiteStore.open(path) as theirs,
        engine(ours) as transactor,
        Transactor(theirs, [TAKES], random=Random(2)) as neighbour,
    ):
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        await until_it_waits(transactor)
        await put(neighbour, "a", 5)
        assert (await transactor.wait(answer.job, ended, timeout=SOON)).state.value == 0


async def test_what_is_put_is_taken_once_however_many_wait(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with (
        SQLiteStore.open(path) as ours,
        SQLiteStore.open(path) as theirs,
        engine(ours) as one,
        engine(theirs, 2) as other,
    ):
        jobs = []
        for n in range(20):
            answer = await (one, other)[n % 2].send(TAKES, asked(f"take {n}", Take("a", 1)))
            jobs.append(answer.job)
        await until_it_waits(one, 20)
        for _ in range(4):  # five at a time
            held = await value(one, "a") or 0
            assert held == 0
            await put(other, "a", 5)
            with anyio.fail_after(SOON):
                while await value(one, "a"):
                    await anyio.sleep(0.005)
        for job in jobs:
            assert (await one.wait(job, ended, timeout=SOON)).state.status == "done"
        assert await value(one, "a") == 0


async def test_an_error_undoes_what_it_wrote() -> None:
    async with engine(MemoryStore()) as transactor:
        await put(transactor, "a", 1)
        answer = await transactor.send(TAKES, asked("one", Take("a", -3)))
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert (head.state.status, head.state.error) == ("failed", Err("Negative", -3))
        assert await value(transactor, "a") == 1


async def test_an_exception_parks_the_task_and_it_can_be_redriven() -> None:
    store = MemoryStore()
    async with engine(store) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("a", 666)))
        with anyio.fail_after(SOON):
            while not (parked := await store.tasks(parked=True)):
                await anyio.sleep(0.002)
        assert parked[0].outcome is None
        assert await value(transactor, "a") is None
    async with engine(store, 2, body=lambda tx, task: "mended") as transactor:
        await transactor.redrive(parked[0].id)
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert head.state.value == "mended"


async def test_a_body_that_has_read_nothing_cannot_wait() -> None:
    store = MemoryStore()
    async with engine(store, body=lambda tx, task: tx.retry()) as transactor:
        await transactor.send(TAKES, asked("one", Take("a", 1)))
        with anyio.fail_after(SOON):
            while not await store.tasks(parked=True):
                await anyio.sleep(0.002)


@dataclass(frozen=True, slots=True)
class Leave:
    """Ask for an errand that may not begin yet."""

    name: str


@dataclass(frozen=True, slots=True)
class Allow:
    """It may."""

    name: str


@dataclass(frozen=True, slots=True)
class Back:
    """It is done."""


@dataclass(frozen=True, slots=True)
class Go:
    """Begin when the errand's own job allows it and its cell holds something."""

    name: str


@dataclass(frozen=True, slots=True)
class Errand:
    """Whether it may begin, and whether it is done."""

    name: str
    allowed: bool = False
    done: bool = False


def _errand(event: Any, errand: Errand | None) -> Any:
    if isinstance(event, Leave):
        return Errand(event.name), [perform(Go(event.name)).then(Back)]
    assert errand is not None
    return replace(errand, allowed=True, done=isinstance(event, Back)), []


ERRAND = Workflow(
    "errand",
    state=Errand,
    events=(Leave, Allow, Back),
    outside=(Leave, Allow),
    tasks=(Go,),
    update=_errand,
    key=("name",),
)


@pytest.mark.parametrize("more", [False, True], ids=["alone", "beside another"])
async def test_its_own_job_wakes_it_if_it_has_read_it(more: bool) -> None:
    def go(tx: Tx, task: Go) -> None:
        if not tx.read(ERRAND.job(task.name)).allowed or (more and tx.read(A) is None):
            tx.retry()

    async with (
        Transactor(MemoryStore(), [ERRAND], random=Random(1), pure=True) as transactor,
        Scheduler(transactor, {Go: Transaction(go)}),
    ):
        answer = await transactor.send(ERRAND, Leave("milk"))
        await until_it_waits(transactor)
        if more:
            await put(transactor, "a", 1)
            await until_it_waits(transactor)
        await transactor.send(ERRAND, Allow("milk"))
        await transactor.wait(answer.job, lambda errand: errand.done, timeout=SOON)


async def test_its_deadline_is_kept_while_it_waits() -> None:
    policy = Policy(deadline_ms=60)
    async with engine(MemoryStore(), policy=policy) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert head.state.status == "failed"
        assert head.state.error.name == "Exhausted"


async def test_a_mapping_is_a_value_like_any_other() -> None:
    async with engine(MemoryStore(), body=lambda tx, task: {"value": {"a": 1}}) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert head.state.value == {"value": {"a": 1}}


async def test_the_same_name_asks_once() -> None:
    async with engine(MemoryStore()) as transactor:
        await put(transactor, "a", 7)
        first = await transactor.send(TAKES, asked("one", Take("a", 5)))
        await transactor.wait(first.job, ended, timeout=SOON)
        again = await transactor.send(TAKES, asked("one", Take("a", 5)))
        assert again.kind == "no change"
        assert await value(transactor, "a") == 2


async def test_arguments_that_are_none_are_refused() -> None:
    async with engine(MemoryStore()) as transactor:
        wrong = asked("one", Take("a", 5))
        answer = await transactor.send(TAKES, type(wrong)("one", {"cell": 5}))
        assert (answer.kind, answer.code) == ("rejected", "InvalidArguments")


@pytest.mark.parametrize("which", ["first", "second"])
async def test_or_else_waits_for_both_ways(which: str) -> None:
    def either(tx: Tx, task: Take) -> Any:
        return tx.or_else(
            lambda tx: take(tx, Take("a", task.amount)), lambda tx: take(tx, Take("b", task.amount))
        )

    async with engine(MemoryStore(), body=either) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("", 5)))
        await until_it_waits(transactor)
        await put(transactor, "a" if which == "first" else "b", 5)
        assert (await transactor.wait(answer.job, ended, timeout=SOON)).state.status == "done"


async def test_a_task_that_cannot_be_read_fails_and_takes_nobody_with_it() -> None:
    """Its type has become stricter; so has no other's."""
    store = MemoryStore()
    async with Transactor(store, [TAKES]) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("a", 0)))
    (row,) = store._tasks.values()
    row.row = row.row._replace(block=codec.encode({"w": "Take", "v": 1, "t": "Take", "f": {}}))
    async with engine(store, policy=Policy(attempts=2, base_ms=1, cap_ms=2)) as transactor:
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert (head.state.status, head.state.error.name) == ("failed", "Exhausted")
        other = await transactor.send(TAKES, asked("two", Take("a", 0)))
        assert (await transactor.wait(other.job, ended, timeout=SOON)).state.status == "done"


async def test_one_that_reads_what_has_left_for_the_archive_is_parked(tmp_path: Path) -> None:
    """Its row is nobody's until a person has revived the job: neither lost nor tried for ever."""
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        async with Transactor(store, []) as transactor:
            await put(transactor, "a", 7)
            await put(transactor, "b", 7)
        (first, _) = await store.log(limit=2)
        finished = [Finished(CELL.name, ["Cell"], 2**62)]
        drop = Drop([(first.place, first.packed.cid)], CID.of(b"segment"), finished)
        (result,) = await store.commit(Batch([drop]))
        assert isinstance(result, Done)
        assert result.value.jobs == 1
        async with engine(store) as transactor:
            await transactor.send(TAKES, asked("one", Take("a", 5)))
            with anyio.fail_after(SOON):
                while not (parked := await store.tasks(parked=True)):
                    await anyio.sleep(0.002)
            assert codec.decode(parked[0].error or b"")["name"] == "Archived"
            await store.commit(Batch([Revive(A.id, first.packed)]))
            await transactor.redrive(parked[0].id)
            head = await transactor.wait(parked[0].job, ended, timeout=SOON)
            assert head.state.value == 2


class Unheard(MemoryStore):
    """A memory store that never says what others have written."""

    def changed(self, since: int) -> list[CID]:
        return []


@pytest.mark.parametrize("how", ["a task", "a body"])
async def test_an_outdated_head_that_leads_into_the_archive_parks_and_refuses_nothing(
    how: str,
) -> None:
    """What it points to has left for the archive; but it has moved, and points elsewhere now."""

    def follow(tx: Tx, task: Take) -> Any:
        to = tx.read(CELL.job(task.cell)).value
        return tx.read(CELL.job(to)).value

    store = Unheard()
    async with (
        engine(store, body=follow) as behind,
        Transactor(store, [], random=Random(2)) as other,
    ):
        await put(other, "old", 7)
        await put(behind, "a", "old")
        await put(other, "new", 8)
        await put(other, "a", "new")
        first = (await store.log(limit=1))[0]
        drop = Drop(
            [(first.place, first.packed.cid)],
            CID.of(b"segment"),
            [Finished(CELL.name, ["Cell"], 2**62)],
        )
        (result,) = await store.commit(Batch([drop]))
        assert isinstance(result, Done)
        assert result.value.jobs == 1
        if how == "a body":
            assert await behind.transact(lambda tx: follow(tx, Take("a", 0)), timeout=SOON) == 8
            return
        answer = await behind.send(TAKES, asked("one", Take("a", 0)))
        head = await behind.wait(answer.job, ended, timeout=SOON)
        assert head.state.value == 8


async def test_a_body_that_answers_an_error_for_what_failed_inside_it_has_answered() -> None:
    """The failed event is undone with all the rest; the answer is what counts."""

    def body(tx: Tx, task: Take) -> Any:
        try:
            tx.apply(A, Take("no", 1))  # no event of a cell
        except InvalidEvent:
            return Err("NotToday")
        return None

    async with engine(MemoryStore(), body=body) as transactor:
        answer = await transactor.send(TAKES, asked("one", Take("a", 5)))
        head = await transactor.wait(answer.job, ended, timeout=SOON)
        assert head.state.error == Err("NotToday")
