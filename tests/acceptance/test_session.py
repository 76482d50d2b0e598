"""Two processes, and a wire between them that is cut all the time: nothing lost, nothing twice."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.project import ROOT

CUT_SECONDS = 0.05
PATIENT = {"retries": 1_000_000, "base_ms": 1, "cap_ms": 10, "grace_ms": 600_000}


@dataclass(eq=False)
class Proxy:
    """Between client and server. `cut_seconds`: the life of a connection, once the server has said
    something on it (None: for ever). `refuses`: while set, nobody comes through."""

    port: int
    server: int
    cut_seconds: float | None
    cuts: int = 0
    calls: int = 0

    async def call(self, client: SocketStream) -> None:
        self.calls += 1
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self.server)
            except OSError:
                return
            async with server, anyio.create_task_group() as group:
                group.start_soon(self._carry, client, server, group.cancel_scope, False)
                group.start_soon(self._carry, server, client, group.cancel_scope, True)

    async def _carry(
        self, one: SocketStream, other: SocketStream, wire: anyio.CancelScope, cuts: bool
    ) -> None:
        try:
            async for data in one:
                await other.send(data)
                if cuts and self.cut_seconds is not None:
                    wire.deadline = min(wire.deadline, anyio.current_time() + self.cut_seconds)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            if anyio.current_time() >= wire.deadline:
                self.cuts += cuts
                reset(one)
            wire.cancel()


def reset(stream: SocketStream) -> None:
    """Its end will be a RST."""
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def proxy(server: int, cut_seconds: float | None) -> AsyncIterator[Proxy]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port: int = listener.extra(SocketAttribute.local_port)
    between = Proxy(port, server, cut_seconds)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, between.call)
        yield between
        group.cancel_scope.cancel()


class Side:
    """One side of a session, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    async def told(self, *what: str) -> dict[str, Any]:
        """The next line that tells all of this."""
        assert self.process.stdout is not None
        while True:
            line = await anyio.to_thread.run_sync(
                self.process.stdout.readline, abandon_on_cancel=True
            )
            assert line, f"the process has ended: {self.process.wait()}"
            found: dict[str, Any] = json.loads(line)
            if set(what) <= set(found):
                return found

    async def ended(self) -> dict[str, Any]:
        """What it tells of its session when it is asked to close it; and nothing is left of it.

        The client closes first: one whose server has gone begins another session.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        last = await self.told("session", "lost")
        assert await self.told("armed") == {"wires": 0, "armed": 0, "sockets": 0}
        return last


@contextmanager
def side(command: str, terms: dict[str, Any], *options: object) -> Iterator[Side]:
    words = [str(option) for option in options]
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.session", command, "--terms", json.dumps(terms), *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Side(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- a wire that is cut ---------------------------------------------------------------------------


async def test_some_messages_over_a_wire_that_is_cut() -> None:
    await messages_over_a_wire_that_is_cut(500, cuts=1)


@pytest.mark.acceptance
async def test_100_000_messages_over_a_wire_that_is_cut_every_50_ms() -> None:
    await messages_over_a_wire_that_is_cut(100_000, cuts=300)


async def messages_over_a_wire_that_is_cut(messages: int, cuts: int) -> None:
    """So many each way, all of them in one session; and then nothing is left."""
    port = free_port()
    async with proxy(port, CUT_SECONDS) as between:
        with (
            side("serve", PATIENT, "--port", port, "--messages", messages) as there,
            side(
                "call", PATIENT, "--peer", f"127.0.0.1:{between.port}", "--messages", messages
            ) as here,
        ):
            sessions = [await each.told("session") for each in (here, there)]
            got = [await each.told("delivered") for each in (here, there)]
            assert got == [{"delivered": messages, "wrong": 0}] * 2
            between.cut_seconds = None
            last = [await each.ended() for each in (here, there)]
            assert [each["session"] for each in last] == [each["session"] for each in sessions]
        assert between.cuts >= cuts
        print(f"\n{messages} messages each way, {between.cuts} cuts, {last[0]['dials']} dials")


# --- a server that forgets ------------------------------------------------------------------------


async def test_a_server_that_restarts_is_met_anew() -> None:
    """One mismatch, then a fresh session."""
    port = free_port()
    async with proxy(port, None) as between:
        peer = f"127.0.0.1:{between.port}"
        with side("call", PATIENT, "--peer", peer) as here:
            with side("serve", PATIENT, "--port", port) as there:
                first = await here.told("session")
                assert await there.told("session") == first
            with side("serve", PATIENT, "--port", port) as again:
                second = await here.told("number")
                assert (second["number"], second["error"]) == (2, "Mismatch")
                assert await again.told("session") == {"session": second["session"]}
                assert (await here.ended())["session"] == second["session"]


# --- a client whose timers sleep ------------------------------------------------------------------


async def test_a_client_whose_timers_are_throttled_keeps_its_session() -> None:
    """The server beats and the client answers, by no timer of its own."""
    port = free_port()
    terms = {**PATIENT, "beat_ms": 200, "misses": 10}
    with side("serve", terms, "--port", port) as there:
        await there.told("port")  # who calls in vain tries again when its clock moves
        with side("call", terms, "--peer", f"127.0.0.1:{port}", "--throttle", 60_000) as here:
            first = await here.told("session")
            await there.told("session")
            await anyio.sleep(3)  # longer than ten beats: a client that is silent would be dropped
            last = await here.ended()
            assert (last["session"], last["lost"]) == (first["session"], 0)
            assert (await there.ended())["session"] == first["session"]
