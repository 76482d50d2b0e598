"""A connection: from the gateway's question whether it may be to its end.

It exists for the app when the app accepts it, and for the gateway some time after it was told so.
In between a post to it fails exactly as if it had ended. So commands wait here, in order, until
a probe or a message of the client proves that it is open; one at a time is under way from then on.
Commands are numbered: `done` of the `asked` have ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar, TypeAlias, assert_never

from examples.gateway.model import CHANNELS, DEFAULT, QUEUE, Call, Dos, Kind, Name, Terms, Text
from stmflow import At, Effect, Err, ignore, impossible, perform, reject, same, sleep


@dataclass(frozen=True, slots=True)
class Line:
    """What a connection is in every state.

    `calls`: callbacks that were made. `asked`, `done`: commands that were numbered, and ended.
    `closes`: it is closed once they have. `channels`: what it is subscribed to.
    """

    connection: str
    terms: Terms
    calls: int = 0
    asked: int = 0
    done: int = 0
    closes: bool = False
    channels: tuple[str, ...] = ()
    about: str = ""


# --- events: the gateway's, the app's, those of callbacks, timers, probes and commands -----------


@dataclass(frozen=True, slots=True)
class Connect:
    """A client wants to connect; the gateway waits for the answer."""

    tag: ClassVar[str] = "connect"

    connection: Name
    terms: Terms = DEFAULT


@dataclass(frozen=True, slots=True)
class Frame:
    """The client has sent something."""

    tag: ClassVar[str] = "frame"

    connection: Name
    text: Text


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The connection has ended, says the gateway."""

    tag: ClassVar[str] = "disconnect"

    connection: Name


@dataclass(frozen=True, slots=True)
class Control:
    """The app asks for something, in this order."""

    tag: ClassVar[str] = "cmd"

    connection: Name
    commands: Dos


@dataclass(frozen=True, slots=True)
class Close:
    """The app wants it closed, after what it has asked for before."""

    tag: ClassVar[str] = "cmd-close"

    connection: Name


@dataclass(frozen=True, slots=True)
class Accept:
    """The app takes it."""

    tag: ClassVar[str] = "accept"

    about: Text = ""
    at: At = 0


@dataclass(frozen=True, slots=True)
class Refuse:
    """The app does not, or could not be asked."""

    tag: ClassVar[str] = "reject"


@dataclass(frozen=True, slots=True)
class CallbackTimeout:
    """The app has not said."""

    tag: ClassVar[str] = "cb-timeout"


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A probe has found it open."""

    tag: ClassVar[str] = "confirmed"


@dataclass(frozen=True, slots=True)
class GoneProbe:
    """A probe has not: it is not open yet, or no longer."""

    tag: ClassVar[str] = "gone-probe"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class GoneSend:
    """Command `n` was posted to it when it was open, and it is gone."""

    tag: ClassVar[str] = "gone-send"

    n: int


@dataclass(frozen=True, slots=True)
class Grace:
    """The gateway has taken too long."""

    tag: ClassVar[str] = "grace"


@dataclass(frozen=True, slots=True)
class Done:
    """Command `n` has ended."""

    tag: ClassVar[str] = "done"

    n: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    tag: ClassVar[str] = "subscribed"

    channel: Name


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    tag: ClassVar[str] = "unsubscribed"

    channel: Name


@dataclass(frozen=True, slots=True)
class Described:
    tag: ClassVar[str] = "described"

    about: Text


@dataclass(frozen=True, slots=True)
class Deleted:
    """It was deleted at the gateway, or was not there; or the gateway cannot be asked."""

    tag: ClassVar[str] = "deleted"

    error: Err | None = None


Event: TypeAlias = (
    Connect
    | Accept
    | Refuse
    | CallbackTimeout
    | Confirmed
    | Frame
    | GoneProbe
    | GoneSend
    | Grace
    | Disconnect
    | Control
    | Close
    | Done
    | Subscribed
    | Unsubscribed
    | Described
    | Deleted
)

# --- states -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opening:
    """The app is asked."""

    tag: ClassVar[str] = "opening"

    line: Line


@dataclass(frozen=True, slots=True)
class Accepted:
    """The app has accepted, at `since`; the gateway has yet to open it."""

    tag: ClassVar[str] = "accepted"

    line: Line
    since: int


@dataclass(frozen=True, slots=True)
class Open:
    """It is known to be open."""

    tag: ClassVar[str] = "open"

    line: Line


@dataclass(frozen=True, slots=True)
class Closing:
    """It is being deleted at the gateway."""

    tag: ClassVar[str] = "closing"

    line: Line


@dataclass(frozen=True, slots=True)
class Rejected:
    """The app has *Refused* it, or not answered in time: *Timeout*."""

    tag: ClassVar[str] = "rejected"

    line: Line
    why: str


@dataclass(frozen=True, slots=True)
class Closed:
    """It has ended: *Left*, *Timeout* where the gateway was too slow, *Gone* where a post has found
    it so, *Asked* where the app wanted it."""

    tag: ClassVar[str] = "closed"

    line: Line
    why: str


State: TypeAlias = Opening | Accepted | Open | Closing | Rejected | Closed

# --- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the gateway whether it is open. Outcome: nothing, or `Gone`."""

    tag: ClassVar[str] = "probe"

    connection: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Have the gateway close it. Outcome: nothing, or `Gone`."""

    tag: ClassVar[str] = "delete"

    connection: str


@dataclass(frozen=True, slots=True)
class Begin:
    """At once: a callback to the app is begun."""

    tag: ClassVar[str] = "callback"

    call: Call
    terms: Terms


@dataclass(frozen=True, slots=True)
class Track:
    """At once: commands become jobs of their own, from number `first`; with `go` it is its turn."""

    tag: ClassVar[str] = "track"

    connection: str
    first: int
    commands: Dos
    go: bool


@dataclass(frozen=True, slots=True)
class Flush:
    """At once: it is command `n`'s turn."""

    tag: ClassVar[str] = "flush"

    connection: str
    n: int


