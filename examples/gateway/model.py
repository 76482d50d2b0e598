"""What the four machines of a push service have in common: terms, callbacks, commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

QUEUE: Final = 64
"""Commands of one connection that may wait at once; past it they are refused: `Full`."""

CHANNELS: Final = 64
"""Channels that one connection may be subscribed to."""

MEMBERS: Final = 1_000
"""Connections that one channel may have."""

PAGE: Final = 64
"""Members that one transaction of a publish reaches."""

Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=32 * 1024)]
Span = Annotated[int, Field(ge=1, le=3_600_000)]


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient the service is with one connection. Times are milliseconds.

    `callback_ms`: how long the app may take to answer. `grace_ms`: how long the gateway may take
    from there to the open connection. `first_ms`, `probe_ms`: the shortest and the longest pause
    between two probes; in between, a pause is as long as was waited before it. `tries`,
    `retry_ms`: how often a callback about a message or an end is made, and the first pause.
    """

    callback_ms: Span = 10_000
    grace_ms: Span = 15_000
    first_ms: Span = 10
    probe_ms: Span = 250
    tries: Annotated[int, Field(ge=1, le=20)] = 5
    retry_ms: Span = 1_000


DEFAULT: Final = Terms()

Verb: TypeAlias = Literal["send", "subscribe", "unsubscribe", "publish", "describe"]
Kind: TypeAlias = Literal["open", "message", "close"]


@dataclass(frozen=True, slots=True)
class Do:
    """What a control call asks for: `send` text to the connection, `publish` text to a channel,
    `subscribe` to a channel or `unsubscribe`, `describe` the connection by a text."""

    verb: Verb
    channel: Annotated[str, Field(max_length=128)] = ""
    text: Text = ""


Dos = Annotated[tuple[Do, ...], Field(max_length=QUEUE)]


@dataclass(frozen=True, slots=True)
class Call:
    """A callback to the app: the `n`th about its connection; of a message, `text` is what came."""

    connection: Name
    n: int
    kind: Kind
    text: Text = ""
