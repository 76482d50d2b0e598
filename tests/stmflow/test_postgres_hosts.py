"""Several stores on one PostgreSQL: what they hear of each other, and that all get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from benchmarks.workloads import Increment, counter  # noqa: E402
from stmflow import CELL, Transactor  # noqa: E402
from stmflow.store import Batch, Conflicted, Done  # noqa: E402
from stmflow.store import postgres as module  # noqa: E402
from stmflow.store.postgres import PostgresStore  # noqa: E402
from stmflow.store.postgres_batch import READ, WRITE  # noqa: E402
from stmflow.store.postgres_news import KEPT, NAMED, NOTICES, News, news_in, news_of  # noqa: E402
from stmflow.store.postgres_statements import HOLD  # noqa: E402
from stmflow.store.rows import job_hash  # noqa: E402
from stmflow.testing.builders import commit, head_of, job_id  # noqa: E402
from stmflow.testing.store_contract import created, done  # noqa: E402
from tests.pgservers import PostgresServer, admin  # noqa: E402

SOON = 20.0


@pytest.fixture
async def url(postgres: PostgresServer) -> AsyncIterator[str]:
    """An empty database."""
    database = await postgres.new_database()
    yield database
    with suppress(asyncpg.PostgresError):
        await postgres.give_back(database)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[PostgresStore, Transactor]]:
    async with PostgresStore.open(url) as store, Transactor(store, [counter]) as engine:
        yield store, engine


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores hear of each other as those of two processes do."""
    monkeypatch.setattr(module, "_neighbours", {})
    monkeypatch.setattr(module.PostgresStore, "_told", lambda store, writer: None)


async def eventually(ready: Any) -> None:
    with anyio.fail_after(SOON):
        while not ready():
            await anyio.sleep(0.005)


def held(tx: Any, *key: Any) -> int:
    """What that cell holds; 0 where there is none."""
    cell = tx.read(CELL.job(*key))
    return 0 if cell is None else int(cell.value)


def count(engine: Transactor, name: str) -> int:
    return engine.counters.get(name, 0)


# --- who gets a turn ------------------------------------------------------------------------------


async def test_a_slow_transaction_over_many_jobs_gets_through_between_hot_writers(url: str) -> None:
    names = [f"n{n}" for n in range(40)]
    async with opened(url) as (_, left), opened(url) as (_, right), opened(url) as (_, slow):
        stop = anyio.Event()

        async def hammer(engine: Transactor, lane: int) -> None:
            n = lane
            while not stop.is_set():
                n += 7
                await engine.send(counter, Increment(names[n % len(names)]))
                await engine.send(counter, Increment("hot"))

        def body(tx: Any) -> int:
            found = [tx.read(counter.job(name)) for name in (*names, "hot")]
            total = sum(one.value for one in found if one is not None)
            tx.write(CELL.job("total"), total)
            return total

        async with anyio.create_task_group() as group:
            for lane in range(6):
                group.start_soon(hammer, (left, right)[lane % 2], lane)
            await eventually(lambda: count(left, "batches") > 20)
            with anyio.fail_after(SOON):
                for _ in range(5):
                    assert await slow.transact(body) > 0
            stop.set()
        assert count(slow, "conflicts") == 0


async def test_a_job_that_many_read_without_a_break_can_still_be_written(url: str) -> None:
    """Readers may hold a row together: without a queue one always comes before the last goes."""
    async with opened(url) as (_, left), opened(url) as (_, right), opened(url) as (_, third):
        await left.transact(lambda tx: tx.write(CELL.job("price"), 1))
        stop = anyio.Event()

        async def buy(engine: Transactor, lane: int) -> None:
            def body(tx: Any) -> None:
                tx.read(CELL.job("price"))
                tx.apply(counter.job(f"sold {lane}"), Increment(f"sold {lane}"))

            while not stop.is_set():
                await engine.transact(body)

        async with anyio.create_task_group() as group:
            for lane, engine in enumerate((left, right, third)):
                group.start_soon(buy, engine, lane)
            await eventually(lambda: min(count(e, "batches") for e in (left, right, third)) > 5)
            async with opened(url) as (_, writer):
                with anyio.fail_after(SOON):
                    for price in range(5):
                        await writer.transact(lambda tx, p=price: tx.write(CELL.job("price"), p))
            stop.set()


