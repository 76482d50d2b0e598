"""The lease model: the checker and TLC agree, in states, steps and verdicts."""

from __future__ import annotations

import pytest

from benchmarks import check as benchmark
from benchmarks.lease import STATES, STEPS, ended, model
from stmflow.check import explore, prove


def test_it_has_as_many_states_and_steps_as_tlc_finds() -> None:
    report = prove(model())
    assert report.holds
    assert (len(report.graph.states), report.graph.steps, report.graph.depth) == (STATES, STEPS, 21)


def test_one_job_ends_if_it_must_fail_at_last_and_else_need_not() -> None:
    assert prove(model("a", lively=True)).holds
    assert not prove(model("a", lively=True, failing=False)).holds


@pytest.mark.acceptance
@pytest.mark.parametrize("failing", [True, False])
def test_all_jobs_end_if_they_must_fail_at_last_and_else_need_not(failing: bool) -> None:
    assert prove(model(lively=True, failing=failing)).holds is failing


@pytest.mark.acceptance
def test_the_benchmark_compares_two_loops_over_the_same_steps() -> None:
    assert benchmark.report(rounds=1)["states"] == STATES


def test_nothing_has_ended_at_first() -> None:
    graph = explore(model(), limit=1)
    assert not ended(graph.view(0))
