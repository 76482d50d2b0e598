"""The service over HTTP: an ASGI application that a storage service mounts.

    POST /                an agent message (application/vnd.ipld.car) -> an agent message
    GET  /receipt/<CID>   the receipt of an invocation or task, as an agent message; 404: not yet
    POST /ucan            an invocation of UCAN 1.0, bare or in a container -> {"cid", "result"};
                          without a content type also at /
    GET  /                who this is, as JSON

200 for whatever parses, refusals too: they are signed receipts. 400 what does not parse, 413 what
is too large, 415 and 406 other content types, 503 with Retry-After when too much waits: then
nothing has happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import ceil
from typing import TYPE_CHECKING, Final

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from capabilities.service.body import STARTS, read_body
from capabilities.ucanto.message import CONTENT_TYPE
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import Busy, CapabilityError, CodecError, LimitExceeded, StoreError
from stmflow.limits import LIMITS
from stmflow.pressure import Drain

if TYPE_CHECKING:
    from capabilities.service.service import Answered, Service

_CAR: Final = {"content-type": CONTENT_TYPE}


def application(
    service: Service,
    *,
    routes: Sequence[BaseRoute] = (),
    concurrent_requests: int = LIMITS.concurrent_requests,
    waiting_requests: int = LIMITS.waiting_requests,
    turn_ms: int = LIMITS.request_ms,
) -> Starlette:
    """The application, to be mounted or served.

    Args:
        routes: the host's own; they come first.
        concurrent_requests: so many are answered at once.
        waiting_requests: so many more wait for their turn; another one gets 503 at once.
        turn_ms: how long one waits before it gets 503.
    """
    limiter = anyio.CapacityLimiter(concurrent_requests)
    clock = service.transactor.clock
    drain = Drain()

    def waiting() -> int:
        return limiter.statistics().tasks_waiting

    def busy(text: str) -> Busy:
        return Busy(text, retry_after=drain.retry_after(waiting() + 1, clock.now()))

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        """One of so many requests at once; some others wait, for a while."""
        if limiter.available_tokens < 1 and waiting() >= waiting_requests:
            raise busy(f"{waiting_requests} requests wait already")
        who = object()
        with anyio.move_on_after(turn_ms / 1_000) as patience:
            await limiter.acquire_on_behalf_of(who)
        if patience.cancelled_caught:
            raise busy(f"no turn within {turn_ms} ms")
        try:
            yield
        finally:
            drain.left(1, clock.now(), waiting=waiting())
            limiter.release_on_behalf_of(who)

    async def post(request: Request) -> Response:
        kind = request.headers.get("content-type")
        if kind is None and (body := await read_body(request))[:1] in STARTS:
            return await ucan1(body)
        if kind != CONTENT_TYPE:
            return _plain(415, f"send {CONTENT_TYPE}", accept=CONTENT_TYPE)
        if not _accepts(request.headers.get("accept", "*/*")):
            return _plain(406, f"accept {CONTENT_TYPE}")
        body = await read_body(request)
        async with turn():
            return Response(await service.respond(body), headers=_CAR)

    async def ucan(request: Request) -> Response:
        return await ucan1(await read_body(request))

    async def ucan1(body: bytes) -> Response:
        async with turn():
            try:
                return _told(*await service.respond1(body))
            except (CapabilityError, CodecError) as error:
                told = {"code": "SERVER_ERROR", "message": str(error)}
                status = 413 if isinstance(error, LimitExceeded) else 400
                return JSONResponse({"error": told}, status)

    async def receipt(request: Request) -> Response:
        found = await service.receipt(CID.parse(request.path_params["cid"]))
        if found is None:
            return _plain(404, "no such receipt, or not yet")
        return Response(found, headers=_CAR)

    async def about(request: Request) -> Response:
        return JSONResponse(
            {"did": service.signer.did.text, "commands": sorted(service.capabilities)}
        )

    return Starlette(
        routes=[
            *routes,
            Route("/", post, methods=["POST"]),
            Route("/", about, methods=["GET"]),
            Route("/receipt/{cid}", receipt, methods=["GET"]),
            Route("/ucan", ucan, methods=["POST"]),
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
            )
        ],
        exception_handlers={
            LimitExceeded: _too_large,
            CodecError: _malformed,
            CapabilityError: _malformed,
            StoreError: _unavailable,
        },
    )


def _told(cid: CID, answered: Answered) -> Response:
    """What a client of UCAN 1.0 reads: JSON; the signed receipt beside it, in base64url."""
    out = answered.receipt.out
    if "ok" in out:
        told = {"cid": str(cid), "result": codec.to_json(out["ok"])}
    else:
        error = codec.to_json(out["error"])
        assert isinstance(error, dict)
        told = {"cid": str(cid), "error": {"code": error["name"], **error}}
    return JSONResponse({**told, "receipt": codec.to_json(answered.receipt.data)})


def _accepts(accept: str) -> bool:
    kinds = {part.partition(";")[0].strip() for part in accept.split(",")}
    return bool(kinds & {CONTENT_TYPE, "*/*", "application/*"})


def _plain(status: int, text: str, **headers: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers=headers or None)


async def _too_large(request: Request, error: Exception) -> Response:
    return _plain(413, str(error))


async def _malformed(request: Request, error: Exception) -> Response:
    return _plain(400, str(error))


async def _unavailable(request: Request, error: Exception) -> Response:
    after_ms = error.retry_after if isinstance(error, Busy) else 1_000
    return _plain(503, str(error), **{"retry-after": str(ceil(after_ms / 1_000))})


__all__ = ["application"]
