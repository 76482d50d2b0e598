"""An airlock: a chamber between the ship and the launch bay, with a door to either.

Four buttons, two requests: 1 (in the bay) and 2 (inside, at the outer wall) ask for the outer door,
3 (inside, at the inner wall) and 4 (in the ship) for the inner one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, assert_never

from stmflow import Effect, impossible, perform, reject, same

Label: TypeAlias = Literal[
    "closed",
    "opening outer",
    "opening inner",
    "closing outer",
    "closing inner",
    "pressurising",
    "depressurising",
    "inner open",
    "outer open",
]
Side: TypeAlias = Literal["inner", "outer"]
Air: TypeAlias = Literal["friendly", "hostile"]


@dataclass(frozen=True, slots=True)
class Airlock:
    """`chamber`: what is in it, while pumps run what was. `goal`: which door was asked for last.
    `bay`: what is behind the outer door, as the bay has announced it."""

    ship: str
    name: str
    label: Label = "inner open"
    chamber: Air = "friendly"
    goal: Side = "inner"
    bay: Literal["friendly", "hostile", "unstable"] = "friendly"

    @property
    def outside(self) -> bool:
        """Whether the outer door is fully or partly open."""
        return self.label in ("opening outer", "outer open", "closing outer")

    @property
    def inside(self) -> bool:
        """Whether the inner door is fully or partly open."""
        return self.label in ("opening inner", "inner open", "closing inner")


def tag(state: Airlock) -> str:
    """The state's name in the table."""
    if state.label == "closed":
        return f"closed {'pressurised' if state.chamber == 'friendly' else 'depressurised'}"
    return f"outer open {state.chamber}" if state.label == "outer open" else state.label


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fitted:
    """The airlock is built, its inner door open."""

    tag: ClassVar[str] = "airlock/fitted"

    ship: str
    airlock: str


@dataclass(frozen=True, slots=True)
class AskOuter:
    """Button 1 or 2."""

    tag: ClassVar[str] = "airlock/ask-outer"

    ship: str
    airlock: str


@dataclass(frozen=True, slots=True)
class AskInner:
    """Button 3 or 4."""

    tag: ClassVar[str] = "airlock/ask-inner"

    ship: str
    airlock: str


@dataclass(frozen=True, slots=True)
class FinishedPressurising:
    tag: ClassVar[str] = "airlock/pressurised"


@dataclass(frozen=True, slots=True)
class FinishedDepressurising:
    tag: ClassVar[str] = "airlock/depressurised"


@dataclass(frozen=True, slots=True)
class FinishedOpeningOuter:
    tag: ClassVar[str] = "airlock/outer-opened"


@dataclass(frozen=True, slots=True)
class FinishedOpeningInner:
    tag: ClassVar[str] = "airlock/inner-opened"


@dataclass(frozen=True, slots=True)
class FinishedClosingOuter:
    tag: ClassVar[str] = "airlock/outer-closed"


@dataclass(frozen=True, slots=True)
class FinishedClosingInner:
    tag: ClassVar[str] = "airlock/inner-closed"


@dataclass(frozen=True, slots=True)
class BayUnstable:
    """The bay is about to change: nobody goes out any more."""

    tag: ClassVar[str] = "airlock/bay-unstable"


@dataclass(frozen=True, slots=True)
class BayStable:
    """The bay is friendly or hostile, and stays so for now."""

    tag: ClassVar[str] = "airlock/bay-stable"

    air: Air


@dataclass(frozen=True, slots=True)
class BayLeak:
    """The bay has lost its air at once, and so has a chamber that is open to it."""

    tag: ClassVar[str] = "airlock/bay-leak"


Finished: TypeAlias = (
    FinishedPressurising
    | FinishedDepressurising
    | FinishedOpeningOuter
    | FinishedOpeningInner
    | FinishedClosingOuter
    | FinishedClosingInner
)
Moving: TypeAlias = AskOuter | AskInner | Finished | BayUnstable | BayStable | BayLeak
Event: TypeAlias = Fitted | Moving

# --- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Swing:
    """Run the motor of a door until it is open, or closed. Outcome: nothing."""

    tag: ClassVar[str] = "airlock/swing"

    ship: str
    airlock: str
    door: Side
    to: Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class Pump:
    """Let air into the chamber, or out of it. Outcome: nothing."""

    tag: ClassVar[str] = "airlock/pump"

    ship: str
    airlock: str
    what: Literal["in", "out"]


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: Airlock | None) -> object:
    if state is None:
        if not isinstance(event, Fitted):
            return reject("NotBuilt")
        return Airlock(event.ship, event.airlock), []
    match event:
        case Fitted():
            return same()
        case BayUnstable():
            return unstable(replace(state, bay="unstable"))
        case BayStable():
            return stable(replace(state, bay=event.air))
        case BayLeak():
            return leaked(replace(state, bay="hostile"))
    match state.label:
        case "closed":
            return _closed(event, state)
        case "opening outer":
            return _opening_outer(event, state)
        case "opening inner":
            return _opening_inner(event, state)
        case "closing outer":
            return _closing_outer(event, state)
        case "closing inner":
            return _closing_inner(event, state)
        case "pressurising":
            return _pressurising(event, state)
        case "depressurising":
            return _depressurising(event, state)
        case "inner open":
            return _inner_open(event, state)
        case "outer open":
            return _outer_open(event, state)
    assert_never(state.label)


