"""Breadth first through every state of a model, until something is wrong or nothing is left."""

from __future__ import annotations

import gc
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from random import Random
from typing import Any, NamedTuple

from stmflow.check.machine import FAULTS, Action, Machine, State, Successor, Told
from stmflow.check.model import Check, Property
from stmflow.clock import SystemClock
from stmflow.effect import Perform, Sleep
from stmflow.workflow import Job

NO_IMPOSSIBLE = "no impossible cell is reached"
NO_FAILURE = "no task is parked, and no reducer fails"

STRIDE = 1_024
"""States between two looks at the clock."""

Progress = Callable[["Graph", int], None]
"""Called now and then with the graph so far and the depth that is being explored."""


class Seen:
    """One state, as properties see it (`stmflow.check.model.View`)."""

    __slots__ = ("_machine", "_state")

    def __init__(self, machine: Machine, state: State) -> None:
        self._machine = machine
        self._state = state

    @property
    def world(self) -> Any:
        """The world."""
        return self._machine.worlds[self._state[1]]

    @property
    def now(self) -> int:
        """The latest time that any commit or timer has shown, in milliseconds."""
        return self._state[0]

    def _local(self, job: Job) -> Any:
        number = self._machine.known(job)
        if number is None:
            self._machine.registry.newest(job.workflow)
            return None
        return self._numbered(number)

    def _numbered(self, number: int) -> Any:
        locals = self._state[2]
        return self._machine.locals[locals[number]] if number < len(locals) else None

    def state(self, job: Job) -> Any:
        """A job's state, or None."""
        local = self._local(job)
        return None if local is None else local.head.state

    def states(self, workflow: str) -> Mapping[tuple[Any, ...], Any]:
        """Key → state of every job of that workflow."""
        self._machine.registry.newest(workflow)
        found = {}
        for number, job in enumerate(self._machine.jobs):
            if job.workflow == workflow and (local := self._numbered(number)) is not None:
                found[job.key] = local.head.state
        return found

    def open(self, job: Job) -> Sequence[Any]:
        """The tasks that the job waits for, timers as `Sleep`."""
        local = self._local(job)
        leaves = self._machine.leaves
        return [] if local is None else [_plain(leaves[task.leaf]) for task in local.tasks]

    def asked(self, job: Job) -> Sequence[Any]:
        """Every task that its open effects may still perform, those behind others included."""
        local = self._local(job)
        if local is None:
            return []
        return [
            _plain(leaf)
            for opened in local.head.open
            for number, leaf in enumerate(opened.plan.leaves)
            if number not in opened.log and number not in opened.withdrawn
        ]

    @property
    def rests(self) -> bool:
        """Whether no task, timer or answer is under way."""
        return self._machine.rests(self._state)


def _plain(leaf: Perform | Sleep) -> Any:
    return leaf.task if isinstance(leaf, Perform) else leaf


class Took(NamedTuple):
    """A step of a trace. `again`: part of a cycle that never ends."""

    action: Action
    before: State
    after: State
    again: bool = False


class Wrong(NamedTuple):
    """A property that does not hold, and where: the trace to state `at`, then perhaps one more
    step; for liveness the states of `cycle` for ever after. `turn`: in which order of what is
    alike it shows. `way`: the whole trace, where the graph's numbers do not tell it."""

    property: str
    text: str
    at: int
    action: Action | None = None
    after: State | None = None
    cycle: Sequence[int] = ()
    turn: int = 0
    way: Sequence[Took] = ()


@dataclass(slots=True)
class Graph:
    """What was explored.

    Attributes:
        states: in the order in which they were met. parents, actions: how each was met first.
        sights: what a property can see of each state, as a number: many states look alike.
        edges: (target, action) pairs out of each state, kept where liveness is asked.
        depth: steps from the first state to the last. steps: how many were tried.
        whole: False where the search ended early. cut: states that the bound kept from being
            followed.
    """

    machine: Machine
    states: list[State] = field(default_factory=list)
    parents: array[int] = field(default_factory=lambda: array("q"))
    actions: list[Action] = field(default_factory=list)
    sights: array[int] = field(default_factory=lambda: array("q"))
    edges: list[list[tuple[int, Action]]] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)
    depth: int = 0
    steps: int = 0
    cut: set[int] = field(default_factory=set)
    whole: bool = True
    seconds: float = 0.0

    def view(self, at: int) -> Seen:
        """The state of that number."""
        return Seen(self.machine, self.states[at])

    def where(self, test: Callable[[Seen], bool]) -> Callable[[int], bool]:
        """What the test says of a state; it is asked once for all that look alike."""
        known: dict[int, bool] = {}

        def says(at: int) -> bool:
            sight = self.sights[at]
            found = known.get(sight)
            if found is None:
                found = known[sight] = bool(test(self.view(at)))
            return found

        return says

    def comes(self, test: Callable[[Seen], bool]) -> bool:
        """Whether the test says yes anywhere."""
        return any(map(self.where(test), range(len(self.states))))

    def way(self, wrong: Wrong) -> list[Took]:
        """The shortest way to what is wrong; for liveness, then the way round for ever after."""
        found, at = [], wrong.at
        while (parent := self.parents[at]) >= 0:
            found.append(Took(self.actions[at], self.states[parent], self.states[at]))
            at = parent
        found, at = found[::-1], wrong.at
        if wrong.action is not None and wrong.after is not None:
            found.append(Took(wrong.action, self.states[at], wrong.after))
        for to in wrong.cycle[1:]:
            ways = [action for target, action in self.edges[at] if target == to]
            action = min(ways, key=lambda one: one[0] in FAULTS)  # only where it must be one
            found.append(Took(action, self.states[at], self.states[to], again=True))
            at = to
        return found


