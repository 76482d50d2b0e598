"""Bytes that several jobs share end when nobody holds or refers to them, and not before."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import Failure
from scheduler.handlers import Context
from scheduler.handlers.gc import (
    BLOB,
    COUNTED,
    Deleting,
    Gone,
    Hold,
    Leave,
    Live,
    Mark,
    Refer,
    Unlink,
    sweeping,
)
from scheduler.handlers.s3 import Delete
from stmflow import CID, Err, SystemClock, Transactor
from stmflow.errors import ReducerFailed
from stmflow.store.memory import MemoryStore
from stmflow.testing import Trace

LINK = CID.of(b"hello")
REFER = Refer(LINK, 5, LINK.digest)


class Blob:
    """One blob, told by tasks."""

    def __init__(self, *tasks: Any) -> None:
        self.trace = Trace(BLOB).job(BLOB.job(LINK.multihash))
        for task in tasks:
            self.tell(task)

    def tell(self, task: Any) -> Any:
        return self.trace.transact(lambda tx: COUNTED[type(task)](tx, task))

    @property
    def state(self) -> Any:
        return self.trace.state


def test_holds_become_references() -> None:
    blob = Blob(Hold(LINK), Hold(LINK))
    assert blob.tell(REFER) == {"size": 5, "checksum": LINK.digest}
    assert blob.state == Live(LINK, held=1, references=1, marked=False)


@pytest.mark.parametrize(
    "tasks",
    [
        [Hold(LINK), Mark(LINK), Leave(LINK)],
        [Hold(LINK), Leave(LINK), Mark(LINK)],
        [Hold(LINK), Hold(LINK), Leave(LINK), Mark(LINK), Leave(LINK)],
        [Hold(LINK), REFER, Mark(LINK), Unlink(LINK)],
        [Hold(LINK), REFER, Unlink(LINK), Mark(LINK)],
        [Mark(LINK)],
    ],
)
def test_a_marked_blob_is_deleted_when_the_last_one_leaves(tasks: list[Any]) -> None:
    blob = Blob(*tasks[:-1])
    assert blob.trace.ready == []
    blob.tell(tasks[-1])
    assert (blob.state, blob.trace.ready) == (Deleting(LINK), [Delete(LINK)])
    blob.trace.succeed(Delete, {"deleted": True})
    assert blob.state == Gone(LINK)


def test_an_unmarked_blob_stays() -> None:
    assert Blob(Hold(LINK), Leave(LINK)).state == Live(LINK, held=0, references=0, marked=False)


def test_nobody_can_hold_what_is_on_its_way_out() -> None:
    blob = Blob(Hold(LINK), Leave(LINK), Mark(LINK))
    assert blob.tell(Hold(LINK)) == Err("Deleting")
    assert blob.tell(Mark(LINK)) is None
    blob.trace.succeed(Delete, {"deleted": True})
    blob.tell(Hold(LINK))
    assert blob.state == Live(LINK, held=1, references=0, marked=False)


@pytest.mark.parametrize("task", [REFER, Leave(LINK), Unlink(LINK)])
def test_what_was_not_held_or_referred_to_cannot_be_left(task: Any) -> None:
    for blob in (Blob(), Blob(Hold(LINK), Leave(LINK)), Blob(Mark(LINK))):
        with pytest.raises(ReducerFailed, match="impossible"):
            blob.tell(task)


@pytest.mark.anyio
async def test_an_attempt_that_comes_too_late_does_not_delete_new_bytes() -> None:
    deleted = []

    async def delete(task: Delete, context: Context) -> dict[str, bool]:
        deleted.append(task)
        return {"deleted": True}

    clock = SystemClock()
    end = clock.now() + 10_000
    context = Context(key=LINK, job=LINK, attempt=1, token=1, deadline=end, clock=clock)
    async with Transactor(MemoryStore(), [BLOB], transactional=COUNTED, pure=True) as transactor:
        sweep = sweeping(transactor, delete)
        with pytest.raises(Failure, match="NotDeleting"):
            await sweep(Delete(LINK), context)
        await transactor.transact(lambda tx: COUNTED[Hold](tx, Hold(LINK)))
        with pytest.raises(Failure, match="NotDeleting"):
            await sweep(Delete(LINK), context)
        await transactor.transact(lambda tx: COUNTED[Leave](tx, Leave(LINK)))
        await transactor.transact(lambda tx: COUNTED[Mark](tx, Mark(LINK)))
        assert await sweep(Delete(LINK), context) == {"deleted": True}
    assert deleted == [Delete(LINK)]
