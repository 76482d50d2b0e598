"""Sleeping jobs cost only storage: memory, idle CPU and bytes, from ten thousand to a million.

The databases are filled as the engine leaves them: one sleeper is laid down and its rows are read
back, then rows of the same lengths follow under random hashes and deadlines in random order.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import anyio
import apsw

from benchmarks.child import measure, scratch
from benchmarks.floor import Row, seal, slots
from benchmarks.load import percentile
from benchmarks.memory import resident_mib
from benchmarks.workloads import Rest, Sleeper, sleeper
from scheduler import Scheduler
from stmflow import Transactor
from stmflow.store import sqlite_batch as engine
from stmflow.store.packing import pack_rows
from stmflow.store.rows import PLACES
from stmflow.store.sqlite import SQLiteStore

DAY_MS = 24 * 3_600_000
CHUNK = 5_000
WAKING = 100
"""Jobs that are laid down among the sleepers and wake soon: they find their way as before."""
FOR_MS = 300
"""How long the first of them sleeps; each one more sleeps 5 ms longer."""


async def fill(folder: Path, *, jobs: int) -> dict[str, Any]:
    """A database in which so many jobs sleep, until some moment of the month after tomorrow."""
    revision, job, timer = await _sample(folder / "sample.db")
    path = folder / "jobs.db"
    now = int(time.time() * 1_000)
    random, slot_of = Random(2), slots()
    async with SQLiteStore.open(path) as store:
        db = store._writer
        for first in range(1, jobs + 1, CHUNK):
            rows = [next(slot_of) for _ in range(min(CHUNK, jobs + 1 - first))]
            whens = [now + DAY_MS * 2 + random.randrange(30 * DAY_MS) for _ in rows]
            db.execute("BEGIN IMMEDIATE")
            engine._REVISIONS.run(
                db, [(slot.row, revision[1], pack_rows([0]), *revision[3:]) for slot in rows]
            )
            engine._JOBS.run(
                db, [(slot.row, slot.hash, *job[2:7], slot.row, *job[8:]) for slot in rows]
            )
            engine._TIMERS.run(
                db,
                [(slot.row * PLACES, timer[1], due) for slot, due in zip(rows, whens, strict=True)],
            )
            seal(db)
            db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return {"bytes_a_job": path.stat().st_size / jobs}


async def _sample(path: Path) -> tuple[Row, Row, Row]:
    """The rows that one sleeping job leaves: revision, job, timer."""
    async with SQLiteStore.open(path) as store, Transactor(store, [sleeper]) as transactor:
        await transactor.send(sleeper, Rest("sleeper 123456", DAY_MS))
    reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        tables = ("SELECT * FROM revision", "SELECT * FROM job", "SELECT * FROM timer")
        revision, job, timer = (next(iter(reader.execute(sql))) for sql in tables)
    finally:
        reader.close()
    return revision, job, timer


async def rest(folder: Path, *, seconds: float) -> dict[str, float]:
    """What a process costs that has these jobs and nothing to do; then some that wake."""
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [sleeper]) as transactor,
        Scheduler(transactor, {}),
    ):
        await anyio.sleep(0.5)
        began, cpu = time.perf_counter(), time.process_time()
        await anyio.sleep(seconds)
        used = (time.process_time() - cpu) / (time.perf_counter() - began)
        resident = resident_mib()
        late = await _wake(transactor)
    return {
        "resident_mib": resident,
        "idle_cpu_pct": 100 * used,
        "late_p50_ms": percentile(late, 0.50),
        "late_p99_ms": percentile(late, 0.99),
    }


async def _wake(transactor: Transactor) -> list[float]:
    """How late some wake that sleep for a moment among the others: milliseconds."""
    late: list[float] = []

    async def one(number: int) -> None:
        answer = await transactor.send(sleeper, Rest(f"waking {number}", FOR_MS + 5 * number))
        (timer,) = await transactor.store.tasks(job=answer.job)

        def seen(state: Sleeper) -> bool:
            if state.awake:
                late.append(time.time() * 1_000 - timer.due)
            return state.awake

        assert answer.job is not None
        await transactor.wait(answer.job, seen)

    async with anyio.create_task_group() as group:
        for number in range(WAKING):
            group.start_soon(one, number)
    return late


def report(*, sizes: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Each size by itself."""
    return {str(jobs): _report(jobs, seconds) for jobs in sizes}


def _report(jobs: int, seconds: float) -> dict[str, float]:
    with scratch() as folder:
        filled = measure("sleepers:fill", inside=folder, jobs=jobs)
        return {**measure("sleepers:rest", inside=folder, seconds=max(seconds, 5.0)), **filled}


__all__ = ["fill", "report", "rest"]
