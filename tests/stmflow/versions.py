"""Two versions of one workflow that share no state type, and casts both ways.

Each reducer notes what it was given, so that a test can tell whether a job was ever read by a
version that it does not name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar

from stmflow import Tx, Workflow, ignore, perform, same, sleep
from stmflow.workflow import Job

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Open:
    """Both versions declare this very type."""

    name: str


@dataclass(frozen=True)
class Look:
    name: str


@dataclass(frozen=True)
class Grow1:
    tag: ClassVar[str] = "Grow"
    name: str
    by: int


@dataclass(frozen=True)
class Grow2:
    tag: ClassVar[str] = "Grow"
    name: str
    by: int
    why: str = "asked"


@dataclass(frozen=True)
class Seen1:
    tag: ClassVar[str] = "Seen"
    size: int


@dataclass(frozen=True)
class Seen2:
    tag: ClassVar[str] = "Seen"
    octets: int


@dataclass(frozen=True)
class Rang:
    pass


@dataclass(frozen=True)
class Stat:
    name: str


@dataclass(frozen=True)
class File1:
    tag: ClassVar[str] = "File"
    name: str
    size: int = 0
    status: str = "open"


@dataclass(frozen=True)
class File2:
    tag: ClassVar[str] = "File"
    name: str
    octets: int = 0
    status: str = "open"


READ: list[tuple[int, str]] = []
"""(version of the reducer, type of the state that it was given)."""


def update1(event: Any, state: File1 | None) -> Any:
    READ.append((1, type(state).__name__))
    match event:
        case Open(name):
            return ignore() if state else File1(name)
        case _ if state is None:
            return ignore()
        case Grow1(by=by):
            return replace(state, size=state.size + by), ()
        case Seen1(size):
            return replace(state, size=size), ()
        case Rang():
            return replace(state, status="old"), ()
        case Look(name):
            bell = sleep(for_=timedelta(seconds=1), name="bell", during=("open",)).then(Rang)
            return same(perform(Stat(name)).then("Seen"), bell)
    raise AssertionError(event)


def _opened(answer: Any) -> Any:
    return (answer, ()) if isinstance(answer, (File1, File2)) else answer


def update2(event: Any, state: File2 | None) -> Any:
    READ.append((2, type(state).__name__))
    match event:
        case Open(name):
            return ignore() if state else File2(name)
        case _ if state is None:
            return ignore()
        case Grow2(by=by):
            return replace(state, octets=state.octets + by), ()
        case Seen2(octets):
            return replace(state, octets=octets), ()
        case Rang():
            return replace(state, status="old"), ()
        case Look(name):
            bell = sleep(for_=timedelta(seconds=1), name="bell", during=("open",)).then(Rang)
            return same(perform(Stat(name)).then("Seen"), bell)
    raise AssertionError(event)


def up(tag: str, fields: Fields) -> tuple[str, Fields]:
    if "size" not in fields:
        return tag, fields
    rest = {name: value for name, value in fields.items() if name != "size"}
    return tag, {**rest, "octets": fields["size"]}


def up_event(tag: str, fields: Fields) -> tuple[str, Fields]:
    return up(tag, {**fields, "why": "raised"} if tag == "Grow" else fields)


def down(tag: str, fields: Fields) -> tuple[str, Fields]:
    rest = {name: value for name, value in fields.items() if name not in ("octets", "why")}
    return tag, rest | ({"size": fields["octets"]} if "octets" in fields else {})


def one(**changed: Any) -> Workflow:
    """Version 1."""
    settings: dict[str, Any] = {
        "state": File1,
        "events": (Open, Grow1, Look, Seen1, Rang),
        "outside": (Open, Grow1, Look),
        "tasks": (Stat,),
        "update": lambda event, state: _opened(update1(event, state)),
        "key": ("name",),
        "tag": "status",
        **changed,
    }
    return Workflow("file", version=1, **settings)


def two(**changed: Any) -> Workflow:
    """Version 2, which knows the way up from version 1 and the way back."""
    settings: dict[str, Any] = {
        "state": File2,
        "events": (Open, Grow2, Look, Seen2, Rang),
        "outside": (Open, Grow2, Look),
        "tasks": (Stat,),
        "update": lambda event, state: _opened(update2(event, state)),
        "key": ("name",),
        "tag": "status",
        "upcasts": {1: (up, up_event)},
        "downcasts": {2: (down, down)},
        **changed,
    }
    return Workflow("file", version=2, **settings)


ONE, TWO = one(), two()


def stay(tx: Tx, job: Job) -> int:
    """A chooser: all is born at version 1."""
    return 1


__all__ = ["ONE", "READ", "TWO", "stay"]
