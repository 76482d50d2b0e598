"""What is SQLite's own about leaving: the CID index stays right, and disk space is used again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stmflow import history
from stmflow.cid import CID
from stmflow.errors import Corrupt
from stmflow.store import Batch, Drop, StoredHead, sqlite
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing.builders import commit, head_of, job_id

ARCHIVE = CID.of(b"an archive")


async def written(store: SQLiteStore, name: str, count: int) -> None:
    """So many revisions more for that job."""
    head: StoredHead | None = (await store.heads([job_id(name)]))[job_id(name)]
    made = []
    for _ in range(count):
        made.append(commit({name: head}))
        head = head_of(made[-1], name)
    for at in range(0, count, 10):
        await store.commit(Batch(made[at : at + 10]))


async def dropped(store: SQLiteStore, count: int = 10**6) -> int:
    log = (await store.log(limit=10**6))[:count]
    named = [(each.place, each.packed.cid) for each in log]
    (result,) = await store.commit(Batch([Drop(named, ARCHIVE)]))
    found: int = result.value.revisions  # type: ignore[union-attr]
    return found


async def blocks(store: SQLiteStore) -> set[CID]:
    log = [*await store.log(limit=10**6), *await store.log(limit=10**6, archived=True)]
    return set(history.blocks_of([each.packed for each in log]))


def pragma(store: SQLiteStore, name: str) -> int:
    found: int = store._reader.execute("PRAGMA " + name).fetchall()[0][0]
    return found


async def test_the_index_of_blocks_stays_right_and_grows_thinner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments of 60 blocks, cut at every kind of place: in the middle, at an end, all of one."""
    small = dataclasses.replace(sqlite.LIMITS, index_segment_blocks=60)
    monkeypatch.setattr(sqlite, "LIMITS", small)
    async with SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store:
        await written(store, "a", 130)
        before = await blocks(store)
        sizes = "SELECT sum(length(digests)), sum(length(offsets)), count(*) FROM segment"
        full = store._reader.execute(sizes).fetchall()[0]
        assert full[2] > 4
        for count in (5, 10, 1, 30, *[10] * 9):
            assert await dropped(store, count) > 0
            there = await blocks(store)
            for cid in before:
                assert (await store.block(cid) is not None) == (cid in there)
                assert await store.find(cid.digest, 256) == ([cid] if cid in there else [])
        assert len(await store.revisions(job_id("a"))) == 1
        thin = store._reader.execute(sizes).fetchall()[0]
        assert thin[0] < full[0] / 3
        assert thin[0] == thin[1] * 2
        await written(store, "b", 130)
        for cid in await blocks(store):
            assert await store.block(cid) is not None
        assert store._reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_block_is_found_while_another_process_makes_the_index_thinner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at how long a segment is and the search in it."""
    small = dataclasses.replace(sqlite.LIMITS, index_segment_blocks=60)
    monkeypatch.setattr(sqlite, "LIMITS", small)
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(path) as store, SQLiteStore.open(path, inline=True) as other:
        await written(other, "a", 130)
        named = [(each.place, each.packed.cid) for each in await other.log(limit=10**6)]
        search = store._search

        def late(*given: Any) -> list[int]:
            monkeypatch.setattr(store, "_search", search)
            for at in range(0, len(named), 10):
                other._commit(Batch([Drop(named[at : at + 10], ARCHIVE)]))
            return search(*given)

        everything = await blocks(other)
        monkeypatch.setattr(store, "_search", late)
        assert await store.block(named[-1][1]) is not None
        assert store._search == search
        there = await blocks(other)
        assert len(there) < len(everything)
        for cid in everything:
            assert (await store.block(cid) is not None) == (cid in there)


async def test_no_row_of_the_log_has_its_number_twice(tmp_path: Path) -> None:
    seen: set[tuple[int, CID]] = set()
    for _ in range(4):
        async with SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store:
            await written(store, "a", 5)
            seen |= {(each.place, each.packed.cid) for each in await store.log()}
            await dropped(store)
    assert len({place for place, _ in seen}) == len(seen) == 20


async def test_space_is_used_again(tmp_path: Path) -> None:
    """A database that forgets as much as it writes does not grow."""
    async with SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store:
        sizes = []
        for _ in range(5):
            await written(store, "a", 300)
            sizes.append(pragma(store, "page_count"))
            await dropped(store)
        assert pragma(store, "freelist_count") > sizes[0] // 2
    assert sizes[-1] < sizes[0] * 1.2


async def test_a_row_that_is_missing_and_has_not_left_is_still_corruption(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store:
        await written(store, "a", 9)
        await dropped(store, 3)
        db: Any = store._writer
        db.execute("DELETE FROM revision WHERE row = 6")
        with pytest.raises(Corrupt):
            await store.revisions(job_id("a"))
        db.execute("DELETE FROM revision WHERE row = 9")
        with pytest.raises(Corrupt):
            await store.heads([job_id("a")])


async def test_a_database_of_before_can_be_read_and_written_by_who_knows_of_archives(
    tmp_path: Path,
) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        await written(store, "a", 3)
    async with SQLiteStore.open(tmp_path / "jobs.db", read_only=True) as store:
        assert await store.archives() == []
        assert await store.log(archived=True) == []
        assert len(await store.log()) == 3
        assert len(await store.revisions(job_id("a"))) == 3
