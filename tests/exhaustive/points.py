"""Every crash there is to a story, numbered: single ones, and pairs in a fixed shuffled order.

    python -m tests.exhaustive.points       how many there are of each
    python -m tests.exhaustive.points memory "a timer and a task" 71 lost 30 landed

The second shows one run again: crashed before step 71, where the commit on its way was lost, and
once more 30 steps later, where it took place. Of two processes the first falls, with `lost:1` the
second.
"""

from __future__ import annotations

import logging
import math
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from scheduler.testing import Crash
from scheduler.testing.options import FATES
from tests.campaign.part import Violation
from tests.exhaustive.crashing import StoryWorld, tell
from tests.exhaustive.scenarios import STORIES, Story

MORE = 100
"""How many steps a crash adds to what is left of a story, at most."""


@dataclass(frozen=True)
class Points:
    """Where one story can be cut."""

    story: Story
    began: int
    steps: int

    @staticmethod
    def of(story: Story) -> Points:
        """Found out by telling it once without a crash."""
        world = held(story, (), "memory")
        return Points(story, world.outcome.began, world.outcome.steps)

    @property
    def count(self) -> int:
        """Single crashes: steps, both fates, each process."""
        return (self.steps - self.began) * 2 * self.story.nodes

    def rest(self, crash: Crash) -> int:
        """How many steps may follow after that crash."""
        return self.steps - crash.step + MORE

    def pairs(self) -> Iterator[int]:
        """For each single crash, how many there may be that follow it."""
        for number in range(self.count):
            yield self.rest(self.single(number)) * 2 * self.story.nodes

    def crash(self, number: int, after: int) -> Crash:
        """The crash of that number, in the steps that follow `after`."""
        number, node = divmod(number, self.story.nodes)
        step, lands = divmod(number, 2)
        return Crash(after + 1 + step, bool(lands), node)

    def single(self, number: int) -> Crash:
        """The single crash of that number."""
        return self.crash(number, self.began)


class Space:
    """All stories' points in one row."""

    def __init__(self, stories: Sequence[Story] = STORIES) -> None:
        self._points = [Points.of(story) for story in stories]
        self._firsts = [(each, n) for each in self._points for n in range(each.count)]
        self._ends = list(accumulate(chain.from_iterable(each.pairs() for each in self._points)))
        self.singles = len(self._firsts)
        self.pairs = self._ends[-1]
        """Numbers for pairs; a few are of pairs whose second crash comes after the end."""
        self._stride = _stride(self.pairs)

    def single(self, number: int) -> tuple[Points, Sequence[Crash]]:
        """Story after story, from the shortest."""
        points, first = self._firsts[number]
        return points, [points.single(first)]

    def pair(self, number: int) -> tuple[Points, Sequence[Crash]]:
        """In an order that jumps about, and has come to each of them after `pairs` numbers."""
        place = number * self._stride % self.pairs
        at = bisect_right(self._ends, place)
        points, (first,) = self.single(at)
        second = place - (self._ends[at - 1] if at else 0)
        return points, [first, points.crash(second, first.step)]


def _stride(size: int) -> int:
    """How far to jump in a circle of that size, so that every place is come to: about the golden
    ratio of it, which leaves no large gap at any time."""
    stride = round(size / ((1 + math.sqrt(5)) / 2))
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride


def held(story: Story, crashes: Sequence[Crash], kind: str) -> StoryWorld:
    """The world of that story, if nothing went wrong in it; else a Violation that says how to see
    it again."""
    world = tell(story, crashes, kind)
    if world.outcome.problems:
        raise Violation("\n".join([_words(story, crashes, kind), *world.outcome.problems]))
    return world


def _words(story: Story, crashes: Sequence[Crash], kind: str) -> str:
    words, before = [f'python -m tests.exhaustive.points {kind} "{story.name}"'], 0
    for crash in crashes:
        fate = FATES[crash.lands]
        words += [str(crash.step - before), f"{fate}:{crash.node}" if story.nodes > 1 else fate]
        before = crash.step
    return " ".join(words)


def single(space: Space, number: int, kind: str) -> Counter[str]:
    """One crash of a story; what it counted."""
    points, crashes = space.single(number)
    world = held(points.story, crashes, kind)
    fate = FATES[crashes[0].lands]
    return Counter({"points": 1, points.story.name: 1, fate: len(world.crashed)})


def pair(space: Space, number: int, kind: str) -> Counter[str]:
    """Two crashes of a story; but one where nobody is left whom the second could hit."""
    points, crashes = space.pair(number)
    world = held(points.story, crashes, kind)
    if len(world.crashed) == 2:
        return Counter({"pairs": 1, points.story.name: 1})
    if world.outcome.steps - crashes[0].step > points.rest(crashes[0]):
        raise Violation(f"MORE is too small: {_words(points.story, crashes, kind)}")
    return Counter({"of which one hit nobody": 1})


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: what was shown has held."""
    logging.disable(logging.CRITICAL)
    if not arguments:
        _count()
        return 0
    (story,) = [story for story in STORIES if story.name == arguments[1]]
    crashes, step = list[Crash](), 0
    for steps, fate in zip(arguments[2::2], arguments[3::2], strict=True):
        step += int(steps)
        word, _, node = fate.partition(":")
        crashes.append(Crash(step, bool(FATES.index(word)), int(node or 0)))
    outcome = tell(story, crashes, arguments[0]).outcome
    print(*outcome.history, outcome.report(), sep="\n")
    return int(bool(outcome.problems))


def _count() -> None:
    total = 0
    for story in STORIES:
        points = Points.of(story)
        singles = [points.single(number) for number in range(points.count)]
        rests = [tell(story, [crash]).outcome.steps - crash.step for crash in singles]
        pairs = sum(rests) * 2 * story.nodes
        total += pairs
        more = max(rest + crash.step for rest, crash in zip(rests, singles, strict=True))
        longest = f"a crash adds {more - points.steps} steps at most"
        print(f"{story.name}: {points.count:,} points, {pairs:,} pairs; {longest}", flush=True)
    print(f"{Space().singles:,} points, {total:,} pairs")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
