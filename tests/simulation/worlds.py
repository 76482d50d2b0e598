"""Runs simulated worlds for the tests of this folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from scheduler.testing import Client, Options, Outcome, Shop, World, simulate
from scheduler.testing.__main__ import run
from scheduler.testing.checks import check
from scheduler.testing.orders import ORDER, Poke, Start
from stmflow.store.memory import MemoryStore

__all__ = ["OneOrder", "first_bad", "held", "one_order", "run"]


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


class Ordering(Shop):
    """One order, and no more: every operation is known beforehand."""

    async def live(self, client: Client) -> None:
        """Start it, and ask for more time."""
        for event, id in ((Start("o0", "a", 5), "start"), (Poke("o0"), "poke")):
            await client.send(ORDER, event, delivery=id)


class OneOrder(World):
    """One client, one order, one process; the seed only orders what is ready.

    Args:
        crash_at: the loop step before which the process crashes.
        lands: whether a commit that is on its way then takes place.
    """

    def __init__(self, *, crash_at: int | None = None, lands: bool = False) -> None:
        options = Options(
            seed=1,
            rates={},
            nodes=1,
            clients=1,
            operations=2,
            fault_seconds=1.0,
            grain_ms=1_000,
            slots=2,
            lease_seconds=5.0,
            replans=False,
            pure=False,
        )
        super().__init__(options, MemoryStore(), Ordering)
        self.crash_at = crash_at
        self.lands = lands
        self.crashed = False
        self.loop.watch = self._watch

    def _watch(self, step: int) -> None:
        if step == self.crash_at:
            (node,) = [node for node in self.nodes if not node.gone] or [None]
            if node is not None:
                node.store.lands = self.lands
                self.crashed = True
                # The world without faults runs each task once; this one has had a crash.
                self.options.rates["crash"] = 0.0
                self._crash(node)


def one_order(**how: Any) -> tuple[Outcome, OneOrder]:
    """Run it to its rest and check everything."""
    world = OneOrder(**how)
    outcome = world.run()
    check(outcome)
    return outcome, world


def tally(outcomes: list[Outcome]) -> Counter[str]:
    """What happened in all of them."""
    seen: Counter[str] = Counter()
    for outcome in outcomes:
        seen.update(outcome.seen)
    return seen
