"""The scheduler: it performs what was committed, as often as it may, and settles each task once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import Context, Failure, Limits, Policy, Retry, Scheduler
from scheduler.loop import SWEEP
from scheduler.slots import Slots
from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import ANY, BAD_OUTCOME, DISMISSED, EXHAUSTED, Err, perform, sleep
from stmflow.errors import Busy, InvalidWorkflow, Unavailable
from stmflow.limits import LIMITS
from stmflow.schema import At, Data
from stmflow.store import Batch, Beat, Claim, Commit, Defer, DeliveryRow, Disown, Done, Want
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.transactor import Transactor
from stmflow.workflow import Workflow, impossible

SOON = 5.0


@dataclass(frozen=True)
class Ask:
    name: str
    count: int = 1
    caught: bool = True
    sleep_ms: int = 0


@dataclass(frozen=True)
class Note:
    name: str


@dataclass(frozen=True)
class Got:
    value: Data


@dataclass(frozen=True)
class Lost:
    error: Err


@dataclass(frozen=True)
class Rang:
    at: At = 0


@dataclass(frozen=True)
class Stat:
    name: str
    n: int


@dataclass(frozen=True)
class State:
    got: tuple[int, ...] = ()
    lost: tuple[str, ...] = ()
    detail: Data = None
    rang: tuple[int, ...] = ()
    noted: bool = False
    due: int = 0


def update(event: Any, state: State | None) -> Any:
    state = state or State()
    match event:
        case Ask(sleep_ms=ms) if ms:
            due = int(time.time() * 1000) + ms if not state.due else state.due
            return replace(state, due=due), [sleep(until=due, during=ANY).then(Rang)]
        case Ask(name, count, caught):
            effects = [perform(Stat(name, n)).then(Got) for n in range(count)]
            return replace(state, due=state.due + 1), [
                effect.catch(Lost) if caught else effect for effect in effects
            ]
        case Note():
            return replace(state, noted=True), []
        case Got() if event.value == "impossible" and not state.noted:
            return impossible()
        case Got(value):
            got = value if isinstance(value, int) else -1
            return replace(state, got=(*state.got, got)), []
        case Lost(error):
            return replace(state, lost=(*state.lost, error.name), detail=error.detail), []
        case Rang() if state.got == (13,) and not state.noted:
            return impossible()
        case Rang(at):
            return replace(state, rang=(*state.rang, at)), []
    raise AssertionError(event)


WORKED: dict[str, Any] = {
    "state": State,
    "events": (Ask, Note, Got, Lost, Rang),
    "outside": (Ask, Note),
    "tasks": (Stat,),
    "key": ("name",),
    "update": update,
}


def workflow(name: str = "work", **changes: Any) -> Workflow:
    return Workflow(name, **(WORKED | changes))


WORK = workflow()
KIND = ("work", 1, "Stat")
QUICK = Policy(attempts=3, base_ms=1, cap_ms=2)


class Handler:
    """A handler that notes every call and does what `does` says."""

    def __init__(self, does: Callable[[Stat, Context], Any] = lambda task, context: task.n) -> None:
        self.does = does
        self.calls: list[tuple[Stat, Context]] = []
        self.running = 0
        self.most = 0
        self.gate: anyio.Event | None = None
        self.begun = anyio.Event()

    async def __call__(self, task: Stat, context: Context) -> Any:
        self.calls.append((task, context))
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            else:
                await anyio.lowlevel.checkpoint()
            return self.does(task, context)
        finally:
            self.running -= 1

    @property
    def attempts(self) -> list[int]:
        return [context.attempt for _, context in self.calls]


@asynccontextmanager
async def working(
    handler: Any, *, store: Any = None, policy: Policy = QUICK, tenant: Any = None, **given: Any
) -> AsyncIterator[tuple[Transactor, Scheduler]]:
    store = MemoryStore() if store is None else store
    tenants = {} if tenant is None else {"tenant": tenant}
    async with Transactor(store, [WORK], random=Random(1), **tenants) as transactor:
        scheduler = Scheduler(
            transactor, {Stat: handler}, policies={Stat: policy}, random=Random(2), **given
        )
        async with scheduler:
            yield transactor, scheduler


async def until(transactor: Transactor, name: str, question: Callable[[State], bool]) -> State:
    head = await transactor.wait(WORK.job(name), question, timeout=SOON)
    state: State = head.state
    return state


async def rested(question: Callable[[], bool]) -> None:
    with anyio.fail_after(SOON):
        while not question():
            await anyio.sleep(0.001)


# --- performing -----------------------------------------------------------------------------------


async def test_a_task_is_claimed_by_its_commit_and_its_outcome_becomes_an_event() -> None:
    handler = Handler()
    async with working(handler) as (transactor, scheduler):
        answer = await transactor.send(WORK, Ask("a", 3))
        rows = await transactor.store.tasks()
        assert {row.worker for row in rows} <= {scheduler.worker}
        state = await until(transactor, "a", lambda state: len(state.got) == 3)
        assert sorted(state.got) == [0, 1, 2]
        assert {(c.attempt, c.token, c.job) for _, c in handler.calls} == {(1, 1, answer.job)}
        await rested(lambda: scheduler.running == 0)
        assert await transactor.store.tasks() == []
        assert scheduler.counters["performed"] == scheduler.counters["committed"] == 3


async def test_what_waits_in_the_store_is_taken_when_the_scheduler_starts() -> None:
    store = MemoryStore()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("a", 3))
    async with working(Handler(), store=store) as (transactor, _):
        await until(transactor, "a", lambda state: len(state.got) == 3)


async def test_new_work_does_not_wait_until_a_backlog_is_worked_off() -> None:
    store, handler = MemoryStore(), Handler()
    handler.gate = anyio.Event()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("old", 60))
    await anyio.sleep(0.005)
    async with working(handler, store=store, limits=Limits(slots=1)) as (transactor, _):
        await handler.begun.wait()
        await transactor.send(WORK, Ask("new"))
        handler.gate.set()
        await until(transactor, "old", lambda state: len(state.got) == 60)
        await until(transactor, "new", lambda state: len(state.got) == 1)
    order = [task.name for task, _ in handler.calls]
    assert order.index("new") <= 8
    assert [task.n for task, _ in handler.calls][:7] == list(range(7))  # the old in their order


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
async def test_no_more_is_claimed_than_fits(slots: int) -> None:
    """Three kinds, each with a backlog: nothing has to be put back."""
    store, members, order = MemoryStore(), list[Any](), list[CID | None]()
    works = [Workflow(f"work {n}", **WORKED) for n in range(3)]
    async with Transactor(store, works) as transactor:
        jobs = [(await transactor.send(work, Ask("a", 20))).job for work in works]

    async def commit(batch: Batch) -> Any:
        members.extend(batch.members)
        return await MemoryStore.commit(store, batch)

    async def handler(task: Stat, context: Context) -> int:
        order.append(context.job)
        await anyio.sleep(0)
        return task.n

    store.commit = commit  # type: ignore[method-assign]
    async with Transactor(store, works) as transactor:
        limits = Limits(slots=slots)
        async with Scheduler(transactor, {Stat: handler}, limits=limits, random=Random(2)):
            await rested(lambda: len(order) == 60)
    assert [member for member in members if isinstance(member, Defer)] == []
    for job in jobs:
        assert order.count(job) == 20


async def test_a_handler_that_is_refused_for_a_full_queue_waits_as_it_is_told() -> None:
    times: list[int] = []

    def busy(task: Stat, context: Context) -> Any:
        times.append(context.clock.now())
        if context.attempt == 1:
            raise Busy("too much", retry_after=60)
        return task.n

    async with working(Handler(busy)) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a"))
        await until(transactor, "a", lambda state: state.got == (0,))
        assert scheduler.counters["retries"] == 1
    assert times[1] - times[0] >= 60


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_sweep_goes_on_until_nothing_is_over(more: int) -> None:
    store = MemoryStore()
    rows = [DeliveryRow(WORK.job("a").id, str(n).encode(), b"", 1) for n in range(2 * SWEEP + more)]
    await store.commit(Batch([Commit(delivery=row) for row in rows]))
    async with working(Handler(), store=store):
        with anyio.fail_after(SOON):
            while (await store.vitals(10)).stale_deliveries:
                await anyio.sleep(0.01)


async def test_what_others_held_is_asked_for_again_soon() -> None:
    class Held(MemoryStore):
        asked = 0

        def _apply(self, member: Any) -> Any:
            if isinstance(member, Claim):
                self.asked += 1
                if self.asked == 1:  # rows locked by a batch that came to nothing
                    return Done([])
            return super()._apply(member)

        def version(self) -> int:
            return 0  # what we write ourselves is no news

    store = Held()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("a"))
    async with working(Handler(), store=store) as (transactor, _):
        await until(transactor, "a", lambda state: bool(state.got))
    assert store.asked == 2


async def test_who_is_leaving_does_not_ask_for_what_is_left() -> None:
    class Asked(MemoryStore):
        asked = 0

        async def next_task(self, kinds: Any) -> int | None:
            self.asked += 1
            return await super().next_task(kinds)

    store, handler = Asked(), Handler()
    handler.gate = anyio.Event()
    limits = Limits(slots=1)

    async def ends(gate: anyio.Event) -> None:
        await anyio.sleep(0.1)
        gate.set()

    async with (
        anyio.create_task_group() as group,
        working(handler, store=store, limits=limits) as (transactor, _),
    ):
        await transactor.send(WORK, Ask("a", 2))
        await handler.begun.wait()
        before = store.asked
        group.start_soon(ends, handler.gate)
    assert store.asked - before < 10


async def test_only_what_has_a_handler_is_claimed() -> None:
    store = MemoryStore()
    async with Transactor(store, [WORK]) as transactor, Scheduler(transactor, {}):
        await transactor.send(WORK, Ask("a"))
        (row,) = await store.tasks()
        assert (row.worker, row.attempt) == (None, 0)


async def test_many_tasks_of_many_jobs_are_each_performed_once() -> None:
    handler = Handler()
    async with working(handler, limits=Limits(slots=7)) as (transactor, scheduler):
        async with anyio.create_task_group() as group:
            for n in range(30):
                group.start_soon(transactor.send, WORK, Ask(str(n), 5))
        for n in range(30):
            await until(transactor, str(n), lambda state: len(state.got) == 5)
        assert len(handler.calls) == len({context.key for _, context in handler.calls}) == 150
        await rested(lambda: scheduler.running == 0)
        assert handler.most <= 7


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", [Retry.SAFE, Retry.IDEMPOTENT, Retry.THROTTLED])
async def test_a_failed_attempt_is_made_again_under_the_same_key(retry: Retry) -> None:
    def does(task: Stat, context: Context) -> Any:
        if context.attempt < 3:
            raise Failure("Busy", retry=retry)
        return 7

    handler = Handler(does)
    async with working(handler) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a"))
        assert (await until(transactor, "a", lambda state: bool(state.got))).got == (7,)
        assert handler.attempts == [1, 2, 3]
        assert [context.token for _, context in handler.calls] == [1, 2, 3]
        assert len({context.key for _, context in handler.calls}) == 1
        assert scheduler.counters["retries"] == 2


@pytest.mark.parametrize("off", [-1, 0, 1, 2**70])
async def test_a_wait_longer_than_a_store_can_keep_is_as_long_as_it_can(off: int) -> None:
    """A row that a store cannot hold would come back, and fail every batch that it is in."""

    def does(task: Stat, context: Context) -> Any:
        wait = 2**63 - 1 - int(time.time() * 1_000) + off
        raise Failure("Throttled", retry=Retry.THROTTLED, after_ms=wait)

    async with (
        SQLiteStore.open(":memory:") as store,
        working(Handler(does), store=store) as (transactor, scheduler),
    ):
        await transactor.send(WORK, Ask("a"))
        await rested(lambda: scheduler.running == 0)
        (row,) = await store.tasks()
        assert row.due > 2**62
        assert row.worker is None
        assert "indeterminate" not in transactor.counters


async def test_used_up_retries_rise_to_a_catch() -> None:
    def does(task: Stat, context: Context) -> Any:
        raise Failure("Busy", {"at": "noon"}, retry=Retry.SAFE)

    handler = Handler(does)
    async with working(handler) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert state.lost == (EXHAUSTED,)
        assert (state.detail["name"], state.detail["attempts"]) == ("Busy", 3)
        assert state.detail["detail"] == {"at": "noon"}
        assert handler.attempts == [1, 2, 3]
        assert scheduler.counters["exhausted"] == 1


@pytest.mark.parametrize("retry", [Retry.FATAL, Retry.CONFLICT, Retry.CORRUPT])
async def test_a_failure_for_good_is_not_made_again(retry: Retry) -> None:
    def does(task: Stat, context: Context) -> Any:
        raise Failure("Gone", "why", retry=retry)

    handler = Handler(does)
    async with working(handler) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert (state.lost, state.detail, handler.attempts) == (("Gone",), "why", [1])


async def test_an_err_that_is_returned_is_a_failure_for_good() -> None:
    async with working(Handler(lambda task, context: Err("Gone", (1,)))) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert (state.lost, state.detail) == (("Gone",), (1,))


async def test_whatever_else_is_raised_is_of_unknown_outcome() -> None:
    def does(task: Stat, context: Context) -> Any:
        if context.attempt == 1:
            raise KeyError("what")
        return 7

    handler = Handler(does)
    async with working(handler) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        await until(transactor, "a", lambda state: bool(state.got))
        assert handler.attempts == [1, 2]
    once = replace(QUICK, idempotent=False)
    handler = Handler(does)
    async with working(handler, policy=once) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert (state.lost, state.detail["name"]) == ((EXHAUSTED,), "KeyError")
        assert handler.attempts == [1]


@pytest.mark.parametrize("value", [object(), {1, 2}, {1: 2}, float("nan"), 2**64, "\ud800"])
async def test_an_outcome_that_cannot_be_stored_is_a_bad_one(value: Any) -> None:
    async with working(Handler(lambda task, context: value)) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert state.lost == (BAD_OUTCOME,)


@pytest.mark.parametrize("retry", [Retry.FATAL, Retry.SAFE])
async def test_a_failure_whose_detail_cannot_be_stored_is_caught_all_the_same(
    retry: Retry,
) -> None:
    def does(task: Stat, context: Context) -> Any:
        raise Failure("Gone", object(), retry=retry)

    async with working(Handler(does)) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert state.lost == ("Gone" if retry is Retry.FATAL else EXHAUSTED,)


@pytest.mark.parametrize("retry", [Retry.FATAL, Retry.SAFE])
@pytest.mark.parametrize(
    "name",
    ["\ud800", "x" * (LIMITS.text_bytes + 1), 5],
    ids=["a surrogate", "too long", "no text"],
)
async def test_so_is_one_whose_name_cannot_be_stored(name: Any, retry: Retry) -> None:
    def does(task: Stat, context: Context) -> Any:
        raise Failure(name, retry=retry)

    handler = Handler(does)
    async with working(handler) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        looks = ascii(name)[:200]
        assert state.lost == (looks if retry is Retry.FATAL else EXHAUSTED,)
        assert len(handler.calls) == (1 if retry is Retry.FATAL else QUICK.attempts)


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_the_detail_of_a_failure_may_be_as_long_as_fits_with_it_in_a_block(off: int) -> None:
    around = len(codec.encode({"name": "Gone", "detail": b"", "retry": "safe"})) + 4
    detail = b"x" * (LIMITS.block_bytes - around + off)

    def does(task: Stat, context: Context) -> Any:
        raise Failure("Gone", detail, retry=Retry.SAFE) if context.attempt == 1 else Failure("End")

    async with working(Handler(does)) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert state.lost == ("End",)


@pytest.mark.parametrize("after_ms", [float("nan"), float("inf")])
async def test_a_wait_that_is_no_time_is_a_failure_of_unknown_outcome(after_ms: Any) -> None:
    def does(task: Stat, context: Context) -> Any:
        raise Failure("Gone", retry=Retry.THROTTLED, after_ms=after_ms)

    async with working(Handler(does)) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert state.lost == (EXHAUSTED,)


async def test_a_handler_that_hangs_is_timed_out() -> None:
    handler = Handler()
    handler.gate = anyio.Event()
    hasty = replace(QUICK, attempts=2, attempt_ms=5)
    async with working(handler, policy=hasty) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert (state.lost, state.detail["name"]) == ((EXHAUSTED,), "TimedOut")
        assert handler.attempts == [1, 2]


async def test_no_handler_can_dismiss_its_task() -> None:
    async with working(Handler(lambda task, context: Err(DISMISSED))) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        state = await until(transactor, "a", lambda state: bool(state.lost))
        assert state.lost == (BAD_OUTCOME,)


# --- parked ---------------------------------------------------------------------------------------


async def parked(transactor: Transactor) -> Any:
    with anyio.fail_after(SOON):
        while not (rows := await transactor.store.tasks(parked=True)):
            await anyio.sleep(0.001)
    return rows[0]


async def test_an_uncaught_failure_parks_and_redriving_performs_again() -> None:
    handler = Handler(lambda task, context: Err("Gone"))
    async with working(handler) as (transactor, _):
        await transactor.send(WORK, Ask("a", caught=False))
        row = await parked(transactor)
        assert (row.outcome, row.worker) == (None, None)
        handler.does = lambda task, context: 7
        assert (await transactor.redrive(row.id)).kind == "redriven"
        state = await until(transactor, "a", lambda state: bool(state.got))
        assert (state.got, handler.attempts) == ((7,), [1, 1])


async def test_a_refused_outcome_is_kept_and_redriven_without_performing_again() -> None:
    handler = Handler(lambda task, context: "impossible")
    async with working(handler) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        row = await parked(transactor)
        await transactor.send(WORK, Note("a"))
        assert (await transactor.redrive(row.id)).kind == "committed"
        assert (await until(transactor, "a", lambda state: bool(state.got))).got == (-1,)
        assert len(handler.calls) == 1


async def test_a_dismissed_task_is_gone_and_fires_nothing() -> None:
    async with working(Handler(lambda task, context: Err("Gone"))) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a", caught=False))
        row = await parked(transactor)
        assert (await transactor.dismiss(row.id)).kind == "committed"
        assert await transactor.store.tasks() == []
        await rested(lambda: scheduler.running == 0)
        head = await transactor.get(WORK.job("a"))
        assert head is not None
        assert (head.state.got, head.state.lost) == ((), ())


@pytest.mark.parametrize("end", ["redrive", "dismiss"])
async def test_a_timer_that_update_cannot_take_is_parked(end: str) -> None:
    async with working(Handler(lambda task, context: 13)) as (transactor, _):
        await transactor.send(WORK, Ask("a"))
        await until(transactor, "a", lambda state: state.got == (13,))
        await transactor.send(WORK, Ask("a", sleep_ms=1))
        row = await parked(transactor)
        assert row.timer
        await transactor.send(WORK, Note("a"))
        assert (await getattr(transactor, end)(row.id)).kind == "committed"
        head = await transactor.get(WORK.job("a"))
        assert head is not None
        assert len(head.state.rang) == (end == "redrive")
        assert await transactor.store.tasks() == []


# --- timers ---------------------------------------------------------------------------------------


async def test_a_timer_fires_at_its_deadline_and_not_before() -> None:
    async with working(Handler()) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a", sleep_ms=20))
        state = await until(transactor, "a", lambda state: bool(state.rang))
        assert 0 <= state.rang[0] - state.due < 1_000
        assert scheduler.counters["timers"] == 1


async def test_timers_of_a_workflow_unknown_here_are_left_to_others_without_haste() -> None:
    """Another service's timers in the same store: they must not keep this one busy, nor stop it."""
    store = MemoryStore()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("a", sleep_ms=1))
    await anyio.sleep(0.005)
    other = Workflow(
        "other",
        state=State,
        events=(Ask, Note, Got, Lost, Rang),
        outside=(Ask,),
        tasks=(Stat,),
        key=("name",),
        update=update,
    )
    async with (
        Transactor(store, [other]) as transactor,
        Scheduler(transactor, {Stat: Handler()}) as scheduler,
    ):
        await transactor.send(other, Ask("b", sleep_ms=10))
        head = await transactor.wait(other.job("b"), lambda state: bool(state.rang), timeout=SOON)
        assert head.seq == 2
        await anyio.sleep(0.05)
        assert scheduler.counters["timers"] < 10
    assert len(await store.timers(10**15, 10)) == 1