@dataclass(frozen=True, slots=True)
class Drop:
    """At once: commands `first` to `last` will not be performed any more."""

    tag: ClassVar[str] = "drop"

    connection: str
    first: int
    last: int
    why: str


@dataclass(frozen=True, slots=True)
class Unindex:
    """At once: no channel has it any more."""

    tag: ClassVar[str] = "unindex"

    connection: str
    channels: tuple[str, ...]


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: State | None) -> object:
    match state:
        case None:
            return _absent(event)
        case Opening():
            return _opening(event, state)
        case Accepted():
            return _accepted(event, state)
        case Open():
            return _open(event, state)
        case Closing():
            return _closing(event, state)
        case Rejected():
            return _rejected(event)
        case Closed():
            return _closed(event, state)
    assert_never(state)


def _absent(event: Event) -> object:
    match event:
        case Connect():
            line = Line(event.connection, event.terms)
            timer = sleep(for_=ms(event.terms.callback_ms), name="callback").then(CallbackTimeout)
            line, asked = call(line, "open")
            return Opening(line), [timer, asked]
        case Frame():
            return reject("Unknown")
        case Control() | Close():
            return reject("NotFound")
        case Disconnect():
            return ignore()
        case _:
            return impossible()


def _opening(event: Event, state: Opening) -> object:
    match event:
        case Accept():
            line = replace(state.line, about=event.about)
            timer = sleep(for_=ms(line.terms.grace_ms), name="grace").then(Grace)
            return Accepted(line, event.at), [timer, probe(line)]
        case Refuse():
            return Rejected(emptied(state.line), "Refused"), dropped(state.line, "Refused")
        case CallbackTimeout():
            return Rejected(emptied(state.line), "Timeout"), dropped(state.line, "Timeout")
        case Disconnect():
            return Closed(emptied(state.line), "Left"), dropped(state.line, "Left")
        case Control():
            return queue(event, state)
        case Close():
            return replace(state, line=replace(state.line, closes=True)), []
        case Connect():
            return ignore()
        case _:
            return impossible()


def _accepted(event: Event, state: Accepted) -> object:
    match event:
        case Confirmed():
            return opened(state.line)
        case Frame():
            line, told = call(state.line, "message", event.text)
            after, effects = opened(line)
            return after, [told, *effects]
        case GoneProbe():
            return probe_again(state, event.at)
        case Grace():
            return closed(state.line, "Timeout")
        case Disconnect():
            return closed(state.line, "Left")
        case Control():
            return queue(event, state)
        case Close():
            return replace(state, line=replace(state.line, closes=True)), []
        case Refuse():
            return reject("Late")
        case Connect() | Accept():
            return ignore()
        case _:
            return impossible()