async def test_a_body_whose_reads_depend_on_a_hot_job_gets_its_turn(url: str) -> None:
    """Each plan finds that the pointer shows to another job, which is not held yet."""
    async with opened(url) as (_, left), opened(url) as (_, right), opened(url) as (_, slow):
        stop = anyio.Event()

        async def move(engine: Transactor, first: int) -> None:
            def body(tx: Any) -> None:
                at = (held(tx, "pointer") + 13) % 64
                tx.write(CELL.job("pointer"), at)
                tx.write(CELL.job("target", at), held(tx, "target", at) + first)

            while not stop.is_set():
                await engine.transact(body)

        def follow(tx: Any) -> None:
            at = held(tx, "pointer")
            for _ in range(3):
                at = (held(tx, "target", at) + at) % 64
            tx.write(CELL.job("seen"), at)

        async with anyio.create_task_group() as group:
            for first, engine in enumerate((left, right)):
                group.start_soon(move, engine, first)
            await eventually(lambda: count(left, "batches") > 20)
            with anyio.fail_after(SOON):
                for _ in range(2):
                    await slow.transact(follow)
            stop.set()


@asynccontextmanager
async def sessions(url: str, count: int) -> AsyncIterator[list[Any]]:
    made = [await asyncpg.connect(url) for _ in range(count)]
    try:
        yield made
    finally:
        for db in made:
            await db.close()


async def hold(db: Any, name: str, mode: int, order: list[Any]) -> None:
    """Begin, hold that job, note it, and end a moment later."""
    job = job_id(name)
    async with db.transaction():
        await db.fetch(HOLD, [job_hash(job)], [job.bytes], [mode], *[()] * 6)
        order.append(db)
        await anyio.sleep(0.05)


async def waiting(url: str, count: int) -> None:
    """Until so many sessions wait for a lock."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    with anyio.fail_after(SOON):
        while await admin(url, sql) < count:
            await anyio.sleep(0.005)


@pytest.mark.parametrize(
    "modes", [[READ, WRITE, READ], [WRITE, WRITE, WRITE], [WRITE, READ, WRITE]]
)
async def test_who_asks_first_holds_first(url: str, modes: list[int]) -> None:
    async with PostgresStore.open(url) as store, sessions(url, 4) as (held, *rest):
        await created(store, "a")
        order: list[Any] = []
        async with anyio.create_task_group() as group, held.transaction():
            job = job_id("a")
            await held.fetch(HOLD, [job_hash(job)], [job.bytes], [modes[0]], *[()] * 6)
            for place, (db, mode) in enumerate(zip(rest, (WRITE, *modes[1:]), strict=True), 1):
                group.start_soon(hold, db, "a", mode, order)
                await waiting(url, place)
        assert order == rest


async def test_what_is_contended_is_not_let_go_for_a_plan_that_needs_more(url: str) -> None:
    rival = "UPDATE stmflow.job SET at = at WHERE id = $1 RETURNING seq"
    async with PostgresStore.open(url) as left, PostgresStore.open(url) as right:
        first = head_of(await created(left, "hot"), "hot")
        await created(left, "more")
        await done(right, commit({"hot": first}))
        with ThreadPoolExecutor(1) as aside:
            seen: list[Future[int]] = []

            def replan(read: Any) -> Any:
                if not seen:
                    ask = admin(url, rival, values=[first.job.bytes])
                    seen.append(aside.submit(asyncio.run, ask))
                    aside_wait(url)
                hot, more = read(job_id("hot")), read(job_id("more"))
                return [commit({"hot": hot}, reads=[(more.job, more.revision)])]

            (result,) = await left.commit(Batch([commit({"hot": first})], replan, {first.job}))
            assert result == Done()
            found = await anyio.to_thread.run_sync(seen[0].result)
        assert found == 3


def aside_wait(url: str) -> None:
    """Wait on another thread's loop until somebody waits for a lock."""
    with ThreadPoolExecutor(1) as aside:
        aside.submit(asyncio.run, waiting(url, 1)).result()


