"""The wires of one process, over TCP: they perform a session's tasks, and take a server's calls.

    async with opened() as wires, Scheduler(db, wires.handlers): ...

A packet is its length in four bytes and JSON. Handlers may run twice: a packet is written once and
read as often as it is asked for, by its number; and a wire that is not here is broken.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from examples.session.model import (
    BATCH,
    BODY_BYTES,
    Dial,
    Greet,
    Hang,
    Read,
    Shake,
    Shaken,
    Terms,
    Welcome,
    Write,
)
from examples.session.server import SERVER
from scheduler import Context, Failure, Handler
from stmflow import Clock, SystemClock, Transactor

PACKET_BYTES: Final = 8 * BATCH * BODY_BYTES
"""The longest packet: JSON makes of a byte six at most."""

_LENGTH: Final = struct.Struct(">I")
_GONE: Final = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    ValueError,
    KeyError,
    TypeError,
)
"""What a wire that is broken raises, or one on which something is that cannot be read."""

Packet = dict[str, Any]


@dataclass(slots=True, eq=False)
class Wire:
    """An open connection. `wrote`, `got`: packets so far; `last`: the one read last."""

    name: str
    stream: SocketStream
    wrote: int = 0
    got: int = 0
    last: Packet = field(default_factory=dict)
    writing: anyio.Lock = field(default_factory=anyio.Lock)
    reading: anyio.Lock = field(default_factory=anyio.Lock)
    _length: int | None = None
    _buffer: BufferedByteReceiveStream = field(init=False)

    def __post_init__(self) -> None:
        self._buffer = BufferedByteReceiveStream(self.stream)

    async def write(self, number: int, packet: Packet) -> None:
        """The packet of that number, unless it was written before. Raises Failure."""
        async with self.writing:
            if number < self.wrote:
                return
            self.wrote = number + 1
            data = json.dumps(packet).encode()
            try:
                await self.stream.send(_LENGTH.pack(len(data)) + data)
            except _GONE:
                raise Failure("Broken") from None

    async def read(self, number: int) -> Packet:
        """The packet of that number: the last one, or the next. Raises Failure."""
        async with self.reading:
            if number >= self.got:
                try:
                    self.last = await self._next()
                except _GONE:
                    raise Failure("Broken") from None
                self.got += 1
            return self.last

    async def _next(self) -> Packet:
        """Cancelled, it goes on where it was."""
        if self._length is None:
            (self._length,) = _LENGTH.unpack(await self._buffer.receive_exactly(_LENGTH.size))
        if self._length > PACKET_BYTES:
            raise ValueError("a packet that is too long")
        data = await self._buffer.receive_exactly(self._length)
        self._length = None
        packet: Packet = json.loads(data)
        return packet


class Wires:
    """The handlers, and the wires that they share. Made by `opened`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wires: dict[str, Wire] = {}
        self._dialled: dict[str, tuple[int, str]] = {}

    @property
    def handlers(self) -> Mapping[type, Handler]:
        """Task type → handler."""
        return {
            Dial: self._dial,
            Shake: self._shake,
            Greet: self._greet,
            Welcome: self._welcome,
            Write: self._write,
            Read: self._read,
            Hang: self._hang,
        }

    @property
    def open(self) -> int:
        """How many wires are open."""
        return len(self._wires)

    async def take_calls(
        self,
        db: Transactor,
        instance: str,
        terms: Terms,
        port: int = 0,
        *,
        task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take connections for a server, until cancelled: who introduces itself in time is led to
        its session; who does not, or is not known there, is hung up on. Starts with its port."""

        async def call(stream: SocketStream) -> None:
            wire = self._add(stream)
            try:
                with anyio.fail_after(terms.shake_ms / 1_000):
                    hello = await wire.read(0)
                wire.got = 0
                shaken = Shaken(instance=instance, wire=wire.name, terms=terms, **hello)
                answer = await db.send(SERVER.job(instance, shaken.client), shaken)
                if answer.rejected:
                    await wire.write(0, {"refused": answer.code})
                    await self._close(wire.name)
            except (TimeoutError, Failure, *_GONE):
                await self._close(wire.name)

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        async with listener:
            task_status.started(listener.extra(SocketAttribute.local_port))
            await listener.serve(call)

    async def shut(self) -> None:
        """Close every wire."""
        for name in [*self._wires]:
            await self._close(name)

    # --- the handlers -----------------------------------------------------------------------------

    async def _dial(self, task: Dial, context: Context) -> Packet:
        number, name = self._dialled.get(task.client, (-1, ""))
        if number == task.number:
            return {"wire": self._wire(name).name}
        host, _, port = task.peer.rpartition(":")
        try:
            with anyio.fail_after(max(task.until - self._clock.now(), 0) / 1_000):
                wire = self._add(await anyio.connect_tcp(host, int(port)))
        except (OSError, TimeoutError):
            raise Failure("Unopened") from None
        self._dialled[task.client] = (task.number, wire.name)
        return {"wire": wire.name}

    async def _shake(self, task: Shake, context: Context) -> None:
        hello = {
            "client": task.client,
            "session": task.session,
            "known": task.known,
            "sends": task.sends,
            "wants": task.wants,
        }
        await self._wire(task.wire).write(0, hello)

    async def _greet(self, task: Greet, context: Context) -> Packet:
        answer = await self._wire(task.wire).read(0)
        if "session" in answer:
            return {"session": answer["session"], "ack": answer.get("ack")}
        raise Failure("Mismatch" if answer.get("refused") == "Mismatch" else "Rejected")

    async def _welcome(self, task: Welcome, context: Context) -> None:
        await self._wire(task.wire).write(0, {"session": task.session, "ack": task.ack})

    async def _write(self, task: Write, context: Context) -> None:
        packet = {
            "session": task.session,
            "seq": task.seq,
            "ack": task.ack,
            "bodies": [body.decode("latin-1") for body in task.bodies],
            "beat": task.beat,
        }
        await self._wire(task.wire).write(task.number + 1, packet)

    async def _read(self, task: Read, context: Context) -> Packet:
        packet = await self._wire(task.wire).read(task.number + 1)
        try:
            return {**packet, "bodies": [body.encode("latin-1") for body in packet["bodies"]]}
        except _GONE:
            raise Failure("Broken") from None

    async def _hang(self, task: Hang, context: Context) -> None:
        await self._close(task.wire)

    # --- parts ------------------------------------------------------------------------------------

    def _add(self, stream: SocketStream) -> Wire:
        wire = Wire(token_hex(8), stream)
        self._wires[wire.name] = wire
        return wire

    def _wire(self, name: str) -> Wire:
        if name not in self._wires:
            raise Failure("Broken")
        return self._wires[name]

    async def _close(self, name: str) -> None:
        wire = self._wires.pop(name, None)
        if wire is not None:
            await anyio.aclose_forcefully(wire.stream)


@asynccontextmanager
async def opened(*, clock: Clock | None = None) -> AsyncIterator[Wires]:
    """Wires that are all closed in the end."""
    wires = Wires(SystemClock() if clock is None else clock)
    try:
        yield wires
    finally:
        with anyio.CancelScope(shield=True):
            await wires.shut()
