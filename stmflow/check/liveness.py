"""Whether what should come comes: fair behaviours without end, found as fair components.

Fairness is weak, class by class: a step that stays possible is taken at last. Every attempt of a
handler, every answer, timer and transaction is a class, and what the model calls `fair`. Lost
answers and late attempts come finitely often. A behaviour that avoids `then` for ever ends in a
state where no fair step is possible, or goes round in a strongly connected component of states that
all avoid it; such a component is fair if each class that is possible in all of its states is taken
inside it. A larger component is never less fair than a part of it, so maximal ones decide: cycles
are followed, not cut (Manna and Pnueli, *Temporal Verification of Reactive Systems*, 1995; the
components by Tarjan, 1972).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from stmflow.check.machine import BODY, FAULTS, MOVE, SEND, Action
from stmflow.check.model import Check, Property
from stmflow.check.search import Graph, Wrong

Class = tuple[Any, ...]


def unfair(graph: Graph, check: Check) -> list[Wrong]:
    """The liveness properties that do not hold; the graph must be whole, with its edges."""
    classes = Classes(check)
    found = []
    for one in check.properties:
        if one.kind == "leads to":
            wrong = _broken(graph, one, classes)
            if wrong is not None:
                found.append(wrong)
    return found


class Classes:
    """The fair class of each step."""

    def __init__(self, check: Check) -> None:
        self._sends = [one.fair for one in check.sends]
        self._bodies = [one.fair for one in check.transactions]
        self._moves = [one.fair for one in check.moves]

    def of(self, action: Action) -> Class | None:
        """None: nothing makes it come."""
        kind = action[0]
        if kind in FAULTS:
            return None
        if kind == SEND:
            return action[:2] if self._sends[action[1]] else None
        if kind == BODY:
            return action[:2] if self._bodies[action[1]] else None
        if kind == MOVE:
            return action[:2] if self._moves[action[1]] else None
        return action[:3]


def begun(graph: Graph, one: Property) -> list[int]:
    """The states from which on `then` is awaited."""
    if one.when is None:
        return [0]
    when = graph.where(one.when)
    return [at for at in range(len(graph.states)) if when(at)]


def awaiting(graph: Graph, one: Property) -> dict[int, int]:
    """Where `then` is still awaited: state → the one before it."""
    then = graph.where(one.test)

    def lacks(at: int) -> bool:
        return at not in graph.cut and not then(at)

    starts = [at for at in begun(graph, one) if lacks(at)]
    return _reach(starts, lambda at: (to for to, _ in graph.edges[at] if lacks(to)))


def _broken(graph: Graph, one: Property, classes: Classes) -> Wrong | None:
    came = awaiting(graph, one)
    fair = {at: {classes.of(action) for _, action in graph.edges[at]} - {None} for at in came}
    stuck = min((at for at in came if not fair[at]), default=None)
    if stuck is not None:
        way = _way(came, stuck)
        return Wrong(one.name, "never comes: nothing is left to happen", way[0], cycle=way)

    def quiet(at: int) -> Iterable[int]:
        """Steps that a behaviour without further faults may take."""
        return (to for to, action in graph.edges[at] if to in came and action[0] not in FAULTS)

    for component in components(sorted(came), quiet):
        members = set(component)
        if len(component) == 1 and component[0] not in set(quiet(component[0])):
            continue
        taken = {
            classes.of(action)
            for at in component
            for to, action in graph.edges[at]
            if to in members
        }
        always = set.intersection(*(fair[at] for at in component))
        if always <= taken:
            entry = min(component)
            way = _way(came, entry)
            round_ = _round(graph, component, fair, classes, entry)
            return Wrong(one.name, "may never come", way[0], cycle=[*way, *round_])
    return None


def _reach(starts: Iterable[int], next: Callable[[int], Iterable[int]]) -> dict[int, int]:
    """Everything reached: state → the one before it (itself, for a start), breadth first."""
    came = {at: at for at in starts}
    queue = deque(came)
    while queue:
        at = queue.popleft()
        for to in next(at):
            if to not in came:
                came[to] = at
                queue.append(to)
    return came


def _way(came: dict[int, int], at: int) -> list[int]:
    """From a start to that state."""
    way = [at]
    while came[at] != at:
        at = came[at]
        way.append(at)
    return way[::-1]


def _round(
    graph: Graph,
    component: Collection[int],
    fair: dict[int, set[Any]],
    classes: Classes,
    entry: int,
) -> list[int]:
    """A fair way round the component and back to its entry: for each class a state where it is not
    possible, or a step of it."""
    members = set(component)

    def steps(at: int) -> list[tuple[int, Action]]:
        return [
            (to, action)
            for to, action in graph.edges[at]
            if to in members and action[0] not in FAULTS
        ]

    way, at = [], entry
    for each in sorted(fair[entry], key=repr):
        here = _reach([at], lambda one: (to for to, _ in steps(one)))
        for goal in here:  # breadth first: the nearest
            if each not in fair[goal]:
                way += _way(here, goal)[1:]
                at = goal
                break
            taken = [to for to, action in steps(goal) if classes.of(action) == each]
            if taken:
                way += [*_way(here, goal)[1:], taken[0]]
                at = taken[0]
                break
    if at == entry and way:
        return way
    first = next(to for to, _ in steps(at))
    back = _reach([first], lambda one: (to for to, _ in steps(one)))
    return [*way, *_way(back, entry)]


def components(nodes: Sequence[int], next: Callable[[int], Iterable[int]]) -> Iterable[list[int]]:
    """The strongly connected components (Tarjan), without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on: set[int] = set()
    for root in nodes:
        if root in index:
            continue
        work = [(root, iter(next(root)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on.add(root)
        while work:
            at, following = work[-1]
            for to in following:
                if to not in index:
                    index[to] = low[to] = len(index)
                    stack.append(to)
                    on.add(to)
                    work.append((to, iter(next(to))))
                    break
                if to in on:
                    low[at] = min(low[at], index[to])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[at])
                if low[at] == index[at]:
                    component = []
                    while True:
                        one = stack.pop()
                        on.discard(one)
                        component.append(one)
                        if one == at:
                            break
                    yield component
