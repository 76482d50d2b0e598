"""How the rich work is performed: quickly, with a failure now and then, by whoever has a claim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import anyio

from scheduler import Context, Failure, Handler, Limits, Policy, Retry, Scheduler, Transaction
from scheduler.testing import orders
from scheduler.testing.orders import PERFORMED, Doom, Look, Repay, repay
from stmflow import Transactor
from stmflow.registered import returning

DEADLINE_MS, REMINDER_MS = 700, 900
POLICY = Policy(attempts=12, attempt_ms=5_000, base_ms=20, cap_ms=200)


def scheduling(engine: Transactor, work: Handler, *, lease_seconds: float = 5) -> Scheduler:
    """A scheduler that performs every task of the work so."""
    handlers: dict[type, Any] = dict.fromkeys(PERFORMED, work)
    handlers[Repay] = Transaction(returning(repay))
    return Scheduler(
        engine,
        handlers,
        policies=dict.fromkeys(PERFORMED, POLICY),
        limits=Limits(slots=4),
        lease_seconds=lease_seconds,
        grace_seconds=1,
    )


async def perform(random: Random, task: Any, context: Context) -> int:
    """Take a while, fail now and then, and answer with the token, last of all."""
    await anyio.sleep(random.random() * 0.02)
    if random.random() < 0.05:
        raise Failure("Busy", None, retry=Retry.THROTTLED, after_ms=20)
    if isinstance(task, Doom):
        raise Failure("Refused", "always")
    if isinstance(task, Look):  # its epoch must be the tens: it has no room
        return int(task.epoch * 10 + random.randint(1, 9))
    return context.token


@contextmanager
def quick() -> Iterator[None]:
    """The sleeps of an order last for less than a second."""
    kept = orders.DEADLINE_MS, orders.REMINDER_MS
    orders.DEADLINE_MS, orders.REMINDER_MS = DEADLINE_MS, REMINDER_MS
    try:
        yield
    finally:
        orders.DEADLINE_MS, orders.REMINDER_MS = kept
