"""Simulated worlds, by seed: the production engine in virtual time, with drawn faults."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from scheduler.testing.__main__ import STORES, run
from tests.campaign.part import Part, Step, Violation

SLICE = 20


@contextmanager
def _open(store: str, folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    yield partial(_step, store)


def _step(store: str, number: int) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    first = (len(STORES) * number + STORES.index(store)) * SLICE
    for seed in range(first, first + SLICE):
        outcome = run(seed, store)
        if outcome.problems:
            raise Violation(
                f"python -m scheduler.testing replay --store {store} {seed}\n{outcome.report()}"
            )
        counts.update(outcome.seen)
        counts["seeds"] += 1
        counts["steps"] += outcome.steps
        counts["virtual seconds"] += round(outcome.virtual_seconds)
    return counts


def _part(store: str, gate: int, share: float) -> Part:
    promises = "P1 P3 P4 P5 P6 P7 P8 P9 P14 P15"
    name, opening = f"seeds, {store}", partial(_open, store)
    return Part(name, promises, "seeds", gate, opening, share, whole=True)


# With the 200 of tests/simulation/test_seeds.py, CI runs 2,000.
PARTS = (_part("memory", 1_500, 4), _part("sqlite", 240, 2), _part("file", 60, 1))
