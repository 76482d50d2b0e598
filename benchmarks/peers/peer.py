"""What the workloads ask of a peer; each peer is a module with `opened`, and maybe `worker`.

These modules run in the peer's own environment: they import that peer, the standard library,
`anyio` and each other, and nothing of stmflow (but for `ours`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

import anyio

STEPS = ("allocate", "stat", "presign")
SPACE = "did:key:z6MkffDZCkCTWreg8868fG1FGFogcJj5X6PY93pPcWDn9bob"
TAKES_MS = (50, 200)
"""How long a slow handler works; as in W4."""


class Peer(Protocol):
    """One peer, opened. What is asked of it is durable when the call returns.

    The counts come from the peer's own database, not from what this process remembers.
    """

    async def job(self, number: int) -> None:
        """Begin the job of this number and wait for its end, as a caller would."""

    async def begin(self, number: int) -> None:
        """Begin the job of this number; do not wait for its end."""

    async def jobs_ended(self) -> int:
        """How many jobs have come to their end."""

    async def steps_recorded(self) -> int:
        """How many results of steps are recorded for the jobs that ended."""

    async def increment(self, name: str) -> None:
        """Count one more under this name."""

    async def counted(self) -> int:
        """The sum of all counts."""

    async def rest(self, number: int, until: float) -> None:
        """Begin a job that sleeps until that time (seconds since 1970), then ends."""

    async def asleep(self) -> int:
        """How many jobs sleep."""

    async def woken(self) -> dict[int, float]:
        """When each sleeper that has ended had ended, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is opened, and for what.

    Args:
        folder: for files; on the disk that holds the project.
        url: of an empty PostgreSQL database, or of the Restate server; "" for SQLite.
        clients: how many will ask at once.
        handlers: "instant" (W1), "slow" (W4, before the kill) or "noted" (W4, after it).
        options: what else a peer's servers have to tell it.
        fast_loop: whether to run on uvloop.
    """

    folder: Path
    url: str = ""
    clients: int = 1
    handlers: str = "instant"
    options: dict[str, Any] = field(default_factory=dict)
    fast_loop: bool = False

    def to_json(self) -> str:
        """For another process, which reads it by `from_json`."""
        return json.dumps({**asdict(self), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Place:
        """The place that this text names."""
        given = json.loads(text)
        return cls(**{**given, "folder": Path(given["folder"])})


Opener = Callable[[Place], AbstractAsyncContextManager[Peer]]
Work = Callable[[int, str], Awaitable[None]]
"""What the handler of a step does: `await work(job number, step)`."""


async def instant(number: int, step: str) -> None:
    """Returns at once."""


def work_of(place: Place) -> Work:
    """What the handlers do in this process."""
    if place.handlers == "instant":
        return instant
    log = os.open(place.folder / "performed.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    gate = Gate(place.folder / "gate")
    random = Random(4)

    def note(what: str, number: int, step: str) -> None:
        os.write(log, f"{what} {number} {step}\n".encode())

    async def noted(number: int, step: str) -> None:
        note("begun", number, step)
        note("done", number, step)

    async def slow(number: int, step: str) -> None:
        await gate.passed()
        note("begun", number, step)
        await anyio.sleep(random.uniform(*TAKES_MS) / 1_000)
        note("done", number, step)

    return {"noted": noted, "slow": slow}[place.handlers]


class Gate:
    """Holds handlers back, in whatever process they run, until a file appears."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: anyio.Event | None = None

    async def passed(self) -> None:
        """Wait until the gate is open. The first one to wait looks, the others are told."""
        if self._open is not None:
            return await self._open.wait()
        self._open = anyio.Event()
        while not self._path.exists():
            await anyio.sleep(0.01)
        self._open.set()
