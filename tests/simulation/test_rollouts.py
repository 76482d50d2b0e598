"""Rollouts under crashes, faults and several schedulers: N4, N5, and each one ends stable."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.rollouts import rolled
from tests.simulation.worlds import held

SEEDS = range(8)


def test_rollouts_hold_whatever_happens(seed: int | None) -> None:
    seen: Counter[str] = Counter()
    for each in SEEDS if seed is None else [seed]:
        seen.update(held(rolled(each)).seen)
    if seed is None:  # the worlds are not vacuous: what can happen did
        for what in ("canary", "waiting", "rolling", "reverting", "stable"):
            assert seen[f"status {what}"] > 0, what
        assert min(seen["run by 1"], seen["run by 2"], seen["crash"]) > 0
        assert seen["told UnknownVersion"] > 0
        assert seen["None"] > 0, "no rollout reached its end"


@pytest.mark.acceptance
def test_many_rollouts_hold() -> None:
    for seed in range(100, 500):
        held(rolled(seed))


def test_a_task_may_run_again_where_a_process_lacks_the_version_its_job_moved_to() -> None:
    """Without any fault: its outcome is refused there, and another process performs it anew."""
    outcome = held(rolled(10_570_031_127))
    assert not outcome.options.rates
    assert max(map(len, outcome.performed.values())) > 1


def test_a_birth_that_does_not_ask_the_rollout_is_found() -> None:
    """A planted bug: processes that go by what they were told when they started."""
    (problem, *_) = rolled(0, chooser=lambda tx, job: 1).problems
    assert "born without asking" in problem
