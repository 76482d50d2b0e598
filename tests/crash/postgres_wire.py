"""A line to a PostgreSQL server that knows where each message begins, and breaks at any of them.

Message formats: PostgreSQL documentation, "Frontend/Backend Protocol", Message Formats: a type of
one byte and a length of four, but for what opens a connection, which has no type.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

UP, DOWN = "up", "down"
"""From the client to the server, and back."""

BREAKS = {
    UP: ("before", "half", "after", "late", "stall"),
    DOWN: ("before", "half", "after", "stall"),
}
"""What may become of a message: the line is cut before it, in its middle, or once it is through;
the client is cut off and the server gets it a while *late*; or it is held back, and nobody is told,
until the client has given up."""
HOOK, HOOK_AFTER = "hook", "hook after"
"""Or the line holds, and something is done to the server before the message goes on, or after."""

_NO_TLS = {80_877_103, 80_877_104}
_CANCEL = 80_877_102
_COMMITS = b"COMMIT; NOTIFY"

Hook = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class Break:
    """Where the line breaks: at the message of that number, which way, in sessions of that name.

    `passed` counts the messages that were there to be broken, `fired` says that it has broken, and
    `over` that the hook is through.
    """

    session: str
    way: str
    at: int
    how: str
    late_seconds: float = 0.0
    hook: Hook | None = None
    passed: int = 0
    fired: bool = False
    over: bool = False


class Wire:
    """A TCP proxy on a thread of its own, as an async context manager.

    `url` is the server as seen through it, `behind` as it was given.

    Attributes:
        commits: commits that the server has confirmed of batches that wrote something, whether or
            not a client heard of it.
    """

    def __init__(self, url: str) -> None:
        self.behind = url
        self._target = urlsplit(url)
        self._break: Break | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self.url = ""
        self._hangs_up = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self.commits = 0

    async def __aenter__(self) -> Self:
        self._thread.start()
        await self._there(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._there(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def arm(self, where: Break | None) -> None:
        """Break there, once; None: nowhere."""
        self._break = where

    def linger(self, lingers: bool = True, /) -> None:
        """Leave lines open to the client that the server has ended, or no longer."""
        change = self._hangs_up.clear if lingers else self._hangs_up.set
        self._loop.call_soon_threadsafe(change)

    async def quiet(self) -> None:
        """Return when every line that was broken has ended at the server, too."""
        await self._there(self._quiet())

    async def _there(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # --- on the thread

    async def _listen(self) -> None:
        self._hangs_up.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://{self._target.username}@127.0.0.1:{port}{self._target.path}"

    async def _leave(self) -> None:
        self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _quiet(self) -> None:
        async with asyncio.timeout(30):
            while self._ending:
                await asyncio.wait(self._ending)

    async def hung_up(self) -> None:
        """Return when lines that the server has ended may be closed."""
        await self._hangs_up.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            await _Call(self, task, reader, writer).run()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._calls.discard(task)
            self._ending.discard(task)

    def ends(self, call: asyncio.Task[None]) -> None:
        """That call is broken."""
        self._ending.add(call)

    async def target(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to the server."""
        return await asyncio.open_connection(self._target.hostname, self._target.port)

    def due(self, session: str, way: str) -> Break | None:
        """The break, if it is at this message."""
        found = self._break
        if found is None or found.fired or (found.session, found.way) != (session, way):
            return None
        found.passed += 1
        if found.passed < found.at:
            return None
        found.fired = True
        return found


class _Cut(Exception):
    """The line has been cut; how it ends."""

    def __init__(self, where: Break) -> None:
        self.where = where