async def test_a_timer_that_is_left_to_others_makes_no_other_one_late() -> None:
    store = MemoryStore()
    async with Transactor(store, [workflow(name="other")]) as transactor:
        await transactor.send(workflow(name="other"), Ask("a", sleep_ms=1))
    await anyio.sleep(0.005)
    async with working(Handler(), store=store) as (transactor, scheduler):
        await rested(lambda: bool(scheduler._shunned))
        await transactor.send(WORK, Ask("a", sleep_ms=300))
        state = await until(transactor, "a", lambda state: bool(state.rang))
        assert 0 <= int(time.time() * 1_000) - state.due < 1_000


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (Limits(slots=3), 3),
        (Limits(slots=9, per_type={"Stat": 2}), 2),
        (Limits(slots=9, per_tenant=1), 2),
        (Limits(slots=1), 1),
    ],
)
async def test_no_more_run_at_once_than_the_limits_allow(limits: Limits, most: int) -> None:
    handler = Handler()
    by_name = {"tenant": lambda job: str(job.key[0])}
    async with working(handler, limits=limits, **by_name) as (transactor, scheduler):
        async with anyio.create_task_group() as group:
            for name in "ab":
                group.start_soon(transactor.send, WORK, Ask(name, 10))
        for name in "ab":
            await until(transactor, name, lambda state: len(state.got) == 10)
        assert handler.most <= most
        assert len(handler.calls) == 20
        assert handler.attempts == [1] * 20
        await rested(lambda: scheduler.running == 0)


