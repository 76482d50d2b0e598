"""Worker processes on PostgreSQL that are killed, paused beyond their lease, and misled by their
clocks: their claims are taken over, and what they still answer is fenced."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import anyio

from stmflow import CID
from stmflow.store.postgres import PostgresStore
from tests.campaign.part import Part, Step, Violation
from tests.crash.postgres_worker import serve, set_clock
from tests.crash.postgres_world import World
from tests.pgservers import PostgresServer, admin

HOUR_MS = 3_600_000
LEASE_S = 0.6
WORKERS = 3
TROUBLES = 6
"""Of one slice."""
SOON = 60.0
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.crash.postgres_worker"])


class Pool:
    """Worker processes, and what goes wrong with them."""

    def __init__(self, dsn: str, folder: Path, chance: Random) -> None:
        self._dsn = dsn
        self._folder = folder
        self._chance = chance
        self._workers: dict[str, BaseProcess] = {}
        self._started = 0
        self.counts: Counter[str] = Counter()

    async def start(self, *, offset_ms: int | None = None, by: str | None = None) -> str:
        """One more; its clock is wrong by up to an hour, and it may go by its own."""
        self._started += 1
        name = f"worker{self._started}"
        if offset_ms is None:
            offset_ms = self._chance.randint(-HOUR_MS, HOUR_MS)
        set_clock(self._folder / f"{name}.clock", offset_ms)
        by = by or self._chance.choice(("server", "server", "server", "own"))
        self.counts[f"workers by the {by} clock"] += 1
        arguments = (self._dsn, self._folder, name, LEASE_S, by)
        worker = self._workers[name] = FORKS.Process(target=serve, args=arguments, daemon=True)
        worker.start()
        with anyio.fail_after(SOON):
            while not (self._folder / f"{name}.log").exists():
                if worker.exitcode is not None:
                    raise Violation(f"a worker ended: {worker.exitcode}")
                await anyio.sleep(0.01)
        return name

    async def trouble(self) -> None:
        """Something happens to one of them."""
        name = self._chance.choice(list(self._workers))
        match self._chance.choice(("kill", "kill", "pause", "jump")):
            case "kill":
                self.kill(name)
                await self.start()
            case "pause":
                self._signal(name, signal.SIGSTOP)
                self.counts["paused"] += 1
                await anyio.sleep(LEASE_S * (0.5 + 2 * self._chance.random()))
                self._signal(name, signal.SIGCONT)
            case "jump":
                offset_ms = self._chance.randint(-HOUR_MS, HOUR_MS)
                set_clock(self._folder / f"{name}.clock", offset_ms)
                self.counts["clocks set"] += 1

    def kill(self, name: str) -> None:
        """SIGKILL."""
        worker = self._workers.pop(name)
        worker.kill()
        worker.join()
        self.counts["kills"] += 1

    def _signal(self, name: str, what: signal.Signals) -> None:
        pid = self._workers[name].pid
        assert pid is not None
        os.kill(pid, what)

    async def heal(self) -> None:
        """All are killed; new ones have one clock that is ahead of all there ever was."""
        self.end()
        for _ in range(2):
            await self.start(offset_ms=3 * HOUR_MS, by="own")

    def end(self) -> None:
        """Kill them all."""
        for name in list(self._workers):
            self.kill(name)

    def enter_into(self, world: World) -> None:
        """What they noted, into the ledger."""
        for log in sorted(self._folder.glob("*.log")):
            for line in log.read_text().splitlines():
                key, job, task, attempt, token = json.loads(line)
                world.enter(CID.parse(key), CID.parse(job), task, log.stem, attempt, token)


def step(server: PostgresServer, number: int, *, troubles: int = TROUBLES) -> Mapping[str, int]:
    """Rich work, performed by processes in trouble."""
    return asyncio.run(_step(server, number, troubles))


async def _step(server: PostgresServer, number: int, troubles: int) -> Mapping[str, int]:
    chance = Random(f"workers {number}")
    database = await server.new_database()
    with tempfile.TemporaryDirectory(prefix="stmflow-workers-") as folder:
        pool = Pool(database, Path(folder), chance)
        world = World(number, lambda: PostgresStore.open(database), works=False)
        world.ledger = partial(pool.enter_into, world)
        try:
            async with world.run(clients=4, then=pool.heal):
                for _ in range(WORKERS):
                    await pool.start()
                for _ in range(troubles):
                    await anyio.sleep(chance.random() * chance.choice((0.1, 0.6)))
                    await pool.trouble()
        finally:
            pool.end()
    name = database.rpartition("/")[2]
    await admin(server.url(), f"DROP DATABASE {name} WITH (FORCE)")
    return pool.counts + world.counts


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    with PostgresServer() as server:
        yield partial(step, server)


PARTS = (Part("workers, PostgreSQL", "P4 P5 P6 P7 P8 P9", "kills", 12, _open),)
