"""`python -m examples.gateway`: a chat room over real websockets, behind a gateway that is slow.

Four servers of this process talk over HTTP: the managed gateway, the two sides of the push service,
and the customer's app, the room.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final

import anyio
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect

from examples.gateway.callback import Replied
from examples.gateway.managed import Managed, Quirks
from examples.gateway.model import DEFAULT, Call, Do, Terms
from examples.gateway.server import HttpCallbacks, application
from examples.gateway.service import App, Service, Store, service
from examples.gateway.web import (
    KEY,
    SIGNATURE,
    HttpApp,
    HttpGateway,
    for_app,
    for_gateway,
    signature,
    told,
)
from stmflow.store.memory import MemoryStore

SECRET: Final = b"not much of a secret"
LOBBY: Final = "lobby"


class Lobby:
    """The customer: whoever comes is heard by all."""

    async def call(self, call: Call) -> Replied:
        name = call.connection[:4]
        match call.kind:
            case "open":
                joined = Do("publish", LOBBY, f"{name} has joined")
                return Replied(about=name, commands=(Do("subscribe", LOBBY), joined))
            case "message":
                return Replied(commands=(Do("publish", LOBBY, f"{name}: {call.text}"),))
            case "close":
                return Replied()


def customer(app: App, secret: bytes) -> Starlette:
    """A customer's endpoint: checks the signature, and answers."""

    async def callbacks(request: Request) -> Response:
        body = await request.body()
        if request.headers.get(SIGNATURE) != signature(secret, body):
            return Response(status_code=401)
        replied = await app.call(Call(**json.loads(body)))
        return JSONResponse(replied.outcome())

    return Starlette(routes=[Route("/", callbacks, methods=["POST"])])


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to whoever runs this."""
        yield


@asynccontextmanager
async def serving(app: Starlette, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """Where an application is served: `http://127.0.0.1:PORT`."""
    listener = listener or bound()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        lifespan="off",
        timeout_keep_alive=30,  # longer than clients keep a connection that they do not use
    )
    server = _Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: server.serve(sockets=[listener]))
        try:
            yield address(listener)
        finally:
            server.should_exit = True


def bound() -> socket.socket:
    """A port of our own."""
    return socket.create_server(("127.0.0.1", 0))


def address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass(frozen=True)
class Places:
    """Where all of it is served: clients connect to `websocket`, the app calls `api`."""

    websocket: str
    api: str
    push: Service


@asynccontextmanager
async def everything(
    store: Store,
    app: App,
    *,
    quirks: Quirks = Quirks(),  # noqa: B008 -- frozen
    random: Random | None = None,
    terms: Terms = DEFAULT,
) -> AsyncIterator[tuple[Places, Managed]]:
    """A gateway, the push service on an open store, and its customer, each behind a port."""
    gateway, door = Managed(quirks, random or Random()), bound()
    patience = terms.callback_ms / 1_000
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        room = await enter(serving(customer(app, SECRET)))
        to_room = await enter(httpx.AsyncClient(timeout=patience))
        to_gateway = await enter(httpx.AsyncClient(base_url=address(door), timeout=patience))
        hands = HttpGateway(to_gateway), HttpApp(to_room, room, SECRET)
        push = await enter(service(store, *hands, terms=terms))
        inner = await enter(serving(for_gateway(push)))
        api = await enter(serving(for_app(push, SECRET)))
        to_push = await enter(httpx.AsyncClient(base_url=inner, timeout=2 * patience))
        gateway.service = HttpCallbacks(to_push)
        edge = await enter(serving(application(gateway), door))
        yield Places(f"{edge.replace('http', 'ws')}/ws", api, push), gateway


async def demo() -> None:
    """Two come, talk, and one leaves."""
    quirks = Quirks(delay=(0.2, 0.6), lag=(0, 0.02), missed=0.1)
    async with everything(MemoryStore(), Lobby(), quirks=quirks) as (places, _):
        print(f"clients connect to {places.websocket}")
        async with connect(places.websocket) as one:
            await listen("one", one, 1)
            async with connect(places.websocket) as two:
                await listen("two", two, 1)
                await listen("one", one, 1)
                await two.send("hello")
                await listen("one", one, 1)
                await listen("two", two, 1)
            print(f"in the lobby: {len(await left(places, 1))}, since the other has gone")


async def listen(name: str, client: ClientConnection, texts: int) -> None:
    for _ in range(texts):
        print(f"  {name} hears: {await client.recv()!s}")


async def left(places: Places, members: int) -> tuple[str, ...]:
    """Who is in the lobby, once there are so many."""
    while len(found := await places.push.members(LOBBY)) != members:
        await anyio.sleep(0.02)
    return found


def signed(method: str, path: str, body: Any, key: str = "") -> dict[str, Any]:
    """A call of the push service's API: the arguments of an `httpx` request."""
    content = json.dumps(body, default=asdict).encode()
    given = signature(SECRET, told(method, path, key, content))
    return {"content": content, "headers": {SIGNATURE: given} | ({KEY: key} if key else {})}
