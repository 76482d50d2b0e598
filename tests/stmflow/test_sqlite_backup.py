"""Backups of a SQLite database: whole, of one moment, while others write; a copy runs on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from stmflow import history
from stmflow.cell import CELL
from stmflow.errors import Corrupt, Unavailable
from stmflow.store import Batch, Beat, Claim, Commit, Done, Reap, Ref, Store, Want
from stmflow.store.sqlite import SQLiteStore
from stmflow.store.sqlite_backup import copy
from stmflow.testing import builders as make
from stmflow.testing.builders import KIND, commit, head_of, job_id
from stmflow.testing.store_contract_jobs import (
    COUNTER,
    RELAY,
    TRANSACTIONAL,
    Add,
    Begin,
    Passed,
    account,
    counter,
    relay,
)
from stmflow.transactor import Transactor


async def holds(store: Store) -> int:
    """Verify every job on three levels, rows included; the number of revisions."""
    count = 0
    for row in await store.jobs():
        (head,) = (await store.heads([row.job])).values()
        packs = await store.revisions(row.job)
        assert head is not None
        report = history.verify(
            row.job,
            head.revision,
            history.blocks_of(packs).get,
            workflows=[COUNTER, RELAY, CELL],
            stored=head,
            rows=await store.tasks(job=row.job),
        )
        assert report.status == history.OK, report.findings
        count += report.revisions
    return count


async def test_a_copy_made_while_others_write_is_of_one_moment(tmp_path: Path) -> None:
    """Every send moves one from one counter to the other: in any moment the sum stands."""
    copies = 3
    async with (
        SQLiteStore.open(tmp_path / "jobs.db") as store,
        Transactor(store, [COUNTER, RELAY], transactional=TRANSACTIONAL) as transactor,
    ):
        await transactor.transact(lambda tx: tx.write(account("r"), 10**6))
        await transactor.send(RELAY, Begin("r"))
        stop = False
        sent = 0

        async def write(name: str) -> None:
            nonlocal sent
            while not stop:
                await transactor.send(relay("r"), Passed())
                await transactor.transact(
                    lambda tx: [tx.apply(counter(n), Add(n, by)) for n, by in _move(name)]
                )
                sent += 1

        async with anyio.create_task_group() as group:
            for name in "ab":
                group.start_soon(write, name)
            for n in range(copies):
                before = sent
                while sent < before + 5:
                    await anyio.sleep(0.001)
                await store.backup(tmp_path / f"copy{n}.db")
            stop = True
    seen = []
    for n in range(copies):
        async with SQLiteStore.open(tmp_path / f"copy{n}.db") as store:
            seen.append(await holds(store))
            async with Transactor(store, [COUNTER]) as transactor:
                heads = [await transactor.get(counter(name)) for name in "ab"]
                assert sum(head.state.total for head in heads if head is not None) == 0
    assert seen == sorted(seen)
    assert seen[0] > 5
    assert sorted(file.name for file in tmp_path.glob("*.part*")) == []


def _move(name: str) -> list[tuple[str, int]]:
    other = "b" if name == "a" else "a"
    return [(name, 1), (other, -1)]


async def test_to_a_copy_the_workers_of_the_original_are_dead(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        worker = store.enlist()
        await store.commit(Batch([Beat(worker, 10**15)]))
        task = make.task("a", 0, worker=worker)
        made = await _done(store, commit({"a": None}, tasks=[task]))
        await store.backup(tmp_path / "copy.db")
        async with SQLiteStore.open(tmp_path / "copy.db") as restored:
            assert (await restored.commit(Batch([Reap(0)])))[0] == Done(1)
            own = restored.enlist()
            assert own == worker + 1
            claimed: Any = (await restored.commit(Batch([Claim(own, [Want(*KIND, 5)], 10)])))[0]
            assert [one.ref.token for one in claimed.value] == [2]
            old = commit({"a": head_of(made, "a")}, settles=Ref(task.job, 0, task.id, worker, 1))
            (late,) = await restored.commit(Batch([old]))
            assert type(late).__name__ == "LeaseLost"
        (mine,) = await store.commit(Batch([old]))  # the original knows nothing of its copy
        assert mine == Done()


async def _done(store: Store, member: Commit) -> Commit:
    assert (await store.commit(Batch([member])))[0] == Done()
    return member


async def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        await _done(store, commit({"a": None}))
        (tmp_path / "there").write_text("mine")
        with pytest.raises(FileExistsError):
            await store.backup(tmp_path / "there")
        assert (tmp_path / "there").read_text() == "mine"
        with pytest.raises(Unavailable):
            await store.backup(tmp_path / "nowhere" / "copy.db")
        await store.backup(tmp_path / "copy.db")
        assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
        copy(store._reader, type(store._reader), str(tmp_path / "given up"), lambda: True)
    assert sorted(file.name for file in tmp_path.iterdir() if "jobs.db" not in file.name) == [
        "copy.db",
        "there",
    ]


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("journal", ["-wal", "-journal"])
async def test_no_copy_is_put_beside_the_journal_of_another_database(
    tmp_path: Path, journal: str, replace: bool
) -> None:
    """SQLite would write it into the copy when it is opened: the old database would be back."""
    async with (
        SQLiteStore.open(tmp_path / "old.db", inline=True) as old,
        SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store,
    ):
        await _done(old, commit({"old": None}))
        shutil.copy(tmp_path / "old.db-wal", tmp_path / f"copy.db{journal}")  # as after a crash
        if replace:
            shutil.copy(tmp_path / "old.db", tmp_path / "copy.db")
        await _done(store, commit({"new": None}))
        there = {path: path.read_bytes() for path in tmp_path.glob("copy*")}
        with pytest.raises(FileExistsError, match=f"copy.db{journal} exists"):
            await store.backup(tmp_path / "copy.db", replace=replace)
        assert {path: path.read_bytes() for path in tmp_path.glob("copy*")} == there
        (tmp_path / f"copy.db{journal}").write_bytes(b"")  # of one that was open for reading only
        await store.backup(tmp_path / "copy.db", replace=replace)
    async with SQLiteStore.open(tmp_path / "copy.db", read_only=True) as found:
        assert [row.job for row in await found.jobs()] == [job_id("new")]


async def test_two_copies_at_once_to_one_name_are_each_whole(tmp_path: Path) -> None:
    """In containers, processes of two hosts have one number as a rule."""
    target = str(tmp_path / "copy.db")
    async with SQLiteStore.open(tmp_path / "jobs.db", inline=True) as store:
        await _done(store, commit({"a": None}))
        db = store._reader
        inner: list[int] = []

        def other() -> bool:
            if not inner:
                inner.append(1)
                copy(db, type(db), target, replace=True)
            return False

        copy(db, type(db), target, other, replace=True)
    async with SQLiteStore.open(target, read_only=True) as found:
        assert (await found.heads([job_id("a")]))[job_id("a")] is not None
    assert [file.name for file in tmp_path.glob("copy.db*.part*")] == []


async def test_a_database_is_never_replaced_by_its_own_copy(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        await _done(store, commit({"a": None}))
        inode = (tmp_path / "jobs.db").stat().st_ino
        with pytest.raises(FileExistsError, match="the database itself"):
            await store.backup(tmp_path / "jobs.db", replace=True)
        assert (tmp_path / "jobs.db").stat().st_ino == inode


async def test_a_database_in_memory_and_one_open_for_reading_are_copied_too(
    tmp_path: Path,
) -> None:
    async with SQLiteStore.open(":memory:") as store:
        await _done(store, commit({"a": None}))
        await store.backup(tmp_path / "first.db")
    async with SQLiteStore.open(tmp_path / "first.db", read_only=True) as store:
        await store.backup(tmp_path / "second.db")
    async with SQLiteStore.open(tmp_path / "second.db") as store:
        assert (await store.heads([job_id("a")]))[job_id("a")] is not None


async def test_a_broken_database_gives_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(path) as store:
        head = None
        for _ in range(50):
            made = await _done(store, commit({"a": head}))
            head = head_of(made, "a")
    damaged = bytearray(path.read_bytes())
    damaged[4_096 * 2 :] = b"\xa5" * (len(damaged) - 4_096 * 2)
    path.write_bytes(damaged)
    async with SQLiteStore.open(path, read_only=True) as store:
        with pytest.raises(Corrupt):
            await store.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
