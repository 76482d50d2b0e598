"""`retry` and `or_else`: a body that waits for what it has read, and one that tries two ways.

The laws are those of Harris, Marlow, Peyton Jones and Herlihy, "Composable Memory Transactions"
(PPoPP 2005).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import perform
from stmflow.errors import DeadlineExceeded, Indeterminate, ReducerFailed, Stopped
from stmflow.job import Head
from stmflow.store import Batch, Commit, Conflicted, Result, StoredHead
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.transaction import Missing, Retry, Tx
from stmflow.transactor import Transactor
from stmflow.workflow import Registry, Workflow

SOON = 5.0
A, B, OUT = CELL.job("a"), CELL.job("b"), CELL.job("out")


@asynccontextmanager
async def opened(store: Any, *workflows: Workflow, **given: Any) -> AsyncIterator[Transactor]:
    async with Transactor(store, workflows, random=Random(1), **given) as transactor:
        yield transactor


async def put(transactor: Transactor, cell: Any, value: Any) -> None:
    await transactor.transact(lambda tx: tx.write(cell, value).kind)


async def value(transactor: Transactor, cell: Any) -> Any:
    head = await transactor.get(cell)
    return None if head is None else head.state.value


def taken(cell: Any) -> Callable[[Tx], Any]:
    """Take what is in the cell; wait while it is empty."""

    def body(tx: Tx) -> Any:
        found = tx.read(cell)
        if found is None or found.value is None:
            tx.retry()
        tx.write(cell, None)
        return found.value

    return body


def asleep(transactor: Transactor) -> int:
    return len({one for each in transactor._committer._waiting.values() for one in each})


async def until_asleep(transactor: Transactor, count: int = 1) -> None:
    with anyio.fail_after(SOON):
        while asleep(transactor) < count:
            await anyio.sleep(0.001)


# --- waiting --------------------------------------------------------------------------------------


async def test_a_body_that_retries_sleeps_until_what_it_has_read_changes() -> None:
    async with opened(MemoryStore()) as transactor, anyio.create_task_group() as group:
        got: list[Any] = []

        async def take() -> None:
            got.append(await transactor.transact(taken(A), timeout=SOON))

        group.start_soon(take)
        await until_asleep(transactor)
        await put(transactor, B, "another cell")
        assert (got, asleep(transactor)) == ([], 1)
        await put(transactor, A, "now")
        with anyio.fail_after(SOON):
            while not got:
                await anyio.sleep(0.001)
        assert got == ["now"]
        assert await value(transactor, A) is None
        assert (asleep(transactor), transactor.counters["waits"]) == (0, 1)


async def test_what_one_puts_one_takes_however_many_wait() -> None:
    async with opened(MemoryStore()) as transactor:
        got: list[int] = []

        async def take() -> None:
            got.append(await transactor.transact(taken(A), timeout=SOON))

        async def give(number: int) -> None:
            def body(tx: Tx) -> None:
                found = tx.read(A)
                if found is not None and found.value is not None:
                    tx.retry()
                tx.write(A, number)

            await transactor.transact(body, timeout=SOON)

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(take)
                group.start_soon(give, number)
        assert sorted(got) == list(range(40))
        assert asleep(transactor) == 0


async def test_a_neighbour_wakes_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with (
        SQLiteStore.open(path) as store,
        SQLiteStore.open(path) as theirs,
        opened(store) as transactor,
        opened(theirs) as neighbour,
        anyio.create_task_group() as group,
    ):
        got: list[Any] = []

        async def take() -> None:
            got.append(await transactor.transact(taken(A), timeout=SOON))

        group.start_soon(take)
        await until_asleep(transactor)
        await put(neighbour, A, "from afar")
        with anyio.fail_after(SOON):
            while not got:
                await anyio.sleep(0.001)
        assert got == ["from afar"]


async def test_the_callers_deadline_ends_the_sleep_and_leaves_nothing_behind() -> None:
    async with opened(MemoryStore()) as transactor:
        with pytest.raises(DeadlineExceeded, match="did not happen"):
            await transactor.transact(taken(A), timeout=0.02)
        assert transactor._committer._waiting == {}
        await put(transactor, A, 1)
        assert await value(transactor, A) == 1


async def test_a_caller_that_goes_leaves_nothing_behind() -> None:
    async with opened(MemoryStore()) as transactor, anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(_cancel_when_asleep, transactor, scope)
            await transactor.transact(taken(A))
        assert transactor._committer._waiting == {}
        await put(transactor, A, 1)
        assert await value(transactor, A) == 1


async def _cancel_when_asleep(transactor: Transactor, scope: anyio.CancelScope) -> None:
    await until_asleep(transactor)
    scope.cancel()


class Slow(MemoryStore):
    """A memory store whose heads come when they may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = anyio.Event(), anyio.Event()

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        self.asked.set()
        await self.gate.wait()
        return await super().heads(jobs)


