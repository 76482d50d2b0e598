"""Sessions over real sockets, in one process: who shows what to whom, and who says nonsense."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from examples.session import CLIENT, SERVER, Close, Connect, Deliver, Post, Shaken, Terms, wires
from examples.session.check import route
from examples.session.handle import Refused, StaleHandle, take, use
from scheduler import Scheduler
from stmflow import CELL, Answer, StmflowError, Transactor
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore

RENEWING = Terms(base_ms=1, beat_ms=None, renew_ms=20)
SEND = Transactor.send
HERE, THERE = CLIENT.job("c"), SERVER.job("server", "c")


class Host:
    """One who gives tokens for sessions, and takes them: each once, while it is willing."""

    def __init__(self) -> None:
        self.given = 0
        self.taken: list[str] = []
        self.willing = True

    async def shows(self, session: str) -> str:
        self.given += 1
        return f"{session}#{self.given}"

    async def believes(self, client: str, session: str, shown: str) -> bool:
        good = self.willing and shown.startswith(f"{session}#") and client == "c"
        if good and shown not in self.taken:
            self.taken.append(shown)
        return good


@asynccontextmanager
async def listening(
    host: Host, terms: Terms, store: Any = None
) -> AsyncIterator[tuple[Transactor, int]]:
    """Both sides, in one store, and the port that they meet at; in the end nothing is left."""
    async with (
        Transactor(store or MemoryStore(), [CLIENT, SERVER], transactional={Deliver: route}) as db,
        wires.opened(shows=host.shows, believes=host.believes) as sockets,
        Scheduler(db, sockets.handlers),
        anyio.create_task_group() as group,
    ):
        port = await group.start(sockets.take_calls, db, "server", terms)
        with anyio.fail_after(20):
            yield db, port
            await db.wait(THERE, lambda server: server.status == "gone")
            await db.wait(HERE, lambda client: client.status == "gone")
            while sockets.open:
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()


async def until(good: object) -> None:
    while not good():  # type: ignore[operator]
        await anyio.sleep(0.005)


async def test_who_a_client_is_is_shown_again_and_again() -> None:
    host = Host()
    async with listening(host, RENEWING) as (db, port):
        await db.send(HERE, Connect("c", f"127.0.0.1:{port}", "n", RENEWING))
        await until(lambda: len(host.taken) >= 4)
        await db.send(HERE, Post(b"still here"))
        inbox = await db.wait(CELL.job("inbox", "server", "n.1"), lambda held: held is not None)
        assert inbox.state.value == (b"still here",)
        (client, server) = [(await db.get(job)).state for job in (HERE, THERE)]  # type: ignore[union-attr]
        assert (client.number, client.dials, server.number) == (1, 1, 1)
        for job in (HERE, THERE):
            await db.send(job, Close())
    assert host.taken == [f"n.1#{number + 1}" for number in range(len(host.taken))]


async def test_who_is_not_believed_any_more_is_not_let_in_again() -> None:
    """The server ends the session; the client comes back as a new one, and that is final."""
    host = Host()
    async with listening(host, RENEWING) as (db, port):
        await db.send(HERE, Connect("c", f"127.0.0.1:{port}", "n", RENEWING))
        await until(lambda: len(host.taken) >= 2)
        host.willing = False
        server = await db.wait(THERE, lambda server: server.status == "gone")
        client = await db.wait(HERE, lambda client: client.status == "gone")
        assert (server.state.error.name, client.state.error.name) == ("Rejected", "Rejected")
        assert (client.state.dials, server.state.number) == (2, 1)


async def test_what_is_shown_is_in_no_block(tmp_path: Path) -> None:
    host = Host()
    async with (
        SQLiteStore.open(tmp_path / "jobs.db") as store,
        listening(host, RENEWING, store) as (db, port),
    ):
        await db.send(HERE, Connect("c", f"127.0.0.1:{port}", "n", RENEWING))
        await until(lambda: len(host.taken) >= 2)
        for job in (HERE, THERE):
            await db.send(job, Close())
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"127.0.0.1" in stored
    assert b"n.1#" not in stored


async def test_a_listener_outlives_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs up; who calls again is answered."""
    host, terms, away = Host(), Terms(base_ms=1), [True, True]

    async def send(self: Transactor, target: Any, event: Any, **options: Any) -> Answer:
        if type(event) is Shaken and away:
            away.pop()
            raise StmflowError("the store is away")
        return await SEND(self, target, event, **options)

    async with listening(host, terms) as (db, port):
        monkeypatch.setattr(Transactor, "send", send)
        await db.send(HERE, Connect("c", f"127.0.0.1:{port}", "n", terms))
        client = await db.wait(HERE, lambda client: client.status == "connected")
        assert (client.state.dials, client.state.session) == (3, "n.1")
        for job in (HERE, THERE):
            await db.send(job, Close())


