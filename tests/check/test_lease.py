"""The lease model: the checker and TLC agree, in states, steps and verdicts."""

from __future__ import annotations

import pytest

from benchmarks import check as benchmark
from benchmarks.lease import STATES, STEPS, ended, model
from stmflow.check import Send, eventually, explore, prove


def test_it_has_as_many_states_and_steps_as_tlc_finds() -> None:
    report = prove(model())
    assert report.holds
    assert (len(report.graph.states), report.graph.steps, report.graph.depth) == (STATES, STEPS, 21)


def _one(*, failing: bool) -> bool:
    """Whether the one job of a smaller model ends."""
    from dataclasses import replace

    whole = model(lively=True, failing=failing)
    sends = [one for one in whole.sends if one.event.job == "a"]
    assert all(isinstance(one, Send) for one in sends)

    def over(view: object) -> bool:
        (lease,) = view.states("lease").values() or [None]  # type: ignore[attr-defined]
        return lease is not None and lease.status in ("done", "failed")

    return prove(replace(whole, sends=sends, properties=[eventually("ends", over)])).holds


def test_one_job_ends_if_it_must_fail_at_last_and_else_need_not() -> None:
    assert _one(failing=True)
    assert not _one(failing=False)


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
