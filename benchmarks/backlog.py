"""Start-up with a backlog: how soon a new process takes new work while it works off the old.

The backlog is real: half of it W1 jobs whose first task is due, half sleepers whose deadline has
passed, laid down by a process that performed nothing. *Ready* is when the first new W1 job, sent by
the new process, has been accepted and has come to its end; it counts from the start of the
process, imports included.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks.child import measure, scratch
from benchmarks.load import percentile
from benchmarks.memory import resident_mib
from benchmarks.w1 import add, ended
from benchmarks.workloads import HANDLERS, Rest, short_add, sleeper
from scheduler import Limits, Scheduler
from stmflow import Transactor
from stmflow.store.sqlite import SQLiteStore

CLIENTS = 256
NEW = 10**9
"""Numbers of the new jobs begin here."""


async def lay(folder: Path, *, jobs: int) -> dict[str, float]:
    """A database with this many open jobs, nobody having performed anything."""
    began = time.perf_counter()
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [short_add, sleeper]) as transactor,
    ):
        numbers = iter(range(jobs))

        async def client() -> None:
            for number in numbers:
                if number % 2:
                    await transactor.send(sleeper, Rest(f"sleeper {number}", 1))
                else:
                    await transactor.send(short_add, add(number))

        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(client)
    return {"lay_s": time.perf_counter() - began}


async def begin(folder: Path, *, jobs: int, slots: int, since: float) -> dict[str, float]:
    """The new process: one new job after the other, until all of the old ones have ended.

    Args:
        since: when it was started (seconds since 1970).
    """
    took: list[float] = []
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [short_add, sleeper]) as transactor,
        Scheduler(transactor, HANDLERS, limits=Limits(slots=slots)),
    ):
        opened = time.time()
        while not took or await _left(store):
            begun = time.time()
            answer = await transactor.send(short_add, add(NEW + len(took)))
            assert answer.job is not None
            await transactor.wait(answer.job, ended)
            took.append(time.time() - begun)
            if len(took) == 1:
                ready, left = time.time(), await _left(store)
        done = time.time()
    return {
        "opened_s": opened - since,
        "ready_s": ready - since,
        "left_when_ready": left,
        "new_p50_ms": percentile(took, 0.50) * 1e3,
        "new_max_ms": max(took) * 1e3,
        "old_jobs_s": jobs / (done - opened),
        "resident_mib": resident_mib(),
    }


async def _left(store: SQLiteStore) -> int:
    """How many tasks and timers are still there."""
    sql = "SELECT (SELECT count(*) FROM task) + (SELECT count(*) FROM timer)"
    return int(next(iter(store._reader.execute(sql)))[0])


def report(*, jobs: int, slots: int = 256) -> dict[str, Any]:
    """One backlog, one new process."""
    with scratch() as folder:
        laid = measure("backlog:lay", inside=folder, jobs=jobs)
        options = {"jobs": jobs, "slots": slots, "since": time.time()}
        return {"jobs": jobs, **laid, **measure("backlog:begin", inside=folder, **options)}


__all__ = ["begin", "lay", "report"]
