"""Every fault of the engine is needed: for each a bug that only it can find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from stmflow import At, Sleep, Workflow, impossible, perform, reject, sleep
from stmflow.check import Check, Faults, Move, Send, Told, View, always, explore, prove, step
from stmflow.check.search import NO_IMPOSSIBLE
from tests.check.parcel import NONE, Order, Pack, model, parcel

A = parcel("a")


def counts(task: Pack, world: int) -> Iterator[tuple[Any, int]]:
    """Packs once more, each time it is asked: not idempotent."""
    yield None, min(world + 1, 3)


def sent(view: View) -> bool:
    return getattr(view.state(A), "status", None) == "sent"


def untouched(before: View, action: Told, after: View) -> bool:
    return not sent(before) or before.world == after.world


def packing(property: Any, faults: Faults) -> Check:
    return model(handlers={Pack: counts}, world=0, properties=[property], faults=faults)


def test_only_a_lost_answer_shows_that_a_handler_is_not_idempotent() -> None:
    once = always("packed once", lambda v: v.world <= 1)
    assert prove(packing(once, NONE)).holds
    assert prove(packing(once, Faults(lost=True, late=0))).wrong


def test_only_a_late_attempt_touches_what_is_done() -> None:
    done = step("what is sent is not touched", untouched)
    assert prove(packing(done, Faults(lost=True, late=0))).holds
    assert prove(packing(done, Faults(lost=False, late=1))).wrong


@pytest.mark.parametrize("late", [0, 1, 2])
def test_so_many_late_attempts_may_be_under_way_at_once(late: int) -> None:
    graph = explore(packing(always("-", lambda v: True), Faults(lost=False, late=late)))
    assert max(len(state[4]) for state in graph.states) == late


# --- order and time -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    name: str


@dataclass(frozen=True, slots=True)
class Poke:
    name: str
    at: At = 0


@dataclass(frozen=True, slots=True)
class LeftDone: ...


@dataclass(frozen=True, slots=True)
class RightDone: ...


@dataclass(frozen=True, slots=True)
class Over: ...


@dataclass(frozen=True, slots=True)
class Left: ...


@dataclass(frozen=True, slots=True)
class Right: ...


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    left: bool = False
    over: bool = False


def work(effects: Any) -> Workflow:
    """Takes it that the left is done before the right, that work ends before the time is over, and
    that nobody asks after the time is over but before the timer has said so."""

    def update(event: Any, state: Work | None) -> object:
        match event, state:
            case Begin(name), None:
                return Work(name), effects
            case LeftDone(), Work(over=False):
                return replace(state, left=True), []
            case RightDone(), Work(left=True, over=False):
                return state, []
            case Over(), Work():
                return replace(state, over=True), []
            case Poke(), None:
                return reject("NotFound")
            case Poke(at=at), Work(over=over) if over or at <= 10:
                return state, []
        return impossible()

    return Workflow(
        "work",
        state=Work,
        events=(Begin, Poke, LeftDone, RightDone, Over),
        outside=(Begin, Poke),
        tasks=(Left, Right),
        update=update,
        key=("name",),
    )


def quick(task: Any, world: Any) -> Iterator[tuple[Any, Any]]:
    yield None, world


LEFT, RIGHT = perform(Left()).then(LeftDone), perform(Right()).then(RightDone)
TIMER = sleep(until=10, during=("Work",)).then(Over)


def wrongs(effects: Any, *sends: Send, overdue: bool = False) -> list[str]:
    check = Check(
        [work(effects)],
        sends=[Send(Begin("a")), *sends],
        handlers={Left: quick, Right: quick},
        faults=replace(NONE, overdue=overdue),
    )
    return [one.property for one in prove(check).wrong]


def test_only_reordering_shows_that_side_by_side_is_no_order() -> None:
    assert wrongs([LEFT]) == []
    assert wrongs([LEFT, RIGHT]) == [NO_IMPOSSIBLE]
    chained = perform(Left()).then(LeftDone).and_(perform(Right())).then(RightDone)
    assert wrongs([chained]) == []


def test_a_timer_may_come_before_the_task_that_it_guards() -> None:
    assert wrongs([TIMER]) == []
    assert wrongs([LEFT, TIMER]) == [NO_IMPOSSIBLE]


def test_only_an_overdue_timer_shows_what_comes_between_deadline_and_timer() -> None:
    assert wrongs([TIMER], Send(Poke("a"))) == []
    assert wrongs([TIMER], Send(Poke("a")), overdue=True) == [NO_IMPOSSIBLE]


@pytest.mark.parametrize("faults", [Faults(), NONE, Faults(late=2), Faults(overdue=True)])
def test_faults_only_add_behaviours(faults: Faults) -> None:
    def seen(one: Faults) -> set[Any]:
        check = model(
            Send(Order("a", timed=True)),
            moves=[Move("steal", lambda box: [frozenset()])],
            faults=one,
        )
        graph = explore(check)
        views = map(graph.view, range(len(graph.states)))
        return {(v.state(A), v.world, _timers(v)) for v in views}

    assert seen(NONE) <= seen(faults)


def _timers(view: View) -> int:
    return sum(isinstance(task, Sleep) for task in view.open(A))
