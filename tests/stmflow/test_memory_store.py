"""The store in memory passes the contract that it is the specification of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from stmflow.store.memory import MemoryStore
from stmflow.testing.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @asynccontextmanager
    async def open_store(self, folder: Path) -> AsyncIterator[MemoryStore]:
        yield MemoryStore()
