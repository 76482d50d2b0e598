"""A handle on a side of a session: good for one use, and only where the side was seen.

    handle = await take(db, job)
    handle = await use(db, handle, Post(b"hello"))  # StaleHandle, if the side has moved meanwhile

Libraries that hand out an object for each state must make the old ones throw. Here a handle is the
job and its state (equal states have equal CIDs): comparing them is part of the commit, so it holds
between processes too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from examples.session.model import Close, Post
from stmflow import Job, Transactor, Tx


@dataclass(frozen=True, slots=True)
class Handle:
    """A side, and the state in which it was seen (None: there is no such side)."""

    job: Job
    state: Any


class StaleHandle(Exception):
    """The side is not any more as it was seen; nothing has happened."""


class Refused(Exception):
    """The side was as it was seen, and has refused; its argument is the code."""


async def take(db: Transactor, job: Job) -> Handle:
    """A handle on a side as it is now."""
    return await db.transact(lambda tx: Handle(job, tx.read(job)), reads=[job])


async def use(db: Transactor, handle: Handle, event: Post | Close) -> Handle:
    """Send it, if the side is as it was seen; the next handle. Raises StaleHandle, Refused."""

    def body(tx: Tx) -> Handle:
        if tx.read(handle.job) != handle.state:
            raise StaleHandle(f"{handle.job.key} has moved on")
        verdict = tx.apply(handle.job, event)
        if verdict.kind == "rejected":
            raise Refused(verdict.code)
        return Handle(handle.job, tx.read(handle.job))

    return await db.transact(body, reads=[handle.job])
