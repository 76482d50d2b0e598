"""W3: 10,000 sleeping jobs: what they cost while they sleep, and how late they wake."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks.child import measure
from benchmarks.load import middle, percentile
from benchmarks.workloads import Rest, Sleeper, sleeper
from scheduler import Scheduler
from stmflow import CID, Transactor
from stmflow.store.sqlite import SQLiteStore

SLEEPERS = 10_000
CLIENTS = 64
SPREAD_MS = 10_000
"""The deadlines lie this far apart in all: 1,000 a second."""
FAR_MS = 24 * 3_600_000


async def idle(folder: Path, *, seconds: float, sleepers: int = SLEEPERS) -> dict[str, float]:
    """The CPU that a process with this many sleeping jobs uses, in percent of one core."""
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [sleeper]) as transactor,
        Scheduler(transactor, {}),
    ):
        made_s = await _lay_down(transactor, [FAR_MS] * sleepers)
        await anyio.sleep(0.5)
        began, cpu = time.perf_counter(), time.process_time()
        await anyio.sleep(seconds)
        used = (time.process_time() - cpu) / (time.perf_counter() - began)
        assert await store.next_timer() is not None
        return {"idle_cpu_pct": 100 * used, "made_s": made_s}


async def wake(folder: Path, *, lead_ms: int, sleepers: int = SLEEPERS) -> dict[str, float]:
    """Lateness: from a job's deadline until its woken state is published, by the wall clock.

    Args:
        lead_ms: how long it may take to lay all of them down before the first one wakes; where
            that is too short, `too_short` is all that comes back.
    """
    woken: dict[CID, float] = {}
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [sleeper]) as transactor,
        Scheduler(transactor, {}),
    ):
        first = transactor.clock.now() + lead_ms
        made_s = await _lay_down(
            transactor, [first + number * SPREAD_MS // sleepers for number in range(sleepers)]
        )
        deadlines = {t.job: t.due for t in await store.timers(2**62, sleepers + 1)}
        if len(deadlines) < sleepers:
            return {"too_short": lead_ms}

        async def watch(job: CID) -> None:
            def seen(state: Sleeper) -> bool:
                if state.awake:
                    woken[job] = time.time() * 1_000
                return state.awake

            await transactor.wait(job, seen)

        async with anyio.create_task_group() as group:
            for job in deadlines:
                group.start_soon(watch, job)
            await anyio.sleep(0)
            looking_since = transactor.clock.now()
    if looking_since > first:
        return {"too_short": lead_ms}
    late = [woken[job] - due for job, due in deadlines.items()]
    return {
        "late_p50_ms": percentile(late, 0.50),
        "late_p99_ms": percentile(late, 0.99),
        "late_max_ms": max(late),
        "early": sum(one < 0 for one in late),
        "made_s": made_s,
    }


async def _lay_down(transactor: Transactor, whens: list[int]) -> float:
    """One sleeping job for each of these: how long it sleeps in milliseconds, or until when.

    Returns:
        how many seconds that took.
    """
    numbered = iter(enumerate(whens))
    began = time.perf_counter()

    async def client() -> None:
        for number, when in numbered:
            for_ms = when if when <= FAR_MS else when - transactor.clock.now()
            answer = await transactor.send(sleeper, Rest(f"sleeper {number}", for_ms))
            assert answer.committed

    async with anyio.create_task_group() as group:
        for _ in range(CLIENTS):
            group.start_soon(client)
    return time.perf_counter() - began


def _woken(lead_ms: int) -> dict[str, Any]:
    for _ in range(3):
        found = measure("w3:wake", lead_ms=lead_ms)
        if "too_short" not in found:
            return found
        lead_ms *= 2
    raise RuntimeError(f"{SLEEPERS} jobs could not be laid down within {lead_ms / 2_000:.0f} s")


def report(*, rounds: int, seconds: float) -> dict[str, Any]:
    """Idle, then waking, in processes of their own; as often as there are rounds."""
    resting, waking = [], []
    for _ in range(rounds):
        resting.append(measure("w3:idle", seconds=max(seconds, 5.0)))
        waking.append(_woken(lead_ms=int(resting[-1]["made_s"] * 1_500) + 2_000))
    return {
        "late_p50_ms": middle(waking, "late_p50_ms"),
        "late_p99_ms": middle(waking, "late_p99_ms"),
        "late_max_ms": middle(waking, "late_max_ms"),
        "early": sum(one["early"] for one in waking),
        "idle_cpu_pct": middle(resting, "idle_cpu_pct"),
        "jobs_made_s": SLEEPERS / middle(resting, "made_s"),
    }