async def test_a_caller_that_goes_before_its_body_has_run_leaves_nothing_behind() -> None:
    """Or it would be done whenever it can be, for nobody."""
    store = Slow()
    async with opened(store) as transactor:
        async with anyio.create_task_group() as group:
            group.start_soon(transactor.transact, taken(A))
            await store.asked.wait()
            group.cancel_scope.cancel()
        store.gate.set()
        await put(transactor, A, "kept")
        await put(transactor, B, "after that")
        assert (asleep(transactor), await value(transactor, A)) == (0, "kept")


class Doubtful(MemoryStore):
    """A memory store of which one commit is lost, and nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: Callable[[], Awaitable[None]] | None = None

    async def commit(self, batch: Batch) -> Sequence[Result]:
        if self.lost is not None:
            lost, self.lost = self.lost, None
            await lost()
            raise Indeterminate("the line went dead")
        return await super().commit(batch)


async def test_the_callers_deadline_ends_the_sleep_of_what_may_have_happened() -> None:
    """Another one has taken it meanwhile: so it sleeps, and its first attempt is in doubt."""
    store = Doubtful()
    async with opened(store) as transactor, Transactor(store, [], random=Random(2)) as other:
        await put(transactor, A, "mine?")
        store.lost = lambda: put(other, A, None)
        with anyio.fail_after(SOON), pytest.raises(Indeterminate) as told:
            await transactor.transact(taken(A), at=OUT, delivery="one", timeout=0.3)
        assert told.value.delivery == (OUT.id, b"one")
        assert asleep(transactor) == 0


async def test_leaving_the_transactor_tells_those_that_sleep() -> None:
    told: list[str] = []

    async def take(transactor: Transactor) -> None:
        try:
            await transactor.transact(taken(A))
        except Stopped:
            told.append("stopped")

    async with anyio.create_task_group() as group, opened(MemoryStore()) as transactor:
        group.start_soon(take, transactor)
        await until_asleep(transactor)
    assert told == ["stopped"]


async def test_a_body_that_has_read_nothing_cannot_wait() -> None:
    async with opened(MemoryStore()) as transactor:
        with pytest.raises(ReducerFailed, match="read nothing"):
            await transactor.transact(lambda tx: tx.retry())


class Contested(MemoryStore):
    """Refuses so many commits as conflicts, with nothing changed."""

    def __init__(self, conflicts: int) -> None:
        super().__init__()
        self.conflicts = conflicts

    async def commit(self, batch: Batch) -> Sequence[Result]:
        if self.conflicts and any(isinstance(one, Commit) and one.writes for one in batch.members):
            self.conflicts -= 1
            return [Conflicted([A.id]) for _ in batch.members]
        return await super().commit(batch)


async def test_what_did_not_come_true_is_not_waited_for() -> None:
    """The sleeper has read an overlay; the batch is refused, and committed at the second try."""
    async with opened(Contested(2)) as transactor:
        got: list[Any] = []

        async def take() -> None:
            got.append(await transactor.transact(taken(A), timeout=SOON))

        async with anyio.create_task_group() as group:
            group.start_soon(put, transactor, A, "first")
            group.start_soon(take)
            group.start_soon(take)
            await anyio.sleep(0.05)
            await put(transactor, A, "second")
        assert sorted(got) == ["first", "second"]


async def test_a_deadline_is_kept_while_the_race_is_lost() -> None:
    async with opened(Contested(10**6)) as transactor:
        with pytest.raises(DeadlineExceeded, match="did not happen"):
            await transactor.transact(lambda tx: tx.write(A, 1).kind, timeout=0.1)
        assert await transactor.get(A) is None


@dataclass(frozen=True)
class Go:
    name: str


@dataclass(frozen=True)
class Do:
    name: str


@dataclass(frozen=True)
class Gone:
    name: str


async def test_a_transactional_task_cannot_wait() -> None:
    flow = Workflow(
        "retry/task",
        state=Gone,
        events=(Go,),
        outside=(Go,),
        tasks=(Do,),
        update=lambda event, state: (Gone(event.name), [perform(Do(event.name))]),
        key=("name",),
    )

    def forever(tx: Tx, task: Do) -> None:
        tx.read(A)
        tx.retry()

    async with opened(MemoryStore(), flow, transactional={Do: forever}) as transactor:
        with pytest.raises(ReducerFailed, match="cannot retry"):
            await transactor.send(flow, Go("x"))
        assert await transactor.get(flow.job("x")) is None


async def test_the_second_way_is_gone_with_all_of_the_first_undone() -> None:
    async with opened(MemoryStore()) as transactor:

        def first(tx: Tx) -> str:
            tx.write(B, "half done")
            return str(taken(A)(tx))

        def second(tx: Tx) -> str:
            tx.write(OUT, "instead")
            return "second"

        assert await transactor.transact(lambda tx: tx.or_else(first, second)) == "second"
        assert await transactor.get(B) is None
        assert await value(transactor, OUT) == "instead"
        await put(transactor, A, "there")
        assert await transactor.transact(lambda tx: tx.or_else(first, second)) == "there"
        assert await value(transactor, B) == "half done"


async def test_where_both_ways_wait_either_wakes_it() -> None:
    for cell in (A, B):
        async with opened(MemoryStore()) as transactor, anyio.create_task_group() as group:
            got: list[Any] = []

            async def take(transactor: Transactor = transactor, got: list[Any] = got) -> None:
                either = lambda tx: tx.or_else(taken(A), taken(B))  # noqa: E731
                got.append(await transactor.transact(either, timeout=SOON))

            group.start_soon(take)
            await until_asleep(transactor)
            await put(transactor, cell, "one of them")
            with anyio.fail_after(SOON):
                while not got:
                    await anyio.sleep(0.001)
            assert got == ["one of them"]


# --- laws: on a transaction by itself, over any state ---------------------------------------------

Body = Callable[[Tx], Any]
CELLS = [CELL.job(name) for name in "abc"]


def _write(cell: int, number: int) -> Body:
    return lambda tx: tx.write(CELLS[cell], number).kind


def _when(cell: int, number: int, then: Body) -> Body:
    def body(tx: Tx) -> Any:
        found = tx.read(CELLS[cell])
        if found is None or found.value != number:
            tx.retry()
        return then(tx)

    return body


def _both(first: Body, second: Body) -> Body:
    return lambda tx: (first(tx), second(tx))


def _either(first: Body, second: Body) -> Body:
    return lambda tx: tx.or_else(first, second)


def _never(tx: Tx) -> Any:
    tx.retry()


_CELL, _NUMBER = st.integers(0, 2), st.integers(0, 2)
BODIES: st.SearchStrategy[Body] = st.recursive(
    st.builds(_write, _CELL, _NUMBER) | st.just(_never),
    lambda bodies: (
        st.builds(_when, _CELL, _NUMBER, bodies)
        | st.builds(_both, bodies, bodies)
        | st.builds(_either, bodies, bodies)
    ),
    max_leaves=8,
)
STATES = st.lists(st.none() | _NUMBER, min_size=3, max_size=3)


def ran(body: Body, states: Sequence[int | None]) -> Any:
    """What a body comes to on these cells: its value and what it writes, or that it waits."""
    registry = Registry([CELL])
    heads: dict[Any, Head] = {}
    for cell, number in zip(CELLS, states, strict=True):
        if number is not None:
            tx = Tx(lambda _: None, registry, 0, transactional={})
            tx.write(cell, number)
            (heads[cell.id],) = tx.plan(None, lambda job, armed: ("", None)).heads
    tx = Tx(heads.get, registry, 1, transactional={})
    try:
        value = body(tx)
    except Retry:
        return "waits"
    except Missing as missing:  # pragma: no cover
        raise AssertionError from missing
    written = {each.job.key: each.state.value for each in tx.drafts.values() if each.touched}
    return value, written


@given(BODIES, STATES)
def test_retry_is_the_identity_of_or_else(body: Body, states: list[int | None]) -> None:
    assert ran(_either(_never, body), states) == ran(body, states)
    assert ran(_either(body, _never), states) == ran(body, states)


@given(BODIES, BODIES, BODIES, STATES)
def test_or_else_is_associative(
    one: Body, two: Body, three: Body, states: list[int | None]
) -> None:
    left = _either(_either(one, two), three)
    right = _either(one, _either(two, three))
    assert ran(left, states) == ran(right, states)


@given(BODIES, BODIES, STATES)
def test_a_branch_that_was_rolled_back_leaves_no_trace(
    one: Body, two: Body, states: list[int | None]
) -> None:
    if ran(one, states) == "waits":
        assert ran(_either(one, two), states) == ran(two, states)
    else:
        assert ran(_either(one, two), states) == ran(one, states)


@given(BODIES, BODIES, STATES)
def test_what_follows_is_undone_with_the_branch(
    one: Body, two: Body, states: list[int | None]
) -> None:
    """Writes before `or_else` stay, whichever branch is taken."""
    before = _write(0, 7)
    outer = ran(_both(before, _either(_both(one, _never), two)), states)
    assert outer == ran(_both(before, two), states)
