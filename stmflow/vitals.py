"""How a store stands, in figures and a few examples: what `stmflow doctor` looks at.

Everything here is counted in one pass over the rows and holds no block, so that it can be asked of
a store with millions of jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from stmflow.cid import CID

EXAMPLES: Final = 8
"""So many jobs or tasks of each group are named."""


class JobGroup(NamedTuple):
    """Jobs of one version of a workflow."""

    workflow: str
    version: int
    size: int
    examples: Sequence[CID]


class TaskGroup(NamedTuple):
    """Tasks (or timers: `timer`) that are not parked, of one kind, and held by one worker or none.

    Attributes:
        version: of the task; of a timer, that of its job.
        due: whether they are due by now. oldest: when the first was (milliseconds).
        examples: (job, task), the earliest first.
    """

    workflow: str
    version: int
    tag: str
    timer: bool
    worker: int | None
    due: bool
    size: int
    oldest: int
    examples: Sequence[tuple[CID, CID]]


class WorkerState(NamedTuple):
    """A worker that has said that it lives until then (milliseconds).

    `alive`: whether somebody holds its lock; None where that cannot be told.
    """

    worker: int
    until: int
    alive: bool | None


class Vitals(NamedTuple):
    """How a store stands.

    Attributes:
        schema, codec: the versions that are written in it.
        jobs, tasks, workers: what there is.
        ahead: how many heads are of a later time than now, and the farthest: (job, at).
        deliveries: rows that remember answers. stale_deliveries: of these, past their time.
        unindexed: blocks that no index of CIDs has yet.
        clock_ms: how far the store's own clock, or the time of its files where that lies in the
            future, is ahead of the host's.
        settings: what its durability rests on. sizes: in bytes; `free` is the room that is left.
    """

    schema: int
    codec: int
    jobs: Sequence[JobGroup]
    tasks: Sequence[TaskGroup]
    workers: Sequence[WorkerState]
    ahead: tuple[int, Sequence[tuple[CID, int]]] = (0, ())
    deliveries: int = 0
    stale_deliveries: int = 0
    unindexed: int = 0
    clock_ms: int = 0
    settings: Mapping[str, str] = {}
    sizes: Mapping[str, int] = {}


# --- from rows, each of which is an example of its group ------------------------------------------


def job_groups(rows: Iterable[Any]) -> list[JobGroup]:
    """Of rows: workflow, version, count, job."""
    found: dict[Any, list[CID]] = {}
    for workflow, version, count, job in rows:
        found.setdefault((workflow, version, count), []).append(CID.parse(job))
    return [JobGroup._make((*group, examples)) for group, examples in found.items()]


def task_groups(rows: Iterable[Any], *, timer: bool) -> list[TaskGroup]:
    """Of rows, the earliest of each group first: workflow, version, tag, worker, whether due,
    count, when the oldest is due, job, task."""
    found: dict[Any, list[tuple[CID, CID]]] = {}
    for workflow, version, tag, worker, due, count, oldest, job, task in rows:
        group = (workflow, version, tag, timer, worker, bool(due), count, oldest)
        found.setdefault(group, []).append((CID.parse(job), CID.parse(task)))
    return [TaskGroup._make((*group, examples)) for group, examples in found.items()]


__all__ = [
    "EXAMPLES",
    "JobGroup",
    "TaskGroup",
    "Vitals",
    "WorkerState",
    "job_groups",
    "task_groups",
]
