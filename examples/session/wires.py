"""The wires of one process, over TCP: they perform a session's tasks, and take a server's calls.

    async with opened() as wires, Scheduler(db, wires.handlers): ...

A packet is its length in four bytes and JSON. Handlers may run twice: a packet is written once and
read as often as it is asked for, by its number; and a wire that is not here is broken.

What a client has to show of itself (a token, say) is the host's: `shows` fetches it, bound to a
session, whenever it is written, and `believes` looks at it on the server, whenever it is read. It
goes from one to the other and into no job.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from pydantic_core import from_json

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
from stmflow import Clock, StmflowError, SystemClock, Transactor

PACKET_BYTES: Final = 8 * BATCH * BODY_BYTES
"""The longest packet: JSON makes of a byte six at most."""

_LENGTH: Final = struct.Struct(">I")
_GONE: Final = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    ValueError,
)
"""What a wire that is broken raises, or one on which something is that cannot be read."""

Shows: TypeAlias = Callable[[str], Awaitable[str]]
"""Session → what its client has to show of itself. May raise `Failure`: the wire is given up."""
Believes: TypeAlias = Callable[[str, str, str], Awaitable[bool]]
"""Client, session, what was shown → whether the server takes it for good. May raise `Failure`."""


class Hello(BaseModel):
    """What a client says first."""

    model_config = ConfigDict(strict=True, extra="forbid")

    client: str
    session: str
    known: bool
    sends: NonNegativeInt
    wants: NonNegativeInt
    shown: str


class Answer(BaseModel):
    """What the server says to that: the session and what it has of it, or why not."""

    model_config = ConfigDict(strict=True, extra="forbid")

    session: str = ""
    ack: NonNegativeInt = 0
    refused: str | None = None


class Messages(BaseModel):
    """What either side says then. `shown`: with a client's `renew`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    session: str
    seq: NonNegativeInt
    ack: NonNegativeInt
    bodies: list[str]
    beat: bool
    renew: bool
    shown: str = ""


async def nothing(session: str) -> str:
    """A client that has nothing to show."""
    return ""


async def everybody(client: str, session: str, shown: str) -> bool:
    """A server that takes whoever comes."""
    return True


@dataclass(slots=True, eq=False)
class Wire:
    """An open connection, of the client that has introduced itself on it, where it was not dialled
    here. `wrote`, `got`: packets so far; `last`: the one read last."""

    name: str
    stream: SocketStream
    client: str | None = None
    wrote: int = 0
    got: int = 0
    last: Any = None
    writing: anyio.Lock = field(default_factory=anyio.Lock)
    reading: anyio.Lock = field(default_factory=anyio.Lock)
    _length: int | None = None
    _buffer: BufferedByteReceiveStream = field(init=False)

    def __post_init__(self) -> None:
        self._buffer = BufferedByteReceiveStream(self.stream)

    async def write(self, number: int, packet: BaseModel) -> None:
        """The packet of that number, unless it was written before. Raises Failure."""
        async with self.writing:
            if number < self.wrote:
                return
            self.wrote = number + 1
            data = packet.model_dump_json(exclude_defaults=True).encode()
            try:
                await self.stream.send(_LENGTH.pack(len(data)) + data)
            except _GONE:
                raise Failure("Broken") from None

    async def read(self, number: int) -> Any:
        """The packet of that number: the last one, or the next. Raises Failure."""
        async with self.reading:
            if number >= self.got:
                try:
                    self.last = await self._next()
                except _GONE:
                    raise Failure("Broken") from None
                self.got += 1
            return self.last

    async def _next(self) -> Any:
        """Cancelled, it goes on where it was."""
        if self._length is None:
            (self._length,) = _LENGTH.unpack(await self._buffer.receive_exactly(_LENGTH.size))
        if self._length > PACKET_BYTES:
            raise ValueError("a packet that is too long")
        data = await self._buffer.receive_exactly(self._length)
        self._length = None
        return from_json(data)


class Wires:
    """The handlers, and the wires that they share. Made by `opened`."""

    def __init__(self, clock: Clock, shows: Shows, believes: Believes) -> None:
        self._clock = clock
        self._shows = shows
        self._believes = believes
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
        its session; who does not, or is not believed, or not known there, is hung up on. Starts
        with its port."""

        async def call(stream: SocketStream) -> None:
            wire = self._add(stream)
            try:
                with anyio.fail_after(terms.shake_ms / 1_000):
                    hello = Hello.model_validate(await wire.read(0))
                    believed = await self._believes(hello.client, hello.session, hello.shown)
                wire.client, wire.got = hello.client, 0
                said = hello.model_dump(exclude={"shown"})
                shaken = Shaken(instance=instance, wire=wire.name, terms=terms, **said)
                refused: str | None = "Rejected"
                if believed:
                    answer = await db.send(SERVER.job(instance, hello.client), shaken)
                    refused = answer.code if answer.rejected else None
                if refused is not None:
                    await wire.write(0, Answer(refused=refused))
                    await self._close(wire.name)
            except (TimeoutError, Failure, StmflowError, *_GONE):  # who calls again is answered
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

    async def _dial(self, task: Dial, context: Context) -> dict[str, Any]:
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
        hello = Hello(
            client=task.client,
            session=task.session,
            known=task.known,
            sends=task.sends,
            wants=task.wants,
            shown=await self._shows(task.session),
        )
        await self._wire(task.wire).write(0, hello)

    async def _greet(self, task: Greet, context: Context) -> dict[str, Any]:
        said = await self._wire(task.wire).read(0)
        try:
            answer = Answer.model_validate(said)
        except ValueError:
            raise Failure("Broken") from None
        if answer.refused is not None:
            raise Failure("Mismatch" if answer.refused == "Mismatch" else "Rejected")
        return {"session": answer.session, "ack": answer.ack}

    async def _welcome(self, task: Welcome, context: Context) -> None:
        await self._wire(task.wire).write(0, Answer(session=task.session, ack=task.ack))

    async def _write(self, task: Write, context: Context) -> None:
        wire = self._wire(task.wire)
        packet = Messages(
            session=task.session,
            seq=task.seq,
            ack=task.ack,
            bodies=[body.decode("latin-1") for body in task.bodies],
            beat=task.beat,
            renew=task.renew,
        )
        if task.renew and wire.client is None:
            packet.shown = await self._shows(task.session)
        await wire.write(task.number + 1, packet)

    async def _read(self, task: Read, context: Context) -> dict[str, Any]:
        wire = self._wire(task.wire)
        try:
            packet = Messages.model_validate(await wire.read(task.number + 1))
            bodies = [body.encode("latin-1") for body in packet.bodies]
        except ValueError:
            raise Failure("Broken") from None
        if packet.renew and wire.client is not None:
            believed = await self._believes(wire.client, packet.session, packet.shown)
            if not believed:
                raise Failure("Rejected")
        return {**packet.model_dump(exclude={"shown"}), "bodies": bodies}

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
async def opened(
    *, clock: Clock | None = None, shows: Shows = nothing, believes: Believes = everybody
) -> AsyncIterator[Wires]:
    """Wires that are all closed in the end."""
    wires = Wires(SystemClock() if clock is None else clock, shows, believes)
    try:
        yield wires
    finally:
        with anyio.CancelScope(shield=True):
            await wires.shut()
