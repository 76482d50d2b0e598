"""What a job costs in a database that holds a thousand finished jobs, and more, to a million."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.child import measure, scratch
from benchmarks.load import middle, ratio

CONCURRENCY = 64


def report(*, sizes: tuple[int, ...], rounds: int, seconds: float) -> dict[str, Any]:
    """W1 on each of them in turn, round by round; `flat` compares the largest with the smallest."""
    found: dict[int, list[dict[str, Any]]] = {jobs: [] for jobs in sizes}
    with ExitStack() as stack:
        folders = {jobs: _filled(stack, jobs) for jobs in sizes}
        for turn in range(rounds):
            for jobs, folder in folders.items():
                first = (turn + 1) * 10**9
                options = {"concurrency": CONCURRENCY, "seconds": seconds, "first": first}
                found[jobs].append(measure("w1:ours", inside=folder, **options))
    return {
        "sizes": {
            str(jobs): {
                "jobs_s": middle(rows, "rate"),
                "p50_ms": middle(rows, "p50_ms"),
                "cpu_us": middle(rows, "cpu_us"),
            }
            for jobs, rows in found.items()
        },
        "flat": ratio(found[sizes[-1]], found[sizes[0]], "cpu_us"),
    }


def _filled(stack: ExitStack, jobs: int) -> Path:
    folder = stack.enter_context(scratch())
    measure("floor:fill", inside=folder, jobs=jobs)
    return folder


__all__ = ["report"]
