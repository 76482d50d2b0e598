"""W2: 64 clients increment one shared job; and, for comparison, each client a job of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.child import measure
from benchmarks.load import drive, middle, ratio
from benchmarks.workloads import Increment, counter
from stmflow import Transactor
from stmflow.store.sqlite import SQLiteStore

CLIENTS = 64


async def increments(folder: Path, *, shared: bool, seconds: float) -> dict[str, Any]:
    """Every client sends its next increment when the last one is durable.

    Returns:
        the figures of `drive`, and `exact`: the counts in the database add up to the answers.
    """
    acknowledged = 0
    names = ["shared"] if shared else [f"own {client}" for client in range(CLIENTS)]
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [counter]) as transactor,
    ):

        async def increment(client: int, _: int) -> None:
            nonlocal acknowledged
            name = names[0] if shared else names[client]
            answer = await transactor.send(counter, Increment(name))
            assert answer.committed
            acknowledged += 1

        found: dict[str, Any] = await drive(increment, clients=CLIENTS, seconds=seconds)
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, [counter]) as transactor,
    ):
        heads = [await transactor.get(counter.job_of(Increment(name))) for name in names]
    counted = sum(head.state.value for head in heads if head is not None)
    return {**found, "exact": counted == acknowledged == found["done"]}


def report(*, rounds: int, seconds: float) -> dict[str, Any]:
    """A round on the shared job and one on 64 jobs, in turn."""
    hot, own = [], []
    for _ in range(rounds):
        hot.append(measure("w2:increments", shared=True, seconds=seconds))
        own.append(measure("w2:increments", shared=False, seconds=seconds))
    return {
        "incr_s": middle(hot, "rate"),
        "uncontended_s": middle(own, "rate"),
        "exact": all(one["exact"] for one in hot + own),
        "of_uncontended": ratio(hot, own, "rate"),
        "p50_ms": middle(hot, "p50_ms"),
        "p99_ms": middle(hot, "p99_ms"),
        "cpu_us": middle(hot, "cpu_us"),
    }
