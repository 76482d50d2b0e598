"""kill -9 of writers: whatever was acknowledged is there, and the next process goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.crash.kills import POINTS, Cycles, beside_each_other


def test_the_next_worker_goes_on_wherever_the_last_one_was_killed(memory: Path) -> None:
    cycles = Cycles(memory, 1)
    cycles.run(len(POINTS), iter(POINTS))
    assert cycles.counts["kills"] >= 5
    assert cycles.counts["verified as a whole"] >= 1


def test_two_writers_and_a_reader_beside_each_other(memory: Path) -> None:
    counts: Counter[str] = Counter()
    beside_each_other(memory, 1, counts, kills=1)
    assert counts["kills"] == 3
    assert counts["acknowledged beside each other"] > 0


@pytest.mark.acceptance
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point_again_and_again(memory: Path, point: str) -> None:
    cycles = Cycles(memory, 7)
    cycles.run(12, iter([point] * 12))
    assert cycles.counts[point] + cycles.counts["killed while opening"] > 0
