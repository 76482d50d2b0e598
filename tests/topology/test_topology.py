"""Hosts on one PostgreSQL: killed, cut off, their server too. Every task is settled once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from click.testing import CliRunner

from stmflow import Transactor
from stmflow.cli import cli
from stmflow.errors import ConflictsExhausted, Indeterminate, Unavailable
from stmflow.store.postgres import PostgresStore
from tests.pgservers import NoServer, PostgresServer
from tests.project import ROOT
from tests.topology.host import TRIP, WORKFLOWS, Go
from tests.topology.line import Line

LEASE_S = 5.0
SOON = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    try:
        with PostgresServer() as found:
            yield found
    except NoServer as error:
        pytest.skip(str(error))


class World:
    """The database, hosts with a line each, and a client on a line that is never cut."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.lines: dict[str, Line] = {}
        self.hosts: dict[str, subprocess.Popen[bytes]] = {}
        self.sent: dict[str, int] = {}
        self._lives: Counter[str] = Counter()
        self._stack = AsyncExitStack()

    async def add(self, name: str) -> None:
        """A host with a line of its own."""
        self.lines[name] = await self._stack.enter_async_context(Line(self.url))
        self.start(name)

    def start(self, name: str) -> None:
        """Start its process, again after a kill."""
        self._lives[name] += 1
        life = f"{name}{self._lives[name]}"
        arguments = [life, self.lines[name].url, str(self.folder), str(LEASE_S)]
        self.hosts[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.topology.host", *arguments], cwd=ROOT
        )

    def life(self, name: str) -> str:
        """What that host is called in the folder."""
        return f"{name}{self._lives[name]}"

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.hosts[name].kill()
        self.hosts[name].wait()

    async def send(self, engine: Transactor, name: str, steps: int, **options: Any) -> None:
        """Begin a job, until it is acknowledged."""
        while True:
            try:
                await engine.send(TRIP, Go(name, steps, **options), delivery=name)
                break
            except (Unavailable, Indeterminate, ConflictsExhausted):
                await anyio.sleep(0.05)
        self.sent[name] = steps

    def notes(self, word: str) -> Counter[str]:
        """The tasks of which any host has noted this."""
        found: Counter[str] = Counter()
        for log in self.folder.glob("*.log"):
            lines = [line.split() for line in log.read_text().splitlines()]
            found.update(task for noted, task, _ in lines if noted == word)
        return found

    def counters(self, name: str) -> dict[str, dict[str, int]]:
        """What that host has counted."""
        with suppress(OSError):
            found: dict[str, dict[str, int]] = json.loads(
                (self.folder / f"{self.life(name)}.json").read_text()
            )
            return found
        return {"engine": {}, "scheduler": {}}

    async def leave(self) -> None:
        (self.folder / "leave").touch()
        for line in self.lines.values():
            line.heal()
        for host in self.hosts.values():
            with suppress(subprocess.TimeoutExpired):
                await anyio.to_thread.run_sync(lambda host=host: host.wait(20))
            host.kill()
            host.wait()
        await self._stack.aclose()


@asynccontextmanager
async def world(server: PostgresServer, folder: Path) -> AsyncIterator[tuple[World, Transactor]]:
    made = World(await server.new_database(), folder)
    async with (
        PostgresStore.open(made.url) as store,
        Transactor(store, WORKFLOWS, clock=store.clock) as engine,
    ):
        try:
            yield made, engine
        finally:
            await made.leave()


async def eventually(ready: Callable[[], Any]) -> None:
    with anyio.fail_after(SOON):
        while not ready():
            await anyio.sleep(0.02)


async def arrived(made: World, engine: Transactor) -> None:
    """Every job acknowledged is at its end, each step settled once, and the history holds."""
    for name, steps in made.sent.items():
        head = await engine.wait(TRIP.job(name), lambda t: t.status == "there", timeout=SOON)
        assert head.seq == 1 + steps
    assert await engine.store.tasks() == []
    assert len(await engine.store.jobs(limit=10_000)) == len(made.sent)
    ended = made.notes("end")
    receipts = sum(made.sent.values())
    assert len(ended) == receipts, "every settled task was performed, and no other"
    options = ["--database", made.url, "--app", "tests.topology.host:WORKFLOWS"]
    result = await anyio.to_thread.run_sync(
        lambda: CliRunner().invoke(cli, [*options, "verify", "--all"])
    )
    assert result.exit_code == 0, result.output


