"""The transactor: conflicts, unknown fates, deadlines, waiting, and what it tells nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import ANY, Err, perform, sleep
from stmflow.errors import (
    ConflictsExhausted,
    DeadlineExceeded,
    Indeterminate,
    InvalidEvent,
    LimitExceeded,
    NotOutside,
    ReducerFailed,
    StmflowError,
    Stopped,
    Unavailable,
    UnknownTask,
)
from stmflow.limits import LIMITS
from stmflow.store import (
    Batch,
    Claim,
    Commit,
    Conflicted,
    Defer,
    Done,
    Redrive,
    Result,
    StoredHead,
    Sweep,
    Want,
)
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.transactor import Transactor
from stmflow.workflow import Workflow, ignore, impossible, job, reject, same

SOON = 5.0


@dataclass(frozen=True)
class Add:
    name: str
    by: int = 1


@dataclass(frozen=True)
class Ask:
    """Perform a task; `how` says what becomes of its outcome."""

    name: str
    how: str = "ok"


@dataclass(frozen=True)
class Sleep:
    name: str
    until: int


@dataclass(frozen=True)
class Got:
    value: int


@dataclass(frozen=True)
class Rang:
    pass


@dataclass(frozen=True)
class Stat:
    n: int


@dataclass(frozen=True)
class Charge:
    name: str


@dataclass(frozen=True)
class Total:
    total: int = 0
    how: str = "ok"


broken = {"tag": False}


def update(event: Any, state: Total | None) -> Any:
    state = state or Total()
    match event:
        case Add(by=0):
            return ignore()
        case Add(by=404):
            return reject("No", "why")
        case Add(by=500):
            raise ValueError("no 500")
        case Add(by=99):
            return impossible()
        case Add(by=by):
            return replace(state, total=state.total + by), []
        case Ask(how="charge"):
            return state, [perform(Charge(event.name)).then(Got)]
        case Ask(how=how):
            return replace(state, how=how), [perform(Stat(1)).then(Got)]
        case Sleep(until=until):
            return state, [sleep(until=until, name="t", during=ANY).then(Rang)]
        case Got() if state.how == "impossible":
            return impossible()
        case Got(value):
            return replace(state, total=state.total + value), []
        case Rang() if state.total == 13:
            raise ValueError("thirteen")
        case Rang():
            return replace(state, total=state.total + 1_000), []
    return same()


def tag_of(state: Total) -> str:
    if broken["tag"] and state.total >= 7:
        raise KeyError("tag")
    return "T"


COUNTER = Workflow(
    "counter",
    state=Total,
    events=(Add, Ask, Sleep, Got, Rang),
    outside=(Add, Ask, Sleep),
    tasks=(Stat, Charge),
    key=("name",),
    tag=tag_of,
    update=update,
)


def counter(name: str = "a") -> Any:
    return COUNTER.job(name)


class Shaken(MemoryStore):
    """Does what the next word of `fates` says; a word of `late` is applied at the next commit."""

    def __init__(self) -> None:
        super().__init__()
        self.fates: list[str] = []
        self.commits = 0
        self.lost: list[Batch] = []
        self.gate: anyio.Event | None = None
        self.reading: anyio.Event | None = None
        self.down = False

    async def commit(self, batch: Batch) -> Sequence[Result]:
        await anyio.lowlevel.checkpoint()
        self.commits += 1
        fate = self.fates.pop(0) if self.fates else "ok"
        if fate == "gate":
            assert self.gate is not None
            await self.gate.wait()
        if fate == "conflict":
            return [Conflicted() for _ in batch.members]
        if fate == "unavailable":
            raise Unavailable("busy")
        if fate == "broken":
            raise OSError("what is this")
        if fate == "late":
            self.lost.append(batch)
            raise Indeterminate("late")
        if fate == "unknown":
            raise Indeterminate("lost")
        results = await super().commit(batch)
        if fate == "unknown, committed":
            raise Indeterminate("landed")
        for lost in self.lost:
            await super().commit(lost)
        self.lost = []
        return results

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        if self.down:
            raise Unavailable("down")
        if self.reading is not None:
            await self.reading.wait()
        return await super().heads(jobs)


@pytest.fixture
def store() -> Shaken:
    return Shaken()


@asynccontextmanager
async def opened(store: Any, **given: Any) -> AsyncIterator[Transactor]:
    given.setdefault("random", Random(1))
    async with Transactor(store, [COUNTER], **given) as transactor:
        yield transactor


async def total(transactor: Transactor, name: str = "a") -> int:
    head = await transactor.get(counter(name))
    return 0 if head is None else head.state.total


async def seq(transactor: Transactor, name: str = "a") -> int:
    head = await transactor.get(counter(name))
    return 0 if head is None else head.seq


# --- answers --------------------------------------------------------------------------------------


async def test_answers_say_what_became_of_the_event(store: Shaken) -> None:
    async with opened(store) as transactor:
        first = await transactor.send(COUNTER, Add("a"))
        assert first.committed
        assert (first.seq, first.epoch, first.job) == (1, 1, counter().id)
        for by, kind, code in (
            (0, "ignored", None),
            (404, "rejected", "No"),
            (99, "rejected", "Impossible"),
        ):
            answer = await transactor.send(COUNTER, Add("a", by))
            assert (answer.kind, answer.code, answer.seq) == (kind, code, 1)
            assert answer.revision == first.revision
        assert await seq(transactor) == 1


async def test_nothing_is_written_for_strangers(store: Shaken) -> None:
    async with opened(store) as transactor:
        assert (await transactor.send(COUNTER, Add("a", 404), delivery="d")).rejected
        assert (await transactor.send(counter().id, Add("a"))).code == "NotFound"
        assert (await transactor.send(COUNTER, Add("a", 0), delivery="e")).kind == "ignored"
        assert await store.jobs() == []
        assert await store.delivery(counter().id, b"d") is None


async def test_only_outside_events_may_be_sent(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        for target in (COUNTER, counter(), counter().id):
            with pytest.raises(NotOutside):
                await transactor.send(target, Got(1))
            with pytest.raises(InvalidEvent):
                await transactor.send(target, Add("a", "x"))  # type: ignore[arg-type]
            with pytest.raises(InvalidEvent):
                await transactor.send(target, Stat(1))
        assert await seq(transactor) == 1


async def test_an_unknown_workflow_is_refused(store: Shaken) -> None:
    async with opened(store) as transactor:
        with pytest.raises(StmflowError):
            await transactor.send(job("nobody", "a"), Add("a"))


async def test_a_reducer_that_raises_is_told_and_writes_nothing(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        with pytest.raises(ReducerFailed, match="no 500"):
            await transactor.send(COUNTER, Add("a", 500), delivery="d")
        assert await store.delivery(counter().id, b"d") is None
        assert await seq(transactor) == 1


async def test_alarms_are_raised_and_counted(store: Shaken) -> None:
    heard: list[str] = []

    def alarm(text: str) -> None:
        heard.append(text)
        raise RuntimeError("a broken alarm stops nothing")

    async with opened(store, alarm=alarm) as transactor:
        await transactor.send(COUNTER, Add("a", 99))
        await transactor.send(COUNTER, Add("a"))
        await transactor.send(COUNTER, Add("a", 99))
        assert len(heard) == transactor.counters["alarms"] == 2


# --- deliveries -----------------------------------------------------------------------------------


async def test_a_repeat_gets_its_first_answer_whatever_it_was(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        for by in (1, 0, 404, 99):
            first = await transactor.send(COUNTER, Add("a", by), delivery=f"d{by}")
            await transactor.send(COUNTER, Add("a"))
            again = await transactor.send(COUNTER, Add("a", by), delivery=f"d{by}".encode())
            assert again == first._replace(repeated=True)


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_a_delivery_is_remembered_for_a_day(store: Shaken, off: int) -> None:
    """Swept later than that it counts as a new one."""
    clock = Hand()
    async with opened(store, clock=clock) as transactor:
        await transactor.send(COUNTER, Add("a"), delivery="d")
        now = clock.time + LIMITS.delivery_window_ms + off
        await transactor.do(lambda: Sweep(now, 10))
        again = await transactor.send(COUNTER, Add("a"), delivery="d")
        assert again.repeated is (off <= 0)
        assert again.seq == 1 + max(off, 0)


async def test_an_answer_is_kept_until_the_time_that_the_caller_names(store: Shaken) -> None:
    clock = Hand()
    async with opened(store, clock=clock) as transactor:
        until = clock.time + 5_000
        await transactor.send(COUNTER, Add("a"), delivery="one", keep_until=until)
        await transactor.transact(
            lambda tx: tx.apply(COUNTER.job("a"), Add("a")).kind,
            at=COUNTER.job("a"),
            delivery="two",
            keep_until=until + 1,
        )
        kept = {id: row[1] for (_, id), row in store._deliveries.items()}
        assert kept == {b"one": until, b"two": until + 1}


@pytest.mark.parametrize("until", [2**63 - 1, 2**63, 2**70, -1, 1e12, "soon"])
async def test_a_time_that_no_store_can_keep_is_refused_and_stops_nobody(
    store: Shaken, until: Any
) -> None:
    body: Any = lambda tx: tx.apply(COUNTER.job("a"), Add("a")).kind  # noqa: E731
    given: Any = {"delivery": "d", "keep_until": until}
    async with opened(store) as transactor:
        if until == LIMITS.int_max:
            assert (await transactor.send(COUNTER, Add("a"), **given)).committed
            return
        with pytest.raises(LimitExceeded, match="keep_until"):
            await transactor.send(COUNTER, Add("a"), **given)
        with pytest.raises(LimitExceeded, match="keep_until"):
            await transactor.transact(body, at=COUNTER.job("a"), **given)
        assert await transactor.get(COUNTER.job("a")) is None


@pytest.mark.parametrize("tenant", [None, 5, b"a", COUNTER.job("a").id, "\ud800"], ids=ascii)
async def test_a_tenant_that_no_store_can_keep_is_refused_and_stops_nobody(
    tmp_path: Path, tenant: Any
) -> None:
    given: Any = {"tenant": lambda job: tenant}
    async with (
        SQLiteStore.open(tmp_path / "jobs.db") as jobs,
        opened(jobs, **given) as transactor,
        anyio.create_task_group() as group,
    ):
        group.start_soon(transactor.send, COUNTER, Add("b"))  # in the same batch
        with pytest.raises(ReducerFailed, match="tenant"):
            await transactor.send(COUNTER, Ask("a"))


@pytest.mark.parametrize("size", [0, 1, *(LIMITS.delivery_id_bytes + off for off in (-1, 0, 1))])
async def test_delivery_ids_are_bounded(store: Shaken, size: int) -> None:
    async with opened(store) as transactor:
        if 0 < size <= LIMITS.delivery_id_bytes:
            assert (await transactor.send(COUNTER, Add("a"), delivery=b"x" * size)).committed
            assert (await transactor.send(COUNTER, Add("a"), delivery=b"x" * size)).repeated
        else:
            with pytest.raises(LimitExceeded):
                await transactor.send(COUNTER, Add("a"), delivery=b"x" * size)


# --- conflicts ------------------------------------------------------------------------------------


async def test_a_conflict_is_retried_and_counted(store: Shaken) -> None:
    async with opened(store) as transactor:
        store.fates = ["conflict"] * 3
        assert (await transactor.send(COUNTER, Add("a"))).committed
        assert transactor.counters["conflicts"] == 3
        assert await total(transactor) == 1


class Hand:
    """A clock that jumps to where somebody wants to sleep, and always shows whole time."""

    def __init__(self) -> None:
        self.time = 1_000_000

    def now(self) -> int:
        return self.time

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0.0005)
        self.time = max(self.time, at_ms)


async def test_after_so_many_conflicts_the_caller_is_told_that_it_did_not_happen(
    store: Shaken,
) -> None:
    async with opened(store, clock=Hand()) as transactor:
        store.fates = ["conflict"] * (LIMITS.conflict_retries + 1)
        with pytest.raises(ConflictsExhausted):
            await transactor.send(COUNTER, Add("a"))
        assert store.commits == LIMITS.conflict_retries + 1
        assert await total(transactor) == 0
        store.fates = ["conflict"] * LIMITS.conflict_retries
        assert (await transactor.send(COUNTER, Add("a"))).committed


async def test_another_error_leaves_at_once(store: Shaken) -> None:
    async with opened(store) as transactor:
        store.fates = ["unavailable"]
        with pytest.raises(Unavailable):
            await transactor.send(COUNTER, Add("a"))
        assert store.commits == 1


async def test_what_another_transactor_wrote_is_seen_after_the_conflict(store: Shaken) -> None:
    async with opened(store) as left, opened(store) as right:
        await left.send(COUNTER, Add("a"))
        await right.send(COUNTER, Add("a", 5))
        answer = await left.send(COUNTER, Add("a", 10))
        assert (answer.seq, await total(right)) == (3, 16)


# --- unknown fates --------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", [None, "mine"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    "fates",
    [
        ["unknown"],
        ["unknown, committed"],
        ["unknown", "unknown, committed"],
        ["unknown", "unknown", "unknown"],
        ["late"],
        ["late", "unknown"],
        ["late", "unknown, committed"],
        ["unknown, committed", "conflict"],
        ["broken"],
    ],
    ids=" ".join,
)
async def test_an_unknown_fate_is_settled_and_the_event_applied_once(
    store: Shaken, fates: list[str], exists: bool, delivery: str | None
) -> None:
    async with opened(store, clock=Hand()) as transactor:
        if exists:
            await transactor.send(COUNTER, Add("a", 10))
        store.fates = list(fates)
        answer = await transactor.send(COUNTER, Add("a"), delivery=delivery)
        await transactor.send(COUNTER, Add("b"))
        assert answer.kind == "committed"
        assert await total(transactor) == 1 + 10 * exists
        head = await transactor.get(counter())
        assert head is not None
        assert answer.revision == head.revision


async def test_an_indeterminate_batch_is_unknown_for_every_member(store: Shaken) -> None:
    async with opened(store, clock=Hand()) as transactor:
        await transactor.send(COUNTER, Add("a"))
        store.fates = ["unknown, committed", "unknown", "late"]
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(transactor.send, COUNTER, Add("ab"[n % 2]))
        assert (await total(transactor), await total(transactor, "b")) == (11, 10)


async def test_who_gives_up_is_told_the_delivery_to_send_again(store: Shaken) -> None:
    async with opened(store, clock=Hand()) as transactor:
        store.fates = ["unknown"] * 20
        with pytest.raises(Indeterminate) as caught:
            await transactor.send(COUNTER, Add("a"), delivery="mine")
        assert caught.value.delivery == (counter().id, b"mine")
        store.fates = []
        assert (await transactor.send(COUNTER, Add("a"), delivery="mine")).committed
        assert await total(transactor) == 1


@pytest.mark.parametrize("then", ["unavailable", "conflict"])
async def test_what_may_have_happened_is_never_said_not_to_have(store: Shaken, then: str) -> None:
    """An attempt in doubt, then an error that of itself means: not written."""
    async with opened(store, clock=Hand()) as transactor:
        store.fates = ["late", *[then] * (LIMITS.conflict_retries + 2)]
        with pytest.raises(Indeterminate):
            await transactor.send(COUNTER, Add("a"), delivery="mine")


async def test_an_unknown_fate_without_an_id_is_final_for_a_transaction(store: Shaken) -> None:
    async with opened(store) as transactor:
        store.fates = ["unknown"]
        with pytest.raises(Indeterminate) as caught:
            await transactor.transact(lambda tx: tx.apply(counter(), Add("a")))
        assert caught.value.delivery is None
        assert store.commits == 1


@pytest.mark.parametrize("fate", ["unknown", "unknown, committed", "late"])
async def test_a_transaction_with_an_id_is_settled(store: Shaken, fate: str) -> None:
    def body(tx: Any) -> int:
        tx.apply(counter(), Add("a"))
        return int(tx.read(counter()).total)

    async with opened(store, clock=Hand()) as transactor:
        store.fates = [fate]
        assert await transactor.transact(body, at=counter(), delivery="d") == 1
        await transactor.send(COUNTER, Add("b"))
        assert await total(transactor) == 1


# --- nothing leaves before it is durable ----------------------------------------------------------


async def test_until_the_store_has_answered_nobody_sees_anything(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        store.fates, store.gate = ["gate"], anyio.Event()
        answers: list[Any] = []
        seen: list[int] = []

        async def send() -> None:
            answers.append(await transactor.send(COUNTER, Add("a")))

        async def wait() -> None:
            await transactor.wait(counter(), lambda state: seen.append(state.total), timeout=0.05)  # type: ignore[func-returns-value, arg-type, return-value]

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(DeadlineExceeded):
                await wait()
            assert (await total(transactor), answers, seen) == (1, [], [1])
            store.gate.set()
        assert len(answers) == 1


async def test_work_built_on_a_batch_that_failed_is_done_again(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        store.fates, store.gate = ["gate", "ok"], anyio.Event()
        results: list[Any] = []

        async def send(by: int) -> None:
            try:
                results.append(await transactor.send(COUNTER, Add("a", by)))
            except StmflowError as error:
                results.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(send, 10)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(send, 100)
            await anyio.wait_all_tasks_blocked()
            async with opened(_Behind(store)) as other:
                await other.send(COUNTER, Add("a", 1_000))
            store.gate.set()
        assert [answer.kind for answer in results] == ["committed"] * 2
        assert await total(transactor) == 1_111
        assert transactor.counters["conflicts"] >= 1


class _Behind:
    """The same data, past the gate: as another process sees it."""

    def __init__(self, store: Shaken) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: Batch) -> Sequence[Result]:
        return await MemoryStore.commit(self._store, batch)


async def test_a_task_of_an_undurable_batch_is_not_answered_closed(store: Shaken) -> None:
    """The answer to an outcome is judged on heads that may never come to be."""
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Ask("a"))
        (row,) = await store.tasks()
        worker = store.enlist()
        (claimed,) = await transactor.do(
            lambda: Claim(worker, [Want("counter", 1, "Stat", 1)], 10**15)
        )
        store.fates, store.gate = ["gate"], anyio.Event()
        answers: list[Any] = []

        async def settle(value: int) -> None:
            answers.append(await transactor.settle(claimed.ref, value))

        async with anyio.create_task_group() as group:
            group.start_soon(settle, 5)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(settle, 6)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            store.gate.set()
        assert [answer.kind for answer in answers] == ["committed", "closed"]
        assert await total(transactor) == 5
        assert row.id == claimed.ref.id


# --- deadlines and stopping -----------------------------------------------------------------------


async def test_what_was_given_up_before_it_was_planned_never_happens(store: Shaken) -> None:
    """`DeadlineExceeded` says: it did not happen. It must not happen afterwards either."""
    async with opened(store) as transactor:
        store.reading = anyio.Event()
        with pytest.raises(DeadlineExceeded):
            await transactor.send(COUNTER, Add("a"), timeout=0.01)
        store.reading.set()
        await anyio.wait_all_tasks_blocked()
        store.reading = None
        await transactor.send(COUNTER, Add("b"))
        assert await total(transactor) == 0


async def test_what_is_under_way_is_waited_for_past_the_deadline(store: Shaken) -> None:
    async with opened(store) as transactor:
        store.fates, store.gate = ["gate"], anyio.Event()

        async def release() -> None:
            await anyio.sleep(0.03)
            assert store.gate is not None
            store.gate.set()

        async with anyio.create_task_group() as group:
            group.start_soon(release)
            answer = await transactor.send(COUNTER, Add("a"), timeout=0.005)
        assert answer.committed


@pytest.mark.parametrize("where", ["reading", "gate", "backoff", "queued"])
async def test_leaving_answers_everybody(store: Shaken, where: str) -> None:
    """Nobody may wait for ever for a transactor that has been left."""
    told: list[BaseException] = []

    async def send(transactor: Transactor, name: str) -> None:
        try:
            await transactor.send(COUNTER, Add(name))
        except StmflowError as error:
            told.append(error)

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group, opened(store) as transactor:
            if where == "reading":
                store.reading = anyio.Event()
            elif where == "backoff":
                store.fates = ["conflict"] * 2 + ["unknown"] * 50
            else:
                store.fates, store.gate = ["gate"], anyio.Event()
            group.start_soon(send, transactor, "a")
            await anyio.wait_all_tasks_blocked()
            if where == "queued":
                group.start_soon(send, transactor, "b")
                await anyio.wait_all_tasks_blocked()
            if where == "backoff":
                await anyio.sleep(0.005)
    assert len(told) == (2 if where == "queued" else 1)
    kinds = {type(error) for error in told}
    assert kinds <= {Stopped, Indeterminate}
    if where == "gate":
        assert kinds == {Indeterminate}


async def test_what_is_sent_to_a_transactor_that_was_left_is_refused(store: Shaken) -> None:
    async with opened(store) as transactor:
        pass
    with pytest.raises(Stopped):
        await transactor.send(COUNTER, Add("a"))


# --- transactions ---------------------------------------------------------------------------------


async def test_a_body_that_reads_what_is_not_known_is_run_again(store: Shaken) -> None:
    async with opened(store) as transactor:
        runs: list[int] = []

        def body(tx: Any) -> list[Any]:
            runs.append(1)
            return [tx.read(counter(name)) for name in "abc"]

        assert await transactor.transact(body) == [None] * 3
        assert len(runs) == 4


async def test_an_error_of_a_body_is_raised_as_it_is(store: Shaken) -> None:
    async with opened(store) as transactor:

        def body(tx: Any) -> None:
            tx.read(counter())
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await transactor.transact(body)


async def test_an_error_on_a_stale_snapshot_is_discarded_and_the_body_run_again(
    store: Shaken,
) -> None:
    """What was read was never, or is no longer, so: then what it led to is no news."""
    async with opened(store) as left, opened(store) as right:
        await left.send(COUNTER, Add("a"))
        seen: list[int] = []

        def body(tx: Any) -> int:
            seen.append(tx.read(counter()).total)
            if seen[-1] < 5:
                raise ValueError(f"only {seen[-1]}")
            return seen[-1]

        async with anyio.create_task_group() as group:
            await right.send(COUNTER, Add("a", 4))
            assert await left.transact(body) == 5
            group.cancel_scope.cancel()
        with pytest.raises(ReducerFailed):
            await left.send(COUNTER, Add("a", 500))


async def test_an_error_on_an_overlay_that_does_not_come_true_is_discarded(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        store.fates, store.gate = ["gate"], anyio.Event()

        def body(tx: Any) -> int:
            found = int(tx.read(counter()).total)
            if found > 100:
                raise ValueError("too much")
            return found

        async def send() -> None:
            await transactor.send(COUNTER, Add("a", 1_000), timeout=SOON)

        values: list[Any] = []

        async def transact() -> None:
            try:
                values.append(await transactor.transact(body))
            except ValueError as error:
                values.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(transact)
            await anyio.wait_all_tasks_blocked()
            assert values == []
            store.gate.set()
        assert values == ["too much"]


async def test_a_rejected_or_ignored_event_leaves_the_job_read_not_written(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))

        def body(tx: Any) -> list[str]:
            kinds = [tx.apply(counter(), Add("a", by)).kind for by in (0, 404, 99)]
            tx.apply(counter("b"), Add("b"))
            return kinds

        assert await transactor.transact(body) == ["ignored", "rejected", "rejected"]
        assert (await seq(transactor), await seq(transactor, "b")) == (1, 1)


async def test_inside_a_transaction_every_event_may_be_applied(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.transact(lambda tx: tx.apply(counter(), Got(5)).kind)
        assert await total(transactor) == 5


async def test_an_error_of_a_reducer_cannot_be_swallowed_by_a_body(store: Shaken) -> None:
    async with opened(store) as transactor:

        def body(tx: Any) -> None:
            tx.apply(counter("b"), Add("b"))
            try:
                tx.apply(counter(), Add("a", 500))
            except ReducerFailed:
                pass

        with pytest.raises(ReducerFailed):
            await transactor.transact(body)
        assert await seq(transactor, "b") == 0


async def test_cells_hold_plain_values_and_only_cells_are_written(store: Shaken) -> None:
    async with opened(store) as transactor:
        cell = CELL.job("x")
        await transactor.transact(lambda tx: tx.write(cell, {"a": [1]}))
        assert await transactor.transact(lambda tx: tx.read(cell).value["a"]) == (1,)
        with pytest.raises(InvalidEvent):
            await transactor.transact(lambda tx: tx.write(counter(), 1))


async def test_what_is_given_needs_both_job_and_id(store: Shaken) -> None:
    async with opened(store) as transactor:
        with pytest.raises(InvalidEvent):
            await transactor.transact(lambda tx: None, at=counter())
        with pytest.raises(InvalidEvent):
            await transactor.transact(lambda tx: None, delivery="d")


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_a_transaction_is_over_at_most_so_many_jobs(store: Shaken, off: int) -> None:
    cells = [CELL.job(n) for n in range(LIMITS.jobs_per_transaction + off)]

    def body(tx: Any) -> None:
        for cell in cells:
            tx.write(cell, 1)

    async with opened(store) as transactor:
        await transactor.transact(lambda tx: None)
        for at in range(0, len(cells), 50):
            some = cells[at : at + 50]
            await transactor.transact(lambda tx, some=some: [tx.write(c, 0) for c in some] and None)  # type: ignore[misc]
        if off > 0:
            with pytest.raises(LimitExceeded):
                await transactor.transact(body)
        else:
            await transactor.transact(body)


async def test_a_transaction_that_only_reads_makes_no_revision(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        before = await store.log()

        def body(tx: Any) -> list[bool]:
            return [tx.read(COUNTER.job(name)) is None for name in "ab"]

        assert await transactor.transact(body) == [False, True]
        assert await store.log() == before


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_a_snapshot_is_of_at_most_so_many_jobs(store: Shaken, off: int) -> None:
    cells = [CELL.job(n) for n in range(LIMITS.snapshot_jobs + off)]
    async with opened(store) as transactor:
        await transactor.transact(lambda tx: tx.write(cells[-1], 1))
        if off > 0:
            with pytest.raises(LimitExceeded):
                await transactor.snapshot(cells)
        else:
            found = await transactor.snapshot([*cells, *cells])  # each counts once
            assert [job for job, state in found.items() if state is not None] == cells[-1:]
            assert len(found) == len(cells)


async def test_a_snapshot_is_of_the_store_and_tells_when_it_cannot_be_had(store: Shaken) -> None:
    async with opened(store) as transactor, opened(store) as other:
        for _ in range(2):
            await transactor.send(COUNTER, Add("a"))
            await other.send(COUNTER, Add("a"))
            found = await transactor.snapshot([counter()])
        assert found == {counter(): Total(4)}
        store.down = True
        with pytest.raises(Unavailable):
            await transactor.snapshot([counter()])


# --- transactional tasks beside other jobs --------------------------------------------------------


async def test_a_transactional_task_loses_no_effect_of_another_job(store: Shaken) -> None:
    """Another job's write waits, with a task to be armed, while the task runs and is undone."""

    def charge(tx: Any, task: Charge) -> Any:
        tx.write(CELL.job("paid"), 1)
        return 7

    async with opened(store, transactional={Charge: charge}) as transactor:

        def body(tx: Any) -> None:
            tx.apply(counter("b"), Ask("b"))
            tx.apply(counter("a"), Ask("a", "charge"))

        await transactor.transact(body)
        assert [row.job for row in await store.tasks()] == [counter("b").id]
        assert await total(transactor, "a") == 7


