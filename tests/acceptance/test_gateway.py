"""The push service behind a gateway that is late, forgetful and out of order, in virtual time; and
over real sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from examples.gateway.callback import Replied
from examples.gateway.check import CHECKS
from examples.gateway.command import Command
from examples.gateway.connection import Closed
from examples.gateway.demo import everything, signed
from examples.gateway.managed import Managed, Quirks
from examples.gateway.model import DEFAULT, Call, Do, Terms
from examples.gateway.service import Service, service
from examples.gateway.workflow import COMMAND, CONNECTION
from scheduler.testing import VirtualClock, VirtualLoop
from stmflow.check import Check, prove
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing import check_store

Stays = Callable[[int], float | None]


def for_ever(client: int) -> None:
    """It does not leave."""


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


def channel_of(connection: str) -> str:
    return f"foo {connection}"


def wishes(connection: str) -> tuple[Do, Do]:
    channel = channel_of(connection)
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


@dataclass
class World:
    """A service, its gateway and its app, in virtual time."""

    seed: int
    quirks: Quirks
    app: Room = field(default_factory=Room)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.gateway = Managed(self.quirks, self.random)
        self.clients: list[Client] = []
        self.commands: list[Command] = []
        self.members: list[tuple[str, ...]] = []

    def run(self, clients: int, stays: Stays = for_ever) -> World:
        """So many clients, the nth of which leaves after `stays(n)` seconds, if not None."""
        loop = VirtualLoop(Random(self.seed), max_steps=50_000_000)
        try:
            loop.run_until_complete(self._run(loop, clients, stays))
        finally:
            loop.close()
        return self

    async def _run(self, loop: VirtualLoop, clients: int, stays: Stays) -> None:
        store, clock = MemoryStore(), VirtualClock(loop)
        async with service(store, self.gateway, self.app, clock=clock, random=self.random) as push:
            self.gateway.service = self.app.push = push
            self.clients = [Client(self.gateway, f"{self.seed}-{n}") for n in range(clients)]
            async with anyio.create_task_group() as group:
                for n, client in enumerate(self.clients):
                    group.start_soon(self._visit, client, stays(n))
            await anyio.sleep(1)
            for client in self.clients:  # whom nobody has told of is found by the next text
                if not client.here:
                    await push.publish(channel_of(client.name), "still there?")
            await anyio.sleep(20)  # longer than any grace
            for client in self.clients:
                await self._look(push, client.name)
        assert await check_store(store) == []

    async def _visit(self, client: Client, leaves: float | None) -> None:
        await anyio.sleep(self.random.uniform(0, 1))
        async with anyio.create_task_group() as group:
            group.start_soon(client.dial)
            if leaves is not None:
                await anyio.sleep(leaves)
                await client.leave()

    async def _look(self, push: Service, name: str) -> None:
        """What is left of a connection, when all is over."""
        head = await push.db.get(CONNECTION.job(name))
        assert head is not None
        for n in range(1, head.state.line.asked + 1):
            command = await push.db.get(COMMAND.job(name, n))
            assert command is not None
            self.commands.append(command.state)
        self.members.append(await push.members(channel_of(name)))

    def texts(self) -> list[list[str]]:
        """What each client got."""
        return [[text for _, text in client.got] for client in self.clients]

    def posted_early(self) -> list[tuple[str, int, bool]]:
        return [post for post in self.gateway.posted if not post[2]]


# --- accept, subscribe, publish: the new connection gets it ---------------------------------------


def exactly_once(worlds: int, clients: int) -> None:
    for seed in range(worlds):
        world = World(seed, SLOW, Room(calls=seed % 2 == 1)).run(clients)
        assert world.texts() == [["hi"]] * clients, seed
        assert world.posted_early() == [], seed
        assert {one.label for one in world.commands} == {"delivered"}, seed
        assert world.members == [(client.name,) for client in world.clients], seed


def test_a_new_connection_gets_its_own_message_once() -> None:
    exactly_once(worlds=2, clients=20)


@pytest.mark.acceptance
def test_a_new_connection_gets_its_own_message_once_in_10_000_runs() -> None:
    exactly_once(worlds=100, clients=100)


@pytest.mark.parametrize("calls", [False, True])
def test_where_the_app_refuses_nothing_is_posted(calls: bool) -> None:
    world = World(1, SLOW, Room(refuses=True, calls=calls)).run(20)
    assert {client.status for client in world.clients} == {403}
    assert world.gateway.posted == []
    assert {(one.label, one.why) for one in world.commands} == (
        {("dropped", "Refused")} if calls else set()
    )
    assert world.members == [()] * 20


# --- a client that leaves -------------------------------------------------------------------------


def leaving(seed: int, clients: int) -> None:
    """One client for each moment of the six seconds in which all of it happens."""
    world = World(seed, SLOW, Room(calls=seed % 2 == 1)).run(
        clients, stays=lambda n: 6.5 * n / clients
    )
    assert world.members == [()] * clients
    assert world.gateway.connections == frozenset()
    assert {one.label for one in world.commands} <= {"delivered", "dropped"}
    assert all(texts in ([], ["hi"]) for texts in world.texts())
    assert sorted(world.app.ends) == sorted(world.app.answered)


def test_a_client_that_leaves_at_any_moment_leaves_nothing() -> None:
    leaving(1, clients=40)


@pytest.mark.acceptance
def test_a_client_that_leaves_at_any_moment_leaves_nothing_often() -> None:
    for seed in range(20):
        leaving(seed, clients=100)


# --- how soon -------------------------------------------------------------------------------------


def latencies(worlds: int, clients: int) -> list[float]:
    """From the open connection to the text, in seconds, shortest first."""
    found = []
    for seed in range(worlds):
        world = World(seed, FAST).run(clients)
        found += [one.got[0][0] - one.opened for one in world.clients if one.opened is not None]
    return sorted(found)


@pytest.mark.acceptance
def test_a_fast_gateway_is_noticed_within_a_probe_interval_always() -> None:
    quick(latencies(worlds=20, clients=100))


def test_a_fast_gateway_is_noticed_within_a_probe_interval() -> None:
    quick(latencies(worlds=1, clients=40))


def quick(found: list[float]) -> None:
    p99 = found[len(found) * 99 // 100]
    p50 = found[len(found) // 2]
    print(f"\n{len(found)} runs: p50 {p50 * 1_000:.0f} ms, p99 {p99 * 1_000:.0f} ms")
    assert p99 < DEFAULT.probe_ms / 1_000


# --- what takes longer to prove -------------------------------------------------------------------


@pytest.mark.acceptance
@pytest.mark.parametrize("check", CHECKS[:-1], ids=lambda check: check.name)
def test_it_holds_where_timers_are_overdue(check: Check) -> None:
    report = prove(replace(check, faults=replace(check.faults, overdue=True)))
    assert (report.wrong, report.unreached, report.vacuous) == ([], [], [])


# --- over real sockets ----------------------------------------------------------------------------


PATIENT = Terms(callback_ms=300_000, grace_ms=600_000)
"""For a machine that has other things to do."""


class WebRoom(Room):
    """The same app, which calls the service over HTTP."""

    api = ""

    async def call(self, call: Call) -> Replied:
        if call.kind != "open":
            return Replied()
        path = f"/connections/{call.connection}/commands"
        async with httpx.AsyncClient(base_url=self.api, timeout=300) as client:
            for one in wishes(call.connection):
                answer = await client.post(path, **signed("POST", path, [one]))
                assert answer.status_code == 202
        return Replied()


async def over_sockets(path: Path, clients: int, at_once: int) -> None:
    room, quirks = WebRoom(), Quirks(delay=(0, 0.5), lag=(0, 0.01), missed=0.2)
    heard: list[list[str]] = []
    slots = anyio.Semaphore(at_once)
    async with (
        SQLiteStore.open(path) as store,
        everything(store, room, quirks=quirks, random=Random(1), terms=PATIENT) as (
            places,
            gateway,
        ),
    ):
        room.api = places.api

        async def visit() -> None:
            async with slots, connect(places.websocket, open_timeout=None) as client:
                texts = [str(await client.recv())]
                with anyio.move_on_after(0.5):
                    texts.append(str(await client.recv()))
                heard.append(texts)

        async with anyio.create_task_group() as group:
            for _ in range(clients):
                group.start_soon(visit)
        for connection in {name for name, _, _ in gateway.posted}:
            while await places.push.members(channel_of(connection)):
                await anyio.sleep(0.02)
    assert heard == [["hi"]] * clients
    assert all(there for _, _, there in gateway.posted)


async def test_over_real_sockets(tmp_path: Path) -> None:
    await over_sockets(tmp_path / "push.db", clients=4, at_once=4)


@pytest.mark.acceptance
async def test_over_real_sockets_often(tmp_path: Path) -> None:
    await over_sockets(tmp_path / "push.db", clients=500, at_once=25)


async def test_a_refused_client_is_told_so() -> None:
    async with everything(MemoryStore(), Room(refuses=True)) as (places, gateway):
        with pytest.raises(InvalidStatus) as refused:
            await connect(places.websocket)
        assert refused.value.response.status_code == 403
        assert gateway.posted == []


async def test_a_client_that_gives_up_is_not_left_open() -> None:
    room, quirks = Room(), Quirks(delay=(0.5, 0.5))
    async with everything(MemoryStore(), room, quirks=quirks) as (places, gateway):
        with pytest.raises(TimeoutError):
            await connect(places.websocket, open_timeout=0.2)
        while not room.answered:
            await anyio.sleep(0.02)
        (name,) = room.answered
        job = CONNECTION.job(name)
        await places.push.db.wait(job, lambda state: isinstance(state, Closed), timeout=60)
        assert await places.push.members(channel_of(name)) == ()
    assert gateway.connections == frozenset()
