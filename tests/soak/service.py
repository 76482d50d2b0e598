"""The service under load: orders with stock and timers, a bank with calls that wait, store/add.

An order takes room on a shelf (a quota, in the same commit), is packed by a handler that fails now
and then, ripens under a timer, and gives its room back or keeps it until the next order under that
name. It adds up the numbers of the deliveries that it was placed by and of what became of them, so
one that was applied twice, or not at all, is seen in its last state.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any, Final

import anyio

from examples.bank.accounts import ACCOUNT, transfer
from examples.store_add.quota import local
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler import App, Context, Failure, Limits, Policy, Retry, Transaction
from scheduler.handlers.allocate import Allocate, Deallocate
from scheduler.handlers.gc import sweeping
from scheduler.handlers.s3 import POLICIES, Bucket, Delete
from scheduler.worker import Handlers
from stmflow import CID, Err, Transactor, Tx, Workflow, impossible, perform, reject, sleep
from stmflow.registered import registered, returning
from stmflow.retention import Over
from tests.soak.settings import HOUR_MS, Settings

SHELVES: Final = 20
ROOM: Final = 400_000
"""Of a shelf, and of each space of store/add."""
TRAYS: Final = 20
ACCOUNTS: Final = 200
OPENING: Final = 1_000
TREASURE: Final = 10**12

# --- orders -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Under this name, an order of this size; `number` is that of the delivery."""

    order: int
    number: int
    size: int
    ripens_ms: int
    keep: bool


@dataclass(frozen=True, slots=True)
class Pack:
    number: int


@dataclass(frozen=True, slots=True)
class Packed:
    number: int


@dataclass(frozen=True, slots=True)
class Full:
    error: Err


@dataclass(frozen=True, slots=True)
class Broke:
    error: Err


@dataclass(frozen=True, slots=True)
class Ripe:
    pass


@dataclass(frozen=True, slots=True)
class Freed:
    reservation: CID
    size: int


@dataclass(frozen=True, slots=True)
class Sum:
    """How many deliveries, and the sum of their numbers."""

    count: int = 0
    total: int = 0

    def plus(self, number: int) -> Sum:
        return Sum(self.count + 1, self.total + number)


@dataclass(frozen=True, slots=True)
class Order:
    """`status`: packing, ripening, leaving, breaking; at rest: done, kept, full or broken."""

    order: int
    status: str
    epoch: int
    placed: Place
    asked: Sum = Sum()
    packed: Sum = Sum()
    full: Sum = Sum()
    broken: Sum = Sum()


RESTING: Final = ("done", "kept", "full", "broken")


def _update(event: Any, order: Order | None) -> Any:
    match event, order:
        case Place(), None:
            return _placed(event, Order(event.order, "packing", 1, event))
        case Place(), Order(status=status) if status in RESTING:
            return _placed(event, order)
        case Place(), _:
            return reject("Busy")
        case Full(), Order():
            full = order.full.plus(order.placed.number)
            return replace(order, status="full", full=full), []
        case Packed(number), Order():
            ripe = sleep(for_=timedelta(milliseconds=order.placed.ripens_ms), name="ripe")
            packed = replace(order, status="ripening", packed=order.packed.plus(number))
            return packed, [ripe.then(Ripe)]
        case Broke(), Order():
            broken = order.broken.plus(order.placed.number)
            return replace(order, status="breaking", broken=broken), [_freeing(order)]
        case Ripe(), Order(placed=Place(keep=True)):
            return replace(order, status="kept"), []
        case Ripe(), Order():
            return replace(order, status="leaving"), [_freeing(order)]
        case Freed(), Order(status=status):
            return replace(order, status="done" if status == "leaving" else "broken"), []
    return impossible()


def _placed(event: Place, order: Order) -> Any:
    """Give back what was kept, take room, pack."""
    epoch = order.epoch + 1
    take = perform(Allocate(shelf(event.order), _reservation(event.order, epoch), event.size))
    effect = take.catch(Full, "NoSpace").and_(perform(Pack(event.number)).catch(Broke, "Broken"))
    if order.status == "kept":
        effect = _giving(order).and_(effect)
    asked = order.asked.plus(event.number)
    placed = replace(order, status="packing", epoch=epoch, placed=event, asked=asked)
    return placed, [effect.then(Packed)]


