"""What the SQLite store does when the file, the disk or a neighbour misbehaves."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from benchmarks.workloads import Count, Increment, counter
from stmflow import Transactor
from stmflow.errors import (
    DiskFull,
    Indeterminate,
    NotFound,
    ReadOnly,
    StoreError,
    Unavailable,
    UnknownSchema,
)
from stmflow.store import sqlite
from stmflow.store.sqlite import CODEC, SCHEMA, SQLiteStore


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[tuple[SQLiteStore, Transactor]]:
    async with SQLiteStore.open(path, **options) as store, Transactor(store, [counter]) as engine:
        yield store, engine


async def value(engine: Transactor, name: str = "n") -> int:
    head = await engine.get(counter.job(name))
    return 0 if head is None else head.state.value


async def test_the_pragmas_that_make_commits_durable_are_set(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        for connection in (store._writer, store._reader):
            assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
            assert connection.execute("PRAGMA synchronous").fetchall() == [(2,)]
            assert connection.execute("PRAGMA foreign_keys").fetchall() == [(1,)]


async def test_an_old_library_gets_a_rollback_journal_and_extra_synchronous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_library", lambda: sqlite.WAL_SAFE - 1)
    async with opened(tmp_path / "jobs.db") as (store, engine):
        assert store._writer.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        assert store._writer.execute("PRAGMA synchronous").fetchall() == [(3,)]
        await engine.send(counter, Increment("n"))
        assert await value(engine) == 1


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 1_000)
    for read_only in (False, True):
        with pytest.raises(UnknownSchema):
            async with SQLiteStore.open(path, read_only=read_only):
                pass
    assert path.read_text().startswith("Dear reader")


async def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    apsw.Connection(str(path)).execute("CREATE TABLE thing (x); INSERT INTO thing VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(UnknownSchema, match="not an stmflow database"):
        async with SQLiteStore.open(path):
            pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("column", ["schema", "codec"])
async def test_an_unknown_schema_or_codec_version_is_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(path):
        pass
    apsw.Connection(str(path)).execute({"schema": "UPDATE meta SET schema = schema + 1"}.get(
        column, "UPDATE meta SET codec = codec + 1"))  # fmt: skip
    with pytest.raises(UnknownSchema, match=f"this stmflow knows {SCHEMA} and {CODEC}"):
        async with SQLiteStore.open(path):
            pass


async def test_a_missing_database_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        async with SQLiteStore.open(tmp_path / "jobs.db", read_only=True):
            pass
    assert os.listdir(tmp_path) == []


async def test_who_changes_his_folder_stays_with_his_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_sync: type[FailingSync]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with opened(Path("jobs.db")) as (store, engine):
        worker = store.enlist()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert not store._locks.dead(worker)
        failing_sync.fail = 1
        for _ in range(2):
            await engine.send(counter, Increment("n"))
        assert await value(engine) == 2
        await store.backup(tmp_path / "copy.db")
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_who_comes_by_a_link_sees_who_lives(tmp_path: Path) -> None:
    """The files beside a database are beside the file itself, as its WAL is."""
    (tmp_path / "link.db").symlink_to("jobs.db")
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        worker = store.enlist()
        async with SQLiteStore.open(tmp_path / "link.db") as other:
            assert not other._locks.dead(worker)
    assert {path.name for path in tmp_path.iterdir()} == {
        "jobs.db", "jobs.db-turn", "jobs.db-workers", "link.db"
    }  # fmt: skip


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        async with SQLiteStore.open(tmp_path):
            pass


async def test_reading_only_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as (_, engine):
        await engine.send(counter, Increment("n"))
    before = path.read_bytes()
    async with opened(path, read_only=True) as (_, engine):
        assert await value(engine) == 1
        with pytest.raises(ReadOnly):
            await engine.send(counter, Increment("n"))
    assert path.read_bytes() == before


async def test_a_full_disk_did_not_happen_and_loses_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as (store, engine):
        await engine.send(counter, Increment("n"))
        pages = store._writer.execute("PRAGMA page_count").fetchall()[0][0]
        store._writer.execute("PRAGMA max_page_count = " + str(pages + 1)).fetchall()
        sent = 0
        with pytest.raises(DiskFull):  # noqa: PT012 -- how many fit is for the disk to say
            while True:
                await engine.send(counter, Increment(f"{sent}" + "x" * 2_000))
                sent += 1
        store._writer.execute("PRAGMA max_page_count = 1000000").fetchall()
        await engine.send(counter, Increment("n"))
        assert await value(engine) == 2
        assert [await value(engine, f"{n}" + "x" * 2_000) for n in range(sent)] == [1] * sent
        assert await value(engine, f"{sent}" + "x" * 2_000) == 0


class FailingFile(apsw.VFSFile):
    def xSync(self, flags: int) -> None:
        FailingSync.syncs += 1
        if FailingSync.fail:
            FailingSync.fail -= 1
            raise apsw.IOError
        super().xSync(flags)


class FailingSync(apsw.VFS):
    """The real file system, whose next `fail` syncs do not succeed."""

    fail = 0
    syncs = 0

    def __init__(self) -> None:
        super().__init__("failing-sync", "")

    def xOpen(self, name: Any, flags: Any) -> Any:
        return FailingFile("", name, flags)


@pytest.fixture
def failing_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FailingSync]]:
    vfs = FailingSync()
    plain = apsw.Connection
    monkeypatch.setattr(
        apsw, "Connection", lambda path, **options: plain(path, vfs="failing-sync", **options)
    )
    FailingSync.fail = FailingSync.syncs = 0
    yield FailingSync
    FailingSync.fail = 0
    vfs.unregister()


async def test_a_failed_sync_is_unknown_and_is_settled(
    tmp_path: Path, failing_sync: type[FailingSync]
) -> None:
    async with opened(tmp_path / "jobs.db") as (store, engine):
        for at in range(5):
            failing_sync.fail = 1
            answer = await engine.send(counter, Increment("n"), delivery=f"d{at}")
            assert answer.kind == "committed"
            assert await value(engine) == at + 1
        assert engine.counters["indeterminate"] == 5
        assert store._writer.execute("SELECT seals FROM meta").fetchall()[0][0] == 5


async def test_a_failed_sync_is_settled_without_an_id_too(
    tmp_path: Path, failing_sync: type[FailingSync]
) -> None:
    async with opened(tmp_path / "jobs.db") as (_, engine):
        for at in range(5):
            failing_sync.fail = 1
            assert (await engine.send(counter, Increment("n"))).kind == "committed"
            assert await value(engine) == at + 1


async def test_a_disk_that_never_syncs_again_is_told_as_unknown(
    tmp_path: Path, failing_sync: type[FailingSync]
) -> None:
    async with opened(tmp_path / "jobs.db") as (_, engine):
        await engine.send(counter, Increment("n"))
        failing_sync.fail = 1_000
        with pytest.raises((Indeterminate, Unavailable)) as caught:
            await engine.send(counter, Increment("n"), delivery="again")
        failing_sync.fail = 0
        assert isinstance(caught.value, Indeterminate)
        assert caught.value.delivery is not None
        answer = await engine.send(counter, Increment("n"), delivery=caught.value.delivery[1])
        assert answer.kind == "committed"
        assert await value(engine) == 2


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("instead", ["nothing", "another"])
async def test_what_is_opened_again_is_the_same_file(
    tmp_path: Path, failing_sync: type[FailingSync], inline: bool, instead: str
) -> None:
    """Where a volume has gone, a new database in its place would begin from nothing."""
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(tmp_path / "other.db"):
        pass
    async with opened(path, inline=inline) as (_, engine):
        await engine.send(counter, Increment("n"))
        failing_sync.fail = 1
        (tmp_path / "away").mkdir()
        for file in tmp_path.glob("jobs.db*"):
            file.rename(tmp_path / "away" / file.name)
        if instead == "another":
            (tmp_path / "other.db").rename(path)
        for _ in range(2):
            with pytest.raises((Indeterminate, Unavailable)):
                await engine.send(counter, Increment("m"), delivery="d")
        assert path.exists() == (instead == "another")
        for file in (tmp_path / "away").iterdir():
            file.replace(tmp_path / file.name)
        assert (await engine.send(counter, Increment("m"), delivery="d")).seq == 1
        assert await value(engine) == 1


async def test_what_reads_and_writes_over_one_connection_opens_it_again_to_read(
    tmp_path: Path, failing_sync: type[FailingSync], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by an image of a disk whose syncs fail, day 397972291: the next write had to read
    first, over a connection that only a write would have opened again."""
    async with opened(tmp_path / "jobs.db", inline=True) as (store, engine):
        await engine.send(counter, Increment("n"))
        plain, refused = store._connect, iter([True])

        def connect() -> apsw.Connection:
            if next(refused, False):
                raise apsw.IOError("planted")
            return plain()

        monkeypatch.setattr(store, "_connect", connect)
        failing_sync.fail = 1
        with pytest.raises(Indeterminate):
            await engine.send(counter, Increment("n"), delivery="d")
        answer = await engine.send(counter, Increment("n"), delivery="d")
        assert answer.kind == "committed"
        assert await value(engine) == 2


