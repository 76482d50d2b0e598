"""The archive in a bucket of a real S3 server, and what it says of one that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anyio.abc import SocketStream

from examples.store_add.seaweed import Endpoint
from scheduler.handlers.archive import ATTEMPTS, BucketShelf
from scheduler.handlers.s3 import Bucket, Secret, object_key
from stmflow import history
from stmflow.archive import Reader
from stmflow.cid import CAR, CID
from stmflow.errors import Archived, HashMismatch, NotFound, Unavailable
from stmflow.retention import DAY, Over, Retention
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing.store_contract_jobs import COUNTER, Add, counter
from stmflow.transactor import Transactor
from tests.s3servers import SeaweedServer, error_body, says, stub

DATA = b"0123456789" * 1_000
LINK = CID.of(DATA, CAR)


class Swift:
    """A clock whose sleeps are over at once."""

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time

    async def sleep_until(self, at_ms: int) -> None:
        self.time = max(self.time, at_ms)


def at(endpoint: Endpoint, prefix: str = "history/") -> Bucket:
    return Bucket(
        endpoint.bucket,
        endpoint=endpoint.url,
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        prefix=prefix,
    )


@pytest.fixture
async def shelf(endpoint: Endpoint) -> AsyncIterator[BucketShelf]:
    async with at(endpoint) as bucket:
        yield BucketShelf(bucket, clock=Swift())


async def test_objects_come_back_whole_and_in_parts(
    shelf: BucketShelf, endpoint: Endpoint, seaweed: SeaweedServer
) -> None:
    with pytest.raises(NotFound):
        await shelf.get(LINK)
    with pytest.raises(HashMismatch):
        await shelf.put(LINK, DATA + b"x")
    for _ in range(2):
        await shelf.put(LINK, DATA)
    assert await shelf.get(LINK) == DATA
    assert await shelf.get(LINK, start=13, size=4) == b"3456"
    assert await shelf.get(LINK, start=len(DATA) - 1, size=1) == b"9"
    with pytest.raises(Unavailable):
        await shelf.get(LINK, start=len(DATA) - 1, size=2)
    with pytest.raises(Unavailable):
        await shelf.get(LINK, start=len(DATA), size=1)
    listed = seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)["Contents"]
    assert [one["Key"] for one in listed] == [object_key(LINK, "history/")]


async def test_history_goes_to_a_bucket_and_a_job_comes_back_from_it(
    shelf: BucketShelf, tmp_path: Path
) -> None:
    clock: Any = Swift()
    job = counter("a").id
    async with SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store:
        for name in ("a", "b"):
            for by in (1, 2, 3):
                await _sent(store, Add(name, by))
        clock.time = 2 * DAY + 10**13
        over = [Over(COUNTER.name, ("Total",), DAY)]
        run = Retention(
            store, shelf, keep_ms=DAY, finished=over, clock=clock, segment_bytes=1
        ).run()
        totals = await run
        assert (totals.archived, totals.jobs, len(totals.archives)) == (6, 1, 6)
        with pytest.raises(Archived):
            await store.heads([job])
        reader = Reader(store, shelf)
        packs = await reader.revisions(job)
        blocks = history.blocks_of(packs)
        report = history.verify(job, packs[0].cid, blocks.get, workflows=[COUNTER])
        assert (report.status, report.revisions) == (history.OK, 3)
        await reader.revive(job)
        await _sent(store, Add("a", 4))
        assert (await store.heads([job]))[job].seq == 4  # type: ignore[union-attr]


async def _sent(store: SQLiteStore, event: Add) -> None:
    async with Transactor(store, [COUNTER]) as transactor:
        await transactor.send(COUNTER, event)


async def test_an_object_that_is_gone_or_damaged_is_said(
    shelf: BucketShelf, endpoint: Endpoint, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    clock: Any = Swift()
    clock.time = 2 * DAY + 10**13
    async with SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store:
        for by in (1, 2, 3):
            await _sent(store, Add("a", by))
        first = (await store.revisions(counter("a").id))[-1].cid
        await Retention(store, shelf, keep_ms=DAY, clock=clock).run()
        for one in seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)["Contents"]:
            body = seaweed.s3.get_object(Bucket=endpoint.bucket, Key=one["Key"])["Body"].read()
            damaged = body[:-400] + bytes(b ^ 1 for b in body[-400:])
            seaweed.s3.put_object(Bucket=endpoint.bucket, Key=one["Key"], Body=damaged)
        with pytest.raises(HashMismatch):
            await Reader(store, shelf).block(first)
        for one in seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)["Contents"]:
            seaweed.s3.delete_object(Bucket=endpoint.bucket, Key=one["Key"])
        with pytest.raises(NotFound):
            await Reader(store, shelf).block(first)


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        ("503 Slow Down", "SlowDown", ATTEMPTS),
        ("500 Internal Server Error", "InternalError", ATTEMPTS),
        ("403 Forbidden", "AccessDenied", 1),
        ("404 Not Found", "NoSuchBucket", 1),
    ],
)
async def test_a_bucket_that_does_not_answer_is_asked_again_and_one_that_refuses_is_not(
    status: str, code: str, asked: int
) -> None:
    async with stub(says(status, body=error_body(code))) as server:
        key = Secret("not very")
        bucket = Bucket("b", endpoint=server.url, access_key="a", secret_key=key)
        async with bucket:
            shelf = BucketShelf(bucket, clock=Swift())
            with pytest.raises(Unavailable):
                await shelf.get(LINK)
            assert len(server.requests) == asked
            with pytest.raises(Unavailable):
                await shelf.put(LINK, DATA)


async def test_a_put_whose_answer_was_lost_is_made_again() -> None:
    answers = [0]

    async def reply(stream: SocketStream, request: str) -> None:
        answers[0] += 1
        if answers[0] > 1:
            await says("200 OK")(stream, request)

    async with stub(reply) as server:
        key = Secret("not very")
        async with Bucket("b", endpoint=server.url, access_key="a", secret_key=key) as bucket:
            await BucketShelf(bucket, clock=Swift()).put(LINK, DATA)
    assert answers == [2]
    assert "x-amz-checksum-sha256" in server.requests[0].lower()
