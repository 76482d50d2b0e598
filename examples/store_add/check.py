"""What is proved of store/add: S1 to S11 and L1 to L4, on the reducer that runs in production.

    stmflow check examples.store_add.check

The world is one bucket with one object in it, or not; whoever has a URL that is not dead may upload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from examples.store_add.model import (
    Add,
    Allocating,
    Cancel,
    Exceeded,
    Expired,
    Failed,
    Idle,
    Probing,
    Put,
    Receiving,
    Remove,
    Removing,
    Stored,
    Terms,
    Verifying,
)
from examples.store_add.quota import local, remote
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler.handlers.allocate import QUOTA, RESERVATION, Allocate, Deallocate, release, reserve
from scheduler.handlers.gc import BLOB, Deleting
from scheduler.handlers.s3 import Delete, Presign, Stat, Verify, Watch
from stmflow import CID, Err, Tx
from stmflow.check import (
    Check,
    Move,
    Send,
    View,
    always,
    at_rest,
    leads_to,
    sometimes,
    step,
)

SPACE = "space"
DATA = b"x"
LINK = CID.of(DATA, 0x55)
SIZE = 1
TERMS = Terms(window_ms=10, skew_ms=5, longest_ms=20)
ADD = Add(SPACE, LINK, SIZE, terms=TERMS)

JOB = STORE_ADD.job(SPACE, LINK.multihash)
ACCOUNT = QUOTA.job(SPACE)
OBJECT = BLOB.job(LINK.multihash)


@dataclass(frozen=True, slots=True)
class Bucket:
    """`there`: the right bytes are. `landed`: when they came. `url`: when the last URL dies."""

    there: bool = False
    landed: int = 0
    url: int = 0


Results = Iterator[tuple[Any, Bucket]]

ABSENT = {"found": False, "size": None, "checksum": None, "mismatch": False}
FOUND = {"found": True, "size": SIZE, "checksum": LINK.digest, "mismatch": False}


def _stat(task: Stat, bucket: Bucket) -> Results:
    yield (FOUND if bucket.there else ABSENT), bucket
    yield Err("Exhausted"), bucket


def _presign(task: Presign, bucket: Bucket) -> Results:
    signed = {"url": "u", "headers": {}, "until": task.until}
    yield signed, replace(bucket, url=max(bucket.url, task.until))


def _watch(task: Watch, bucket: Bucket, now: int) -> Results:
    if bucket.there:
        yield FOUND, bucket
    elif now >= task.until:
        yield ABSENT, bucket


def _verify(task: Verify, bucket: Bucket) -> Results:
    if bucket.there:
        proof = {"verified": True, "size": SIZE, "checksum": LINK.digest, "round": task.round}
        yield proof, bucket
    else:
        yield Err("Mismatch", {"round": task.round, **ABSENT}), bucket


def _delete(task: Delete, bucket: Bucket, now: int, tx: Tx) -> Results:
    if isinstance(tx.read(OBJECT), Deleting):
        yield {"deleted": True}, replace(bucket, there=False, landed=0)
    else:
        yield Err("NotDeleting"), bucket


def _alert(task: Alert, bucket: Bucket) -> Results:
    yield None, bucket


def _upload(bucket: Bucket, now: int) -> Iterator[Bucket]:
    if not bucket.there and now < bucket.url:
        yield replace(bucket, there=True, landed=now)


HANDLERS = {
    Stat: _stat,
    Presign: _presign,
    Watch: _watch,
    Verify: _verify,
    Delete: _delete,
    Alert: _alert,
}
PAYING = (Probing, Receiving, Verifying, Stored)
ENDED = (Idle, Stored, Exceeded, Expired, Failed)


def _within_limit(view: View) -> bool:
    quota = view.state(ACCOUNT)
    return quota is None or quota.used <= quota.limit


def _s2(view: View) -> bool:
    return not isinstance(view.state(JOB), Stored) or view.world.there


def _s6(view: View) -> bool:
    state, bucket = view.state(JOB), view.world
    late = not bucket.there or bucket.landed >= getattr(state, "deadline", 0)
    return not isinstance(state, Expired) or late


def _s8(view: View) -> bool:
    state = view.state(JOB)
    wants = isinstance(state, Receiving) or (isinstance(state, Verifying) and not state.final)
    armed = any(getattr(task, "name", None) == "deadline" for task in view.open(JOB))
    return wants == armed


PROPERTIES = [
    always("S1 used is within the limit", _within_limit),
    always("S2 stored bytes are there", _s2),
    always("S6 what came in time never expires", _s6),
    always("S8 the deadline is armed while it may pass", _s8),
    *(
        sometimes(f"a job is {kind.__name__.lower()}", lambda view, kind=kind: isinstance(view.state(JOB), kind))
        for kind in (Stored, Expired, Failed, Receiving, Verifying)
    ),
    leads_to(
        "L1 every try ends",
        lambda view: view.state(JOB) is not None,
        lambda view: isinstance(view.state(JOB), ENDED),
    ),
]


def _check(name: str, profile: Any, handlers: Any = {}, **how: Any) -> Check:
    return Check(
        profile.workflows,
        name=name,
        transactional=profile.transactional,
        handlers={**HANDLERS, **handlers},
        world=Bucket(),
        at=100,
        bound=lambda view: view.now < 5_300,
        moves=[Move("upload", _upload)],
        properties=PROPERTIES,
        **how,
    )


LOCAL = _check(
    "store/add, quota in the same store",
    local(limit=1),
    sends=[Send(ADD, 2), Send(Put(SPACE, LINK), 2), Send(Cancel(SPACE, LINK)), Send(Remove(SPACE, LINK))],
)
