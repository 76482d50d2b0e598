"""The PostgreSQL store passes the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.store.postgres import PostgresStore
from stmflow.testing.store_contract import StoreContract
from tests.pgservers import PostgresServer


class TestPostgresStore(StoreContract):
    durable = True
    shared = True

    server: ClassVar[PostgresServer]
    databases: ClassVar[dict[Path, str]] = {}

    @pytest.fixture(autouse=True)
    async def started(self, postgres: PostgresServer, anyio_backend: str) -> AsyncIterator[None]:
        type(self).server = postgres
        yield
        while self.databases:
            _, database = self.databases.popitem()
            await postgres.give_back(database)

    @asynccontextmanager
    async def open_store(self, folder: Path) -> AsyncIterator[PostgresStore]:
        if folder not in self.databases:
            self.databases[folder] = await self.server.new_database()
        async with PostgresStore.open(self.databases[folder]) as store:
            yield store
        if folder.name.startswith("machine"):  # one of many, and not opened again
            await self.server.give_back(self.databases.pop(folder))
