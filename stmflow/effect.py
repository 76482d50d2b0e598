"""Effects: values that describe IO. A tree of tasks, and what its outcomes say so far.

    perform(Allocate(id, size)).catch(Exceeded, "NoSpace").and_(perform(Stat(link))).then(Probed)
    sleep(until=deadline, during=("receiving", "verifying")).then(Expired)

`and_` runs the next part only after the first succeeded; `together` runs parts side by side; an
outcome rises to the nearest node above it that names an event for it, and a caught failure ends
its branch quietly. `then` and `catch` name event *types*, never functions, so a tree encodes to
DAG-CBOR and back to an equal tree.

`progress` is the whole semantics: a pure function of the tree, the ordered log of its outcomes and
the tasks withdrawn. It is monotone: an event that fired stays fired, unchanged, whatever completes
later, because among several failures the first *committed* one counts, not the first in the tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple

from stmflow import codec, wire
from stmflow.errors import InvalidWorkflow, LimitExceeded
from stmflow.limits import LIMITS
from stmflow.schema import Data, freeze, schema_of, tag_of, thaw

DISMISSED: Final = "Dismissed"
"""The failure that nobody catches: an operator settled the task, and its branch ends quietly."""

EXHAUSTED: Final = "Exhausted"
"""The failure of a task whose retries are used up; `detail` holds the last error."""

BAD_OUTCOME: Final = "BadOutcome"
"""The failure of a task whose handler answered what the event it should become refuses."""


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
"""`during=ANY`: neither a change of state nor of epoch ends the sleep."""


@dataclass(frozen=True, slots=True)
class Err:
    """A task's failure, as data. `detail` is plain IPLD data that tells this failure apart."""

    name: str
    detail: Data = None

    def plain(self) -> dict[str, Any]:
        """The form in which receipts and events hold it."""
        return {"name": self.name, "detail": thaw(self.detail)}


class Effect:
    """What every effect can do. Made by `perform`, `sleep`, `together` and `cancel`."""

    __slots__ = ()

    def and_(self, following: Effect) -> Effect:
        """This, and once it has succeeded, `following`. Its value is that of `following`."""
        return And(_part(self), _part(following))

    def then(self, event: type | str) -> Effect:
        """When this completes, its value becomes an event of this type."""
        return Then(_part(self), _event_tag(event))

    def catch(self, event: type | str, *names: str) -> Effect:
        """The first failure in this of one of `names` (none: of any) becomes such an event."""
        return Catch(_part(self), _event_tag(event), tuple(names))


@dataclass(frozen=True, slots=True)
class Perform(Effect):
    """A leaf: one task for a handler."""

    task: Any
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Sleep(Effect):
    """A leaf: a durable timer. Times are milliseconds; `during` is state tags, None or ANY."""

    until: int | None = None
    for_ms: int | None = None
    name: str | None = None
    during: Any = None


@dataclass(frozen=True, slots=True)
class And(Effect):
    """`second` only after `first` succeeded."""

    first: Effect
    second: Effect


@dataclass(frozen=True, slots=True)
class Together(Effect):
    """Parts side by side; complete when all are."""

    parts: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Then(Effect):
    """Names the event that the completion of `body` fires."""

    body: Effect
    event: str


@dataclass(frozen=True, slots=True)
class Catch(Effect):
    """Names the event that the first failure of `body` by one of `names` fires."""

    body: Effect
    event: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancel(Effect):
    """Withdraws every unsettled task of that name in earlier effects. Top of an effect only."""

    name: str


def perform(task: Any, *, name: str | None = None) -> Effect:
    """An effect of one task: a frozen value that some handler knows how to perform."""
    return Perform(task, name)


def sleep(
    *,
    until: int | None = None,
    for_: timedelta | None = None,
    name: str | None = None,
    during: Iterable[str] | _Any | None = None,
) -> Effect:
    """A durable timer, absolute once armed.

    Args:
        until: the deadline in milliseconds since 1970 UTC; or
        for_: how long after the revision in which it becomes ready.
        name: arming a name that is open replaces it; `cancel(name)` removes it.
        during: the state tags in which it lives. Default: the tag of the state that `update`
            returns with it. `ANY`: neither state nor epoch ends it.
    """
    if (until is None) == (for_ is None):
        raise InvalidWorkflow("sleep takes exactly one of until= and for_=")
    for_ms = None if for_ is None else for_ // timedelta(milliseconds=1)
    if (until or 0) < 0 or (for_ms or 0) < 0:
        raise InvalidWorkflow("a sleep cannot end before it begins")
    if for_ms is not None and for_ms > LIMITS.timer_max_ms:
        raise LimitExceeded(f"a sleep of {for_ms} ms; at most {LIMITS.timer_max_ms}")
    if isinstance(during, str):
        during = (during,)
    tags = during if during is None or during is ANY else tuple(sorted(set(during)))  # type: ignore[arg-type]
    return Sleep(until, for_ms, name, tags)


