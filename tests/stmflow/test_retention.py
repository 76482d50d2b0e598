"""Retention: what leaves a store is in the archive first, and found there; no crash loses it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from scheduler.handlers.archive import FolderShelf
from stmflow import history
from stmflow.archive import Reader, whole
from stmflow.cid import CAR, CID
from stmflow.errors import (
    Archived,
    HashMismatch,
    InvalidWorkflow,
    MalformedBlock,
    NotFound,
    Unavailable,
)
from stmflow.history.segment import check, read_index, segment
from stmflow.limits import LIMITS
from stmflow.retention import DAY, Over, Retention, Totals
from stmflow.store import Batch, Drop, Result, Store
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing.store_contract_jobs import COUNTER, TRANSACTIONAL, Add, counter
from stmflow.transactor import Transactor

HOUR = LIMITS.retention_min_ms
OVER = Over(COUNTER.name, ("Total",), DAY)


class Hands:
    """A clock that is set by hand."""

    def __init__(self, now: int = 0) -> None:
        self.time = now

    def now(self) -> int:
        return self.time

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0.001)


class Shelf:
    """Objects in a dict, which may lie or break."""

    def __init__(self) -> None:
        self.objects: dict[CID, bytes] = {}
        self.fail: Callable[[str], None] = lambda what: None
        self.gets = 0

    async def put(self, link: CID, data: bytes) -> None:
        self.fail("put")
        assert CID.of(data, link.codec) == link
        self.objects[link] = data

    async def get(self, link: CID, *, start: int = 0, size: int | None = None) -> bytes:
        self.fail("get")
        self.gets += 1
        if link not in self.objects:
            raise NotFound(str(link))
        return self.objects[link][start:][: len(self.objects[link]) if size is None else size]


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Store]:
    if kind == "memory":
        yield MemoryStore()
    else:
        async with SQLiteStore.open(folder / "jobs.db", inline=True) as store:
            yield store


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path) as store:
        yield store


async def counted(store: Store, counts: Mapping[str, int], *, at: int = 0) -> None:
    """So many revisions for each counter, by a transactor of which nothing is kept."""
    clock: Any = Hands(at)
    async with Transactor(store, [COUNTER], clock=clock, transactional=TRANSACTIONAL) as transactor:
        for name, count in counts.items():
            for by in range(count):
                await transactor.send(COUNTER, Add(name, 1 + by))


def retention(store: Store, shelf: Any, now: int, **given: Any) -> Retention:
    return Retention(store, shelf, clock=Hands(now), **{"keep_ms": DAY, **given})


async def everything(store: Store) -> dict[CID, bytes]:
    """Every block of the log."""
    found = [logged.packed for logged in await store.log(limit=10**6)]
    found += [logged.packed for logged in await store.log(limit=10**6, archived=True)]
    return history.blocks_of(found)


# --- two runs at once


async def test_the_newest_index_leads_to_all_whichever_run_ends_last(store: Store) -> None:
    """Yesterday's run is slow: today's begins and ends while it writes its segment."""
    shelf = Shelf()
    await counted(store, {"a": 3})
    await counted(store, {"a": 3}, at=DAY)
    before = await everything(store)
    slow = Shelf()
    slow.objects = shelf.objects

    async def put(link: CID, data: bytes) -> None:
        shelf.objects[link] = data
        if not await store.archives():
            faster = await retention(store, shelf, 4 * DAY).run()
            assert (faster.archived, faster.dropped) == (6, 5)

    slow.put = put  # type: ignore[method-assign]
    totals = await retention(store, slow, 2 * DAY).run()
    assert (totals.archived, totals.dropped) == (3, 0)
    newest, *_ = await store.archives()
    assert totals.archives == [newest]
    alone = Reader(None, shelf, archives=[newest])
    for cid, block in before.items():
        assert await alone.block(cid) == block


# --- what leaves while it is read


class Leaving:
    """A store of which something leaves between two reads."""

    def __init__(self, store: Store, before: str, leave: Callable[[], Awaitable[Any]]) -> None:
        self._store = store
        self._before = before
        self._leave = leave

    def __getattr__(self, name: str) -> Any:
        async def read(*given: Any, **named: Any) -> Any:
            if name == self._before:
                self._before = ""
                await self._leave()
            return await getattr(self._store, name)(*given, **named)

        return read


@pytest.mark.parametrize("before", ["heads", "revisions"])
async def test_a_chain_is_whole_although_its_job_leaves_while_it_is_read(
    store: Store, before: str
) -> None:
    shelf = Shelf()
    await counted(store, {"a": 3, "b": 1})
    chain = list(await store.revisions(counter("a").id))
    leave = retention(store, shelf, 2 * DAY, finished=[OVER]).run
    both: Any = Leaving(store, before, leave)
    found = await Reader(both, shelf).revisions(counter("a").id)
    assert [packed.cid for packed in found] == [packed.cid for packed in chain]


async def test_what_is_recorded_of_a_job_that_has_left_is_its_head_alone(store: Store) -> None:
    shelf = Shelf()
    await counted(store, {"a": 3, "b": 1})
    (newest, *_) = await store.revisions(counter("a").id)
    await retention(store, shelf, 2 * DAY, finished=[OVER]).run()
    found = await history.recorded(store, counter("a").id)
    assert (found.head, found.get(newest.cid)) == (newest.cid, None)
    found = await history.recorded(whole(store, shelf), counter("a").id)
    assert found.get(newest.cid) == newest.revision
    with pytest.raises(NotFound):
        await history.recorded(store, counter("nobody").id)


# --- what leaves


async def test_old_history_moves_to_the_archive_and_heads_stay(store: Store) -> None:
    shelf = Shelf()
    await counted(store, {"a": 3, "b": 2})
    before = await everything(store)
    totals = await retention(store, shelf, 2 * DAY).run()
    assert (totals.archived, totals.dropped, totals.jobs) == (5, 3, 0)
    assert len(await store.revisions(counter("a").id)) == 1
    reader = Reader(store, shelf)
    for cid, block in before.items():
        assert await reader.block(cid) == block
    assert await reader.block(CID.of(b"nothing")) is None


async def test_a_clock_that_has_leapt_ahead_holds_up_its_own_job_alone(store: Store) -> None:
    """A job's time never falls: what is written to it is young until its time has come."""
    await counted(store, {"a": 2})
    await counted(store, {"b": 2}, at=3_650 * DAY)
    await counted(store, {"a": 3}, at=1_000)
    totals = await retention(store, Shelf(), 2 * DAY).run()
    assert (totals.archived, totals.dropped) == (5, 4)
    assert len(await store.revisions(counter("b").id)) == 2
    assert (await retention(store, Shelf(), 3_652 * DAY).run()).archived == 2


