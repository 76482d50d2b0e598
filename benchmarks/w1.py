"""W1: add → allocate → stat (absent) → presign → end: 4 commits, 3 tasks, no timer, durable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.child import measure, scratch
from benchmarks.load import drive, middle, ratio
from benchmarks.workloads import HANDLERS, Add, Upload, short_add
from scheduler import Limits, Scheduler
from stmflow import CID, Transactor
from stmflow.clock import Clock
from stmflow.store import Store
from stmflow.store.sqlite import SQLiteStore

CONCURRENCIES = (1, 32, 256)
SPACE = "did:key:z6MkffDZCkCTWreg8868fG1FGFogcJj5X6PY93pPcWDn9bob"


def add(number: int) -> Add:
    """The event that begins the job of this number."""
    return Add(SPACE, CID.of(b"%d" % number), 1_000 + number)


def ended(upload: Upload) -> bool:
    """Whether the job has come to its final state."""
    return upload.status == "receiving"


async def ours(
    folder: Path, *, concurrency: int, seconds: float, first: int = 0, slots: int = 0
) -> dict[str, float]:
    """The engine: from `send` until `wait` gives the final state.

    Args:
        first: the number of the first job, so that a database can be used twice.
    """
    async with SQLiteStore.open(folder / "jobs.db") as store:
        return await through(
            store, concurrency=concurrency, seconds=seconds, first=first, slots=slots
        )


async def through(
    store: Store,
    *,
    concurrency: int,
    seconds: float,
    first: int = 0,
    slots: int = 0,
    clock: Clock | None = None,
) -> dict[str, float]:
    """The same on any store."""
    async with (
        Transactor(store, [short_add], clock=clock) as transactor,
        Scheduler(transactor, HANDLERS, limits=Limits(slots=slots or 2 * concurrency)),
    ):

        async def job(_: int, number: int) -> None:
            answer = await transactor.send(short_add, add(first + number))
            assert answer.job is not None, answer
            head = await transactor.wait(answer.job, ended)
            assert head.seq == 4

        before = transactor.counters.get("batches", 0)
        found = await drive(job, clients=concurrency, seconds=seconds)
        batches = transactor.counters.get("batches", 0) - before
        return {**found, "commits_per_batch": 4 * found["done"] / batches}


def report(*, rounds: int, seconds: float) -> dict[str, Any]:
    """Each concurrency by itself; within it, a round of ours and one of the floor in turn."""
    return {str(n): _report(n, rounds, seconds) for n in CONCURRENCIES}


def _report(concurrency: int, rounds: int, seconds: float) -> dict[str, float]:
    options: dict[str, Any] = {"concurrency": concurrency, "seconds": seconds}
    mine, bare = [], []
    for _ in range(rounds):
        mine.append(measure("w1:ours", **options))
        bare.append(measure("floor:bare", **options))
    return {
        "jobs_s": middle(mine, "rate"),
        "p50_ms": middle(mine, "p50_ms"),
        "p99_ms": middle(mine, "p99_ms"),
        "floor_jobs_s": middle(bare, "rate"),
        "floor_p50_ms": middle(bare, "p50_ms"),
        "floor_p99_ms": middle(bare, "p99_ms"),
        "rate_ratio": ratio(bare, mine, "rate"),
        "p50_ratio": ratio(mine, bare, "p50_ms"),
        "cpu_us": middle(mine, "cpu_us"),
        "floor_cpu_us": middle(bare, "cpu_us"),
        "commits_per_batch": middle(mine, "commits_per_batch"),
        "floor_commits_per_batch": middle(bare, "commits_per_batch"),
    }


def report_large(*, rounds: int, seconds: float, jobs: int) -> dict[str, float]:
    """W1 at 256 in a database that holds this many finished jobs, and in an empty one, in turn."""
    options: dict[str, Any] = {"concurrency": 256, "seconds": seconds}
    full, empty = [], []
    with _filled(jobs) as (folder, filled):
        for turn in range(rounds):
            empty.append(measure("w1:ours", **options))
            full.append(measure("w1:ours", inside=folder, first=(turn + 1) * 10**9, **options))
    return {
        "finished": jobs,
        "database_mib": filled["database_mib"],
        "jobs_s": middle(full, "rate"),
        "empty_jobs_s": middle(empty, "rate"),
        "of_empty": ratio(full, empty, "rate"),
    }


@contextmanager
def _filled(jobs: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    with scratch() as folder:
        yield folder, measure("floor:fill", inside=folder, jobs=jobs)


__all__ = ["add", "ended", "ours", "report", "report_large", "through"]
