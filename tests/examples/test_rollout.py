"""A rollout over live jobs: real transactor, real scheduler, real clock with short times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from examples.rollout import (
    POLICIES,
    ROLLOUT,
    Health,
    Promote,
    Revert,
    Rollout,
    Spec,
    Start,
    chooser,
    handlers,
    moving,
)
from scheduler import Context, Limits, Scheduler
from stmflow import Transactor, Workflow, codec, history
from stmflow.store.sqlite import SQLiteStore
from tests.stmflow.versions import ONE, TWO, File2, Grow1, Grow2, Open, Stat, two, update2

SPEC = Spec(
    base=1,
    version=2,
    canary=2,
    max_parallel=3,
    min_healthy_ms=20,
    progress_ms=20_000,
    health=Health(every_ms=10, samples=2),
    pause_ms=20,
)
SOON = 20.0


@dataclass
class World:
    """One process with a rollout's handlers, and what a probe says in it."""

    transactor: Transactor
    store: SQLiteStore
    wrong: list[int]

    async def birth(self, *names: str) -> None:
        for name in names:
            await self.transactor.send(ONE, Open(name))

    async def start(self, spec: Spec = SPEC) -> Any:
        return await self.transactor.send(ROLLOUT, Start("file", spec))

    async def until(self, *statuses: str) -> Rollout:
        head = await self.transactor.wait(
            ROLLOUT.job("file"), lambda state: state.status in statuses, timeout=SOON
        )
        state: Rollout = head.state
        return state

    async def versions(self) -> dict[int, int]:
        """How many jobs are on each version."""
        found: dict[int, int] = {}
        for row in await self.store.jobs(workflow="file"):
            found[row.version] = found.get(row.version, 0) + 1
        return found


@asynccontextmanager
async def world(
    folder: Path, *workflows: Workflow, allow: Any = lambda found: False
) -> AsyncIterator[World]:
    known = workflows or (ONE, TWO)
    wrong: list[int] = [0]

    async def probe(workflow: str, version: int) -> int:
        return wrong[0]

    async def stat(task: Stat, context: Context) -> int:
        return 1

    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(
            store,
            [*known, ROLLOUT],
            chooser=chooser({"file": 1}),
            transactional=moving(known[:1]),
            alarm=lambda text: pytest.fail(text),
        ) as transactor,
        Scheduler(
            transactor,
            {**handlers(transactor, probe=probe, allow=allow), Stat: stat},
            policies=POLICIES,
            limits=Limits(slots=4),
        ),
    ):
        yield World(transactor, store, wrong)


NAMES = tuple("abcdefgh")


async def test_a_version_reaches_every_job_in_steps_and_new_ones_are_born_at_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await w.birth(*NAMES)
        assert (await w.start()).committed
        waiting = await w.until("waiting", "stable")
        assert (waiting.status, waiting.canaries) == ("waiting", 2)
        assert await w.versions() == {1: 6, 2: 2}
        await w.birth("before")
        assert await w.versions() == {1: 7, 2: 2}
        await w.transactor.send(ROLLOUT, Promote("file"))
        await w.birth("after")
        done = await w.until("stable")
        assert (done.stable, done.refused, done.moved) == (2, None, 9)
        assert await w.versions() == {2: 10}
        assert (await w.start()).code == "Base"
    await steps_held(tmp_path)