async def test_a_rate_is_kept() -> None:
    handler = Handler()
    async with working(handler, limits=Limits(rates={"Stat": 200.0})) as (transactor, _):
        async with anyio.create_task_group() as group:
            for n in range(8):
                group.start_soon(transactor.send, WORK, Ask(str(n), 30))
        await anyio.sleep(0.1)
        seen = len(handler.calls)
        assert seen <= 200 + 0.3 * 200
        await until(transactor, "0", lambda state: len(state.got) >= 1)


@given(st.data())
def test_slots_are_counted_exactly(data: st.DataObject) -> None:
    limits = Limits(slots=5, per_type={"x": 2}, per_tenant=3)
    slots = Slots(limits)
    held: list[tuple[str, str]] = []
    for _ in range(data.draw(st.integers(0, 40))):
        if held and data.draw(st.booleans()):
            slots.give(*held.pop(data.draw(st.integers(0, len(held) - 1))))
        else:
            tag, tenant = data.draw(st.sampled_from("xy")), data.draw(st.sampled_from("tu"))
            fits = (
                len(held) < 5
                and (tag != "x" or sum(t == "x" for t, _ in held) < 2)
                and sum(who == tenant for _, who in held) < 3
            )
            assert slots.take(tag, tenant, 0) is fits
            held += [(tag, tenant)] * fits
        assert slots.used == len(held)
        assert slots.room("y", 0) == 5 - len(held)
        for who in "tu":
            left = 3 - sum(tenant == who for _, tenant in held)
            assert slots.room_of(who, 0) == min(left, slots.free)


