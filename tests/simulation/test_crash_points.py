"""Short stories, crashed before their loop steps, with both fates of the commit on its way.

Here every step of the shortest ones and a few of each other; `make gate` cuts all of them at every
step, `make campaign` at every two steps.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.exhaustive.crashing import tell
from tests.exhaustive.points import Points, Space, held, pair, single
from tests.exhaustive.scenarios import COUNT, STORIES, TRANSFER, Story


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_story_without_a_crash_has_its_end(story: Story, kind: str) -> None:
    world = held(story, (), kind)
    assert not world.crashed
    assert world.outcome.steps - world.outcome.began > 50


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("story", [COUNT, TRANSFER], ids=lambda story: story.name)
def test_a_crash_at_any_step_loses_and_doubles_nothing(story: Story, kind: str) -> None:
    space = Space([story])
    for number in range(space.singles):
        single(space, number, kind)


@pytest.mark.parametrize("story", STORIES[2:], ids=lambda story: story.name)
def test_nor_does_one_at_a_few_steps_of_a_longer_story(story: Story) -> None:
    space = Space([story])
    for number in range(0, space.singles, space.singles // 25):
        single(space, number, "memory")


def test_nor_do_two() -> None:
    space = Space()
    seen = Counter[str]()
    for number in range(40):
        seen += pair(space, number, "memory")
    assert seen["pairs"] > 10


def test_the_two_fates_of_a_commit_on_its_way_are_two() -> None:
    points = Points.of(COUNT)
    assert any(
        tell(COUNT, [points.single(n)]).outcome.digest
        != tell(COUNT, [points.single(n + 1)]).outcome.digest
        for n in range(0, points.count, 2)
    )


def test_every_number_of_a_pair_is_another_pair() -> None:
    space = Space([COUNT])
    pairs = {tuple(space.pair(number)[1]) for number in range(space.pairs)}
    assert len(pairs) == space.pairs
