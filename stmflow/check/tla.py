"""A check as a TLA+ module, so that TLC, which knows nothing of ours, confirms what was found.

What reducers do stands in the module as tables: for each job, what every event, outcome and timer
makes of it, as far as anything explored has asked. All that the checker adds to them, and could get
wrong, is written out as TLA+ actions and left to TLC: which steps there are in which order, answers
that are lost or late, time, fairness and the verdict. A table that is asked for something else than
was explored is an error in TLC.

Properties are functions of Python. Each is written as the set of values of those variables that
decide it. Properties of steps and `sometimes` are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from stmflow.check.engine import START
from stmflow.check.liveness import awaiting, begun
from stmflow.check.machine import (
    BODY,
    PERFORM,
    RUN,
    SEND,
    SETTLE,
    WAITS,
    Branch,
    Machine,
    Result,
    State,
)
from stmflow.check.model import Check, Property
from stmflow.check.search import Graph
from stmflow.check.trace import short
from stmflow.errors import InvalidWorkflow

TIMER = 1
"""The number of what a timer's end delivers; outcomes follow."""

_FAIR = (("Tasks", "Perform"), ("Tasks", "Settle"), ("Bodies", "Run"), ("Timers", "Fire"))
"""What is always fair: of which tasks, which steps."""

SHOWN = 200
"""States of a job that are listed in words."""


class Module(NamedTuple):
    """A module and what TLC is to make of it: `NAME.tla`, `NAME.cfg`."""

    name: str
    text: str
    cfg: str


def module(check: Check, graph: Graph, name: str | None = None) -> Module:
    """The TLA+ module of a check and of its whole graph.

    Raises:
        InvalidWorkflow: the graph is not whole, or the check has what is not exported: tasks that
            are parked, several late attempts at once, timers that are overdue, what is alike.
    """
    if not graph.whole:
        raise InvalidWorkflow("only a check that was explored to its end can be exported")
    if check.parks or check.faults.late > 1 or check.faults.overdue:
        raise InvalidWorkflow(
            "parked tasks, more than one late attempt and overdue timers have no form in TLA+ here"
        )
    if check.symmetric:
        raise InvalidWorkflow("states up to what is alike are not exported: explore all of them")
    name = name or re.sub(r"\W+", "_", check.name).strip("_")
    return _Writer(check, graph, name if name[:1].isalpha() else f"Check_{name}").write()


