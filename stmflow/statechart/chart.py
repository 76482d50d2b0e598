"""A chart as a workflow: its configuration is a frozen state, a macro-step is one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from datetime import timedelta
from typing import Any

from stmflow.effect import ANY, Effect, cancel, perform, sleep
from stmflow.errors import InvalidWorkflow
from stmflow.schema import At, schema_of, tag_of
from stmflow.statechart.model import Act, Cells, Go, State
from stmflow.statechart.step import Memory, Step, Stepped
from stmflow.statechart.tree import Node, Tree, timer
from stmflow.workflow import Workflow, ignore, reject, same


@dataclass(frozen=True, slots=True)
class Active:
    """What the state of every chart has; its `data` is of the chart's own type.

    Attributes:
        active: the names of the active leaves, one for each region, in document order.
        memory: (history, what it remembers), sorted.
        data: the extended state.
    """

    tag = "chart"
    active: tuple[str, ...]
    memory: Memory
    data: Any


class Chart:
    """A statechart, checked and made into a workflow.

    Args:
        name: the workflow's. states: the states at the top. initial: where it begins; the first.
        data: the frozen type of the extended state. start: `(event)` → the data of a new job.
        on: cells for what no state answers. Without one an event is *ignored*. entry: acts at the
            beginning of a job. prefixes: names of events match by what they begin with, and may be
            unknown to `events`, as SCXML has it.
        begin: event types that only begin a job: the chart is entered and that is all. By others a
            job begins if a cell takes them in the initial configuration.
        events, outside, tasks, key, and whatever else is given: as `Workflow` takes them. The
            events of timers need not be listed. `outside` is by default what nothing invokes.

    Attributes:
        workflow: give it to the transactor. tree: the chart made ready.

    Raises:
        InvalidWorkflow: a name that is none or not unique, targets that cannot be active together,
            an event that is not declared, eventless cells without end.
    """

    def __init__(
        self,
        name: str,
        *,
        states: Sequence[State],
        data: type,
        start: Callable[[Any], Any],
        events: Sequence[type],
        initial: str | Go | None = None,
        on: Mapping[Any, Cells] | Sequence[tuple[Any, Cells]] = (),
        entry: Act | Sequence[Act] = (),
        begin: Sequence[type] = (),
        outside: Sequence[type] | None = None,
        prefixes: bool = False,
        **how: Any,
    ) -> None:
        self.tree = Tree(State("", states, initial, on, entry=entry), prefixes=prefixes)
        self.events = tuple(events)
        self._start = start
        self._begin = frozenset(begin)
        self._declared()
        inside = {kind for one in self._invokes() for kind in (one.done, one.error)}
        shown = [kind for kind in events if kind not in inside] if outside is None else outside
        self.state: Any = make_dataclass(
            "Active",
            [("active", tuple[str, ...]), ("memory", Memory), ("data", data)],
            bases=(Active,),
            frozen=True,
        )
        self.workflow = Workflow(
            name,
            state=self.state,
            events=(*events, *self._timeouts()),
            outside=shown,
            update=self._update,
            tag=lambda state: "+".join(state.active),
            **how,
        )

    def inside(self, state: Active | None, name: str) -> bool:
        """Whether the state of that name is active, itself or by one inside it."""
        node = self.tree[name]
        leaves = () if state is None else map(self.tree.__getitem__, state.active)
        return any(leaf is node or leaf.within(node) for leaf in leaves)

    def configurations(self) -> list[tuple[str, ...]]:
        """Every legal set of active leaves, reached or not."""
        return list(self.tree.root.leaves())

    def _update(self, event: Any, state: Active | None) -> Any:
        if state is None:
            step = Step(self.tree, (), (), self._start(event))
            step.begin(event)
            handled = type(event) in self._begin
        else:
            step = Step(self.tree, state.active, state.memory, state.data)
            handled = False
            if step.over:
                return ignore()
        if not handled:
            self._feed(step, event)
        done = step.result()
        if handled or done.took or (state is not None and done.data is not state.data):
            data, effects = self._last(event, done.data, state)
            after = self.state(done.active, done.memory, data)
            return after, [*_effects(event, done), *effects]
        if done.stay:
            return same()
        return ignore() if done.refused is None else reject(done.refused)

    def _feed(self, step: Step, event: Any) -> None:
        """Let the event happen."""
        step.send(event)

    def _last(self, event: Any, data: Any, before: Active | None) -> tuple[Any, Sequence[Effect]]:
        """What is still done to the data, and asked for, when everything has happened."""
        return data, ()

    # --- what has to be declared ------------------------------------------------------------------

    def _invokes(self) -> Iterator[Any]:
        for node in self.tree.nodes:
            yield from node.invokes

    def _timeouts(self) -> list[type]:
        """An event type for each timer."""
        return [
            make_dataclass("After", [("at", At)], frozen=True, namespace={"tag": timer(node, ms)})
            for node in self.tree.nodes
            for ms in node.timers
        ]

    def _declared(self) -> None:
        """Every event that a cell waits for, or a task becomes, is one of the chart's."""
        if self.tree.prefixes:
            return
        known = {tag_of(kind) for kind in self.events}
        done = {f"done.state.{node.name}" for node in self.tree.nodes}
        after = {timer(node, ms) for node in self.tree.nodes for ms in node.timers}
        for edge in (edge for node in self.tree.nodes for edge in node.edges):
            if stray := set(edge.events) - known - done - after:
                raise InvalidWorkflow(f"{edge.source.name}: {', '.join(stray)} is not among events")
        for one in self._invokes():
            if stray := {one.done, one.error} - {None, *self.events}:
                raise InvalidWorkflow(f"an invoke becomes {stray}, which is not among events")
            if one.error is not None and schema_of(one.error).free != ("error",):
                raise InvalidWorkflow(f"{one.error.__name__} is a failure: its field is error")


def _effects(event: Any, done: Stepped) -> Iterator[Effect]:
    """What is withdrawn because a state was left, what acts asked for, what entries start."""
    for node in done.left:
        for name in (*_invoked(node), *(timer(node, ms) for ms in node.timers)):
            yield cancel(name)
    yield from done.effects
    active = frozenset(done.active)
    for node in done.entered:
        for name, invoke in zip(_invoked(node), node.invokes, strict=True):
            effect = perform(invoke.task(event, done.data, active), name=name).then(invoke.done)
            yield effect if invoke.error is None else effect.catch(invoke.error)
        for ms in node.timers:
            name, delay = timer(node, ms), timedelta(milliseconds=ms)
            yield sleep(for_=delay, name=name, during=ANY).then(name)


def _invoked(node: Node) -> list[str]:
    """The names of the tasks that a state invokes."""
    return [f"invoke.{node.name}.{at}" for at in range(len(node.invokes))]
