"""Runs simulated worlds for the tests of this folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from scheduler.testing import Options, Outcome, simulate
from scheduler.testing.__main__ import run
from stmflow.store.memory import MemoryStore

__all__ = ["first_bad", "held", "run", "tally"]


def held(outcome: Outcome) -> Outcome:
    """The outcome, if nothing went wrong; a failure begins with its seed and options."""
    assert not outcome.problems, "\n" + outcome.report()
    return outcome


def first_bad(seeds: range, **forced: Any) -> tuple[int, str] | None:
    """The first seed that finds something, and what; None if none does."""
    for seed in seeds:
        outcome = simulate(replace(Options.draw(seed), **forced), MemoryStore())
        if outcome.problems:
            return seed, outcome.problems[0]
    return None


def tally(outcomes: list[Outcome]) -> Counter[str]:
    """What happened in all of them."""
    seen: Counter[str] = Counter()
    for outcome in outcomes:
        seen.update(outcome.seen)
    return seen