class _Writer:
    def __init__(self, check: Check, graph: Graph, name: str) -> None:
        self.check = check
        self.graph = graph
        self.machine: Machine = graph.machine
        self.name = name
        self.jobs = len(self.machine.jobs)
        self._local_of: list[dict[int, int]] = [{0: 0} for _ in range(self.jobs)]
        states = graph.states
        dues = {task.due for local in self.machine.locals if local for task in local.tasks}
        self.times = sorted({state[0] for state in states} | {due for due in dues if due})
        self._time_of = {moment: number for number, moment in enumerate(self.times, 1)}
        self.nodes: list[str] = []
        self.results: dict[str, int] = {}
        self.points = [self._point(state) for state in states]

    def write(self) -> Module:
        asked = self._asked()
        defined, invariants, lively = self._properties()
        lines = [
            f"---- MODULE {self.name} ----",
            *self._words(),
            "EXTENDS Integers, Sequences, FiniteSets, TLC",
            "VARIABLES now, world, job, answers, late, left",
            "vars == <<now, world, job, answers, late, left>>",
            "",
            *(f"{table} == {value}" for table, value in asked.items()),
            f"Open == {_tuple(map(self._opened, range(self.jobs)))}",
            f"Node == {_tuple(self.nodes)}",
            f"Result == {_tuple(self.results)}",
            *(f"{kind} == {pairs}" for kind, pairs in self._leaves().items()),
            f"Lost == {_bool(self.check.faults.lost)}",
            f"Late == {_bool(self.check.faults.late > 0)}",
            f"Cut == {self._set({at: at in self.graph.cut for at in range(len(self.points))})}",
            "",
            f"Init == {self._init()}",
            _ACTIONS,
            *self._fairness(),
            "",
            *defined,
            "====",
            "",
        ]
        cfg = ["SPECIFICATION Spec"]
        cfg += [f"INVARIANTS {' '.join(invariants)}"] if invariants else []
        cfg += [f"PROPERTIES {' '.join(lively)}"] if lively else []
        text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
        return Module(self.name, text, "\n".join([*cfg, ""]))

    # --- numbers ---

    def _local(self, job: int, number: int) -> int:
        known = self._local_of[job]
        return known.setdefault(number, len(known))

    def _point(self, state: State) -> tuple[int, ...]:
        """What properties see: time, world, and each job's local, as the module numbers them."""
        locals = [*state[2], *[0] * (self.jobs - len(state[2]))]
        numbers = (self._local(job, number) for job, number in enumerate(locals))
        return (self._time_of[state[0]], state[1] + 1, *numbers)

    def _init(self) -> str:
        now, world, *jobs = self.points[0]
        left = _tuple(-1 if one is None else one for one in self.graph.states[0][5])
        return (
            f"now = {now} /\\ world = {world} /\\ job = {_tuple(jobs)} /\\ answers = {{}}"
            f" /\\ late = 0 /\\ left = {left}"
        )

    # --- tables ---

    def _asked(self) -> dict[str, str]:
        """Each table of what the engine was asked, and the way to its answers."""
        asked: dict[int, dict[tuple[int, ...], int]] = {
            kind: {} for kind in (SEND, BODY, PERFORM, SETTLE, RUN)
        }
        for key, node in self.machine._trie.items():
            if key[0] == START:
                continue
            kind, *rest, now = key
            if now not in self._time_of:
                continue
            if kind == SETTLE:
                job, place, outcome = rest
                rest = [job, place, 0 if outcome is None else outcome + 1]
            at = (*(one + 1 for one in rest), self._time_of[now])
            asked[kind][at] = self._node(node)
        moves: dict[tuple[int, ...], Any] = {
            (which + 1, world + 1, self._time_of[now]): _set(one + 1 for one in worlds)
            for (which, world, now), worlds in self.machine._moved.items()
        }
        return {
            "SendAt": _nested({**asked[SEND], **asked[BODY]}),
            "AttemptAt": _nested(asked[PERFORM]),
            "SettleAt": _nested(asked[SETTLE]),
            "RunAt": _nested(asked[RUN]),
            "MoveAt": _nested(moves),
        }

    def _node(self, node: Branch | Result) -> int:
        """A place of the trie: the number of a node, or of a result, negative."""
        if isinstance(node, Result):
            return -self.results.setdefault(self._result(node), len(self.results) + 1)
        follows = {
            self._local(node.job, number) + 1: self._node(one) for number, one in node.next.items()
        }
        row = _tuple(follows.get(at, 0) for at in range(1, max(follows) + 1))
        self.nodes.append(f"[j |-> {node.job + 1}, to |-> {row}]")
        return len(self.nodes)

    def _result(self, result: Result) -> str:
        writes = _set(
            f"<<{job + 1}, {self._local(job, local)}, {_tuple(place + 1 for place in places)}>>"
            for job, local, places in result.changes
        )
        pairs = _set(f"<<{outcome + 2}, {world + 1}>>" for outcome, world in result.pairs)
        return (
            f"[w |-> {writes}, pairs |-> {pairs}, sound |-> {_bool(result.wrong is None)},"
            f" waits |-> {_bool(result.kind == WAITS)}]"
        )

    def _opened(self, job: int) -> str:
        """What each local of a job waits for."""
        rows = []
        for number in self._local_of[job]:
            local = self.machine.locals[number]
            tasks = () if local is None else local.tasks
            rows.append(
                _tuple(
                    f"[leaf |-> {task.leaf + 1}, due |-> "
                    f"{0 if task.due is None else self._time_of[task.due]}]"
                    for task in tasks
                )
            )
        return _tuple(rows)

    def _leaves(self) -> dict[str, str]:
        """(job, leaf) of all tasks for handlers, of those that are transactions, of all timers."""
        found: dict[str, dict[str, None]] = {"Tasks": {}, "Bodies": {}, "Timers": {}}
        for job, numbers in enumerate(self._local_of):
            for number in numbers:
                local = self.machine.locals[number]
                for task in () if local is None else local.tasks:
                    leaf = self.machine.leaves[task.leaf]
                    own = getattr(leaf, "task", None)
                    kind = "Bodies" if type(own) in self.check.tasks else "Tasks"
                    found["Timers" if task.due is not None else kind][
                        f"<<{job + 1}, {task.leaf + 1}>>"
                    ] = None
        return {kind: _set(pairs) for kind, pairs in found.items()}

    # --- what must hold ---

    def _fairness(self) -> Iterator[str]:
        """Beyond the bound nothing is asked for, as nothing was explored there."""
        sends = len(self.check.sends)
        fair = [f"Send({at})" for at, one in enumerate(self.check.sends, 1) if one.fair]
        fair += [
            f"Send({at})" for at, body in enumerate(self.check.transactions, sends + 1) if body.fair
        ]
        fair += [f"Move({at})" for at, one in enumerate(self.check.moves, 1) if one.fair]
        yield "Fair =="
        yield from (f"    /\\ WF_vars(~Cut /\\ {one})" for one in fair)
        for kind, of in _FAIR:
            yield f"    /\\ \\A x \\in {kind} : WF_vars(~Cut /\\ {of}(x[1], x[2]))"
        yield "    /\\ <>[][Quiet]_vars"
        lively = any(one.kind == "leads to" for one in self.check.properties)
        yield "Spec == Init /\\ [][Next]_vars" + (" /\\ Fair" if lively else "")

    def _properties(self) -> tuple[list[str], list[str], list[str]]:
        """Definitions, the names of those that are invariants, and of those that are not."""
        lines: list[str] = []
        invariants: list[str] = []
        lively: list[str] = []
        for number, one in enumerate(self.check.properties, 1):
            if one.kind not in ("always", "at rest", "leads to"):
                lines.append(f"\\* left out: {_comment(one.name)}")
                continue
            name = f"P{number}"
            lines += [f"\\* {_comment(one.name)}", f"{name} == {self._property(one)}"]
            (lively if one.kind == "leads to" else invariants).append(name)
        return lines, invariants, lively

    def _property(self, one: Property) -> str:
        everywhere = range(len(self.points))
        if one.kind == "always":
            return self._judged(one.test, everywhere)
        if one.kind == "at rest":
            rest = [at for at in everywhere if self.graph.view(at).rests]
            return f"Rests => ({self._judged(one.test, rest)})"
        came = awaiting(self.graph, one)
        met = {*begun(self.graph, one), *(to for at in came for to, _ in self.graph.edges[at])}
        then = f"(({self._judged(one.test, sorted(met - self.graph.cut))}) \\/ Cut)"
        if one.when is None:
            return f"<>{then}"
        return f"({self._judged(one.when, everywhere)}) ~> {then}"

    def _judged(self, test: Callable[[Any], bool], asked: Iterable[int]) -> str:
        """What a test says of these states; it may not be asked of others."""
        says = self.graph.where(test)
        return self._set({at: says(at) for at in asked})

    def _set(self, values: Mapping[int, bool]) -> str:
        """A truth of states, as a set of values of those variables that decide it."""
        names = ["now", "world", *(f"job[{job + 1}]" for job in range(self.jobs))]
        kept = list(range(len(names)))
        for one in list(kept):
            fewer = [each for each in kept if each != one]
            if self._decide(fewer, values) is not None:
                kept = fewer
        truths = self._decide(kept, values)
        assert truths is not None
        if not kept:
            return _bool(truths.get((), True))
        yes = [point for point, truth in truths.items() if truth]
        no = [point for point, truth in truths.items() if not truth]
        few, sign = (yes, "\\in") if len(yes) <= len(no) else (no, "\\notin")
        if len(kept) == 1:
            return f"{names[kept[0]]} {sign} {_set(point[0] for point in sorted(few))}"
        told = _set(_tuple(point) for point in sorted(few))
        return f"{_tuple(names[one] for one in kept)} {sign} {told}"

    def _decide(
        self, kept: Sequence[int], values: Mapping[int, bool]
    ) -> dict[tuple[int, ...], bool] | None:
        """The truth for each value of these coordinates, or None: they do not decide it."""
        truths: dict[tuple[int, ...], bool] = {}
        for at, value in values.items():
            point = self.points[at]
            if truths.setdefault(tuple([point[one] for one in kept]), value) != value:
                return None
        return truths

    # --- words ---

    def _words(self) -> Iterator[str]:
        """What the numbers stand for."""
        yield f"\\* Written by `stmflow tla` from the check: {_comment(self.check.name)}"
        yield f"\\* {len(self.graph.states):,} distinct states, {self.graph.steps:,} steps."
        yield f"\\* now: a place among the times {', '.join(map(str, self.times))} (milliseconds)"
        yield "\\* answers: <<job, place among its open tasks, outcome>>"
        for number, world in enumerate(self.machine.worlds[:SHOWN], 1):
            yield f"\\* world {number}: {_comment(short(world))}"
        for job, numbers in enumerate(self._local_of):
            name = self.machine.jobs[job]
            key = ", ".join(short(part) for part in name.key)
            yield f"\\* job {job + 1}: {_comment(f'{name.workflow} {key}')}"
            for number, at in list(numbers.items())[1:SHOWN]:
                local = self.machine.locals[number]
                told = "" if local is None else short(local.head.state)
                yield f"\\*   {at}: {_comment(told)}"