@pytest.mark.parametrize("age", [DAY - 1, DAY, DAY + 1])
async def test_history_leaves_when_it_is_older_than_it_is_kept(store: Store, age: int) -> None:
    await counted(store, {"a": 2}, at=1_000)
    totals = await retention(store, Shelf(), 1_000 + age).run()
    assert totals.archived == (2 if age > DAY else 0)


async def test_a_finished_job_leaves_whole_and_its_chain_verifies_from_the_archive(
    store: Store,
) -> None:
    shelf = Shelf()
    await counted(store, {"a": 4, "b": 1})
    chain = list(await store.revisions(counter("a").id))
    totals = await retention(store, shelf, 2 * DAY, finished=[OVER]).run()
    assert totals.jobs == 1
    with pytest.raises(Archived):
        await store.heads([counter("a").id])
    packs = await Reader(store, shelf).revisions(counter("a").id)
    assert [pack.cid for pack in packs] == [pack.cid for pack in chain]
    blocks = history.blocks_of(packs)
    report = history.verify(counter("a").id, packs[0].cid, blocks.get, workflows=[COUNTER])
    assert (report.status, report.revisions) == (history.OK, 4)


async def test_a_chain_is_read_over_the_store_and_several_segments(store: Store) -> None:
    shelf, job = Shelf(), counter("a").id
    for day in range(4):
        await counted(store, {"a": 3}, at=day * DAY)
        await retention(store, shelf, (day + 1) * DAY + 1, segment_bytes=1).run()
    assert len(await store.archives()) >= 4
    assert len(await store.revisions(job)) == 1
    packs = await Reader(store, shelf, pages=1, indexes=1).revisions(job)
    assert len(packs) == 12
    blocks = history.blocks_of(packs)
    assert history.verify(job, packs[0].cid, blocks.get, workflows=[COUNTER]).status == history.OK


