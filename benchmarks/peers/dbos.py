"""DBOS Transact: coroutine workflows and steps, on SQLite or PostgreSQL, in one process.

Set up as its documentation says: https://docs.dbos.dev/python/tutorials/workflow-tutorial for
coroutine workflows, .../transaction-tutorial for the datasource that counts, and
https://docs.dbos.dev/production/workflow-recovery for what happens after a crash.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from dbos import DBOS, AsyncSQLAlchemyDatasource, DBOSConfig, SetWorkflowID
from sqlalchemy import text

from benchmarks.peers.peer import SPACE, Peer, Place, Work, work_of

THREADS = 20
"""As many as the pool has connections; by default four more than there are cores."""
COUNTER = "CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value BIGINT NOT NULL)"
INCREMENT = """
INSERT INTO counter VALUES (:name, 1)
ON CONFLICT (name) DO UPDATE SET value = counter.value + 1 RETURNING value
"""

ENDED = """
SELECT count(*) FROM dbos.workflow_status
WHERE workflow_uuid LIKE 'job-%' AND status = 'SUCCESS'
"""
STEPS_RECORDED = """
SELECT count(*) FROM dbos.operation_outputs o JOIN dbos.workflow_status w USING (workflow_uuid)
WHERE workflow_uuid LIKE 'job-%' AND w.status = 'SUCCESS'
"""
COUNTED = "SELECT sum(value) FROM counter"
ASLEEP = "SELECT count(*) FROM dbos.operation_outputs WHERE function_name = 'DBOS.sleep'"
WOKEN = """
SELECT workflow_uuid, updated_at FROM dbos.workflow_status
WHERE workflow_uuid LIKE 'sleeper-%' AND status = 'SUCCESS'
"""


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Peer]:
    """Launch in this process, which recovers what an earlier one left."""
    config: DBOSConfig = {
        "name": "peers",
        "application_version": "1",
        "system_database_url": place.url or f"sqlite:///{place.folder}/system.sqlite",
        "log_level": "ERROR",
        "max_executor_threads": THREADS,
    }
    DBOS(config=config)
    counts = await AsyncSQLAlchemyDatasource.create(
        place.url or f"sqlite+aiosqlite:///{place.folder}/counts.sqlite"
    )
    isolation = "READ COMMITTED" if place.url else "SERIALIZABLE"  # SQLite has no other
    workflows = _workflows(work_of(place), counts, isolation)
    DBOS.launch()
    with Aside(place) as aside:
        await aside.rows(COUNTER, "counts")
        try:
            yield DBOSPeer(workflows, aside)
        finally:
            DBOS.destroy()


def _workflows(
    work: Work, counts: AsyncSQLAlchemyDatasource, isolation: Any
) -> dict[str, Callable[..., Any]]:
    @DBOS.step()
    async def allocate(number: int) -> None:
        await work(number, "allocate")

    @DBOS.step()
    async def stat(number: int) -> bool:
        await work(number, "stat")
        return False

    @DBOS.step()
    async def presign(number: int) -> str:
        await work(number, "presign")
        return f"https://bucket.example/{number}"

    @DBOS.workflow()
    async def short_add(space: str, number: int, size: int) -> str:
        await allocate(number)
        found = await stat(number)
        assert not found
        return await presign(number)

    @counts.transaction(isolation_level=isolation)
    async def count(name: str) -> int:
        result = await counts.sql_session().execute(text(INCREMENT), {"name": name})
        return int(result.scalar_one())

    @DBOS.workflow()
    async def increment(name: str) -> int:
        return await count(name)

    @DBOS.workflow()
    async def sleeper(until: float) -> None:
        await DBOS.sleep_async(until - time.time())

    return {"short_add": short_add, "increment": increment, "sleeper": sleeper}


class DBOSPeer:
    """As `Peer` says."""

    def __init__(self, workflows: dict[str, Callable[..., Any]], aside: Aside) -> None:
        self._workflows, self._aside = workflows, aside

    async def job(self, number: int) -> None:
        handle = await self._start(number)
        await handle.get_result()

    async def begin(self, number: int) -> None:
        await self._start(number)

    async def _start(self, number: int) -> Any:
        with SetWorkflowID(f"job-{number}"):
            return await DBOS.start_workflow_async(
                self._workflows["short_add"], SPACE, number, 1_000 + number
            )

    async def jobs_ended(self) -> int:
        return int((await self._aside.rows(ENDED))[0][0])

    async def steps_recorded(self) -> int:
        return int((await self._aside.rows(STEPS_RECORDED))[0][0])

    async def increment(self, name: str) -> None:
        await self._workflows["increment"](name)

    async def counted(self) -> int:
        return int((await self._aside.rows(COUNTED, "counts"))[0][0])

    async def rest(self, number: int, until: float) -> None:
        """Acknowledged when the workflow is written; its sleep is written a moment later."""
        with SetWorkflowID(f"sleeper-{number}"):
            await DBOS.start_workflow_async(self._workflows["sleeper"], until)

    async def asleep(self) -> int:
        return int((await self._aside.rows(ASLEEP))[0][0])

    async def woken(self) -> dict[int, float]:
        rows = await self._aside.rows(WOKEN)
        return {int(name.partition("-")[2]): int(at) / 1_000 for name, at in rows}


class Aside:
    """Looks into the databases beside DBOS: connections and a thread of its own."""

    def __init__(self, place: Place) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._postgres = psycopg.connect(place.url, autocommit=True) if place.url else None
        self._sqlite = {
            name: sqlite3.connect(
                place.folder / f"{name}.sqlite",
                timeout=60,
                isolation_level=None,
                check_same_thread=False,
            )
            for name in ("system", "counts")
            if not place.url
        }

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        for database in [self._postgres, *self._sqlite.values()]:
            if database is not None:
                database.close()

    async def rows(self, sql: str, database: str = "system") -> list[Any]:
        """What a statement gives; PostgreSQL has one database for both."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._rows, sql, database)

    def _rows(self, sql: str, database: str) -> list[Any]:
        cursor: Any
        if self._postgres is not None:
            cursor = self._postgres.execute(sql.encode())
        else:
            cursor = self._sqlite[database].execute(sql.replace("dbos.", ""))
        return list(cursor.fetchall()) if cursor.description else []
