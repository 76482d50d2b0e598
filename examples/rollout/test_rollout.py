"""A rollout in the words of a trace, and what is proved of it."""

from __future__ import annotations

from typing import Any

import pytest

from examples.rollout import ROLLOUT, Promote, Revert, Spec, Start
from examples.rollout.check import CHECKS, SPEC
from examples.rollout.model import Move, Pick, Sample
from scheduler.handlers.replay import Replay
from stmflow.check import Check, prove
from stmflow.testing import Trace


def checked(spec: Spec = SPEC) -> Trace:
    """A rollout that may begin: the histories are the same."""
    return (
        Trace(ROLLOUT).send(Start("letter", spec)).succeed(Replay, {"histories": 2, "revisions": 5})
    )


def moved(rollout: Trace, *names: str) -> Trace:
    """These were found, and moved."""
    keys: list[Any] = [[name] for name in names]
    found = rollout.succeed(Pick, {"keys": keys, "after": None, "done": True})
    return found.succeed(Move, {"moved": len(names), "stuck": 0}) if names else found


def sampled(rollout: Trace, *, bad: int) -> Trace:
    rollout.pass_time(until=next(one.due for one in rollout.timers if one.name == "pause"))
    return rollout.succeed(Sample, {"jobs": 9, "bad": bad})


def test_canaries_are_watched_and_a_person_promotes() -> None:
    rollout = sampled(moved(checked(), "a"), bad=0)
    assert (rollout.tag, rollout.state.canaries, rollout.state.born) == ("waiting", 1, 1)
    rollout.send(Promote("letter"))
    assert (rollout.tag, rollout.state.born) == ("rolling", 2)
    sampled(moved(rollout, "b"), bad=0)
    moved(moved(rollout))
    assert (rollout.tag, rollout.state.stable, rollout.state.moved) == ("stable", 2, 2)


def test_who_halts_while_a_person_is_awaited_goes_back_in_the_end() -> None:
    rollout = sampled(moved(checked(), "a"), bad=0)
    assert [timer.name for timer in rollout.timers] == ["pause"]  # a person has no deadline
    assert sampled(rollout, bad=1).tag == "halted"
    assert [timer.name for timer in rollout.timers] == ["deadline"]
    rollout.pass_time(until=rollout.timers[0].due)
    assert (rollout.tag, rollout.state.refused.name) == ("reverting", "Late")
    assert moved(moved(moved(rollout, "a"))).tag == "stable"


def test_a_canary_that_halts_keeps_its_deadline() -> None:
    rollout = moved(checked(), "a")
    due = next(timer.due for timer in rollout.timers if timer.name == "deadline")
    sampled(rollout, bad=1)
    assert [(timer.name, timer.due) for timer in rollout.timers] == [("deadline", due)]


def test_a_version_that_diverges_moves_nobody() -> None:
    rollout = Trace(ROLLOUT).send(Start("letter", SPEC)).fail(Replay, "Diverged", {"seq": 1})
    assert (rollout.tag, rollout.state.refused.name, rollout.unsettled) == (
        "stable",
        "Diverged",
        [],
    )


def test_a_revert_before_anybody_has_moved_looks_all_the_same() -> None:
    rollout = checked().send(Revert("letter"))
    assert (rollout.tag, rollout.unsettled) == ("reverting", [Pick("letter", 2, 1, None)])


# --- proved -------------------------------------------------------------------------------------


def proved(check: Check) -> None:
    report = prove(check)
    assert (report.holds, report.vacuous) == (True, [])


@pytest.mark.parametrize("check", CHECKS[1:], ids=lambda check: check.name)
def test_what_is_proved(check: Check) -> None:
    proved(check)


@pytest.mark.acceptance
def test_what_is_proved_of_one_rollout_after_another() -> None:
    proved(CHECKS[0])
