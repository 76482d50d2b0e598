"""S3 servers for tests: a real one, by the example's own launcher, and one that obeys."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import SocketStream
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

    @property
    def s3(self) -> Any:
        """An ordinary, synchronous client of the server."""
        return self._s3

    def new_bucket(self) -> Endpoint:
        """Make an empty bucket and return the endpoint with its name."""
        name = f"bucket-{next(self._numbers)}"
        self._s3.create_bucket(Bucket=name)
        return replace(self.endpoint, bucket=name)


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


Reply = Callable[[SocketStream, str], Any]
"""Answers one request, of which it is given the head: an async function."""


@dataclass
class Stub:
    """A server that says what it is told. `requests` holds the head of each request."""

    url: str
    requests: list[str] = field(default_factory=list)


@asynccontextmanager
async def stub(reply: Reply) -> AsyncIterator[Stub]:
    """Listen on a free port of 127.0.0.1 and answer every request with `reply`."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    server = Stub(f"http://127.0.0.1:{port}")

    async def serve(stream: SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            server.requests.append(head.split(b"\r\n\r\n")[0].decode())
            await reply(stream, server.requests[-1])

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield server
        group.cancel_scope.cancel()


def says(status: str, *headers: str, body: str = "") -> Reply:
    """A reply with this status line, these headers and this body, after which the line is cut."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"]

    async def reply(stream: SocketStream, request: str) -> None:
        shown = "" if request.startswith("HEAD") else body
        await stream.send(("\r\n".join(lines) + "\r\n\r\n" + shown).encode())

    return reply


def error_body(code: str) -> str:
    """The body of an S3 error."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