class _Call:
    """One connection."""

    def __init__(
        self,
        wire: Wire,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._wire = wire
        self._task = task
        self._client = reader, writer
        self._session = ""
        self._pid = 0
        self._committing = False
        self._late = b""
        self._stalled: Break | None = None

    async def run(self) -> None:
        """From the first message to the last."""
        reader, writer = self._client
        above: asyncio.StreamWriter | None = None
        try:
            while True:
                first = await _plain(reader)
                code = int.from_bytes(first[4:8], "big")
                if code not in _NO_TLS:
                    break
                writer.write(b"N")
            self._server = below, above = await self._wire.target()
            if code == _CANCEL:
                above.write(first)
                above.write_eof()
                await below.read()
                return
            words = first[8:].split(b"\0")
            names = dict(zip(words[::2], words[1::2], strict=False))
            self._session = names.get(b"application_name", b"").decode()
            await self._through(first)
        finally:
            writer.transport.abort()
            if above is not None:
                above.transport.abort()

    async def _through(self, first: bytes) -> None:
        ways = [
            asyncio.create_task(self._pass(UP, first)),
            asyncio.create_task(self._pass(DOWN)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not ways[0].done():
                await self._wire.hung_up()
        finally:
            for way in ways:
                way.cancel()
            ended = await asyncio.gather(*ways, return_exceptions=True)
        for one in ended:
            if isinstance(one, _Cut):
                await self._end(one.where)
        if self._stalled is not None:
            await self._end(self._stalled)

    async def _pass(self, way: str, data: bytes = b"") -> None:
        """Let messages through, one by one."""
        reader = (self._client if way == UP else self._server)[0]
        writer = (self._server if way == UP else self._client)[1]
        while True:
            data = data or await _message(reader)
            where = self._wire.due(self._session, way)
            if where is None:
                self._note(way, data)
                writer.write(data)
                await writer.drain()
            else:
                await self._break(where, data, writer)
            data = b""

    async def _break(self, where: Break, data: bytes, writer: asyncio.StreamWriter) -> None:
        if where.hook is not None:
            try:
                await self._hooked(where, data, writer)
            finally:
                where.over = True
            return
        self._wire.ends(self._task)
        if where.way == DOWN:  # whether or not it arrives, the server has said it
            self._note(DOWN, data)
        match where.how:
            case "before":
                raise _Cut(where)
            case "late":
                self._late = data
                raise _Cut(where)
            case "stall":
                await self._stall(where, data)
            case "half":
                data = data[: max(len(data) // 2, 1)]
            case _ if where.way == UP:
                self._note(UP, data)
        writer.write(data)
        await writer.drain()
        raise _Cut(where)

    async def _hooked(self, where: Break, data: bytes, writer: asyncio.StreamWriter) -> None:
        assert where.hook is not None
        if where.how == HOOK:
            await where.hook(self._pid)
        self._note(where.way, data)
        writer.write(data)
        await writer.drain()
        if where.how == HOOK_AFTER:
            await where.hook(self._pid)

    async def _stall(self, where: Break, data: bytes) -> None:
        """Hold everything back until the client has given up. That comes up this line; where it is
        the other way that is held, whoever reads there ends this."""
        self._stalled = where
        if where.way == DOWN:
            await asyncio.sleep(3_600)
        while await self._client[0].read(65_536):
            pass
        raise EOFError

    async def _end(self, where: Break) -> None:
        """Cut the client off, and hear the server out."""
        (below, above), (_, writer) = self._server, self._client
        if where.way == DOWN:
            writer.close()  # what was let through arrives
        else:
            writer.transport.abort()
        if self._late:
            await asyncio.sleep(where.late_seconds)
            self._note(UP, self._late)
            with suppress(OSError):
                above.write(self._late)
                await above.drain()
        with suppress(OSError, EOFError):
            above.write_eof()
            while True:
                self._note(DOWN, await _message(below))

    def _note(self, way: str, data: bytes) -> None:
        """What tells of the fate of a commit."""
        if way == UP:
            self._committing |= data[:1] == b"Q" and _COMMITS in data
        elif data[:1] == b"K":
            self._pid = int.from_bytes(data[5:9], "big")
        elif data[:1] == b"E":
            self._committing = False
        elif self._committing and data[:1] == b"C" and data[5:] == b"COMMIT\0":
            self._committing = False
            self._wire.commits += 1


async def _plain(reader: asyncio.StreamReader) -> bytes:
    """A message without a type."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "big") - 4)


async def _message(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(1) + await _plain(reader)
