"""Where the jobs are: one file for several processes, or a server that crashes now and then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import anyio.to_thread
import asyncpg

from tests.pgservers import NoServer, PostgresServer, admin


class Place(Protocol):
    """A database under test. `workers`: how many processes perform, and `rate`: how many operations
    a second are asked for, where nothing else is said."""

    where: str
    workers: int
    rate: float

    async def size(self) -> int | None:
        """Its bytes on the disk; None: not to be had now."""
        ...

    async def terminate(self) -> bool:
        """End one of its sessions from the outside; whether there was one."""
        ...

    async def crash(self) -> bool:
        """Kill all of its processes and start it again; whether it has any."""
        ...


class File:
    """A SQLite file and what lies beside it."""

    workers = 3
    rate = 25.0

    def __init__(self, folder: Path) -> None:
        self.where = str(folder / "jobs.db")

    async def size(self) -> int | None:
        names = [self.where, f"{self.where}-wal"]
        return sum(os.stat(name).st_size for name in names if os.path.exists(name))

    async def terminate(self) -> bool:
        return False

    async def crash(self) -> bool:
        return False


TERMINATE: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
    " WHERE application_name LIKE 'stmflow%' ORDER BY random() LIMIT 1) AS one"
)


class Server:
    """A PostgreSQL server and a database of its own on it."""

    workers = 4
    rate = 15.0

    def __init__(self, server: PostgresServer, where: str) -> None:
        self._server = server
        self.where = where

    async def size(self) -> int | None:
        with suppress(OSError, asyncpg.PostgresError, TimeoutError):
            return int(await admin(self.where, "SELECT pg_database_size(current_database())"))
        return None

    async def terminate(self) -> bool:
        with suppress(OSError, asyncpg.PostgresError, TimeoutError):
            return bool(await admin(self.where, TERMINATE))
        return False

    async def crash(self) -> bool:
        await anyio.to_thread.run_sync(self._crash)
        return True

    def _crash(self) -> None:
        self._server.slay()
        for _ in range(20):
            try:
                self._server.start()
                return
            except NoServer:  # what it shared with those killed is not free yet
                time.sleep(0.5)
        raise NoServer("PostgreSQL does not start after its crash")


@contextmanager
def server() -> Iterator[PostgresServer]:
    """A server that keeps what it has acknowledged, as one in production."""
    with PostgresServer(max_connections="200", shared_buffers="128MB") as one:
        yield one
