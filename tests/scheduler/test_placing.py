"""Who may claim what, and who comes first: needs, tenants and types, with a scheduler that runs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import anyio
import pytest

from scheduler import Limits, Performer, Policy, Scheduler
from stmflow.effect import Err, perform
from stmflow.errors import InvalidWorkflow, ReducerFailed
from stmflow.store.memory import MemoryStore
from stmflow.transactor import Transactor
from tests.scheduler.test_scheduler import (
    SOON,
    WORK,
    Ask,
    Got,
    Handler,
    Stat,
    State,
    rested,
    until,
    workflow,
)


def bucket(task: Stat) -> dict[str, str]:
    """Tasks of a job are for the bucket of the job's name; those of `any` for every bucket."""
    return {} if task.name == "any" else {"bucket": task.name}


@asynccontextmanager
async def worker(
    store: MemoryStore, handler: Any, *, needs: Any = bucket, **given: Any
) -> AsyncIterator[tuple[Transactor, Scheduler]]:
    stated = {} if needs is None else {Stat: needs}
    policy = Policy(attempts=3, base_ms=1, cap_ms=2)
    tenants = {"tenant": lambda job: str(job.key[0])}
    async with (
        Transactor(store, [WORK], random=Random(1), needs=stated, **tenants) as transactor,
        Scheduler(transactor, {Stat: handler}, policies={Stat: policy}, **given) as scheduler,
    ):
        yield transactor, scheduler


async def commit(store: MemoryStore, *asks: Ask, needs: Any = bucket) -> None:
    """Commit jobs where nobody performs anything."""
    tenants = {"tenant": lambda job: str(job.key[0])}
    async with Transactor(store, [WORK], needs={Stat: needs}, **tenants) as transactor:
        for ask in asks:
            await transactor.send(WORK, ask)


# --- needs ----------------------------------------------------------------------------------------


async def test_a_placed_task_is_claimed_by_whose_labels_meet_its_needs_and_by_no_other() -> None:
    store = MemoryStore()
    await commit(store, Ask("a", 2), Ask("b", 2), Ask("any", 1))
    left, right = Handler(), Handler()
    async with worker(store, left, labels={"bucket": "a"}) as (transactor, _):
        await until(transactor, "a", lambda state: len(state.got) == 2)
        await until(transactor, "any", lambda state: len(state.got) == 1)
        assert {row.tag for row in await store.tasks()} == {'Stat {"bucket":"b"}'}
        async with worker(store, right, labels={"bucket": "b", "disk": "ssd"}) as (other, _):
            await until(other, "b", lambda state: len(state.got) == 2)
    assert {task.name for task, _ in left.calls} == {"a", "any"}
    assert {task.name for task, _ in right.calls} == {"b"}


async def test_the_commit_that_makes_a_task_claims_it_only_where_its_needs_are_met() -> None:
    store, handler = MemoryStore(), Handler()
    async with worker(store, handler, labels={"bucket": "a"}) as (transactor, scheduler):
        await transactor.send(WORK, Ask("b"))
        await transactor.send(WORK, Ask("a"))
        await until(transactor, "a", lambda state: bool(state.got))
        (row,) = await store.tasks()
        assert (row.worker, row.attempt, row.tag) == (None, 0, 'Stat {"bucket":"b"}')
        assert [context.token for _, context in handler.calls] == [1]
        await rested(lambda: scheduler.running == 0)


async def test_a_retried_task_stays_placed() -> None:
    def does(task: Stat, context: Any) -> Any:
        raise RuntimeError

    store, handler = MemoryStore(), Handler(does)
    async with worker(store, handler, labels={"bucket": "a"}) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        await until(transactor, "a", lambda state: bool(state.lost))
        assert handler.attempts == [1, 2, 3]


async def test_needs_that_only_others_know_of_are_heeded_too() -> None:
    """A worker without the function: what others have placed is found and judged by its row."""
    store, handler = MemoryStore(), Handler()
    await commit(store, Ask("a"), Ask("b"))
    async with worker(store, handler, needs=None, labels={"bucket": "a"}, lease_seconds=5) as (
        transactor,
        scheduler,
    ):
        scheduler._next_beat = 0
        scheduler.wake(0)
        await until(transactor, "a", lambda state: bool(state.got))
        assert [task.name for task, _ in handler.calls] == ["a"]


async def test_needs_in_words_of_a_newer_release_are_not_met() -> None:
    store, handler = MemoryStore(), Handler()
    await commit(store, Ask("a"))
    (task,) = store._tasks.values()
    task.row = task.row._replace(tag='Stat {"bucket":{"near":"eu"}}')
    async with worker(store, handler, labels={"bucket": "a"}):
        await anyio.sleep(0.03)
    assert handler.calls == []


async def test_a_plan_that_is_given_up_keeps_no_slot() -> None:
    """The first task has its slot when the needs of the second one cannot be told."""

    def update(event: Any, state: Any) -> Any:
        state = state or State()
        if isinstance(event, Ask):
            return replace(state, due=1), [perform(Stat("any", 0)).then(Got)]
        return replace(state, due=2), [perform(Stat("any", 1)), perform(Stat("bad", 2))]

    def needs(task: Stat) -> dict[str, str]:
        if task.name == "bad":
            raise KeyError
        return {}

    store, works = MemoryStore(), workflow(update=update)
    async with (
        Transactor(store, [works], random=Random(1), needs={Stat: needs}) as transactor,
        Scheduler(transactor, {Stat: Handler()}) as scheduler,
    ):
        await transactor.send(works, Ask("a"))
        with anyio.fail_after(SOON):
            while not await store.tasks(parked=True):
                await anyio.sleep(0.001)
        await rested(lambda: scheduler.running == 0)