async def test_a_store_is_not_asked_for_what_has_left_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding one block among all that a store has is slow: a chain has eight a revision."""
    shelf, job = Shelf(), counter("a").id
    await counted(store, {"a": 5})
    await retention(store, shelf, 2 * DAY).run()

    async def block(cid: CID) -> bytes | None:
        raise AssertionError("the store was asked")

    asked, archives = 0, store.archives

    async def counted_archives() -> Sequence[CID]:
        nonlocal asked
        asked += 1
        return await archives()

    monkeypatch.setattr(store, "block", block)
    monkeypatch.setattr(store, "archives", counted_archives)
    assert len(await Reader(store, shelf).revisions(job)) == 5
    assert asked == 1


async def test_the_archive_is_read_without_the_store(store: Store) -> None:
    shelf, job = Shelf(), counter("a").id
    for day in range(3):
        await counted(store, {"a": 2}, at=day * DAY)
        await retention(store, shelf, (day + 1) * DAY + 1).run()
    head = (await store.revisions(job))[0].cid
    newest = (await store.archives())[0]
    reader = Reader(None, shelf, archives=[newest])
    assert len(await reader.revisions(job, head=head)) == 6
    for lost in (reader.revisions(job), reader.revive(job)):
        with pytest.raises(NotFound):
            await lost


async def test_a_store_and_its_archive_are_read_as_one(store: Store) -> None:
    shelf = Shelf()
    await counted(store, {"a": 4, "b": 2})
    blocks = await everything(store)
    jobs = [counter(name).id for name in "ab"]
    heads = await store.heads(jobs)
    chains = [await store.revisions(job) for job in jobs]
    await retention(store, shelf, 2 * DAY, finished=[OVER]).run()
    both = whole(store, shelf)
    found = await both.heads(jobs)
    for job in jobs:
        left, right = heads[job], found[job]
        assert left is not None
        assert right is not None
        assert right == left._replace(open=right.open, key=right.key)
        assert list(right.key) == list(left.key)
        assert right.open in (b"", left.open)
    for job, chain in zip(jobs, chains, strict=True):
        cids = [pack.cid for pack in chain]
        assert [pack.cid for pack in await both.revisions(job)] == cids
        assert [pack.cid for pack in await both.revisions(job, limit=1)] == cids[:1]
        assert [pack.cid for pack in await both.revisions(job, down_to=1)] == cids[:-1]
    for cid, block in blocks.items():
        assert await both.block(cid) == block
        assert await both.find(cid.digest, 256) == [cid]
    assert [row.job for row in await both.jobs()] == jobs


async def test_a_revived_job_goes_on_and_may_leave_again(store: Store) -> None:
    shelf, job = Shelf(), counter("a").id
    await counted(store, {"a": 3, "b": 1})
    await retention(store, shelf, 2 * DAY, finished=[OVER]).run()
    reader = Reader(store, shelf)
    await reader.revive(job)
    await reader.revive(job)
    await counted(store, {"a": 2, "c": 1}, at=3 * DAY)
    assert (await store.heads([job]))[job].seq == 5  # type: ignore[union-attr]
    totals = await retention(store, shelf, 5 * DAY, finished=[OVER]).run()
    assert totals.jobs == 2  # a again, and b, which was the newest before
    packs = await reader.revisions(job)
    assert len(packs) == 5
    blocks = history.blocks_of(packs)
    assert history.verify(job, packs[0].cid, blocks.get, workflows=[COUNTER]).status == history.OK
    with pytest.raises(NotFound):
        await reader.revive(counter("nobody").id)
    with pytest.raises(NotFound):
        await reader.revisions(counter("nobody").id)


async def test_archived_blocks_are_found_by_their_beginning(store: Store) -> None:
    shelf = Shelf()
    await counted(store, {"a": 3})
    before = await everything(store)
    await retention(store, shelf, 2 * DAY).run()
    reader = Reader(None, shelf, archives=await store.archives())
    for cid in before:
        for bits in (256, 100, 64, 63, 9):
            size = (bits + 7) // 8
            prefix = (int.from_bytes(cid.digest) >> (256 - bits)) << (size * 8 - bits)
            assert cid in await reader.find(prefix.to_bytes(size, "big"), bits)
    assert await reader.find(CID.of(b"nothing").digest, 256) == []


async def test_without_a_shelf_history_is_gone_and_jobs_stay(store: Store) -> None:
    await counted(store, {"a": 3, "b": 1})
    totals = await retention(store, None, 2 * DAY).run()
    assert (totals.archived, totals.dropped, totals.jobs) == (0, 2, 0)
    assert await store.archives() == []
    assert len(await store.revisions(counter("a").id)) == 1
    assert await retention(store, None, 2 * DAY).run() == Totals()


async def test_what_was_discarded_before_there_was_a_shelf_costs_no_job(store: Store) -> None:
    """A head that was kept while history went nowhere is in no archive: it is written first."""
    shelf = Shelf()
    await counted(store, {"a": 3, "b": 1})
    await retention(store, None, 2 * DAY).run()
    totals = await retention(store, shelf, 2 * DAY, finished=[OVER]).run()
    assert (totals.archived, totals.jobs) == (2, 1)
    reader = Reader(store, shelf)
    await reader.revive(counter("a").id)
    assert (await store.heads([counter("a").id]))[counter("a").id] is not None


async def test_running_again_does_nothing_more(store: Store) -> None:
    shelf = Shelf()
    await counted(store, {"a": 3, "b": 1})
    await retention(store, shelf, 2 * DAY, finished=[OVER]).run()
    objects = dict(shelf.objects)
    assert await retention(store, shelf, 2 * DAY, finished=[OVER]).run() == Totals()
    assert shelf.objects == objects


async def test_deliveries_whose_time_is_over_are_forgotten_first(store: Store) -> None:
    clock: Any = Hands()
    async with Transactor(store, [COUNTER], clock=clock) as transactor:
        await transactor.send(COUNTER, Add("a", 1), delivery="1")
        await transactor.send(COUNTER, Add("b", 1), delivery="2", keep_until=10**12)
        await transactor.send(COUNTER, Add("c", 1))
    totals = await retention(store, Shelf(), 3 * DAY, finished=[OVER]).run()
    assert (totals.deliveries, totals.jobs) == (1, 1)


def test_history_is_kept_for_a_while() -> None:
    store = MemoryStore()
    for keep_ms in (HOUR, HOUR + 1):
        Retention(store, Shelf(), keep_ms=keep_ms)
    with pytest.raises(InvalidWorkflow):
        Retention(store, Shelf(), keep_ms=HOUR - 1)
    with pytest.raises(InvalidWorkflow):
        Retention(store, Shelf(), finished=[Over("w", ("t",), HOUR - 1)])
    with pytest.raises(InvalidWorkflow):
        Retention(store, None, finished=[Over("w", ("t",))])


# --- what goes wrong


async def test_nothing_is_dropped_that_does_not_read_back(store: Store) -> None:
    await counted(store, {"a": 3})
    before = await everything(store)
    for which in (1, 2):
        for spoil in (lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])):
            with pytest.raises((HashMismatch, MalformedBlock)):
                await retention(store, Lying(which, spoil), 2 * DAY, finished=[OVER]).run()
            assert await everything(store) == before
            assert await store.archives() == []


class Lying(Shelf):
    """Gives back something else on one read."""

    def __init__(self, which: int, spoil: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._which = which
        self._spoil = spoil

    async def get(self, link: CID, *, start: int = 0, size: int | None = None) -> bytes:
        data = await super().get(link, start=start, size=size)
        return self._spoil(data) if self.gets == self._which else data


class Crash(BaseException):
    """The process is gone."""


async def test_a_crash_at_any_point_loses_nothing(tmp_path: Path) -> None:
    """Cut before and after every call to the shelf and the store, and then run to the end."""
    points = 0
    for cut in range(1, 10_000):
        folder = tmp_path / str(cut)
        folder.mkdir()
        async with opened("sqlite", folder) as store:
            await counted(store, {"a": 2, "b": 1, "c": 1})
            before = await everything(store)
            heads = {name: (await store.revisions(counter(name).id))[0].cid for name in "abc"}
            shelf = Shelf()
            calls = 0

            def count(what: str, cut: int = cut) -> None:
                nonlocal calls
                calls += 1
                if calls == cut:
                    raise Crash

            crashed = await _until(store, shelf, count)
            shelf.fail = lambda what: None
            await _whole(store, shelf, before, heads)
            await retention(store, shelf, 2 * DAY, finished=[OVER], segment_bytes=1).run()
            await _whole(store, shelf, before, heads)
            with pytest.raises(Archived):
                await store.heads([counter("a").id])
        points = cut
        if not crashed:
            break
    assert points > 20


async def _until(store: Store, shelf: Shelf, count: Callable[[str], None]) -> bool:
    """A run that ends where `count` says so; whether it did."""
    shelf.fail = count
    real = store.commit

    async def commit(batch: Batch) -> Any:
        count("before")
        results: list[Result] = list(await real(batch))
        if any(isinstance(member, Drop) for member in batch.members):
            count("after")
        return results

    store.commit = commit  # type: ignore[method-assign]
    try:
        await retention(store, shelf, 2 * DAY, finished=[OVER], segment_bytes=1).run()
    except Crash:
        return True
    finally:
        store.commit = real  # type: ignore[method-assign]
    return False


async def _whole(
    store: Store, shelf: Shelf, blocks: Mapping[CID, bytes], heads: Mapping[str, CID]
) -> None:
    """Every block is in the store or in the archive, and every chain is whole."""
    reader = Reader(store, shelf)
    for cid, block in blocks.items():
        assert await reader.block(cid) == block
    for name, head in heads.items():
        packs = await reader.revisions(counter(name).id)
        assert packs[0].cid == head
        found = history.blocks_of(packs)
        report = history.verify(counter(name).id, head, found.get, workflows=[COUNTER])
        assert report.status == history.OK


async def test_an_archive_that_cannot_be_reached_is_said_and_tried_again(store: Store) -> None:
    await counted(store, {"a": 3})
    shelf = Shelf()

    def fails(what: str) -> None:
        raise Unavailable("no way there")

    shelf.fail = fails
    with pytest.raises(Unavailable):
        await retention(store, shelf, 2 * DAY).run()
    assert len(await store.revisions(counter("a").id)) == 3
    shelf.fail = lambda what: None
    assert (await retention(store, shelf, 2 * DAY).run()).dropped == 2


async def test_a_service_that_works_meanwhile_loses_nothing(tmp_path: Path) -> None:
    """Runs of retention between the sends of a transactor that keeps its cache."""
    shelf, clock = Shelf(), Hands()
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        async with Transactor(store, [COUNTER], clock=clock) as transactor:
            for day in range(12):
                clock.time = day * DAY
                for name in "abc"[: 1 + day % 3]:
                    await _send(transactor, Reader(store, shelf), Add(name, 1))
                await retention(store, shelf, clock.time, finished=[OVER]).run()
        for name, count in {"a": 12, "b": 8, "c": 4}.items():
            packs = await Reader(store, shelf).revisions(counter(name).id)
            assert len(packs) == count
            found = history.blocks_of(packs)
            report = history.verify(counter(name).id, packs[0].cid, found.get, workflows=[COUNTER])
            assert report.status == history.OK


async def _send(transactor: Transactor, reader: Reader, event: Add) -> None:
    """As a service does it that has an archive."""
    try:
        await transactor.send(COUNTER, event)
    except Archived as error:
        await reader.revive(error.job)
        await transactor.send(COUNTER, event)


# --- segments


async def test_a_segment_that_is_not_what_it_says_is_refused(store: Store) -> None:
    await counted(store, {"a": 2})
    made = segment(await store.log(), None)
    check(made, made.car_data, made.index_data)
    index = read_index(made.index_link, made.index_data)
    assert (index.car, index.prev) == (made.car_link, None)
    other = segment((await store.log())[:1], made.index_link)
    assert read_index(other.index_link, other.index_data).prev == made.index_link
    for wrong in (b"", made.index_data + b"\0", made.car_data):
        with pytest.raises((HashMismatch, MalformedBlock)):
            read_index(CID.of(wrong, CAR), wrong)
    lost = made._replace(index_link=other.index_link, index_data=other.index_data)
    with pytest.raises(MalformedBlock):
        check(lost, lost.car_data, lost.index_data)


# --- folders


async def test_one_object_written_twice_at_once_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two runs in one process, or in two containers whose processes have one number."""
    shelf, data = FolderShelf(tmp_path), b"an object"
    link = CID.of(data, CAR)
    fsync = os.fsync

    def late(file: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        anyio.run(shelf.put, link, data)
        fsync(file)

    monkeypatch.setattr(os, "fsync", late)
    await shelf.put(link, data)
    assert await shelf.get(link) == data
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_folder_keeps_objects_by_their_hash(tmp_path: Path) -> None:
    shelf = FolderShelf(tmp_path / "deep" / "shelf")
    data = b"0123456789"
    link = CID.of(data, CAR)
    with pytest.raises(NotFound):
        await shelf.get(link)
    with pytest.raises(HashMismatch):
        await shelf.put(link, b"other")
    for _ in range(2):
        await shelf.put(link, data)
    assert await shelf.get(link) == data
    assert await shelf.get(link, start=3, size=4) == b"3456"
    with pytest.raises(Unavailable):
        await shelf.get(link, start=8, size=3)
    (file,) = (tmp_path / "deep" / "shelf").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink()
    file.mkdir()
    with pytest.raises(Unavailable):
        await shelf.get(link)
    with pytest.raises(Unavailable):
        await shelf.put(link, data)
