"""The push service over HTTP: what it serves, and how it calls the gateway and the app.

    for the gateway    POST /connections/ID/connect      200, 403 or 504
                       POST /connections/ID/message      a text; `idempotency-key` names it
                       POST /connections/ID/disconnect

    for the app        POST /connections/ID/commands     [{"verb": "send", "text": "hi"}, …]
                       DELETE /connections/ID
                       POST /channels/NAME               a text for its members

They are two applications, to be served in two places: the app's calls are signed, the gateway's
come from where nobody else can call. A call of the app is answered when its commands are durable,
with their numbers: 202. Refused are they as 404 (no such connection), 410 (it has ended, or will)
or 429 (too much waits).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.gateway.callback import Replied
from examples.gateway.model import Call, Do, Dos
from examples.gateway.service import Service
from stmflow import StmflowError

BODY_BYTES: Final = 128 * 1024
"""The largest body that is taken, of requests and of answers."""

SIGNATURE: Final = "x-signature"
KEY: Final = "idempotency-key"
REFUSED: Final = {"NotFound": 404, "Full": 429}
"""The status of each refusal; of any other, 410."""

_COMMANDS: TypeAdapter[tuple[Do, ...]] = TypeAdapter(Dos)
_REPLIED: TypeAdapter[Replied] = TypeAdapter(Replied)

Endpoint = Callable[[Request], Awaitable[Response]]


def signature(secret: bytes, body: bytes) -> str:
    """HMAC-SHA256 (RFC 2104), in hexadecimal."""
    return hmac.digest(secret, body, "sha256").hex()


def told(method: str, path: str, key: str, body: bytes) -> bytes:
    """What the app signs of a call. Under an idempotency key a repeat changes nothing."""
    return f"{method} {path} {key}\n".encode() + body


# --- what is served -----------------------------------------------------------------------------


def for_gateway(push: Service) -> Starlette:
    """The application that a managed gateway calls."""

    async def connect(request: Request) -> Response:
        return Response(status_code=await push.connect(request.path_params["id"]))

    async def message(request: Request) -> Response:
        text = (await request.body()).decode()
        await push.message(request.path_params["id"], text, request.headers.get(KEY))
        return Response(status_code=204)

    async def disconnect(request: Request) -> Response:
        await push.disconnect(request.path_params["id"])
        return Response(status_code=204)

    return _application(
        _post("/connections/{id}/connect", connect),
        _post("/connections/{id}/message", message),
        _post("/connections/{id}/disconnect", disconnect),
    )


def for_app(push: Service, secret: bytes) -> Starlette:
    """The application that the service's customer calls."""

    async def commands(request: Request) -> Response:
        wanted = _COMMANDS.validate_json(await request.body())
        key = request.headers.get(KEY)
        issued = await push.control(request.path_params["id"], wanted, key)
        if issued.refused is not None:
            return _refused(issued.refused)
        return JSONResponse({"numbers": list(issued.numbers)}, status_code=202)

    async def close(request: Request) -> Response:
        answer = await push.close(request.path_params["id"])
        return _refused(answer.code) if answer.code else Response(status_code=202)

    async def publish(request: Request) -> Response:
        text = (await request.body()).decode()
        reached = await push.publish(request.path_params["name"], text)
        return JSONResponse({"reached": reached}, status_code=202)

    def signed(endpoint: Endpoint) -> Endpoint:
        async def check(request: Request) -> Response:
            key, given = request.headers.get(KEY, ""), request.headers.get(SIGNATURE, "")
            meant = told(request.method, request.url.path, key, await request.body())
            if not hmac.compare_digest(given.encode(), signature(secret, meant).encode()):
                return Response(status_code=401)
            return await endpoint(request)

        return check

    return _application(
        _post("/connections/{id}/commands", signed(commands)),
        Route("/connections/{id}", signed(close), methods=["DELETE"]),
        _post("/channels/{name}", signed(publish)),
    )


def _post(path: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=["POST"])


def _refused(code: str) -> Response:
    return JSONResponse({"refused": code}, status_code=REFUSED.get(code, 410))


def _application(*routes: Route) -> Starlette:
    async def refused(request: Request, error: Exception) -> Response:
        """What was wrong with the request, 400; or that it did not happen, or nobody knows: 503."""
        if isinstance(error, ValueError):
            return Response(status_code=400)
        return Response(status_code=503, headers={"retry-after": "1"})

    handlers = {StmflowError: refused, ValueError: refused}
    return Starlette(
        routes=list(routes),
        exception_handlers=handlers,
        max_body_size=BODY_BYTES,
    )


# --- what is called -----------------------------------------------------------------------------


class HttpGateway:
    """A managed gateway's API: GET, POST and DELETE of /@connections/ID."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def probe(self, connection: str) -> bool:
        return await self._there("GET", connection)

    async def post(self, connection: str, n: int, text: str) -> bool:
        headers = {KEY: str(n)}
        return await self._there("POST", connection, content=text.encode(), headers=headers)

    async def delete(self, connection: str) -> bool:
        return await self._there("DELETE", connection)

    async def _there(self, method: str, connection: str, **what: Any) -> bool:
        answer = await self._client.request(method, f"/@connections/{connection}", **what)
        if answer.status_code in (404, 410):
            return False
        answer.raise_for_status()
        return True


class HttpApp:
    """The customer's endpoint: a signed POST of a `Call` as JSON, answered by the fields of
    `Replied` that are not as they are by default."""

    def __init__(self, client: httpx.AsyncClient, url: str, secret: bytes) -> None:
        self._client = client
        self._url = url
        self._secret = secret

    async def call(self, call: Call) -> Replied:
        """The answer to one callback. Raises for anything that is none."""
        fields = {"connection": call.connection, "n": call.n, "kind": call.kind, "text": call.text}
        body = json.dumps(fields).encode()
        headers = {SIGNATURE: signature(self._secret, body), "content-type": "application/json"}
        answer = await self._client.post(self._url, content=body, headers=headers)
        answer.raise_for_status()
        if len(answer.content) > BODY_BYTES:
            raise ValueError(f"an answer of more than {BODY_BYTES} bytes")
        return _REPLIED.validate_json(answer.content or b"{}")
