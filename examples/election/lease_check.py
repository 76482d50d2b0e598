"""What is proved of the lease: whoever was away for too long changes nothing.

A worker is what it remembers, and its steps come at any time: it may be away as long as it likes.
The lease may lapse at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from examples.election.lease import LEASE, fenced, release, renew, take
from stmflow import CELL, Job, Tx
from stmflow.check import (
    Check,
    Faults,
    Property,
    Told,
    Transact,
    View,
    always,
    leads_to,
    sometimes,
    step,
)

KEY: Final = LEASE.job("sweeper")
REGISTER: Final = CELL.job("register")
WORKERS: Final = ("a", "b")

Write = Callable[[Tx, int], Any]
"""A worker with that token writes."""


def memory(worker: str) -> Job:
    """The token that a worker believes is the lease's."""
    return CELL.job(worker)


def guarded(tx: Tx, token: int) -> None:
    """The lease is read in the commit that writes."""
    fenced(KEY, token, lambda tx: tx.write(REGISTER, token))(tx)


def outside(tx: Tx, token: int) -> None:
    """The register stands elsewhere, and refuses less than it has seen."""
    seen = tx.read(REGISTER)
    if seen is None or token >= seen.value:
        tx.write(REGISTER, token)


def believing(tx: Tx, token: int) -> None:
    """A mistake: the worker has looked at its watch, and then was away."""
    tx.write(REGISTER, token)


def steps(worker: str, write: Write, *, renews: bool) -> list[Transact]:
    """What a worker does, in any order, again and again."""

    def takes(tx: Tx) -> None:
        token = take(KEY, worker, 1)(tx)
        if token is not None:
            tx.write(memory(worker), token)

    def remembering(act: Callable[[Tx, int], Any]) -> Callable[[Tx], None]:
        def body(tx: Tx) -> None:
            token = tx.read(memory(worker))
            if token is not None:
                act(tx, token.value)

        return body

    found = [
        Transact(f"{worker} takes", takes, None),
        Transact(f"{worker} writes", remembering(write), None),
        Transact(f"{worker} releases", remembering(lambda tx, t: release(KEY, t)(tx)), None),
    ]
    if renews:
        again = remembering(lambda tx, token: renew(KEY, token, 1)(tx))
        found.append(Transact(f"{worker} renews", again, None))
    return found


def written(view: View) -> int:
    return getattr(view.state(REGISTER), "value", 0)


def token(view: View) -> int:
    return getattr(view.state(KEY), "token", 0)


def held(view: View) -> bool:
    return getattr(view.state(KEY), "status", "free") == "held"


def by_its_holder(before: View, action: Told, after: View) -> bool:
    if written(before) == written(after):
        return True
    return held(before) and token(before) == written(after)


def forward(before: View, action: Told, after: View) -> bool:
    return written(before) <= written(after)


def unlike(view: View) -> bool:
    known = [one.value for worker in WORKERS if (one := view.state(memory(worker))) is not None]
    return len(known) == len(set(known)) and max(known, default=0) <= token(view)


def away(view: View) -> bool:
    known = [one.value for worker in WORKERS if (one := view.state(memory(worker))) is not None]
    return held(view) and min(known, default=0) < token(view)


HOLDER: Final = step("only who has the lease writes", by_its_holder)


def lease(name: str, write: Write, *more: Property, renews: bool = True) -> Check:
    """Two workers that take turns, up to three."""
    return Check(
        [LEASE],
        name=name,
        transactions=[each for worker in WORKERS for each in steps(worker, write, renews=renews)],
        bound=lambda view: token(view) <= 3,
        properties=[
            step("what is written never goes back to a holder before", forward),
            always("no two have the same token", unlike),
            sometimes("somebody was away for too long", away),
            *more,
        ],
        faults=Faults(late=0),
        timeless=True,
    )


LAPSES: Final = leads_to("a lease that nobody renews ends", held, lambda view: not held(view))

LEASES: Final = (
    lease("lease, and a register in the same store", guarded, HOLDER),
    lease("lease, and a register elsewhere", outside),
    lease("lease, that nobody renews", guarded, HOLDER, LAPSES, renews=False),
)
