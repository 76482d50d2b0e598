"""A PostgreSQL server for tests that break it: they import the fixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pgservers import PostgresServer


@pytest.fixture(scope="module")
def victim() -> Iterator[PostgresServer]:
    """A server that may be killed and set up wrongly."""
    servers = pytest.importorskip("tests.pgservers", reason="asyncpg is not installed")
    try:
        server = servers.PostgresServer(recovery_init_sync_method="syncfs").__enter__()
    except servers.NoServer as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.__exit__()
