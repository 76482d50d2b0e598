"""A macro-step: what one event does to a chart. Pure: values in, values out.

The order is that of W3C SCXML 1.0, appendix D: the innermost state that answers an event decides
for its region, exits run from the inside out, entries from the outside in, and what an act raises
is handled before anything else, until nothing is left to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stmflow.effect import Effect
from stmflow.errors import LimitExceeded
from stmflow.limits import LIMITS
from stmflow.schema import tag_of
from stmflow.statechart.model import Act, Did, Done, Go, History, Refuse, Stay
from stmflow.statechart.tree import Edge, Node, Tree

Memory = tuple[tuple[str, tuple[str, ...]], ...]
"""History → the names of what was active, sorted."""


class Faulty(Exception):
    """Raised by a guard or act that failed in a way the chart may handle: as an event."""

    def __init__(self, event: Any) -> None:
        super().__init__(event)
        self.event = event


class Named(NamedTuple):
    """An event whose name is not that of its type."""

    name: str
    value: Any


@dataclass(slots=True)
class Stepped:
    """What a macro-step has come to.

    Attributes:
        left, entered: each state once: those that were active before and are not any more, or were
            entered again; those that were entered and are active now.
        took: whether any cell went somewhere or acted. stay, refused: cells that said so.
    """

    active: tuple[str, ...]
    memory: Memory
    data: Any
    effects: list[Effect]
    left: list[Node]
    entered: list[Node]
    took: bool
    stay: bool
    refused: str | None


def name_of(event: Any) -> str:
    """The name under which cells know an event."""
    if isinstance(event, Named):
        return event.name
    if isinstance(event, Done):
        return f"done.state.{event.state}"
    return tag_of(type(event))


class Step:
    """One macro-step under way, or several: an event, what it raises, what it sends."""

    def __init__(self, tree: Tree, active: Sequence[str], memory: Memory, data: Any) -> None:
        self.tree = tree
        self.data = data
        self.active: set[Node] = set()
        for name in active:
            self.active |= {tree[name], *tree[name].ancestors()}
        self.memory = dict(memory)
        self.effects: list[Effect] = []
        self._before = frozenset(self.active)
        self._touched: set[Node] = set()
        self._raised: deque[Any] = deque()
        self._sent: deque[Any] = deque()
        self._event: Any = None
        self._microsteps = 0
        self._took = self._stay = False
        self._refused: str | None = None

    @property
    def over(self) -> bool:
        """Whether the whole chart has come to its end."""
        return any(node.final and node.parent is self.tree.root for node in self.active)

    def begin(self, event: Any) -> None:
        """Enter the initial configuration, and do what follows by itself."""
        self._event = event
        root = self.tree.root
        assert root.initial is not None
        self.active.add(root)
        self._acted(root.entry)
        self._enter([root.initial])
        self._run()
        self._took = self._stay = False  # by the event itself, that is
        self._refused = None

    def send(self, event: Any) -> None:
        """Handle an event to its end, and then what was sent meanwhile."""
        if not self.over:
            self._sent.append(event)
            self._run()

    def result(self) -> Stepped:
        """What has become of it."""
        leaves = _in_order(node for node in self.active if node.atomic)
        gone = [node for node in self._before if node in self._touched or node not in self.active]
        return Stepped(
            tuple(node.name for node in leaves),
            tuple(sorted(self.memory.items())),
            self.data,
            self.effects,
            _in_order(gone),
            [] if self.over else _in_order(self._touched & self.active),
            self._took,
            self._stay,
            self._refused,
        )

    def _run(self) -> None:
        """Until nothing is left to do: eventless cells first, then what was raised, then sent."""
        while True:
            if self.over:
                self._finish()
                return
            edges = self._enabled(None)
            if not edges:
                if self._raised:
                    self._event = self._raised.popleft()
                elif self._sent:
                    self._event = self._sent.popleft()
                else:
                    return
                edges = self._enabled(name_of(self._event))
            self._micro(edges)

    def _finish(self) -> None:
        """The exits of what is still active; the final state stays as what has become of it."""
        self._raised.clear()
        self._sent.clear()
        for node in reversed(_in_order(self.active)):
            self._touched.add(node)
            self._acted(node.exit)

    # --- which edges --------------------------------------------------------------------------

    def _enabled(self, name: str | None) -> list[Edge]:
        """The edges to take: for each leaf the innermost, in document order, without conflicts."""
        judged: dict[Edge, bool] = {}
        found: dict[Edge, None] = {}
        for leaf in _in_order(node for node in self.active if node.atomic):
            edge = self._first(leaf, name, judged)
            if edge is not None:
                found[edge] = None
        return self._without_conflicts(list(found))

    def _first(self, leaf: Node, name: str | None, judged: dict[Edge, bool]) -> Edge | None:
        for node in (leaf, *leaf.ancestors()):
            for edge in node.edges:
                fits = not edge.events if name is None else self.tree.matches(edge, name)
                if not fits:
                    continue
                if edge not in judged:
                    judged[edge] = self._holds(edge)
                if judged[edge]:
                    return edge
        return None

    def _holds(self, edge: Edge) -> bool:
        if edge.when is None:
            return True
        try:
            return bool(edge.when(self._event, self.data, self.names))
        except Faulty as faulty:
            self._raised.append(faulty.event)
            return False

    def _without_conflicts(self, edges: list[Edge]) -> list[Edge]:
        """Of two edges that leave a common state the inner one stays, else the first."""
        kept: list[Edge] = []
        for edge in edges:
            mine = self._exits([edge])
            clash = [one for one in kept if mine & self._exits([one])]
            if all(edge.source.within(one.source) for one in clash):
                kept = [one for one in kept if one not in clash] + [edge]
        return kept

    @property
    def names(self) -> frozenset[str]:
        """The names of all active states."""
        return frozenset(node.name for node in self.active)

    # --- taking them --------------------------------------------------------------------------

    def _micro(self, edges: list[Edge]) -> None:
        self._microsteps += 1
        if self._microsteps > LIMITS.chart_microsteps:
            raise LimitExceeded(f"more than {LIMITS.chart_microsteps} micro-steps for one event")
        for edge in edges:
            self._took = self._took or isinstance(edge.cell, Go)
            self._stay = self._stay or isinstance(edge.cell, Stay)
            if isinstance(edge.cell, Refuse) and self._refused is None:
                self._refused = edge.cell.code
        self._leave(edges)
        for edge in edges:
            self._acted(edge.acts)
        self._enter(edges)

    def _leave(self, edges: Iterable[Edge]) -> None:
        leaving = list(reversed(_in_order(self._exits(edges))))
        for node in leaving:
            for child in node.children:
                if isinstance(child.spec, History):
                    self._remember(child, node, deep=child.spec.deep)
        for node in leaving:
            self._acted(node.exit)
            self.active.discard(node)
            self._touched.add(node)

    def _remember(self, history: Node, around: Node, *, deep: bool) -> None:
        inside = (node for node in self.active if node.within(around))
        kept = [n for n in inside if (n.atomic if deep else n.parent is around)]
        self.memory[history.name] = tuple(node.name for node in _in_order(kept))

    def _exits(self, edges: Iterable[Edge]) -> set[Node]:
        found: set[Node] = set()
        for edge in edges:
            if edge.targets:
                domain = self._domain(edge)
                found |= {node for node in self.active if node.within(domain)}
        return found

    def _domain(self, edge: Edge) -> Node:
        """The innermost state that an edge does not leave."""
        targets = self._aims(edge.targets)
        internal = isinstance(edge.cell, Go) and edge.cell.internal
        if internal and edge.source.compound and all(t.within(edge.source) for t in targets):
            return edge.source
        return self.tree.common([edge.source, *targets])

    def _aims(self, targets: Iterable[Node]) -> list[Node]:
        """The targets, with what a history remembers in its place."""
        found: list[Node] = []
        for target in targets:
            found += self._recalled(target) if target.history else [target]
        return found

    def _recalled(self, history: Node) -> list[Node]:
        if history.name in self.memory:
            return [self.tree[name] for name in self.memory[history.name]]
        assert history.initial is not None
        return self._aims(history.initial.targets)

    # --- entering -----------------------------------------------------------------------------

    def _enter(self, edges: Sequence[Edge]) -> None:
        entering = _Entering(self)
        for edge in edges:
            for target in edge.targets:
                entering.down(target)
            for target in self._aims(edge.targets):
                entering.up(target, self._domain(edge))
        for node in _in_order(entering.nodes - self.active):
            self.active.add(node)
            self._touched.add(node)
            self._acted(node.entry)
            if node in entering.defaults and node.initial is not None:
                self._acted(node.initial.acts)
            for act in entering.histories.get(node, ()):
                self._acted((act,))
            if node.final:
                self._ended(node)

    def _ended(self, node: Node) -> None:
        """A final state was entered: the state around it is done, and perhaps the one around."""
        around = node.parent
        if around is None or around.parent is None:
            return
        value = None
        if node.gives is not None:
            try:
                value = node.gives(self._event, self.data, self.names)
            except Faulty as faulty:
                self._raised.append(faulty.event)
        self._raised.append(Done(around.name, value))
        if around.parent.parallel and self._complete(around.parent):
            self._raised.append(Done(around.parent.name))

    def _complete(self, node: Node) -> bool:
        if node.parallel:
            return all(self._complete(child) for child in node.states)
        return any(child.final and child in self.active for child in node.states)

    def _acted(self, acts: Iterable[Act]) -> None:
        for act in acts:
            did = act(self._event, self.data, self.names)
            if isinstance(did, Did):
                pass
            elif isinstance(did, tuple):
                did = Did(did[0], did[1])
            else:
                did = Did(did)
            self.data = did.data
            self.effects += [did.effects] if isinstance(did.effects, Effect) else did.effects
            self._raised += did.raised
            self._sent += did.sent


class _Entering:
    """The states that some edges enter, the defaults among them, and acts of histories."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.nodes: set[Node] = set()
        self.defaults: set[Node] = set()
        self.histories: dict[Node, tuple[Act, ...]] = {}

    def down(self, node: Node) -> None:
        """The node and what is entered with it."""
        if node.history:
            self._history(node)
            return
        self.nodes.add(node)
        if node.compound and node.initial is not None:
            self.defaults.add(node)
            for target in node.initial.targets:
                self.down(target)
            for target in self.step._aims(node.initial.targets):
                self.up(target, node)
        elif node.parallel:
            self._regions(node)

    def up(self, node: Node, domain: Node) -> None:
        """What is around the node, and the other regions there."""
        for around in node.ancestors(domain):
            self.nodes.add(around)
            if around.parallel:
                self._regions(around)

    def _regions(self, node: Node) -> None:
        for child in node.states:
            if not any(one is child or one.within(child) for one in self.nodes):
                self.down(child)

    def _history(self, node: Node) -> None:
        around, known = node.parent, node.name in self.step.memory
        assert around is not None
        assert node.initial is not None
        if not known:
            self.histories[around] = node.initial.acts
        targets = self.step._recalled(node) if known else list(node.initial.targets)
        for target in targets:
            self.down(target)
        for target in self.step._aims(targets):
            self.up(target, around)


def _in_order(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.order)
