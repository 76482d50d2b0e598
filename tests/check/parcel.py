"""A small workflow whose states can be counted by hand: a parcel is packed, in time or not at all.

none ──order──► packing ──packed──► sent
                   ├──broken──► lost
                   └──deadline──► late
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from stmflow import Err, Job, Workflow, cancel, ignore, impossible, perform, reject, sleep
from stmflow.check import Check, Faults, Send

NONE = Faults(lost=False, late=0)
"""No worker ever fails."""


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Hurry:
    """The deadline is another one, ten milliseconds from now."""

    name: str


@dataclass(frozen=True, slots=True)
class Calm:
    """There is no deadline any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Packed: ...


@dataclass(frozen=True, slots=True)
class Broken:
    error: Err


@dataclass(frozen=True, slots=True)
class Deadline: ...


@dataclass(frozen=True, slots=True)
class Parcel:
    name: str
    status: str = "packing"


@dataclass(frozen=True, slots=True)
class Pack:
    name: str


Event = Order | Hurry | Calm | Packed | Broken | Deadline


def timer() -> Any:
    return sleep(for_=timedelta(milliseconds=10), name="deadline").then(Deadline)


def update(event: Event, parcel: Parcel | None) -> object:
    match event, parcel:
        case Order(name, timed), None:
            pack = perform(Pack(name)).then(Packed).catch(Broken)
            return Parcel(name), [pack, *([timer()] if timed else [])]
        case Order(), _:
            return reject("Known")
        case (Hurry(), Parcel(status="packing")):
            return parcel, [timer()]
        case (Calm(), Parcel(status="packing")):
            return parcel, [cancel("deadline")]
        case ((Hurry() | Calm()), _):
            return reject("NotPacking")
        case Packed(), Parcel(status="packing"):
            return replace(parcel, status="sent"), []
        case Broken(), Parcel(status="packing"):
            return replace(parcel, status="lost"), []
        case Deadline(), Parcel(status="packing"):
            return replace(parcel, status="late"), []
    return ignore()


PARCEL = Workflow(
    "parcel",
    state=Parcel,
    events=(Order, Hurry, Calm, Packed, Broken, Deadline),
    outside=(Order, Hurry, Calm),
    tasks=(Pack,),
    update=update,
    key=("name",),
    tag="status",
)

Box = frozenset[str]
"""The world: what was packed."""


def packs(task: Pack, box: Box) -> Iterator[tuple[Any, Box]]:
    yield None, box | {task.name}


def may_break(task: Pack, box: Box) -> Iterator[tuple[Any, Box]]:
    yield None, box | {task.name}
    yield Err("Broken"), box


def parcel(name: str) -> Job:
    return PARCEL.job(name)


def model(*sends: Send, **how: Any) -> Check:
    """A check of parcels, of one that is ordered once unless told otherwise."""
    given: dict[str, Any] = {
        "sends": sends or (Send(Order("a")),),
        "world": frozenset(),
        "handlers": {Pack: packs},
        "faults": NONE,
    }
    return Check([PARCEL], **(given | how))


# --- one that goes wrong ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Poke:
    name: str


@dataclass(frozen=True, slots=True)
class Poked:
    name: str
    times: int = 1


def _poked_twice(event: Poke, state: Poked | None) -> object:
    return (Poked(event.name), []) if state is None else impossible()


def _asks(event: Poke, state: Poked | None) -> object:
    return Poked(event.name), [perform(Pack(event.name))] if state is None else []


IMPOSSIBLE = Workflow(
    "fragile", state=Poked, events=(Poke,), outside=(Poke,), update=_poked_twice, key=("name",)
)
UNCAUGHT = Workflow(
    "uncaught",
    state=Poked,
    events=(Poke,),
    outside=(Poke,),
    tasks=(Pack,),
    update=_asks,
    key=("name",),
)
