"""Deterministic simulation: the production code in one virtual world, drawn from a seed.

    outcome = simulate(Options.draw(seed), MemoryStore())
    assert not outcome.problems, outcome.report()

`python -m scheduler.testing campaign --minutes 10` runs new seeds; docs/simulation.md says more.
"""

from __future__ import annotations

from scheduler.testing.checks import check
from scheduler.testing.faults import FAULTS, Faults, FaultyStore
from scheduler.testing.loop import Process, Stuck, VirtualClock, VirtualLoop
from scheduler.testing.world import Options, Outcome, World
from stmflow.store import Store

__all__ = [
    "FAULTS",
    "Faults",
    "FaultyStore",
    "Options",
    "Outcome",
    "Process",
    "Stuck",
    "VirtualClock",
    "VirtualLoop",
    "World",
    "simulate",
]


def simulate(options: Options, store: Store) -> Outcome:
    """Run one world to its rest and check everything that must hold.

    Args:
        options: `Options.draw(seed)`, or any other.
        store: open and empty; its methods must never really wait (memory, or SQLite inline).
    """
    outcome = World(options, store).run()
    try:
        check(outcome)
    except Exception as error:
        outcome.problems.append(f"the checkers could not read what is left: {error!r}")
    return outcome