@contextmanager
def keeping() -> Iterator[None]:
    """Without looking for garbage: nearly all that a search makes is kept, and a fifth of its time
    would go into finding that out again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def wander(
    check: Check,
    *,
    runs: int,
    length: int,
    random: Random,
    progress: Progress | None = None,
) -> Graph:
    """Behaviours drawn at random, each from the first state, until something is wrong.

    What comes back is the last of them, without the loops that it went; never whole.

    Args:
        runs: behaviours at most. length: steps of each, at most.
    """
    return Search(check, 0, progress, False).wander(runs, length, random)


Prepared = tuple[int, Sequence[tuple[int, Action, State | None, str | None, Any]], dict[int, int]]
"""How many steps lead out of a state; of some of them (what `numbers` has for where it leads to, or
below 0 a name for that; action; the state, if it must be looked at; what is wrong; what was made
ready); and what the names were found to mean."""


class Search:
    """One search, and what it has found so far.

    Attributes:
        numbers: state → its number. at: the state that is next. ends: of the states of this depth.
        spread: prepares the states of a depth on other cores, in their order: (search, first, end)
            → `Prepared`, False at the bound, None for what only the engine can say.
        save: called now and then, with the search, between two states.
    """

    def __init__(self, check: Check, limit: int, progress: Progress | None, every: bool) -> None:
        self.check = check
        self.machine = Machine(check)
        self.graph = Graph(self.machine)
        self.limit = limit
        self.progress = progress
        self.every = every
        self.numbers: dict[State, int] = {}
        self.at = 0
        self.ends = 1
        self.spread: Callable[[Any, int, int], Iterator[Prepared | bool | None]] | None = None
        self.save: Callable[[Any], None] | None = None
        kinds: dict[str, list[Property]] = {}
        for one in check.properties:
            kinds.setdefault(one.kind, []).append(one)
        self.always = kinds.get("always", [])
        self.sometimes = kinds.get("sometimes", [])
        self.stepwise = kinds.get("step", [])
        self.resting = kinds.get("at rest", [])
        self.lively = "leads to" in kinds
        self.broken: set[str] = set()
        self._told: dict[Action, Told] = {}
        self._sights: dict[tuple[Any, ...], int] = {}
        self._steps: set[tuple[int, Action, int]] = set()
        self._clock = SystemClock()
        self._began = self._shown = self._clock.now()

    def run(self) -> Graph:
        """Every state, from where it is."""
        graph = self.graph
        self._began = self._clock.now() - round(graph.seconds * 1_000)
        if not graph.states:
            self._meet(self.machine.first(), -1, ())
        while self.at < len(graph.states):
            if self.at == self.ends:
                graph.depth += 1
                self.ends = len(graph.states)
            if not self._deeper():
                break
        graph.whole = graph.whole and self.at == len(graph.states)
        graph.seconds = (self._clock.now() - self._began) / 1_000
        return graph

    def _deeper(self) -> bool:
        """All states of this depth. False: the search ends before."""
        graph, spread = self.graph, self.spread
        ready = repeat(None) if spread is None else spread(self, self.at, self.ends)
        for prepared in ready:
            if graph.wrong and not self.every:
                return False
            if len(graph.states) > self.limit:
                graph.whole = False
                return False
            self._expand(self.at, prepared)
            self.at += 1
            if self.at % STRIDE == 0:
                self._tick()
            if self.at == self.ends:
                break
        return True

    def _tick(self) -> None:
        now, graph = self._clock.now(), self.graph
        graph.seconds = (now - self._began) / 1_000
        if self.progress is not None and now - self._shown > 1_000:
            self._shown = now
            self.progress(graph, graph.depth)
        if self.save is not None:
            self.save(self)

    def wander(self, runs: int, length: int, random: Random) -> Graph:
        """Random behaviours; the last one is the graph."""
        self.lively = False
        steps, deepest = 0, 0
        for _ in range(runs):
            graph = self.graph = Graph(self.machine, reached=self.graph.reached, whole=False)
            self.numbers = {}
            at = self._meet(self.machine.first(), -1, ())
            for _ in range(length):
                if graph.wrong or not self.follows(at):
                    break
                choices = list(self.machine.successors(graph.states[at]))
                if not choices:
                    break
                at = self._take(at, random.choice(choices))
                steps += 1
            deepest = max(deepest, len(graph.states) - 1)
            graph.steps, graph.depth = steps, deepest
            self._tick()
            if graph.wrong:
                break
        return self.graph

    def follows(self, at: int) -> bool:
        """Whether a state is within the bound."""
        return self.check.bound is None or bool(self.check.bound(self.graph.view(at)))

    def _expand(self, at: int, prepared: Prepared | bool | None = None) -> None:
        """Every step out of a state."""
        graph, edges, steps = self.graph, list[tuple[int, Action]](), 0
        if prepared is False or (prepared is None and not self.follows(at)):
            graph.cut.add(at)
        elif isinstance(prepared, tuple):
            steps, some, met = prepared
            for code, action, after, wrong, ready in some:
                if after is None:
                    number = self._met(code if code >= 0 else met[code])
                else:
                    number = self._take(at, Successor(action, after, wrong), ready)
                    met[code] = self.numbers[after]
                if self.lively:
                    edges.append((number, action))
        else:
            for step in self.machine.successors(graph.states[at]):
                steps += 1
                number = self._take(at, step)
                if self.lively:
                    edges.append((number, step.action))
        graph.steps += steps
        if self.lively:
            graph.edges.append(edges)

    def _take(self, at: int, step: Successor, ready: Any = None) -> int:
        """One step out of a state: where it leads to."""
        action, after, wrong = step
        if wrong is not None and not (self.check.parks and wrong.startswith("parked")):
            self._broken(failure(wrong), wrong, at, action, after)
        number = self.numbers.get(after)
        if number is None:
            number = self._meet(after, at, action)
        if self.stepwise and number != at:
            self._stepped(at, action, number)
        return number

    def _met(self, code: int) -> int:
        """The state that `numbers` means by this."""
        return code

    def ready(self, state: State) -> Any:
        """What can be found out about a new state by whoever meets it first."""
        return None

    def looked(self, at: int, action: Action, code: int, after: State) -> bool:
        """Whether a step like this one has been looked at, in all that properties see."""
        sights = self.graph.sights
        return not self.stepwise or code == at or (sights[at], action, sights[code]) in self._steps

    def _meet(self, state: State, parent: int, action: Action) -> int:
        """A state that was not seen before."""
        graph = self.graph
        number = self.numbers[state] = len(graph.states)
        graph.states.append(state)
        graph.parents.append(parent)
        graph.actions.append(action)
        view = Seen(self.machine, state)
        sight = self._sights.get(state[:3])
        if sight is None:
            sight = self._sights[state[:3]] = len(self._sights)
            self._see(view, number)
        graph.sights.append(sight)
        if self.resting and view.rests:
            graph.reached["(rest)"] += 1
            self._rest(view, number)
        return number

    def recall(self, state: State) -> None:
        """A state that was met, and looked at, before the search was ended."""
        self.numbers[state] = len(self.graph.states)
        self.graph.states.append(state)
        self.graph.sights.append(self._sights.setdefault(state[:3], len(self._sights)))

    def _rest(self, view: Seen, number: int) -> None:
        for one in self.resting:
            if not one.test(view):
                self._broken(one.name, "does not hold at rest", number)

    def _see(self, view: Seen, number: int) -> None:
        """A state that looks like none before it: what properties see of it is new."""
        reached = self.graph.reached
        for one in self.always:
            if not one.test(view):
                self._broken(one.name, "does not hold", number)
        for one in self.sometimes:
            if not reached[one.name] and one.test(view):
                reached[one.name] = number + 1

    def _stepped(self, before: int, action: Action, after: int) -> None:
        graph = self.graph
        sight = (graph.sights[before], action, graph.sights[after])
        if sight in self._steps:
            return
        self._steps.add(sight)
        one, other = graph.view(before), graph.view(after)
        told = self._told.get(action)
        if told is None:
            told = self._told[action] = self.machine.told(action)
        for each in self.stepwise:
            if not each.test(one, told, other):
                state = graph.states[after]
                self._broken(each.name, "does not hold of this step", before, action, state)

    def _broken(self, name: str, text: str, at: int, *step: Any, turn: int = 0) -> None:
        if name not in self.broken:
            self.broken.add(name)
            self.graph.wrong.append(Wrong(name, text, at, *step)._replace(turn=turn))


def failure(wrong: str) -> str:
    """Which of the properties that are always asked a step has broken."""
    return NO_IMPOSSIBLE if wrong.startswith("impossible") else NO_FAILURE


__all__ = [
    "FAULTS",
    "Graph",
    "Search",
    "Seen",
    "Took",
    "Wrong",
    "failure",
    "keeping",
    "wander",
]