async def test_who_has_lost_four_times_asks_for_his_turn(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(url) as (store, engine):
        await engine.send(counter, Increment("n"))
        real, asked = store.commit, list[Any]()

        async def lost(batch: Batch) -> Any:
            asked.append(batch.contended)
            if len(asked) > 5:
                return await real(batch)
            return [Conflicted([counter.job("n").id]) for _ in batch.members]

        monkeypatch.setattr(store, "commit", lost)
        await engine.send(counter, Increment("n"))
        assert asked[:6] == [
            set(),
            set(),
            set(),
            set(),
            {counter.job("n").id},
            {counter.job("n").id},
        ]


# --- what is heard of others ----------------------------------------------------------------------


def test_news_name_what_has_changed_since() -> None:
    news, jobs = News(), [job_id(str(n)) for n in range(KEPT + 1)]
    assert news.since(news.version) == set()
    for job in jobs[:KEPT]:
        news.tell([job])
    assert news.since(0) == set(jobs[:KEPT])
    assert news.since(KEPT - 1) == {jobs[KEPT - 1]}
    news.tell([])
    assert news.since(0) is None
    assert news.since(1) == set(jobs[1:KEPT])
    for size, named in ((KEPT - 1, True), (KEPT, True), (KEPT + 1, False)):
        before = news.version
        news.tell(jobs[:size])
        assert news.since(before) == (set(jobs[:size]) if named else None)
    news.tell(None)
    assert news.since(news.version - 1) is None
    assert news.since(news.version) == set()


@pytest.mark.parametrize("size", [1, 2, 16, NAMED, KEPT - 1, KEPT, KEPT + 1])
def test_news_of_large_commits_take_no_more_room_than_of_small_ones(size: int) -> None:
    news, jobs = News(), [job_id(str(n)) for n in range(size)]
    for _ in range(2 * KEPT // size + 2):
        news.tell(jobs)
    assert sum(len(each or ()) for each in news._told) <= KEPT
    known = KEPT // size
    assert news.since(news.version - known) == (set(jobs) if known else set())
    assert news.since(news.version - known - 1) is None


@pytest.mark.parametrize("size", [0, 1, NAMED, NAMED + 1, NAMED * NOTICES, NAMED * NOTICES + 1])
def test_a_commit_of_any_size_fits_into_its_notifications(size: int) -> None:
    jobs = [job_id(str(n)) for n in range(size)]
    sent = list(news_of(2**31 - 1, 2**63 - 1, jobs))
    assert max(map(len, sent)) < 8_000
    read = [news_in(text) for text in sent]
    assert {each[:2] for each in read} == {(2**31 - 1, 2**63 - 1)}
    named = [job for _, _, some in read for job in some or ()]
    assert named == (jobs if size <= NAMED * NOTICES else [])
    assert (read[0][2] is None) == (size > NAMED * NOTICES)


async def test_a_commit_elsewhere_drops_the_cached_heads_that_it_moved_and_no_others(
    url: str, apart: None
) -> None:
    async with opened(url) as (store, left), opened(url) as (_, right):
        for name in "abc":
            await left.send(counter, Increment(name))
        await eventually(lambda: right.store.version() != 0)
        await anyio.sleep(0.1)
        cache = left._committer._cache
        kept = {name: cache[counter.job(name).id] for name in "abc"}
        version = store.version()
        await right.send(counter, Increment("b"))
        await eventually(lambda: counter.job("b").id not in cache)
        assert store.changed(version) == {counter.job("b").id}
        assert [cache.get(counter.job(name).id) for name in "ac"] == [kept["a"], kept["c"]]
        assert (await left.send(counter, Increment("b"))).seq == 3


async def test_who_waits_for_one_job_does_not_look_at_it_for_every_other(
    url: str, apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(url) as (store, left), opened(url) as (_, right):
        await left.send(counter, Increment("a"))
        real, asked = store.heads, list[Any]()

        async def heads(jobs: Any) -> Any:
            asked.extend(jobs)
            return await real(jobs)

        async with anyio.create_task_group() as group:
            group.start_soon(left.wait, counter.job("a"), lambda state: state.value == 2)
            await eventually(lambda: counter.job("a").id in left._waiting)
            await anyio.sleep(0.1)
            monkeypatch.setattr(store, "heads", heads)
            seen = store.version()
            await right.send(counter, Increment("b"))
            await eventually(lambda: store.version() > seen)
            await anyio.sleep(0.1)
            assert counter.job("a").id not in asked
            await right.send(counter, Increment("a"))


async def test_stores_that_have_been_closed_are_forgotten(url: str, apart: None) -> None:
    async with PostgresStore.open(url) as store:
        for n in range(3):
            async with opened(url) as (_, engine):
                version = store.version()
                await engine.send(counter, Increment(str(n)))
                await eventually(lambda version=version: store.version() > version)
        async with PostgresStore.open(url):  # whoever opens clears the rows of those that are gone
            keeper = store._keeper
            assert keeper is not None
            await eventually(lambda: len(keeper._heard_of) < 2)


async def test_anybody_may_notify_and_nobody_is_hurt(url: str) -> None:
    async with PostgresStore.open(url) as store:
        for text in ("", "x", "99 2", "99 2 !", "99 2 AAAA", "99 2 3 4", "99 2 *"):
            before = store.version()
            await admin(url, "SELECT pg_notify('stmflow', $1)", values=[text])
            await eventually(lambda before=before: store.version() > before)
            assert store.changed(before) is None
