"""The list of attacks: each is a function that makes the body of a request.

    @ucanto("time", "Expired")
    def expired_in_this_very_second() -> bytes: ...

`refused` is the name of the error in the receipt's tree of reasons; where the body does not parse,
that of the error behind the status 400 or 413.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.attack.world import Family

Build = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. `kind` is its class: time, signature, CAR..."""

    family: Family
    kind: str
    refused: str
    name: str
    build: Build

    def __str__(self) -> str:
        return f"{self.family} {self.kind}: {self.name}".replace("_", " ")


ATTACKS: list[Attack] = []


def ucanto(kind: str, refused: str) -> Callable[[Build], Build]:
    """List an attack on the ucanto family."""
    return _listing("ucanto", kind, refused)


def ucan1(kind: str, refused: str) -> Callable[[Build], Build]:
    """List an attack on UCAN 1.0."""
    return _listing("ucan1", kind, refused)


def _listing(family: Family, kind: str, refused: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        ATTACKS.append(Attack(family, kind, refused, build.__name__, build))
        return build

    return add


def several(family: Family, kind: str, refused: str, **builds: Build) -> None:
    """List attacks that differ in a word."""
    for name, build in builds.items():
        ATTACKS.append(Attack(family, kind, refused, name, build))