async def test_what_a_transactional_task_wrote_is_rolled_back_on_err(store: Shaken) -> None:
    def charge(tx: Any, task: Charge) -> Any:
        tx.write(CELL.job("paid"), 1)
        tx.apply(counter("b"), Add("b", 50))
        return Err("Full")

    async with opened(store, transactional={Charge: charge}) as transactor:
        await transactor.send(COUNTER, Add("a"))
        with pytest.raises(ReducerFailed, match="Full"):
            await transactor.send(COUNTER, Ask("a", "charge"))
        assert await transactor.get(CELL.job("paid")) is None
        assert await total(transactor, "b") == 0


@pytest.mark.parametrize("value", [object(), {1: 2}, float("nan")])
async def test_a_transactional_task_that_answers_nonsense_fails_its_transaction(
    store: Shaken, value: Any
) -> None:
    async with opened(store, transactional={Charge: lambda tx, task: value}) as transactor:
        with pytest.raises(StmflowError):
            await transactor.send(COUNTER, Ask("a", "charge"))
        assert await store.jobs() == []


async def test_a_transactional_task_cannot_touch_its_own_job(store: Shaken) -> None:
    for touch in (
        lambda tx, task: tx.apply(counter(), Add("a")),
        lambda tx, task: tx.effect(counter(), perform(Stat(5))),
    ):
        async with opened(store, transactional={Charge: touch}) as transactor:
            with pytest.raises(ReducerFailed):
                await transactor.send(COUNTER, Ask("a", "charge"))