def together(*parts: Effect) -> Effect:
    """Parts side by side. Its values, one per part, fill the event's fields in order."""
    if not parts:
        raise InvalidWorkflow("together needs at least one part")
    return Together(tuple(_part(part) for part in parts))


def cancel(name: str) -> Effect:
    """Withdraw every unsettled task of that name in effects before this one, ready or not."""
    return Cancel(name)


def _part(effect: Any) -> Effect:
    if not isinstance(effect, Effect):
        raise InvalidWorkflow(f"expected an effect, got {type(effect).__name__}: use perform(task)")
    if isinstance(effect, Cancel):
        raise InvalidWorkflow("cancel stands only at the top of an effect")
    return effect


def _event_tag(event: type | str) -> str:
    return event if isinstance(event, str) else tag_of(event)


def deeper(effect: Effect, than: int) -> bool:
    """Whether a tree has more than `than` nodes in depth; looks no further than that."""
    while isinstance(effect, (Then, Catch)) and than > 0:  # most trees are a line
        effect, than = effect.body, than - 1
    if than < 1:
        return True
    if isinstance(effect, And):
        return deeper(effect.first, than - 1) or deeper(effect.second, than - 1)
    return isinstance(effect, Together) and any(deeper(part, than - 1) for part in effect.parts)


# --- outcomes and progress ----------------------------------------------------------------------

Leaf = Perform | Sleep
Outcome = Any
"""An ok value (frozen plain data) or `Err`."""


class Entry(NamedTuple):
    """One line of an effect's log: the outcome of leaf number `leaf`, at position `at`."""

    at: int
    outcome: Outcome


class Fired(NamedTuple):
    """An event that a node fired: at which log position, its tag, its values or its error."""

    at: int
    event: str
    values: tuple[Any, ...]
    error: Err | None


class Progress(NamedTuple):
    """What a log says: leaves to be performed now, events fired in order, failures uncaught."""

    ready: tuple[int, ...]
    fired: tuple[Fired, ...]
    uncaught: tuple[Err, ...]


class Plan:
    """An effect prepared for progress: its leaves numbered, equal leaves under one number."""

    __slots__ = ("_known", "_root", "leaves", "names", "sleeps")

    def __init__(self, tree: Effect) -> None:
        self.leaves: list[Leaf] = []
        self.names: dict[str, int] = {}
        self._known: dict[Any, int] = {}
        self.sleeps = False
        self._root = self._number(tree, 1)

    def _number(self, node: Effect, depth: int) -> tuple[Any, ...]:
        if depth > LIMITS.effect_depth:
            raise LimitExceeded(f"an effect deeper than {LIMITS.effect_depth}")
        match node:
            case Perform() | Sleep():
                return (_LEAF, self._leaf(node))
            case And(first, second):
                return (_AND, self._number(first, depth + 1), self._number(second, depth + 1))
            case Together(parts):
                return (_TOGETHER, tuple(self._number(part, depth + 1) for part in parts))
            case Then(body, event):
                return (_THEN, self._number(body, depth + 1), event)
            case Catch(body, event, names):
                return (_CATCH, self._number(body, depth + 1), event, names)
        raise InvalidWorkflow(f"{type(node).__name__} cannot stand inside an effect")

    def _leaf(self, leaf: Leaf) -> int:
        self.sleeps = self.sleeps or type(leaf) is Sleep
        if leaf.name is not None:
            if leaf.name in self.names:
                raise InvalidWorkflow(f"the name {leaf.name!r} occurs twice in one effect")
            self.names[leaf.name] = len(self.leaves)
        if self.leaves:  # a single task, the common case, is compared with nothing
            if not self._known:
                self._known[_identity(self.leaves[0])] = 0
            number = self._known.setdefault(_identity(leaf), len(self.leaves))
            if number < len(self.leaves):
                return number
        if len(self.leaves) == LIMITS.effect_tasks:
            raise LimitExceeded(f"an effect of more than {LIMITS.effect_tasks} tasks")
        self.leaves.append(leaf)
        return len(self.leaves) - 1

    def ready(self, log: Mapping[int, Entry], withdrawn: frozenset[int]) -> tuple[int, ...]:
        """`progress(…).ready`; an effect of one task needs no walk."""
        if len(self.leaves) == 1:
            return () if log or withdrawn else (0,)
        return self.progress(log, withdrawn).ready

    def progress(self, log: Mapping[int, Entry], withdrawn: frozenset[int]) -> Progress:
        """What is ready, what has fired and what no node caught, by this log.

        Args:
            log: leaf number → its outcome and position; positions grow in commit order.
            withdrawn: leaves that were cancelled or replaced: their branches have ended.
        """
        walk = _Walk(log, withdrawn)
        result = walk.node(self._root, -1)
        walk.fired.sort(key=_position)
        return Progress(
            tuple(walk.ready), tuple(walk.fired), tuple(error for _, error in result[2])
        )


