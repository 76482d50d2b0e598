"""Memory: how much a process grows between 10,000 and 100,000 finished W1 jobs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

from benchmarks.child import measure
from benchmarks.w1 import add, ended
from benchmarks.workloads import HANDLERS, short_add
from scheduler import Limits, Scheduler
from stmflow import Transactor
from stmflow.store.sqlite import SQLiteStore

CLIENTS = 64


async def resident(folder: Path, *, few: int, many: int) -> dict[str, float]:
    """MiB resident after so many jobs, in one process that goes on."""
    found = []
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [short_add]) as transactor,
        Scheduler(transactor, HANDLERS, limits=Limits(slots=2 * CLIENTS)),
    ):
        numbers = iter(range(many))

        async def client(last: int) -> None:
            for number in numbers:
                answer = await transactor.send(short_add, add(number))
                assert answer.job is not None
                await transactor.wait(answer.job, ended)
                if number >= last:
                    break

        for last in (few - CLIENTS, many - CLIENTS):
            async with anyio.create_task_group() as group:
                for _ in range(CLIENTS):
                    group.start_soon(client, last)
            found.append(resident_mib())
    return {"few": few, "many": many, "few_mib": found[0], "many_mib": found[1]}


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report(*, few: int = 10_000, many: int = 100_000) -> dict[str, Any]:
    """One process; minutes of work at full size."""
    found = measure("memory:resident", few=few, many=many)
    return {**found, "grown_mib": found["many_mib"] - found["few_mib"]}
