"""The push service behind a gateway that is late, forgetful and out of order, in virtual time; and
over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

import anyio
import pytest

from examples.gateway.callback import Replied
from examples.gateway.managed import Managed, Quirks
from examples.gateway.model import DEFAULT, Call, Do, Terms
from examples.gateway.service import Service, service
from examples.gateway.workflow import COMMAND, CONNECTION
from scheduler.testing import VirtualClock, VirtualLoop
from stmflow.store.memory import MemoryStore
from stmflow.testing import check_store

SLOW = Quirks(delay=(0, 5), lag=(0, 0.02), missed=0.2, mute=0.1)
FAST = Quirks(delay=(0, 0.02), lag=(0, 0.004))


@dataclass
class Room:
    """The app: `accept(); subscribe("foo"); publish("foo", "hi")`, in its answer or, where its
    `calls` are made from within the callback, before it."""

    refuses: bool = False
    calls: bool = False
    push: Service | None = None
    answered: dict[str, float] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)

    async def call(self, call: Call) -> Replied:
        if call.kind == "close":
            self.ends.append(call.connection)
        if call.kind != "open":
            return Replied()
        if not self.calls:
            self.answered[call.connection] = anyio.current_time()
            return Replied(accept=not self.refuses, commands=wishes(call.connection))
        assert self.push is not None
        for each in wishes(call.connection):
            assert (await self.push.control(call.connection, [each])).refused is None
        self.answered[call.connection] = anyio.current_time()
        return Replied(accept=not self.refuses)


def wishes(connection: str) -> tuple[Do, Do]:
    channel = f"foo {connection}"
    return Do("subscribe", channel), Do("publish", channel, "hi")


@dataclass
class Client:
    """One that connects, listens and, at some moment, may leave."""

    gateway: Managed
    name: str
    got: list[tuple[float, str]] = field(default_factory=list)
    opened: float | None = None
    status: int = 0
    here: bool = True

    async def dial(self) -> None:
        self.status = await self.gateway.admit(self.name)
        if self.status == 200 and self.here:
            self.opened = anyio.current_time()
            self.gateway.open(self.name, self._take, self._hang_up)

    async def _take(self, text: str) -> None:
        self.got.append((anyio.current_time(), text))

    def _hang_up(self) -> None:
        self.here = False

    async def leave(self) -> None:
        self.here = False
        await self.gateway.ended(self.name)


def virtual(seed: int, main: Coroutine[Any, Any, Any]) -> Any:
    loop = VirtualLoop(Random(seed), max_steps=50_000_000)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


@dataclass
class World:
    """A service, its gateway and its app, with so many clients."""

    seed: int
    quirks: Quirks
    app: Room = field(default_factory=Room)
    terms: Terms = DEFAULT

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.gateway = Managed(self.quirks, self.random)
        self.clients: list[Client] = []

    async def run(self, clients: int, leaving: bool = False) -> World:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        clock = VirtualClock(loop)
        store = MemoryStore()
        async with service(
            store, self.gateway, self.app, terms=self.terms, clock=clock, random=self.random
        ) as push:
            self.gateway.service = self.app.push = self.push = push
            async with anyio.create_task_group() as group:
                for n in range(clients):
                    self.clients.append(Client(self.gateway, f"{self.seed}-{n}"))
                    group.start_soon(self._visit, self.clients[-1], leaving)
            await self._rest(store)
            assert await check_store(store) == []
        return self

    async def _visit(self, client: Client, leaving: bool) -> None:
        await anyio.sleep(self.random.uniform(0, 1))
        async with anyio.create_task_group() as group:
            group.start_soon(client.dial)
            if leaving:
                await anyio.sleep(self.random.uniform(0, 2 * self.quirks.delay[1]))
                await client.leave()

    async def _rest(self, store: MemoryStore) -> None:
        await anyio.sleep(60)


@pytest.mark.parametrize("calls", [False, True])
def test_short(calls: bool) -> None:
    import time

    t = time.perf_counter()
    world = World(1, SLOW, Room(calls=calls))
    virtual(1, world.run(50))
    print(time.perf_counter() - t)
    assert [[text for _, text in one.got] for one in world.clients] == [["hi"]] * 50
