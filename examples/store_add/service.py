"""The service: a database, a bucket, and the workflow between them.

async with service("jobs.db", endpoint) as storage:
    answer = await storage.add(space, data)
    upload = await storage.settled(answer.job)       # stored, or where to upload, or refused
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.store_add.model import (
    Add,
    Exceeded,
    Expired,
    Failed,
    Put,
    Receiving,
    State,
    Stored,
    Target,
    Terms,
)
from examples.store_add.quota import Profile, local
from examples.store_add.seaweed import Endpoint
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler import Context, Handler, Limits, Scheduler
from scheduler.handlers.allocate import QUOTA
from scheduler.handlers.gc import sweeping
from scheduler.handlers.s3 import POLICIES, Bucket, Delete
from stmflow import CID, Answer, Clock, Head, Job, Transactor
from stmflow.store.sqlite import SQLiteStore

log = logging.getLogger("store_add")

QUOTA_BYTES: Final = 1024**3
"""What a space that was not seen before may use."""

GRACE_SECONDS: Final = 1.0
"""What runs when the service is left may take so long to finish. A watch would take all that it is
given: it waits for bytes, and goes on where the service is started again."""

RAW: Final = 0x55


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. Agents add, upload to the URL they are given, and claim."""

    transactor: Transactor
    scheduler: Scheduler
    bucket: Bucket
    store: SQLiteStore

    async def add(
        self, space: str, data: bytes, *, terms: Terms | None = None, delivery: str | None = None
    ) -> Answer:
        """Ask to store these bytes; the answer names the job."""
        asked = Add(space, CID.of(data, RAW), len(data), terms=terms or Terms())
        return await self.transactor.send(STORE_ADD, asked, delivery=delivery)

    async def settled(self, job: Job | CID, *, timeout: float = 30) -> State:
        """The state of the job once an agent has something to do or to know."""
        head = await self.transactor.wait(job, _settled, timeout=timeout)
        state: State = head.state
        return state

    async def claim(self, space: str, data: bytes) -> Answer:
        """Say that the bytes have been uploaded. The service looks for itself."""
        return await self.transactor.send(STORE_ADD, Put(space, CID.of(data, RAW)))

    async def reached(self, job: Job | CID, tag: str, *, timeout: float = 30) -> Head:
        """The head of the job once it is in that state."""
        return await self.transactor.wait(job, lambda s: s.tag == tag, timeout=timeout)

    async def used(self, space: str) -> int:
        """Bytes that the space is charged for."""
        head = await self.transactor.get(QUOTA.job(space))
        return 0 if head is None else int(head.state.used)


def upload_target(state: State) -> Target | None:
    """Where to upload, if the job waits for that."""
    return state.window.target if isinstance(state, Receiving) else None


@asynccontextmanager
async def service(
    database: Path | str,
    endpoint: Endpoint,
    *,
    profile: Profile | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    instead: Mapping[type, Handler] | None = None,
    watch_base_ms: int = 500,
    put_again: bool = False,
) -> AsyncIterator[Service]:
    """Run the service until left; whatever the last process left undone goes on.

    Args:
        endpoint: the S3 server.
        profile: how the account of a space is kept (default: in this very database).
        limits: what the scheduler may do at once. clock: default, the system's.
        instead: handlers to be used in place of the ones here (tests, demonstrations).
        put_again: whether a signed URL may be used by several uploaders at once.
    """
    profile = profile or local(limit=QUOTA_BYTES)
    bucket = Bucket(
        endpoint.bucket,
        endpoint=endpoint.url,
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        watch_base_ms=watch_base_ms,
        put_again=put_again,
    )
    async with (
        SQLiteStore.open(database) as store,
        bucket,
        Transactor(
            store,
            profile.workflows,
            transactional=profile.transactional,
            clock=clock,
            alarm=log.error,
            tenant=profile.tenant,
        ) as transactor,
    ):
        handlers: dict[type, Handler] = {
            **bucket.handlers(),
            **profile.handlers(transactor),
            Delete: sweeping(transactor, bucket.delete),
            Alert: _alert,
            **(instead or {}),
        }
        async with Scheduler(
            transactor, handlers, policies=POLICIES, limits=limits, grace_seconds=GRACE_SECONDS
        ) as scheduler:
            yield Service(transactor, scheduler, bucket, store)


def _settled(state: Any) -> bool:
    if isinstance(state, Receiving):
        return state.window.target is not None
    return isinstance(state, (Stored, Exceeded, Expired, Failed))


async def _alert(task: Alert, context: Context) -> None:
    log.error("%s: %s of %s", task.what, task.link, task.space)