@pytest.mark.parametrize("wrong", [{"bucket": "~1"}, {"bucket": set()}, 5, None])
async def test_needs_that_make_no_sense_write_nothing(wrong: Any) -> None:
    store = MemoryStore()
    async with Transactor(store, [WORK], needs={Stat: lambda task: wrong}) as transactor:
        if wrong is None:
            await transactor.send(WORK, Ask("a"))  # no needs: None is as good as {}
            return
        with pytest.raises(ReducerFailed, match="the needs of Stat"):
            await transactor.send(WORK, Ask("a"))
        assert await store.jobs() == []


async def test_a_handler_that_needs_what_the_worker_has_not_is_not_used() -> None:
    store = MemoryStore()
    picky = Performer(handler=Handler(), needs={"agent": ">=2,<4", "disk": {"ssd", "nvme"}})
    async with worker(store, picky, needs=None, labels={"agent": "1.9", "disk": "ssd"}) as (
        transactor,
        scheduler,
    ):
        assert list(scheduler.performs) == []
        await transactor.send(WORK, Ask("a"))
        (row,) = await store.tasks()
        assert row.worker is None
        async with worker(store, picky, needs=None, labels={"agent": "2", "disk": "nvme"}):
            await until(transactor, "a", lambda state: bool(state.got))


async def test_specifications_that_make_no_sense_are_refused_when_they_are_given() -> None:
    async with Transactor(MemoryStore(), [WORK]) as transactor:
        for given in (
            {"labels": {"a": ">1"}},
            {"limits": Limits(per_type={"Fetch": 1})},
            {"limits": Limits(rates={"Fetch": 1})},
        ):
            with pytest.raises(InvalidWorkflow):
                Scheduler(transactor, {Stat: Handler()}, **given)  # type: ignore[arg-type]
        with pytest.raises(InvalidWorkflow):
            Scheduler(transactor, {Stat: Performer(handler=Handler(), needs={"a": "!2"})})


# --- whose turn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 4])
async def test_a_tenant_with_few_tasks_is_not_kept_waiting_by_one_with_many(slots: int) -> None:
    store, handler = MemoryStore(), Handler()
    asks = [Ask("big", 1, sleep_ms=0) for _ in range(150)]
    await commit(store, *asks, Ask("small", 3), needs=lambda task: {})
    limits = Limits(slots=slots)
    async with worker(store, handler, needs=None, limits=limits) as (transactor, _):
        await until(transactor, "small", lambda state: len(state.got) == 3)
        assert len(handler.calls) < 40


async def test_what_waits_in_the_store_is_not_passed_by_what_is_committed_later() -> None:
    """One slot, and a tenant that commits the next task with every outcome."""
    store = MemoryStore()
    count = itertools.count()
    async with worker(
        store,
        Handler(lambda task, context: next(count)),
        needs=None,
        limits=Limits(slots=1),
    ) as (transactor, scheduler):
        stop = False

        async def busy(name: str) -> None:
            while not stop:
                await transactor.send(WORK, Ask(name))

        async with anyio.create_task_group() as group:
            for name in ("x", "y", "z"):
                group.start_soon(busy, name)
            await anyio.sleep(0.05)
            before = scheduler.counters["performed"]
            with anyio.fail_after(SOON):
                await transactor.send(WORK, Ask("late"))
                await until(transactor, "late", lambda state: bool(state.got))
            after = scheduler.counters["performed"]
            stop = True
    assert after - before < 60


async def test_each_tenant_starts_no_faster_than_its_rate() -> None:
    store, handler = MemoryStore(), Handler()
    await commit(store, Ask("a", 30), Ask("b", 2), needs=lambda task: {})
    async with worker(store, handler, needs=None, limits=Limits(rate_per_tenant=5.0)) as (
        transactor,
        _,
    ):
        await until(transactor, "b", lambda state: len(state.got) == 2)
        await until(transactor, "a", lambda state: len(state.got) >= 6)
        assert len(handler.calls) < 30


@pytest.mark.parametrize(
    "given",
    [
        {"slots": 0},
        {"per_type": {"Stat": 0}},
        {"per_tenant": 0},
        {"rates": {"Stat": 0}},
        {"rates": {"Stat": float("nan")}},
        {"rate_per_tenant": -1},
        {"weights": {"Stat": float("inf")}},
    ],
)
def test_limits_under_which_nothing_could_run_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        Limits(**given)


async def test_what_is_claimed_while_we_leave_goes_back() -> None:
    store = MemoryStore()
    handler = Handler(lambda task, context: Err("No"))
    async with worker(store, handler, needs=None) as (transactor, scheduler):
        scheduler._stopping = True
        await transactor.send(WORK, Ask("a"))
        (row,) = await store.tasks()
        assert row.worker is None