async def test_two_hosts_through_a_kill_a_cut_and_a_restart(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with world(server, tmp_path) as (made, engine):
        await made.add("east")
        await made.send(engine, "held", 2, holds=True)
        await eventually(lambda: made.notes("hold"))
        await made.add("west")
        for n in range(12):
            await made.send(engine, f"a{n}", 3)
        await eventually(lambda: len(made.notes("end")) > 12)

        # East is cut off while it performs: its lock is free, west takes its claims over.
        await made.lines["east"].cut()
        await eventually(lambda: sum(made.notes("hold").values()) == 2)
        made.lines["east"].heal()
        (tmp_path / f"{made.life('east')}.go").touch()
        await eventually(lambda: made.counters("east")["scheduler"].get("fenced"))
        assert made.counters("east")["engine"]["fenced"] >= 1  # with it, what else it held
        (tmp_path / f"{made.life('west')}.go").touch()

        made.kill("east")
        made.start("east")
        server.kill()
        await anyio.to_thread.run_sync(server.start)
        for n in range(6):
            await made.send(engine, f"b{n}", 3)
        await arrived(made, engine)


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", range(3))
async def test_three_hosts_through_everything_at_random(
    server: PostgresServer, tmp_path: Path, seed: int
) -> None:
    chance = Random(seed)
    async with world(server, tmp_path) as (made, engine):
        names = ("east", "west", "north")
        for name in names:
            await made.add(name)
        stop = anyio.Event()

        async def send(lane: int) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                await made.send(engine, f"{lane} {n}", 1 + n % 4)
                await anyio.sleep(chance.random() / 10)

        async def trouble() -> None:
            for _ in range(12):
                await anyio.sleep(chance.random())
                name = chance.choice(names)
                line = made.lines[name]
                match chance.choice(["kill", "cut", "cut", "stall", "half", "server"]):
                    case "kill":
                        made.kill(name)
                        await anyio.sleep(chance.random())
                        made.start(name)
                    case "cut":
                        await line.cut()
                        await anyio.sleep(chance.random() * 3)
                    case "stall":
                        line.stall()
                        await anyio.sleep(LEASE_S + 4)
                    case "half":
                        line.half()
                        await anyio.sleep(LEASE_S + 4)
                    case "server":
                        server.kill()
                        await anyio.sleep(chance.random())
                        await anyio.to_thread.run_sync(server.start)
                line.heal()
            stop.set()

        async with anyio.create_task_group() as group:
            for lane in range(4):
                group.start_soon(send, lane)
            group.start_soon(trouble)
        for name in names:  # one that found no server when it began has left
            if made.hosts[name].poll() is not None:
                made.start(name)
        await arrived(made, engine)
        repeated = made.notes("end").total() - len(made.notes("end"))
        print(f"{len(made.sent)} jobs, {repeated} tasks done twice")


@pytest.mark.acceptance
async def test_a_host_that_is_silent_for_longer_than_its_lease_is_fenced(
    server: PostgresServer, tmp_path: Path
) -> None:
    """Its session is still there, and its lock with it: time decides."""
    async with world(server, tmp_path) as (made, engine):
        await made.add("east")
        await made.send(engine, "held", 1, holds=True)
        await eventually(lambda: made.notes("hold"))
        await made.add("west")
        made.lines["east"].stall()
        (tmp_path / f"{made.life('east')}.go").touch()
        await eventually(lambda: sum(made.notes("hold").values()) == 2)
        made.lines["east"].heal()
        await eventually(lambda: made.counters("east")["scheduler"].get("fenced"))
        (tmp_path / f"{made.life('west')}.go").touch()
        await arrived(made, engine)
