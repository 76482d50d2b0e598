"""The small workflows that the store contract runs: a counter, and a relay that pays as it goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stmflow.cell import CELL
from stmflow.effect import Err, perform
from stmflow.workflow import Job, Workflow


@dataclass(frozen=True, slots=True)
class Add:
    """Add to the counter of that name."""

    name: str
    by: int


@dataclass(frozen=True, slots=True)
class Total:
    """What a counter holds."""

    total: int


def _count(event: Add, state: Total | None) -> Any:
    if event.by == 666:
        raise ValueError("this counter does not count to 666")
    return Total(event.by + (0 if state is None else state.total)), []


COUNTER = Workflow(
    "contract/counter", state=Total, events=(Add,), outside=(Add,), key=("name",), update=_count
)


@dataclass(frozen=True, slots=True)
class Begin:
    """Start the relay of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Walk:
    """One step further."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Pay one from the account."""


@dataclass(frozen=True, slots=True)
class Paid:
    """The account was charged."""

    left: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The account was empty."""

    error: Err


@dataclass(frozen=True, slots=True)
class Pay:
    """Take one from the account of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Relay:
    """How far it got, and what it paid."""

    name: str
    step: int = 0
    paid: int = 0
    refused: int = 0


def _relay(event: Any, state: Relay | None) -> Any:
    if isinstance(event, Begin):
        return Relay(event.name), []
    assert state is not None
    match event:
        case Walk():
            return replace(state, step=state.step + 1), []
        case Passed():
            return state, [perform(Pay(state.name)).then(Paid).catch(Refused, "Empty")]
        case Paid():
            return replace(state, paid=state.paid + 1), []
    return replace(state, refused=state.refused + 1), []


RELAY = Workflow(
    "contract/relay",
    state=Relay,
    events=(Begin, Walk, Passed, Paid, Refused),
    outside=(Begin, Walk, Passed),
    tasks=(Pay,),
    key=lambda event: (event.name,),
    update=_relay,
)


def _pay(tx: Any, task: Pay) -> Any:
    held = tx.read(account(task.name))
    left = (0 if held is None else int(held.value)) - 1
    tx.write(account(task.name), left)
    return Err("Empty") if left < 0 else left


TRANSACTIONAL = {Pay: _pay}


def counter(name: str) -> Job:
    """The counter of that name."""
    return COUNTER.job(name)


def relay(name: str) -> Job:
    """The relay of that name."""
    return RELAY.job(name)


def account(name: str) -> Job:
    """The cell that holds what a relay may spend."""
    return CELL.job("account", name)
