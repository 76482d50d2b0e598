"""The reading half of the PostgreSQL store: heads, chains, outbox, blocks by CID, lists of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import Corrupt, NotFound, Unavailable
from stmflow.schema import thaw
from stmflow.store import DueTimer, JobRow, Kind, Logged, Packed, Queue, StoredHead, TaskRow
from stmflow.store import postgres_retention as retention
from stmflow.store.packing import unpack
from stmflow.store.postgres_link import Link
from stmflow.store.rows import (
    PLACES,
    Digests,
    delivery_hash,
    head_row,
    job_hash,
    link_row,
    list_of,
    past,
    stranger,
    task_row,
    timer_row,
)

T = TypeVar("T")

HEADS_AT_ONCE = 512
"""Heads that are hashed and decoded before others may use the loop."""
MOST = 2**63 - 1
"""No row lies behind this one."""

_HEADS = (
    "SELECT j.id, j.workflow, j.version, j.key, j.revision, j.seq, j.epoch, j.at, j.tag, j.place,"
    " r.open, r.data FROM unnest($1::bigint[], $2::bytea[]) q (hash, id)"
    " JOIN stmflow.job j ON j.hash = q.hash AND j.id = q.id"
    " LEFT JOIN stmflow.revision r ON r.nr = j.head"
)
_TASK = (
    "SELECT j.id, t.place, t.id, t.block, t.workflow, t.tag, t.tenant, t.due, t.attempt, t.token,"
    " t.worker, t.parked, t.error, t.outcome"
    " FROM stmflow.task t JOIN stmflow.job j ON j.nr = t.place / 1048576"
)
_TIMER = (
    "SELECT j.id, t.place, t.id, j.workflow, t.due, t.parked, t.error"
    " FROM stmflow.timer t JOIN stmflow.job j ON j.nr = t.place / 1048576"
)
_PLACES = " WHERE t.place BETWEEN $1 AND $2 ORDER BY t.place"
_PARKED = " WHERE t.place BETWEEN $1 AND $2 AND t.parked ORDER BY t.place"
_JOB = (
    "SELECT id, workflow, version, key, revision, seq, epoch, at, tag,"
    " (SELECT count(*) FROM stmflow.task t WHERE t.parked AND t.place BETWEEN"
    "  j.nr * 1048576 AND j.nr * 1048576 + 1048575)"
    " + (SELECT count(*) FROM stmflow.timer t WHERE t.parked AND t.place BETWEEN"
    "  j.nr * 1048576 AND j.nr * 1048576 + 1048575)"
    " FROM stmflow.job j"
)
_CREATED = (
    " WHERE nr > coalesce((SELECT nr FROM stmflow.job WHERE hash = $1 AND id = $2), 0)"
    " AND ($3::text IS NULL OR workflow = $3) AND ($4::bytea IS NULL OR tag = $4)"
    " ORDER BY nr LIMIT $5"
)
_PLACED = """
SELECT q.workflow, q.version, w.tag
FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[]) q (workflow, version, low, high),
LATERAL (
    WITH RECURSIVE waiting AS (
        SELECT q.low AS tag
        UNION ALL
        SELECT t.tag FROM waiting, LATERAL (
            SELECT tag FROM stmflow.task WHERE workflow = q.workflow AND version = q.version
                AND tag > waiting.tag AND tag < q.high AND worker IS NULL AND NOT parked
            ORDER BY tag LIMIT 1
        ) t
    )
    SELECT tag FROM waiting WHERE tag > q.low
) w
"""
_QUEUES = """
SELECT q.workflow, q.version, q.tag, w.tenant, w.due
FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[])
    WITH ORDINALITY q (workflow, version, tag, low, n),
