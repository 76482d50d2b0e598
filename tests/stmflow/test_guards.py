"""Guards that read other jobs: what they see, and that no answer rests on what has gone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stmflow import CELL, Guard, Transactor, Tx, Workflow
from stmflow.cell import Cell
from stmflow.errors import ReducerFailed
from stmflow.store import Batch, Result, Store
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing import Trace


@dataclass(frozen=True)
class Ring:
    house: str


@dataclass(frozen=True)
class Bell:
    rung: int = 0


NIGHT = CELL.job("night")


def asleep(event: Any, state: Any, read: Any) -> str | None:
    night = read(NIGHT)
    return "Night" if night is not None and night.value else None


def bell(*guards: Guard) -> Workflow:
    return Workflow(
        "bell",
        state=Bell,
        events=(Ring,),
        outside=(Ring,),
        key=("house",),
        update=lambda event, state: (Bell((state or Bell()).rung + 1), []),
        pre=guards or (Guard("asleep", asleep),),
    )


def dark(tx: Tx) -> None:
    tx.write(NIGHT, True)


def test_a_guard_sees_other_jobs() -> None:
    job = Trace(bell()).send(Ring("h"))
    assert job.state == Bell(1)
    job.transact(dark)
    assert job.send(Ring("h")).refused == "Night"
    assert job.answer.detail == {"guard": "asleep"}
    assert job.state == Bell(1)


def test_a_guard_sees_what_its_own_transaction_has_written() -> None:
    job = Trace(bell()).send(Ring("h"))

    def both(tx: Tx) -> str:
        dark(tx)
        return tx.apply(bell().job("h"), Ring("h")).kind

    assert job.transact(both) == "rejected"


@pytest.mark.parametrize("answer", [True, False, 0, ("Night",)])
def test_an_answer_that_is_no_text_is_an_error_and_no_veto(answer: Any) -> None:
    with pytest.raises(ReducerFailed, match="guard odd raised TypeError"):
        Trace(bell(Guard("odd", lambda event, state: answer))).send(Ring("h"))


class Watched(MemoryStore):
    """Remembers every batch, and can let something happen just before the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    async def commit(self, batch: Batch) -> Sequence[Result]:
        self.batches.append(batch)
        return await super().commit(batch)


@pytest.mark.parametrize("kind", ["committed", "rejected"])
async def test_what_a_guard_has_read_is_compared_for_its_veto_as_for_the_event(kind: str) -> None:
    store = Watched()
    async with Transactor(store, [bell()]) as db:
        await db.transact(lambda tx: tx.write(NIGHT, kind == "rejected"))
        answer = await db.send(bell().job("h"), Ring("h"), delivery="x")
        assert answer.kind == kind
        reads = [job for commit in store.batches[-1].members for job, _ in commit.reads]
        assert NIGHT.id in reads


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_veto_that_has_gone_stale_is_judged_again(kind: str, tmp_path: Path) -> None:
    """Two processes on one store: day breaks between the look of one and its commit."""
    async with AsyncExitStack() as stack:
        one, other = await two(stack, kind, tmp_path / "jobs.db")
        await one.send(bell().job("h"), Ring("h"))
        await other.transact(dark)
        assert (await one.send(bell().job("h"), Ring("h"))).code == "Night"
        await other.transact(lambda tx: tx.write(NIGHT, False))
        assert (await one.send(bell().job("h"), Ring("h"))).kind == "committed"


async def two(stack: AsyncExitStack, kind: str, path: Path) -> tuple[Transactor, Transactor]:
    """Two transactors, each with heads of its own, on one store."""
    shared = MemoryStore()
    made = []
    for _ in range(2):
        store: Store = shared
        if kind == "sqlite":
            store = await stack.enter_async_context(SQLiteStore.open(path))
        made.append(await stack.enter_async_context(Transactor(store, [bell()])))
    return made[0], made[1]


def test_a_guard_may_take_two_arguments_or_three() -> None:
    two = Guard("two", lambda event, state: None)
    assert (two.reads, Guard("three", asleep).reads) == (False, True)
    nobody: Any = lambda job: pytest.fail("it does not read")  # noqa: E731
    assert two.judge(Ring("h"), None, nobody) is None
    assert Guard("three", asleep).judge(Ring("h"), None, {NIGHT: Cell(True)}.get) == "Night"
