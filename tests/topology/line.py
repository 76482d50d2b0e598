"""A line from one host to the database that can be cut, stalled, opened half, and healed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class Line:
    """A TCP proxy, as an async context manager; `url` is the database as seen from the host.

    It goes through the states that its methods name. `towards` may be set anew: what the host
    knows by one address is another server then.
    """

    def __init__(self, url: str) -> None:
        self._path = urlsplit(url)
        self.towards = (str(self._path.hostname), self._path.port or 5432)
        self.url = ""
        self._refuses = False
        self._open: dict[str, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._calls: set[asyncio.Task[None]] = set()
        self.heal()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user, path = self._path.username, self._path.path
        self.url = f"postgresql://{user}@127.0.0.1:{port}{path}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._hang_up()

    def heal(self) -> None:
        """Let everything through again, what was held back first."""
        self._refuses = False
        for way in self._open.values():
            way.set()

    async def cut(self) -> None:
        """End every connection at both ends, and refuse new ones."""
        self._refuses = True
        await self._hang_up()

    def stall(self) -> None:
        """Hold everything back, both ways; nobody is told."""
        self._open["up"].clear()
        self._open["down"].clear()

    def half(self) -> None:
        """Let the host's words through and hold the answers back."""
        self._open["down"].clear()

    async def _hang_up(self) -> None:
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        above = None
        try:
            if self._refuses:
                return
            below, above = await asyncio.open_connection(*self.towards)
            ways = {
                asyncio.create_task(self._pass("up", reader, above)),
                asyncio.create_task(self._pass("down", below, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, above):
                if end is not None:
                    end.transport.abort()

    async def _pass(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._open[way].wait()
                writer.write(data)
                await writer.drain()
