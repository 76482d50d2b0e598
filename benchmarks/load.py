"""A closed loop of clients, the same for the engine and for the floor, and the figures it gives."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import anyio

WARM_SECONDS = 0.5
LOOK_SECONDS = 0.05


async def drive(
    act: Callable[[int, int], Awaitable[None]],
    *,
    clients: int,
    seconds: float,
    warm_seconds: float = WARM_SECONDS,
    least: int = 0,
    cpu_seconds: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Let every client do one thing after the other; count what ends within the window.

    Args:
        act: `await act(client, number)`; the number is new each time.
        seconds: the window, after `warm_seconds` that do not count. Then every client finishes
            what it has begun.
        least: warming up and the window both go on until so many have ended in them, for what is
            slower than its clients are many.
        cpu_seconds: the CPU used so far by all that takes part.

    Returns:
        rate (per second), p50_ms, p99_ms, cpu_us (of the whole process, for each), done (in all).
    """
    numbers = itertools.count()
    took: list[float] = []
    marks: list[tuple[float, float, int]] = []

    async def client(who: int) -> None:
        while len(marks) < 2:
            begun = time.perf_counter()
            await act(who, next(numbers))
            took.append(time.perf_counter() - begun)

    async with anyio.create_task_group() as group:
        for who in range(clients):
            group.start_soon(client, who)
        for pause in (warm_seconds, seconds):
            before = len(took)
            await anyio.sleep(pause)
            while len(took) < before + least:
                await anyio.sleep(LOOK_SECONDS)
            marks.append((time.perf_counter(), cpu_seconds(), len(took)))
    (began, cpu_before, first), (ended, cpu_after, last) = marks
    if last == first:
        raise RuntimeError(f"nothing was finished within {seconds} s")
    return {
        "rate": (last - first) / (ended - began),
        "p50_ms": percentile(took[first:last], 0.50) * 1e3,
        "p99_ms": percentile(took[first:last], 0.99) * 1e3,
        "cpu_us": (cpu_after - cpu_before) / (last - first) * 1e6,
        "done": len(took),
    }


def percentile(values: list[float], part: float) -> float:
    """The value below which that part of them lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def middle(rounds: list[dict[str, Any]], name: str) -> float:
    """The median over the rounds."""
    return float(median(one[name] for one in rounds))


def ratio(over: list[dict[str, Any]], under: list[dict[str, Any]], name: str) -> float:
    """The median of the ratios of neighbouring rounds, which saw the same machine."""
    return float(median(a[name] / b[name] for a, b in zip(over, under, strict=True)))
