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
from contextlib import asynccontextmanager, closing
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
    peer = DBOSPeer(place, workflows)
    await asyncio.to_thread(peer.query, COUNTER, "counts")
    try:
        yield peer
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

    def __init__(self, place: Place, workflows: dict[str, Callable[..., Any]]) -> None:
        self._place, self._workflows = place, workflows

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
        return int((await self._rows(ENDED))[0][0])

    async def steps_recorded(self) -> int:
        return int((await self._rows(STEPS_RECORDED))[0][0])

    async def increment(self, name: str) -> None:
        await self._workflows["increment"](name)

    async def counted(self) -> int:
        rows = await asyncio.to_thread(self.query, "SELECT sum(value) FROM counter", "counts")
        return int(rows[0][0])

    async def rest(self, number: int, until: float) -> None:
        """Acknowledged when the workflow is written; its sleep is written a moment later."""
        with SetWorkflowID(f"sleeper-{number}"):
            await DBOS.start_workflow_async(self._workflows["sleeper"], until)

    async def asleep(self) -> int:
        return int((await self._rows(ASLEEP))[0][0])

    async def woken(self) -> dict[int, float]:
        rows = await self._rows(WOKEN)
        return {int(name.partition("-")[2]): int(at) / 1_000 for name, at in rows}

    async def _rows(self, sql: str) -> list[Any]:
        schema = "dbos." if self._place.url else ""
        return await asyncio.to_thread(self.query, sql.replace("dbos.", schema), "system")

    def query(self, sql: str, database: str) -> list[Any]:
        """Beside DBOS, by a connection of its own."""
        db: Any = (
            psycopg.connect(self._place.url)
            if self._place.url
            else sqlite3.connect(self._place.folder / f"{database}.sqlite", timeout=60)
        )
        with closing(db), db:
            cursor = db.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []
