"""The S3 tasks as a job asks for them: stored as blocks, claimed, performed, settled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from examples.store_add.seaweed import Endpoint
from scheduler import Policy, Scheduler
from scheduler.handlers.s3 import POLICIES, Bucket, Delete, Presign, Put, Stat, Verify, Watch
from stmflow import CID, Data, Transactor, Workflow, perform
from stmflow.schema import schema_of
from stmflow.store.memory import MemoryStore

BODY = b"bytes" * 1_000
SIZE = len(BODY)
LINK = CID.of(BODY, 0x55)
LATE = 4_000_000_000_000


@dataclass(frozen=True, slots=True)
class Added:
    link: CID
    size: int
    until: int


@dataclass(frozen=True, slots=True)
class Signed:
    url: str
    headers: Data
    until: int


@dataclass(frozen=True, slots=True)
class Probed:
    found: bool
    size: int | None
    checksum: bytes | None
    mismatch: bool


@dataclass(frozen=True, slots=True)
class Upload:
    size: int
    until: int
    signed: Signed | None = None
    stored: bool = False


def update(event: Any, state: Upload | None) -> Any:
    match event, state:
        case Added(link, size, until), None:
            sign = perform(Presign(link, size, until)).then(Signed)
            return Upload(size, until), [sign, perform(Watch(link, size, until)).then(Probed)]
        case Signed(), Upload():
            return replace(state, signed=event), []
        case Probed(found=True), Upload():
            return replace(state, stored=True), []
    return state, []


UPLOAD = Workflow(
    "upload",
    state=Upload,
    events=(Added, Signed, Probed),
    outside=(Added,),
    tasks=(Presign, Watch),
    update=update,
    key=("link",),
)


@pytest.mark.parametrize(
    "task",
    [
        Stat(LINK, SIZE),
        Presign(LINK, SIZE, LATE),
        Put(LINK, SIZE),
        Watch(LINK, SIZE, LATE),
        Verify(LINK, SIZE, 3),
        Delete(LINK),
    ],
    ids=lambda task: task.tag,
)
def test_a_task_is_stored_under_its_tag_and_read_back(task: Any) -> None:
    schema = schema_of(type(task))
    assert schema.tag == f"s3/{type(task).__name__.lower()}"
    assert schema.decode(schema.encode(task)) == task


async def test_a_watch_lasts_over_many_attempts_and_moves_no_head(endpoint: Endpoint) -> None:
    bucket = Bucket(
        endpoint.bucket,
        endpoint=endpoint.url,
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        watch_base_ms=20,
        watch_cap_ms=50,
    )
    policies = {**POLICIES, Watch: Policy(attempts=1_000, attempt_ms=1_100)}
    store = MemoryStore()
    async with (
        bucket,
        Transactor(store, [UPLOAD]) as transactor,
        Scheduler(transactor, bucket.handlers(), policies=policies) as scheduler,
    ):
        until = transactor.clock.now() + 60_000
        answer = await transactor.send(UPLOAD, Added(LINK, SIZE, until))
        assert answer.job is not None
        ready = await transactor.wait(answer.job, until=lambda upload: upload.signed is not None)
        while scheduler.counters["performed"] < 6:  # the presign and five stretches of the watch
            await transactor.clock.sleep_until(transactor.clock.now() + 20)
        signed = ready.state.signed
        async with httpx.AsyncClient() as client:
            await client.put(signed.url, content=BODY, headers=dict(signed.headers))
        stored = await transactor.wait(answer.job, until=lambda upload: upload.stored)
        assert stored.seq == ready.seq + 1