Pressed: TypeAlias = AskOuter | AskInner | Finished


def _closed(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return follow(state, "outer")
        case AskInner():
            return follow(state, "inner")
        case _:
            return impossible()


def _opening_outer(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return same()
        case AskInner():
            return swing(replace(state, goal="inner"), "closing outer")
        case FinishedOpeningOuter():
            return replace(state, label="outer open"), []
        case _:
            return impossible()


def _opening_inner(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return swing(replace(state, goal="outer"), "closing inner")
        case AskInner():
            return same()
        case FinishedOpeningInner():
            return replace(state, label="inner open"), []
        case _:
            return impossible()


def _closing_outer(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            wish = replace(state, goal="outer")
            return swing(wish, "opening outer") if fit(state) else (wish, [])
        case AskInner():
            return replace(state, goal="inner"), []
        case FinishedClosingOuter():
            return follow(state, state.goal)
        case _:
            return impossible()


def _closing_inner(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return replace(state, goal="outer"), []
        case AskInner():
            return swing(replace(state, goal="inner"), "opening inner")
        case FinishedClosingInner():
            return follow(state, state.goal)
        case _:
            return impossible()


def _pressurising(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return replace(state, goal="outer"), []
        case AskInner():
            return replace(state, goal="inner"), []
        case FinishedPressurising():
            return follow(replace(state, chamber="friendly"), state.goal)
        case _:
            return impossible()


def _depressurising(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return replace(state, goal="outer"), []
        case AskInner():
            return pump(replace(state, goal="inner"), "pressurising")
        case FinishedDepressurising():
            return follow(replace(state, chamber="hostile"), state.goal)
        case _:
            return impossible()


def _inner_open(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return swing(replace(state, goal="outer"), "closing inner")
        case AskInner():
            return same()
        case _:
            return impossible()


def _outer_open(event: Pressed, state: Airlock) -> object:
    match event:
        case AskOuter():
            return same()
        case AskInner():
            return swing(replace(state, goal="inner"), "closing outer")
        case _:
            return impossible()


# --- news of the bay ----------------------------------------------------------------------------


def unstable(state: Airlock) -> object:
    """Nobody goes out, and who is about to comes back."""
    match state.label:
        case "opening outer" | "outer open":
            return swing(replace(state, goal="inner"), "closing outer")
        case "closing outer":
            return replace(state, goal="inner"), []
    return state, []


def stable(state: Airlock) -> object:
    """Who waits may go on."""
    waits = state.label == "closed" and state.goal == "outer"
    return follow(state, "outer") if waits else (state, [])


def leaked(state: Airlock) -> object:
    """A chamber that is open to the bay is empty; its outer door closes if it was friendly."""
    if not state.outside:
        return stable(state)
    empty = replace(state, chamber="hostile")
    if state.label == "closing outer" or state.chamber == "hostile":
        return empty, []
    return swing(replace(empty, goal="inner"), "closing outer")


# --- what the cells do --------------------------------------------------------------------------


def follow(state: Airlock, goal: Side) -> object:
    """With both doors closed, the next thing towards the goal; to wait is one, too."""
    state = replace(state, goal=goal, label="closed")
    if goal == "inner":
        friendly = state.chamber == "friendly"
        return swing(state, "opening inner") if friendly else pump(state, "pressurising")
    if state.bay == "unstable":
        return state, []
    if fit(state):
        return swing(state, "opening outer")
    return pump(state, "depressurising" if state.chamber == "friendly" else "pressurising")


def fit(state: Airlock) -> bool:
    """Whether the chamber is as the bay is; an unstable bay is like nothing."""
    return state.chamber == state.bay


def swing(
    state: Airlock,
    label: Literal["opening outer", "opening inner", "closing outer", "closing inner"],
) -> object:
    match label:
        case "opening outer":
            effect = moved(state, "outer", "open").then(FinishedOpeningOuter)
        case "opening inner":
            effect = moved(state, "inner", "open").then(FinishedOpeningInner)
        case "closing outer":
            effect = moved(state, "outer", "closed").then(FinishedClosingOuter)
        case "closing inner":
            effect = moved(state, "inner", "closed").then(FinishedClosingInner)
    return replace(state, label=label), [effect]


def moved(state: Airlock, door: Side, to: Literal["open", "closed"]) -> Effect:
    """One thing moves at a time: by its name, what is started withdraws what was under way."""
    return perform(Swing(state.ship, state.name, door, to), name="motor")


def pump(state: Airlock, label: Literal["pressurising", "depressurising"]) -> object:
    if label == "pressurising":
        effect = perform(Pump(state.ship, state.name, "in"), name="motor")
        return replace(state, label=label), [effect.then(FinishedPressurising)]
    effect = perform(Pump(state.ship, state.name, "out"), name="motor")
    return replace(state, label=label), [effect.then(FinishedDepressurising)]