async def test_with_auto_promote_nobody_is_asked(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.birth(*NAMES)
        await w.start(replace(SPEC, auto_promote=True))
        assert (await w.until("stable")).stable == 2
        assert await w.versions() == {2: 8}
    await steps_held(tmp_path)


def bad(event: Any, state: Any) -> Any:
    """Version 2, with a mistake."""
    if isinstance(event, Grow2):
        return replace(state, octets=state.octets + 2 * event.by), ()
    answer = update2(event, state)
    return (answer, ()) if isinstance(answer, File2) else answer


async def test_a_reducer_that_diverges_is_stopped_before_any_live_job_sees_it(
    tmp_path: Path,
) -> None:
    seen = []

    def watched(event: Any, state: Any) -> Any:
        seen.append(type(state).__name__)
        return bad(event, state)

    async with world(tmp_path, ONE, two(update=watched)) as w:
        await w.birth("a", "b")
        await w.transactor.send(ONE, Grow1("b", 5))
        before = [row.revision for row in await w.store.jobs(workflow="file")]
        await w.start()
        state = await w.until("stable")
        assert state.refused is not None
        assert (state.stable, state.refused.name) == (1, "Diverged")
        detail: Any = state.refused.detail
        assert (detail["job"], detail["seq"]) == (ONE.job("b").id, 2)
        assert detail["revision"] == before[1]
        assert [row.revision for row in await w.store.jobs(workflow="file")] == before
        assert seen != []  # by the check; the live jobs are as they were


async def test_a_divergence_that_is_meant_may_be_rolled_out(tmp_path: Path) -> None:
    async with world(tmp_path, ONE, two(update=bad), allow=lambda found: True) as w:
        await w.birth("a")
        await w.transactor.send(ONE, Grow1("a", 5))
        await w.start(replace(SPEC, auto_promote=True))
        assert (await w.until("stable")).stable == 2
        await w.transactor.send(ONE, Grow1("a", 5))
        head = await w.transactor.get(ONE.job("a"))
        assert head is not None
        assert head.state == File2("a", 15)


async def test_a_sick_canary_goes_back_by_itself_or_halts_for_a_person(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.birth(*NAMES)
        w.wrong[0] = 1
        await w.start(replace(SPEC, auto_revert=True))
        state = await w.until("stable")
        assert (state.stable, state.moved) == (1, 0)
        assert state.refused is not None
        assert state.refused.name == "Unhealthy"
        assert await w.versions() == {1: 8}
        await w.start()
        await w.until("halted")
        assert (await w.start()).code == "Busy"
        await w.transactor.send(ROLLOUT, Revert("file"))
        assert (await w.until("stable")).stable == 1
        assert await w.versions() == {1: 8}
    await steps_held(tmp_path)


async def test_a_person_may_promote_what_is_halted(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.birth(*NAMES)
        w.wrong[0] = 1
        await w.start()
        await w.until("halted")
        w.wrong[0] = 0
        await w.transactor.send(ROLLOUT, Promote("file"))
        assert (await w.until("stable")).stable == 2


async def test_a_canary_that_finds_no_job_waits_and_goes_back_at_its_deadline(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await w.start(replace(SPEC, progress_ms=300))
        state = await w.until("stable")
        assert state.refused is not None
        assert state.refused.name == "Late"


async def test_jobs_born_in_a_rollout_that_goes_back_go_back_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.birth(*NAMES)
        await w.start(replace(SPEC, min_healthy_ms=10_000, progress_ms=20_000))
        await w.until("canary")
        await w.transactor.send(ROLLOUT, Promote("file"))
        await w.birth("new")
        assert (await w.versions())[2] >= 1
        await w.transactor.send(ROLLOUT, Revert("file"))
        await w.until("stable")
        assert await w.versions() == {1: 9}


async def test_a_version_without_a_way_back_is_drained_not_lost(tmp_path: Path) -> None:
    """Without a downcast nothing can go back: the revert waits, and the jobs go on."""
    async with world(tmp_path, ONE, two(downcasts={})) as w:
        await w.birth("a", "b")
        await w.start()
        await w.until("waiting")
        await w.transactor.send(ROLLOUT, Revert("file"))
        with anyio.move_on_after(0.3):
            await w.until("stable")
        state = await w.until("reverting")
        assert (state.moved, await w.versions()) == (2, {2: 2})
        await w.transactor.send(TWO, Grow2("a", 1))
        head = await w.transactor.get(TWO.job("a"))
        assert head is not None
        assert head.state == File2("a", 1)


async def steps_held(folder: Path) -> None:
    """N4 from the blocks alone: before the promotion at most `canary` jobs were moved, and each
    revision that moved jobs is the one that counted them."""
    async with SQLiteStore.open(folder / "jobs.db") as store:
        job = ROLLOUT.job("file").id
        blocks = history.blocks_of(await store.revisions(job))
        chain = list(history.walk(job, await _head(store, job), blocks.get))[::-1]
        for revision in chain:
            line = revision.line(job)
            state = ROLLOUT.state_of(codec.decode(blocks[line.state]))
            moved = [other for other in revision.writes if other.workflow == "file"]
            assert all(other.bare for other in moved)
            if state.status in ("checking", "stable"):
                assert moved == []
            elif state.status == "canary":
                assert state.canaries <= state.spec.canary
                assert len(moved) <= state.spec.canary
            else:
                assert len(moved) <= state.spec.max_parallel
        workflows = (ONE, TWO, ROLLOUT)
        for row in await store.jobs():
            stored = (await store.heads([row.job]))[row.job]
            found = history.blocks_of(await store.revisions(row.job))
            report = history.verify(row.job, row.revision, found.get, workflows=workflows)
            assert stored is not None
            assert report.findings == []


async def _head(store: SQLiteStore, job: Any) -> Any:
    stored = (await store.heads([job]))[job]
    assert stored is not None
    return stored.revision
