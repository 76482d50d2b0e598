"""What the PostgreSQL store does when the server, the line or a neighbour misbehaves."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import anyio
import pytest

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from benchmarks.workloads import Increment, counter  # noqa: E402
from stmflow import Transactor  # noqa: E402
from stmflow.errors import (  # noqa: E402
    ConflictsExhausted,
    Indeterminate,
    NotFound,
    ReadOnly,
    Unavailable,
    UnknownSchema,
    UnsafeStore,
)
from stmflow.limits import LIMITS  # noqa: E402
from stmflow.store import (  # noqa: E402
    Batch,
    Beat,
    Claim,
    Conflicted,
    Done,
    Reap,
    Want,
)
from stmflow.store import postgres as module  # noqa: E402
from stmflow.store.postgres import PostgresStore  # noqa: E402
from stmflow.testing import builders as make  # noqa: E402
from stmflow.testing.builders import KIND, commit, head_of, job_id  # noqa: E402
from stmflow.testing.store_contract import created, done, head, one, seq  # noqa: E402
from tests.pgservers import NoServer, PostgresServer, Proxy, admin  # noqa: E402

SOON = 10.0
END = (
    "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
    " WHERE application_name = $1 AND datname = current_database()"
)


@pytest.fixture
async def url(postgres: PostgresServer) -> AsyncIterator[str]:
    """An empty database."""
    database = await postgres.new_database()
    yield database
    with suppress(asyncpg.PostgresError):
        await postgres.give_back(database)


@pytest.fixture(scope="module")
def victim() -> Iterator[PostgresServer]:
    """A server that may be killed and set up wrongly."""
    try:
        server = PostgresServer().__enter__()
    except NoServer as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.__exit__()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[tuple[PostgresStore, Transactor]]:
    async with PostgresStore.open(url, **options) as store, Transactor(store, [counter]) as engine:
        yield store, engine


async def value(engine: Transactor, name: str = "n") -> int:
    found = await engine.get(counter.job(name))
    return 0 if found is None else found.state.value


async def eventually(ready: Any) -> None:
    with anyio.fail_after(SOON):
        while not ready():
            await anyio.sleep(0.01)


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_could_lose_commits_is_refused(
    victim: PostgresServer, setting: str
) -> None:
    url = await victim.new_database()
    async with PostgresStore.open(url) as store:
        await created(store, "a")
        await admin(url, f"ALTER SYSTEM SET {setting} = off", "SELECT pg_reload_conf()")
        try:
            with pytest.raises(UnsafeStore, match=setting):
                async with PostgresStore.open(url):
                    pass
            async with PostgresStore.open(url, read_only=True) as reading:
                assert await seq(reading, "a") == 1
            store._writer.drop()
            with pytest.raises(UnsafeStore, match=setting):
                await one(store, commit({"b": None}))
        finally:
            await admin(url, f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")
        await created(store, "b")


@pytest.mark.parametrize("setting", ["off", "local"])
async def test_commits_that_wait_for_too_little_are_refused(
    victim: PostgresServer, setting: str
) -> None:
    url = await victim.new_database()
    name = url.rpartition("/")[2]
    await admin(url, f"ALTER DATABASE {name} SET synchronous_commit = {setting}")
    if setting == "local":
        async with PostgresStore.open(url):  # nobody to wait for: as safe as `on`
            pass
        await admin(url, "DROP SCHEMA stmflow CASCADE")
        names = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'"
        await admin(url, names, "SELECT pg_reload_conf()")
    try:
        with pytest.raises(UnsafeStore, match="synchronous_commit"):
            async with PostgresStore.open(url):
                pass
        assert not await admin(url, "SELECT to_regnamespace('stmflow') IS NOT NULL")
    finally:
        names = "ALTER SYSTEM RESET synchronous_standby_names"
        await admin(url, "SET synchronous_commit = local", names, "SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_isolation = 'repeatable read'",
        "standard_conforming_strings = off",
        "timezone = 'Asia/Kolkata'",
        "client_encoding = 'LATIN1'",
        "search_path = 'nowhere'",
    ],
)
async def test_settings_that_other_programs_need_change_nothing(url: str, setting: str) -> None:
    name = url.rpartition("/")[2]
    waits = (
        "SELECT true FROM pg_stat_activity WHERE application_name = 'stmflow reader'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    await admin(url, f"ALTER DATABASE {name} SET {setting}")
    try:
        async with opened(url) as (store, engine):
            await engine.send(counter, Increment("n"))
            assert await store.queues({KIND: None}, 1) == []
            assert len(await store.under(counter.name)) == 1
            holder = await asyncpg.connect(url)
            await holder.execute("BEGIN; UPDATE stmflow.writer SET batches = batches")
            store._reader.drop()  # a new one begins by writing that row
            async with anyio.create_task_group() as group:
                group.start_soon(store.heads, [counter.job("n").id])
                with anyio.fail_after(SOON):
                    while not await admin(url, waits):
                        await anyio.sleep(0.01)
                await holder.execute("COMMIT")
            await holder.close()
    finally:
        await admin(url, f"ALTER DATABASE {name} RESET ALL")


@pytest.mark.parametrize(
    "newer", ["UPDATE stmflow.meta SET schema = 2", "UPDATE stmflow.meta SET codec = 2"]
)
async def test_an_unknown_schema_or_codec_version_is_refused(url: str, newer: str) -> None:
    async with PostgresStore.open(url):
        pass
    await admin(url, newer)
    for read_only in (False, True):
        with pytest.raises(UnknownSchema, match="this stmflow knows 1 and 1"):
            async with PostgresStore.open(url, read_only=read_only):
                pass


async def test_somebody_elses_schema_is_refused_and_left_alone(url: str) -> None:
    await admin(url, "CREATE SCHEMA stmflow", "CREATE TABLE stmflow.thing (x int)")
    with pytest.raises(UnknownSchema, match="not ours"):
        async with PostgresStore.open(url):
            pass
    sql = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'stmflow'"
    assert await admin(url, sql) == 1


async def test_many_may_open_a_new_database_at_once(url: str) -> None:
    async def use(name: str) -> None:
        async with PostgresStore.open(url) as store:
            await created(store, name)

    async with anyio.create_task_group() as group:
        for name in "abcdef":
            group.start_soon(use, name)
    async with PostgresStore.open(url, read_only=True) as store:
        assert len(await store.jobs()) == 6


async def test_reading_only_makes_and_writes_nothing(url: str) -> None:
    with pytest.raises(NotFound):
        async with PostgresStore.open(url, read_only=True):
            pass
    async with opened(url) as (_, engine):
        await engine.send(counter, Increment("n"))
    async with opened(url, read_only=True) as (store, engine):
        assert await value(engine) == 1
        with pytest.raises(ReadOnly):
            await engine.send(counter, Increment("n"))
        with pytest.raises(ReadOnly):
            store.enlist()


async def test_a_server_that_is_not_there_is_unavailable(victim: PostgresServer) -> None:
    with pytest.raises(Unavailable):
        async with PostgresStore.open("postgresql://stm@127.0.0.1:1/none"):
            pass
    with pytest.raises(Unavailable):
        async with PostgresStore.open(victim.url("no_such_database")):
            pass


async def test_a_closed_store_is_unavailable(url: str) -> None:
    async with PostgresStore.open(url) as store:
        await created(store, "a")
    with pytest.raises(Unavailable):
        await one(store, commit({"b": None}))
    with pytest.raises(Unavailable):
        await store.heads([job_id("a")])


async def test_who_reads_while_a_store_is_closed_leaves_no_session_behind(url: str) -> None:
    left = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name LIKE 'stmflow %' AND datname = current_database()"
    )
    told: list[Any] = []

    async def read(store: PostgresStore) -> None:
        try:
            told.append(await store.heads([job_id("a")]))
        except Unavailable as error:
            told.append(error)

    async with anyio.create_task_group() as group, PostgresStore.open(url) as store:
        store._reader.drop()  # the first makes a session, the others wait for it
        for _ in range(4):
            group.start_soon(read, store)
        await anyio.sleep(0)
    assert len(told) == 4
    with anyio.fail_after(SOON):
        while await admin(url, left):
            await anyio.sleep(0.05)


async def test_more_locks_than_the_server_has_are_unavailable_and_nothing_is_written(
    victim: PostgresServer,
) -> None:
    async with PostgresStore.open(await victim.new_database()) as store:
        many = [commit({f"{n} {each}": None for each in range(500)}) for n in range(40)]
        with pytest.raises(Unavailable, match="max_locks_per_transaction"):
            await store.commit(Batch(many))
        await created(store, "a")
        assert len(await store.jobs()) == 1


# --- two sessions at once -------------------------------------------------------------------------


async def test_there_is_no_write_skew_on_present_jobs_between_sessions(url: str) -> None:
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        for n in range(40):
            heads = {name: head_of(await created(left, name), name) for name in (f"{n}a", f"{n}b")}
            (a, b), results = heads, list[Any]()

            async def run(
                store: PostgresStore, mine: str, other: str, heads: Any, results: Any
            ) -> None:
                reads = [(job_id(other), heads[other].revision)]
                results.append(await one(store, commit({mine: heads[mine]}, reads=reads)))

            async with anyio.create_task_group() as group:
                group.start_soon(run, left, a, b, heads, results)
                group.start_soon(run, right, b, a, heads, results)
            assert sum(isinstance(result, Done) for result in results) == 1, results


async def test_transfers_in_every_order_keep_the_sum_and_do_not_deadlock(url: str) -> None:
    names = "abcd"
    chance = Random(7)
    async with (
        PostgresStore.open(url) as one,
        PostgresStore.open(url) as two,
        PostgresStore.open(url) as three,
        Transactor(one, [counter]) as left,
        Transactor(two, [counter]) as right,
        Transactor(three, [counter]) as middle,
    ):

        async def move(engine: Transactor, source: str, target: str) -> None:
            def body(tx: Any) -> None:
                tx.read(counter.job(source))
                tx.apply(counter.job(target), Increment(target))

            await engine.transact(body)

        async with anyio.create_task_group() as group:
            for n in range(150):
                engine = (left, right, middle)[n % 3]
                group.start_soon(move, engine, *chance.sample(names, 2))
        assert sum([await value(left, name) for name in names]) == 150


async def test_a_hot_job_is_planned_again_under_the_lock_and_nobody_starves(url: str) -> None:
    async with opened(url) as (_, left), opened(url) as (_, right):

        async def send(engine: Transactor) -> None:
            for _ in range(30):
                await engine.send(counter, Increment("hot"))

        async with anyio.create_task_group() as group:
            for engine in (left, right):
                for _ in range(4):
                    group.start_soon(send, engine)
        assert await value(left, "hot") == 240
        replanned = [e._committer.counters.get("replanned", 0) for e in (left, right)]
        assert min(replanned) > 0
        assert [e._committer.counters.get("conflicts", 0) for e in (left, right)] == [0, 0]


async def test_a_new_plan_may_need_jobs_that_are_not_held(url: str) -> None:
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        first = head_of(await created(left, "m"), "m")
        await created(left, "a", "z")
        await done(right, commit({"m": first}))
        plans = []

        def replan(read: Any) -> Any:
            plans.append([read(job_id(name)) for name in ("z", "m", "a")])
            z, m, a = plans[-1]
            return [commit({"m": m, "z": z, "new": None}, reads=[(a.job, a.revision)])]

        (result,) = await left.commit(Batch([commit({"m": first})], replan))
        assert result == Done()
        assert (await seq(left, "m"), await seq(left, "z"), await seq(left, "new")) == (3, 2, 1)


async def test_claims_of_two_sessions_never_meet(url: str) -> None:
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        for n in range(10):
            name = str(n)
            await created(left, name, tasks=[make.task(name, place) for place in range(20)])
        taken: list[Any] = []

        async def claim(store: PostgresStore) -> None:
            worker = store.enlist()
            while claimed := await done(store, Claim(worker, [Want(*KIND, 7)], 0)):
                taken.extend(one.ref.id for one in claimed)

        async with anyio.create_task_group() as group:
            for store in (left, right):
                group.start_soon(claim, store)
                group.start_soon(claim, store)
        assert (len(taken), len(set(taken))) == (200, 200)


# --- hearing of others ----------------------------------------------------------------------------


async def test_another_process_is_heard_of_by_notification(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        monkeypatch.setattr(module, "_neighbours", {})  # as in two processes
        for store, other in ((left, right), (right, left)):
            await anyio.sleep(0.1)
            before, own = other.version(), store.version()
            await created(store, str(id(store)))
            with anyio.fail_after(0.5):
                while other.version() == before:
                    await anyio.sleep(0.001)
            await anyio.sleep(0.05)
            assert store.version() == own


async def test_another_process_is_heard_of_without_notifications(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        monkeypatch.setattr(module, "_neighbours", {})
        assert left._keeper is not None
        monkeypatch.setattr(left._keeper, "_told", lambda *_: None)
        assert left._keeper._db is not None
        await anyio.sleep(1.2)
        await admin(url, END, values=["stmflow keeper"])
        await anyio.sleep(1.2)
        before = left.version()
        await created(right, "a")
        await eventually(lambda: left.version() != before)


# --- lost connections -----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["before", "after", "late"])
async def test_a_connection_lost_at_commit_is_unknown(url: str, cut: str) -> None:
    async with Proxy(url) as proxy, PostgresStore.open(proxy.url) as store:
        proxy.cut = cut
        with pytest.raises(Indeterminate):
            await one(store, commit({"a": None}))
        result = await one(store, commit({"a": None}))
        assert isinstance(result, Conflicted if cut == "after" else Done)
        assert not await proxy.release()
        assert await seq(store, "a") == 1
        assert await admin(url, "SELECT seals FROM stmflow.meta") == 1


@pytest.mark.parametrize("cut", ["before", "after", "late"])
async def test_a_commit_of_unknown_fate_is_settled_and_counts_once(url: str, cut: str) -> None:
    async with Proxy(url) as proxy, opened(proxy.url) as (_, engine):
        for n in range(3):
            await engine.send(counter, Increment("n"), delivery=f"quiet {n}")
            proxy.cut = cut
            answer = await engine.send(counter, Increment("n"), delivery=f"cut {n}")
            assert answer.kind == "committed"
            await proxy.release()
        assert await value(engine) == 6
        assert engine._committer.counters["indeterminate"] == 3


async def test_a_session_that_was_ended_while_idle_is_replaced(url: str) -> None:
    async with opened(url) as (store, engine):
        await engine.send(counter, Increment("n"))
        for who in ("reader", "writer", "lister", "keeper"):
            await admin(url, END, values=[f"stmflow {who}"])
            await engine.send(counter, Increment("n"))
            await store.tasks()
        assert await value(engine) == 5
        assert engine._committer.counters.get("indeterminate", 0) == 0


@pytest.mark.parametrize("who", ["reader", "writer", "lister"])
async def test_a_session_that_the_server_has_ended_a_moment_ago_is_replaced(
    url: str, who: str
) -> None:
    """The server's last word has come, the end of the line has not: the driver takes the connection
    for open, and cannot use it."""
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
    async with opened(url) as (store, engine):
        await engine.send(counter, Increment("n"))
        await store.tasks()
        async with getattr(store, f"_{who}").use() as db:
            db._protocol.data_received(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
            assert not db.is_closed()
        assert (await store.heads([counter.job("n").id]))[counter.job("n").id] is not None
        await store.tasks()
        if who == "writer":  # nothing was sent: it did not happen
            with pytest.raises(Unavailable):
                await engine.send(counter, Increment("n"))
        await engine.send(counter, Increment("n"))
        assert await value(engine) == 2
        assert engine._committer.counters.get("indeterminate", 0) == 0


async def test_a_job_held_by_somebody_silent_is_unavailable_for_now(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresStore.open(url) as store:
        made = await created(store, "a")
        holder = await asyncpg.connect(url)
        try:
            await holder.execute("BEGIN; SELECT 1 FROM stmflow.job FOR UPDATE")
            async with store._writer.use() as db:
                await db.execute("SET lock_timeout = 100")
            with pytest.raises(Unavailable):
                await one(store, commit({"a": head_of(made, "a")}))
            await created(store, "b")
            await holder.execute("ROLLBACK")
            assert await one(store, commit({"a": head_of(made, "a")})) == Done()
        finally:
            await holder.close()


async def test_a_caller_that_is_cancelled_leaves_a_whole_commit(url: str) -> None:
    async with PostgresStore.open(url) as store:
        for n in range(20):
            made = commit({str(n): None})
            with anyio.move_on_after(n / 4_000):
                await one(store, made)
        await created(store, "last")
        assert [listed.seq for listed in await store.jobs()] == [1] * 21


# --- owner locks ----------------------------------------------------------------------------------


async def test_a_worker_whose_lock_is_lost_claims_nothing_until_it_has_it_again(url: str) -> None:
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        await created(left, "a", tasks=[make.task("a", 0), make.task("a", 1)])
        worker = left.enlist()
        await done(left, Beat(worker, 10**12))
        (held,) = await done(left, Claim(worker, [Want(*KIND, 1)], 0))
        assert await done(right, Reap(10)) == 0
        thief = await asyncpg.connect(url)
        try:
            async with anyio.create_task_group() as group:  # it queues before the keeper is back
                sql = "SELECT pg_advisory_lock($1, $2)"
                group.start_soon(thief.execute, sql, module.WORKERS, worker)
                await anyio.sleep(0.1)
                await admin(url, END, values=["stmflow keeper"])
            assert left._keeper is not None
            await eventually(lambda: left._keeper.lost(worker))
            assert await done(left, Claim(worker, [Want(*KIND, 1)], 0)) == []
            claiming = commit({"b": None}, tasks=[make.task("b", 0, worker=worker)])
            with pytest.raises(Unavailable, match="owner lock"):
                await one(left, claiming)
            assert await head(left, "b") is None
        finally:
            await thief.close()
        await eventually(lambda: not left._keeper.lost(worker))
        (again,) = await done(left, Claim(worker, [Want(*KIND, 1)], 0))
        assert again.ref.id != held.ref.id


async def test_claims_that_landed_after_their_worker_was_buried_are_freed(url: str) -> None:
    async with PostgresStore.open(url) as store:
        await created(store, "a", tasks=[make.task("a", 0, worker=4_711)])
        assert await done(store, Reap(10)) == 1


async def test_the_clock_is_the_servers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with PostgresStore.open(url) as store:
        ours, theirs = store.clock.now(), await admin(
            url, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        )  # fmt: skip
        assert abs(ours - theirs) < 1_000
        assert store._keeper is not None
        monkeypatch.setattr(store._keeper, "offset_ms", 5_000_000)
        assert store.clock.now() - ours > 4_000_000
        await store.clock.sleep_until(store.clock.now() + 20)


# --- the index behind the log ---------------------------------------------------------------------


async def test_what_gathers_behind_the_log_is_sealed_and_still_found(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMITS", dataclasses.replace(LIMITS, index_segment_blocks=64))
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        made = [await created((left, right)[n % 2], str(n)) for n in range(100)]
        while left._work or right._work:
            await anyio.sleep(0.01)
        segments = await admin(url, "SELECT count(*) FROM stmflow.segment")
        assert segments >= 2
        assert await admin(url, "SELECT count(*) FROM stmflow.unsealed") < 60
        for each in made:
            assert each.revision_cid is not None
            assert await left.block(each.revision_cid) == each.revision
            assert each.revision_cid in await left.find(each.revision_cid.digest[:3], 20)


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_so_many_blocks_are_indexed_as_soon_as_they_have_gathered(
    url: str, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """`index_segment_blocks`: with one fewer nothing is sealed."""
    async with PostgresStore.open(url) as store:
        for n in range(5):
            await created(store, str(n))
        blocks = await admin(url, "SELECT sum(length(entries)) / 16 FROM stmflow.unsealed")
        least = dataclasses.replace(LIMITS, index_segment_blocks=blocks - off)
        monkeypatch.setattr(module, "LIMITS", least)
        await store._seal()
        assert await admin(url, "SELECT count(*) FROM stmflow.segment") == (off >= 0)


# --- the server dies ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_server_killed_in_the_middle_of_commits_loses_and_doubles_nothing(
    victim: PostgresServer,
) -> None:
    url = await victim.new_database()
    chance = Random(11)
    sent = dict.fromkeys("abcd", 0)
    async with opened(url) as (_, engine):
        stop = anyio.Event()

        async def send(name: str, lane: int) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                delivery = f"{lane} {n}"
                while True:
                    try:
                        await engine.send(counter, Increment(name), delivery=delivery)
                        break
                    except (Unavailable, Indeterminate, ConflictsExhausted):
                        await anyio.sleep(0.02)
                sent[name] += 1

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for lane in range(16):
                    group.start_soon(send, "abcd"[lane % 4], lane)
                for _ in range(3):
                    before = sum(sent.values())
                    while sum(sent.values()) < before + 100:
                        await anyio.sleep(0.005)
                    await anyio.sleep(chance.random() / 20)
                    victim.kill()
                    await anyio.to_thread.run_sync(victim.start)
                stop.set()
        assert {name: await value(engine, name) for name in sent} == sent