async def test_no_effect_is_given_to_a_job_that_is_not_there(store: Shaken) -> None:
    async with opened(store) as transactor:
        with pytest.raises(ReducerFailed, match="needs a job"):
            await transactor.transact(lambda tx: tx.effect(counter(), perform(Stat(5))))
        assert await store.jobs() == []


# --- waiting --------------------------------------------------------------------------------------


async def test_wait_returns_at_once_where_it_is_so_already(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a", 5))
        head = await transactor.wait(counter(), lambda state: state.total == 5, timeout=SOON)
        assert head.seq == 1


async def test_wait_waits_for_a_job_that_is_not_there_yet(store: Shaken) -> None:
    async with opened(store) as transactor, anyio.create_task_group() as group:
        group.start_soon(lambda: transactor.wait(counter(), lambda state: True, timeout=SOON))
        await anyio.wait_all_tasks_blocked()
        await transactor.send(COUNTER, Add("a"))


async def test_an_error_of_the_question_is_the_waiters_alone(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a"))
        caught: list[str] = []

        async def wait() -> None:
            try:
                await transactor.wait(counter(), lambda state: state.total > 1 and 1 / 0)  # type: ignore[arg-type, return-value]
            except ZeroDivisionError as error:
                caught.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert (await transactor.send(COUNTER, Add("a"))).committed
        assert caught == ["division by zero"]


async def test_a_store_that_is_down_for_a_while_ends_no_waiting(store: Shaken) -> None:
    async with opened(store) as transactor, opened(_Behind(store)) as other:
        await transactor.send(COUNTER, Add("a"))
        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: transactor.wait(counter(), lambda state: state.total == 3, timeout=SOON)
            )
            await anyio.wait_all_tasks_blocked()
            await other.send(COUNTER, Add("a", 2))
            store.down = True
            await anyio.sleep(0.05)
            store.down = False


@pytest.mark.parametrize("round_", range(5))
async def test_no_waiter_misses_a_state_that_two_processes_pass_through(
    store: Shaken, round_: int
) -> None:
    async with opened(store) as left, opened(_Behind(store)) as right:
        await left.send(COUNTER, Add("a"))
        seen: list[int] = []

        async def wait() -> None:
            await left.wait(
                counter(), lambda state: seen.append(state.total) or state.total >= 13, timeout=SOON
            )  # type: ignore[func-returns-value]

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            for n in range(12):
                await (left if (n * 7 + round_) % 3 else right).send(COUNTER, Add("a"))
        assert seen == list(range(1, 14))


# --- parked, redriven, dismissed ------------------------------------------------------------------


async def claimed(transactor: Transactor, store: Shaken) -> Any:
    """The task that was asked for last, in a worker's hands."""
    worker = store.enlist()
    wants = [Want("counter", 1, "Stat", 10)]
    found = await transactor.do(lambda: Claim(worker, wants, 10**15))
    return found[-1]


async def test_a_parked_task_keeps_its_outcome_and_is_redriven_or_dismissed(
    store: Shaken,
) -> None:
    async with opened(store) as transactor:
        for end in ("redrive", "dismiss"):
            await transactor.send(COUNTER, Ask(end, "impossible"))
            task = await claimed(transactor, store)
            answer = await transactor.settle(task.ref, 5)
            assert answer.kind == "parked"
            (row,) = await store.tasks(parked=True)
            assert (row.id, row.outcome is not None) == (task.ref.id, True)
            if end == "dismiss":
                assert (await transactor.dismiss(row.id)).kind == "committed"
            else:
                assert (await transactor.redrive(row.id)).kind == "parked"
                await transactor.send(COUNTER, Ask(end, "ok"))
                assert (await transactor.redrive(row.id)).kind == "committed"
                assert await total(transactor, end) == 5
            assert await store.tasks(parked=True) == []
            assert await store.task(row.id) is None
        assert await total(transactor, "dismiss") == 0


async def test_an_uncaught_failure_is_performed_again_when_redriven(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Ask("a"))
        task = await claimed(transactor, store)
        assert (await transactor.settle(task.ref, Err("Gone"))).kind == "parked"
        assert (await transactor.redrive(task.ref.id)).kind == "redriven"
        again = await claimed(transactor, store)
        assert (again.ref.id, again.attempt) == (task.ref.id, 1)
        assert (await transactor.settle(again.ref, 5)).kind == "committed"


async def test_the_commit_of_a_timer_holds_on_to_its_row(
    store: Shaken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its presence is the token: the store looks for it, whatever else has changed."""
    fired = []
    whole = store.commit

    async def commit(batch: Batch) -> Sequence[Result]:
        fired.extend(member.fires for member in batch.members if isinstance(member, Commit))
        return await whole(batch)

    async with opened(store) as transactor:
        await transactor.send(COUNTER, Sleep("a", 5))
        (due,) = await store.timers(10, 10)
        monkeypatch.setattr(store, "commit", commit)
        assert (await transactor.fire(due)).kind == "committed"
    assert fired == [(due.job, due.n, due.id)]


@pytest.mark.parametrize("end", ["redrive", "dismiss"])
async def test_a_parked_timer_is_redriven_or_dismissed(store: Shaken, end: str) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Add("a", 13))
        await transactor.send(COUNTER, Sleep("a", 5))
        (due,) = await store.timers(10, 10)
        assert (await transactor.fire(due)).kind == "parked"
        assert await store.timers(10, 10) == []
        await transactor.send(COUNTER, Add("a", 1))
        answer = await getattr(transactor, end)(due.id)
        assert answer.kind == "committed"
        assert await store.tasks() == []
        assert await total(transactor) == (1_014 if end == "redrive" else 14)


async def test_only_what_is_parked_is_redriven_or_dismissed(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Ask("a"))
        (row,) = await store.tasks()
        for task in (row.id, CID.of(b"none")):
            with pytest.raises(UnknownTask):
                await transactor.redrive(task)
            with pytest.raises(UnknownTask):
                await transactor.dismiss(str(task))


async def test_of_two_who_redrive_one_task_one_is_told_that_it_is_closed(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Ask("a"))
        task = await claimed(transactor, store)
        await transactor.settle(task.ref, Err("Gone"))
        kinds: list[str] = []

        async def redrive() -> None:
            kinds.append((await transactor.redrive(task.ref.id)).kind)

        async with anyio.create_task_group() as group:
            group.start_soon(redrive)
            group.start_soon(redrive)
        assert sorted(kinds) == ["closed", "redriven"]


async def test_an_error_of_whatever_type_parks_the_task(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Ask("a"))
        task = await claimed(transactor, store)
        broken["tag"] = True
        try:
            assert (await transactor.settle(task.ref, 7)).kind == "parked"
        finally:
            broken["tag"] = False
        assert (await transactor.redrive(task.ref.id)).kind == "committed"


async def test_a_late_outcome_is_fenced_and_a_second_one_closed(store: Shaken) -> None:
    async with opened(store) as transactor:
        await transactor.send(COUNTER, Ask("a"))
        old = await claimed(transactor, store)
        await MemoryStore.commit(store, Batch([_free(old)]))
        new = await claimed(transactor, store)
        assert (await transactor.settle(old.ref, 1)).kind == "fenced"
        assert (await transactor.settle(new.ref, 2)).kind == "committed"
        assert (await transactor.settle(new.ref, 3)).kind == "closed"
        assert (await transactor.settle(old.ref, 4)).kind == "closed"
        assert await total(transactor) == 2


def _free(task: Any) -> Any:
    return Defer(task.ref, 0)


# --- claims at commit -----------------------------------------------------------------------------


class Slots:
    """A worker that counts what it lends."""

    def __init__(self, store: MemoryStore) -> None:
        self.number = store.enlist()
        self.lent: set[Any] = set()
        self.taken: list[Any] = []

    def reserve(self, job: CID, n: int, kind: Any, tenant: str) -> int | None:
        assert (job, n) not in self.lent
        self.lent.add((job, n))
        return self.number

    def release(self, job: CID, n: int) -> None:
        self.lent.remove((job, n))

    def take(self, claimed: Any) -> None:
        self.taken += claimed

    def wake(self, due: int) -> None:
        pass

    def doubt(self) -> None:
        pass


@pytest.mark.parametrize("fates", [["conflict"], ["unavailable"], ["unknown"], ["ok"]], ids=str)
async def test_a_slot_is_lent_exactly_for_what_was_committed(
    store: Shaken, fates: list[str]
) -> None:
    async with opened(store, clock=Hand()) as transactor:
        slots = Slots(store)
        transactor.attach(slots)
        store.fates = list(fates)
        try:
            await transactor.send(COUNTER, Ask("a"))
        except Unavailable:
            assert (slots.lent, slots.taken) == (set(), [])
            return
        assert len(slots.lent) == len(slots.taken) == 1
        (row,) = await store.tasks()
        assert row.worker == slots.number


async def test_a_plan_that_fails_after_slots_were_lent_gives_them_back(store: Shaken) -> None:
    """The value of a transaction cannot be stored: nothing is written, nothing stays lent."""

    def body(tx: Any) -> Any:
        tx.apply(counter(), Ask("a"))
        return object()

    async with opened(store) as transactor:
        slots = Slots(store)
        transactor.attach(slots)
        with pytest.raises(StmflowError):
            await transactor.transact(body, at=counter(), delivery="d")
        assert (slots.lent, await store.jobs()) == (set(), [])


async def test_a_member_that_needs_no_plan_rides_in_a_batch(store: Shaken) -> None:
    async with opened(store) as transactor:
        assert await transactor.do(lambda: Commit()) is None
        answer = await transactor.do(lambda: Redrive(counter().id, 0, CID.of(b"x"), 0))
        assert answer.kind == "closed"
        assert isinstance((await store.commit(Batch([Commit()])))[0], Done)


async def test_counters_say_what_happened(store: Shaken) -> None:
    async with opened(store, clock=Hand()) as transactor:
        store.fates = ["conflict", "unknown, committed", "ok"]
        await transactor.send(COUNTER, Add("a"))
        counters = transactor.counters
        assert (counters["conflicts"], counters["indeterminate"], counters["landed"]) == (1, 1, 1)


class Lender:
    """A worker that counts its slots."""

    def __init__(self) -> None:
        self.held: set[tuple[Any, int]] = set()

    def reserve(self, job: Any, n: int, kind: Any, tenant: str) -> int:
        self.held.add((job, n))
        return 1

    def release(self, job: Any, n: int) -> None:
        self.held.discard((job, n))


def test_planning_again_on_another_thread_touches_no_slot_of_this_one() -> None:
    from stmflow.request import View

    committer: Any = type("C", (), {"tenant": staticmethod(lambda job: "t"), "needs": {}})
    armed: Any = type("A", (), {"n": 3, "kind": ("w", 1, "t")})
    lender: Any = Lender()
    here = View(committer, {}, lambda job: None, lender)
    there = View(committer, {}, lambda job: None, None)
    assert here.place(job("w", "k"), armed) == (armed.kind, "t", 1)
    assert there.place(job("w", "k"), armed) == (armed.kind, "t", None)
    there.give_back()
    assert len(lender.held) == 1
    here.give_back()
    assert not lender.held


def test_an_interpreter_without_assertions_is_refused() -> None:
    code = (
        "from stmflow import Transactor\n"
        "from stmflow.store.memory import MemoryStore\n"
        "Transactor(MemoryStore(), [])"
    )
    ran = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "InvalidWorkflow: python -O" in ran.stderr
