"""The SQLite store passes the contract, with a writer thread and without."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite(
    "stmflow.testing.store_contract",
    "stmflow.testing.store_contract_retention",
    "stmflow.testing.store_machine",
)
pytest.importorskip("stmflow.store.sqlite")

from stmflow.store.sqlite import SQLiteStore  # noqa: E402
from stmflow.store.sqlite_batch import _JOBS  # noqa: E402
from stmflow.testing.builders import WORKFLOW, commit, head_of  # noqa: E402
from stmflow.testing.store_contract import StoreContract, done, keyed, under  # noqa: E402


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


def _index(store: SQLiteStore) -> list[Any]:
    sql = "SELECT sql FROM sqlite_schema WHERE name = 'job_key'"
    return store._reader.execute(sql).fetchall()


async def test_a_database_of_before_gets_the_index_of_keys_and_is_read_without_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(path) as store:
        for key in [("b", 1), ("a", 1), ("a",), ("a", 2)]:
            await keyed(store, key)
        with_it = await store.under(WORKFLOW, "a")
        store._writer.execute("DROP INDEX job_key")
    async with SQLiteStore.open(path, read_only=True) as store:
        assert await store.under(WORKFLOW, "a") == with_it
        assert len(with_it) == 3
        assert _index(store) == []
    for _ in range(2):
        async with SQLiteStore.open(path) as store:
            assert await store.under(WORKFLOW, "a") == with_it
            assert _index(store) == [("CREATE INDEX job_key ON job (workflow, key)",)]


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
