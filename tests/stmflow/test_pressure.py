"""Back-pressure: a bounded queue, who is refused, and when they are told to come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from stmflow import LIMITS, Transactor, Workflow, perform
from stmflow.errors import Busy, Stopped, Unavailable
from stmflow.pressure import LATEST_MS, SOONEST_MS, UNKNOWN_MS, WINDOW_MS, Drain
from stmflow.store import Batch, Beat, Claim, DueTimer, Result, Want
from stmflow.store.memory import MemoryStore

SOON = 5.0


@dataclass(frozen=True)
class Add:
    name: str


@dataclass(frozen=True)
class Got:
    value: int


@dataclass(frozen=True)
class Stat:
    name: str


@dataclass(frozen=True)
class Total:
    total: int = 0


def update(event: Any, state: Total | None) -> Any:
    before = Total() if state is None else state
    match event:
        case Add(name):
            return Total(before.total + 1), [perform(Stat(name)).then(Got)]
        case Got(value):
            return Total(before.total + value), []
    raise AssertionError(event)


WORK = Workflow(
    "work",
    state=Total,
    events=(Add, Got),
    outside=(Add,),
    tasks=(Stat,),
    key=("name",),
    update=update,
)
ALL = [Want("work", 1, "Stat", 100)]


class Gate(MemoryStore):
    """A store that commits when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.open = anyio.Event()
        self.open.set()
        self.entered = anyio.Event()

    def shut(self) -> None:
        self.open = anyio.Event()
        self.entered = anyio.Event()

    async def commit(self, batch: Batch) -> Sequence[Result]:
        self.entered.set()
        await self.open.wait()
        return await super().commit(batch)


@asynccontextmanager
async def shut(most: int, *, first: bool = True) -> AsyncIterator[tuple[Gate, Transactor]]:
    """A store that commits nothing, one batch being held there; `most` may wait."""
    store = Gate()
    async with (
        Transactor(store, [WORK], queued_requests=most) as transactor,
        anyio.create_task_group() as group,
    ):
        if first:
            store.shut()
            group.start_soon(transactor.send, WORK, Add("first"))
            with anyio.fail_after(SOON):
                await store.entered.wait()
        yield store, transactor
        store.open.set()


async def settle() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


# --- the bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_one_more_than_may_wait_is_refused_at_once(more: int) -> None:
    most = 5
    told: list[str] = []
    waits: list[int] = []

    async with shut(most) as (store, transactor):

        async def send(number: int) -> None:
            try:
                await transactor.send(WORK, Add(f"job {number}"), delivery=f"{number}")
                told.append("done")
            except Busy as busy:
                told.append("busy")
                waits.append(busy.retry_after)

        async with anyio.create_task_group() as group:
            for number in range(most + more):
                group.start_soon(send, number)
            await settle()
            assert told == ["busy"] * max(more, 0)
            store.open.set()
        assert sorted(told) == ["busy"] * max(more, 0) + ["done"] * (most + min(more, 0))
        assert len(await store.jobs()) == 1 + told.count("done")
        assert transactor.counters.get("busy", 0) == max(more, 0)
        assert all(SOONEST_MS <= wait <= LATEST_MS for wait in waits)


async def test_nothing_of_a_refused_request_is_written_and_it_may_be_sent_again() -> None:
    async with shut(1) as (store, transactor), anyio.create_task_group() as group:
        group.start_soon(transactor.send, WORK, Add("second"))
        await settle()
        with pytest.raises(Unavailable):  # for who knows nothing of Busy
            await transactor.send(WORK, Add("third"), delivery="d")
        with pytest.raises(Busy):
            await transactor.transact(lambda tx: tx.apply(WORK.job("third"), Add("third")))
        store.open.set()
        await transactor.wait(WORK.job("second"), lambda state: True, timeout=SOON)
        assert await transactor.get(WORK.job("third")) is None
        answer = await transactor.send(WORK, Add("third"), delivery="d")
        assert (answer.kind, answer.repeated) == ("committed", False)


