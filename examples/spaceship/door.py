"""The bay door: the big one, between the launch bay and space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, assert_never

from stmflow import Effect, impossible, perform, reject, same

Label: TypeAlias = Literal["open", "closed", "opening", "closing"]


@dataclass(frozen=True, slots=True)
class Door:
    ship: str
    label: Label = "closed"


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hung:
    """The door is built, closed."""

    tag: ClassVar[str] = "door/hung"

    ship: str


@dataclass(frozen=True, slots=True)
class OpenRequested:
    tag: ClassVar[str] = "door/open"

    ship: str


@dataclass(frozen=True, slots=True)
class CloseRequested:
    tag: ClassVar[str] = "door/close"

    ship: str


@dataclass(frozen=True, slots=True)
class FinishedOpening:
    tag: ClassVar[str] = "door/opened"


@dataclass(frozen=True, slots=True)
class FinishedClosing:
    tag: ClassVar[str] = "door/closed"


Event: TypeAlias = Hung | OpenRequested | CloseRequested | FinishedOpening | FinishedClosing


@dataclass(frozen=True, slots=True)
class Swing:
    """Run the motor until the door is open, or closed. Outcome: nothing."""

    tag: ClassVar[str] = "door/swing"

    ship: str
    to: Literal["open", "closed"]


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: Door | None) -> object:
    if state is None:
        if not isinstance(event, Hung):
            return reject("NotBuilt")
        return Door(event.ship), []
    if isinstance(event, Hung):
        return same()
    match state.label:
        case "open":
            return _open(event, state)
        case "closed":
            return _closed(event, state)
        case "opening":
            return _opening(event, state)
        case "closing":
            return _closing(event, state)
    assert_never(state.label)


Moving: TypeAlias = OpenRequested | CloseRequested | FinishedOpening | FinishedClosing


def _open(event: Moving, state: Door) -> object:
    match event:
        case OpenRequested():
            return same()
        case CloseRequested():
            return close(state)
        case FinishedOpening() | FinishedClosing():
            return impossible()
    assert_never(event)


def _closed(event: Moving, state: Door) -> object:
    match event:
        case OpenRequested():
            return open_(state)
        case CloseRequested():
            return same()
        case FinishedOpening() | FinishedClosing():
            return impossible()
    assert_never(event)


def _opening(event: Moving, state: Door) -> object:
    match event:
        case OpenRequested():
            return same()
        case CloseRequested():
            return close(state)
        case FinishedOpening():
            return replace(state, label="open"), []
        case FinishedClosing():
            return impossible()
    assert_never(event)


def _closing(event: Moving, state: Door) -> object:
    match event:
        case OpenRequested():
            return open_(state)
        case CloseRequested():
            return same()
        case FinishedOpening():
            return impossible()
        case FinishedClosing():
            return replace(state, label="closed"), []
    assert_never(event)


def open_(state: Door) -> object:
    return replace(state, label="opening"), [swing(state, "open").then(FinishedOpening)]


def close(state: Door) -> object:
    return replace(state, label="closing"), [swing(state, "closed").then(FinishedClosing)]


def swing(state: Door, to: Literal["open", "closed"]) -> Effect:
    """One motor: by its name, a new movement withdraws the one before."""
    return perform(Swing(state.ship, to), name="motor")
