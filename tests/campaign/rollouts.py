"""Simulated worlds in which versions are rolled out and back, by seed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.part import Part, Step, Violation
from tests.simulation.rollouts import rolled

SLICE = 10


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    yield _step


def _step(number: int) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for seed in range(number * SLICE, (number + 1) * SLICE):
        outcome = rolled(seed)
        if outcome.problems:
            raise Violation(
                f"pytest tests/simulation/test_rollouts.py --seed {seed}\n{outcome.report()}"
            )
        counts.update(outcome.seen)
        counts["worlds"] += 1
    return counts


PART = Part("rollouts", "P1 P3 P6 P8 P9 P14", "worlds", 30, _open)
