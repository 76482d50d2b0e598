"""The workloads W1 to W4, the same for every peer; each runs in a process of its own.

They differ from those of `benchmarks` where a peer could not be asked the same: there are fewer
sleepers, every count is taken from the peer's own database, and CPU is that of all processes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from benchmarks.load import drive, percentile
from benchmarks.peers.peer import STEPS, Opener, Peer, Place
from benchmarks.peers.processes import cpu_seconds

HOT_CLIENTS = 64
SLEEPERS = 1_000
SPREAD_SECONDS = 10.0
"""The deadlines lie this far apart in all: 100 a second."""
DAY_SECONDS = 24 * 3_600.0
JOBS = 1_000
PATIENCE_SECONDS = 180


async def w1(opened: Opener, place: Place, *, seconds: float, servers: list[int]) -> dict[str, Any]:
    """Jobs of three steps, each client waits for the end of its own."""
    async with opened(place) as peer:

        async def job(_: int, number: int) -> None:
            await peer.job(number)

        found: dict[str, Any] = await drive(
            job,
            clients=place.clients,
            seconds=seconds,
            least=place.clients,
            cpu_seconds=_cpu(servers),
        )
        ended = await _settled(peer.jobs_ended, found["done"])
        steps = await peer.steps_recorded()
    exact = ended == found["done"] and steps == len(STEPS) * ended
    return {**found, "ended": ended, "steps": steps, "exact": exact}


async def w2(
    opened: Opener, place: Place, *, seconds: float, servers: list[int], shared: bool
) -> dict[str, Any]:
    """Increments of one count, or of one count for each client."""
    async with opened(place) as peer:

        async def increment(client: int, _: int) -> None:
            await peer.increment("shared" if shared else f"own {client}")

        found: dict[str, Any] = await drive(
            increment,
            clients=HOT_CLIENTS,
            seconds=seconds,
            least=HOT_CLIENTS,
            cpu_seconds=_cpu(servers),
        )
        counted = await peer.counted()
    return {**found, "counted": counted, "exact": counted == found["done"]}


async def idle(
    opened: Opener, place: Place, *, seconds: float, servers: list[int], sleepers: int = SLEEPERS
) -> dict[str, float]:
    """CPU in percent of one core while so many jobs sleep for a day."""
    used = _cpu(servers)
    async with opened(place) as peer:
        made_s = await _lay_down(peer, [time.time() + DAY_SECONDS] * sleepers)
        asleep = await _settled(peer.asleep, sleepers)
        await anyio.sleep(1)
        began, cpu = time.perf_counter(), used()
        await anyio.sleep(seconds)
        share = (used() - cpu) / (time.perf_counter() - began)
    return {"idle_cpu_pct": 100 * share, "made_s": made_s, "asleep": asleep}


async def wake(
    opened: Opener,
    place: Place,
    *,
    lead_seconds: float,
    servers: list[int],
    sleepers: int = SLEEPERS,
) -> dict[str, float]:
    """Lateness: from a job's deadline until its end is on record, both by this machine's clock.

    Args:
        lead_seconds: how long it may take to lay all of them down before the first one wakes;
            where that is too short, `too_short` is all that comes back.
    """
    async with opened(place) as peer:
        first = time.time() + lead_seconds
        deadlines = [first + number * SPREAD_SECONDS / sleepers for number in range(sleepers)]
        await _lay_down(peer, deadlines)
        if time.time() > first:
            return {"too_short": lead_seconds}
        await anyio.sleep(deadlines[-1] - time.time())
        woken: dict[int, float] = {}
        with anyio.move_on_after(PATIENCE_SECONDS):
            while len(woken := await peer.woken()) < sleepers:
                await anyio.sleep(0.2)
    late = [1_000 * (at - deadlines[number]) for number, at in woken.items()]
    return {
        "late_p50_ms": percentile(late, 0.50),
        "late_p99_ms": percentile(late, 0.99),
        "late_max_ms": max(late),
        "early": sum(one < -1 for one in late),  # some record whole milliseconds
        "never": sleepers - len(woken),
    }


async def flood(opened: Opener, place: Place) -> None:
    """The process that is killed: 1,000 jobs are acknowledged, then their handlers may begin."""
    async with opened(place) as peer:
        await _by(HOT_CLIENTS, range(JOBS), peer.begin)
        (place.folder / "gate").touch()
        print("ready", flush=True)
        await anyio.sleep(PATIENCE_SECONDS)


async def recover(opened: Opener, place: Place) -> dict[str, Any]:
    """The next process: from opening the peer until all jobs are at their end; what went wrong."""
    began = time.perf_counter()
    async with opened(place) as peer:
        ready = time.perf_counter()
        before = await peer.jobs_ended()
        ended = await _settled(peer.jobs_ended, JOBS)
        recovered = time.perf_counter()
        steps = await peer.steps_recorded()
    begun, done = _read_log(place.folder)
    undone = sum(done[number, step] == 0 for number in range(JOBS) for step in STEPS)
    return {
        "recover_s": recovered - began,
        "opened_s": ready - began,
        "in_flight": JOBS - before,
        "lost": JOBS - ended + undone,
        "unrecorded": len(STEPS) * ended - steps,
        "repeated": sum(times > 1 for times in done.values()),
        "begun_again": sum(times > 1 for times in begun.values()),
    }


def _cpu(servers: list[int]) -> Callable[[], float]:
    roots = [os.getpid(), *servers]
    return lambda: cpu_seconds(roots)


async def _lay_down(peer: Peer, whens: list[float]) -> float:
    began = time.perf_counter()

    async def rest(numbered: tuple[int, float]) -> None:
        await peer.rest(*numbered)

    await _by(HOT_CLIENTS, enumerate(whens), rest)
    return time.perf_counter() - began


async def _by(clients: int, items: Any, act: Callable[[Any], Any]) -> None:
    """Do this with every item, so many at a time."""
    waiting = iter(items)

    async def client() -> None:
        for item in waiting:
            await act(item)

    async with anyio.create_task_group() as group:
        for _ in range(clients):
            group.start_soon(client)


async def _settled(count: Callable[[], Any], wanted: int) -> int:
    """The count when it is as wanted, or what it is when patience ends."""
    found = 0
    with anyio.move_on_after(PATIENCE_SECONDS):
        while (found := await count()) < wanted:
            await anyio.sleep(0.02)
    return found


def _read_log(folder: Path) -> tuple[Counter[tuple[int, str]], Counter[tuple[int, str]]]:
    begun: Counter[tuple[int, str]] = Counter()
    done: Counter[tuple[int, str]] = Counter()
    for line in (folder / "performed.log").read_text().splitlines():
        what, number, step = line.split()
        (begun if what == "begun" else done)[int(number), step] += 1
    return begun, done
