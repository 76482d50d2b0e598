"""One worker process for the rich work, whose clock is wrong.

It notes in `FOLDER/NAME.log` when a handler begins, and is up when that file is there. What its
clock shows is the time and as many milliseconds as `FOLDER/NAME.clock` says, whenever it looks. It
works by the server's clock, as a service does, or by its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import anyio

import scheduler.loop
from scheduler import Context
from scheduler.testing.orders import TRANSACTIONAL, WORKFLOWS
from stmflow import Transactor, clock
from stmflow.limits import LIMITS
from stmflow.store.postgres import PostgresStore
from tests.crash.postgres_handlers import perform, quick, scheduling

DIGITS = 12
"""Of a clock's file: so it is always read whole."""


def serve(dsn: str, folder: Path, name: str, lease_seconds: float, by: str) -> None:
    """Work until killed, in a process of its own.

    Args:
        lease_seconds: may be shorter than a service may have it. by: "server" or "own".
    """
    wrong(folder / f"{name}.clock")
    loop: Any = scheduler.loop
    loop.LIMITS = dataclasses.replace(LIMITS, lease_min_ms=100)
    with quick():
        anyio.run(_serve, dsn, folder, name, lease_seconds, by)


async def _serve(dsn: str, folder: Path, name: str, lease_seconds: float, by: str) -> None:
    random = Random(name)
    async with PostgresStore.open(dsn) as store:
        log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        async def work(task: Any, context: Context) -> int:
            line = [str(context.key), str(context.job), repr(task), context.attempt, context.token]
            os.write(log, json.dumps(line).encode() + b"\n")
            return await perform(random, task, context)

        async with (
            Transactor(
                store,
                WORKFLOWS,
                transactional=TRANSACTIONAL,
                clock=store.clock if by == "server" else clock.SystemClock(),
            ) as engine,
            scheduling(engine, work, lease_seconds=lease_seconds),
        ):
            await anyio.sleep_forever()


def wrong(file: Path) -> None:
    """From now on every clock of this process is wrong by what that file says."""
    offset = os.open(file, os.O_RDONLY)

    def time_ns() -> int:
        return time.time_ns() + int(os.pread(offset, DIGITS, 0)) * 1_000_000

    source: Any = clock
    source.time = SimpleNamespace(time_ns=time_ns)


def set_clock(file: Path, offset_ms: int) -> None:
    """Let the clock of the process that reads this file jump there."""
    file.touch()
    with file.open("r+b", buffering=0) as clock_file:
        clock_file.write(f"{offset_ms:+0{DIGITS}d}".encode())
