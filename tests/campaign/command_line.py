"""Hostile arguments for every command of the command line, drawn by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import anyio

from stmflow.store.sqlite import SQLiteStore
from tests.attack.command_line import HOSTILE, Target, arguments, places
from tests.campaign.part import Part, Step, Violation
from tests.stmflow.cli.conftest import fill

CALLS = 100
BENT = 3
"""One in so many hostile values is bent once more."""


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    path = folder / "jobs.db"

    async def make() -> Target:
        async with SQLiteStore.open(path) as store:
            names = await fill(store, path)
        return Target(folder / "target", path, names.upload)

    yield partial(_step, anyio.run(make))


def _step(target: Target, number: int) -> Mapping[str, int]:
    random, counts = Random(number), Counter[str]()
    where = places()
    for _ in range(CALLS):
        place, hostile = random.choice(where), _bent(random.choice(HOSTILE), random)
        told = target.call(*arguments(place, hostile, target.job))
        if told.wrong:
            raise Violation(f"{place}: {hostile!r:.200}\n{told}")
        counts["calls"] += 1
        counts[f"exit code {told.code}"] += 1
    return counts


def _bent(hostile: str, random: Random) -> str:
    """The value, or one like it: cut, doubled, or with another in it."""
    if random.randrange(BENT):
        return hostile
    at = random.randrange(len(hostile) + 1)
    match random.randrange(3):
        case 0:
            return hostile[:at]
        case 1:
            return hostile[:at] + random.choice(HOSTILE)[:1_000] + hostile[at:]
    return hostile[:1_000] * 2


PARTS = (Part("command line", "P12", "calls", 300, _open, 0.3),)
