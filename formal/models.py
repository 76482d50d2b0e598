"""Small checks that are exported to TLA+: TLC must come to the same states and the same verdicts.

stmflow tla formal.models
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from benchmarks.lease import Commit, Lease, update, workflow
from benchmarks.lease import model as lease
from examples.bank.accounts import ACCOUNT, Close, Open, transfer
from examples.election.check import NAMES, arriving, election, timed
from examples.store_add.check import CHECKS as STORE_ADD
from examples.store_add.check import LINKS, SIZE, SPACE, TERMS
from examples.store_add.model import Add, Put
from scheduler.handlers.s3 import Stat
from stmflow import Tx
from stmflow.check import Check, Send, Transact, always
from stmflow.errors import InvalidWorkflow

# --- the lease that formal/Lease.tla specifies --------------------------------------------------


def unfenced(event: Any, held: Lease | None) -> Any:
    """A mistake: whoever has ever been given the lease may commit, even twice."""
    if isinstance(event, Commit) and held is not None and held.seen[event.worker]:
        return replace(held, status="done", commits=min(held.commits + 1, 2)), []
    return update(event, held)


# --- and of the examples ------------------------------------------------------------------------


def bank() -> Check:
    """Two accounts and what is sent from one to the other, for ever."""
    one, other = ACCOUNT.job("one"), ACCOUNT.job("other")

    def start(tx: Tx) -> None:
        tx.apply(one, Open("one", 3))
        tx.apply(other, Open("other", 3))

    return Check(
        [ACCOUNT],
        name="bank",
        start=start,
        sends=[Send(Close("one")), Send(Close("other"))],
        transactions=[
            Transact("one to other", transfer(one, other, 1), None),
            Transact("other to one", transfer(other, one, 2), None),
        ],
        properties=[
            always(
                "money is neither made nor lost",
                lambda view: sum(a.balance for a in view.states(ACCOUNT.name).values()) == 6,
            )
        ],
    )


def uploads(at: int, *, puts: int) -> Check:
    """One try of store/add, with the quota of that check, and so many claims."""
    sends = [Send(Add(SPACE, LINKS[0], SIZE, terms=TERMS)), Send(Put(SPACE, LINKS[0]), puts)]
    profile = "its own quota" if at == 0 else "an allocator"
    return replace(STORE_ADD[at], name=f"store/add, {profile}", sends=sends)


def crashed() -> Check:
    """A mistake: a handler that fails before it answers anything."""

    def crash(task: Stat, bucket: Any) -> Any:
        raise InvalidWorkflow("this handler knows nothing")

    one = uploads(0, puts=0)
    handlers = {**one.handlers, Stat: crash}
    return replace(one, name="store/add, a handler that fails", handlers=handlers)


CHECKS: Final = (
    replace(lease("a", lively=True), name="one lease"),
    replace(lease("ab", lively=True), name="two leases"),
    uploads(0, puts=1),
    uploads(1, puts=1),
    bank(),
    election("three nodes, two terms", 2, timed(NAMES)),
    arriving("three nodes, and what is told arrives", 1),
    replace(lease("a"), workflows=[workflow(unfenced)], name="a lease without a fence"),
    crashed(),
)
"""What is small enough for half a minute; the last two are wrong, and must be found so."""

WRITTEN: Final = replace(lease(), name="three leases")
"""As many states as formal/Lease.tla has."""

LARGE: Final = (
    election("three nodes, three terms", 3, timed(NAMES)),
    arriving("three nodes, two terms, and what is told arrives", 2),
)
"""What takes TLC minutes."""
