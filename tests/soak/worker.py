"""A worker of the soak: performs tasks, and now and then lets history leave; SIGTERM drains it."""

from __future__ import annotations

import signal
import sys
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import NoReturn

import anyio

from scheduler import working
from scheduler.handlers.archive import FolderShelf
from stmflow import Clock
from stmflow.errors import Indeterminate, Unavailable
from stmflow.retention import Retention
from stmflow.store import Store
from tests.soak.service import OVER, app
from tests.soak.settings import (
    LEASE_SECONDS,
    SEGMENT_BYTES,
    UNREACHABLE,
    Settings,
    begin,
    opened,
)
from tests.soak.traced import traced


def work(settings: Settings, name: str, life: int) -> NoReturn:
    """One life of a worker, in a process of its own."""
    begin(settings, name)
    sys.exit(anyio.run(_work, settings, name, life))


async def _work(settings: Settings, name: str, life: int) -> int:
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(opened(settings.where))
            worker = await stack.enter_async_context(
                working(store, app(settings), lease_seconds=LEASE_SECONDS, grace_seconds=3)
            )
        except (Unavailable, Indeterminate):
            return UNREACHABLE
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async with anyio.create_task_group() as group:
                group.start_soon(_forget, settings, store, worker.transactor.clock, life)
                if settings.traced and life == 0:
                    group.start_soon(traced, settings.folder / f"{name}.trace")
                async for _ in signals:
                    worker.leave()
                    group.cancel_scope.cancel()
                    break
    return 0


async def _forget(settings: Settings, store: Store, clock: Clock, life: int) -> None:
    """Retention, about once a minute; one worker in ten begins with it, so that some are killed
    in the middle."""
    random = Random(f"{settings.seed} {life} forgets")
    pause = random.uniform(0, 3) if random.random() < 0.1 else random.uniform(40, 80)
    retention = Retention(
        store,
        FolderShelf(settings.archive),
        keep_ms=min(one.keep_ms for one in OVER),
        finished=OVER,
        clock=_Ahead(clock, settings.ahead_ms),
        segment_bytes=SEGMENT_BYTES,
        pause_ms=5,
    )
    while True:
        await anyio.sleep(pause)
        with suppress(Unavailable, Indeterminate):  # the next run goes on
            await retention.run()
        pause = random.uniform(40, 80)


class _Ahead:
    """A clock that goes ahead of another."""

    def __init__(self, clock: Clock, by_ms: int) -> None:
        self._clock = clock
        self._by_ms = by_ms

    def now(self) -> int:
        return self._clock.now() + self._by_ms

    async def sleep_until(self, at_ms: int) -> None:
        await self._clock.sleep_until(at_ms - self._by_ms)
