"""The managed gateway as a server: websockets for clients, an HTTP API for the service.

GET /ws                      a websocket; it is opened only when the service has said yes
GET /@connections/ID         200, or 410
POST /@connections/ID        a text for the client; `idempotency-key` is its number
DELETE /@connections/ID      ends it
"""

from __future__ import annotations

from itertools import count
from typing import Any, Final
from uuid import uuid4

import anyio
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from examples.gateway.managed import Managed
from examples.gateway.web import BODY_BYTES, KEY

GONE: Final = 410
PAUSES: Final = (0, 0.1, 0.5)
"""Before each attempt of a callback, in seconds."""


def application(gateway: Managed) -> Starlette:
    """The gateway's side that clients and the service see."""

    async def socket(websocket: WebSocket) -> None:
        connection = uuid4().hex
        if await gateway.admit(connection) != 200:
            await websocket.close()  # before it was opened: the client gets a 403
            return
        try:
            await websocket.accept(headers=[(b"x-connection", connection.encode())])
            await _serve(websocket, connection)
        except* WebSocketDisconnect:
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await gateway.ended(connection)

    async def _serve(websocket: WebSocket, connection: str) -> None:
        """Until either side ends it."""

        async def send(text: str) -> None:
            try:
                await websocket.send_text(text)
            except (WebSocketDisconnect, RuntimeError) as error:  # as starlette says it
                raise ConnectionError from error

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as talk:
                gateway.open(connection, send, talk.cancel)
                for n in count(1):
                    text = await websocket.receive_text()
                    group.start_soon(gateway.heard, connection, text, f"{connection} {n}")
        await websocket.close()

    async def control(request: Request) -> Response:
        connection = request.path_params["id"]
        match request.method:
            case "POST":
                n, text = int(request.headers[KEY]), (await request.body()).decode()
                there = await gateway.post(connection, n, text)
            case "DELETE":
                there = await gateway.delete(connection)
            case _:
                there = await gateway.probe(connection)
        return Response(status_code=200 if there else GONE)

    return Starlette(
        routes=[
            WebSocketRoute("/ws", socket),
            Route("/@connections/{id}", control, methods=["GET", "POST", "DELETE"]),
        ],
        max_body_size=BODY_BYTES,
    )


class HttpCallbacks:
    """The service, called over HTTP. Where it is not known whether it has heard, it is told again:
    all that it is told may be said twice."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def connect(self, connection: str) -> int:
        answer = await self._tell(f"/connections/{connection}/connect")
        return 502 if answer is None else answer.status_code

    async def message(self, connection: str, text: str, delivery: str | None = None) -> None:
        headers = {} if delivery is None else {KEY: delivery}
        path = f"/connections/{connection}/message"
        await self._tell(path, content=text.encode(), headers=headers)

    async def disconnect(self, connection: str) -> None:
        await self._tell(f"/connections/{connection}/disconnect")

    async def _tell(self, path: str, **what: Any) -> httpx.Response | None:
        answer = None
        for pause in PAUSES:
            await anyio.sleep(pause)
            try:
                answer = await self._client.post(path, **what)
            except httpx.TransportError:
                continue
            if answer.status_code != 503:
                break
        return answer
