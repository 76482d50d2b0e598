"""Four worker processes, two of them killed again and again, while versions are rolled out.

No effect is lost, the writes of a worker that was paused past its lease are fenced and counted,
each task is performed by a worker of its bucket, and a version that diverges moves no job. The
long forms last ten minutes, or STMFLOW_ROLLOUT_SECONDS.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from examples.rollout import ROLLOUT, Health, Rollout, Spec, Start
from stmflow import Transactor, history
from stmflow.errors import StmflowError, Unavailable
from tests.acceptance.parcels import BUCKETS, PARCELS, PUTS, WORKFLOWS, Send, engine
from tests.project import ROOT

SHORT_SECONDS = 4.0
LONG_SECONDS = float(os.environ.get("STMFLOW_ROLLOUT_SECONDS", "600"))
PATIENCE_SECONDS = 15.0
SETTLE_SECONDS = 60.0
SPEC = Spec(
    base=1,
    version=2,
    canary=3,
    max_parallel=10,
    min_healthy_ms=300,
    progress_ms=60_000,
    health=Health(every_ms=200, samples=1),
    auto_promote=True,
    pause_ms=200,
)
HOME = ROLLOUT.job("parcel")


class Workers:
    """Four processes, two for each bucket; who is killed is started again."""

    def __init__(self, where: str, folder: Path, random: Random) -> None:
        self.where = where
        self.folder = folder
        self.random = random
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.killed = 0

    def start(self, place: int) -> None:
        bucket = BUCKETS[place % len(BUCKETS)]
        command = [sys.executable, "-m", "tests.acceptance.parcels"]
        self.running[place] = subprocess.Popen(
            [*command, self.where, bucket, str(self.folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def ready(self) -> None:
        with anyio.fail_after(SETTLE_SECONDS):
            while len([line for line in self.lines() if "worker" in line]) < len(self.running):
                await anyio.sleep(0.1)

    async def pause(self, transactor: Transactor) -> int:
        """Stop a worker that holds tasks, wherever it is; its place."""
        with anyio.fail_after(SETTLE_SECONDS):
            while True:
                place = self.random.choice(list(self.running))
                self.running[place].send_signal(signal.SIGSTOP)
                if await self.holds(transactor, place):
                    return place
                self.running[place].send_signal(signal.SIGCONT)
                await anyio.sleep(0.05)

    async def holds(self, transactor: Transactor, place: int) -> bool:
        """Whether that process has tasks claimed in the store."""
        pid = str(self.running[place].pid)
        known = {line["worker"] for line in self.lines() if line["pid"] == pid and "worker" in line}
        return any(row.worker in known for row in await transactor.store.tasks())

    async def plague(self, transactor: Transactor, seconds: float) -> None:
        """One worker is paused until its lease is over and others have its tasks; meanwhile two of
        the others are killed, again and again."""
        started = anyio.current_time()
        while anyio.current_time() < started + seconds or not self.refused:
            paused = await self.pause(transactor)
            since = anyio.current_time()
            while await self.holds(transactor, paused):
                await anyio.sleep(self.random.uniform(0.5, 2.5))
                for place in self.random.sample(sorted({*self.running} - {paused}), 2):
                    self.running[place].kill()
                    self.running[place].wait()
                    self.killed += 1
                    self.start(place)
                if anyio.current_time() > since + PATIENCE_SECONDS:
                    break  # it was stopped in the middle of a commit: nobody else can write
                await anyio.sleep(self.random.uniform(2.0, 4.0))
            self.running[paused].send_signal(signal.SIGCONT)
            await anyio.sleep(1.5)

    @property
    def refused(self) -> int:
        """Late writes that were refused, and counted."""
        return self.counted("fenced") + self.counted("closed")

    def stop(self) -> None:
        """Let everybody leave in order; whoever does not is killed."""
        for one in self.running.values():
            one.send_signal(signal.SIGCONT)
            one.terminate()
        for one in self.running.values():
            try:
                one.wait(20)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Everything that workers noted; a line that a kill cut short is left out."""
        found = []
        for file in self.folder.glob("*.log"):
            for line in file.read_text().splitlines():
                with suppress(ValueError):
                    found.append({"pid": file.stem, **json.loads(line)})
        return found

    def counted(self, name: str) -> int:
        """What a scheduler's counter came to, over all processes."""
        last = {line["pid"]: line["counters"] for line in self.lines() if "counters" in line}
        return sum(counters.get(name, 0) for counters in last.values())


@asynccontextmanager
async def service(where: str, folder: Path, seed: int) -> AsyncIterator[tuple[Workers, Transactor]]:
    workers = Workers(where, folder, Random(seed))
    async with engine(where) as transactor:
        try:
            for place in range(4):
                workers.start(place)
            await workers.ready()
            yield workers, transactor
        finally:
            workers.stop()


async def send_parcels(transactor: Transactor, sent: list[str]) -> None:
    """A client: so many parcels are open at a time, and nothing it was told is forgotten."""
    while True:
        rows = await transactor.store.jobs(workflow="parcel", tag="open", limit=100)
        for _ in range(24 - len(rows)):
            name = f"p{len(sent)}"
            sent.append(name)
            bucket = BUCKETS[len(sent) % 2]
            with suppress(Unavailable):  # who was stopped within a commit keeps its locks a while
                await transactor.send(PARCELS[1], Send(name, bucket), delivery=name)
        await anyio.sleep(0.1)


