"""A callback: one question to the app, or one piece of news for it, until it has answered.

That a connection opens is asked once: what fails is a refusal. Messages and ends are told again,
after a pause, a few times; a message whose connection has ended meanwhile is told no more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeAlias, assert_never

from examples.gateway.model import Call, Dos, Terms, Text
from stmflow import Effect, Err, ignore, impossible, perform, same, sleep

# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    tag: ClassVar[str] = "start"

    call: Call
    terms: Terms


@dataclass(frozen=True, slots=True)
class Replied:
    """The app's answer. `commands` are done in this order, then it is closed if `close` says so.
    `accept` and `about` count where a connection opens."""

    tag: ClassVar[str] = "replied"

    accept: bool = True
    about: Text = ""
    commands: Dos = ()
    close: bool = False

    def outcome(self) -> dict[str, Any]:
        """What a handler of `Ask` returns."""
        return asdict(self) | {"commands": [asdict(one) for one in self.commands]}


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer, or none that can be meant: not a 2xx, a bad body, too late, no network."""

    tag: ClassVar[str] = "unanswered"

    error: Err


@dataclass(frozen=True, slots=True)
class Again:
    """The pause is over, and there is still somebody to tell it of."""

    tag: ClassVar[str] = "again"


@dataclass(frozen=True, slots=True)
class ConnectionGone:
    """The pause is over, and the connection has ended."""

    tag: ClassVar[str] = "connection-gone"

    error: Err


Event: TypeAlias = Start | Replied | Unanswered | Again | ConnectionGone

# --- states -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running:
    """The app is asked, for the `tries`th time."""

    tag: ClassVar[str] = "running"

    call: Call
    terms: Terms
    tries: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """It did not answer, and will be asked again."""

    tag: ClassVar[str] = "waiting"

    call: Call
    terms: Terms
    tries: int


@dataclass(frozen=True, slots=True)
class Answered:
    """`accept`: what it said, where it was asked whether a connection may open."""

    tag: ClassVar[str] = "answered"

    call: Call
    accept: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """It never answered."""

    tag: ClassVar[str] = "failed"

    call: Call
    error: Err


@dataclass(frozen=True, slots=True)
class Void:
    """The connection ended before the app could be told."""

    tag: ClassVar[str] = "void"

    call: Call


State: TypeAlias = Running | Waiting | Answered | Failed | Void

# --- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Call the app. Outcome: the fields of `Replied`."""

    tag: ClassVar[str] = "ask"

    call: Call


@dataclass(frozen=True, slots=True)
class Decide:
    """At once: the app's answer is the connection's. Outcome: what was refused of it, and why."""

    tag: ClassVar[str] = "decide"

    call: Call
    terms: Terms
    reply: Replied


@dataclass(frozen=True, slots=True)
class Alive:
    """At once: look whether the connection has ended. Outcome: nothing, or `Gone`."""

    tag: ClassVar[str] = "alive"

    connection: str


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: State | None) -> object:
    match state:
        case None:
            if not isinstance(event, Start):
                return impossible()
            return run(Waiting(event.call, event.terms, 0))
        case Running():
            return _running(event, state)
        case Waiting():
            return _waiting(event, state)
        case Answered() | Failed() | Void():
            return ignore() if isinstance(event, Start) else impossible()
    assert_never(state)


def _running(event: Event, state: Running) -> object:
    call, opens = state.call, state.call.kind == "open"
    match event:
        case Start():
            return same()
        case Replied():
            return Answered(call, event.accept), [perform(Decide(call, state.terms, event))]
        case Unanswered() if opens:
            refusal = Decide(call, state.terms, Replied(accept=False))
            return Failed(call, event.error), [perform(refusal)]
        case Unanswered() if state.tries < state.terms.tries:
            return Waiting(call, state.terms, state.tries), [pause(state)]
        case Unanswered():
            return Failed(call, event.error), []
        case Again() | ConnectionGone():
            return impossible()
    assert_never(event)


def _waiting(event: Event, state: Waiting) -> object:
    match event:
        case Start():
            return same()
        case Again():
            return run(state)
        case ConnectionGone():
            return Void(state.call), []
        case Replied() | Unanswered():
            return impossible()
    assert_never(event)


# --- what the cells do --------------------------------------------------------------------------


def run(state: Waiting) -> object:
    ask = perform(Ask(state.call)).then(Replied).catch(Unanswered)
    return Running(state.call, state.terms, state.tries + 1), [ask]


def pause(state: Running) -> Effect:
    """Twice as long each time. Of an end the app is told whatever has become of the connection."""
    span = timedelta(milliseconds=state.terms.retry_ms << (state.tries - 1))
    wait = sleep(for_=span, during=("waiting",))
    if state.call.kind == "message":
        wait = wait.and_(perform(Alive(state.call.connection)))
    return wait.then(Again).catch(ConnectionGone, "Gone")
