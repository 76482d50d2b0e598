"""Small checks that are exported to TLA+: TLC must come to the same states and the same verdicts.

stmflow tla formal.models
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from examples.bank.accounts import ACCOUNT, Close, Open, transfer
from examples.store_add.check import CHECKS as STORE_ADD
from examples.store_add.check import LINKS, SIZE, SPACE, TERMS
from examples.store_add.model import Add, Put
from stmflow import Tx, Workflow, reject
from stmflow.check import Check, Send, Transact, View, always, eventually, sometimes

# --- a lease: the workflow that formal/Lease.tla specifies --------------------------------------

WORKERS: Final = 2
MOST: Final = 3
"""Fences of one job."""


@dataclass(frozen=True, slots=True)
class Lease:
    """`seen`: the newest fence that each worker was given."""

    job: str
    status: str = "pending"
    fence: int = 0
    holder: int | None = None
    seen: tuple[int, ...] = (0,) * WORKERS
    commits: int = 0


@dataclass(frozen=True, slots=True)
class Take:
    job: str
    worker: int


@dataclass(frozen=True, slots=True)
class Expire:
    job: str


@dataclass(frozen=True, slots=True)
class Commit:
    job: str
    worker: int


@dataclass(frozen=True, slots=True)
class Fail:
    job: str


def update(event: Any, lease: Lease | None) -> Any:
    lease = lease or Lease(event.job)
    match event, lease.status:
        case Take(worker=worker), "pending" if lease.fence < MOST:
            fence = lease.fence + 1
            seen = (*lease.seen[:worker], fence, *lease.seen[worker + 1 :])
            return replace(lease, status="leased", fence=fence, holder=worker, seen=seen), []
        case Expire(), "leased":
            return replace(lease, status="pending", holder=None), []
        case Commit(worker=worker), "leased" if lease.seen[worker] == lease.fence:
            return replace(lease, status="done", commits=lease.commits + 1), []
        case Fail(), "pending" if lease.fence == MOST:
            return replace(lease, status="failed"), []
    return reject("No")


def unfenced(event: Any, lease: Lease | None) -> Any:
    """A mistake: whoever has ever been given the lease may commit, even twice."""
    if isinstance(event, Commit) and lease is not None and lease.seen[event.worker]:
        return replace(lease, status="done", commits=min(lease.commits + 1, 2)), []
    return update(event, lease)


def leases(jobs: Sequence[str], *, lively: bool = False, reducer: Any = update) -> Check:
    """So many jobs; with `lively`, each of them ends."""
    kinds = (Take, Expire, Commit, Fail)
    workflow = Workflow(
        "lease",
        state=Lease,
        events=kinds,
        outside=kinds,
        update=reducer,
        key=("job",),
        tag="status",
    )

    def once(view: View) -> bool:
        return all(
            lease.commits <= 1 and (lease.status != "done" or lease.commits == 1)
            for lease in view.states("lease").values()
        )

    def ended(view: View) -> bool:
        found = view.state(workflow.job(jobs[0]))
        return found is not None and found.status in ("done", "failed")

    events = [
        event
        for job in jobs
        for event in (
            *(Take(job, worker) for worker in range(WORKERS)),
            *(Commit(job, worker) for worker in range(WORKERS)),
            Expire(job),
            Fail(job),
        )
    ]
    return Check(
        [workflow],
        name=f"{len(jobs)} leases",
        sends=[Send(each, None, fair=not isinstance(each, Expire)) for each in events],
        properties=[
            always("what is committed is committed once", once),
            sometimes("a lease is done", ended),
            *([eventually("the first job ends", ended)] if lively else []),
        ],
    )


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


CHECKS: Final = (
    leases("a", lively=True),
    leases("ab", lively=True),
    uploads(0, puts=1),
    uploads(1, puts=1),
    bank(),
    replace(leases("a", reducer=unfenced), name="a lease without a fence"),
)
"""What is small enough for a minute; the last one is wrong, and must be found so."""

LARGE: Final = (leases("abc"),)
"""As many states as formal/Lease.tla has."""
