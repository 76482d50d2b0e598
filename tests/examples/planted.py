"""What lists of planted mistakes ask: the checker finds each, and the engine plays its trace."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from stmflow.check import Check, Report, prove, replay, trace, words


class Planted(Protocol):
    """A mistake, the property that shows it, and the length of the shortest trace."""

    @property
    def name(self) -> str: ...
    @property
    def breaks(self) -> str: ...
    @property
    def steps(self) -> int: ...


async def alone(check: Check, mutation: Planted) -> None:
    """It is found, nothing else is, and the lines that show it are played."""
    report = prove(check)
    (wrong,) = report.wrong
    lines = words(report.graph, wrong)
    assert (wrong.property, len(lines)) == (mutation.breaks, mutation.steps)
    assert (await replay(check, lines)).breaks(wrong.property)


async def first(report: Report, mutation: Planted) -> None:
    """It is what is found first, in so many steps, and they are played."""
    assert report.wrong, "not found"
    wrong = report.wrong[0]
    found = len(trace.steps(report.graph, wrong))
    assert (wrong.property, found) == (mutation.breaks, mutation.steps)
    played = await replay(report.check, words(report.graph, wrong))
    assert played.breaks(mutation.breaks), played


def listed(readme: Path, mutations: Iterable[Planted], *, without: str = "") -> bool:
    """Whether the page's table has them all, one after the other."""
    rows = [
        f"| {one.name} | {one.breaks.removesuffix(without)} | {one.steps} |" for one in mutations
    ]
    return "\n".join(rows) in readme.read_text()
