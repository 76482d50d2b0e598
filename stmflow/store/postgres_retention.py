"""What leaves a PostgreSQL log: rows that an archive holds, and how their jobs come back.

Three tables more, made by the first `Drop`. A database without them has lost nothing, so they need
no schema version. No driver is imported here; the connection is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.cid import CID
from stmflow.store import Drop, Dropped, Logged, Packed
from stmflow.store.packing import unpack
from stmflow.store.rows import PLACES, job_hash

MAKING = -2
"""The advisory lock, beside those of workers, of whoever makes the tables or notes an archive."""

_TABLES = """
-- What holds the rows between first and last that are not here. link NULL: nobody does.
CREATE TABLE IF NOT EXISTS stmflow.archive (
    nr bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    link bytea UNIQUE,
    first bigint NOT NULL,
    last bigint NOT NULL
);
-- Revisions that an archive holds and that are needed here as well.
CREATE TABLE IF NOT EXISTS stmflow.archived (nr bigint PRIMARY KEY);
-- Jobs that have left. Their rows stay, with head = 0 and place = -1; their open effects are here.
CREATE TABLE IF NOT EXISTS stmflow.away (job bigint PRIMARY KEY, open bytea NOT NULL);
"""
_NEW = "SELECT nr, data FROM stmflow.revision WHERE nr > $1 ORDER BY nr LIMIT $2"
_NOT_ARCHIVED = (
    "SELECT nr, data FROM stmflow.revision r WHERE nr > $1"
    " AND NOT EXISTS (SELECT 1 FROM stmflow.archived a WHERE a.nr = r.nr) ORDER BY nr LIMIT $2"
)
_ARCHIVED = (
    "SELECT nr, data FROM stmflow.archived JOIN stmflow.revision USING (nr)"
    " WHERE nr > $1 ORDER BY nr LIMIT $2"
)
_JOBS = (
    "SELECT j.id, j.nr, j.head, j.place, j.workflow, j.tag, j.at, j.revision"
    " FROM unnest($1::bigint[], $2::bytea[]) q (hash, id)"
    " JOIN stmflow.job j ON j.hash = q.hash AND j.id = q.id"
)
_HELD = _JOBS + " ORDER BY j.id FOR UPDATE OF j"
_WAITS = """
SELECT nr FROM unnest($1::bigint[]) nr WHERE
    EXISTS (SELECT 1 FROM stmflow.task WHERE place BETWEEN nr * $2 AND nr * $2 + $2 - 1)
    OR EXISTS (SELECT 1 FROM stmflow.timer WHERE place BETWEEN nr * $2 AND nr * $2 + $2 - 1)
    OR EXISTS (SELECT 1 FROM stmflow.delivery WHERE job = nr)
