"""A real S3 server for the whole run, a bucket of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.store_add.seaweed import Endpoint, SeaweedMissing
from tests.s3servers import SeaweedServer


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running SeaweedFS; skips where its program is not installed."""
    try:
        server = SeaweedServer(tmp_path_factory.mktemp("seaweed")).__enter__()
    except SeaweedMissing as missing:
        pytest.skip(str(missing))
    yield server
    server.__exit__(None, None, None)


@pytest.fixture
def endpoint(seaweed: SeaweedServer) -> Endpoint:
    """The server, with an empty bucket that no other test has."""
    return seaweed.new_bucket()
