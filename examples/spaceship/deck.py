"""The battle deck: three modes of the ship, and the way from each to each.

The deck gives the orders. Two tasks work on a goal: `Step` makes the next request that the door or
the bay can take, again and again; `Await` is settled when they are as the goal needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, assert_never

from stmflow import Effect, cancel, impossible, perform, reject, same

Goal: TypeAlias = Literal["active", "ready", "relaxed"]
Label: TypeAlias = Literal["active", "ready", "relaxed", "activating", "readying", "relaxing"]


@dataclass(frozen=True, slots=True)
class Deck:
    ship: str
    airlocks: tuple[str, ...]
    label: Label = "relaxed"

    @property
    def calm(self) -> bool:
        """Whether it is not on the way from one mode to another."""
        return self.label in ("active", "ready", "relaxed")


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manned:
    """The deck is built, and relaxed."""

    tag: ClassVar[str] = "deck/manned"

    ship: str
    airlocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActiveRequested:
    """Red alert."""

    tag: ClassVar[str] = "deck/request-active"

    ship: str


@dataclass(frozen=True, slots=True)
class ReadyRequested:
    tag: ClassVar[str] = "deck/request-ready"

    ship: str


@dataclass(frozen=True, slots=True)
class RelaxedRequested:
    tag: ClassVar[str] = "deck/request-relaxed"

    ship: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """A request was made: look for the next one."""

    tag: ClassVar[str] = "deck/stepped"


@dataclass(frozen=True, slots=True)
class NowActive:
    tag: ClassVar[str] = "deck/now-active"


@dataclass(frozen=True, slots=True)
class NowReady:
    tag: ClassVar[str] = "deck/now-ready"


@dataclass(frozen=True, slots=True)
class NowRelaxed:
    tag: ClassVar[str] = "deck/now-relaxed"


@dataclass(frozen=True, slots=True)
class Leaked:
    """The bay has lost its air."""

    tag: ClassVar[str] = "deck/leak"


Moving: TypeAlias = (
    ActiveRequested
    | ReadyRequested
    | RelaxedRequested
    | Stepped
    | NowActive
    | NowReady
    | NowRelaxed
    | Leaked
)
Event: TypeAlias = Manned | Moving

# --- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """Make the next request towards a goal, as soon as it can be taken. Outcome: nothing."""

    tag: ClassVar[str] = "deck/step"

    ship: str
    goal: Goal


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until door and bay are as the goal needs them. Outcome: nothing."""

    tag: ClassVar[str] = "deck/await"

    ship: str
    goal: Goal


@dataclass(frozen=True, slots=True)
class Evacuate:
    """Ask for the inner door of every airlock whose outer door is not closed. Outcome: nothing."""

    tag: ClassVar[str] = "deck/evacuate"

    ship: str
    airlocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Send somebody to mend the leak. Outcome: nothing."""

    tag: ClassVar[str] = "deck/repair"

    ship: str


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: Deck | None) -> object:
    if state is None:
        if not isinstance(event, Manned):
            return reject("NotBuilt")
        return Deck(event.ship, event.airlocks), []
    if isinstance(event, Manned):
        return same()
    match event:
        case ActiveRequested():
            return same() if state.label in ("active", "activating") else seek(state, "active")
        case ReadyRequested():
            return same() if state.label in ("ready", "readying") else seek(state, "ready")
        case RelaxedRequested():
            return same() if state.label in ("relaxed", "relaxing") else seek(state, "relaxed")
        case Stepped():
            return impossible() if state.calm else same(step(state, GOAL[state.label]))
        case NowActive():
            return reach(state, "active") if state.label == "activating" else impossible()
        case NowReady():
            return reach(state, "ready") if state.label == "readying" else impossible()
        case NowRelaxed():
            return reach(state, "relaxed") if state.label == "relaxing" else impossible()
        case Leaked():
            mend = perform(Repair(state.ship), name="repair")
            return seek(state, "relaxed", mend) if state.label == "relaxed" else same()
    assert_never(event)


TOWARDS: dict[Goal, Label] = {"active": "activating", "ready": "readying", "relaxed": "relaxing"}
GOAL: dict[Label, Goal] = {label: goal for goal, label in TOWARDS.items()}


def seek(state: Deck, goal: Goal, *effects: Effect) -> object:
    """Leave for another mode; by their names, its tasks withdraw those of the last goal."""
    arrived = {"active": NowActive, "ready": NowReady, "relaxed": NowRelaxed}[goal]
    wait = perform(Await(state.ship, goal), name="await").then(arrived)
    return replace(state, label=TOWARDS[goal]), [*effects, step(state, goal), wait]


def step(state: Deck, goal: Goal) -> Effect:
    return perform(Step(state.ship, goal), name="step").then(Stepped)


def reach(state: Deck, goal: Goal) -> object:
    return replace(state, label=goal), [cancel("step")]


def red_alert(event: Event, before: Deck | None, after: Deck) -> Sequence[Effect]:
    """The post hook: on red alert everybody comes in."""
    if isinstance(event, ActiveRequested) and before != after:
        return [perform(Evacuate(after.ship, after.airlocks), name="evacuate")]
    return []
