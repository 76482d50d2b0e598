"""A channel: who is subscribed to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from examples.gateway.model import MEMBERS, Name
from stmflow import ignore, reject, same


@dataclass(frozen=True, slots=True)
class Channel:
    """`members`: connections, in order of their names."""

    channel: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Join:
    tag: ClassVar[str] = "subscribe"

    channel: Name
    connection: Name


@dataclass(frozen=True, slots=True)
class Leave:
    tag: ClassVar[str] = "unsubscribe"

    channel: Name
    connection: Name


Event: TypeAlias = Join | Leave


def update(event: Event, state: Channel | None) -> object:
    members = () if state is None else state.members
    present = event.connection in members
    match event:
        case Join() if present:
            return same()
        case Join() if len(members) == MEMBERS:
            return reject("Full")
        case Join():
            return Channel(event.channel, tuple(sorted((*members, event.connection)))), []
        case Leave() if present:
            left = tuple(each for each in members if each != event.connection)
            return Channel(event.channel, left), []
        case Leave():
            return ignore()
