"""A command: one thing that the app wants of a connection. It ends delivered or dropped.

The connection numbers its commands and says whose turn it is. That one has not been heard of means
that it is queued or sending; a connection that ends drops both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, assert_never

from examples.gateway.model import Do, Text
from stmflow import Effect, Err, cancel, ignore, impossible, perform, same

# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issued:
    """The connection has taken it; with `go` it is its turn already."""

    tag: ClassVar[str] = "issued"

    connection: str
    n: int
    do: Do
    go: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """What was before it has ended."""

    tag: ClassVar[str] = "flush"


@dataclass(frozen=True, slots=True)
class Posted:
    """The gateway has taken the text."""

    tag: ClassVar[str] = "posted"


@dataclass(frozen=True, slots=True)
class PostGone:
    """The gateway knows no such connection."""

    tag: ClassVar[str] = "gone"

    error: Err


@dataclass(frozen=True, slots=True)
class PostFailed:
    """The gateway could not be asked, so often that it was given up: nobody knows."""

    tag: ClassVar[str] = "unknown"

    error: Err


@dataclass(frozen=True, slots=True)
class Edited:
    """The connection and the index have changed, in the commit that brings this."""

    tag: ClassVar[str] = "edited"


@dataclass(frozen=True, slots=True)
class Fanned:
    """`reached` members have been given the text; those beyond `after` have yet to be."""

    tag: ClassVar[str] = "fanned"

    reached: int
    after: str | None


@dataclass(frozen=True, slots=True)
class NotRun:
    """It could not be done."""

    tag: ClassVar[str] = "refused"

    error: Err


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection has ended before it."""

    tag: ClassVar[str] = "connection-closed"

    why: str


Event: TypeAlias = (
    Issued | Turn | Posted | PostGone | PostFailed | Edited | Fanned | NotRun | ConnectionClosed
)

# --- states -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """`reached`: of a publish, how many members were given the text so far. `why`: of one that was
    dropped."""

    connection: str
    n: int
    do: Do
    label: Literal["queued", "sending", "delivered", "dropped"]
    reached: int = 0
    why: str = ""


# --- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Post:
    """Have the gateway send a text to the client; the gateway knows a repeat by connection and
    number. Outcome: nothing, or `Gone`."""

    tag: ClassVar[str] = "post"

    connection: str
    n: int
    text: Text


@dataclass(frozen=True, slots=True)
class Edit:
    """Change the connection, and the index of channels with it."""

    tag: ClassVar[str] = "edit"

    connection: str
    do: Do


@dataclass(frozen=True, slots=True)
class FanOut:
    """Give a text to the members of a channel beyond `after`, as a command for each."""

    tag: ClassVar[str] = "fan-out"

    channel: str
    text: Text
    after: str


@dataclass(frozen=True, slots=True)
class Report:
    """At once: tell the connection that it has ended, or that the connection has."""

    tag: ClassVar[str] = "report"

    connection: str
    n: int
    gone: bool


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: Command | None) -> object:
    if state is None:
        if not isinstance(event, Issued):
            return impossible()
        new = Command(event.connection, event.n, event.do, "queued")
        return send(new) if event.go else (new, [])
    match state.label:
        case "queued":
            return _queued(event, state)
        case "sending":
            return _sending(event, state)
        case "delivered" | "dropped":
            return ignore() if isinstance(event, ConnectionClosed) else impossible()
    assert_never(state.label)


def _queued(event: Event, state: Command) -> object:
    match event:
        case Turn():
            return send(state)
        case ConnectionClosed():
            return replace(state, label="dropped", why=event.why), []
        case _:
            return impossible()


def _sending(event: Event, state: Command) -> object:
    match event:
        case Posted() | Edited():
            return ended(state, "delivered")
        case PostGone():
            return ended(state, "dropped", "Gone", gone=True)
        case PostFailed():
            return ended(state, "dropped", "Unknown")
        case Fanned():
            state = replace(state, reached=state.reached + event.reached)
            if event.after is None:
                return ended(state, "delivered")
            return state, [work(state, event.after)]
        case NotRun():
            return ended(state, "dropped", event.error.name)
        case ConnectionClosed():
            return replace(state, label="dropped", why=event.why), [cancel("work")]
        case Issued() | Turn():
            return same()
    assert_never(event)


# --- what the cells do --------------------------------------------------------------------------


def send(state: Command) -> object:
    return replace(state, label="sending"), [work(state)]


def work(state: Command, after: str = "") -> Effect:
    do = state.do
    match do.verb:
        case "send":
            post = perform(Post(state.connection, state.n, do.text), name="work").then(Posted)
            return post.catch(PostGone, "Gone").catch(PostFailed)
        case "publish":
            fan_out = perform(FanOut(do.channel, do.text, after), name="work")
            return fan_out.then(Fanned).catch(NotRun)
        case "subscribe" | "unsubscribe" | "describe":
            return perform(Edit(state.connection, do), name="work").then(Edited).catch(NotRun)
    assert_never(do.verb)


def ended(
    state: Command, label: Literal["delivered", "dropped"], why: str = "", *, gone: bool = False
) -> object:
    report = perform(Report(state.connection, state.n, gone))
    return replace(state, label=label, why=why), [report]