@pytest.mark.parametrize(
    ("seconds", "fits"), [(4.999, False), (5, True), (3_600, True), (3_601, False)]
)
async def test_a_lease_is_bounded(seconds: float, fits: bool) -> None:
    async with Transactor(MemoryStore(), [WORK]) as transactor:
        if fits:
            Scheduler(transactor, {}, lease_seconds=seconds)
        else:
            with pytest.raises(InvalidWorkflow):
                Scheduler(transactor, {}, lease_seconds=seconds)


# --- stopping -------------------------------------------------------------------------------------


async def test_leaving_gives_back_what_runs_and_what_waits_with_its_attempt() -> None:
    store = MemoryStore()
    handler = Handler()
    handler.gate = anyio.Event()
    limits = Limits(slots=2)
    async with working(handler, store=store, grace_seconds=0.01, limits=limits) as (transactor, _):
        await transactor.send(WORK, Ask("a", 5))
        await handler.begun.wait()
    rows = await store.tasks()
    assert [(row.worker, row.attempt) for row in rows] == [(None, 0)] * 5
    handler.gate.set()
    async with working(handler, store=store) as (transactor, _):
        await until(transactor, "a", lambda state: len(state.got) == 5)
    assert set(handler.attempts) == {1}


async def test_leaving_waits_for_what_soon_ends() -> None:
    store = MemoryStore()
    handler = Handler()
    handler.gate = anyio.Event()

    async def release() -> None:
        await anyio.sleep(0.01)
        assert handler.gate is not None
        handler.gate.set()

    async with (
        anyio.create_task_group() as group,
        working(handler, store=store) as (transactor, _),
    ):
        await transactor.send(WORK, Ask("a"))
        await handler.begun.wait()
        group.start_soon(release)
    assert await store.tasks() == []
    assert len(handler.calls) == 1


