"""Deterministic simulation: the production code in one virtual world, drawn from a seed.

    outcome = simulate(7, MemoryStore(), workload=Parcels)
    assert not outcome.problems, outcome.report()

    campaign(Parcels, MemoryStore, seeds=range(1_000))
    campaign(Parcels, MemoryStore, seeds=crash_points(Parcels, MemoryStore()))

`Parcels` is a `Workload`: your workflows and handlers, and what clients do with them.
`python -m scheduler.testing replay 7 --workload parcels:Parcels` shows one seed again;
docs/simulation.md says more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from random import Random

from scheduler.testing.checks import Rest, check
from scheduler.testing.client import Client
from scheduler.testing.faults import FAULTS, Connection, Faults, FaultyStore, at_once
from scheduler.testing.loop import Process, Stuck, VirtualClock, VirtualLoop
from scheduler.testing.options import Crash, Options, Outcome
from scheduler.testing.shop import Shop
from scheduler.testing.workload import Workload
from scheduler.testing.world import World
from stmflow.store import Store

__all__ = [
    "FAULTS",
    "Client",
    "Crash",
    "Faults",
    "FaultyStore",
    "Joined",
    "Options",
    "Outcome",
    "Process",
    "Rest",
    "Shop",
    "Stuck",
    "VirtualClock",
    "VirtualLoop",
    "Workload",
    "World",
    "campaign",
    "crash_points",
    "simulate",
]


@dataclass(frozen=True, slots=True)
class Joined:
    """A store to which every process opens a connection of its own, as they do in production:

    Joined(lambda: SQLiteStore.open(path, inline=True))
    """

    open: Callable[[], Connection]


Opening = Store | Connection | Joined
Making = Callable[[Random], Workload]


def simulate(options: Options | int, store: Opening, *, workload: Making = Shop) -> Outcome:
    """Run one world to its rest and check everything that must hold; `problems` is empty if it did.

    Args:
        options: a seed, or what `Options.draw(seed)` gave, changed.
        store: open and empty, or to be opened: `MemoryStore()`, `SQLiteStore.open(":memory:")`, or
            `Joined`. Its methods must never really wait.
        workload: a class of yours, or any function that makes a `Workload`. Default: the
            project's own.
    """
    drawn = Options.draw(options) if isinstance(options, int) else options
    join = store.open if isinstance(store, Joined) else None
    opening = store.open() if isinstance(store, Joined) else store
    if not isinstance(opening, AbstractAsyncContextManager):
        return _simulate(drawn, opening, workload, None)
    opened = at_once(opening.__aenter__())
    try:
        return _simulate(drawn, opened, workload, join)
    finally:
        at_once(opening.__aexit__(None, None, None))


def _simulate(
    options: Options, store: Store, workload: Making, join: Callable[[], Connection] | None
) -> Outcome:
    outcome = World(options, store, workload, join=join).run()
    try:
        check(outcome)
    except Exception as error:
        outcome.problems.append(f"the checkers could not read what is left: {error!r}")
    return outcome


def campaign(
    workload: Making, store: Callable[[], Opening], *, seeds: Iterable[Options | int]
) -> Counter[str]:
    """Run one world after the other; what was seen in them all, and how many `seeds` and `steps`.

    Args:
        store: makes a fresh one for each seed, as `simulate` takes it.
        seeds: or options, as `simulate` takes them. It ends when they do; for a time, give a
            generator that stops then.

    Raises:
        AssertionError: the first world in which something did not hold; its text begins with the
            seed.
    """
    seen: Counter[str] = Counter()
    for seed in seeds:
        outcome = simulate(seed, store(), workload=workload)
        assert not outcome.problems, "\n" + outcome.report()
        seen.update(outcome.seen)
        seen["seeds"] += 1
        seen["steps"] += outcome.steps
    return seen


def crash_points(
    workload: Making, store: Opening, *, seed: int = 0, operations: int = 2, nodes: int = 1
) -> Iterator[Options]:
    """Every single crash of a short life without other faults, for `campaign` or `simulate`: before
    each of its loop steps one process falls, and the commit on its way is lost, or lands.

    Args:
        workload: what `prepare` does is not cut. store: for finding the steps: this life is run on
            it once, without a crash.
        operations: what the one client does, as often as it acts. nodes: how many processes live.

    Raises:
        AssertionError: something did not hold even without a crash.
    """
    calm = Options.calm(seed, operations=operations, nodes=nodes)
    outcome = simulate(calm, store, workload=workload)
    assert not outcome.problems, "\n" + outcome.report()
    for step in range(outcome.began + 1, outcome.steps + 1):
        for lands in (False, True):
            for node in range(nodes):
                yield replace(calm, crashes=(Crash(step, lands, node),))
