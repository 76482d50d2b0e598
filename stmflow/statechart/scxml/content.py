"""Executable content of an SCXML document, as values that can be run and written again.

A block is an act: it takes the session's data and gives the next, what it raises and what it sends.
The first element that fails ends its block: what came before it counts, and `error.execution` is
raised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from stmflow.errors import LimitExceeded
from stmflow.limits import LIMITS
from stmflow.schema import Data, freeze, thaw
from stmflow.statechart.model import Did, Done
from stmflow.statechart.scxml.expression import (
    UNDEFINED,
    Compiled,
    ExpressionError,
    Scope,
    compiled,
    stored,
    truth,
)
from stmflow.statechart.step import Faulty, Named

PROCESSOR: Final = "http://www.w3.org/TR/scxml/#SCXMLEventProcessor"
SYSTEM: Final = frozenset({"_event", "_sessionid", "_name", "_ioprocessors", "_x"})
VARIABLE: Final = re.compile(r"[A-Za-z$][\w$]*")


class Wrong(Exception):
    """An element that cannot be executed; `name` is that of the event which says so."""

    def __init__(self, text: str, name: str = "error.execution", sendid: Any = UNDEFINED) -> None:
        super().__init__(text)
        self.name = name
        self.sendid = sendid


class Info(NamedTuple):
    """What `_event` shows beside the name."""

    type: str
    data: Any = UNDEFINED
    sendid: Any = UNDEFINED
    origin: Any = UNDEFINED
    origintype: Any = UNDEFINED


@dataclass(frozen=True, slots=True)
class Pending:
    """An event that is sent later: `delay_ms` after the commit, then at `due`."""

    n: int
    id: str
    name: str
    data: Data
    due: int


@dataclass(frozen=True, slots=True)
class Session:
    """The data of an SCXML job.

    Attributes:
        values: variable → () where it is undefined, (value,) else. pending: sent and not yet due.
        count: of everything that was sent, so that each has an id of its own.
    """

    id: str
    name: str
    values: Mapping[str, tuple[Data, ...]]
    pending: tuple[Pending, ...] = ()
    count: int = 0


@dataclass(slots=True)
class Run:
    """A block under way. `pending` that is new has its delay in place of a due time, negative."""

    session: Session
    event: Any
    active: frozenset[str]
    variables: dict[str, Any] = field(default_factory=dict)
    raised: list[Any] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    count: int = 0
    executed: int = 0

    @classmethod
    def of(cls, event: Any, session: Session, active: frozenset[str]) -> Run:
        """A run in which the variables are those of the session."""
        run = cls(session, event, active, pending=list(session.pending), count=session.count)
        for name, value in session.values.items():
            run.variables[name] = thaw(value[0]) if value else UNDEFINED
        return run

    @property
    def scope(self) -> Scope:
        """What expressions see."""
        mine = {
            "_event": _event(self.event),
            "_sessionid": self.session.id,
            "_name": self.session.name,
            "_ioprocessors": {name: {"location": self.here} for name in ("scxml", PROCESSOR)},
            "_x": {},
        }
        return Scope({**self.variables, **mine}, self.active)

    @property
    def here(self) -> str:
        """How others address this session."""
        return f"#_scxml_{self.session.id}"

    def value(self, expression: Expression) -> Any:
        """What an expression comes to here. Raises Wrong."""
        value = expression.value(self.scope)
        if _items(value, LIMITS.chart_content) < 0:
            raise Wrong(f"a value of more than {LIMITS.chart_content} items")
        return value

    def execute(self, elements: Iterable[Element]) -> None:
        """One after the other. Raises Wrong or LimitExceeded."""
        for element in elements:
            self.executed += 1
            if self.executed > LIMITS.chart_content:
                raise LimitExceeded(f"a block of more than {LIMITS.chart_content} elements")
            element.execute(self)

    def assign(self, location: str, value: Any) -> None:
        """Set a variable, or a field of the object in it. Raises Wrong."""
        first, *path = location.strip().split(".")
        if first in SYSTEM or first not in self.variables:
            raise Wrong(f"{location} cannot be assigned to")
        self.variables[first] = _placed(self.variables[first], path, value)

    def fail(self, wrong: Wrong) -> None:
        """Raise the event that says what was wrong."""
        self.raised.append(Named(wrong.name, Info("platform", sendid=wrong.sendid)))

    def done(self) -> Did:
        """What the block has come to."""
        values = {
            name: () if value is UNDEFINED else (freeze(stored(value)),)
            for name, value in self.variables.items()
        }
        session = replace(
            self.session, values=values, pending=tuple(self.pending), count=self.count
        )
        return Did(session, (), self.raised, self.sent)


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression and its text; one that is not understood fails when it is asked."""

    text: str
    run: Compiled | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, text: str) -> Expression:
        """Compiled, or kept as one that fails."""
        try:
            return cls(text, compiled(text))
        except ExpressionError:
            return cls(text)

    def value(self, scope: Scope) -> Any:
        """What it comes to. Raises Wrong."""
        if self.run is None:
            raise Wrong(f"{self.text!r} is not understood")
        try:
            return self.run(scope)
        except (ExpressionError, RecursionError) as error:
            raise Wrong(str(error)) from None