async def roll_out(transactor: Transactor, ended: list[Rollout]) -> None:
    """There and back again, as long as there is time."""
    base = 1
    while True:
        spec = replace(SPEC, base=base, version=3 - base)
        with suppress(StmflowError):
            await transactor.send(ROLLOUT, Start("parcel", spec))
        head = await transactor.wait(HOME, lambda state: state.status == "stable")
        ended.append(head.state)
        base = head.state.stable


async def run(where: str, folder: Path, seconds: float, seed: int = 1) -> None:
    sent: list[str] = []
    ended: list[Rollout] = []
    async with service(where, folder, seed) as (workers, transactor):
        async with anyio.create_task_group() as group:
            group.start_soon(send_parcels, transactor, sent)
            group.start_soon(roll_out, transactor, ended)
            await workers.plague(transactor, seconds)
            with anyio.fail_after(SETTLE_SECONDS):
                while not ended:
                    await anyio.sleep(0.1)
            group.cancel_scope.cancel()
        await stable(transactor, SETTLE_SECONDS + len(sent) / 20)  # a step moves a few of them
        await all_done(transactor, sent)
        await diverging(transactor)
    assert workers.killed >= 2
    assert ended, "no rollout has ended"
    async with engine(where) as transactor:
        await nothing_lost(transactor, workers, sent)
    assert workers.refused, "the paused worker's late writes must be refused, and be seen to be"


async def stable(transactor: Transactor, seconds: float = SETTLE_SECONDS) -> Rollout:
    head = await transactor.wait(HOME, lambda state: state.status == "stable", timeout=seconds)
    state: Rollout = head.state
    return state


async def all_done(transactor: Transactor, sent: list[str]) -> None:
    """Liveness: every parcel that was sent is stored."""
    for name in sent:
        job = PARCELS[0].job(name)
        if (await transactor.get(job)) is not None:  # the last may have been given up
            await transactor.wait(job, lambda state: state.status == "done", timeout=SETTLE_SECONDS)


async def diverging(transactor: Transactor) -> None:
    """Version 3 counts wrong: the replay check finds it, and no job is ever moved to it."""
    before = await stable(transactor)
    await transactor.send(ROLLOUT, Start("parcel", replace(SPEC, base=before.stable, version=3)))
    await transactor.wait(
        HOME, lambda state: state.epoch > before.epoch and state.status == "stable", timeout=60
    )
    state = await stable(transactor)
    assert state.refused is not None
    assert (state.stable, state.refused.name) == (before.stable, "Diverged")
    detail: Any = state.refused.detail
    assert await transactor.store.block(detail["revision"]) is not None


async def nothing_lost(transactor: Transactor, workers: Workers, sent: list[str]) -> None:
    """Every task that was asked for has one receipt and was performed, in its own bucket."""
    performed = {line["task"] for line in workers.lines() if "task" in line}
    assert all(line["put"] == f"put/{line['bucket']}" for line in workers.lines() if "put" in line)
    assert await transactor.store.tasks() == []
    rows = await _rows(transactor)
    assert {row.version for row in rows if row.workflow == "parcel"} <= {1, 2}
    for row in rows:
        stored = (await transactor.store.heads([row.job]))[row.job]
        assert stored is not None
        blocks = history.blocks_of(await transactor.store.revisions(row.job))
        report = history.verify(
            row.job, stored.revision, blocks.get, workflows=WORKFLOWS, stored=stored
        )
        assert (report.status, report.findings) == (history.OK, [])
        if row.workflow == "parcel":
            chain = list(history.walk(row.job, stored.revision, blocks.get))[::-1]
            ledger = history.Ledger(row.job, blocks.get)
            settled = [one.task for each in chain for one in ledger.apply(each).settled]
            assert len(settled) == len(set(settled)) == PUTS
            assert {str(task) for task in settled} <= performed


async def _rows(transactor: Transactor) -> list[Any]:
    found: list[Any] = []
    while True:
        after = found[-1].job if found else None
        page = await transactor.store.jobs(after=after, limit=500)
        found += page
        if len(page) < 500:
            return found


async def test_four_workers_on_sqlite_for_a_short_while(tmp_path: Path) -> None:
    await run(str(tmp_path / "jobs.db"), tmp_path, SHORT_SECONDS)


@pytest.mark.acceptance
async def test_four_workers_on_sqlite(tmp_path: Path) -> None:
    await run(str(tmp_path / "jobs.db"), tmp_path, LONG_SECONDS, seed=2)


@pytest.mark.acceptance
async def test_four_workers_on_postgresql(tmp_path: Path) -> None:
    servers = pytest.importorskip("tests.pgservers", reason="asyncpg is not installed")
    async with AsyncExitStack() as stack:
        try:
            server = stack.enter_context(servers.shared_server())
        except servers.NoServer as error:
            pytest.skip(str(error))
        await run(await server.new_database(), tmp_path, LONG_SECONDS, seed=3)