def _open(event: Event, state: Open) -> object:
    line = state.line
    match event:
        case Frame():
            line, told = call(line, "message", event.text)
            return Open(line), [told]
        case Control():
            return queue(event, state)
        case Close():
            return next_of(replace(line, closes=True), [])
        case Done():
            return next_of(replace(line, done=event.n), flushed(replace(line, done=event.n)))
        case GoneSend():
            return closed(replace(line, done=event.n), "Gone")
        case Disconnect():
            return closed(line, "Left")
        case Subscribed():
            if event.channel in line.channels:
                return same()
            if len(line.channels) == CHANNELS:
                return reject("Full")
            return Open(replace(line, channels=(*line.channels, event.channel))), []
        case Unsubscribed():
            left = tuple(each for each in line.channels if each != event.channel)
            return Open(replace(line, channels=left)), []
        case Described():
            return Open(replace(line, about=event.about)), []
        case Refuse():
            return reject("Late")
        case GoneProbe():
            return ignore()  # it was asked before this was open
        case Connect() | Accept() | Confirmed():
            return ignore()
        case CallbackTimeout() | Grace() | Deleted():
            return impossible()
    assert_never(event)


def _closing(event: Event, state: Closing) -> object:
    match event:
        case Deleted():
            return closed(state.line, "Asked")
        case Disconnect():
            return closed(state.line, "Asked")
        case Control():
            return reject("Closing")
        case Refuse():
            return reject("Late")
        case Connect() | Accept() | Confirmed() | Frame() | GoneProbe() | Close():
            return ignore()
        case _:
            return impossible()


def _rejected(event: Event) -> object:
    match event:
        case Connect():
            return reject("Reused")
        case Accept():
            return reject("Late")
        case Control():
            return reject("Rejected")
        case Refuse() | Frame() | Disconnect() | Close():
            return ignore()
        case _:
            return impossible()


def _closed(event: Event, state: Closed) -> object:
    match event:
        case Connect():
            return reject("Reused")
        case Accept() | Refuse():
            return reject("Late")
        case Control():
            return reject("Gone")
        case Confirmed() | Frame():
            return ignore(delete(state.line))  # the gateway has opened it all the same
        case GoneProbe() | Disconnect() | Close() | Deleted():
            return ignore()
        case _:
            return impossible()


# --- what the cells do --------------------------------------------------------------------------


def queue(event: Control, state: Opening | Accepted | Open) -> object:
    """Number the commands; where none is before them, it is the first one's turn."""
    line = state.line
    if line.closes:
        return reject("Closing")
    if line.asked - line.done + len(event.commands) > QUEUE:
        return reject("Full")
    if not event.commands:
        return same()
    go = isinstance(state, Open) and line.done == line.asked
    track = perform(Track(line.connection, line.asked + 1, event.commands, go))
    return replace(state, line=replace(line, asked=line.asked + len(event.commands))), [track]


def probe_again(state: Accepted, at: int) -> object:
    """After a pause as long as was waited so far; not where the grace is over first."""
    terms = state.line.terms
    pause = min(max(at - state.since, terms.first_ms), terms.probe_ms)
    if at + pause >= state.since + terms.grace_ms:
        return same()
    return same(probe(state.line, sleep(for_=ms(pause), name="probe")))


def probe(line: Line, pause: Effect | None = None) -> Effect:
    look = perform(Probe(line.connection))
    look = look if pause is None else pause.and_(look)
    return look.then(Confirmed).catch(GoneProbe)


def opened(line: Line) -> tuple[Open | Closing, list[Effect]]:
    """It is open: what has waited may go."""
    return next_of(line, flushed(line))


def flushed(line: Line) -> list[Effect]:
    """The turn of the first that waits."""
    waits = line.done < line.asked
    return [perform(Flush(line.connection, line.done + 1))] if waits else []


def next_of(line: Line, effects: list[Effect]) -> tuple[Open | Closing, list[Effect]]:
    """Stay open, unless everything is done and it was to be closed then."""
    if line.closes and line.done == line.asked:
        return Closing(line), [*effects, delete(line)]
    return Open(line), effects


def closed(line: Line, why: str) -> object:
    """The end of what the app had accepted: nothing of it is left, and the app is told."""
    effects = dropped(line, why)
    if line.channels:
        effects.append(perform(Unindex(line.connection, line.channels)))
    line, told = call(emptied(line), "close")
    return Closed(line, why), [*effects, told]


def emptied(line: Line) -> Line:
    return replace(line, done=line.asked, channels=())


def dropped(line: Line, why: str) -> list[Effect]:
    """What waits will not be performed any more."""
    waits = line.done < line.asked
    return [perform(Drop(line.connection, line.done + 1, line.asked, why))] if waits else []


def call(line: Line, kind: Kind, text: str = "") -> tuple[Line, Effect]:
    """The next callback to the app."""
    line = replace(line, calls=line.calls + 1)
    return line, perform(Begin(Call(line.connection, line.calls, kind, text), line.terms))


def delete(line: Line) -> Effect:
    return perform(Delete(line.connection), name="delete").then(Deleted).catch(Deleted)


def ms(span: int) -> timedelta:
    return timedelta(milliseconds=span)
