"""What one writes oneself: PostgreSQL, a table of jobs, an outbox, FOR UPDATE SKIP LOCKED, asyncpg.

`Outbox` is the whole engine, and as fast as its size allows: a worker locks a batch of due rows,
runs their handlers side by side, and writes all results, next rows and states by one statement in
the same transaction. What holds the rows is the transaction, so a dead process frees them at once;
there is no lease, retry, dedupe of outcomes, history or limit, and a slow handler keeps its whole
batch (and the server's vacuum) waiting.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import anyio
import asyncpg

from benchmarks.peers.peer import SPACE, STEPS, Gate, Peer, Place, work_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    id bigint PRIMARY KEY, body text NOT NULL, state text NOT NULL, ended_at timestamptz);
CREATE TABLE IF NOT EXISTS outbox (
    job bigint, task text, due timestamptz NOT NULL, PRIMARY KEY (job, task));
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due);
CREATE TABLE IF NOT EXISTS receipt (job bigint, task text, outcome text, PRIMARY KEY (job, task));
CREATE TABLE IF NOT EXISTS counter (name text PRIMARY KEY, value bigint NOT NULL);
"""
BEGIN = """
WITH made AS (INSERT INTO job VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id)
INSERT INTO outbox SELECT id, $3, $4 FROM made
"""
CLAIM = """
SELECT o.job, o.task, j.body FROM outbox o JOIN job j ON j.id = o.job
WHERE o.due <= clock_timestamp() ORDER BY o.due LIMIT $1 FOR UPDATE OF o SKIP LOCKED
"""
SETTLE = """
WITH done AS (SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[])
              AS t (job, task, outcome, next)),
     gone AS (DELETE FROM outbox o USING done d WHERE o.job = d.job AND o.task = d.task),
     kept AS (INSERT INTO receipt SELECT job, task, outcome FROM done),
     more AS (INSERT INTO outbox
              SELECT job, next, clock_timestamp() FROM done WHERE next IS NOT NULL)
UPDATE job SET state = coalesce(d.next, 'ended'),
               ended_at = CASE WHEN d.next IS NULL THEN clock_timestamp() END
FROM done d WHERE job.id = d.job
"""
INCREMENT = """
INSERT INTO counter VALUES ($1, 1)
ON CONFLICT (name) DO UPDATE SET value = counter.value + 1 RETURNING value
"""
LONGEST_WAIT_SECONDS = 1.0
"""How long until a worker looks for what other processes wrote."""

Perform = Callable[[int, str, str], Awaitable[tuple[str, str | None]]]
"""`await perform(job, task, body)` gives the outcome and the next task, or None at the end."""


class Outbox:
    """Jobs that go from task to task, each step in one transaction.

    Args:
        batch: how many rows one worker holds at most.
    """

    def __init__(self, pool: Any, perform: Perform, *, batch: int) -> None:
        self._pool, self._perform, self._batch = pool, perform, batch
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ends: dict[int, asyncio.Future[None]] = {}

    async def begin(self, job: int, task: str, body: str, due: float = 0) -> None:
        """Write the job and its first row; a job that is there already stays as it is."""
        when = datetime.fromtimestamp(due or time.time(), UTC)
        await self._pool.execute(BEGIN, job, body, task, when)
        self._begun += 1
        if self._waiting:
            self._waiting.popleft().set_result(None)

    async def run(self, job: int, task: str, body: str) -> None:
        """Begin a job and wait for its end, in this process."""
        end = self._ends[job] = asyncio.get_running_loop().create_future()
        await self.begin(job, task, body)
        await end

    async def work(self) -> None:
        """One worker: claim what is due, perform it, again and again."""
        async with self._pool.acquire() as db:
            while True:
                begun = self._begun
                if not await self._turn(db):
                    await self._wait(db, begun)

    async def _turn(self, db: Any) -> int:
        """Claim, perform and settle one batch; how many rows it had."""
        async with db.transaction():
            rows = await db.fetch(CLAIM, self._batch)
            if not rows:
                return 0
            done = await asyncio.gather(*(self._perform(*row) for row in rows))
            outcomes, nexts = zip(*done, strict=True)
            jobs, tasks = [row[0] for row in rows], [row[1] for row in rows]
            await db.execute(SETTLE, jobs, tasks, outcomes, nexts)
        for job, following in zip(jobs, nexts, strict=True):
            if following is None and (end := self._ends.pop(job, None)):
                end.set_result(None)
        return len(rows)

    async def _wait(self, db: Any, begun: int) -> None:
        """Until something is begun here or falls due."""
        due = await db.fetchval(
            "SELECT extract(epoch FROM min(due) - clock_timestamp()) FROM outbox"
            " WHERE due > clock_timestamp()"
        )
        wait = LONGEST_WAIT_SECONDS if due is None else min(float(due), LONGEST_WAIT_SECONDS)
        if begun == self._begun:
            more = asyncio.get_running_loop().create_future()
            self._waiting.append(more)
            await asyncio.wait([more], timeout=wait)
            if not more.done():
                self._waiting.remove(more)


