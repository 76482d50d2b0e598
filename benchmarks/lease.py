"""The lease of the TLA+ specification `formal/Lease.tla`, as a workflow: three jobs, two workers,
leases that expire, fences up to three. A committed job is committed once, with the newest fence.

TLC and this check agree: 79,507 states; TLC generates 244,069, the first one among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stmflow import Workflow, reject
from stmflow.check import Check, Send, View, always, eventually

JOBS = ("a", "b", "c")
WORKERS = (0, 1)
MOST = 3
STATES = 79_507
STEPS = 244_068


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


@dataclass(frozen=True, slots=True)
class Lease:
    """`seen`: the fence that each worker was given last."""

    status: str = "pending"
    fence: int = 0
    holder: int | None = None
    seen: tuple[int, ...] = (0,) * len(WORKERS)
    commits: int = 0


def update(event: Take | Expire | Commit | Fail, lease: Lease | None) -> object:
    lease = Lease() if lease is None else lease
    match event:
        case Take(worker=worker) if lease.status == "pending" and lease.fence < MOST:
            seen = tuple(
                lease.fence + 1 if each == worker else old for each, old in enumerate(lease.seen)
            )
            taken = replace(lease, status="leased", fence=lease.fence + 1, holder=worker)
            return replace(taken, seen=seen), []
        case Expire() if lease.status == "leased":
            return replace(lease, status="pending", holder=None), []
        case Commit(worker=worker) if lease.status == "leased":
            if lease.seen[worker] == lease.fence:
                return replace(lease, status="done", commits=lease.commits + 1), []
        case Fail() if lease.status == "pending" and lease.fence == MOST:
            return replace(lease, status="failed"), []
    return reject("NotNow")


def workflow(reducer: Callable[[Any, Lease | None], object] = update) -> Workflow:
    kinds = (Take, Expire, Commit, Fail)
    return Workflow(
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


def ended(view: View, jobs: Sequence[str] = JOBS) -> bool:
    leases = view.states("lease").values()
    return len(leases) == len(jobs) and all(one.status in ("done", "failed") for one in leases)


def sends(job: str, *, failing: bool) -> list[Send]:
    """What may happen to a job. Leases expire, but nothing makes them."""
    takes = [Send(Take(job, each), None, fair=True) for each in WORKERS]
    commits = [Send(Commit(job, each), None, fair=True) for each in WORKERS]
    return [*takes, *commits, Send(Fail(job), None, fair=failing), Send(Expire(job), None)]


def model(jobs: Sequence[str] = JOBS, *, lively: bool = False, failing: bool = True) -> Check:
    """The check. `lively`: every job ends, too, if `failing` it fails at last."""
    return Check(
        [workflow()],
        name="lease",
        sends=[each for job in jobs for each in sends(job, failing=failing)],
        properties=[
            always("no job is committed twice", once),
            *([eventually("every job ends", partial(ended, jobs=jobs))] if lively else []),
        ],
    )


CHECKS = (model(),)
