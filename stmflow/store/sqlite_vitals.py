"""How a SQLite database stands: `SQLiteStore.vitals`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from stmflow.cid import CID
from stmflow.vitals import EXAMPLES, Vitals, WorkerState, job_groups, task_groups

_JOBS = """
SELECT g.workflow, g.version, g.n, j.id
FROM (SELECT workflow, version, row, count(*) OVER w AS n, row_number() OVER (w ORDER BY row) AS r
      FROM job WINDOW w AS (PARTITION BY workflow, version)) g
JOIN job j ON j.row = g.row WHERE g.r <= ?
"""
_TASKS = """
SELECT g.workflow, g.version, g.tag, g.worker, g.late, g.n, g.oldest, j.id, t.id
FROM (SELECT workflow, version, tag, worker, due <= ?1 AS late, place, count(*) OVER w AS n,
             min(due) OVER w AS oldest, row_number() OVER (w ORDER BY due, place) AS r
      FROM task WHERE parked = 0
      WINDOW w AS (PARTITION BY workflow, version, tag, worker, due <= ?1)) g
JOIN task t ON t.place = g.place JOIN job j ON j.row = g.place / 1048576
WHERE g.r <= ?2 ORDER BY g.workflow, g.version, g.tag, g.worker, g.late, g.r
"""
_TIMERS = """
SELECT g.workflow, g.version, 'sleep', NULL, g.late, g.n, g.oldest, g.job, g.id
FROM (SELECT j.workflow, j.version, j.id AS job, t.id, t.due <= ?1 AS late, count(*) OVER w AS n,
             min(t.due) OVER w AS oldest, row_number() OVER (w ORDER BY t.due, t.place) AS r
      FROM timer t JOIN job j ON j.row = t.place / 1048576 WHERE t.parked = 0
      WINDOW w AS (PARTITION BY j.workflow, j.version, t.due <= ?1)) g
WHERE g.r <= ?2 ORDER BY g.workflow, g.version, g.late, g.r
"""
_UNINDEXED = """
SELECT coalesce(sum(length(digests)) / 8, 0) FROM revision
WHERE row > (SELECT coalesce(max(last), 0) FROM segment)
"""


def vitals(
    db: Any, path: str, now: int, *, library: str, alive: Callable[[int], bool | None]
) -> Vitals:
    """How the database stands, read in one transaction.

    Args:
        db: a connection. path: its file. now: the host's time, in milliseconds.
        library: the version of SQLite. alive: worker → whether its lock is held.
    """

    def one(sql: str, *values: Any) -> Any:
        return db.execute(sql, values).fetchall()[0][0]

    db.execute("BEGIN")
    try:
        schema, codec = db.execute("SELECT schema, codec FROM meta").fetchall()[0]
        ahead = db.execute(
            "SELECT id, at FROM job WHERE at > ? ORDER BY at DESC LIMIT ?", (now, EXAMPLES)
        ).fetchall()
        return Vitals(
            schema,
            codec,
            job_groups(db.execute(_JOBS, (EXAMPLES,)).fetchall()),
            [
                *task_groups(db.execute(_TASKS, (now, EXAMPLES)).fetchall(), timer=False),
                *task_groups(db.execute(_TIMERS, (now, EXAMPLES)).fetchall(), timer=True),
            ],
            [
                WorkerState(worker, until, alive(worker))
                for worker, until in db.execute("SELECT id, until FROM worker").fetchall()
            ],
            (
                one("SELECT count(*) FROM job WHERE at > ?", now),
                [(CID.parse(id), at) for id, at in ahead],
            ),
            one("SELECT count(*) FROM delivery"),
            one("SELECT count(*) FROM delivery WHERE until < ?", now),
            one(_UNINDEXED),
            _ahead_ms(path, now),
            {"journal_mode": str(one("PRAGMA journal_mode")).lower(), "sqlite": library},
            _sizes(path),
        )
    finally:
        db.execute("ROLLBACK")


def _files(path: str) -> dict[str, os.stat_result]:
    """The files that there are: of the database and of its log."""
    found: dict[str, os.stat_result] = {}
    if not path:  # it is in memory
        return found
    for name, file in (("database", path), ("wal", f"{path}-wal")):
        if os.path.exists(file):
            found[name] = os.stat(file)
    return found


def _ahead_ms(path: str, now: int) -> int:
    """How far the files are of the future: then this host's clock was set back."""
    times = [file.st_mtime_ns // 1_000_000 for file in _files(path).values()]
    return max([0, *(at - now for at in times)])


def _sizes(path: str) -> dict[str, int]:
    sizes = {name: file.st_size for name, file in _files(path).items()}
    if sizes:
        sizes["free"] = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
    return sizes
