"""Fair behaviours without end: the components against a search that tries every set of states."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stmflow.check import Check, leads_to
from stmflow.check.liveness import components, unfair
from stmflow.check.machine import LOSE, MOVE
from stmflow.check.model import Move

# A step is (target, class): a class of its own number is a fair move, None an unfair one, "lost" a
# fault.
Steps = list[list[tuple[int, Any]]]

CLASSES = 3


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Steps, list[bool], list[bool]]:
    size = draw(st.integers(1, 5))
    kinds = st.sampled_from([*range(CLASSES), None, "lost"])
    edge = st.tuples(st.integers(0, size - 1), kinds)
    steps = [draw(st.lists(edge, max_size=4)) for _ in range(size)]
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    return steps, draw(flags), draw(flags)


class _Graph:
    """As much of a graph as liveness looks at."""

    def __init__(self, steps: Steps) -> None:
        self.states = list(range(len(steps)))
        self.cut: set[int] = set()
        self.edges = [[(to, _action(kind)) for to, kind in out] for out in steps]

    def where(self, test: Any) -> Any:
        return lambda at: test(SimpleNamespace(at=at))


def _action(kind: Any) -> tuple[Any, ...]:
    if kind == "lost":
        return (LOSE, 0, 0)
    return (MOVE, CLASSES if kind is None else kind, 0)


def _check(when: list[bool], then: list[bool]) -> Check:
    moves = [Move(str(each), lambda world: [], fair=each < CLASSES) for each in range(CLASSES + 1)]
    one = leads_to("comes", lambda view: when[view.at], lambda view: then[view.at])
    return Check([], moves=moves, properties=[one])


def brute(steps: Steps, when: list[bool], then: list[bool]) -> bool:
    """Whether some fair behaviour starts at `when` and avoids `then` for ever: it ends where no
    fair step is possible, or some set of states, all visited again and again, is fair."""
    alive = [at for at in range(len(steps)) if not then[at]]
    came = {at for at in alive if when[at]}
    while more := {to for at in came for to, _ in steps[at] if not then[to]} - came:
        came |= more
    fair = {at: {kind for _, kind in steps[at] if kind not in (None, "lost")} for at in came}
    if any(not fair[at] for at in came):
        return True
    return any(
        _goes_round(steps, set(some), fair)
        for size in range(1, len(came) + 1)
        for some in combinations(sorted(came), size)
    )


def _goes_round(steps: Steps, some: set[int], fair: dict[int, set[Any]]) -> bool:
    inside = {
        at: [(to, kind) for to, kind in steps[at] if to in some and kind != "lost"] for at in some
    }
    if not all(some <= _reached(inside, at) for at in some):
        return False
    taken = {kind for out in inside.values() for _, kind in out}
    return set.intersection(*(fair[at] for at in some)) <= taken


def _reached(inside: dict[int, list[tuple[int, Any]]], at: int) -> set[int]:
    """By one step or more."""
    found = {to for to, _ in inside[at]}
    while more := {to for one in found for to, _ in inside[one]} - found:
        found |= more
    return found


@settings(max_examples=150)
@given(graphs())
def test_a_fair_behaviour_that_avoids_it_is_found_exactly_where_there_is_one(
    drawn: tuple[Steps, list[bool], list[bool]],
) -> None:
    steps, when, then = drawn
    graph: Any = _Graph(steps)
    assert bool(unfair(graph, _check(when, then))) == brute(steps, when, then)


@settings(max_examples=150)
@given(graphs())
def test_the_behaviour_that_is_shown_is_one(
    drawn: tuple[Steps, list[bool], list[bool]],
) -> None:
    steps, when, then = drawn
    graph: Any = _Graph(steps)
    for wrong in unfair(graph, _check(when, then)):
        way = list(wrong.cycle)
        assert when[way[0]]
        assert not any(then[at] for at in way)
        for at, to in pairwise(way):
            assert to in {one for one, _ in steps[at]}
        fair = {at: {kind for _, kind in steps[at] if kind not in (None, "lost")} for at in way}
        if fair[way[-1]]:
            assert any(_fair_round(steps, way[at:], fair) for at in range(len(way) - 1))


def _fair_round(steps: Steps, round_: list[int], fair: dict[int, set[Any]]) -> bool:
    """Whether this is a way round, and each class is taken on it or not possible somewhere."""
    if round_[0] != round_[-1]:
        return False
    taken = {
        kind
        for at, to in pairwise(round_)
        for one, kind in steps[at]
        if one == to and kind != "lost"
    }
    return set.intersection(*(fair[at] for at in round_)) <= taken


@given(graphs())
def test_components_are_what_reaches_each_other(
    drawn: tuple[Steps, list[bool], list[bool]],
) -> None:
    steps = drawn[0]
    plain = {at: list(out) for at, out in enumerate(steps)}

    def next(at: int) -> Iterator[int]:
        return (to for to, _ in steps[at])

    found = list(components(range(len(steps)), next))
    assert sorted(at for one in found for at in one) == list(range(len(steps)))
    where = {at: number for number, one in enumerate(found) for at in one}
    for one in where:
        for other in where:
            mutual = other in _reached(plain, one) and one in _reached(plain, other)
            assert (where[one] == where[other]) == (mutual or one == other)