@dataclass(frozen=True, slots=True)
class Condition:
    """A guard: one that fails is false, and raises `error.execution`."""

    expression: Expression

    def __call__(self, event: Any, session: Session, active: frozenset[str]) -> bool:
        run = Run.of(event, session, active)
        try:
            return truth(run.value(self.expression))
        except Wrong as wrong:
            raise Faulty(Named(wrong.name, Info("platform"))) from None


@dataclass(frozen=True, slots=True)
class Block:
    """Elements, executed in their order."""

    elements: tuple[Element, ...]

    def __call__(self, event: Any, session: Session, active: frozenset[str]) -> Did:
        run = Run.of(event, session, active)
        try:
            run.execute(self.elements)
        except Wrong as wrong:
            run.fail(wrong)
        return run.done()


class Element:
    """One element of executable content."""

    __slots__ = ()

    def execute(self, run: Run) -> None:
        """Do it. Raises Wrong."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Raise(Element):
    event: str

    def execute(self, run: Run) -> None:
        run.raised.append(Named(self.event, Info("internal")))


@dataclass(frozen=True, slots=True)
class Assign(Element):
    location: str
    expression: Expression | None
    text: str = ""

    def execute(self, run: Run) -> None:
        value = literal(self.text) if self.expression is None else run.value(self.expression)
        run.assign(self.location, value)


@dataclass(frozen=True, slots=True)
class Log(Element):
    """Evaluated, since it may fail; a commit has no place for what it says."""

    label: str
    expression: Expression | None

    def execute(self, run: Run) -> None:
        if self.expression is not None:
            run.value(self.expression)


@dataclass(frozen=True, slots=True)
class If(Element):
    """Branches: (condition, None for else; elements)."""

    branches: tuple[tuple[Expression | None, tuple[Element, ...]], ...]

    def execute(self, run: Run) -> None:
        for condition, elements in self.branches:
            if condition is None or self._holds(run, condition):
                run.execute(elements)
                return

    def _holds(self, run: Run, condition: Expression) -> bool:
        try:
            return truth(run.value(condition))
        except Wrong as wrong:
            run.fail(wrong)
            return False


@dataclass(frozen=True, slots=True)
class Foreach(Element):
    array: Expression
    item: str
    index: str
    elements: tuple[Element, ...]

    def execute(self, run: Run) -> None:
        items = run.value(self.array)
        if not isinstance(items, list):
            raise Wrong(f"{self.array.text} is no array")
        for name in filter(None, (self.item, self.index)):
            if name in SYSTEM or not VARIABLE.fullmatch(name):
                raise Wrong(f"{name!r} is no name of a variable")
        for at, item in enumerate(items):
            run.variables[self.item] = item
            if self.index:
                run.variables[self.index] = at
            run.execute(self.elements)
        for name in filter(None, (self.item, self.index)):
            run.variables.setdefault(name, UNDEFINED)


@dataclass(frozen=True, slots=True)
class Body:
    """What an event carries: parameters (name, expression), one value, or a text as it stands."""

    params: tuple[tuple[str, Expression], ...] = ()
    expression: Expression | None = None
    text: str | None = None

    def value(self, run: Run) -> Any:
        """The data of the event. Raises Wrong."""
        if self.expression is not None:
            return run.value(self.expression)
        if self.text is not None:
            return literal(self.text)
        found = {name: run.value(expression) for name, expression in self.params}
        return found or UNDEFINED

    def lenient(self, run: Run) -> Any:
        """The same, without the parameters that fail; each of them raises an event."""
        if not self.params:
            return self.value(run)
        found = {}
        for name, expression in self.params:
            try:
                found[name] = run.value(expression)
            except Wrong as wrong:
                run.fail(wrong)
        return found or UNDEFINED


@dataclass(frozen=True, slots=True)
class Either:
    """An attribute that is given as it stands, or as an expression."""

    text: str | None = None
    expression: Expression | None = None

    def value(self, run: Run) -> Any:
        """Its value; None where it is not given. Raises Wrong."""
        return self.text if self.expression is None else run.value(self.expression)


@dataclass(frozen=True, slots=True)
class Send(Element):
    """An event to this session, now or later: other targets cannot be reached from a commit."""

    event: Either
    target: Either
    type: Either
    delay: Either
    id: str | None
    idlocation: str | None
    body: Body

    def execute(self, run: Run) -> None:
        run.count += 1
        sendid = self.id or f"send.{run.count}"
        if self.idlocation is not None:
            run.assign(self.idlocation, sendid)
        shown = sendid if self.id or self.idlocation else UNDEFINED
        try:
            self._send(run, sendid, shown)
        except Wrong as wrong:
            raise Wrong(str(wrong), wrong.name, sendid) from None

    def _send(self, run: Run, sendid: str, shown: Any) -> None:
        name, target, kind = (one.value(run) for one in (self.event, self.target, self.type))
        if kind not in (None, "scxml", PROCESSOR):
            raise Wrong(f"no way to send by {kind}")
        if not isinstance(name, str):
            raise Wrong("an event has a name")
        delay, data = milliseconds(self.delay.value(run)), self.body.value(run)
        if target == "#_internal":
            run.raised.append(Named(name, Info("internal", data, shown)))
        elif target not in (None, run.here):
            reachable = isinstance(target, str) and target.startswith("#_")
            raise Wrong(f"no {target!r}", "error.communication" if reachable else "error.execution")
        elif not delay:
            run.sent.append(Named(name, Info("external", data, shown, run.here, PROCESSOR)))
        elif len(run.pending) >= LIMITS.open_tasks_per_job:
            raise LimitExceeded(f"more than {LIMITS.open_tasks_per_job} events sent for later")
        else:
            kept = () if data is UNDEFINED else (freeze(stored(data)),)
            run.pending.append(Pending(run.count, sendid, name, kept, -delay))


@dataclass(frozen=True, slots=True)
class Cancel(Element):
    sendid: Either

    def execute(self, run: Run) -> None:
        sendid = self.sendid.value(run)
        run.pending = [one for one in run.pending if one.id != sendid]


@dataclass(frozen=True, slots=True)
class Unknown(Element):
    """An element that is not supported: it fails."""

    what: str

    def execute(self, run: Run) -> None:
        raise Wrong(f"{self.what} is not supported")


@dataclass(frozen=True, slots=True)
class Declare(Element):
    """A variable of the data model. One that has no value is declared all the same."""

    name: str
    expression: Expression | None
    text: str | None
    late: bool = False

    def execute(self, run: Run) -> None:
        if self.late and run.variables.get(self.name, UNDEFINED) is not UNDEFINED:
            return
        value: Any = UNDEFINED
        try:
            if self.expression is not None:
                value = run.value(self.expression)
            elif self.text is not None:
                value = literal(self.text)
        except Wrong as wrong:
            run.fail(wrong)
        run.variables[self.name] = value


@dataclass(frozen=True, slots=True)
class Gives:
    """The data of a final state."""

    body: Body

    def __call__(self, event: Any, session: Session, active: frozenset[str]) -> Any:
        run = Run.of(event, session, active)
        try:
            value = self.body.lenient(run)
        except Wrong as wrong:
            run.fail(wrong)
            value = UNDEFINED
        if run.raised:
            raise Faulty(run.raised[0])
        return value


def milliseconds(text: Any) -> int:
    """A CSS2 time. Raises Wrong."""
    if text is None:
        return 0
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)(ms|s)\s*", str(text))
    if found is None:
        raise Wrong(f"{text!r} is no delay")
    ms = round(float(found[1]) * (1_000 if found[2] == "s" else 1))
    if ms > LIMITS.timer_max_ms:
        raise Wrong(f"a delay of {ms} ms; at most {LIMITS.timer_max_ms}")
    return ms


def literal(text: str) -> Any:
    """Text between tags: a value if it is an expression of literals alone, else the text."""
    try:
        return compiled(text)(Scope({}, frozenset()))
    except (ExpressionError, RecursionError):
        return " ".join(text.split())


def _event(event: Any) -> Any:
    """`_event`, as documents see it."""
    if isinstance(event, Done):
        event = Named(f"done.state.{event.state}", Info("platform", data_of(event.value)))
    if not isinstance(event, Named):
        return UNDEFINED
    info = event.value
    return {"name": event.name, **info._asdict(), "invokeid": UNDEFINED}


def data_of(value: Any) -> Any:
    """A value that is not there is undefined."""
    return UNDEFINED if value is None else value


def _items(value: Any, left: int) -> int:
    """How many items are left of so many after those of the value; negative: too few."""
    if not isinstance(value, (list, dict)):
        return left
    left -= len(value)
    for item in value.values() if isinstance(value, dict) else value:
        if left < 0:
            break
        left = _items(item, left)
    return left


def _placed(value: Any, path: Sequence[str], new: Any) -> Any:
    if not path:
        return new
    if not isinstance(value, dict):
        raise Wrong(f"{path[0]!r} is no field of that")
    return {**value, path[0]: _placed(value.get(path[0], UNDEFINED), path[1:], new)}