# --- leases ---------------------------------------------------------------------------------------


async def test_claims_of_a_dead_worker_are_taken_over() -> None:
    store = MemoryStore()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("a"))
    dead = store.enlist()
    await store.commit(Batch([Beat(dead, 10**15), Claim(dead, [Want(*KIND, 9)], 10**15)]))
    store.retire(dead)
    handler = Handler()
    async with working(handler, store=store) as (transactor, _):
        await until(transactor, "a", lambda state: bool(state.got))
    assert [(c.attempt, c.token) for _, c in handler.calls] == [(2, 2)]


async def test_claims_of_a_living_worker_are_not() -> None:
    store = MemoryStore()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("a"))
    other = store.enlist()
    await store.commit(Batch([Beat(other, 10**15), Claim(other, [Want(*KIND, 9)], 10**15)]))
    handler = Handler()
    async with working(handler, store=store):
        await anyio.sleep(0.03)
    assert handler.calls == []


async def test_a_late_outcome_is_fenced_and_the_newer_one_counts() -> None:
    store = MemoryStore()
    slow, quick = Handler(lambda task, context: 1), Handler(lambda task, context: 2)
    slow.gate, quick.gate = anyio.Event(), anyio.Event()
    async with working(slow, store=store) as (left, first):
        await left.send(WORK, Ask("a"))
        await slow.begun.wait()
        async with working(quick, store=store) as (right, second):
            first._stopping = True  # or it would take its own task back
            await store.commit(Batch([Disown(first.worker, [])]))
            second.wake(0)
            with anyio.fail_after(SOON):
                await quick.begun.wait()
            slow.gate.set()
            await rested(lambda: bool(first.counters.get("fenced")))
            quick.gate.set()
            state = await until(right, "a", lambda state: bool(state.got))
            assert state.got == (2,)
            assert second.counters["committed"] == 1


