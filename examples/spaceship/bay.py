"""The bay environment: what one breathes in the launch bay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, assert_never

from stmflow import Effect, cancel, impossible, perform, reject, same

Label: TypeAlias = Literal[
    "friendly",
    "hostile",
    "leaving friendly",
    "leaving hostile",
    "pressurising",
    "heating",
    "depressurising",
]
"""*leaving*: the air is as it was, and the pump waits until every outer door is closed."""


@dataclass(frozen=True, slots=True)
class Bay:
    """`airlocks`: the names of those that open into it."""

    ship: str
    airlocks: tuple[str, ...]
    label: Label = "friendly"

    @property
    def stable(self) -> bool:
        """Whether an outer door may open."""
        return self.label in ("friendly", "hostile")


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filled:
    """The bay is built, and there is air in it."""

    tag: ClassVar[str] = "bay/filled"

    ship: str
    airlocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FriendlyRequested:
    tag: ClassVar[str] = "bay/friendly"

    ship: str


@dataclass(frozen=True, slots=True)
class HostileRequested:
    tag: ClassVar[str] = "bay/hostile"

    ship: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A sensor: the bay has lost its air."""

    tag: ClassVar[str] = "bay/leak"

    ship: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """Every outer door is closed."""

    tag: ClassVar[str] = "bay/sealed"


@dataclass(frozen=True, slots=True)
class FinishedPressurising:
    tag: ClassVar[str] = "bay/pressurised"


@dataclass(frozen=True, slots=True)
class FinishedHeating:
    tag: ClassVar[str] = "bay/heated"


@dataclass(frozen=True, slots=True)
class FinishedDepressurising:
    tag: ClassVar[str] = "bay/depressurised"


Moving: TypeAlias = (
    FriendlyRequested
    | HostileRequested
    | Leak
    | Sealed
    | FinishedPressurising
    | FinishedHeating
    | FinishedDepressurising
)
Event: TypeAlias = Filled | Moving

# --- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pump:
    """Let air in, warm it, or let it out. Outcome: nothing."""

    tag: ClassVar[str] = "bay/pump"

    ship: str
    what: Literal["in", "warm", "out"]


@dataclass(frozen=True, slots=True)
class Interlock:
    """Wait until every outer door is closed. Outcome: nothing."""

    tag: ClassVar[str] = "bay/interlock"

    ship: str
    airlocks: tuple[str, ...]


News: TypeAlias = Literal["unstable", "friendly", "hostile", "leak"]


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the airlocks, and of a leak the deck too, at once. Outcome: nothing."""

    tag: ClassVar[str] = "bay/announce"

    ship: str
    airlocks: tuple[str, ...]
    news: News


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: Bay | None) -> object:
    if state is None:
        if not isinstance(event, Filled):
            return reject("NotBuilt")
        return Bay(event.ship, event.airlocks), []
    if isinstance(event, Filled):
        return same()
    match state.label:
        case "friendly":
            return _friendly(event, state)
        case "hostile":
            return _hostile(event, state)
        case "leaving friendly":
            return _leaving_friendly(event, state)
        case "leaving hostile":
            return _leaving_hostile(event, state)
        case "pressurising":
            return _pressurising(event, state)
        case "heating":
            return _heating(event, state)
        case "depressurising":
            return _depressurising(event, state)
    assert_never(state.label)


def _friendly(event: Moving, state: Bay) -> object:
    match event:
        case FriendlyRequested():
            return same()
        case HostileRequested():
            return leave(state, "leaving friendly")
        case Leak():
            return lost(state)
        case Sealed() | FinishedPressurising() | FinishedHeating() | FinishedDepressurising():
            return impossible()
    assert_never(event)


def _hostile(event: Moving, state: Bay) -> object:
    match event:
        case FriendlyRequested():
            return leave(state, "leaving hostile")
        case HostileRequested() | Leak():
            return same()
        case Sealed() | FinishedPressurising() | FinishedHeating() | FinishedDepressurising():
            return impossible()
    assert_never(event)


def _leaving_friendly(event: Moving, state: Bay) -> object:
    match event:
        case FriendlyRequested():
            return settle(state, "friendly", cancel("pump"))
        case HostileRequested():
            return same()
        case Sealed():
            return run(state, "depressurising")
        case Leak():
            return lost(state)
        case FinishedPressurising() | FinishedHeating() | FinishedDepressurising():
            return impossible()
    assert_never(event)


def _leaving_hostile(event: Moving, state: Bay) -> object:
    match event:
        case FriendlyRequested() | Leak():
            return same()
        case HostileRequested():
            return settle(state, "hostile", cancel("pump"))
        case Sealed():
            return run(state, "pressurising")
        case FinishedPressurising() | FinishedHeating() | FinishedDepressurising():
            return impossible()
    assert_never(event)


def _pressurising(event: Moving, state: Bay) -> object:
    match event:
        case FriendlyRequested():
            return same()
        case HostileRequested():
            return run(state, "depressurising")
        case FinishedPressurising():
            return run(state, "heating")
        case Leak():
            return lost(state)
        case Sealed() | FinishedHeating() | FinishedDepressurising():
            return impossible()
    assert_never(event)


def _heating(event: Moving, state: Bay) -> object:
    match event:
        case FriendlyRequested():
            return same()
        case HostileRequested():
            return run(state, "depressurising")
        case FinishedHeating():
            return settle(state, "friendly")
        case Leak():
            return lost(state)
        case Sealed() | FinishedPressurising() | FinishedDepressurising():
            return impossible()
    assert_never(event)


def _depressurising(event: Moving, state: Bay) -> object:
    match event:
        case FriendlyRequested():
            return run(state, "pressurising")
        case HostileRequested():
            return same()
        case FinishedDepressurising():
            return settle(state, "hostile")
        case Leak():
            return lost(state)
        case Sealed() | FinishedPressurising() | FinishedHeating():
            return impossible()
    assert_never(event)


# --- what the cells do --------------------------------------------------------------------------


def leave(state: Bay, label: Literal["leaving friendly", "leaving hostile"]) -> object:
    """Send everybody inside; the pump starts when the last outer door is closed."""
    wait = perform(Interlock(state.ship, state.airlocks), name="pump").then(Sealed)
    return replace(state, label=label), [announce(state, "unstable"), wait]


def run(state: Bay, label: Literal["pressurising", "heating", "depressurising"]) -> object:
    """One pump: by its name, a new order withdraws the one before."""
    match label:
        case "pressurising":
            effect = perform(Pump(state.ship, "in"), name="pump").then(FinishedPressurising)
        case "heating":
            effect = perform(Pump(state.ship, "warm"), name="pump").then(FinishedHeating)
        case "depressurising":
            effect = perform(Pump(state.ship, "out"), name="pump").then(FinishedDepressurising)
    return replace(state, label=label), [effect]


def settle(state: Bay, label: Literal["friendly", "hostile"], *effects: Effect) -> object:
    return replace(state, label=label), [*effects, announce(state, label)]


def lost(state: Bay) -> object:
    """The air is gone, whatever was under way."""
    return replace(state, label="hostile"), [cancel("pump"), announce(state, "leak")]


def announce(state: Bay, news: News) -> Effect:
    return perform(Announce(state.ship, state.airlocks, news))
