"""A primary with a synchronous standby: it is lost amid commits, and the standby takes over.

What was acknowledged is on the standby. What was not is shown to nobody before it is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from benchmarks.workloads import Increment, counter  # noqa: E402
from stmflow import Transactor  # noqa: E402
from stmflow.errors import ConflictsExhausted, Indeterminate, Unavailable  # noqa: E402
from stmflow.store import Batch  # noqa: E402
from stmflow.store.postgres import PostgresStore  # noqa: E402
from stmflow.testing.builders import commit, job_id  # noqa: E402
from tests.pgservers import NoServer, PostgresServer, Standby, admin  # noqa: E402
from tests.topology.line import Line  # noqa: E402

SOON = 60.0
WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stmflow writer'"
    " AND wait_event = $1"
)


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, Standby]]:
    """A primary whose commits wait for its standby."""
    try:
        with PostgresServer() as primary, Standby(primary) as standby:
            anyio.run(replicating, primary)
            yield primary, standby
    except NoServer as error:
        pytest.skip(str(error))


async def replicating(primary: PostgresServer) -> None:
    await admin(
        primary.url(),
        "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (standby)'",
        "SELECT pg_reload_conf()",
    )
    sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
    await until(primary.url(), sql, ())


async def until(url: str, sql: str, values: Any) -> None:
    """Until that counts something."""
    with anyio.fail_after(SOON):
        while not await admin(url, sql, values=values):
            await anyio.sleep(0.02)


async def eventually(ready: Callable[[], Any]) -> None:
    with anyio.fail_after(SOON):
        while not ready():
            await anyio.sleep(0.01)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[PostgresStore, Transactor]]:
    async with PostgresStore.open(url) as store, Transactor(store, [counter]) as engine:
        yield store, engine


async def send(engine: Transactor, name: str, delivery: str) -> None:
    """Until it is acknowledged."""
    while True:
        try:
            await engine.send(counter, Increment(name), delivery=delivery)
            return
        except (Unavailable, Indeterminate, ConflictsExhausted):
            await anyio.sleep(0.05)


async def fail_over(pair: tuple[PostgresServer, Standby], commits: int) -> None:
    primary, standby = pair
    database = (await primary.new_database()).rpartition("/")[2]
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    sent = dict.fromkeys("abc", 0)
    async with (
        opened(f"postgresql://stm@{hosts}/{database}") as (_, left),
        opened(f"postgresql://stm@{hosts}/{database}") as (_, right),
    ):
        stop = anyio.Event()

        async def lane(n: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                await send((left, right)[n % 2], "abc"[n % 3], f"{n} {count}")
                sent["abc"[n % 3]] += 1

        async with anyio.create_task_group() as group:
            for n in range(12):
                group.start_soon(lane, n)
            await eventually(lambda: sum(sent.values()) > commits)
            primary.kill()
            await anyio.to_thread.run_sync(standby.promote)
            before = sum(sent.values())
            await eventually(lambda: sum(sent.values()) > before + commits)
            stop.set()
        for engine in (left, right):
            for name, count in sent.items():
                head = await engine.get(counter.job(name))
                assert head is not None
                assert head.state.value == count
        assert await admin(standby.url(database), "SELECT NOT pg_is_in_recovery()")


@pytest.mark.slow
async def test_a_primary_lost_under_load_loses_and_doubles_nothing(
    pair: tuple[PostgresServer, Standby],
) -> None:
    await fail_over(pair, 100)


@pytest.mark.acceptance
@pytest.mark.parametrize("turn", range(5))
async def test_a_primary_lost_under_load_many_times(
    pair: tuple[PostgresServer, Standby], turn: int
) -> None:
    await fail_over(pair, 500 + 300 * turn)


@pytest.mark.acceptance
async def test_what_the_standby_lacks_is_neither_shown_nor_acknowledged(
    pair: tuple[PostgresServer, Standby],
) -> None:
    """The standby is away, a client is cut off from the primary in its commit, comes back and asks
    what became of it. Then the primary is lost: the standby never had that commit."""
    primary, standby = pair
    url = await primary.new_database()
    async with Line(url) as line, opened(line.url) as (_, engine), opened(url) as (_, other):
        await send(engine, "n", "first")
        standby.kill()
        async with anyio.create_task_group() as group:
            done = anyio.Event()

            async def second() -> None:
                await send(engine, "n", "second")
                done.set()

            group.start_soon(second)
            await until(url, WAITS, ["SyncRep"])
            await line.cut()
            line.heal()
            await until(url, WAITS, ["advisory"])  # its next session waits for the last
            for reader in (engine, other):
                with anyio.move_on_after(1):  # in doubt it may wait itself
                    head = await reader.get(counter.job("n"))
                    assert head is not None
                    assert head.state.value == 1
            assert not done.is_set()
            primary.kill()
            await anyio.to_thread.run_sync(standby.start)
            await anyio.to_thread.run_sync(standby.promote)
            line.towards = ("127.0.0.1", standby.port)
            with anyio.fail_after(SOON):
                await done.wait()
        head = await engine.get(counter.job("n"))
        assert head is not None
        assert (head.state.value, head.seq) == (2, 2)


@pytest.mark.acceptance
async def test_a_wait_for_the_standby_that_somebody_ends_is_unknown(
    pair: tuple[PostgresServer, Standby],
) -> None:
    primary, standby = pair
    url = await primary.new_database()
    async with PostgresStore.open(url) as store:
        standby.kill()
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await until(url, WAITS, ["SyncRep"])
                sql = (
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'stmflow writer'"
                )
                await admin(url, sql)

            group.start_soon(cancel)
            with pytest.raises(Indeterminate, match="replicat"):
                await store.commit(Batch([commit({"a": None})]))
        with anyio.move_on_after(1):
            await store.heads([job_id("a")])
            raise AssertionError("shown before the standby has it")
        await anyio.to_thread.run_sync(standby.start)
        with anyio.fail_after(SOON):
            while True:
                try:
                    found = await store.heads([job_id("a")])
                    break
                except Unavailable:
                    await anyio.sleep(0.1)
        assert found[job_id("a")] is not None


@pytest.mark.acceptance
async def test_a_standby_may_be_read_and_not_written(pair: tuple[PostgresServer, Standby]) -> None:
    primary, standby = pair
    url = await primary.new_database()
    async with opened(url) as (_, engine):
        await send(engine, "n", "first")
    replica = standby.url(url.rpartition("/")[2])
    sql = "SELECT to_regclass('stmflow.job') IS NOT NULL AND (SELECT count(*) = 1 FROM stmflow.job)"
    with anyio.fail_after(SOON):
        while True:
            try:
                if await admin(replica, sql):
                    break
            except asyncpg.PostgresError:
                await anyio.sleep(0.02)
    async with PostgresStore.open(replica, read_only=True) as store:
        assert [row.seq for row in await store.jobs()] == [1]
    with pytest.raises(Unavailable):
        async with PostgresStore.open(replica):
            pass
