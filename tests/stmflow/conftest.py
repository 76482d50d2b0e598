"""What the tests of stores share: one PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pgservers import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this test session; skips where none can be had."""
    servers = pytest.importorskip("tests.pgservers", reason="asyncpg is not installed")
    server = servers.shared_server()
    try:
        server.__enter__()
    except servers.NoServer as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.__exit__()
