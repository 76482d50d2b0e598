"""What the specification says may come of a case: the outcome of each order of its lanes.

The memory store is the specification; a commit on it is one step. A lane that claims or reaps may
also be told that there was nothing: it skips what others hold, and asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from scheduler.testing.faults import at_once
from stmflow.store import Batch
from stmflow.store.memory import MemoryStore
from tests.exhaustive.cases import EMPTY, Case, Look, Stage, Wish, observed, told

Outcome = tuple[tuple[Any, ...], Any]
"""What each lane was told, and what can be seen afterwards."""


def serial_outcomes(case: Case, run: str) -> dict[tuple[int, ...], Outcome]:
    """The outcome of every order of the lanes; an order may leave lanes out that only skip."""
    found: dict[tuple[int, ...], Outcome] = {}
    for order in permutations(range(case.lanes)):
        for taken in _taken(case, run, order):
            found.setdefault(taken, at_once(_serial(case, run, taken)))
    return found


def _taken(case: Case, run: str, order: Sequence[int]) -> list[tuple[int, ...]]:
    wishes = at_once(case.prepare(Stage(MemoryStore(), run)))
    found: list[tuple[int, ...]] = [()]
    for lane in order:
        longer = [(*each, lane) for each in found]
        found = longer + (found if _skips(wishes[lane]) else [])
    return found


def _skips(wish: Wish) -> bool:
    return isinstance(wish, Batch) and type(wish.members[0]) in EMPTY


async def _serial(case: Case, run: str, order: Sequence[int]) -> Outcome:
    stage = Stage(MemoryStore(), run)
    wishes = await case.prepare(stage)
    answers: dict[int, Any] = {}
    for lane in order:
        answers[lane] = told(stage, await act(stage.store, wishes[lane], now=True))
    for lane, wish in enumerate(wishes):
        if lane not in answers:
            answers[lane] = (EMPTY[type(wish.members[0])],)
    return tuple(answers[lane] for lane in range(case.lanes)), await observed(stage)


async def act(store: Any, wish: Wish, *, now: bool = False) -> Any:
    """Do what a lane wishes. `now`: plan it on the heads as they are, as a store does under its
    lock where one has moved."""
    if isinstance(wish, Look):
        return await store.heads(wish.jobs)
    if now and wish.replan is not None:
        wish = Batch(wish.replan(lambda job: at_once(store.heads([job]))[job]))
    return list(await store.commit(wish))


def explained(outcome: Outcome, serial: dict[tuple[int, ...], Outcome]) -> tuple[int, ...] | None:
    """The order of lanes that comes to the same, or None."""
    return next((order for order, each in serial.items() if each == outcome), None)


__all__ = ["Outcome", "act", "explained", "serial_outcomes"]
