"""Short stories crashed before every one of their loop steps, and before every two of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.campaign.part import Part, Step
from tests.exhaustive.points import Space, pair, single

SLICES = 50
"""Slices of all single crashes."""
PAIRS = 50
"""Pairs in a slice."""
SMALLEST = 40
"""Percent of the points that the stories of one process have, but the longest."""

PROMISES = "P1 P5 P6 P9 P15"


@contextmanager
def _points(kind: str, folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    space = Space()

    def step(number: int) -> Mapping[str, int]:
        which = number % SLICES
        counts = Counter(percent=100 // SLICES)
        first, end = (space.singles * n // SLICES for n in (which, which + 1))
        for point in range(first, end):
            counts += single(space, point, kind)
        return counts

    yield step


@contextmanager
def _pairs(folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    space = Space()

    def step(number: int) -> Mapping[str, int]:
        counts: Counter[str] = Counter()
        for n in range(number * PAIRS, (number + 1) * PAIRS):
            counts += pair(space, n % space.pairs, "memory")
        return counts

    yield step


PARTS = (
    Part("crash points, memory", PROMISES, "percent", 100, partial(_points, "memory"), whole=True),
    Part(
        "crash points, sqlite",
        PROMISES,
        "percent",
        SMALLEST,
        partial(_points, "sqlite"),
        0.5,
        whole=True,
    ),
    Part("crash pairs", PROMISES, "pairs", 200, _pairs, 2),
)
