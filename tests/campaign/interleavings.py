"""Two and three commits at once on SQLite and PostgreSQL, in every order of their statements."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.part import Part, Step
from tests.exhaustive.cases import CASES
from tests.exhaustive.interleavings import on_postgres, on_sqlite
from tests.pgservers import PostgresServer


@contextmanager
def _sqlite(folder: Path) -> Iterator[Step]:
    def step(number: int) -> Mapping[str, int]:
        seen: Counter[str] = Counter()
        for case in (2 * number, 2 * number + 1):
            seen += on_sqlite(CASES[case % len(CASES)], number)
        return seen

    yield step


@contextmanager
def _postgres(folder: Path) -> Iterator[Step]:
    with PostgresServer() as server:

        def step(number: int) -> Mapping[str, int]:
            return asyncio.run(on_postgres(CASES[number % len(CASES)], server, number))

        yield step


PARTS = (
    Part(
        "interleavings, postgres", "P1 P3 P4 P5 P8", "cases", len(CASES), _postgres, 1, both=False
    ),
    Part("interleavings, sqlite", "P1 P3 P4 P5 P8", "cases", len(CASES), _sqlite, 0.5),
)
