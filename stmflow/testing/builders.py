"""Valid commits for tests of stores: states, events and revisions as the engine would write them.

A store may check every hash and link it is given; what is built here passes such checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.store import (
    Commit,
    DeliveryRow,
    DueTimer,
    HeadWrite,
    Kind,
    NewTask,
    NewTimer,
    Ref,
    StoredHead,
)

WORKFLOW = "contract"
STAT = "Stat"
KIND: Kind = (WORKFLOW, 1, STAT)
"""The kind of the tasks made here, unless another tag is asked for."""

Prevs = Mapping[str, StoredHead | None]
"""The name of each job that a commit writes, and the head that it replaces (None: no job yet)."""

_values = count(1)


def job_id(name: str, workflow: str = WORKFLOW) -> CID:
    """The job of that name."""
    return CID.of(codec.encode([workflow, [name]]))


def task(
    name: str,
    n: int,
    *,
    seq: int = 1,
    at: int = 0,
    tag: str = STAT,
    version: int = 1,
    tenant: str = "",
    worker: int | None = None,
) -> NewTask:
    """A row for the outbox, in place `n` of that job; with a worker, claimed by its commit."""
    job = job_id(name)
    plain = {"w": WORKFLOW, "v": version, "t": tag, "f": {"n": n}}
    id = CID.of(codec.encode([job, seq, plain]))
    return NewTask(job, n, id, codec.encode(plain), WORKFLOW, version, tag, tenant, at, worker)


def timer(name: str, n: int, *, due: int, seq: int = 1) -> NewTimer:
    """A timer in place `n` of that job."""
    job = job_id(name)
    plain = {"w": WORKFLOW, "v": 1, "t": "sleep", "f": {"during": None, "until": due}, "n": str(n)}
    return NewTimer(job, n, CID.of(codec.encode([job, seq, plain])), due)


def delivery(
    name: str, id: bytes = b"d", *, answer: bytes = b"", until: int = 10**6
) -> DeliveryRow:
    """The row that remembers a delivery's answer."""
    return DeliveryRow(job_id(name), id, answer or codec.encode({"to": id}), until)


def commit(
    writes: Prevs,
    *,
    value: int | None = None,
    at: int = 0,
    tag: str = "Counted",
    workflow: str = WORKFLOW,
    version: int = 1,
    epoch: int = 1,
    reads: Sequence[tuple[CID, CID | None]] = (),
    tasks: Sequence[NewTask] = (),
    timers: Sequence[NewTimer] = (),
    closed: Sequence[tuple[CID, int, bool]] = (),
    settles: Ref | None = None,
    fires: DueTimer | NewTimer | None = None,
    delivery: DeliveryRow | None = None,
) -> Commit:
    """A commit that writes these jobs, each upon the head given for it.

    `value` is what the new states hold: another one each time where it is left out, so that two
    rivals never write the same revision.
    """
    held = next(_values) if value is None else value
    names = sorted(writes, key=lambda name: job_id(name, workflow))
    event = codec.encode({"w": workflow, "v": version, "t": "Set", "f": {"n": held}})
    drawn = [(name, _write(name, writes[name], held, workflow, version, tag)) for name in names]
    at = max([at, *(head.at for head in writes.values() if head is not None)])
    if fires is not None:
        at = max(at, fires.due)
    entries = [
        _entry(name, writes[name], state, event, (workflow, version, epoch))
        for name, state in drawn
    ]
    revision = codec.encode(
        {
            "v": 1,
            "delivery": None if delivery is None else [delivery.job, delivery.id],
            "at": at,
            "reads": sorted([job, cid] for job, cid in reads),
            "writes": entries,
        }
    )
    cid = CID.of(revision)
    gone = list(closed)
    if settles is not None and settles[:2] not in [row[:2] for row in gone]:
        gone.append((settles.job, settles.n, False))
    if fires is not None:
        gone.append((fires.job, fires.n, True))
    return Commit(
        revision=revision,
        revision_cid=cid,
        blocks=[event],
        writes=[
            _head_write(name, writes[name], state, cid, at, (workflow, version, epoch, tag))
            for name, state in drawn
        ],
        reads=list(reads),
        tasks=list(tasks),
        timers=list(timers),
        closed=gone,
        settles=settles,
        fires=None if fires is None else (fires.job, fires.n, fires.id),
        delivery=delivery,
    )


def head_of(made: Commit, name: str, workflow: str = WORKFLOW) -> StoredHead:
    """The head that a commit makes for that job."""
    job = job_id(name, workflow)
    return next(write.head for write in made.writes if write.job == job)


def _write(
    name: str, prev: StoredHead | None, held: int, workflow: str, version: int, tag: str
) -> bytes:
    return codec.encode({"w": workflow, "v": version, "t": tag, "f": {"n": held, "job": name}})


def _entry(
    name: str, prev: StoredHead | None, state: bytes, event: bytes, of: tuple[str, int, int]
) -> dict[str, Any]:
    workflow, version, epoch = of
    line: dict[str, Any] = {
        "job": job_id(name, workflow),
        "workflow": [workflow, version],
        "seq": 1 if prev is None else prev.seq + 1,
        "prev": None if prev is None else prev.revision,
        "epoch": epoch,
        "receipts": [],
        "events": [CID.of(event)],
        "state": CID.of(state),
        "effects": [],
        "extra": [],
    }
    return line | {"key": [name]} if prev is None else line


def _head_write(
    name: str,
    prev: StoredHead | None,
    state: bytes,
    revision: CID,
    at: int,
    of: tuple[str, int, int, str],
) -> HeadWrite:
    workflow, version, epoch, tag = of
    job = job_id(name, workflow)
    head = StoredHead(
        job,
        workflow,
        version,
        [name],
        revision,
        1 if prev is None else prev.seq + 1,
        epoch,
        at,
        tag,
        state,
        CID.of(state),
        codec.encode([0, [], []]),
    )
    return HeadWrite(job, None if prev is None else prev.revision, head)