"""
_LEAVE = """
WITH gone AS (
    UPDATE stmflow.job SET head = 0, place = -1 WHERE nr = ANY ($1::bigint[])
)
INSERT INTO stmflow.away SELECT * FROM unnest($1::bigint[], $2::bytea[])
ON CONFLICT (job) DO UPDATE SET open = excluded.open
"""
_ROWS = """
WITH gone AS (
    DELETE FROM stmflow.revision WHERE nr = ANY ($1::bigint[])
), listed AS (
    DELETE FROM stmflow.archived WHERE nr = ANY ($1::bigint[])
)
INSERT INTO stmflow.archived SELECT unnest($2::bigint[]) ON CONFLICT DO NOTHING
"""
_NOTE = """
INSERT INTO stmflow.archive AS a (link, first, last) VALUES ($1, $2, $3)
ON CONFLICT (link) DO UPDATE SET first = least(a.first, $2), last = greatest(a.last, $3)
"""
_NOTE_NONE = (
    "UPDATE stmflow.archive SET first = least(first, $1), last = greatest(last, $2)"
    " WHERE link IS NULL RETURNING 1"
)
# A segment of the CID index of whose first 64 entries half name rows that are gone.
_SPARSE = """
SELECT s.nr FROM stmflow.segment s WHERE (
    SELECT count(*) FROM generate_series(0, least(s.size, 64) - 1) n WHERE NOT EXISTS (
        SELECT 1 FROM stmflow.revision WHERE nr =
            ('x' || encode(substring(s.entries FROM n * 16 + 9 FOR 8), 'hex'))::bit(64)::bigint
    )
) * 2 >= least(s.size, 64) LIMIT 1
"""
_THIN = """
WITH cut AS (
    SELECT substring(s.entries FROM n * 16 + 1 FOR 16) AS entry
    FROM stmflow.segment s, generate_series(0, s.size - 1) n WHERE s.nr = $1
), kept AS (
    SELECT entry FROM cut WHERE EXISTS (
        SELECT 1 FROM stmflow.revision WHERE nr =
            ('x' || encode(substring(entry FROM 9 FOR 8), 'hex'))::bit(64)::bigint
    )
)
UPDATE stmflow.segment SET (size, entries) = (
    SELECT count(*), coalesce(string_agg(entry, ''::bytea ORDER BY entry), ''::bytea) FROM kept
) WHERE nr = $1
"""

_REACH = (
    "UPDATE stmflow.archive SET last = greatest(last, $1)"
    " WHERE nr = (SELECT max(nr) FROM stmflow.archive WHERE link IS NOT NULL)"
)
"""A row that was revived leaves without being archived anew: an archive has it already."""


class _Row(NamedTuple):
    nr: int
    head: int
    place: int
    workflow: str
    tag: bytes
    at: int
    revision: bytes


async def known(db: Any) -> bool:
    """Whether anything has ever left this database."""
    return bool(await db.fetchval("SELECT to_regclass('stmflow.archive') IS NOT NULL"))


async def log(db: Any, after: int, limit: int, archived: bool) -> list[Logged]:
    """Rows of the log that no archive holds, or that one holds and that are still here."""
    sql = _NEW
    if await known(db):
        sql = _ARCHIVED if archived else _NOT_ARCHIVED
    elif archived:
        return []
    found = []
    for nr, data in await db.fetch(sql, after, limit):
        revision, *blocks = unpack(data)
        found.append(Logged(nr, Packed(CID.of(revision), revision, blocks)))
    return found


async def archives(db: Any) -> list[CID]:
    """What holds the rows that have left, newest first."""
    if not await known(db):
        return []
    sql = "SELECT link FROM stmflow.archive WHERE link IS NOT NULL ORDER BY nr DESC"
    return [CID.parse(link) for (link,) in await db.fetch(sql)]


async def left(db: Any, nr: int) -> bool:
    """Whether a row that is not here may have left (else it is lost)."""
    sql = "SELECT 1 FROM stmflow.archive WHERE $1 BETWEEN first AND last LIMIT 1"
    return await known(db) and await db.fetchval(sql, nr) is not None


async def drop(db: Any, wanted: Drop, lock: int) -> Dropped | None:
    """Let go of what is not needed; None: `archive` does not name the newest as the one before it.
    A row that is no head never becomes one, so only jobs that may leave are held, in order of their
    ids, before they are judged."""
    if not await known(db):
        await db.execute("SELECT pg_advisory_xact_lock($1, $2)", lock, MAKING)
        await db.execute(_TABLES)
    if not wanted.revisions:
        return Dropped()
    if wanted.archive is not None and not await _follows(db, wanted.archive, wanted.prev, lock):
        return None
    newest = await db.fetchval("SELECT max(nr) FROM stmflow.revision")
    asked = dict(wanted.revisions)
    sql = "SELECT nr, data, open FROM stmflow.revision WHERE nr = ANY ($1::bigint[])"
    opens: dict[int, list[bytes]] = {}
    writes: dict[int, list[CID]] = {}
    for nr, data, packed in await db.fetch(sql, list(asked)):
        revision = unpack(data)[0]
        if CID.of(revision) == asked[nr]:
            plain: Any = codec.decode(revision)
            opens[nr], writes[nr] = unpack(packed), [write["job"] for write in plain["writes"]]
    everyone = {job for named in writes.values() for job in named}
    heads = _heads(writes, await _jobs(db, _JOBS, everyone))
    sql = "SELECT nr FROM stmflow.archived WHERE nr = ANY ($1::bigint[])"
    before = {nr for (nr,) in await db.fetch(sql, list(heads))}
    sure = before if wanted.archive is None else set(heads)
    may = {nr for nr in sure if heads[nr] and all(_over(row, wanted) for row in heads[nr])}
    if may:
        held = await _jobs(db, _HELD, {job for nr in may for job in writes[nr]})
        heads |= _heads({nr: writes[nr] for nr in may}, held)
        numbers = [row.nr for nr in may for row in heads[nr]]
        waiting = {nr for (nr,) in await db.fetch(_WAITS, numbers, PLACES)}
        may = {
            nr
            for nr in may
            if all(_over(row, wanted) and row.nr not in waiting for row in heads[nr])
        }
    gone = [nr for nr, rows in heads.items() if (not rows or nr in may) and nr != newest]
    left = [(row.nr, opens[nr][row.place]) for nr in gone for row in heads[nr]]
    if left:
        await db.execute(_LEAVE, *zip(*left, strict=True))
    await db.execute(_ROWS, gone, list(sure - set(gone)))
    await _note(db, wanted.archive, list(heads) if wanted.archive else set(gone) - before)
    if gone:
        await _thin(db)
    return Dropped(len(gone), len(heads) - len(gone), len(left))


async def _follows(db: Any, archive: CID, prev: CID | None, lock: int) -> bool:
    """Whether the archive is known, or names the newest one as the one before it. Two are not noted
    at once."""
    if await db.fetchval("SELECT 1 FROM stmflow.archive WHERE link = $1", archive.bytes):
        return True
    await db.execute("SELECT pg_advisory_xact_lock($1, $2)", lock, MAKING)
    sql = "SELECT link FROM stmflow.archive WHERE link IS NOT NULL ORDER BY nr DESC LIMIT 1"
    return await db.fetchval(sql) in (archive.bytes, prev and prev.bytes)


async def _jobs(db: Any, sql: str, jobs: Collection[CID]) -> dict[CID, _Row]:
    hashes, ids = [job_hash(job) for job in jobs], [job.bytes for job in jobs]
    return {CID.parse(id): _Row(*row) for id, *row in await db.fetch(sql, hashes, ids)}


def _heads(writes: dict[int, list[CID]], jobs: dict[CID, _Row]) -> dict[int, list[_Row]]:
    """For each revision the jobs whose head it is."""
    return {
        nr: [row for job in named if (row := jobs.get(job)) is not None and row.head == nr]
        for nr, named in writes.items()
    }


def _over(row: _Row, wanted: Drop) -> bool:
    return any(
        row.workflow == one.workflow and row.tag.decode() in one.tags and row.at < one.before
        for one in wanted.finished
    )


async def _note(db: Any, archive: CID | None, rows: Collection[int]) -> None:
    """What holds these rows: one line for each archive, one for all that nobody holds."""
    if not rows:
        return
    span = (min(rows), max(rows))
    if archive is not None:
        await db.execute(_NOTE, archive.bytes, *span)
    elif await db.fetchval(_NOTE_NONE, *span) is None:
        await db.execute(_NOTE, None, *span)


async def _thin(db: Any) -> None:
    """Write one segment of the CID index anew where half of it is of no use; drop an empty one."""
    nr = await db.fetchval(_SPARSE)
    if nr is not None:
        await db.execute(_THIN, nr)
        await db.execute("DELETE FROM stmflow.segment WHERE nr = $1 AND size = 0", nr)


async def revivable(db: Any, revision: CID, jobs: Sequence[CID]) -> list[bytes | None]:
    """For each of these jobs its open effects, if it has left with that head; held from here on."""
    held = await _jobs(db, _HELD, jobs)
    left = {job: row for job, row in held.items() if not row.head}
    numbers = [row.nr for row in left.values() if row.revision == revision.bytes]
    if not numbers:
        return [None] * len(jobs)
    sql = "SELECT job, open FROM stmflow.away WHERE job = ANY ($1::bigint[])"
    opens: dict[int, bytes] = dict(map(tuple, await db.fetch(sql, numbers)))
    return [opens.get(left[job].nr) if job in left else None for job in jobs]


async def come_back(db: Any, nr: int, jobs: Sequence[tuple[CID, int]]) -> None:
    """Make a revision, which has been written as `nr`, the head of these (job, place)."""
    await db.execute("INSERT INTO stmflow.archived VALUES ($1)", nr)
    await db.execute(_REACH, nr)
    for job, place in jobs:
        sql = "UPDATE stmflow.job SET head = $1, place = $2 WHERE hash = $3 AND id = $4"
        await db.execute(sql, nr, place, job_hash(job), job.bytes)
