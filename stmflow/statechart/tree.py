"""A chart made ready: nodes in document order, cells as edges, everything checked once.

What can be refused before any job exists is refused here: unknown targets, targets that cannot be
active together, and eventless cells that could follow one another without end.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import wraps
from itertools import combinations, product
from typing import Any

from stmflow.errors import InvalidWorkflow, LimitExceeded
from stmflow.limits import LIMITS
from stmflow.schema import tag_of
from stmflow.statechart.model import (
    Act,
    Cell,
    Cells,
    Final,
    Go,
    Guard,
    History,
    Invoke,
    Parallel,
    Refuse,
    State,
    Stay,
)

_NAME = re.compile(r"[^\s+]+")


@dataclass(slots=True, eq=False)
class Edge:
    """A cell: from its source, on one of these event names (none: eventless), to these targets."""

    source: Node
    events: tuple[str, ...]
    to: tuple[str, ...]
    cell: Go | Stay | Refuse
    when: Guard | None
    acts: tuple[Act, ...]
    targets: tuple[Node, ...] = ()


@dataclass(slots=True, eq=False)
class Node:
    """A state in its place. `order` is that of the document; the root stands for the chart."""

    name: str
    spec: State
    parent: Node | None
    order: int
    children: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    initial: Edge | None = None
    entry: tuple[Act, ...] = ()
    exit: tuple[Act, ...] = ()
    invokes: tuple[Invoke, ...] = ()
    timers: tuple[int, ...] = ()
    gives: Callable[..., Any] | None = None

    @property
    def parallel(self) -> bool:
        return isinstance(self.spec, Parallel)

    @property
    def final(self) -> bool:
        return isinstance(self.spec, Final)

    @property
    def history(self) -> bool:
        return isinstance(self.spec, History)

    @property
    def states(self) -> list[Node]:
        """Its children that can be active."""
        return [child for child in self.children if not child.history]

    @property
    def atomic(self) -> bool:
        return not self.states and not self.history

    @property
    def compound(self) -> bool:
        return bool(self.states) and not self.parallel

    def ancestors(self, until: Node | None = None) -> Iterator[Node]:
        """Its parent, its parent's parent and so on, up to but without `until`."""
        node = self.parent
        while node is not None and node is not until:
            yield node
            node = node.parent

    def within(self, other: Node) -> bool:
        """Whether it is below `other`."""
        return any(node is other for node in self.ancestors())

    def leaves(self) -> Iterator[tuple[str, ...]]:
        """Every legal set of leaves while this is active, each in document order."""
        if self.atomic:
            yield (self.name,)
        elif self.parallel:
            for parts in product(*(list(child.leaves()) for child in self.states)):
                yield tuple(name for part in parts for name in part)
        else:
            for child in self.states:
                yield from child.leaves()


