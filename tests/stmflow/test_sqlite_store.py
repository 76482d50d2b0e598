"""The SQLite store passes the contract, with a writer thread and without."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

pytest.register_assert_rewrite("stmflow.testing.store_contract", "stmflow.testing.store_machine")
pytest.importorskip("stmflow.store.sqlite")

from stmflow.store.sqlite import SQLiteStore  # noqa: E402
from stmflow.testing.store_contract import StoreContract  # noqa: E402


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
