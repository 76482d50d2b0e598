"""Batches that are planned again under the store's lock, and heads that cannot be read there."""

from __future__ import annotations

from random import Random
from typing import Any

import anyio
import pytest

from scheduler import Scheduler, Transaction
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.committer import CONTENDED_TRIES
from stmflow.errors import UnknownVersion
from stmflow.registered import asked, returning
from stmflow.store import Batch, Conflicted, Watch
from stmflow.store.memory import MemoryStore
from stmflow.transaction import Tx
from stmflow.transactor import Transactor
from tests.stmflow.test_registered import TAKES, Take, put, take, until_it_waits

SOON = 5.0
A, B = CELL.job("a"), CELL.job("b")


class Again(MemoryStore):
    """Every batch that reads the cell is planned again, and then it cannot be read."""

    left = 1

    async def commit(self, batch: Batch) -> Any:
        tried = False

        def read(job: CID) -> Any:
            nonlocal tried
            if job == A.id and self.left:
                tried = True
                raise UnknownVersion("of a newer release")
            return self._heads.get(job)

        assert batch.replan is not None
        members = batch.replan(read) if A.id in self._heads else batch.members
        self.left -= tried
        return await super().commit(Batch(members))


async def test_a_body_cannot_eat_that_a_head_is_unreadable() -> None:
    def body(tx: Tx) -> str:
        try:
            return str(tx.read(A))
        except Exception:
            tx.write(B, "eaten")
            return "eaten"

    store = Again()
    async with Transactor(store, [], random=Random(1)) as transactor:
        await put(transactor, "a", 1)
        with pytest.raises(UnknownVersion):
            await transactor.transact(body)
        assert await transactor.get(B) is None


async def test_a_task_whose_transaction_reads_a_newer_job_is_left_to_others() -> None:
    store = Again()
    store.left = 0
    async with (
        Transactor(store, [TAKES], random=Random(1)) as transactor,
        Scheduler(transactor, {Take: Transaction(returning(take))}) as scheduler,
    ):
        await put(transactor, "a", 7)
        store.left = 1
        await transactor.send(TAKES, asked("one", Take("a", 5)))
        with anyio.fail_after(SOON):
            while not (scheduler.counters.get("unsettled") or await store.tasks(parked=True)):
                await anyio.sleep(0.001)
        assert await store.tasks(parked=True) == []


async def test_who_loses_the_race_to_wait_is_held_for_in_the_end() -> None:
    """A transaction that would wait for a job that moves all the time."""

    class Hot(MemoryStore):
        lost = 0

        async def commit(self, batch: Batch) -> Any:
            waits = any(isinstance(member, Watch) for member in batch.members)
            if waits and A.id not in batch.contended:
                self.lost += 1
                await super().commit(Batch([]))
                return [Conflicted([A.id]) for _ in batch.members]
            return await super().commit(batch)

    store = Hot()
    async with (
        Transactor(store, [TAKES], random=Random(1)) as transactor,
        Scheduler(transactor, {Take: Transaction(returning(take))}),
    ):
        await put(transactor, "a", 1)
        await transactor.send(TAKES, asked("one", Take("a", 5)))
        await until_it_waits(transactor)
        assert store.lost == CONTENDED_TRIES
