"""Two jugs without a scale: each may be filled, emptied, or poured into the other.

Pouring ends when the one is empty or the other full. What changes nothing is accepted, and no
revision is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from stmflow import Workflow, reject, same


@dataclass(frozen=True, slots=True)
class Jugs:
    """How much is in each. `sizes`: how much goes into the small one, and into the big one."""

    small: int = 0
    big: int = 0
    sizes: tuple[int, int] = (3, 5)


@dataclass(frozen=True, slots=True)
class Bring:
    """Two empty jugs of these sizes."""

    sizes: tuple[int, int] = (3, 5)


@dataclass(frozen=True, slots=True)
class FillSmall:
    pass


@dataclass(frozen=True, slots=True)
class FillBig:
    pass


@dataclass(frozen=True, slots=True)
class EmptySmall:
    pass


@dataclass(frozen=True, slots=True)
class EmptyBig:
    pass


@dataclass(frozen=True, slots=True)
class PourIntoSmall:
    pass


@dataclass(frozen=True, slots=True)
class PourIntoBig:
    pass


Turn: TypeAlias = FillSmall | FillBig | EmptySmall | EmptyBig | PourIntoSmall | PourIntoBig


def update(event: Bring | Turn, jugs: Jugs | None) -> object:
    if isinstance(event, Bring):
        return _brought(event, jugs)
    if jugs is None:
        return reject("NotFound")
    after = _turned(event, jugs)
    return same() if after == jugs else (after, ())


def _brought(event: Bring, jugs: Jugs | None) -> object:
    if min(event.sizes) < 1:
        return reject("Invalid")
    if jugs is None:
        return Jugs(sizes=event.sizes), ()
    return same() if event.sizes == jugs.sizes else reject("Others")


def _turned(turn: Turn, jugs: Jugs) -> Jugs:
    small_size, big_size = jugs.sizes
    match turn:
        case FillSmall():
            return replace(jugs, small=small_size)
        case FillBig():
            return replace(jugs, big=big_size)
        case EmptySmall():
            return replace(jugs, small=0)
        case EmptyBig():
            return replace(jugs, big=0)
        case PourIntoSmall():
            much = min(jugs.big, small_size - jugs.small)
            return replace(jugs, small=jugs.small + much, big=jugs.big - much)
        case PourIntoBig():
            much = min(jugs.small, big_size - jugs.big)
            return replace(jugs, small=jugs.small - much, big=jugs.big + much)
    assert_never(turn)


def _pair(event: Bring | Turn) -> tuple[str]:
    """There is one pair."""
    return ("the pair",)


TURNS = (FillSmall, FillBig, EmptySmall, EmptyBig, PourIntoSmall, PourIntoBig)

JUGS = Workflow(
    "jugs",
    state=Jugs,
    events=(Bring, *TURNS),
    outside=(Bring, *TURNS),
    update=update,
    key=_pair,
    tag=lambda jugs: f"{jugs.small} {jugs.big}",
)
