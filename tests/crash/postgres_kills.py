"""A PostgreSQL server killed at random moments, under rich work, on one data directory."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import asyncpg

from stmflow.store.postgres import PostgresStore
from tests.campaign.part import Part, Step
from tests.crash.postgres_world import World
from tests.pgservers import PostgresServer, admin

KILLS = 3
"""Kills of a slice."""
HOW = {"all processes": 6, "immediate stop": 1, "one session": 1}
SESSION = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
    " AND application_name LIKE 'stmflow%' ORDER BY random() LIMIT 1"
)

Opening = Callable[[str], Any]
"""Opens the store of a database's address."""


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    with PostgresServer() as server:
        yield partial(step, server)


def step(
    server: PostgresServer,
    number: int,
    *,
    kills: int = KILLS,
    opening: Opening = PostgresStore.open,
) -> Mapping[str, int]:
    """Kill the server so many times under the work of that number; what was counted.

    Raises:
        Violation: something acknowledged is lost, something was doubled, or a chain, the outbox
            or a sum is not what it must be.
    """
    return asyncio.run(_step(server, number, kills, opening))


async def _step(
    server: PostgresServer, number: int, kills: int, opening: Opening
) -> Mapping[str, int]:
    chance = Random(f"kills {number}")
    database = await server.new_database()
    world = World(number, lambda: opening(database))
    counts: Counter[str] = Counter()
    async with world.run():
        for _ in range(kills):
            enough = world.acknowledged + chance.randint(1, 150)
            with anyio.move_on_after(chance.random() * 2):
                while world.acknowledged < enough:
                    await anyio.sleep(chance.random() * 0.01)
            how = chance.choices(list(HOW), list(HOW.values()))[0]
            await _kill(server, how)
            counts[f"killed: {how}"] += 1
            counts["kills"] += 1
            await anyio.sleep(chance.random() * chance.choice((0.05, 0.5)))
    name = database.rpartition("/")[2]
    await admin(server.url(), f"DROP DATABASE {name} WITH (FORCE)")
    return counts + world.counts


async def _kill(server: PostgresServer, how: str) -> None:
    if how == "one session":  # upon which the server ends all others, and recovers
        while True:  # it may still be recovering from the last one
            with suppress(asyncpg.CannotConnectNowError, OSError):
                pid = await admin(server.url(), SESSION)
                break
            await anyio.sleep(0.05)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return
    if how == "all processes":
        server.slay()
    else:
        server.kill()
    await anyio.to_thread.run_sync(server.start)


PARTS = (Part("kills, PostgreSQL", "P1 P2 P3 P4 P5 P6 P8 P9 P14", "kills", 20, _open, whole=True),)
