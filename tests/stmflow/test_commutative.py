"""Counters and groups: what commutes does not conflict, and stays exact."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from stmflow.commutative import Counter, Group
from stmflow.errors import InvalidWorkflow
from stmflow.limits import LIMITS
from stmflow.store import Batch, Commit, Result
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.transactor import Transactor


class Slow(MemoryStore):
    """Between planning and commit there is time for another process."""

    async def commit(self, batch: Batch) -> Any:
        await anyio.sleep(0.001)
        return await super().commit(batch)


async def test_a_counter_is_what_was_added() -> None:
    async with Transactor(MemoryStore(), []) as db:
        counter = Counter("uploads", "space")
        assert await db.transact(counter.value) == 0
        for amount in (5, -2, 0, 10**12):
            await db.transact(lambda tx, n=amount: counter.add(tx, n))
        assert await db.transact(counter.value) == 3 + 10**12


async def test_counters_of_other_keys_are_other_counters() -> None:
    async with Transactor(MemoryStore(), []) as db:
        one, other, wider = Counter("a"), Counter("a", 1), Counter("a", shards=2)
        await db.transact(lambda tx: one.add(tx, 1))
        assert await db.transact(lambda tx: (one.value(tx), other.value(tx), wider.value(tx))) == (
            1,
            0,
            0,
        )


async def test_processes_that_add_to_one_counter_do_not_conflict() -> None:
    store, counter = Slow(), Counter("hot")
    engines = [Transactor(store, [], random=Random(seed)) for seed in range(4)]
    assert len({engine._committer.process % 64 for engine in engines}) == 4
    async with engines[0], engines[1], engines[2], engines[3]:

        async def add(engine: Transactor) -> None:
            for _ in range(25):
                await engine.transact(lambda tx: counter.add(tx, 1))

        async with anyio.create_task_group() as group:
            for engine in engines:
                group.start_soon(add, engine)
        assert [engine.counters.get("conflicts", 0) for engine in engines] == [0] * 4
        assert await engines[0].transact(counter.value) == 100


async def test_two_that_share_a_shard_conflict_and_are_exact() -> None:
    store, counter = Slow(), Counter("hot", shards=1)
    async with Transactor(store, [], random=Random(1)) as one, Transactor(store, []) as other:

        async def add(engine: Transactor) -> None:
            for _ in range(25):
                await engine.transact(lambda tx: counter.add(tx, 1))

        async with anyio.create_task_group() as group:
            group.start_soon(add, one)
            group.start_soon(add, other)
        assert await one.transact(counter.value) == 50
        assert one.counters.get("conflicts", 0) + other.counters.get("conflicts", 0) > 0


async def test_what_is_read_is_as_of_one_transaction(tmp_path: Path) -> None:
    """Two counters that are moved together are never seen apart."""
    left, right = Counter("left"), Counter("right")

    def move(tx: Any) -> None:
        left.add(tx, -1)
        right.add(tx, 1)

    path = tmp_path / "jobs.db"
    async with (
        SQLiteStore.open(path) as ours,
        SQLiteStore.open(path) as theirs,
        Transactor(ours, []) as one,
        Transactor(theirs, []) as other,
        anyio.create_task_group() as group,
    ):

        async def write() -> None:
            for _ in range(30):
                await other.transact(move)
            group.cancel_scope.cancel()

        group.start_soon(write)
        while True:
            assert await one.transact(lambda tx: left.value(tx) + right.value(tx)) == 0


async def test_a_counter_survives_its_process(tmp_path: Path) -> None:
    counter = Counter("uploads")
    for seed in range(3):
        async with (
            SQLiteStore.open(tmp_path / "jobs.db") as store,
            Transactor(store, [], random=Random(seed)) as db,
        ):
            await db.transact(lambda tx: counter.add(tx, 2))
            assert await db.transact(counter.value) == 2 * (seed + 1)


@pytest.mark.parametrize("shards", [1, LIMITS.jobs_per_transaction // 2])
async def test_shards_within_the_bounds(shards: int) -> None:
    async with Transactor(MemoryStore(), []) as db:
        counter = Counter("c", shards=shards)
        await db.transact(lambda tx: counter.add(tx, 1))
        assert await db.transact(counter.value) == 1


@pytest.mark.parametrize("shards", [-1, 0, LIMITS.jobs_per_transaction // 2 + 1])
def test_shards_beyond_the_bounds(shards: int) -> None:
    with pytest.raises(InvalidWorkflow):
        Counter("c", shards=shards)


async def test_a_group_holds_what_was_added_and_not_taken_out() -> None:
    async with Transactor(MemoryStore(), []) as db:
        group = Group("links", "space")
        assert await db.transact(lambda tx: group.add(tx, b"a")) is True
        assert await db.transact(lambda tx: group.add(tx, b"a")) is False
        assert await db.transact(lambda tx: group.has(tx, b"a")) is True
        assert await db.transact(lambda tx: group.discard(tx, b"a")) is True
        assert await db.transact(lambda tx: group.discard(tx, b"a")) is False
        assert await db.transact(lambda tx: group.discard(tx, b"b")) is False
        assert await db.transact(lambda tx: group.has(tx, b"a")) is False


async def test_what_is_in_already_is_not_written_again() -> None:
    class Counted(MemoryStore):
        written = 0

        async def commit(self, batch: Batch) -> list[Result]:
            self.written += sum(
                len(member.writes) for member in batch.members if isinstance(member, Commit)
            )
            return list(await super().commit(batch))

    store = Counted()
    async with Transactor(store, []) as db:
        for _ in range(5):
            await db.transact(lambda tx: Group("g").add(tx, 1))
    assert store.written == 1


async def test_processes_that_add_different_members_do_not_conflict() -> None:
    store, members = Slow(), Group("hot")
    async with Transactor(store, [], random=Random(1)) as one, Transactor(store, []) as other:

        async def add(engine: Transactor, first: int) -> None:
            for n in range(25):
                await engine.transact(lambda tx, n=n: members.add(tx, first + n))

        async with anyio.create_task_group() as group:
            group.start_soon(add, one, 0)
            group.start_soon(add, other, 100)
        assert one.counters.get("conflicts", 0) + other.counters.get("conflicts", 0) == 0
        assert len(await members.page(store)) == 50


async def test_members_come_page_by_page_and_none_of_a_deeper_group() -> None:
    store = MemoryStore()
    async with Transactor(store, []) as db:
        group, deeper = Group("g"), Group("g", 1)
        for n in range(10):
            await db.transact(lambda tx, n=n: (group.add(tx, n), None)[1])
            await db.transact(lambda tx, n=n: (deeper.add(tx, n), None)[1])
        for n in (0, 3, 4, 5, 9):
            await db.transact(lambda tx, n=n: (group.discard(tx, n), None)[1])
        assert await group.page(store) == [1, 2, 6, 7, 8]
        first = await group.page(store, limit=2)
        assert first == [1, 2]
        assert await group.page(store, after=2, limit=2) == [6, 7]
        assert await group.page(store, after=8) == []
