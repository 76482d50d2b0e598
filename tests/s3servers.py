"""A real S3 server for tests: the example's own launcher, from synchronous code."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from examples.store_add.seaweed import Endpoint, running


class SeaweedServer:
    """SeaweedFS over a directory, as a context manager. `endpoint` is set while it runs."""

    endpoint: Endpoint

    def __init__(self, data_dir: Path, *, port: int = 0) -> None:
        self._data_dir = data_dir
        self._port = port
        self._numbers = itertools.count(1)
        self._portal: AbstractContextManager[BlockingPortal]
        self._server: AbstractContextManager[Endpoint]

    def __enter__(self) -> Self:
        # The server dies with the thread that started it: the portal's, which lives until exit.
        self._portal = start_blocking_portal()
        portal = self._portal.__enter__()
        try:
            self._server = portal.wrap_async_context_manager(
                running(self._data_dir, port=self._port)
            )
            self.endpoint = self._server.__enter__()
            self._s3 = _client(self.endpoint)
        except BaseException as error:
            self._portal.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._s3.close()
            self._server.__exit__(kind, error, trace)
        finally:
            self._portal.__exit__(kind, error, trace)

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        self._s3.create_bucket(Bucket=name)
        return name

    def put_plainly(self, bucket: str, key: str, body: bytes) -> None:
        """Put an object the old way: without any checksum that the server could store."""
        self._s3.put_object(Bucket=bucket, Key=key, Body=body)


def _client(endpoint: Endpoint) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint.url,
        region_name="us-east-1",
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key.reveal(),
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
        ),
    )
