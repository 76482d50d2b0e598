"""A search that was killed goes on where it was: what it has met is written to a file now and then.

A line holds what is new since the line before, as JSON. Heads and worlds are not written, but what
was asked of the engine, in order: it is pure, so asked again it gives everything the same numbers.
That it did is checked; a workflow or check that has changed meanwhile is found, not mixed.
"""

from __future__ import annotations

import hashlib
import json
import marshal
from functools import partial
from pathlib import Path
from typing import Any

from stmflow.check.machine import Action, State
from stmflow.check.model import Check, Send, Transact
from stmflow.check.quotient import Quotient
from stmflow.check.search import Graph, Search, Wrong
from stmflow.clock import SystemClock
from stmflow.errors import InvalidWorkflow

FORMAT = 1
EVERY_MS = 20_000
"""Between two lines. A line costs some microseconds for each state that is new."""


class Journal:
    """The file of one search.

    Args:
        every_ms: how long a search runs between two lines.
    """

    def __init__(self, path: Path, every_ms: int = EVERY_MS) -> None:
        self.path = path
        self.every_ms = every_ms
        self._clock = SystemClock()
        self._written = self._clock.now()
        self._states = self._asked = self._edges = 0

    def begin(self, search: Search) -> None:
        """Go on from the file, if there is one; else begin it.

        Raises:
            InvalidWorkflow: the file is of another check, or of one that has changed since.
            OSError: it cannot be read or written.
        """
        head = json.dumps([FORMAT, search.check.name, _code(search.check)]) + "\n"
        whole = self.path.read_bytes() if self.path.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]  # the last line may be torn
        lines = whole.splitlines(keepends=True)
        if not lines:
            self.path.write_text(head)
            return
        if lines[0] != head.encode():
            raise InvalidWorkflow(f"{self.path} is of another check, or of one that has changed")
        self.path.write_bytes(whole)
        search.machine.first()
        for line in lines[1:]:
            self._read(search, json.loads(line))
        if lines[1:] and json.loads(lines[-1])["digest"] != search.machine.digest():
            raise InvalidWorkflow(f"{self.path} is of a workflow that answers otherwise now")

    def save(self, search: Search, *, now: bool = False) -> None:
        """Write what is new, if the last time is long enough ago."""
        if not now and self._clock.now() - self._written < self.every_ms:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(self._new(search), separators=(",", ":")) + "\n")
        self._written = self._clock.now()

    def _new(self, search: Search) -> dict[str, Any]:
        graph, machine = search.graph, search.machine
        states, edges = slice(self._states, None), slice(self._edges, None)
        line = {
            "at": [search.at, search.ends, graph.depth, graph.steps, graph.seconds],
            "asked": machine.asked[self._asked :],
            "digest": machine.digest(),
            "states": graph.states[states],
            "parents": list(graph.parents[states]),
            "actions": graph.actions[states],
            "edges": graph.edges[edges],
            "cut": sorted(graph.cut),
            "reached": graph.reached,
            "taken": sorted(machine.taken),
            "wrong": [(*one[:5], one.turn) for one in graph.wrong],
        }
        if isinstance(graph, Quotient):
            line["turns"] = list(graph.turns[states])
            line["turned"] = [list(one) for one in graph.turned[edges]]
        self._count(search)
        return line

    def _read(self, search: Search, line: dict[str, Any]) -> None:
        graph, machine = search.graph, search.machine
        search.at, search.ends, graph.depth, graph.steps, graph.seconds = line["at"]
        for request, state in line["asked"]:
            machine.again(tuple(request), _state(state))
        for state in line["states"]:
            search.recall(_state(state))
        graph.parents.extend(line["parents"])
        graph.actions.extend(map(tuple, line["actions"]))
        graph.edges.extend([(to, tuple(one)) for to, one in out] for out in line["edges"])
        graph.cut = set(line["cut"])
        graph.reached.update({name: n - graph.reached[name] for name, n in line["reached"].items()})
        machine.taken.update((kind, number) for kind, number in line["taken"])
        graph.wrong = [_wrong(one) for one in line["wrong"]]
        search.broken = {one.property for one in graph.wrong}
        if isinstance(graph, Quotient):
            graph.recall(line["turns"], line["turned"])
        self._count(search)

    def _count(self, search: Search) -> None:
        graph: Graph = search.graph
        self._states, self._edges = len(graph.states), len(graph.edges)
        self._asked = len(search.machine.asked)


def _state(plain: Any) -> State:
    now, world, locals, flights, late, left = plain
    return now, world, tuple(locals), tuple(map(tuple, flights)), tuple(late), tuple(left)


def _action(plain: Any) -> Action | None:
    return None if plain is None else tuple(plain)


def _wrong(plain: Any) -> Wrong:
    name, text, at, action, after, turn = plain
    state = None if after is None else _state(after)
    return Wrong(name, text, at, _action(action), state, turn=turn)


def _code(check: Check) -> str:
    """What tells whether properties are still the same: the code of every function of the check."""
    told = hashlib.sha256()
    given = [test for one in check.properties for test in (one.test, one.when)]
    tests = [getattr(test, "__wrapped__", test) for test in given]
    moves = [one.worlds for one in check.moves]
    for function in (check.bound, *tests, *moves, *check.handlers.values()):
        while isinstance(function, partial):
            function = function.func
        code = getattr(function, "__code__", None)
        told.update(b"" if code is None else marshal.dumps(code, 2))  # 2: without references
    offered: list[Send | Transact] = [*check.sends, *check.transactions]
    plain = [
        [(one.kind, one.name) for one in check.properties],
        [(one.label, one.times, one.fair) for one in offered],
        [len(one.rows) for one in check.symmetric],
        (check.faults, check.at, check.parks),
    ]
    told.update(repr(plain).encode())
    return told.hexdigest()
