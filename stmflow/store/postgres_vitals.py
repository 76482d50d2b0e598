"""How a PostgreSQL database stands: `PostgresStore.vitals`."""

from __future__ import annotations

from typing import Any

from stmflow.cid import CID
from stmflow.vitals import EXAMPLES, Vitals, WorkerState, job_groups, task_groups

_JOBS = """
SELECT g.workflow, g.version, g.n, j.id
FROM (SELECT workflow, version, nr, count(*) OVER w AS n, row_number() OVER (w ORDER BY nr) AS r
      FROM stmflow.job WINDOW w AS (PARTITION BY workflow, version)) g
JOIN stmflow.job j ON j.nr = g.nr WHERE g.r <= $1 ORDER BY g.workflow, g.version, g.r
"""
_TASKS = """
SELECT g.workflow, g.version, g.tag, g.worker, g.late, g.n, g.oldest, j.id, t.id
FROM (SELECT workflow, version, tag, worker, due <= $1 AS late, place, count(*) OVER w AS n,
             min(due) OVER w AS oldest, row_number() OVER (w ORDER BY due, place) AS r
      FROM stmflow.task WHERE NOT parked
      WINDOW w AS (PARTITION BY workflow, version, tag, worker, due <= $1)) g
JOIN stmflow.task t ON t.place = g.place JOIN stmflow.job j ON j.nr = g.place / 1048576
WHERE g.r <= $2 ORDER BY g.workflow, g.version, g.tag, g.worker, g.late, g.r
"""
_TIMERS = """
SELECT g.workflow, g.version, 'sleep'::bytea, NULL::integer, g.late, g.n, g.oldest, g.job, g.id
FROM (SELECT j.workflow, j.version, j.id AS job, t.id, t.due <= $1 AS late, count(*) OVER w AS n,
             min(t.due) OVER w AS oldest, row_number() OVER (w ORDER BY t.due, t.place) AS r
      FROM stmflow.timer t JOIN stmflow.job j ON j.nr = t.place / 1048576 WHERE NOT t.parked
      WINDOW w AS (PARTITION BY j.workflow, j.version, t.due <= $1)) g
WHERE g.r <= $2 ORDER BY g.workflow, g.version, g.late, g.r
"""
_WORKERS = """
SELECT w.nr, w.until, EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = $1::bigint::oid
    AND l.objid = w.nr::bigint::oid AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
FROM stmflow.worker w ORDER BY w.nr
"""
_SETTINGS = (
    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes',"
    " 'synchronous_commit', 'synchronous_standby_names', 'server_version') ORDER BY name"
)
_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


async def vitals(db: Any, now: int, host: int, workers: int) -> Vitals:
    """How the database stands.

    Args:
        now: the time to judge by. host: that of this machine. Both in milliseconds.
        workers: the first number of the workers' advisory locks.
    """
    clock_ms = await db.fetchval(_CLOCK) - host
    schema, codec = await db.fetchrow("SELECT schema, codec FROM stmflow.meta")
    ahead = await db.fetch(
        "SELECT id, at FROM stmflow.job WHERE at > $1 ORDER BY at DESC LIMIT $2", now, EXAMPLES
    )
    return Vitals(
        schema,
        codec,
        job_groups(await db.fetch(_JOBS, EXAMPLES)),
        [
            *task_groups(map(_decoded, await db.fetch(_TASKS, now, EXAMPLES)), timer=False),
            *task_groups(map(_decoded, await db.fetch(_TIMERS, now, EXAMPLES)), timer=True),
        ],
        [WorkerState(*row) for row in await db.fetch(_WORKERS, workers)],
        (
            await db.fetchval("SELECT count(*) FROM stmflow.job WHERE at > $1", now),
            [(CID.parse(id), at) for id, at in ahead],
        ),
        await db.fetchval("SELECT count(*) FROM stmflow.delivery"),
        await db.fetchval("SELECT count(*) FROM stmflow.delivery WHERE until < $1", now),
        await db.fetchval("SELECT coalesce(sum(length(entries)) / 16, 0) FROM stmflow.unsealed"),
        clock_ms,
        dict(await db.fetch(_SETTINGS)),
        {"database": await db.fetchval("SELECT pg_database_size(current_database())")},
    )


def _decoded(row: Any) -> Any:
    """A row whose tag, the third of it, is bytes."""
    return (*row[:2], row[2].decode(), *row[3:])