class Tree:
    """All nodes of a chart.

    Args:
        root: the chart as a state. prefixes: an event's name also matches what it begins with, cut
            at a dot, and `*`, as SCXML has it.

    Raises:
        InvalidWorkflow: says which state is wrong, and how.
    """

    def __init__(self, root: State, *, prefixes: bool = False) -> None:
        self.prefixes = prefixes
        self.nodes: list[Node] = []
        self.by_name: dict[str, Node] = {}
        self.root = self._add(root, None)
        for node in self.nodes:
            self._link(node)
        refuse_endless(self)

    def __getitem__(self, name: str) -> Node:
        try:
            return self.by_name[name]
        except KeyError:
            raise InvalidWorkflow(f"no state {name!r}") from None

    def matches(self, edge: Edge, name: str) -> bool:
        """Whether the edge is for events of that name."""
        if name in edge.events:
            return True
        return self.prefixes and any(
            event == "*" or name.startswith(f"{event}.") for event in edge.events
        )

    def _add(self, spec: State, parent: Node | None) -> Node:
        if parent is not None and not _NAME.fullmatch(spec.name):
            raise InvalidWorkflow(f"{spec.name!r} is no name of a state: no blanks, and no plus")
        if spec.name in self.by_name:
            raise InvalidWorkflow(f"two states have the name {spec.name!r}")
        node = Node(spec.name, spec, parent, len(self.nodes))
        self.nodes.append(node)
        self.by_name[spec.name] = node
        node.children = [self._add(child, node) for child in spec.states]
        return node

    def _link(self, node: Node) -> None:
        spec = node.spec
        node.entry, node.exit = _acts(spec.entry), _acts(spec.exit)
        invokes = (spec.invoke,) if isinstance(spec.invoke, Invoke) else spec.invoke
        node.invokes = tuple(replace(one, task=taking(one.task)) for one in invokes)
        node.gives = _taking(spec.gives) if isinstance(spec, Final) else None
        for event, cells in spec.on.items() if isinstance(spec.on, Mapping) else spec.on:
            names = tuple(event.split()) if isinstance(event, str) else (tag_of(event),)
            node.edges += self._edges(node, names, cells)
        node.edges += self._edges(node, (f"done.state.{node.name}",), spec.done)
        for delay, cells in spec.after.items():
            ms = delay // timedelta(milliseconds=1)
            if ms <= 0:
                raise InvalidWorkflow(f"{node.name}: after {delay} is no time")
            if ms > LIMITS.timer_max_ms:
                raise LimitExceeded(f"{node.name}: after {ms} ms; at most {LIMITS.timer_max_ms}")
            node.timers = (*node.timers, ms)
            node.edges += self._edges(node, (timer(node, ms),), cells)
        node.edges += self._edges(node, (), spec.always)
        self._shape(node)

    def _edges(self, node: Node, events: tuple[str, ...], cells: Cells) -> list[Edge]:
        found = []
        for cell in (cells,) if isinstance(cells, (str, Go, Stay, Refuse)) else cells:
            found.append(self._edge(node, events, cell))
            if not events and not isinstance(found[-1].cell, Go):
                raise InvalidWorkflow(f"{node.name}: what is always done can only go somewhere")
        return found

    def _edge(self, node: Node, events: tuple[str, ...], cell: Cell) -> Edge:
        cell = Go(cell) if isinstance(cell, str) else cell
        if not isinstance(cell, Go):
            return Edge(node, events, (), cell, _taking(cell.when), ())
        to = (cell.to,) if isinstance(cell.to, str) else tuple(cell.to or ())
        acts = () if cell.do is None else _acts(cell.do)
        edge = Edge(node, events, to, cell, _taking(cell.when), acts)
        for name in to:
            if name not in self.by_name or self.by_name[name].parent is None:
                raise InvalidWorkflow(f"{node.name}: no state {name!r} to go to")
        edge.targets = tuple(self.by_name[name] for name in to)
        for one, other in combinations(edge.targets, 2):
            meet = self.common([one, other], compound=False)
            if not meet.parallel or one.within(other) or other.within(one):
                raise InvalidWorkflow(f"{node.name}: {one.name} and {other.name} exclude another")
        return edge

    def _shape(self, node: Node) -> None:
        """What is special about its kind."""
        spec = node.spec
        if isinstance(spec, History):
            if node.parent is None or node.children or node.edges or not spec.default:
                raise InvalidWorkflow(f"{node.name}: a history has a default, and nothing else")
            node.initial = self._edge(node, (), spec.default)
        elif node.final and (node.children or node.edges or node.invokes):
            raise InvalidWorkflow(f"{node.name} is final: nothing can follow in it")
        elif node.parallel and not node.states:
            raise InvalidWorkflow(f"{node.name}: a parallel state has regions")
        elif node.parallel and any(child.final for child in node.children):
            raise InvalidWorkflow(f"{node.name}: a region cannot be a final state itself")
        elif node.compound:
            node.initial = self._edge(node, (), spec.initial or node.states[0].name)
        if node.initial is not None:
            around = node.parent if node.history else node
            assert around is not None
            targets = node.initial.targets
            if not targets or not all(target.within(around) for target in targets):
                raise InvalidWorkflow(f"{node.name} can only begin inside {around.name}")

    def common(self, nodes: Sequence[Node], *, compound: bool = True) -> Node:
        """The innermost (compound) state around all of them."""
        for node in nodes[0].ancestors():
            if (node.compound or node.parent is None or not compound) and all(
                other.within(node) for other in nodes[1:]
            ):
                return node
        return self.root