async def test_an_outcome_for_what_is_settled_is_closed() -> None:
    store = MemoryStore()
    slow, quick = Handler(lambda task, context: 1), Handler(lambda task, context: 2)
    slow.gate = anyio.Event()
    async with working(slow, store=store) as (left, first):
        await left.send(WORK, Ask("a"))
        await slow.begun.wait()
        async with working(quick, store=store) as (right, second):
            first._stopping = True
            await store.commit(Batch([Disown(first.worker, [])]))
            second.wake(0)
            await until(right, "a", lambda state: bool(state.got))
            slow.gate.set()
            await rested(lambda: bool(first.counters.get("closed")))
            head = await right.get(WORK.job("a"))
            assert head is not None
            assert (head.state.got, head.seq) == ((2,), 2)


async def test_a_task_taken_anew_by_the_same_worker_costs_one_slot_each() -> None:
    """A lease that ended while the handler ran: both attempts end, and no slot is lost."""
    store = MemoryStore()
    handler = Handler()
    handler.gate = anyio.Event()
    async with working(handler, store=store, limits=Limits(slots=3)) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a"))
        await handler.begun.wait()
        (row,) = await store.tasks()
        await store.commit(Batch([Disown(scheduler.worker, [])]))
        scheduler.wake(0)
        await rested(lambda: len(handler.calls) == 2)
        assert row.worker == scheduler.worker
        handler.gate.set()
        await until(transactor, "a", lambda state: bool(state.got))
        await rested(lambda: scheduler.running == 0 and scheduler._room.slots.used == 0)


