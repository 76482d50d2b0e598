"""Rule 6: wrong bytes, a wrong length, a claim and nothing else are never stored."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from examples.store_add.model import Cancel, Put, Receiving, Terms
from examples.store_add.quota import local, remote
from examples.store_add.seaweed import Endpoint
from examples.store_add.service import Service, service, upload_target
from examples.store_add.workflow import STORE_ADD
from scheduler.handlers.s3 import object_key
from tests.acceptance.fakes import (
    FolderBucket,
    Machine,
    SetClock,
    balanced,
    events,
    job_of,
    machine,
    tags,
    verified,
)
from tests.acceptance.story import add, link
from tests.s3servers import SeaweedServer

SPACE = "did:key:zAlice"
RIGHT = b"the bytes that were asked for"
WRONG = b"some bytes of the same length"
LONGER = RIGHT + b", and more"
BRIEF = Terms(window_ms=6_000, skew_ms=200)
PROFILES = pytest.mark.parametrize("profile", [local, remote], ids=["local", "remote"])


async def refused(storage: Service, data: bytes, sent: bytes) -> None:
    """Upload those bytes to the URL of these, by every way that a client may try."""
    head = await storage.transactor.get(job_of(SPACE, data))
    assert head is not None
    target = upload_target(head.state)
    assert target is not None
    said = dict(target.headers)
    honest = {**said, "content-length": str(len(sent))}
    checksum = base64.b64encode(hashlib.sha256(sent).digest()).decode()
    forged = {**honest, "x-amz-checksum-sha256": checksum}
    bare = {"content-length": str(len(sent))}
    async with httpx.AsyncClient() as client:
        for headers in (said, honest, forged, bare):
            if int(headers["content-length"]) != len(sent):
                continue  # no HTTP client sends that
            answer = await client.put(target.url, content=sent, headers=headers)
            assert 400 <= answer.status_code < 500, (sent, headers)


async def test_a_real_bucket_refuses_and_the_service_looks(
    tmp_path: Path, endpoint: Endpoint, seaweed: SeaweedServer
) -> None:
    """PUTs to the signed URL; then objects that the bucket's owner put there, behind our back."""
    behind = {RIGHT + b"1": WRONG + b"1", RIGHT + b"2": LONGER, RIGHT + b"3": None}
    async with service(tmp_path / "jobs.db", endpoint, watch_base_ms=200) as storage:
        for data in behind:
            await storage.add(SPACE, data, terms=BRIEF)
        for data, wrong in behind.items():
            await storage.settled(job_of(SPACE, data))
            await refused(storage, data, b"x" * len(data))
            await refused(storage, data, data + b"x")
            if wrong is not None:
                key = object_key(link(data))
                seaweed.s3.put_object(Bucket=endpoint.bucket, Key=key, Body=wrong)
            answer = await storage.claim(SPACE, data)
            assert answer.committed
        for data in behind:
            job = job_of(SPACE, data)
            await storage.reached(job, "expired")
            assert "stored" not in await tags(storage.store, job)
            applied = await events(storage.store, job)
            assert applied["store/mismatch"] == 2  # of the claim, and of the last look
        assert await storage.used(SPACE) == 0
        with anyio.fail_after(20):
            while await storage.store.tasks():
                await anyio.sleep(0.01)
    assert "Contents" not in seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)


@PROFILES
@pytest.mark.parametrize("behind", [None, WRONG, LONGER], ids=["nothing", "wrong", "longer"])
async def test_a_claim_is_not_believed(tmp_path: Path, profile: Any, behind: bytes | None) -> None:
    async with world_of(tmp_path, profile) as world:
        await receiving(world)
        if behind is not None:
            world.bucket.place(behind, under=RIGHT)
        for _ in range(3):
            await world.transactor.send(STORE_ADD, Put(SPACE, link(RIGHT)))
            await world.reached(job_of(SPACE, RIGHT), "receiving")
            await world.quiet()
        await world.rest()
        assert await world.tag(SPACE, RIGHT) == "expired"
        assert "stored" not in await tags(world.store, job_of(SPACE, RIGHT))
        await balanced(world)
        await verified(world.store, world.profile)


@PROFILES
@pytest.mark.parametrize("when", ["at the first look", "at a claim", "at the last look"])
@pytest.mark.parametrize(
    "lie",
    [{"checksum": link(WRONG).digest}, {"size": len(LONGER)}, {"checksum": None}],
    ids=["checksum", "size", "no checksum"],
)
async def test_a_bucket_that_lies_is_not_believed(
    tmp_path: Path, profile: Any, lie: dict[str, Any], when: str
) -> None:
    """`found`, but with a proof that does not fit: nothing is stored, and a person is asked for;
    with no proof at all the look counts as failed."""
    async with world_of(tmp_path, profile) as world:
        job = job_of(SPACE, RIGHT)
        if when == "at the first look":
            world.bucket.lies = lie
            await world.transactor.send(STORE_ADD, add(SPACE, RIGHT))
        else:
            await receiving(world)
            world.bucket.lies = lie
        if when == "at a claim":
            await world.transactor.send(STORE_ADD, Put(SPACE, link(RIGHT)))
        rows = await world.quiet()
        while rows and not any(row.parked for row in rows):
            world.pass_to(min(row.due for row in rows))
            rows = await world.quiet()
        assert "stored" not in await tags(world.store, job)

        # The way out: the agent gives up, a person dismisses what the bucket said.
        world.bucket.lies = None
        await world.transactor.send(STORE_ADD, Cancel(SPACE, link(RIGHT)))
        for row in await world.store.tasks(parked=True):
            await world.transactor.dismiss(row.id)
        await world.rest()
        assert await world.tag(SPACE, RIGHT) == "failed"
        await balanced(world)
        await verified(world.store, world.profile)


def world_of(folder: Path, profile: Any) -> Any:
    bucket = FolderBucket(folder / "bucket", SetClock())
    return machine(folder / "jobs.db", profile(limit=1_000), bucket)


async def receiving(world: Machine) -> None:
    await world.transactor.send(STORE_ADD, add(SPACE, RIGHT))
    head = await world.settled(job_of(SPACE, RIGHT))
    assert isinstance(head.state, Receiving)
    await world.quiet()
