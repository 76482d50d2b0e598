"""`python -m benchmarks.claims`: what a claim costs where 100,000 tasks are due.

One tenant has most of them, 1,000 others have one each. A claim in order of due times is compared
with a fair one: a look at who waits (`Store.queues`), then a claim that names the tenants.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from benchmarks import machine
from scheduler.turns import Turns
from stmflow.store import Batch, Claim, Kind, Store, Want
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing import builders

TENANTS = 1_000
PER_JOB = 1_000


async def report(*, rows: int, rounds: int, postgres: str | None = None) -> dict[str, Any]:
    """Milliseconds for each store, and so many slots at once."""
    found: dict[str, Any] = {}
    for name in ("memory", "sqlite", *(["postgres"] if postgres else [])):
        async with _opened(name, postgres) as store:
            await _fill(store, rows)
            found[name] = {}
            for slots in (1, 64):
                found[name][f"{slots} by due, ms"] = await _by_due(store, slots, rounds)
                found[name][f"{slots} fair, ms"] = await _fair(store, slots, rounds)
    return found


@asynccontextmanager
async def _opened(name: str, postgres: str | None) -> AsyncIterator[Store]:
    if name == "memory":
        yield MemoryStore()
    elif name == "sqlite":
        with TemporaryDirectory() as folder:
            async with SQLiteStore.open(Path(folder) / "jobs.db") as store:
                yield store
    else:
        from stmflow.store.postgres import PostgresStore

        assert postgres is not None
        async with PostgresStore.open(postgres) as server:
            yield server


async def _fill(store: Store, rows: int) -> None:
    for first in range(0, rows, PER_JOB):
        tasks = []
        for n in range(first, min(first + PER_JOB, rows)):
            tenant = f"small{n}" if n >= rows - TENANTS else "big"
            tasks.append(builders.task(f"j{first}", n - first, tenant=tenant, at=n))
        await store.commit(Batch([builders.commit({f"j{first}": None}, tasks=tasks)]))


async def _by_due(store: Store, slots: int, rounds: int) -> float:
    worker = store.enlist()
    began = time.perf_counter()
    for _ in range(rounds):
        claim = Claim(worker, [Want(*builders.KIND, slots)], 2**40)
        await store.commit(Batch([claim]))
    return round(1_000 * (time.perf_counter() - began) / rounds, 2)


async def _fair(store: Store, slots: int, rounds: int) -> float:
    worker, turns = store.enlist(), Turns({})

    def room_of(kind: Kind, tenant: str) -> int:
        return slots

    began = time.perf_counter()
    for _ in range(rounds):
        pages = await turns.look(
            [builders.KIND], store.queues, slots=slots, room_of=room_of, now=2**40
        )
        wants = turns.deal(pages, slots=slots, take=lambda kind, tenant: True)
        assert sum(want.limit for want in wants) == slots
        await store.commit(Batch([Claim(worker, wants, 2**40)]))
    return round(1_000 * (time.perf_counter() - began) / rounds, 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--postgres", metavar="DSN", help="an empty database")
    given = parser.parse_args()
    results = anyio.run(
        lambda: report(rows=given.rows, rounds=given.rounds, postgres=given.postgres)
    )
    print(json.dumps(machine.facts() | results, indent=2))