async def test_what_comes_from_inside_is_never_refused() -> None:
    async with shut(1, first=False) as (store, transactor):
        await transactor.send(WORK, Add("a"))
        worker = store.enlist()
        now = transactor.clock.now()
        await transactor.do(lambda: Beat(worker, now + 60_000))
        (claimed,) = await transactor.do(lambda: Claim(worker, ALL, now))
        store.shut()
        async with anyio.create_task_group() as group:
            group.start_soon(transactor.send, WORK, Add("first"))
            with anyio.fail_after(SOON):
                await store.entered.wait()
            group.start_soon(transactor.send, WORK, Add("second"))
            await settle()
            with pytest.raises(Busy):
                await transactor.send(WORK, Add("third"))
            answers: list[Any] = []

            async def settled() -> None:
                answers.append(await transactor.settle(claimed.ref, 7))

            async def fired() -> None:
                timer = DueTimer(claimed.ref.job, 99, claimed.ref.id, now)
                answers.append(await transactor.fire(timer))

            async def beat() -> None:
                await transactor.do(lambda: Beat(worker, now + 70_000))

            for inside in (settled, fired, beat):
                group.start_soon(inside)
            await settle()
            store.open.set()
        assert sorted(answer.kind for answer in answers) == ["closed", "committed"]
        head = await transactor.get(WORK.job("a"))
        assert head is not None
        assert head.state == Total(8)


async def test_who_sleeps_in_a_retry_is_woken_however_much_waits() -> None:
    def until_there(tx: Any) -> Any:
        state = tx.read(WORK.job("a"))
        return tx.retry() if state is None else state.total

    async with shut(2, first=False) as (store, transactor), anyio.create_task_group() as group:
        totals: list[int] = []

        async def asks() -> None:
            totals.append(await transactor.transact(until_there, timeout=SOON))

        for _ in range(4):  # one after the other: sleepers wait for a change, not for a batch
            group.start_soon(asks)
            await anyio.sleep(0.02)
        await transactor.send(WORK, Add("a"))
        with anyio.fail_after(SOON):
            while len(totals) < 4:
                await anyio.sleep(0.01)
        assert totals == [1] * 4
        assert store.open.is_set()


async def test_a_transactor_that_was_left_says_so_however_much_waited() -> None:
    async with shut(0, first=False) as (_, transactor):
        with pytest.raises(Busy):
            await transactor.send(WORK, Add("a"))
    with pytest.raises(Stopped):
        await transactor.send(WORK, Add("a"))


async def test_by_default_the_bound_is_the_one_of_limits() -> None:
    async with Transactor(MemoryStore(), [WORK]) as transactor:
        assert transactor._committer._most == LIMITS.queued_requests


# --- when to come back ----------------------------------------------------------------------------


def drained(*, per_window: int, windows: int = 3, waiting: int = 100) -> Drain:
    drain = Drain()
    drain.left(0, 0, waiting=waiting)
    for number in range(1, windows + 1):
        drain.left(per_window, number * WINDOW_MS, waiting=waiting)
    return drain


def test_before_anything_is_known_a_second_is_told() -> None:
    assert Drain().retry_after(50, 0) == UNKNOWN_MS


@pytest.mark.parametrize(
    ("per_window", "waiting", "expected"),
    [(1_000, 500, 500), (100, 500, 5_000), (1, 500, LATEST_MS), (10**6, 1, SOONEST_MS)],
)
def test_the_wait_is_what_the_measured_rate_makes_of_the_queue(
    per_window: int, waiting: int, expected: int
) -> None:
    found = drained(per_window=per_window).retry_after(waiting, 3 * WINDOW_MS)
    assert found == pytest.approx(expected, rel=0.01)


def test_a_queue_that_stands_still_is_told_of_as_such() -> None:
    drain = drained(per_window=1_000)
    then = 3 * WINDOW_MS
    waits = [drain.retry_after(500, then + more) for more in (0, 2_000, 20_000, 600_000)]
    assert waits[0] == 500
    assert waits == sorted(waits)
    assert waits[-1] == LATEST_MS


def test_an_idle_hour_is_not_taken_for_slowness() -> None:
    drain = drained(per_window=1_000)
    drain.left(1, 3 * WINDOW_MS + 1, waiting=0)
    hour = 3_600_000
    assert drain.retry_after(500, hour) == 500
    drain.left(1, hour, waiting=10)
    assert drain.retry_after(500, hour + 1) == pytest.approx(500, rel=0.01)


def test_between_two_slow_batches_the_wait_is_that_of_slow_batches() -> None:
    drain = Drain()
    drain.left(0, 0, waiting=500)
    for at in range(5_000, 50_001, 5_000):  # 250 every five seconds
        drain.left(250, at, waiting=500)
    for since in (0, 2_500, 4_900):
        assert 8_000 <= drain.retry_after(500, 50_000 + since) <= LATEST_MS
    assert drain.retry_after(500, 50_000) == pytest.approx(10_000, rel=0.2)


def test_a_clock_that_was_set_back_does_no_harm() -> None:
    drain = drained(per_window=1_000)
    drain.left(5, 0, waiting=10)
    assert SOONEST_MS <= drain.retry_after(500, -10) <= LATEST_MS
