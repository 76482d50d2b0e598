"""A chart in a real store: it runs, its history verifies, its deadlines outlive restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from examples.statecharts import fetch
from examples.statecharts.auth import AUTH, LogIn
from examples.statecharts.fetch import FETCH
from scheduler import Failure, Retry, Scheduler
from stmflow import Transactor, history
from stmflow.store.sqlite import SQLiteStore

pytestmark = pytest.mark.anyio

BEGIN, LIMIT_MS = 1_000_000, 30_000
SESSION = AUTH.workflow.job("ann")


class SetClock:
    """A clock that shows what it was set to."""

    def __init__(self, at: int) -> None:
        self.at = at

    def now(self) -> int:
        return self.at

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep_forever()


@asynccontextmanager
async def opened(path: Path, at: int) -> AsyncIterator[Transactor]:
    """The store as a new process finds it at that time."""
    async with (
        SQLiteStore.open(path) as store,
        Transactor(store, [AUTH.workflow], clock=SetClock(at)) as transactor,
    ):
        yield transactor


async def due(transactor: Transactor, at: int) -> list[int]:
    return [timer.due for timer in await transactor.store.timers(at, 10)]


@pytest.mark.parametrize(("late", "leaf"), [(-1, "authenticating"), (0, "idle"), (1, "idle")])
async def test_a_restart_keeps_the_deadline(tmp_path: Path, late: int, leaf: str) -> None:
    path, deadline = tmp_path / "jobs.db", BEGIN + LIMIT_MS
    async with opened(path, BEGIN) as transactor:
        await transactor.send(AUTH.workflow, LogIn("ann"))
    async with opened(path, BEGIN + 20_000) as transactor:
        answer = await transactor.send(AUTH.workflow, LogIn("ann"))
        assert answer.kind == "no change"
        assert await transactor.store.next_timer() == deadline
    async with opened(path, deadline + late) as transactor:
        for timer in await transactor.store.timers(deadline + late, 10):
            await transactor.fire(timer)
        head = await transactor.get(SESSION)
        assert head is not None
        assert head.state.active == (leaf,)


async def test_every_revision_restores_to_the_deadline_that_it_had(tmp_path: Path) -> None:
    """From the blocks alone: three tries, each with a deadline of its own."""
    expected: list[list[int]] = []
    async with opened(tmp_path / "jobs.db", BEGIN) as transactor:
        store, clock = transactor.store, transactor.clock
        for _ in range(2):
            await transactor.send(AUTH.workflow, LogIn("ann"))
            (timer,) = await store.timers(10**15, 10)
            expected.append([timer.due])
            clock.at = timer.due + 5  # type: ignore[attr-defined]
            await transactor.fire(timer)
            expected.append([])
        packs = await store.revisions(SESSION.id, limit=100)
    blocks: Any = history.blocks_of(packs)
    restored = []
    for pack in reversed(packs):
        report = history.verify(SESSION.id, pack.cid, blocks.__getitem__, workflows=[AUTH.workflow])
        assert report.findings == []
        assert report.made is not None
        restored.append([row.due for row in report.made.rows.values() if row.due is not None])
    assert restored == expected
    assert [BEGIN + LIMIT_MS] in expected


async def test_a_chart_runs_on_the_whole_engine_and_its_history_verifies(tmp_path: Path) -> None:
    tries: list[str] = []

    async def load(task: Any, context: Any) -> str:
        tries.append(task.url)
        if len(tries) == 1:
            raise Failure("Broken", retry=Retry.FATAL)
        return "text"

    async with (
        SQLiteStore.open(tmp_path / "jobs.db") as store,
        Transactor(store, [FETCH.workflow], pure=True) as transactor,
        Scheduler(transactor, {fetch.Load: load}),
    ):
        job = FETCH.workflow.job("u")
        await transactor.send(FETCH.workflow, fetch.Fetch("u"))
        await transactor.wait(job, lambda state: state.active == ("error",), timeout=30)
        await transactor.send(FETCH.workflow, fetch.Retry("u"))
        await transactor.wait(job, lambda state: state.active == ("success",), timeout=30)
        packs = await store.revisions(job.id, limit=100)
        (stored,) = (await store.heads([job.id])).values()
        rows = await store.tasks(job=job.id)
    blocks: Any = history.blocks_of(packs)
    report = history.verify(
        job.id,
        packs[0].cid,
        blocks.__getitem__,
        workflows=[FETCH.workflow],
        stored=stored,
        rows=rows,
    )
    assert report.findings == []
    assert report.rerun == len(packs)