async def to_the_end(stream: SocketStream) -> None:
    """Until the other side hangs up."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await stream.receive()


async def test_a_handle_is_good_until_its_side_moves_on() -> None:
    """Another process that moves it is enough."""
    store, terms = MemoryStore(), Terms(beat_ms=None)
    async with Transactor(store, [CLIENT]) as db, Transactor(store, [CLIENT]) as elsewhere:
        await db.send(HERE, Connect("c", "host:1", "n", terms))
        first = await take(db, HERE)
        second = await use(db, first, Post(b"a"))
        assert second.state.link.buffer == (b"a",)
        third = await use(elsewhere, second, Close())
        before = await db.get(HERE)
        for old in (first, second):
            for event in (Post(b"c"), Close()):
                with pytest.raises(StaleHandle):
                    await use(db, old, event)
        with pytest.raises(Refused, match="Ended"):
            await use(db, third, Post(b"c"))
        assert await use(db, third, Close()) == third
        assert await db.get(HERE) == before


HELLO: dict[str, object] = {
    "client": "c",
    "session": "s",
    "known": False,
    "sends": 0,
    "wants": 0,
    "shown": "s#1",
}
ANSWER: dict[str, object] = {"session": "n.1", "ack": 0}


def packet(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


NO_PACKETS = [b"", b"\xff\xff\xff\xff", *map(packet, (b"", b"{}", b"\xff", b"[" * 500_000))]
WRONG_HELLOS: list[dict[str, object]] = [
    {"client": 5},
    {"client": []},
    {"client": "c" * 5_000},
    {"client": "\ud800"},
    {"session": None},
    {"sends": -1},
    {"sends": 1 << 70},
    {"wants": "0"},
    {"known": 2},
    {"shown": None},
    {"wire": "another"},
    {"instance": "another"},
]
HELLOS: list[object] = [[], None, *({**HELLO, **wrong} for wrong in WRONG_HELLOS)]
WRONG_ANSWERS: list[dict[str, object]] = [
    {"ack": -1},
    {"ack": 1 << 70},
    {"ack": "0"},
    {"session": "\ud800"},
    {"x": 1},
]
ANSWERS: list[object] = [[], None, 5, *({**ANSWER, **wrong} for wrong in WRONG_ANSWERS)]


def each(said: list[object]) -> list[bytes]:
    return [*NO_PACKETS, *(packet(json.dumps(one).encode()) for one in said)]


@pytest.mark.parametrize("said", each(HELLOS), ids=itertools.count())
async def test_a_listener_outlives_who_says_nonsense(said: bytes) -> None:
    """Who talks nonsense is hung up on, and there is no session of his."""
    host, terms = Host(), Terms(base_ms=1, shake_ms=500)
    async with listening(host, terms) as (db, port):
        async with await anyio.connect_tcp("127.0.0.1", port) as stranger:
            await stranger.send(said)
            if said == b"":
                await stranger.send_eof()
            await to_the_end(stranger)
        await db.send(HERE, Connect("c", f"127.0.0.1:{port}", "n", terms))
        client = await db.wait(HERE, lambda client: client.status == "connected")
        assert (client.state.session, client.state.tries) == ("n.1", 0)
        for job in (HERE, THERE):
            await db.send(job, Close())


@pytest.mark.parametrize("said", each(ANSWERS), ids=itertools.count())
async def test_a_client_outlives_a_server_that_says_nonsense(said: bytes) -> None:
    """It tries as often as it may, and no more."""
    calls, terms = 0, Terms(retries=2, base_ms=1, beat_ms=None, shake_ms=200, grace_ms=1_000)

    async def answer(stream: SocketStream) -> None:
        nonlocal calls
        calls += 1
        async with stream:
            await stream.receive()
            await stream.send(said)
            await to_the_end(stream)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        Transactor(MemoryStore(), [CLIENT], transactional={Deliver: route}) as db,
        wires.opened() as sockets,
        Scheduler(db, sockets.handlers),
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        await db.send(HERE, Connect("c", f"127.0.0.1:{port}", "n", terms))
        with anyio.fail_after(20):
            await db.wait(HERE, lambda client: client.status in ("no-connection", "gone"))
        while sockets.open:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert calls in (1, 2)