def _nested(table: Mapping[tuple[int, ...], Any]) -> str:
    """A table by several numbers as tuples of tuples; 0 or << >> where nothing stands."""
    if not table:
        return "<< >>"
    if () in table:
        return str(table[()])
    inner: dict[int, dict[tuple[int, ...], Any]] = {}
    for (first, *rest), value in table.items():
        inner.setdefault(first, {})[tuple(rest)] = value
    last = any(() in one for one in inner.values())
    none: dict[tuple[int, ...], Any] = {(): 0} if last else {}
    return _tuple(_nested(inner.get(at, none)) for at in range(1, max(inner) + 1))


def _tuple(parts: Iterable[Any]) -> str:
    inner = ", ".join(map(str, parts))
    return f"<<{inner}>>" if inner else "<< >>"


def _set(parts: Iterable[Any]) -> str:
    return f"{{{', '.join(map(str, parts))}}}"


def _bool(value: bool) -> str:
    return "TRUE" if value else "FALSE"


def _comment(text: str) -> str:
    return " ".join(text.split())[:160]


_ACTIONS = r"""
Waiting(j) == Open[j][job[j] + 1]
Answered(j, p) == \E a \in answers : a[1] = j /\ a[2] = p
Rests == \A j \in DOMAIN job : Waiting(j) = << >>

\* What the engine makes of a request: it reads one job after the other.
RECURSIVE Walk(_)
Walk(n) == IF n < 0 THEN Result[-n] ELSE Walk(Node[n].to[job[Node[n].j] + 1])

Written(r) == [j \in DOMAIN job |->
    IF \E c \in r.w : c[1] = j THEN (CHOOSE c \in r.w : c[1] = j)[2] ELSE job[j]]
\* Answers keep to their tasks; those to closed tasks are dropped.
Kept(r, some) ==
    {a \in some : \A c \in r.w : c[1] # a[1]} \cup
    {<<x[1][1], x[1][3][x[2][2]], x[2][3]>> : x \in
        {x \in r.w \X some : x[1][1] = x[2][1] /\ x[1][3][x[2][2]] > 0}}
Sound(r) == Assert(r.sound, "an impossible cell, a parked task or a reducer that failed")
Commit(r, some) ==
    /\ Sound(r)
    /\ job' = Written(r)
    /\ answers' = Kept(r, some)

Send(w) ==
    /\ left[w] # 0
    /\ LET r == Walk(SendAt[w][now]) IN (r.w # {} \/ ~r.sound) /\ Commit(r, answers)
    /\ left' = IF left[w] < 0 THEN left ELSE [left EXCEPT ![w] = @ - 1]
    /\ UNCHANGED <<now, world, late>>
Move(m) ==
    /\ world' \in MoveAt[m][world][now]
    /\ UNCHANGED <<now, job, answers, late, left>>
Perform(j, l) ==
    /\ \E p \in DOMAIN Waiting(j) :
        /\ Waiting(j)[p].leaf = l /\ Waiting(j)[p].due = 0 /\ ~Answered(j, p)
        /\ LET r == Walk(AttemptAt[l][world][now]) IN Sound(r) /\ \E x \in r.pairs :
            Commit(r, answers \cup {<<j, p, x[1]>>}) /\ world' = x[2]
    /\ UNCHANGED <<now, late, left>>
Run(j, l) ==
    /\ \E p \in DOMAIN Waiting(j) :
        /\ Waiting(j)[p].leaf = l /\ Waiting(j)[p].due = 0
        /\ LET r == Walk(RunAt[j][p][now]) IN ~r.waits /\ Commit(r, answers)
    /\ UNCHANGED <<now, world, late, left>>
Settle(j, l) ==
    /\ \E a \in answers :
        /\ a[1] = j /\ Waiting(j)[a[2]].leaf = l
        /\ Commit(Walk(SettleAt[j][a[2]][a[3]][now]), answers \ {a})
    /\ UNCHANGED <<now, world, late, left>>
Fire(j, l) ==
    /\ \E p \in DOMAIN Waiting(j) : LET due == Waiting(j)[p].due IN
        /\ Waiting(j)[p].leaf = l /\ due > 0
        /\ now' = IF due > now THEN due ELSE now
        /\ Commit(Walk(SettleAt[j][p][1][IF due > now THEN due ELSE now]), answers)
    /\ UNCHANGED <<world, late, left>>

\* An answer is lost. A worker loses its lease, and does its work at any later time.
Lose ==
    /\ Lost /\ \E a \in answers : answers' = answers \ {a}
    /\ UNCHANGED <<now, world, job, late, left>>
Stall(j, l) ==
    /\ Late /\ late = 0
    /\ \E p \in DOMAIN Waiting(j) :
        Waiting(j)[p].leaf = l /\ Waiting(j)[p].due = 0 /\ ~Answered(j, p)
    /\ late' = l
    /\ UNCHANGED <<now, world, job, answers, left>>
Wake ==
    /\ late # 0
    /\ LET r == Walk(AttemptAt[late][world][now]) IN Sound(r) /\ \E x \in r.pairs :
        (x[2] # world \/ r.w # {}) /\ Commit(r, answers) /\ world' = x[2]
    /\ late' = 0
    /\ UNCHANGED <<now, left>>

Quiet == ~Cut /\
    \/ \E w \in DOMAIN left : Send(w)
    \/ \E m \in DOMAIN MoveAt : Move(m)
    \/ \E x \in Tasks : Perform(x[1], x[2]) \/ Settle(x[1], x[2])
    \/ \E x \in Bodies : Run(x[1], x[2])
    \/ \E x \in Timers : Fire(x[1], x[2])
Next == Quiet \/ (~Cut /\ (Lose \/ Wake \/ \E x \in Tasks : Stall(x[1], x[2])))
"""

__all__ = ["Module", "module"]
