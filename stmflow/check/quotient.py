"""A search of states up to what may trade places: of those that do, one is explored for all.

Everything asked of a state is asked of it in every order of what is alike, so properties may tell
apart what the search does not. A trace goes from one representative to the next; put into the
order in which it shows what is wrong, it is a behaviour of the model as it was declared.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stmflow.check.machine import Action, State, Successor
from stmflow.check.model import Check
from stmflow.check.search import (
    Graph,
    Prepared,
    Progress,
    Search,
    Seen,
    Took,
    Wrong,
    failure,
)
from stmflow.check.symmetry import Mirrored
from stmflow.errors import InvalidWorkflow


@dataclass(slots=True)
class Quotient(Graph):
    """What was explored: representatives.

    Attributes:
        machine: which knows the orders. turns: of each state, the order that makes it of where the
            step led by which it was met first. turned: the same of each of `edges`.
    """

    machine: Mirrored
    turns: array[int] = field(default_factory=lambda: array("H", [0]))
    turned: list[array[int]] = field(default_factory=list)

    def comes(self, test: Callable[[Seen], bool]) -> bool:
        """Whether the test says yes anywhere, in any order."""
        for turn in self.machine.turns:
            if any(test(Seen(self.machine, turn.state(self.states[at]))) for at in self._looks()):
                return True
        return False

    def _looks(self) -> Iterable[int]:
        """One state of each look."""
        return {sight: at for at, sight in enumerate(self.sights)}.values()

    def way(self, wrong: Wrong) -> list[Took]:
        """The shortest way to what is wrong, in the order in which it is."""
        if wrong.way:
            return list(wrong.way)
        machine, turn, at = self.machine, wrong.turn, wrong.at
        found = []
        if wrong.action is not None and wrong.after is not None:
            found.append(self._took(turn, wrong.action, self.states[at], wrong.after))
        while (parent := self.parents[at]) >= 0:
            turn = machine.after(turn, self.turns[at])
            before = self.states[parent]
            raw = machine.turns[machine.back(self.turns[at])].state(self.states[at])
            found.append(self._took(turn, self.actions[at], before, raw))
            at = parent
        return found[::-1]

    def _took(self, turn: int, action: Action, before: State, after: State) -> Took:
        one = self.machine.turns[turn]
        return Took(self.machine.acted(turn, action), one.state(before), one.state(after))

    def recall(self, turns: Sequence[int], turned: Sequence[Sequence[int]]) -> None:
        """What was written down of an earlier search, of the states that came last."""
        del self.turns[len(self.states) - len(turns) :]
        self.turns.extend(turns)
        self.turned.extend(array("H", one) for one in turned)

    def unfolded(self) -> Graph:
        """The whole graph, with nothing left out: every order of every state and of its steps.

        The engine is not asked again; what should come at last is asked of this.
        """
        machine = self.machine
        whole = Graph(machine, depth=self.depth, seconds=self.seconds)
        whole.reached = self.reached
        numbers: dict[State, int] = {}
        sights: dict[Any, int] = {}
        origin: list[tuple[int, int]] = []  # of each state: its representative, and its order

        def meet(state: State, one: int, turn: int, parent: int, action: Action) -> int:
            found = numbers.get(state)
            if found is None:
                found = numbers[state] = len(whole.states)
                whole.states.append(state)
                whole.parents.append(parent)
                whole.actions.append(action)
                whole.sights.append(sights.setdefault(state[:3], len(sights)))
                origin.append((one, turn))
            return found

        meet(self.states[0], 0, 0, -1, ())
        for at, (one, turn) in enumerate(origin):
            if one in self.cut:
                whole.cut.add(at)
            edges = []
            for (to, action), turned in zip(self.edges[one], self.turned[one], strict=True):
                there = machine.after(turn, machine.back(turned))
                acted = machine.acted(turn, action)
                state = machine.turns[there].state(self.states[to])
                edges.append((meet(state, to, there, at, acted), acted))
            whole.edges.append(edges)
            whole.steps += len(edges)
        return whole


class Folded(Search):
    """The search."""

    machine: Mirrored
    graph: Quotient

    def __init__(self, check: Check, limit: int, progress: Progress | None, every: bool) -> None:
        super().__init__(check, limit, progress, every)
        self.machine = Mirrored(check)
        self.graph = Quotient(self.machine)
        self._order = len(self.machine.turns)
        self._turned = array("H")
        self._after: dict[Any, int] = {}
        self._bound: dict[int, bool] = {}

    def run(self) -> Graph:
        """As `Search.run`; what was taken was taken in every order."""
        graph, sends = super().run(), len(self.check.sends)
        for kind, number in list(self.machine.taken):
            first = 0 if kind == "send" else sends
            if kind != "move":
                for turn in self.machine.turns:
                    self.machine.taken.add((kind, turn.sends[number + first] - first))
        return graph

    def follows(self, at: int) -> bool:
        """Whether a state is within the bound, which must be the same in every order."""
        if self.check.bound is None:
            return True
        sight = self.graph.sights[at]
        if sight not in self._bound:
            said = {bool(self.check.bound(self._seen(at, turn))) for turn in range(self._order)}
            if len(said) > 1:
                raise InvalidWorkflow("the bound tells apart what is declared to be alike")
            self._bound[sight] = said.pop()
        return self._bound[sight]

    def _expand(self, at: int, prepared: Prepared | bool | None = None) -> None:
        self._turned = array("H")
        super()._expand(at, prepared)
        if self.lively:
            self.graph.turned.append(self._turned)

    def _take(self, at: int, step: Successor, ready: Any = None) -> int:
        """One step out of a state. `numbers` holds where it leads to, and in which order that is
        explored: a state's number times all orders, and one of them."""
        action, after, wrong = step
        if wrong is not None and not (self.check.parks and wrong.startswith("parked")):
            self._broken(failure(wrong), wrong, at, action, after)
        code = self.numbers.get(after)
        if code is None:
            least, turn = ready or self.machine.least(after)
            code = self.numbers.get(least)
            if code is None:
                self.graph.turns.append(turn)
                code = self._meet(least, at, action) * self._order
                self.numbers[least] = code
            code = self.numbers[after] = code + turn
        if self.stepwise and code != at * self._order:
            self._changed(at, action, after)
        return self._met(code)

    def _met(self, code: int) -> int:
        number, turn = divmod(code, self._order)
        if self.lively:
            self._turned.append(turn)
        return number

    def ready(self, state: State) -> Any:
        """The least of its orders."""
        return self.machine.least(state)

    def looked(self, at: int, action: Action, code: int, after: State) -> bool:
        """As `Search.looked`."""
        if not self.stepwise or code == at * self._order:
            return True
        seen = self._after.get(after[:3])
        return seen is not None and (self.graph.sights[at], action, seen) in self._steps

    def recall(self, state: State) -> None:
        """As `Search.recall`."""
        super().recall(state)
        self.numbers[state] *= self._order

    def _changed(self, before: int, action: Action, after: State) -> None:
        """A step, in every order."""
        seen = self._after.setdefault(after[:3], len(self._after))
        sight = (self.graph.sights[before], action, seen)
        if sight in self._steps:
            return
        self._steps.add(sight)
        for turn in range(self._order):
            acted = self.machine.acted(turn, action)
            told = self._told.get(acted)
            if told is None:
                told = self._told[acted] = self.machine.told(acted)
            one = self._seen(before, turn)
            other = Seen(self.machine, self.machine.turns[turn].state(after))
            for each in self.stepwise:
                if each.name not in self.broken and not each.test(one, told, other):
                    self._broken(
                        each.name, "does not hold of this step", before, action, after, turn=turn
                    )

    def _see(self, view: Seen, number: int) -> None:
        for turn in range(self._order):
            seen = self._seen(number, turn)
            for one in self.always:
                if one.name not in self.broken and not one.test(seen):
                    self._broken(one.name, "does not hold", number, turn=turn)
            for one in self.sometimes:
                if not self.graph.reached[one.name] and one.test(seen):
                    self.graph.reached[one.name] = number + 1

    def _rest(self, view: Seen, number: int) -> None:
        for turn in range(self._order):
            seen = self._seen(number, turn)
            for one in self.resting:
                if one.name not in self.broken and not one.test(seen):
                    self._broken(one.name, "does not hold at rest", number, turn=turn)

    def _seen(self, at: int, turn: int) -> Seen:
        state = self.graph.states[at]
        return Seen(self.machine, self.machine.turns[turn].state(state) if turn else state)