def _identity(leaf: Effect) -> Any:
    """What makes two leaves one task: their stored form, since `1 == True == 1.0` in Python."""
    if not isinstance(leaf, Perform):
        return leaf
    kind = type(leaf.task)
    return kind, schema_of(kind).write(leaf.task), leaf.name


def progress(
    effects: Sequence[Effect],
    receipts: Sequence[tuple[Effect, Outcome]],
    withdrawn: Iterable[Effect] = (),
) -> list[Progress]:
    """`Plan.progress` for a list of effects under one log of (leaf, outcome), in commit order."""
    gone = {_identity(leaf) for leaf in withdrawn}
    found = []
    for tree in effects:
        plan = Plan(tree)
        log = {
            number: Entry(at, outcome)
            for at, (leaf, outcome) in reversed(list(enumerate(receipts)))
            for number, known in enumerate(plan.leaves)
            if _identity(known) == _identity(leaf)
        }
        ended = frozenset(n for n, leaf in enumerate(plan.leaves) if _identity(leaf) in gone)
        found.append(plan.progress(log, ended))
    return found


_LEAF, _AND, _TOGETHER, _THEN, _CATCH = range(5)

_Failures = tuple[tuple[int, Err], ...]
_Result = tuple[int | None, tuple[Any, ...], _Failures]
_WAITING: _Result = (None, (), ())


def _position(item: Any) -> int:
    return item[0]  # type: ignore[no-any-return]


class _Walk:
    """One evaluation. A node's result: completed at (or None), values then, failures that rise."""

    __slots__ = ("fired", "log", "ready", "withdrawn")

    def __init__(self, log: Mapping[int, Entry], withdrawn: frozenset[int]) -> None:
        self.log = log
        self.withdrawn = withdrawn
        self.ready: list[int] = []
        self.fired: list[Fired] = []

    def node(self, node: tuple[Any, ...], since: int) -> _Result:
        kind = node[0]
        if kind == _LEAF:
            return self._leaf(node[1], since)
        if kind == _THEN:
            return self._then(node, since)
        if kind == _CATCH:
            return self._catch(node, since)
        if kind == _AND:
            first = self.node(node[1], since)
            return first if first[0] is None else self.node(node[2], first[0])
        return self._together(node[1], since)

    def _leaf(self, number: int, since: int) -> _Result:
        entry = self.log.get(number)
        if entry is None:
            if number not in self.withdrawn and number not in self.ready:
                self.ready.append(number)
            return _WAITING
        at, outcome = max(entry.at, since), entry.outcome
        if type(outcome) is not Err:
            return (at, (outcome,), ())
        if outcome.name == DISMISSED:
            return _WAITING
        return (None, (), ((at, outcome),))

    def _together(self, parts: tuple[Any, ...], since: int) -> _Result:
        done: int | None = since
        values: tuple[Any, ...] = ()
        failures: _Failures = ()
        for part in parts:
            at, value, failed = self.node(part, since)
            failures += failed
            if at is None:
                done = None
            elif done is not None:
                values += value
                done = max(done, at)
        return (done, values, failures)

    def _then(self, node: tuple[Any, ...], since: int) -> _Result:
        at, values, failures = self.node(node[1], since)
        if at is None:
            return (None, (), failures)
        self.fired.append(Fired(at, node[2], values, None))
        return (at, (), failures)

    def _catch(self, node: tuple[Any, ...], since: int) -> _Result:
        at, values, failures = self.node(node[1], since)
        names = node[3]
        mine = [failure for failure in failures if not names or failure[1].name in names]
        if not mine:
            return (at, values, failures)
        when, error = min(mine, key=_position)
        self.fired.append(Fired(when, node[2], (), error))
        return (at, values, tuple(failure for failure in failures if failure not in mine))


def outcome_plain(outcome: Outcome) -> dict[str, Any]:
    """The form in which a receipt holds an outcome."""
    return {"err": outcome.plain()} if type(outcome) is Err else {"ok": thaw(outcome)}


def outcome_bytes(outcome: Outcome) -> bytes:
    """`outcome_plain`, encoded."""
    if type(outcome) is Err:
        return _ERR([_ERROR([wire.text(outcome.name), codec.encode(thaw(outcome.detail))])])
    return _OK([codec.encode(thaw(outcome))])


_OK = wire.mapping(["ok"])
_ERR = wire.mapping(["err"])
_ERROR = wire.mapping(["name", "detail"])


def outcome_of(plain: Mapping[str, Any]) -> Outcome:
    """The inverse of `outcome_plain`."""
    if "err" in plain:
        return Err(plain["err"]["name"], freeze(plain["err"]["detail"]))
    return freeze(plain["ok"])
