"""The wires of one process: the handlers of a request's tasks, over TCP.

    async with opened(fetch_token) as wires, Scheduler(db, wires.handlers): ...

Handlers may run twice, late, or in another process than the one that dialled. So an attempt opens
one wire, once; a wire carries one frame; what was read is read again; a wire that is not here is
broken. Whatever nobody closes is closed at its request's deadline.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

import anyio
from anyio.abc import SocketStream

from examples.transport.frames import BROKEN, BadFrame, Frame, Frames, pack
from examples.transport.model import Close, Dial, Read, Reconcile, Write
from scheduler import Context, Failure, Handler, Limits
from stmflow import Clock, SystemClock

FetchToken = Callable[[bool], Awaitable[str]]
"""`await fetch(fresh)`: the credentials; fresh ones where those at hand were refused."""

CLASSES: Final = ("Throttled", "Transient", "Auth", "Conflict", "Fatal")
NO_WAY: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH)
LOOK_SECONDS: Final = 1.0
"""Between two looks for wires that nobody has closed."""
ASK_MS: Final = 2_000
"""How long to wait for what became of a key, before it is asked again."""


@dataclass(slots=True, eq=False)
class Wire:
    """An open connection. `sent`: whether its one frame was written; None: not tried yet."""

    name: str
    stream: SocketStream
    frames: Frames
    sent: bool | None = None
    answer: Frame | None = None
    writing: anyio.Lock = field(default_factory=anyio.Lock)
    reading: anyio.Lock = field(default_factory=anyio.Lock)


@dataclass(slots=True, eq=False)
class Place:
    """An attempt that was dialled here, or is not to be: at most one wire in all its life."""

    deadline: int
    wire: Wire | None = None
    closed: bool = False


def limits(at_once: int) -> Limits:
    """Slots for so many requests. Reads wait for a peer that may never speak, and only a `Close`
    ends them: they must not take every slot."""
    return Limits(slots=3 * at_once, per_type={Read.tag: 2 * at_once})


@asynccontextmanager
async def opened(fetch_token: FetchToken, *, clock: Clock | None = None) -> AsyncIterator[Wires]:
    """Wires that are all closed in the end.

    Args:
        fetch_token: gives the credentials that go with each frame; they are in no history.
        clock: by which tasks give up.
    """
    wires = Wires(fetch_token, SystemClock() if clock is None else clock)
    async with anyio.create_task_group() as group:
        group.start_soon(wires.look)
        try:
            yield wires
        finally:
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await wires.shut()


class Wires:
    """The handlers, and the wires that they share. Made by `opened`."""

    def __init__(self, fetch_token: FetchToken, clock: Clock) -> None:
        self._fetch_token = fetch_token
        self._clock = clock
        self._places: dict[tuple[str, int], Place] = {}

    @property
    def handlers(self) -> Mapping[type, Handler]:
        """Task type → handler."""
        return {
            Dial: self._dial,
            Write: self._write,
            Read: self._read,
            Close: self._close,
            Reconcile: self._reconcile,
        }

    @property
    def open(self) -> int:
        """How many wires are open."""
        return sum(place.wire is not None for place in self._places.values())

    async def look(self) -> None:
        """Close, for ever, what nobody has closed in time, and forget it."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            now = self._clock.now()
            for at in [at for at, place in self._places.items() if place.deadline <= now]:
                await _shut(self._places.pop(at))

    async def shut(self) -> None:
        """Close every wire."""
        for place in [*self._places.values()]:
            await _shut(place)

    # --- the handlers -----------------------------------------------------------------------------

    async def _dial(self, task: Dial, context: Context) -> dict[str, Any]:
        place = self._places.get((task.key, task.attempt))
        if place is not None:
            if place.wire is None or place.wire.sent is not None:
                raise Failure("Reset")
            return {"wire": place.wire.name}
        place = self._places[task.key, task.attempt] = Place(task.deadline)
        stream = await self._connected(task.peer, task.until)
        place.wire = Wire(token_hex(8), stream, Frames(stream))
        if place.closed:
            await _shut(place)
            raise Failure("Reset")
        return {"wire": place.wire.name}

    async def _write(self, task: Write, context: Context) -> None:
        wire = self._wire(task.key, task.attempt, task.wire)
        token = await self._fetch_token(task.fresh)
        async with wire.writing:
            if wire.sent is None:
                wire.sent = False
                frame = Frame("do", task.key, task.attempt, task.body, token)
                with self._within(task.until):
                    await _send(wire.stream, frame)
                wire.sent = True
        if not wire.sent:
            raise Failure("Reset")

    async def _read(self, task: Read, context: Context) -> dict[str, Any]:
        wire = self._wire(task.key, task.attempt, task.wire)
        async with wire.reading:
            with self._within(task.until):
                while wire.answer is None:
                    said = await _next(wire.frames)
                    if (said.key, said.attempt) == (task.key, task.attempt):
                        wire.answer = said  # else it is about something else
        said = wire.answer
        if said.what == "Ok":
            return {"body": said.body}
        if said.what in CLASSES:
            raise Failure(said.what, said.after_ms)
        raise Failure("Corrupt")

    async def _close(self, task: Close, context: Context) -> None:
        never = Place(task.deadline)
        place = self._places.setdefault((task.key, task.attempt), never)
        place.closed = True
        await _shut(place)

    async def _reconcile(self, task: Reconcile, context: Context) -> dict[str, Any]:
        """Over a connection of its own: the question may be asked as often as need be."""
        until = min(task.until, self._clock.now() + ASK_MS)
        stream = await self._connected(task.peer, until)
        try:
            with self._within(until):
                await _send(stream, Frame("settle", task.key, task.attempt))
                said = await _next(Frames(stream))
        finally:
            await anyio.aclose_forcefully(stream)
        if (said.key, said.attempt) != (task.key, task.attempt):
            raise Failure("Corrupt")
        if said.what not in ("Carried", "Void"):
            raise Failure("Unsettled")
        return {"body": said.body if said.what == "Carried" else None}

    # --- parts ------------------------------------------------------------------------------------

    def _wire(self, key: str, attempt: int, name: str) -> Wire:
        place = self._places.get((key, attempt))
        if place is None or place.wire is None or place.wire.name != name:
            raise Failure("Reset")
        return place.wire

    def _within(self, until: int) -> AbstractContextManager[None]:
        return _within((until - self._clock.now()) / 1_000)

    async def _connected(self, peer: str, until: int) -> SocketStream:
        host, _, port = peer.rpartition(":")
        with self._within(until):
            try:
                return await anyio.connect_tcp(host, int(port))
            except socket.gaierror:
                raise Failure("Unresolved") from None
            except OSError as error:
                raise Failure("Unreachable" if _no_way(error) else "Refused") from None


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """So long and no longer; where there is no time at all, nothing is begun."""
    if seconds <= 0:
        raise Failure("TimedOut")
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise Failure("TimedOut") from None


async def _send(stream: SocketStream, frame: Frame) -> None:
    try:
        await stream.send(pack(frame))
    except BROKEN:
        raise Failure("Reset") from None


async def _next(frames: Frames) -> Frame:
    try:
        return await frames.next()
    except BadFrame:
        raise Failure("Corrupt") from None
    except BROKEN:
        raise Failure("Reset") from None


async def _shut(place: Place) -> None:
    wire, place.wire = place.wire, None
    if wire is not None:
        await anyio.aclose_forcefully(wire.stream)


def _no_way(error: BaseException | None) -> bool:
    """Whether the network knows no way there: of several addresses, to none of them."""
    if isinstance(error, BaseExceptionGroup):
        return all(_no_way(one) for one in error.exceptions)
    if isinstance(error, OSError) and error.errno is None:
        return _no_way(error.__cause__)
    return isinstance(error, OSError) and error.errno in NO_WAY
