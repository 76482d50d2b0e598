"""The workflow of the golden databases. Never changed: a new one gets a new file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from stmflow import (
    ANY,
    CID,
    At,
    Data,
    Err,
    Hook,
    Workflow,
    cancel,
    ignore,
    perform,
    reject,
    same,
    sleep,
    together,
)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Performed by a handler."""

    link: CID
    part: int


@dataclass(frozen=True, slots=True)
class Charge:
    """Performed inside the commit."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Note:
    """Asked for by a hook."""

    text: str


@dataclass(frozen=True, slots=True)
class Order:
    """Starts, or starts again."""

    name: str
    link: CID
    amount: int
    at: At = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Withdraws what was asked for."""

    name: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Both parts."""

    first: bytes
    second: Data


@dataclass(frozen=True, slots=True)
class Failed:
    """Any failure that is caught."""

    error: Err


@dataclass(frozen=True, slots=True)
class Overdue:
    """The deadline."""

    at: At = 0


@dataclass(frozen=True, slots=True)
class Parcel:
    """The state."""

    link: CID
    amount: int
    epoch: int
    status: str
    since: int
    found: Data = None


def _update(event: Any, parcel: Parcel | None) -> Any:
    match event, parcel:
        case Order(name, link, amount, at), None | Parcel(status="stopped" | "failed"):
            epoch = parcel.epoch + 1 if parcel else 1
            parts = together(
                perform(Fetch(link, 1), name="first"), perform(Fetch(link, 2), name="second")
            )
            fetch = perform(Charge(name, amount)).and_(parts).then(Fetched).catch(Failed, "Gone")
            timer = sleep(for_=timedelta(hours=1), name="deadline").then(Overdue)
            return Parcel(link, amount, epoch, "fetching", at), [fetch, timer]
        case Order(), Parcel():
            return same() if event.link == parcel.link else reject("Taken", {"link": parcel.link})
        case Fetched(first, second), Parcel(status="fetching"):
            return replace(parcel, status="done", found=[first, second]), []
        case Failed(error), Parcel(status="fetching"):
            late = sleep(for_=timedelta(days=1), during=ANY).and_(perform(Note(error.name)))
            return replace(parcel, status="failed"), [late]
        case Overdue(), Parcel(status="fetching"):
            return replace(parcel, status="failed"), []
        case Stop(), Parcel(status="fetching"):
            return replace(parcel, status="stopped"), [cancel("first"), cancel("second")]
    return ignore()


def _noted(event: Any, before: Any, after: Any) -> Any:
    return [perform(Note("done"))] if after is not before and after.status == "done" else []


PARCEL = Workflow(
    "golden/parcel",
    state=Parcel,
    events=(Order, Stop, Fetched, Failed, Overdue),
    outside=(Order, Stop),
    tasks=(Fetch, Charge, Note),
    update=_update,
    key=("name",),
    tag="status",
    epoch="epoch",
    post=(Hook("noted", 1, _noted),),
)


@dataclass(frozen=True, slots=True)
class Add:
    """Put on the bill."""

    amount: int


@dataclass(frozen=True, slots=True)
class Bill:
    """What is owed."""

    total: int


BILL = Workflow(
    "golden/bill",
    state=Bill,
    events=(Add,),
    update=lambda event, bill: (Bill((bill.total if bill else 0) + event.amount), ()),
)


def charge(tx: Any, task: Charge) -> Any:
    """Refuses what is too dear; otherwise it is on the bill, in the same commit."""
    if task.amount > 1_000:
        return Err("Gone", {"amount": task.amount})
    tx.apply(BILL.job(task.account), Add(task.amount))
    return {"charged": task.amount}


WORKFLOWS = (PARCEL, BILL)
TRANSACTIONAL = {Charge: charge}
