"""The SQLite store passes the contract, with a writer thread and without."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("stmflow.store.sqlite")

from stmflow.store.sqlite import SQLiteStore
from stmflow.store.sqlite_batch import _JOBS
from stmflow.testing.builders import (
    WORKFLOW,
    commit,
    head_of,
    job_id,
    task,
    timer,
)
from stmflow.testing.store_contract import (
    StoreContract,
    created,
    done,
    keyed,
    under,
)


class TestSQLiteStore(StoreContract):
    durable = True
    shared = True

    def open_store(self, folder: Path) -> AbstractAsyncContextManager[SQLiteStore]:
        return SQLiteStore.open(folder / "jobs.db")


class TestSQLiteStoreInline(StoreContract):
    durable = True
    shared = True

    def open_store(self, folder: Path) -> AbstractAsyncContextManager[SQLiteStore]:
        return SQLiteStore.open(folder / "jobs.db", inline=True)


def _schema(store: SQLiteStore) -> list[Any]:
    """The names of all tables and indexes, and the number."""
    named = store._reader.execute("SELECT type, name FROM sqlite_schema ORDER BY name").fetchall()
    return [*named, *store._reader.execute("SELECT schema FROM meta").fetchall()]


def _as_of_schema_1(path: Path) -> None:
    """What the first schema did not have is gone."""
    connection = sqlite3.connect(path)
    connection.executescript("DROP INDEX job_key; DROP TABLE watch; UPDATE meta SET schema = 1")
    connection.close()


async def test_a_database_of_the_first_schema_is_raised_and_can_be_read_without(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(path) as store:
        for key in [("b", 1), ("a", 1), ("a",), ("a", 2)]:
            await keyed(store, key)
        with_it = await store.under(WORKFLOW, "a")
        made = _schema(store)
    _as_of_schema_1(path)
    async with SQLiteStore.open(path, read_only=True) as store:
        assert await store.under(WORKFLOW, "a") == with_it
        assert len(with_it) == 3
        assert _schema(store) != made
    for _ in range(2):
        async with SQLiteStore.open(path) as store:
            assert await store.under(WORKFLOW, "a") == with_it
            assert _schema(store) == made
    async with SQLiteStore.open(path) as one, SQLiteStore.open(path) as other:
        assert _schema(one) == _schema(other)


async def test_pages_under_a_prefix_look_at_no_other_jobs(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        for n in range(200):
            await keyed(store, (n % 10, n))
        steps = count()
        store._reader.set_progress_handler(lambda: next(steps) < 0, 1)
        for limit, most in ((0, 200), (1, 300), (10, 1_000)):
            before = next(steps)
            assert len(await under(store, 7, limit=limit)) == limit
            assert next(steps) - before < most


async def test_the_outbox_of_one_job_is_read_without_a_look_at_others(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        for n in range(200):
            name = f"job {n}"
            await created(store, name, tasks=[task(name, 0)], timers=[timer(name, 1, due=n)])
        steps = count()
        store._reader.set_progress_handler(lambda: next(steps) < 0, 1)
        assert len(await store.tasks(job=job_id("job 7"))) == 2
        assert next(steps) < 200
        assert await store.tasks(parked=True) == []
        assert next(steps) < 400
        assert len(await store.tasks()) == 400


async def test_a_later_revision_leaves_the_index_of_keys_alone(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        made = commit({"a": None})
        await done(store, made)
        await done(store, commit({"a": head_of(made, "a")}))
        assert await under(store, "a") == [("a",)]
        steps = [step[1] for step in store._writer.execute("EXPLAIN " + _JOBS._sql[1], [0] * 13)]
        assert store._writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    known = steps.index("NotExists")  # falls through where the row is there
    update = steps[known : steps.index("Goto", known)]
    assert "Insert" in update
    assert not {"IdxInsert", "IdxDelete"} & {*update}
