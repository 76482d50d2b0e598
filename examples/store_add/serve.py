"""The service over HTTP: `python -m examples.store_add serve`.

It keeps everything under one folder: the jobs (`jobs.db`), its key (`service.key`) and, unless an
S3 server of one's own is named, that of its SeaweedFS (`s3/`). Started again on the same folder it
goes on with every job. When it is ready it prints one line of JSON on standard output, and nothing
else ever: {"endpoint": "http://127.0.0.1:8000", "did": "did:key:...", "quota": 1073741824}.
"""

from __future__ import annotations

import gc
import json
import signal
import socket
from base64 import b32decode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from capabilities import DID, Signer
from capabilities.service import WORKFLOWS, application
from capabilities.service import Service as Capabilities
from examples.store_add.answers import Answers
from examples.store_add.model import Terms
from examples.store_add.quota import Profile, local
from examples.store_add.seaweed import Endpoint, running
from examples.store_add.service import Service, service
from examples.store_add.uploads import UPLOAD
from scheduler.handlers.s3 import object_key
from stmflow import CID, LIMITS, StmflowError

NOTICE_BYTES = 64 * 1024
"""The largest notification of an S3 server that is read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the service is started with.

    `port` 0: a free one. `quota`: bytes that a space not seen before may use. `did`: a did:web to
    speak as; the key behind it is the one in `key`, made where there is none.
    """

    data: Path
    port: int = 0
    host: str = "127.0.0.1"
    quota: int = 1024**3
    key: Path | None = None
    did: str | None = None
    s3: Endpoint | None = None
    terms: Terms = field(default_factory=Terms)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    gc.freeze()  # docs/performance.md
    gc.set_threshold(20_000, 50, 100)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    listener = socket.create_server((settings.host, settings.port))
    async with opened(settings) as (storage, capabilities):
        app = application(capabilities, routes=[_notices(storage)])
        server = _Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(LIMITS.request_ms / 1_000) + 2,
            )
        )
        port = listener.getsockname()[1]
        server.ready = {
            "endpoint": f"http://{settings.host}:{port}",
            "did": str(capabilities.signer.did),
            "quota": settings.quota,
        }
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_on_signal, server)
            await server.serve(sockets=[listener])
            group.cancel_scope.cancel()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Service, Capabilities]]:
    """The service without its HTTP side: jobs run, invocations are answered."""
    signer = _signer(settings)
    async with AsyncExitStack() as stack:
        endpoint = settings.s3
        if endpoint is None:
            endpoint = await stack.enter_async_context(running(settings.data / "s3"))
        storage = await stack.enter_async_context(
            service(
                settings.data / "jobs.db",
                endpoint,
                profile=_profile(settings.quota),
                put_again=True,  # the clients in use take 412 for a failure
            )
        )
        base = f"{endpoint.url}/{endpoint.bucket}"
        answers = Answers(
            signer,
            storage.transactor,
            settings.terms,
            lambda link: f"{base}/{object_key(link)}",
        )
        yield (
            storage,
            Capabilities(signer, storage.transactor, answers.providers(), tasks=answers.tasks()),
        )


def _profile(quota: int) -> Profile:
    kept = local(limit=quota)
    return Profile((*kept.workflows, UPLOAD, *WORKFLOWS), kept.transactional, kept.handlers)


def _signer(settings: Settings) -> Signer:
    """The key of the service, made at its first start, and the name it goes by."""
    path = settings.key or settings.data / "service.key"
    if not path.exists():
        Signer.generate().save(path)
    signer = Signer.load(path)
    return signer if settings.did is None else signer.named(DID.parse(settings.did))


def _notices(storage: Service) -> Route:
    """Where an S3 server may say that objects were made: a hint to look, never a proof."""

    async def take(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > NOTICE_BYTES:
                return Response(status_code=413)
        for link in _links(body):
            storage.bucket.notify(link)
        return Response(status_code=204)

    return Route("/s3-events", take, methods=["POST"])


def _links(body: bytes) -> list[CID]:
    """The objects named in an S3 event notification; none where it is not one."""
    try:
        records: Any = json.loads(body)["Records"]
        keys = [str(record["s3"]["object"]["key"]) for record in records]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for key in keys:
        try:
            found.append(CID.parse(b"\x01\x55" + _multihash(key)))
        except (StmflowError, ValueError):
            continue
    return found


def _multihash(key: str) -> bytes:
    """The multihash that an object is named by: `object_key` the other way round."""
    text = key.rpartition("/")[2].removeprefix("b").upper()
    return b32decode(text + "=" * (-len(text) % 8))


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves signals to us: what runs is put back before the end."""

    ready: dict[str, Any]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none: uvicorn would raise them again before we have left."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets=sockets)
        print(json.dumps(self.ready), flush=True)


async def _stop_on_signal(server: uvicorn.Server) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            server.should_exit = True
