"""One part of the campaign: a harness that runs in slices, each named by its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

Step = Callable[[int], Mapping[str, int]]
"""Runs the slice of that number, for one to ten seconds, and counts what it did. The same number
does the same again, as far as the harness can see to it. Raises `Violation`, or anything else, if a
promise was broken."""


class Violation(AssertionError):
    """What must never happen has happened; the text says what, and how to see it again."""


@dataclass(frozen=True, slots=True)
class Part:
    """A harness as the campaign sees it.

    Attributes:
        name: as the table shows it. promises: the promises of docs/reliability.md that it tries.
        unit: which of the counts is the figure. gate: how many of them the gate asks for.
        open: makes what all slices share (a server, a folder in the given one) and gives the step.
        share: how much of a campaign's time it gets, beside the others.
        both: whether two slices may run at once, in two processes.
        whole: whether all that the gate asks for is run where of other parts a share is.
    """

    name: str
    promises: str
    unit: str
    gate: int
    open: Callable[[Path], AbstractContextManager[Step]]
    share: float = 1.0
    both: bool = True
    whole: bool = False
