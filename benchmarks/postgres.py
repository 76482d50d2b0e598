"""W1 on PostgreSQL: one, two and four worker processes on one server, 256 clients in all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio

from benchmarks.child import LONGEST_SECONDS, scratch, start
from benchmarks.load import middle
from benchmarks.w1 import through
from stmflow.store.postgres import PostgresStore
from tests.pgservers import PostgresServer

WORKERS = (1, 2, 4)
CLIENTS = 256


async def worker(
    folder: Path, *, url: str, concurrency: int, seconds: float, first: int
) -> dict[str, float]:
    """One process's share."""
    async with PostgresStore.open(url) as store:
        return await through(
            store, concurrency=concurrency, seconds=seconds, first=first, clock=store.clock
        )


def report(*, rounds: int, seconds: float) -> dict[str, Any]:
    """Each number of workers in turn, round by round, every one on a new database."""
    found: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
    with PostgresServer(shared_buffers="256MB", max_wal_size="2GB") as server:
        for _ in range(rounds):
            for workers, one in found.items():
                one.append(_round(server, workers, seconds))
    return {
        str(workers): {
            "jobs_s": middle(one, "rate"),
            "p50_ms": middle(one, "p50_ms"),
            "p99_ms": middle(one, "p99_ms"),
            "cpu_us": middle(one, "cpu_us"),
            "commits_per_batch": middle(one, "commits_per_batch"),
        }
        for workers, one in found.items()
    }


def _round(server: PostgresServer, workers: int, seconds: float) -> dict[str, float]:
    """All workers at once. Rates are added; the slowest one's latencies count."""
    url = anyio.run(server.new_database)
    with scratch() as folder:
        children = [
            start(
                "postgres:worker",
                folder,
                url=url,
                concurrency=CLIENTS // workers,
                seconds=seconds,
                first=turn * 10**9,
            )
            for turn in range(workers)
        ]
        found = []
        for child in children:
            with child:
                text, _ = child.communicate(timeout=LONGEST_SECONDS)
            if child.returncode:
                raise RuntimeError(f"a worker ended with {child.returncode}")
            found.append(json.loads(text))
    rate = sum(one["rate"] for one in found)
    return {
        "rate": rate,
        "p50_ms": max(one["p50_ms"] for one in found),
        "p99_ms": max(one["p99_ms"] for one in found),
        "cpu_us": sum(one["cpu_us"] * one["rate"] for one in found) / rate,
        "commits_per_batch": sum(one["commits_per_batch"] for one in found) / workers,
    }
