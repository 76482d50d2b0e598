"""A workflow is a value made of functions: a name, types, and one pure `update(event, state)`.

    store_add = Workflow("store/add", state=Upload, events=(Added, Probed, …), outside=(Added,),
                         tasks=(Allocate, Stat), update=update, key=("space", "link"))

`update` returns `(state, effects)`, or `same(*effects)`, `ignore(*effects)`,
`reject(code, detail)`, `impossible(*effects)`. It is pure, total and deterministic; it may be
called any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from inspect import signature
from typing import Any

from stmflow import codec, wire
from stmflow.cid import CID
from stmflow.effect import (
    ANY,
    And,
    Cancel,
    Catch,
    Effect,
    Err,
    Perform,
    Sleep,
    Then,
    Together,
    deeper,
)
from stmflow.errors import (
    CodecError,
    InvalidEvent,
    InvalidWorkflow,
    MalformedBlock,
    UnknownVersion,
    UnknownWorkflow,
)
from stmflow.schema import Data, Schema, schema_of, thaw

_FORM = wire.mapping(["f", "t", "v", "w"])
_NAMED = wire.mapping(["f", "n", "t", "v", "w"])
_PERFORM = wire.mapping(["f", "perform"])
_PERFORM_NAMED = wire.mapping(["f", "name", "perform"])
_SLEEP = wire.mapping(["sleep"])
_SLEEP_NAMED = wire.mapping(["name", "sleep"])
_SLEEP_UNTIL = wire.mapping(["until", "during"])
_SLEEP_FOR = wire.mapping(["for", "during"])
_AND = wire.mapping(["and"])
_TOGETHER = wire.mapping(["together"])
_THEN = wire.mapping(["of", "then"])
_CATCH = wire.mapping(["of", "catch", "names"])
_CANCEL = wire.mapping(["cancel"])

Update = Callable[[Any, Any], Any]
Fields = Mapping[str, Any]
Read = Callable[["Job"], Any]
"""A job → its state, or None."""
Cast = Callable[[str, Fields], tuple[str, Fields]]
"""Takes (tag, plain fields) from one version to the next one, up or down. Pure."""
Chooser = Callable[[Any, "Job"], int | None]
"""`(tx, job)` → the version at which a new job is born; None: the newest registered here. Pure; it
may `tx.read`, and what it reads is in the read-set of the commit."""


# --- the answers of `update` --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Same:
    """Accepted; the state stays. With effects it is still a revision."""

    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Ignore:
    """A duplicate or late event: nothing changes, and the caller is told so."""

    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """Refused. From outside the caller gets the code; from inside it counts as ignored."""

    code: str
    detail: Data = None


@dataclass(frozen=True, slots=True)
class Impossible:
    """No legal run leads here: an alarm. The model checker counts reaching it as a violation."""

    effects: tuple[Effect, ...] = ()


def same(*effects: Effect) -> Same:
    """Accept the event and keep the state."""
    return Same(effects)


def ignore(*effects: Effect) -> Ignore:
    """The event is a duplicate or late: change nothing."""
    return Ignore(effects)


def reject(code: str, detail: Any = None) -> Reject:
    """Refuse the event; nothing is written but the answer."""
    return Reject(code, detail)


def impossible(*effects: Effect) -> Impossible:
    """Say that no legal run leads here; effects are a compensation."""
    return Impossible(effects)


# --- jobs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """The name of a job: a key in a workflow. `id` is the CID of [workflow name, key]."""

    workflow: str
    key: tuple[Any, ...]
    id: CID = field(compare=False)

    def __str__(self) -> str:
        return str(self.id)


def job(workflow: str, *key: Any) -> Job:
    """The job of that key. A key is a path: text, bytes, integers and links."""
    try:
        return Job(workflow, key, CID.of(codec.encode([workflow, thaw(key)])))
    except MalformedBlock as error:
        raise InvalidEvent(f"not a key of {workflow}: {error}") from None


@dataclass(frozen=True, slots=True)
class Hook:
    """A post hook: pure over (event, state, state'), returns more effects for the same commit."""

    name: str
    version: int
    effects: Callable[[Any, Any, Any], Iterable[Effect]]

    @property
    def by(self) -> str:
        """How a revision names it."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Guard:
    """A pre hook: pure over (event, state), or (event, state, read); a text vetoes the outside
    event with that code, None lets it pass.

    `read(job)` is another job's state, or None where there is no such job. What was read is
    compared when the event, or its refusal, commits: no veto rests on a state that has gone.
    """

    name: str
    veto: Callable[..., str | None]
    reads: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", len(signature(self.veto).parameters) > 2)

    def judge(self, event: Any, state: Any, read: Read) -> str | None:
        """The code of its veto, or None. Raises TypeError for anything else that it returns."""
        code = self.veto(event, state, read) if self.reads else self.veto(event, state)
        if code is None or type(code) is str:
            return code
        raise TypeError(f"a guard answers a text or None, not {code!r}")


# --- the definition -----------------------------------------------------------------------------


class Workflow:
    """One version of one workflow. Immutable once made; give every live version to the transactor.

    Args:
        name: stable for ever; part of every job's id.
        state: the frozen type of its state, or a tuple of types.
        events: every event type that `update` takes.
        update: `(event, state | None) -> answer`, pure.
        key: the names of the event fields that make a job's key, or a function of the event.
        outside: the events that callers may send. All others come only from effects.
        tasks: every task type that its effects perform.
        version: raised when a type or the meaning of `update` changes.
        tag: what a sleep's `during` compares: the name of a state field or a function of the
            state. Default: the tag of the state's type.
        epoch: the state field that counts tries. Without it the epoch is 1.
        pre, post: guards and post hooks.
        upcasts: from version n to n+1: n → (state upcast, event upcast).
        downcasts: from version n to n-1: n → (state downcast, event downcast).

    Raises:
        InvalidWorkflow: a type that cannot be stored, a tag used twice, an unknown name.
    """

    def __init__(
        self,
        name: str,
        *,
        state: type | tuple[type, ...],
        events: Sequence[type],
        update: Update,
        key: Sequence[str] | Callable[[Any], Sequence[Any]] = (),
        outside: Sequence[type] = (),
        tasks: Sequence[type] = (),
        version: int = 1,
        tag: str | Callable[[Any], str] | None = None,
        epoch: str | None = None,
        pre: Sequence[Guard] = (),
        post: Sequence[Hook] = (),
        upcasts: Mapping[int, tuple[Cast, Cast]] | None = None,
        downcasts: Mapping[int, tuple[Cast, Cast]] | None = None,
    ) -> None:
        if not name or version < 1:
            raise InvalidWorkflow("a workflow has a name and a version from 1 up")
        self.name = name
        self.version = version
        self.update = update
        self.pre = tuple(pre)
        self.post = tuple(post)
        self.upcasts = dict(upcasts or {})
        self.downcasts = dict(downcasts or {})
        self._v = wire.integer(version)
        self._w = wire.text(name)
        self._states = _by_tag(state if isinstance(state, tuple) else (state,), "state")
        self._events = _by_tag(events, "event")
        self._tasks = _by_tag(tasks, "task")
        self._loose = any(schema.loose for schema in self._tasks.values())
        known = (*self._states.values(), *self._events.values(), *self._tasks.values())
        self._types = {schema.type: schema for schema in known}
        self.outside = frozenset(outside)
        if stray := self.outside - set(events):
            raise InvalidWorkflow(f"outside lists {_names(stray)}, which events does not")
        self._key = key
        self._tag = tag
        self._epoch = epoch
        for schema in self._states.values():
            _needs(schema, [epoch, tag if isinstance(tag, str) else None])
        if not callable(key) and outside and not any(_has(schema_of(o), key) for o in outside):
            raise InvalidWorkflow(f"no outside event of {name} has the key {', '.join(key)}")

    def __repr__(self) -> str:
        return f"Workflow({self.name!r}, version={self.version})"

    # jobs

    def job(self, *key: Any) -> Job:
        """The job of that key."""
        return job(self.name, *key)

    def job_of(self, event: Any) -> Job:
        """The job that an event is about, by the workflow's `key`.

        Raises:
            InvalidEvent: the event has no such fields, or they are no key.
        """
        if callable(self._key):
            return job(self.name, *self._key(event))
        try:
            return job(self.name, *(getattr(event, name) for name in self._key))
        except AttributeError:
            raise InvalidEvent(
                f"a {type(event).__name__} does not name its job: send it to a Job or a CID"
            ) from None

    # states

    def tag_of(self, state: Any) -> str:
        """What a sleep's `during` compares."""
        if self._tag is None:
            return schema_of(type(state)).tag
        return str(getattr(state, self._tag) if isinstance(self._tag, str) else self._tag(state))

    def epoch_of(self, state: Any) -> int:
        """Which try of the job this is."""
        return 1 if self._epoch is None else int(getattr(state, self._epoch))

    def state_bytes(self, state: Any) -> bytes:
        """The state's block. Raises MalformedBlock or LimitExceeded."""
        return self._block(self._states, state, "state")

    def state_of(self, plain: Fields) -> Any:
        """The state in a decoded block of this version."""
        return self._value(self._states, plain, "state")

    # events

    def event_bytes(self, event: Any) -> bytes:
        """The event's block. Raises MalformedBlock or LimitExceeded."""
        return self._block(self._events, event, "event")

    def event_of(self, plain: Fields) -> Any:
        """The event in a decoded block of this version."""
        return self._value(self._events, plain, "event")

    def declares(self, kind: type) -> bool:
        """Whether this version lists that type among its events."""
        schema = self._types.get(kind)
        return schema is not None and self._events.get(schema.tag) is schema

    def event_schema(self, tag: str) -> Schema:
        """The declared type of the event of that tag."""
        try:
            return self._events[tag]
        except KeyError:
            raise InvalidEvent(f"{self.name} has no event {tag!r}") from None

    def check_event(self, event: Any, at: int) -> Any:
        """The event as the strict decoder would give it back, its `At` field filled.

        Raises:
            InvalidEvent: unknown to this workflow or refused by its declared type.
        """
        if not self.declares(type(event)):
            raise InvalidEvent(f"{type(event).__name__} is not an event of {self.name}")
        try:
            event = self.dated(event, at)
            block = self._block(self._events, event, "event")
            return self.as_read(event, block)
        except CodecError as error:
            raise InvalidEvent(str(error)) from None

    def as_read(self, value: Any, block: bytes) -> Any:
        """The value that its block gives back: frozen where its type alone does not ensure it."""
        schema = schema_of(type(value))
        return schema.decode(codec.decode(block)["f"]) if schema.loose else value

    def dated(self, event: Any, at: int) -> Any:
        """An event that was checked before, with its `At` field set to another time."""
        return schema_of(type(event)).dated(event, at)

    def fill(self, tag: str, values: Sequence[Any], error: Err | None, at: int) -> Any:
        """The event that a node fires: filled by the outcomes that rose to it.

        A caught failure fills `error`. One value that is a mapping fills fields by name; any other
        values fill the free fields in order.

        Raises:
            InvalidEvent: the outcome does not fit the event's declared type.
        """
        schema = self.event_schema(tag)
        fields: dict[str, Any] = {} if schema.at is None else {schema.at: at}
        if error is not None:
            fields["error"] = error.plain()
        elif len(values) == 1 and isinstance(values[0], Mapping):
            if schema.at in values[0]:
                raise InvalidEvent(f"{tag}.{schema.at} is the revision's time, not an outcome's")
            fields |= thaw(values[0])
        else:
            given = [
                value for value in values if value is not None or len(schema.free) == len(values)
            ]
            if len(given) != len(schema.free):
                raise InvalidEvent(
                    f"{tag} takes {len(schema.free)} value(s), its effect gives {len(given)}"
                )
            fields |= {name: thaw(value) for name, value in zip(schema.free, given, strict=True)}
        try:
            return schema.decode(fields)
        except MalformedBlock as wrong:
            raise InvalidEvent(str(wrong)) from None

    # effects

    def effect_bytes(self, effect: Effect) -> bytes:
        """The effect's block. Raises MalformedBlock, LimitExceeded or InvalidWorkflow."""
        block = self._form(self._write(effect), "effect")
        if self._loose or deeper(effect, _SURELY_SHALLOW):
            codec.decode(block)  # refuses what is nested too deep to be read again
        return block

    def effect_of(self, plain: Fields) -> Effect:
        """The effect in a decoded block of this version."""
        self._own(plain)
        return self._read(plain["f"])

    def task_bytes(self, leaf: Perform | Sleep) -> bytes:
        """The leaf as it stands in a task's id and in the outbox: `{w, v, t, f}`, `n` if named."""
        if isinstance(leaf, Sleep):
            fields, tag = _sleep_bytes(leaf), "sleep"
        else:
            schema = self._task_schema(leaf.task)
            fields, tag = schema.write(leaf.task), schema.tag
        if leaf.name is None:
            return self._form(fields, tag)
        form = _NAMED([fields, wire.text(leaf.name), wire.text(tag), self._v, self._w])
        return wire.checked(form)

    def task_tag(self, leaf: Perform) -> str:
        """The tag of a leaf's task."""
        return self._task_schema(leaf.task).tag

    def task_of(self, plain: Fields) -> Any:
        """The task in a decoded outbox row of this version."""
        return self._value(self._tasks, plain, "task")

    @property
    def state_tags(self) -> tuple[str, ...]:
        """The tags of its state types, where these are what a sleep's `during` compares."""
        return tuple(self._states) if self._tag is None else ()

    @property
    def state_types(self) -> tuple[type, ...]:
        """Its state types."""
        return tuple(schema.type for schema in self._states.values())

    @property
    def event_tags(self) -> tuple[str, ...]:
        """The tags of its event types."""
        return tuple(self._events)

    @property
    def task_tags(self) -> tuple[str, ...]:
        """The tags of its task types."""
        return tuple(self._tasks)

    def _task_schema(self, task: Any) -> Schema:
        schema = self._types.get(type(task))
        if schema is None or self._tasks.get(schema.tag) is not schema:
            raise InvalidWorkflow(f"{type(task).__name__} is not among the tasks of {self.name}")
        return schema

    def _write(self, node: Effect) -> bytes:
        writer = _WRITERS.get(type(node))
        if writer is None:
            raise InvalidWorkflow(f"{node!r} is not an effect")
        return writer(self, node)

    def _write_perform(self, node: Perform) -> bytes:
        schema = self._task_schema(node.task)
        fields, tag = schema.write(node.task), wire.tag(schema.tag)
        if node.name is None:
            return _PERFORM([fields, tag])
        return _PERFORM_NAMED([fields, wire.text(node.name), tag])

    def _write_sleep(self, node: Sleep) -> bytes:
        if node.name is None:
            return _SLEEP([_sleep_bytes(node)])
        return _SLEEP_NAMED([wire.text(node.name), _sleep_bytes(node)])

    def _write_and(self, node: And) -> bytes:
        return _AND([wire.array([self._write(part) for part in _chain(node)])])

    def _write_together(self, node: Together) -> bytes:
        return _TOGETHER([wire.array([self._write(part) for part in node.parts])])

    def _write_then(self, node: Then) -> bytes:
        self.event_schema(node.event)
        return _THEN([self._write(node.body), wire.tag(node.event)])

    def _write_catch(self, node: Catch) -> bytes:
        if self.event_schema(node.event).free != ("error",):
            raise InvalidWorkflow(f"{node.event} is caught: its one free field must be error")
        names = wire.array([wire.text(name) for name in node.names])
        return _CATCH([self._write(node.body), wire.tag(node.event), names])

    def _write_cancel(self, node: Cancel) -> bytes:
        return _CANCEL([wire.text(node.name)])

    def _read(self, plain: Any) -> Effect:
        match plain:
            case {"perform": str(tag), "f": dict(fields), **rest}:
                if tag not in self._tasks:
                    raise UnknownVersion(f"{self!r} has no task {tag!r}")
                return Perform(self._tasks[tag].decode(fields), _name(rest))
            case {"sleep": dict(fields), **rest}:
                return _sleep_of(fields, _name(rest))
            case {"and": [first, *following]} if following:
                return reduce(And, map(self._read, following), self._read(first))
            case {"together": list(parts)}:
                return Together(tuple(self._read(part) for part in parts))
            case {"then": str(event), "of": body}:
                return Then(self._read(body), event)
            case {"catch": str(event), "names": list(names), "of": body}:
                return Catch(self._read(body), event, tuple(names))
            case {"cancel": str(name)}:
                return Cancel(name)
        raise MalformedBlock("not an effect")

    # blocks

    def _block(self, known: Mapping[str, Schema], value: Any, what: str) -> bytes:
        schema = self._types.get(type(value))
        if schema is None or known.get(schema.tag) is not schema:
            raise MalformedBlock(f"{type(value).__name__} is not a {what} of {self.name}")
        block = self._form(schema.write(value), schema.tag)
        if schema.loose:
            codec.decode(block)  # refuses what is nested too deep to be read again
        return block

    def _form(self, fields: bytes, tag: str) -> bytes:
        """The fixed form `{w, v, t: tag, f: fields}` of every state, event and effect block."""
        return wire.checked(_FORM([fields, wire.tag(tag), self._v, self._w]))

    def _value(self, known: Mapping[str, Schema], plain: Fields, what: str) -> Any:
        self._own(plain)
        schema = known.get(plain["t"])
        if schema is None:
            raise MalformedBlock(f"{plain['t']!r} is not a {what} of {self!r}")
        return schema.decode(plain["f"])

    def _own(self, plain: Fields) -> None:
        if plain.get("w") != self.name or plain.get("v") != self.version:
            raise UnknownVersion(
                f"a block of {plain.get('w')} version {plain.get('v')} is not one of {self!r}"
            )


_WRITERS: dict[type, Callable[[Workflow, Any], bytes]] = {
    Perform: Workflow._write_perform,
    Sleep: Workflow._write_sleep,
    And: Workflow._write_and,
    Together: Workflow._write_together,
    Then: Workflow._write_then,
    Catch: Workflow._write_catch,
    Cancel: Workflow._write_cancel,
}


class Registry:
    """Every workflow version that a process knows, and which of them a job is run by.

    Args:
        chooser: makes versions sticky: a job is run by the version of its head, a new one by the
            version that this gives. Without it every job is run by the newest.
    """

    def __init__(self, workflows: Iterable[Workflow], *, chooser: Chooser | None = None) -> None:
        self.chooser = chooser
        self.versions: dict[tuple[str, int], Workflow] = {}
        self.current: dict[str, Workflow] = {}
        for workflow in workflows:
            if (
                self.versions.setdefault((workflow.name, workflow.version), workflow)
                is not workflow
            ):
                raise InvalidWorkflow(f"{workflow!r} is registered twice")
            newest = self.current.setdefault(workflow.name, workflow)
            if workflow.version > newest.version:
                self.current[workflow.name] = workflow

    def version(self, name: str, version: int) -> Workflow:
        """That very version. Raises UnknownVersion."""
        try:
            return self.versions[(name, version)]
        except KeyError:
            known = ", ".join(str(v) for n, v in sorted(self.versions) if n == name) or "none"
            raise UnknownVersion(
                f"{name} version {version} is not registered (known: {known})"
            ) from None

    def newest(self, name: str) -> Workflow:
        """The newest version of that name. Raises UnknownWorkflow."""
        try:
            return self.current[name]
        except KeyError:
            raise UnknownWorkflow(f"workflow {name!r} is not registered") from None

    def home(self, name: str, version: int | None) -> Workflow:
        """What runs a job whose head has that version (None: a new job, with nothing chosen).

        Raises:
            UnknownWorkflow, UnknownVersion: it is not registered here.
        """
        if self.chooser is None or version is None:
            return self.newest(name)
        return self.version(name, version)

    def speaks(self, name: str, kind: type) -> Workflow:
        """The newest version that declares that type of event; where none does, the newest."""
        newest = self.newest(name)
        if newest.declares(kind):
            return newest
        others = sorted(v for n, v in self.versions if n == name)
        found = (self.versions[(name, v)] for v in reversed(others))
        return next((one for one in found if one.declares(kind)), newest)

    def lift(
        self, plain: Fields, *, event: bool, to: Workflow | None = None
    ) -> tuple[Workflow, Fields]:
        """A state or event block raised, or lowered, by the registered casts: to that version, or
        to the newest. The newer of two versions knows the way up to it and down from it.

        Raises:
            UnknownVersion: the block is newer than anything known, or a cast is missing.
        """
        workflow = self.newest(plain["w"]) if to is None else to
        name, tag, fields, version = workflow.name, plain["t"], plain["f"], plain["v"]
        side = 1 if event else 0
        if version > workflow.version and to is None:
            raise UnknownVersion(f"{name} version {version} is newer than any known here")
        while version < workflow.version:
            if version not in workflow.upcasts:
                raise UnknownVersion(f"{name} has no upcast from version {version}")
            tag, fields = workflow.upcasts[version][side](tag, fields)
            version += 1
        downcasts = self.version(name, version).downcasts if version > workflow.version else {}
        while version > workflow.version:
            if version not in downcasts:
                raise UnknownVersion(f"{name} has no downcast from version {version}")
            tag, fields = downcasts[version][side](tag, fields)
            version -= 1
        return workflow, {"w": name, "v": workflow.version, "t": tag, "f": fields}


def _by_tag(kinds: Iterable[type], what: str) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for kind in kinds:
        schema = schema_of(kind)
        if found.setdefault(schema.tag, schema) is not schema:
            raise InvalidWorkflow(f"two {what} types have the tag {schema.tag!r}")
    return found


def _has(schema: Schema, names: Iterable[str | None]) -> bool:
    return set(names) - {None} <= {*schema.free, schema.at}


def _needs(schema: Schema, names: Iterable[str | None]) -> None:
    for name in names:
        if not _has(schema, [name]):
            raise InvalidWorkflow(f"{schema.tag} has no field {name!r}")


_SURELY_SHALLOW = 8
"""A tree of so many nodes in depth stays far below the depth of a block."""


def _chain(node: Effect) -> list[Effect]:
    """The parts of `a.and_(b).and_(c)`: one list in its block, or depth 16 would pass depth 32."""
    parts = []
    while isinstance(node, And):
        parts.append(node.second)
        node = node.first
    return [node, *reversed(parts)]


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def _name(rest: Mapping[Any, Any]) -> str | None:
    name = rest.get("name")
    return name if isinstance(name, str) else None


def _sleep_bytes(leaf: Sleep) -> bytes:
    if leaf.during is ANY:
        during = wire.NULL
    else:
        during = wire.array([wire.text(tag) for tag in leaf.during or ()])
    if leaf.until is not None:
        return _SLEEP_UNTIL([wire.integer(leaf.until), during])
    return _SLEEP_FOR([wire.integer(leaf.for_ms or 0), during])


def _sleep_of(fields: Fields, name: str | None) -> Sleep:
    during = fields["during"]
    return Sleep(
        fields.get("until"), fields.get("for"), name, ANY if during is None else tuple(during)
    )
