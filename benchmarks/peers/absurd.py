"""absurd: tasks of checkpointed steps in PostgreSQL, worker processes of their own.

Set up as its documentation says: https://earendil-works.github.io/absurd/sdks/python/ for the
asynchronous client and its workers ("the recommended way to scale workers is to spawn multiple
processes"), .../database/ for the schema, applied as one's own migration.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
from absurd_sdk import AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL

from benchmarks.peers.peer import SPACE, Gate, Peer, Place, work_of
from benchmarks.peers.processes import workers

QUEUE = "jobs"
WORKERS = 8
CLIENTS = 8
"""Connections of the asking side: a client of the SDK has one, and uses it for one thing a time."""
LEASE_SECONDS = 10
"""`claim_timeout`: 120 s by default. What a dead worker held is claimed again after that."""
POLL_SECONDS = 0.05
"""`poll_interval` of an idle worker: 0.25 s by default. The schema has no notification."""

COUNTER = """
CREATE TABLE IF NOT EXISTS counter (name text PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE IF NOT EXISTS counted (task uuid PRIMARY KEY);
"""
INCREMENT = """
WITH new AS (INSERT INTO counted VALUES (%(task)s) ON CONFLICT DO NOTHING RETURNING task)
INSERT INTO counter SELECT %(name)s, 1 FROM new
ON CONFLICT (name) DO UPDATE SET value = counter.value + 1
"""
ENDED = "SELECT count(*) FROM absurd.t_jobs WHERE task_name = 'short-add' AND state = 'completed'"
STEPS_RECORDED = """
SELECT count(*) FROM absurd.c_jobs c JOIN absurd.t_jobs t USING (task_id)
WHERE t.task_name = 'short-add' AND t.state = 'completed'
"""
COUNTED = "SELECT sum(value) FROM counter"
ASLEEP = """
SELECT count(*) FROM absurd.t_jobs WHERE task_name = 'sleeper' AND state = 'sleeping'
"""
WOKEN = """
SELECT (t.params->>'number')::bigint, extract(epoch FROM r.completed_at)
FROM absurd.t_jobs t JOIN absurd.r_jobs r ON r.run_id = t.last_attempt_run
WHERE t.task_name = 'sleeper' AND t.state = 'completed'
"""


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Peer]:
    """The asking side in this process, the workers in processes of their own."""
    async with AsyncExitStack() as stack:

        async def connection() -> Any:  # not by the SDK: many first uses at once open many
            opened = await psycopg.AsyncConnection.connect(place.url, autocommit=True)
            stack.push_async_callback(opened.close)
            return opened

        db = await connection()
        if (await _value(db, "SELECT to_regnamespace('absurd') IS NULL")) is True:
            await db.execute(BUNDLED_SCHEMA_SQL)
            await db.execute(COUNTER)
            await db.execute("SELECT absurd.create_queue(%s)", (QUEUE,))
        clients = [AsyncAbsurd(await connection(), queue_name=QUEUE) for _ in range(CLIENTS)]
        stack.enter_context(workers("absurd", place, count=WORKERS))
        yield AbsurdPeer(place, db, clients)


async def worker(place: Place) -> None:
    """One worker process."""
    app = AsyncAbsurd(place.url, queue_name=QUEUE)
    work = work_of(place)
    counts = await psycopg.AsyncConnection.connect(place.url, autocommit=True)

    @app.register_task("short-add")
    async def short_add(params: Any, ctx: Any) -> Any:
        number = params["number"]

        async def allocate() -> None:
            await work(number, "allocate")

        async def stat() -> bool:
            await work(number, "stat")
            return False

        async def presign() -> str:
            await work(number, "presign")
            return f"https://bucket.example/{number}"

        await ctx.step("allocate", allocate)
        assert await ctx.step("stat", stat) is False
        return await ctx.step("presign", presign)

    @app.register_task("increment")
    async def increment(params: Any, ctx: Any) -> None:
        async def count() -> None:
            await counts.execute(INCREMENT, {"task": ctx.task_id, "name": params["name"]})

        await ctx.step("count", count)

    @app.register_task("sleeper")
    async def sleeper(params: Any, ctx: Any) -> None:
        await ctx.sleep_until("rest", params["until"])

    concurrency = max(1, place.clients // WORKERS)
    print("ready", flush=True)
    if place.handlers == "slow":  # a worker claims again only when all that it has claimed is done
        await Gate(place.folder / "gate").passed()
    await app.start_worker(
        claim_timeout=LEASE_SECONDS, concurrency=concurrency, poll_interval=POLL_SECONDS
    )


class AbsurdPeer:
    """As `Peer` says."""

    def __init__(self, place: Place, db: Any, clients: list[AsyncAbsurd]) -> None:
        self._place, self._db = place, db
        self._clients = itertools.cycle(clients)

    async def job(self, number: int) -> None:
        client = next(self._clients)
        await self._end_of(client, await self._spawn(client, number))

    async def begin(self, number: int) -> None:
        await self._spawn(next(self._clients), number)

    async def _spawn(self, client: AsyncAbsurd, number: int) -> str:
        params = {"space": SPACE, "number": number, "size": 1_000 + number}
        spawned = await client.spawn(
            "short-add", params, queue=QUEUE, idempotency_key=f"job {number}"
        )
        return str(spawned["task_id"])

    async def _end_of(self, client: AsyncAbsurd, task: str) -> None:
        snapshot = await client.await_task_result(task)
        assert snapshot.state == "completed", snapshot

    async def jobs_ended(self) -> int:
        return int(await _value(self._db, ENDED))

    async def steps_recorded(self) -> int:
        return int(await _value(self._db, STEPS_RECORDED))

    async def increment(self, name: str) -> None:
        client = next(self._clients)
        spawned = await client.spawn("increment", {"name": name}, queue=QUEUE)
        await self._end_of(client, str(spawned["task_id"]))

    async def counted(self) -> int:
        return int(await _value(self._db, COUNTED))

    async def rest(self, number: int, until: float) -> None:
        params = {"number": number, "until": until}
        await next(self._clients).spawn("sleeper", params, queue=QUEUE)

    async def asleep(self) -> int:
        return int(await _value(self._db, ASLEEP))

    async def woken(self) -> dict[int, float]:
        rows = await (await self._db.execute(WOKEN)).fetchall()
        return {int(number): float(at) for number, at in rows}


async def _value(db: Any, sql: str) -> Any:
    return (await (await db.execute(sql)).fetchone())[0]