def timer(node: Node, ms: int) -> str:
    """The name of the timer, and of its event, that fires so long after entry."""
    return f"after.{node.name}.{ms}"


def _acts(acts: Act | Sequence[Act]) -> tuple[Act, ...]:
    return tuple(taking(act) for act in ((acts,) if callable(acts) else acts))


def _taking(function: Guard | None) -> Guard | None:
    return None if function is None else taking(function)


def taking(function: Callable[..., Any], most: int = 3) -> Callable[..., Any]:
    """A function that takes only the first of so many arguments, as one that takes them all."""
    takes = len(inspect.signature(function).parameters)
    if takes >= most:
        return function

    @wraps(function)
    def first(*given: Any) -> Any:
        return function(*given[:takes])

    return first


# --- eventless cycles ---------------------------------------------------------------------------


def refuse_endless(tree: Tree) -> None:
    """Refuse cells without an event that could follow one another for ever.

    A loop is let pass only if one of its cells has a guard and an act on its way that may turn it
    false; then `chart_microsteps` bounds it.
    """
    edges = [edge for node in tree.nodes for edge in node.edges if not edge.events]
    bounded = {edge for edge in edges if edge.when is not None and _acting(edge)}
    after = {edge: _enabled_by(tree, edge, edges) - bounded for edge in edges}
    done: set[Edge] = set()
    for first in edges:
        if first not in bounded:
            _walk(first, after, done, [])


def _acting(edge: Edge) -> bool:
    return bool(edge.acts or edge.source.exit or any(target.entry for target in edge.targets))


def _walk(
    edge: Edge, after: Mapping[Edge, Iterable[Edge]], done: set[Edge], path: list[Edge]
) -> None:
    if edge in path:
        names = [one.source.name for one in path[path.index(edge) :]]
        raise InvalidWorkflow(f"eventless cells without end: {' → '.join([*names, names[0]])}")
    if edge in done:
        return
    for following in after[edge]:
        _walk(following, after, done, [*path, edge])
    done.add(edge)


def _enabled_by(tree: Tree, edge: Edge, edges: Iterable[Edge]) -> set[Edge]:
    """The eventless edges out of states that this one may enter or does not leave by itself."""
    if not edge.targets:
        return {edge}
    domain = tree.common([edge.source, *edge.targets])
    recalls = any(target.history for target in edge.targets)
    staying = {domain, *(edge.source if recalls else domain).ancestors()}
    entered = {node for target in edge.targets for node in _entered(target, domain)}
    return {one for one in edges if one.source in entered or one.source in staying}


def _entered(target: Node, domain: Node) -> Iterator[Node]:
    """What an edge to there may enter: what is in it, around it, and beside it in other regions."""
    yield target
    yield from _defaults(target)
    inner = target
    for around in target.ancestors(domain):
        yield around
        for child in around.states if around.parallel else ():
            if child is not inner:
                yield child
                yield from _defaults(child)
        inner = around


def _defaults(node: Node) -> Iterator[Node]:
    """What may be entered because this is."""
    if node.history:
        assert node.parent is not None
        yield from _below(node.parent)  # wherever it was
    elif node.parallel:
        for child in node.states:
            yield child
            yield from _defaults(child)
    elif node.initial is not None:
        for target in node.initial.targets:
            yield from _entered(target, node)


def _below(node: Node) -> Iterator[Node]:
    for child in node.children:
        yield child
        yield from _below(child)
