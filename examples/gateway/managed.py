"""A managed gateway that behaves as badly as real ones do, for tests and for the demo.

It asks the service whether a connection may be, and opens it some time after the answer; until
then its API says 410, as for one that has ended. Its parts do not agree at once: a probe may
miss what is open. What it tells, and what it is told, takes its time and overtakes other things.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

import anyio

Send = Callable[[str], Awaitable[None]]
"""Give a text to the client. Raises ConnectionError where it has gone."""


class Callbacks(Protocol):
    """Whom it serves."""

    async def connect(self, connection: str) -> int: ...

    async def message(self, connection: str, text: str, delivery: str | None = None) -> object: ...

    async def disconnect(self, connection: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Quirks:
    """How badly. Times are seconds, each drawn evenly between two bounds.

    `delay`: from the service's yes to the open connection. `lag`: of every call, either way.
    `missed`: how likely a probe of an open connection is to find nothing. `mute`: how likely it is
    never to tell of an end.
    """

    delay: tuple[float, float] = (0, 0)
    lag: tuple[float, float] = (0, 0)
    missed: float = 0
    mute: float = 0


class Managed:
    """The gateway. `service` is set before the first client comes.

    Attributes:
        posted: (connection, number, whether it was open) of every post that has come here.
    """

    service: Callbacks

    def __init__(self, quirks: Quirks, random: Random) -> None:
        self.quirks = quirks
        self.posted: list[tuple[str, int, bool]] = []
        self._random = random
        self._open: dict[str, tuple[Send, Callable[[], None]]] = {}
        self._taken: dict[str, int] = {}

    @property
    def connections(self) -> frozenset[str]:
        """Those that are open."""
        return frozenset(self._open)

    # --- from the client's side -----------------------------------------------------------------

    async def admit(self, connection: str) -> int:
        """What the service answers; where it is 200, the connection may be opened on return."""
        await self._lag()
        status = await self.service.connect(connection)
        if status == 200:
            await anyio.sleep(self._random.uniform(*self.quirks.delay))
        return status

    def open(self, connection: str, send: Send, hang_up: Callable[[], None]) -> None:
        """From here on it is open. `hang_up` is called where the service has it deleted."""
        self._open[connection] = send, hang_up

    async def heard(self, connection: str, text: str, delivery: str) -> None:
        """The client has sent something."""
        await self._lag()
        await self.service.message(connection, text, delivery)

    async def ended(self, connection: str) -> None:
        """The client has gone, open or not."""
        self._open.pop(connection, None)
        if self._random.random() >= self.quirks.mute:
            await self._lag()
            await self.service.disconnect(connection)

    # --- its API for the service ----------------------------------------------------------------

    async def probe(self, connection: str) -> bool:
        await self._lag()
        there = connection in self._open and self._random.random() >= self.quirks.missed
        await self._lag()
        return there

    async def post(self, connection: str, n: int, text: str) -> bool:
        await self._lag()
        found = self._open.get(connection)
        self.posted.append((connection, n, found is not None))
        if found is None:
            return False
        if n > self._taken.get(connection, 0):
            self._taken[connection] = n
            try:
                await found[0](text)
            except ConnectionError:
                self._open.pop(connection, None)
                return False
        await self._lag()
        return True

    async def delete(self, connection: str) -> bool:
        await self._lag()
        found = self._open.pop(connection, None)
        if found is not None:
            found[1]()
        return found is not None

    async def _lag(self) -> None:
        await anyio.sleep(self._random.uniform(*self.quirks.lag))
