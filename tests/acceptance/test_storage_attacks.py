"""Attacks on a whole service over a real S3 server; those on one URL are in `tests/scheduler`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from examples.store_add.model import Cancel, Receiving, Remove, Terms
from examples.store_add.quota import local, remote
from examples.store_add.seaweed import Endpoint
from examples.store_add.service import Service, service
from examples.store_add.workflow import STORE_ADD
from scheduler.handlers.s3 import object_key
from stmflow import SystemClock
from tests.acceptance.fakes import FolderBucket, SetClock, balanced, job_of, machine
from tests.acceptance.story import add, link
from tests.acceptance.test_service import put
from tests.s3servers import SeaweedServer

ALICE, BOB = "did:key:zAlice", "did:key:zBob"
DATA = b"bytes that two spaces want" * 100
BRIEF = Terms(window_ms=2_500, skew_ms=300)
CLOCK = SystemClock()


async def receiving(storage: Service, space: str, data: bytes, terms: Terms) -> Receiving:
    await storage.add(space, data, terms=terms)
    state = await storage.settled(job_of(space, data))
    assert isinstance(state, Receiving), state
    return state


async def settled(storage: Service) -> None:
    """Nothing is left to be done."""
    with anyio.fail_after(30):
        while await storage.store.tasks():
            await anyio.sleep(0.02)


async def test_two_clients_with_one_cid_share_an_object_that_outlives_the_first_release(
    tmp_path: Path, endpoint: Endpoint, seaweed: SeaweedServer
) -> None:
    where = {"Bucket": endpoint.bucket, "Key": object_key(link(DATA))}
    async with service(tmp_path / "jobs.db", endpoint, watch_base_ms=100) as storage:
        states = [await receiving(storage, space, DATA, BRIEF) for space in (ALICE, BOB)]
        statuses = list[int]()

        async def upload(state: Receiving) -> None:
            statuses.append(await put(state, DATA))

        async with anyio.create_task_group() as group:
            for state in states:
                group.start_soon(upload, state)
        assert sorted(statuses) in ([200, 409], [200, 412])
        for space in (ALICE, BOB):
            await storage.reached(job_of(space, DATA), "stored")
            assert await storage.used(space) == len(DATA)
        await storage.transactor.send(STORE_ADD, Remove(ALICE, link(DATA)))
        await settled(storage)
        assert (await storage.used(ALICE), await storage.used(BOB)) == (0, len(DATA))
        assert seaweed.s3.head_object(**where)["ContentLength"] == len(DATA)
        await storage.transactor.send(STORE_ADD, Remove(BOB, link(DATA)))
        await settled(storage)
        assert await storage.used(BOB) == 0
    assert "Contents" not in seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)


async def test_a_put_after_the_release_finds_a_dead_url_and_one_before_it_is_swept(
    tmp_path: Path, endpoint: Endpoint, seaweed: SeaweedServer
) -> None:
    async with service(tmp_path / "jobs.db", endpoint, watch_base_ms=100) as storage:
        state = await receiving(storage, ALICE, DATA, BRIEF)
        await storage.transactor.send(STORE_ADD, Cancel(ALICE, link(DATA)))
        assert await storage.used(ALICE) == len(DATA)  # the URL is alive
        assert await put(state, DATA) == 200
        await settled(storage)
        assert CLOCK.now() >= state.window.deadline + BRIEF.skew_ms
        assert await storage.used(ALICE) == 0
        assert await put(state, DATA) == 403
    assert "Contents" not in seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)


@pytest.mark.parametrize("profile", [local, remote], ids=["local", "remote"])
async def test_hoarding_has_a_price_however_small_the_uploads(tmp_path: Path, profile: Any) -> None:
    """Ask for many uploads of one byte and send none: the quota counts a least size for each."""
    kept = profile(limit=4_096 * 3 + 4_095, least=4_096)
    datas = [bytes([n]) for n in range(5)]
    bucket = FolderBucket(tmp_path / "bucket", SetClock())
    async with machine(tmp_path / "jobs.db", kept, bucket) as world:
        for data in datas:
            await world.transactor.send(STORE_ADD, add(ALICE, data))
        tags = [(await world.settled(job_of(ALICE, data))).state.tag for data in datas]
        assert sorted(tags) == ["exceeded"] * 2 + ["receiving"] * 3
        assert await world.used(ALICE) == 3 * 4_096
        await balanced(world)
        await world.rest()
        assert await world.used(ALICE) == 0
