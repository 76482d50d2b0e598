"""The store in memory passes the contract that it is the specification of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    "stmflow.testing.store_contract",
    "stmflow.testing.store_contract_retention",
    "stmflow.testing.store_machine",
)

from stmflow.store.memory import MemoryStore  # noqa: E402
from stmflow.testing.store_contract import StoreContract  # noqa: E402


class TestMemoryStore(StoreContract):
    @asynccontextmanager
    async def open_store(self, folder: Path) -> AsyncIterator[MemoryStore]:
        yield MemoryStore()
