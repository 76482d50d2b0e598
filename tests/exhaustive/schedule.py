"""Every order in which the steps of a few sessions can happen, one order after the other.

Each session is a lane that stops before each of its statements. A schedule says which lane takes
the next step; where it ends, the first lane that can go on does. The next schedule differs in the
last step in which another lane could have gone, so all are found without knowing them beforehand:
a search of depth first, as stateless model checkers do it (Godefroid, *Model Checking for
Programming Languages using VeriSoft*, POPL 1997).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Choice(NamedTuple):
    """One step: which lanes could take it, which one did, and what it was."""

    able: tuple[int, ...]
    lane: int
    what: str


Trace = Sequence[Choice]


def following(trace: Trace) -> list[int] | None:
    """The schedule after the one that led to this trace, or None."""
    lanes = [choice.lane for choice in trace]
    for at in reversed(range(len(trace))):
        later = [lane for lane in trace[at].able if lane > lanes[at]]
        if later:
            return [*lanes[:at], min(later)]
    return None


def all_of(run: Callable[[Sequence[int]], Trace]) -> Iterator[Trace]:
    """Run schedule after schedule, until there is none that differs."""
    schedule: list[int] | None = []
    while schedule is not None:
        trace = run(schedule)
        yield trace
        schedule = following(trace)


class Chooser:
    """Whose turn it is: as the schedule says, then the first that can.

    With a `random` it draws instead, for where there are too many schedules to try them all.
    """

    def __init__(self, schedule: Sequence[int] = (), random: Random | None = None) -> None:
        self._schedule = list(schedule)
        self._random = random
        self.trace: list[Choice] = []

    def choose(self, able: dict[int, str]) -> int:
        """The lane that takes the next step, of those (lane → what it would do) that can."""
        lanes = tuple(sorted(able))
        at = len(self.trace)
        if self._random is not None:
            lane = self._random.choice(lanes)
        else:
            lane = self._schedule[at] if at < len(self._schedule) else lanes[0]
        if lane not in able:
            raise AssertionError(f"step {at} of {self._schedule}: lane {lane} is not among {able}")
        self.trace.append(Choice(lanes, lane, able[lane]))
        return lane


def words(trace: Trace) -> str:
    """The trace, a line for each step."""
    return "\n".join(f"  {choice.lane}: {choice.what[:100]}" for choice in trace)