async def test_a_slot_that_was_lent_in_vain_goes_to_what_is_due() -> None:
    store = MemoryStore()
    async with working(Handler(), store=store, limits=Limits(slots=1)) as (transactor, scheduler):
        await rested(lambda: scheduler._next > 0)
        lent = WORK.job("lent").id
        assert scheduler.reserve(lent, 0, KIND, "") is not None
        async with Transactor(store, [WORK]) as other:
            await other.send(WORK, Ask("a"))
        await rested(lambda: scheduler._left)
        scheduler.release(lent, 0)
        await until(transactor, "a", lambda state: bool(state.got))


async def test_a_task_that_kills_its_process_reaches_its_cap() -> None:
    """The attempt rises at the claim: after so many dead workers it is given up, not performed."""
    store = MemoryStore()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("a"))
    for _ in range(QUICK.attempts):
        dead = store.enlist()
        await store.commit(Batch([Claim(dead, [Want(*KIND, 9)], 10**15), Disown(dead, [])]))
    handler = Handler()
    async with working(handler, store=store) as (transactor, _):
        state = await until(transactor, "a", lambda state: bool(state.lost or state.got))
        assert (state.lost, handler.calls) == ((EXHAUSTED,), [])


async def test_a_task_past_its_deadline_is_given_up_and_not_performed() -> None:
    store = MemoryStore()
    async with Transactor(store, [WORK]) as transactor:
        await transactor.send(WORK, Ask("a"))
    await anyio.sleep(0.01)
    handler = Handler()
    late = replace(QUICK, deadline_ms=5)
    async with working(handler, store=store, policy=late) as (transactor, _):
        state = await until(transactor, "a", lambda state: bool(state.lost or state.got))
        assert (state.lost, handler.calls) == ((EXHAUSTED,), [])


