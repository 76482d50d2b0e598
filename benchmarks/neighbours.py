"""Two processes on one database: how soon what one commits is seen by a `wait` of the other."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks.child import scratch, start
from benchmarks.load import percentile
from benchmarks.workloads import Count, Increment, counter
from stmflow import Transactor
from stmflow.store.sqlite import SQLiteStore

COMMITS = 500
PAUSE_SECONDS = 0.013
"""Between two commits; no multiple of the interval at which a process looks for its neighbours."""


async def writes(folder: Path) -> list[float]:
    """Commit again and again; when each was acknowledged."""
    acknowledged = []
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [counter]) as transactor,
    ):
        for _ in range(COMMITS):
            await transactor.send(counter, Increment("one"))
            acknowledged.append(time.time())
            await anyio.sleep(PAUSE_SECONDS)
    return acknowledged


async def watches(folder: Path) -> dict[int, float]:
    """Wait until the count is full; when each count was first seen."""
    seen: dict[int, float] = {}

    def full(count: Count) -> bool:
        seen[count.value] = time.time()
        return count.value == COMMITS

    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [counter]) as transactor,
    ):
        await transactor.wait(counter.job("one"), full, timeout=120)
    return seen


def report() -> dict[str, Any]:
    """Milliseconds from an acknowledged commit until the neighbour's `wait` has that or more."""
    with scratch() as folder:
        children = [start(f"neighbours:{name}", folder) for name in ("watches", "writes")]
        texts = [child.communicate(timeout=180)[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("a neighbour failed")
    seen: dict[str, float] = json.loads(texts[0])
    acknowledged: list[float] = json.loads(texts[1])
    late = []
    for number, at in enumerate(acknowledged, start=1):
        first = min(when for count, when in seen.items() if int(count) >= number)
        late.append(max(first - at, 0) * 1_000)
    return {"seen_p50_ms": percentile(late, 0.50), "seen_p99_ms": percentile(late, 0.99)}


__all__ = ["report", "watches", "writes"]