# --- as a peer ------------------------------------------------------------------------------------

CONNECTIONS = 24
WORKERS = 8
SLEEPERS_FROM = 10**9


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Peer]:
    """One process: the workers, the clients beside them."""
    work = work_of(place)

    async def perform(job: int, task: str, body: str) -> tuple[str, str | None]:
        if task == "wake":
            return "null", None
        await work(job, task)
        following = dict(pairwise(STEPS)).get(task)
        return json.dumps(f"{task} of {job}"), following

    async def worker(outbox: Outbox) -> None:
        if place.handlers == "slow":  # each worker then holds a whole batch, not the first row
            await Gate(place.folder / "gate").passed()
        await outbox.work()

    async with asyncpg.create_pool(place.url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        await pool.execute(SCHEMA)
        batch = max(place.clients // WORKERS, 32)
        outbox = Outbox(pool, perform, batch=batch)
        async with anyio.create_task_group() as group:
            for _ in range(WORKERS):
                group.start_soon(worker, outbox)
            yield OutboxPeer(outbox, pool)
            group.cancel_scope.cancel()


class OutboxPeer:
    """As `Peer` says."""

    def __init__(self, outbox: Outbox, pool: Any) -> None:
        self._outbox, self._pool = outbox, pool

    async def job(self, number: int) -> None:
        await self._outbox.run(number, STEPS[0], _body(number))

    async def begin(self, number: int) -> None:
        await self._outbox.begin(number, STEPS[0], _body(number))

    async def jobs_ended(self) -> int:
        sql = "SELECT count(*) FROM job WHERE state = 'ended' AND id < $1"
        return int(await self._pool.fetchval(sql, SLEEPERS_FROM))

    async def steps_recorded(self) -> int:
        sql = "SELECT count(*) FROM receipt WHERE job < $1"
        return int(await self._pool.fetchval(sql, SLEEPERS_FROM))

    async def increment(self, name: str) -> None:
        await self._pool.fetchval(INCREMENT, name)

    async def counted(self) -> int:
        return int(await self._pool.fetchval("SELECT sum(value) FROM counter"))

    async def rest(self, number: int, until: float) -> None:
        await self._outbox.begin(SLEEPERS_FROM + number, "wake", "{}", until)

    async def asleep(self) -> int:
        return int(await self._pool.fetchval("SELECT count(*) FROM outbox WHERE task = 'wake'"))

    async def woken(self) -> dict[int, float]:
        rows = await self._pool.fetch(
            "SELECT id - $1::bigint, extract(epoch FROM ended_at) FROM job"
            " WHERE id >= $1 AND state = 'ended'",
            SLEEPERS_FROM,
        )
        return {number: float(at) for number, at in rows}


def _body(number: int) -> str:
    return json.dumps({"space": SPACE, "link": f"link {number}", "size": 1_000 + number})