async def test_a_task_that_is_redriven_after_its_deadline_is_performed() -> None:
    def does(task: Stat, context: Context) -> Any:
        if handler.attempts == [1]:
            raise Failure("Down")
        return task.n

    handler = Handler(does)
    late = replace(QUICK, deadline_ms=50)
    async with working(handler, policy=late) as (transactor, _):
        await transactor.send(WORK, Ask("a", caught=False))
        while not (parked := await transactor.store.tasks(parked=True)):
            await anyio.sleep(0.002)
        await anyio.sleep(0.06)
        await transactor.redrive(parked[0].id)
        assert (await until(transactor, "a", lambda state: bool(state.got))).got == (0,)


# --- when the store or the world fails ------------------------------------------------------------


class Flaky(MemoryStore):
    """Every reading for the scheduler fails for a while."""

    down = False

    async def next_task(self, kinds: Any) -> int | None:
        if self.down:
            raise Unavailable("down")
        return await super().next_task(kinds)

    async def next_timer(self) -> int | None:
        if self.down:
            raise Unavailable("down")
        return await super().next_timer()

    async def commit(self, batch: Batch) -> Any:
        if self.down:
            raise Unavailable("down")
        return await super().commit(batch)


async def test_a_store_that_is_down_for_a_while_stops_nobody() -> None:
    store = Flaky()
    handler = Handler()
    handler.gate = anyio.Event()
    async with working(handler, store=store) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a"))
        await handler.begun.wait()
        store.down = True
        scheduler.wake(0)
        handler.gate.set()
        await anyio.sleep(0.05)
        store.down = False
        assert (await until(transactor, "a", lambda state: bool(state.got))).got == (0,)
        await transactor.send(WORK, Ask("b"))
        await until(transactor, "b", lambda state: bool(state.got))


async def test_an_outcome_that_cannot_be_settled_here_is_left_to_another_worker() -> None:
    """A newer release has moved the job on to a version that this worker does not know."""
    store = MemoryStore()
    newer = workflow(
        version=2,
        upcasts={1: (lambda tag, fields: (tag, fields), lambda tag, fields: (tag, fields))},
    )
    handler = Handler(lambda task, context: 7)
    handler.gate = anyio.Event()
    async with working(handler, store=store, grace_seconds=0.01) as (transactor, old):
        await transactor.send(WORK, Ask("a"))
        await handler.begun.wait()
        async with Transactor(store, [WORK, newer]) as other:
            await other.send(newer, Note("a"))
            handler.gate.set()
            await rested(lambda: old.running == 0)
            async with Scheduler(other, {Stat: Handler(lambda task, context: 8)}) as new:
                head = await other.wait(WORK.job("a"), lambda state: bool(state.got), timeout=SOON)
                assert head.state.got == (8,)
                assert new.counters["performed"] == 1


async def test_a_deferred_row_keeps_the_last_error() -> None:
    async with working(
        Handler(lambda task, context: (_ for _ in ()).throw(Failure("Busy", retry=Retry.SAFE))),
        policy=Policy(attempts=3, base_ms=30_000, cap_ms=30_000),
    ) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a"))
        await rested(lambda: scheduler.counters.get("retries") == 1 and scheduler.running == 0)
        (row,) = await transactor.store.tasks()
        assert row.error is not None
        assert b"Busy" in row.error
        assert row.worker is None