LATERAL (
    WITH RECURSIVE waiting AS (
        SELECT q.low AS low, NULL::bytea AS tenant, NULL::bigint AS due, 0 AS place
        UNION ALL
        SELECT substring(t.tenant FROM 1 FOR 512) || '\\x00', t.tenant, t.due, place + 1
        FROM waiting, LATERAL (
            SELECT tenant, due FROM stmflow.task WHERE workflow = q.workflow
                AND version = q.version AND tag = q.tag AND worker IS NULL AND NOT parked
                AND substring(tenant FROM 1 FOR 512) >= waiting.low
            ORDER BY substring(tenant FROM 1 FOR 512), due LIMIT 1
        ) t WHERE place < $5
    )
    SELECT tenant, due, place FROM waiting WHERE place > 0
) w ORDER BY q.n, w.place
"""
_NR = "SELECT nr FROM stmflow.job WHERE hash = $1 AND id = $2"


class PostgresReader:
    """What a store answers without writing.

    Args:
        reader: makes the session that transactors and schedulers read on.
        lister: the same for what takes longer, and is for people.
    """

    def __init__(
        self, reader: Callable[[], Awaitable[Any]], lister: Callable[[], Awaitable[Any]]
    ) -> None:
        self._closed = False
        self._reader = Link(reader)
        self._lister = Link(lister)

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self, work: Callable[[Any], Awaitable[T]], *, listing: bool = False) -> T:
        if self._closed:
            raise Unavailable("the store has been closed")
        await self._settled()
        return await (self._lister if listing else self._reader).read(work)

    async def _settled(self) -> None:
        """Wait until what may be read is final."""

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        """The durable heads of these jobs: one statement, so as of one moment."""
        if not jobs:
            return {}
        return await self._read(lambda db: heads_of(db, jobs))

    async def delivery(self, job: CID, id: bytes) -> bytes | None:
        """The answer that this delivery got."""
        sql = (
            "SELECT answer FROM stmflow.delivery WHERE hash = $4 AND job IN"
            " ($1, (SELECT nr FROM stmflow.job WHERE hash = $2 AND id = $3))"
        )
        values = (stranger(job), job_hash(job), job.bytes, delivery_hash(id))
        answer: bytes | None = await self._read(lambda db: db.fetchval(sql, *values))
        return answer

    async def timers(self, now: int, limit: int) -> Sequence[DueTimer]:
        """Timers due by now, earliest first."""
        sql = (
            "SELECT j.id, t.place, t.id, t.due"
            " FROM stmflow.timer t JOIN stmflow.job j ON j.nr = t.place / 1048576"
            " WHERE NOT t.parked AND t.due <= $1 ORDER BY t.due LIMIT $2"
        )
        return [
            DueTimer(CID.parse(job), place % PLACES, CID.parse(id), due)
            for job, place, id, due in await self._read(lambda db: db.fetch(sql, now, limit))
        ]

    async def next_timer(self) -> int | None:
        """When the next timer is due."""
        sql = "SELECT min(due) FROM stmflow.timer WHERE NOT parked"
        due: int | None = await self._read(lambda db: db.fetchval(sql))
        return due

    async def next_task(self, kinds: Collection[Kind]) -> int | None:
        """When the next unclaimed task of these kinds is due."""
        sql = (
            "SELECT min(t.due) FROM unnest($1::text[], $2::bigint[], $3::bytea[])"
            " q (workflow, version, tag), LATERAL (SELECT due FROM stmflow.task t"
            " WHERE t.workflow = q.workflow AND t.version = q.version AND t.tag = q.tag"
            " AND t.worker IS NULL AND NOT t.parked ORDER BY due LIMIT 1) t"
        )
        columns = (
            [workflow for workflow, _, _ in kinds],
            [version for _, version, _ in kinds],
            [tag.encode() for _, _, tag in kinds],
        )
        due: int | None = await self._read(lambda db: db.fetchval(sql, *columns))
        return due

    async def placed(self, kinds: Collection[Kind]) -> Sequence[Kind]:
        """The kinds that wait for these and needs beside: each is one look at the index."""
        columns = (
            [workflow for workflow, _, _ in kinds],
            [version for _, version, _ in kinds],
            [f"{tag} {{".encode() for _, _, tag in kinds],
            [f"{tag} |".encode() for _, _, tag in kinds],
        )
        rows = await self._read(lambda db: db.fetch(_PLACED, *columns))
        return sorted((workflow, version, tag.decode()) for workflow, version, tag in rows)

    async def queues(self, after: Mapping[Kind, str | None], limit: int) -> Sequence[Queue]:
        """Who waits: each tenant is one look at the index."""
        columns = (
            [workflow for workflow, _, _ in after],
            [version for _, version, _ in after],
            [tag.encode() for _, _, tag in after],
            [b"" if last is None else last.encode()[:512] + b"\0" for last in after.values()],
        )
        if limit < 1:
            return []
        return [
            Queue(workflow, version, tag.decode(), tenant.decode(), due)
            for workflow, version, tag, tenant, due in await self._read(
                lambda db: db.fetch(_QUEUES, *columns, limit)
            )
        ]

    async def task(self, id: CID) -> TaskRow | None:
        """The outbox row of that task."""

        async def work(db: Any) -> TaskRow | None:
            tasks = await db.fetch(_TASK + " WHERE t.id = $1", id.bytes)
            timers = await db.fetch(_TIMER + " WHERE t.id = $1", id.bytes)
            return next(iter([*map(_task_row, tasks), *map(timer_row, timers)]), None)

        return await self._read(work, listing=True)

    async def tasks(self, *, job: CID | None = None, parked: bool = False) -> Sequence[TaskRow]:
        """The outbox, in order of jobs."""

        async def work(db: Any) -> list[TaskRow]:
            first, last = 0, MOST
            if job is not None:
                nr = await db.fetchval(_NR, job_hash(job), job.bytes)
                if nr is None:
                    return []
                first, last = nr * PLACES, nr * PLACES + PLACES - 1
            where = _PARKED if parked else _PLACES
            tasks = await db.fetch(_TASK + where, first, last)
            timers = await db.fetch(_TIMER + where, first, last)
            return [*map(_task_row, tasks), *map(timer_row, timers)]

        return await self._read(work, listing=True)

    async def revisions(
        self, job: CID, *, down_to: int = 0, limit: int | None = None
    ) -> Sequence[Packed]:
        """The chain, newest first, each hashed."""

        async def work(db: Any) -> list[Packed]:
            found: list[Packed] = []
            sql = "SELECT head, revision, seq FROM stmflow.job WHERE hash = $1 AND id = $2"
            head = await db.fetchrow(sql, job_hash(job), job.bytes)
            if head is None:
                return found
            row, cid, seq = head[0], CID.parse(head[1]), head[2]
            while row and seq > down_to and len(found) != limit:
                link = await _link(db, job, row, cid)
                if link is None:
                    break
                packed, row, cid = link
                found.append(packed)
                seq -= 1
            return found

        return await self._read(work, listing=True)

    async def log(
        self, *, after: int = 0, limit: int = 256, archived: bool = False
    ) -> Sequence[Logged]:
        """Revisions in order of their places."""
        return await self._read(lambda db: retention.log(db, after, limit, archived), listing=True)

    async def archives(self) -> Sequence[CID]:
        """What holds the dropped revisions, newest first."""
        return await self._read(retention.archives, listing=True)

    async def block(self, cid: CID) -> bytes | None:
        """The block of that CID."""
        prefix = cid.digest[:8]

        async def work(db: Any) -> bytes | None:
            async for block in _between(db, prefix, prefix):
                if CID.of(block) == cid:
                    return block
            return None

        return await self._read(work, listing=True)

    async def find(self, prefix: bytes, bits: int) -> Sequence[CID]:
        """Blocks whose digest begins with these bits."""
        digests = Digests.beginning(prefix, bits)

        async def work(db: Any) -> list[CID]:
            blocks = _between(db, digests.low, digests.high)
            found = {cid: None async for block in blocks if digests.has(cid := CID.of(block))}
            return list(found)

        return await self._read(work, listing=True)

    async def jobs(
        self,
        *,
        workflow: str | None = None,
        tag: str | None = None,
        after: CID | None = None,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs in order of creation."""
        at = (None, None) if after is None else (job_hash(after), after.bytes)
        values = (*at, workflow, None if tag is None else tag.encode(), limit)
        rows = await self._read(lambda db: db.fetch(_JOB + _CREATED, *values), listing=True)
        return [_job_row(row) for row in rows]

    async def under(
        self,
        workflow: str,
        *prefix: Any,
        tag: str | None = None,
        after: CID | None = None,
        reverse: bool = False,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs whose key begins with these parts: a range of the index for each number of parts."""
        parts = codec.encode(thaw(prefix)).removeprefix(list_of(len(prefix)))
        sql = _JOB + (_BACKWARDS if reverse else _FORWARDS)

        async def work(db: Any) -> list[JobRow]:
            rows: list[Any] = []
            last = None if after is None else await _key(db, workflow, after)
            counts = [count async for count in _key_sizes(db, workflow, len(prefix))]
            for count in reversed(counts) if reverse else counts:
                low = list_of(count) + parts
                high = past(low)
                if last is not None and reverse:
                    high = min(high, last)
                elif last is not None:
                    low = max(low, last + b"\0")
                wanted = None if tag is None else tag.encode()
                rows += await db.fetch(sql, workflow, low, high, wanted, limit - len(rows))
                if len(rows) == limit:
                    break
            return [_job_row(row) for row in rows]

        return await self._read(work, listing=True)


async def heads_of(db: Any, jobs: Collection[CID]) -> dict[CID, StoredHead | None]:
    """The heads of these jobs, as this session sees them."""
    found: dict[CID, StoredHead | None] = dict.fromkeys(jobs)
    hashes, ids = [job_hash(job) for job in jobs], [job.bytes for job in jobs]
    for number, row in enumerate(await db.fetch(_HEADS, hashes, ids), 1):
        if number % HEADS_AT_ONCE == 0:
            await asyncio.sleep(0)
        head = head_row(row)
        found[head.job] = head._replace(tag=row["tag"].decode())
    return found


async def _link(db: Any, job: CID, row: int, cid: CID) -> tuple[Packed, int, CID] | None:
    """One revision of a chain, and where the one before it lies; None: it has left the log."""
    stored = await db.fetchrow("SELECT prev, data FROM stmflow.revision WHERE nr = $1", row)
    if stored is None:
        if await retention.left(db, row):
            return None
        raise Corrupt(f"revision {cid} of job {job} is missing")
    return link_row(job, cid, *stored)


async def _between(db: Any, low: bytes, high: bytes) -> AsyncIterator[bytes]:
    """All blocks of revisions that hold one whose digest begins between these bounds."""
    rows = await db.fetch("SELECT DISTINCT stmflow.rows_of($1, $2)", low, high)
    for (row,) in rows:
        nr = int.from_bytes(row, "big")
        data = await db.fetchval("SELECT data FROM stmflow.revision WHERE nr = $1", nr)
        for block in unpack(data) if data is not None else ():  # else it has left
            yield block


# A row of an index holds the first 512 bytes of a key: they lead, the whole key decides.
_RANGE = (
    " WHERE workflow = $1 AND key >= $2 AND key < $3"
    " AND substring(key FROM 1 FOR 512) BETWEEN substring($2::bytea FROM 1 FOR 512)"
    " AND substring($3::bytea FROM 1 FOR 512) AND ($4::bytea IS NULL OR tag = $4)"
)
_FORWARDS = _RANGE + " ORDER BY substring(key FROM 1 FOR 512), key LIMIT $5"
_BACKWARDS = _RANGE + " ORDER BY substring(key FROM 1 FOR 512) DESC, key DESC LIMIT $5"


async def _key(db: Any, workflow: str, job: CID) -> bytes:
    sql = "SELECT key FROM stmflow.job WHERE hash = $1 AND id = $2 AND workflow = $3"
    key: bytes | None = await db.fetchval(sql, job_hash(job), job.bytes, workflow)
    if key is None:
        raise NotFound(f"no job {job} of {workflow}")
    return key


async def _key_sizes(db: Any, workflow: str, least: int) -> AsyncIterator[int]:
    """How many parts the workflow's keys have, fewest first: one look at the index for each."""
    sql = (
        "SELECT substring(key FROM 1 FOR 9) FROM stmflow.job WHERE workflow = $1"
        " AND substring(key FROM 1 FOR 512) >= $2 AND substring(key FROM 1 FOR 512) < '\\xa0'"
        " ORDER BY substring(key FROM 1 FOR 512) LIMIT 1"
    )
    low = list_of(least)
    while (key := await db.fetchval(sql, workflow, low)) is not None:
        count = _size_of(key)
        yield count
        low = past(list_of(count))


def _size_of(key: bytes) -> int:
    """How many items a list has that begins so."""
    more = key[0] & 0x1F
    return more if more < 24 else int.from_bytes(key[1 : 1 + (1 << (more - 24))], "big")


def _job_row(row: Any) -> JobRow:
    id, workflow, version, key, revision, seq, epoch, at, tag, faulted = row
    return JobRow(
        CID.parse(id),
        workflow,
        version,
        codec.decode(key),
        CID.parse(revision),
        seq,
        epoch,
        at,
        tag.decode(),
        faulted,
    )


def _task_row(row: Any) -> TaskRow:
    """An outbox row, whose tag and tenant are bytes: text cannot hold every character here."""
    head, tag, tenant, rest = row[:5], row[5], row[6], row[7:]
    return task_row((*head, tag.decode(), tenant.decode(), *rest))