def _freeing(order: Order) -> Any:
    return _giving(order).then(Freed)


def _giving(order: Order) -> Any:
    reservation = _reservation(order.order, order.epoch)
    return perform(Deallocate(shelf(order.order), reservation, order.placed.size))


def _reservation(order: int, epoch: int) -> CID:
    return ORDER.job(order, epoch).id


def shelf(order: int) -> str:
    """The space of an order, as the quota knows it."""
    return f"shelf {order % SHELVES}"


ORDER: Final = Workflow(
    "soak/order",
    state=Order,
    events=(Place, Packed, Full, Broke, Ripe, Freed),
    outside=(Place,),
    tasks=(Pack, Allocate, Deallocate),
    update=_update,
    key=("order",),
    epoch="epoch",
    tag="status",
)

# --- calls: transfers that wait for money, as rows ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring this much from a tray to the treasury, once it is there."""

    tray: int
    amount: int


def fetch(tx: Tx, task: Fetch) -> str:
    answer = transfer(tray(task.tray), TREASURY, task.amount)(tx)
    if answer == "Insufficient":
        tx.retry()
    return answer


CALLS: Final = registered(Fetch, name="soak/fetch")
TREASURY: Final = ACCOUNT.job("treasury")


def tray(number: int) -> Any:
    return ACCOUNT.job(f"tray {number}")


# --- the whole ----------------------------------------------------------------------------------

_STORE = local(limit=ROOM)
WORKFLOWS: Final = (ORDER, ACCOUNT, CALLS, *_STORE.workflows)
OVER: Final = (
    Over(ORDER.name, RESTING[:1] + RESTING[2:], keep_ms=HOUR_MS),
    Over(CALLS.name, ("done",), keep_ms=HOUR_MS),
    Over(STORE_ADD.name, ("idle", "expired", "failed"), keep_ms=HOUR_MS),
)
"""What leaves whole. `HOUR_MS` is the least that retention takes; its clock goes ahead."""


def app(settings: Settings) -> App:
    """What its workers perform, and all that commit are given."""

    @asynccontextmanager
    async def handlers(transactor: Transactor) -> AsyncIterator[Handlers]:
        file = os.open(settings.performed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        async def pack(task: Pack, context: Context) -> dict[str, int]:
            chance = Random(f"{context.key} {context.attempt}")
            await anyio.sleep(chance.uniform(0, 0.03))
            os.write(file, b"\n%d;" % task.number)
            if task.number % 67 == 0:
                raise Failure("Broken")
            if chance.random() < 0.1:
                raise Failure("Slipped", retry=Retry.SAFE)
            if chance.random() < 0.03:
                raise RuntimeError("nobody knows whether it is packed")
            return {"number": task.number}

        made: dict[type[Any], Any] = {Pack: pack, Fetch: Transaction(returning(fetch))}
        try:
            if settings.bucket is None:
                yield made
                return
            at = settings.bucket.endpoint
            async with Bucket(
                at.bucket,
                endpoint=at.url,
                access_key=at.access_key,
                secret_key=at.secret_key,
                put_again=True,
            ) as bucket:
                yield {
                    **made,
                    **bucket.handlers(),
                    Delete: sweeping(transactor, bucket.delete),
                    Alert: _nobody,
                }
        finally:
            os.close(file)

    patient = Policy(attempts=10_000, base_ms=20, cap_ms=500)
    return App(
        workflows=WORKFLOWS,
        transactional=_STORE.transactional,
        tenant=_STORE.tenant,
        handlers=handlers,
        policies={**POLICIES, Pack: patient},
        limits=Limits(slots=64),
    )


async def _nobody(task: Alert, context: Context) -> None:
    raise AssertionError("nothing here is ever lost")
