"""Real servers: S3 as the tests of the scheduler have it, PostgreSQL as those of the stores; and
stores of every kind, for tests in which several processes or connections open one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.scheduler.conftest import endpoint, seaweed
from tests.stmflow.conftest import postgres

__all__ = ["endpoint", "postgres", "seaweed"]


@pytest.fixture
async def name(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """What the store of that kind is called; a database of its own on a server."""
    if kind == "postgres":
        server: Any = request.getfixturevalue("postgres")
        database = await server.new_database()
        yield database
        await server.give_back(database)
    else:
        yield kind if kind == "memory" else str(tmp_path / "jobs.db")
