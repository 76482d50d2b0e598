"""Heads that grow old on their way here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio
import pytest

from stmflow.cell import CELL
from stmflow.store import Batch
from stmflow.store.memory import MemoryStore
from stmflow.transaction import Tx
from stmflow.transactor import POLL_MS, Transactor

SOON = 5.0
A, B = CELL.job("a"), CELL.job("b")


class Slow:
    """A way to a store on which answers can be held back."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.held: dict[str, anyio.Event] = {}
        self.reached = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def heads(self, jobs: Any) -> Any:
        return await self._answer("heads", await self._store.heads(jobs))

    async def commit(self, batch: Batch) -> Any:
        return await self._answer("commit", await self._store.commit(batch))

    async def _answer(self, name: str, answer: Any) -> Any:
        if name in self.held:
            self.reached.set()
            await self.held[name].wait()
        return answer


@asynccontextmanager
async def hosts() -> AsyncIterator[tuple[Transactor, Transactor, Slow]]:
    store = MemoryStore()
    slow = Slow(store)
    ours: Any = slow
    async with (
        Transactor(ours, [], random=Random(1)) as here,
        Transactor(store, [], random=Random(2)) as there,
    ):
        yield here, there, slow


async def put(transactor: Transactor, cell: Any, value: Any) -> None:
    await transactor.transact(lambda tx: tx.write(cell, value).kind)


def holding(cell: Any, value: Any) -> Callable[[Tx], Any]:
    """Wait until the cell holds it."""

    def body(tx: Tx) -> Any:
        found = tx.read(cell)
        if found is None or found.value != value:
            tx.retry()
        return found.value

    return body


@asynccontextmanager
async def overtaken(slow: Slow, what: str) -> AsyncIterator[None]:
    """What is done within is news before the answer that is under way has come."""
    gate = slow.held[what] = anyio.Event()
    slow.reached = anyio.Event()
    yield
    await anyio.sleep(4 * POLL_MS / 1_000)  # it has been heard of
    del slow.held[what]
    gate.set()


@pytest.mark.parametrize("before", [None, 1])
async def test_a_head_that_is_read_while_it_moves_is_read_again(before: int | None) -> None:
    async with hosts() as (here, there, slow), anyio.create_task_group() as group:
        if before is not None:
            await put(there, A, before)
            await anyio.sleep(4 * POLL_MS / 1_000)
        async with overtaken(slow, "heads"):
            group.start_soon(here.transact, holding(A, 2))
            await slow.reached.wait()
            await put(there, A, 2)
        with anyio.fail_after(SOON):
            await here.transact(holding(A, 2))


async def test_a_head_that_is_read_while_it_moves_does_not_mislead_who_waits() -> None:
    async with hosts() as (here, there, slow), anyio.create_task_group() as group:
        await put(there, A, 1)
        await anyio.sleep(4 * POLL_MS / 1_000)
        async with overtaken(slow, "heads"):
            group.start_soon(here.transact, holding(A, 3))
            await slow.reached.wait()
            await put(there, A, 2)
        await anyio.sleep(0.01)
        await here.wait(A, lambda state: state.value == 2, timeout=SOON)
        await put(there, A, 3)


async def test_a_head_of_ours_that_is_overtaken_as_it_lands_is_not_kept() -> None:
    async with hosts() as (here, there, slow), anyio.create_task_group() as group:
        async with overtaken(slow, "commit"):
            group.start_soon(put, here, A, 1)
            await slow.reached.wait()
            await put(there, A, 2)
        await anyio.sleep(0.01)
        await here.wait(A, lambda state: state.value == 2, timeout=SOON)


async def test_who_has_read_absence_beside_a_batch_under_way_misses_no_birth() -> None:
    def body(tx: Tx) -> None:
        tx.read(A)
        tx.write(B, 1)

    async with hosts() as (here, there, slow), anyio.create_task_group() as group:
        async with overtaken(slow, "commit"):
            group.start_soon(here.transact, body)
            await slow.reached.wait()
            await put(there, A, 2)
            await anyio.sleep(4 * POLL_MS / 1_000)
            group.start_soon(here.transact, holding(A, 2))
            await anyio.sleep(0.01)
        with anyio.fail_after(SOON):
            while here.gauges()["sleeping"]:
                await anyio.sleep(0.001)
        group.cancel_scope.cancel()