async def test_a_busy_neighbour_makes_it_unavailable_not_conflicting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 20)
    path = tmp_path / "jobs.db"
    async with opened(path) as (_, engine):
        await engine.send(counter, Increment("n"))
        neighbour = apsw.Connection(str(path))
        neighbour.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await engine.send(counter, Increment("n"))
        neighbour.execute("ROLLBACK")
        await engine.send(counter, Increment("n"))
        assert await value(engine) == 2


CHILD = """
    import anyio, sys
    from benchmarks.workloads import Increment, counter
    from stmflow import Transactor
    from stmflow.store.sqlite import SQLiteStore

    async def main():
        async with SQLiteStore.open(sys.argv[1]) as store, Transactor(store, [counter]) as engine:
            for _ in range(int(sys.argv[2])):
                await engine.send(counter, Increment("n"))

    anyio.run(main)
"""


def child(path: Path, times: int) -> subprocess.Popen[bytes]:
    code = textwrap.dedent(CHILD)
    return subprocess.Popen([sys.executable, "-c", code, str(path), str(times)])


async def test_several_processes_count_on_one_job_exactly(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as (_, engine):
        children = [child(path, 40) for _ in range(2)]
        for _ in range(40):
            await engine.send(counter, Increment("n"))
        head = await engine.wait(counter.job("n"), lambda count: count.value == 120, timeout=60)
        assert head.seq == 120
        assert [process.wait() for process in children] == [0, 0]


async def test_a_waiter_sees_every_revision_of_another_process(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    seen: list[int] = []

    def until(count: Count) -> bool:
        seen.append(count.value)
        return count.value == 25

    async with opened(path) as (_, engine):
        process = child(path, 25)
        await engine.wait(counter.job("n"), until, timeout=60)
        assert process.wait() == 0
    assert seen == list(range(1, 26))


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(sqlite.LIMITS, index_segment_blocks=64)
    monkeypatch.setattr(sqlite, "LIMITS", small)


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_so_many_blocks_are_indexed_as_soon_as_they_have_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """`index_segment_blocks`: with one fewer nothing is sealed."""
    async with opened(tmp_path / "jobs.db") as (store, engine):

        async def sealed_after(sends: int, least: int) -> list[int]:
            small = dataclasses.replace(sqlite.LIMITS, index_segment_blocks=least)
            monkeypatch.setattr(sqlite, "LIMITS", small)
            for _ in range(sends):
                await engine.send(counter, Increment("n"))
            sizes = store._writer.execute("SELECT length(digests) / 8 FROM segment ORDER BY last")
            return [size for (size,) in sizes.fetchall()]

        (first,) = await sealed_after(4, 8)  # as from here on nobody else writes, it keeps count
        more = await sealed_after(4, first - off)
        assert more == ([first, first] if off >= 0 else [first])


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_after_others_have_written_half_as_many_revisions_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """Then it counts rows behind the last segment, not blocks."""
    least = dataclasses.replace(sqlite.LIMITS, index_segment_blocks=10)
    monkeypatch.setattr(sqlite, "LIMITS", least)
    path = tmp_path / "jobs.db"
    async with opened(path) as (store, left), opened(path) as (_, right):
        for n in range(5 + off):
            await (left, right)[n % 2].send(counter, Increment("n"))
        ((segments,),) = store._writer.execute("SELECT count(*) FROM segment").fetchall()
        assert segments == (off >= 0)


@pytest.mark.usefixtures("small_segments")
async def test_every_block_is_found_by_its_cid_in_sealed_and_unsealed_rows(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as (store, engine):
        for n in range(100):
            await engine.send(counter, Increment(f"{n % 7}"))
        segments = store._writer.execute("SELECT count(*) FROM segment").fetchall()[0][0]
        assert segments >= 3
        checked = 0
        for n in range(7):
            for packed in await store.revisions(counter.job(f"{n}").id):
                assert await store.block(packed.cid) == packed.revision
                assert packed.cid in await store.find(packed.cid.digest[:3], 20)
                assert await store.find(packed.cid.digest, 256) == [packed.cid]
                checked += 1
        assert checked == 100
        assert await store.block(counter.job("0").id) is None
