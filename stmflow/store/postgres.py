"""The store for many hosts: PostgreSQL, one writing session and one commit for whatever waits.

Serializability does not lean on the server's: every batch is one READ COMMITTED transaction that
holds the jobs it read or writes, in job order, compares all their heads and then writes. Where a
head has moved, the batch is planned again on what is held. A connection lost before COMMIT means
that nothing was written (`Unavailable`), one lost during it that nobody knows (`Indeterminate`):
the next session waits until the lost one is gone and makes what it left final by a commit.

It needs the asyncio event loop and sessions of its own (no pooling by transaction between it and
the server).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, TypeVar
from weakref import WeakSet

import anyio

from stmflow import codec
from stmflow.cid import CID
from stmflow.clock import SystemClock
from stmflow.errors import (
    Corrupt,
    Indeterminate,
    NotFound,
    ReadOnly,
    StmflowError,
    Unavailable,
    UnknownSchema,
    UnsafeStore,
)
from stmflow.limits import LIMITS
from stmflow.schema import thaw
from stmflow.store import (
    Batch,
    Commit,
    DueTimer,
    JobRow,
    Kind,
    Member,
    Packed,
    Queue,
    Result,
    StoredHead,
    TaskRow,
    WorkerRow,
)
from stmflow.store.packing import unpack, unpack_rows
from stmflow.store.postgres_batch import BatchWriter, needs
from stmflow.store.postgres_link import (
    AGAIN,
    DRIVER,
    HARMLESS,
    WORKERS,
    WRITERS,
    Keeper,
    Link,
    asking,
    connect,
    unsafe,
    words,
)
from stmflow.store.rows import (
    PLACES,
    delivery_hash,
    job_hash,
    list_of,
    past,
    stranger,
    task_row,
    timer_row,
)

__all__ = ["PostgresStore", "ServerClock"]

T = TypeVar("T")

SCHEMA = 1
CODEC = 1
MIGRATIONS = ("postgres.sql",)
"""The statements that lead from each schema version to the next, the first from nothing."""
NUMBERS = 1_024
"""How many revision numbers a writer takes at a time: the increment of their sequence."""
PLANS = 8
"""How often a batch is planned again under its locks before its members go back as conflicts."""
DEADLOCKS = 4
"""How often a batch is sent again that the server chose as the victim of a deadlock."""

# Needs no schema number of its own: an index holds nothing that its table does not, and the server
# keeps it true whoever writes. It serves `queues`, and a claim of one tenant's tasks. Only rows
# that wait unclaimed are in it; a task that is claimed by its own commit never is.
_TASK_TENANT = (
    "CREATE INDEX task_tenant ON stmflow.task"
    " (workflow, version, tag, substring(tenant FROM 1 FOR 512), due)"
    " WHERE worker IS NULL AND NOT parked"
)

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_HEADS = (
    "SELECT j.id, j.workflow, j.version, j.key, j.revision, j.seq, j.epoch, j.at, j.tag, j.place,"
    " r.open, r.data FROM unnest($1::bigint[], $2::bytea[]) q (hash, id)"
    " JOIN stmflow.job j ON j.hash = q.hash AND j.id = q.id"
    " JOIN stmflow.revision r ON r.nr = j.head"
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
_PLACES = (
    " WHERE ($1::bigint IS NULL OR t.place BETWEEN $1 AND $1 + 1048575) AND (t.parked OR NOT $2)"
    " ORDER BY t.place"
)
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
_SEAL = """
WITH gathered AS (
    DELETE FROM stmflow.unsealed WHERE nr <= $1 RETURNING entries
), cut AS (
    SELECT substring(entries FROM n * 16 + 1 FOR 16) AS entry
    FROM gathered, generate_series(0, length(entries) / 16 - 1) n
)
INSERT INTO stmflow.segment (size, entries)
SELECT count(*), string_agg(entry, ''::bytea ORDER BY entry) FROM cut HAVING count(*) > 0
"""

_neighbours: dict[Any, WeakSet[PostgresStore]] = {}
"""Stores of this process by database: they tell each other of commits without going outside."""


class _Unread(BaseException):
    """A new plan reads a job that is not held. No `Exception`: bodies must not eat it."""

    def __init__(self, job: CID) -> None:
        self.job = job


class ServerClock:
    """The server's time, for the hosts that share it: this machine's, set right once a second."""

    def __init__(self, offset_ms: Callable[[], int]) -> None:
        self._offset_ms = offset_ms
        self._local = SystemClock()

    def now(self) -> int:
        """The server's wall clock, in milliseconds since 1970."""
        return self._local.now() + self._offset_ms()

    async def sleep_until(self, at_ms: int) -> None:
        """Return when the server's clock shows `at_ms` or later."""
        await self._local.sleep_until(at_ms - self._offset_ms())
        while self.now() < at_ms:  # it was set meanwhile
            await self._local.sleep_until(at_ms - self._offset_ms())


class PostgresStore:
    """A store in the schema `stmflow` of one PostgreSQL database. Made by `PostgresStore.open`.

    Any number of processes on any number of hosts may open one database at once. Each open store
    has a session that writes, up to two that read, and one that holds its workers' locks and hears
    of other stores' commits.
    """

    def __init__(self, dsn: str, *, read_only: bool) -> None:
        self._dsn = dsn
        self._read_only = read_only
        self._number = 0  # of this open store, for good; 0 while reading only
        self._commit_and_tell = ""
        self._id: Any = None
        self._doubt = False
        self._closed = False
        self._foreign = 0
        self._numbers: list[int] = []
        self._unsealed = 0
        self._writer = Link(self._writing)
        self._reader = Link(lambda: connect(dsn, "stmflow reader"))
        self._lister = Link(lambda: connect(dsn, "stmflow lister"))
        self._keeper: Keeper | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self.clock = ServerClock(lambda: self._keeper.offset_ms if self._keeper else 0)
        """The server's time. Give it to the transactor, so that due times and leases, which come
        to the store as arguments, are by one clock on all hosts."""

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, read_only: bool = False) -> AsyncIterator[PostgresStore]:
        """Open a database, making the schema `stmflow` where there is none.

        Args:
            dsn: `postgresql://user:password@host:port/database`, as libpq takes it. With several
                hosts, add `?target_session_attrs=read-write`.
            read_only: never write; the schema must exist.

        Raises:
            UnknownSchema: its schema is not ours, or of another schema or codec version.
            UnsafeStore: `fsync`, `full_page_writes` or `synchronous_commit` is off.
            NotFound: `read_only`, and there is no schema.
            ReadOnly, Unavailable: it may not be written, cannot be reached.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise Unavailable("PostgresStore needs the asyncio event loop") from None
        store = cls(dsn, read_only=read_only)
        try:
            await store._open()
            yield store
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()

    async def close(self) -> None:
        """Finish what has begun, and let go of everything."""
        if self._closed:
            return
        self._closed = True
        while self._work:
            await asyncio.wait(self._work)
        _neighbours.get(self._id, WeakSet[PostgresStore]()).discard(self)
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.stop)
        for link in (self._writer, self._reader, self._lister):
            await link.close()

    # --- opening ----------------------------------------------------------------------------------

    async def _open(self) -> None:
        async with self._reader.use() as db, asking():
            if not self._read_only:
                await self._prepare(db)
            await self._check_schema(db)
            self._id = await db.fetchval("SELECT id FROM stmflow.meta")
            if not self._read_only:
                await self._register(db)
        if not self._read_only:
            async with self._writer.use():
                pass
        _neighbours.setdefault(self._id, WeakSet()).add(self)
        self._keeper = Keeper(
            lambda: connect(self._dsn, "stmflow keeper"), self._number, self._heard
        )
        await self._keeper.start()

    async def _prepare(self, db: Any) -> None:
        """Make the schema, or bring it up to date; one process at a time."""
        await _refuse_unsafe(db)
        async with _transaction(db):
            await db.execute("SELECT pg_advisory_xact_lock($1, 0)", WRITERS)
            found = await self._version(db)
            for name in MIGRATIONS[found or 0 :]:
                await db.execute(files("stmflow.store").joinpath(name).read_text())
            if found is None:
                await db.execute(
                    "INSERT INTO stmflow.meta VALUES (true, $1, $2, gen_random_uuid(), 0)",
                    SCHEMA,
                    CODEC,
                )
            elif found < SCHEMA:
                await db.execute("UPDATE stmflow.meta SET schema = $1", SCHEMA)
            if not await db.fetchval("SELECT to_regclass('stmflow.task_tenant') IS NOT NULL"):
                await db.execute(_TASK_TENANT)

    async def _version(self, db: Any) -> int | None:
        """The schema's version; None where there is none. Raises UnknownSchema."""
        if not await db.fetchval("SELECT to_regnamespace('stmflow') IS NOT NULL"):
            return None
        if not await db.fetchval("SELECT to_regclass('stmflow.meta') IS NOT NULL"):
            raise UnknownSchema("the schema stmflow of this database is not ours")
        schema, codec_version = await db.fetchrow("SELECT schema, codec FROM stmflow.meta")
        if not 1 <= schema <= SCHEMA or codec_version != CODEC:
            raise UnknownSchema(
                f"the database has schema {schema} and codec {codec_version};"
                f" this stmflow knows {SCHEMA} and {CODEC}"
            )
        return int(schema)

    async def _check_schema(self, db: Any) -> None:
        found = await self._version(db)
        if found is None:
            raise NotFound("the database has no schema stmflow")
        if found != SCHEMA:
            raise UnknownSchema(f"the database has schema {found}, to be brought up to {SCHEMA}")

    async def _register(self, db: Any) -> None:
        """A number of our own; those of stores that are gone are forgotten."""
        await db.execute(
            "DELETE FROM stmflow.writer WHERE CASE WHEN pg_try_advisory_lock($1, nr)"
            " THEN pg_advisory_unlock($1, nr) END",
            WRITERS,
        )
        self._number = await db.fetchval("SELECT nextval('stmflow.writer_nr')::integer")
        number = str(self._number)  # in one message, which takes no parameters
        self._commit_and_tell = (
            "UPDATE stmflow.writer SET batches = batches + 1 WHERE nr = " + number  # noqa: S608
            + "; COMMIT; NOTIFY stmflow, '" + number + "'"
        )  # fmt: skip

    async def _writing(self) -> Any:
        """A session that writes: the only one of this store, and on a server that is safe."""
        db = await connect(self._dsn, "stmflow writer")
        try:
            async with asking():
                await _refuse_unsafe(db)
                await self._succeed(db)
                sql = "INSERT INTO stmflow.writer VALUES ($1, 0) ON CONFLICT DO NOTHING"
                await db.execute(sql, self._number)
                if self._doubt:
                    await db.execute("UPDATE stmflow.meta SET seals = seals + 1")
                    self._doubt = False
        except BaseException:
            db.terminate()
            raise
        return db

    async def _succeed(self, db: Any) -> None:
        """Take the writer's lock: an earlier session of ours whose last commit may still be on its
        way is ended first, and waited for."""
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = $1::bigint::oid"
            " AND objid = $2::bigint::oid AND objsubid = 2 AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            WRITERS,
            self._number,
        )
        await db.execute("SELECT pg_advisory_lock($1, $2)", WRITERS, self._number)

    # --- committing -------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> Sequence[Result]:
        """Apply a batch in one transaction. What has begun is finished, should the caller be
        cancelled meanwhile."""
        if self._read_only:
            raise ReadOnly("the database is open for reading only")
        if self._closed:
            raise Unavailable("the store has been closed")
        work = asyncio.ensure_future(self._commit(batch))
        self._work.add(work)
        work.add_done_callback(self._finished)
        return await asyncio.shield(work)

    def _finished(self, work: asyncio.Task[Any]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            work.exception()  # looked at, should nobody wait for it any more

    async def _commit(self, batch: Batch) -> Sequence[Result]:
        for _ in range(DEADLOCKS):
            async with self._writer.use() as db:
                try:
                    return await self._once(db, batch)
                except AGAIN:
                    continue
        raise Unavailable(f"the batch was the victim of {DEADLOCKS} deadlocks")

    async def _once(self, db: Any, batch: Batch) -> Sequence[Result]:
        try:
            await db.execute(_BEGIN)
            await self._number_rows(db, len(batch.members))
            writer = BatchWriter(db, iter(self._next_number, 0), self._lost, WORKERS)
            members = await self._planned(db, writer, batch)
            results = await writer.apply(members)
        except BaseException as error:
            await _roll_back(db)
            if not isinstance(error, DRIVER) or isinstance(error, AGAIN):
                raise
            if not isinstance(error, HARMLESS):  # it may have become a replica: look again
                self._writer.drop()
            raise words(error) from error
        try:
            await db.execute(self._commit_and_tell if writer.wrote else "COMMIT")
        except BaseException as error:
            self._doubt = True
            self._writer.drop()
            if isinstance(error, DRIVER):
                raise words(error, committing=True) from error
            raise Indeterminate(f"cut short while committing: {error!r}") from error
        if writer.wrote:
            self._told(writer.blocks)
        return results

    def _next_number(self) -> int:
        return self._numbers.pop()

    async def _number_rows(self, db: Any, count: int) -> None:
        """Have enough numbers for that many revisions."""
        while len(self._numbers) < count:
            last = await db.fetchval("SELECT nextval('stmflow.revision_nr')")
            self._numbers[:0] = range(last + NUMBERS - 1, last - 1, -1)

    def _lost(self, worker: int) -> bool:
        return self._keeper is not None and self._keeper.lost(worker)

    async def _planned(self, db: Any, writer: BatchWriter, batch: Batch) -> Sequence[Member]:
        """The members, with all that they touch held; planned anew as long as a head has moved."""
        members, wanted = batch.members, needs(batch.members)
        await writer.hold(wanted)
        unowned = any(self._claims_without_lock(member) for member in members)
        if batch.replan is None:
            if unowned:
                raise Unavailable("the owner lock of a worker has been lost")
            return members
        stale = unowned or writer.moved(members)
        for _ in range(PLANS):
            if not stale:
                break
            members = await self._plan_again(db, wanted, batch)  # by which nothing is claimed
            more = needs(members)
            if not writer.holds(more):  # from the beginning: jobs are held in order
                wanted |= {job: max(mode, wanted.get(job, mode)) for job, mode in more.items()}
                await db.execute("ROLLBACK")
                await db.execute(_BEGIN)
                await writer.hold(wanted)
            stale = writer.moved(members)
        return members

    def _claims_without_lock(self, member: Member) -> bool:
        return type(member) is Commit and any(
            task.worker is not None and self._lost(task.worker) for task in member.tasks
        )

    async def _plan_again(self, db: Any, known: Collection[CID], batch: Batch) -> Sequence[Member]:
        """Ask for new members, on heads as they are now."""
        assert batch.replan is not None
        heads = dict(await _heads(db, known))

        def read(job: CID) -> StoredHead | None:
            if job not in heads:
                raise _Unread(job)
            return heads[job]

        while True:
            try:
                return batch.replan(read)
            except _Unread as unread:
                heads |= await _heads(db, [unread.job])

    def _heard(self) -> None:
        self._foreign += 1

    def _told(self, blocks: int) -> None:
        """After a commit: neighbours know at once, and the index follows the log."""
        for store in _neighbours.get(self._id, ()):
            if store is not self:
                store._heard()
        self._unsealed += blocks
        if self._unsealed >= LIMITS.index_segment_blocks // 8:
            self._unsealed = 0
            work = asyncio.ensure_future(self._seal())
            self._work.add(work)
            work.add_done_callback(self._finished)

    async def _seal(self) -> None:
        """Merge what has gathered behind the last segment, if it is enough for one."""
        gathered = (
            "SELECT sum(length(entries)) / 16, max(nr) FROM stmflow.unsealed"
            " WHERE pg_try_advisory_xact_lock($1, -1)"
        )
        with suppress(StmflowError):  # the next commits will try again
            async with self._lister.use() as db, asking(), _transaction(db):
                count, last = await db.fetchrow(gathered, WORKERS)
                if count is not None and count >= LIMITS.index_segment_blocks:
                    await db.execute(_SEAL, last)

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self, work: Callable[[Any], Awaitable[T]], *, listing: bool = False) -> T:
        if self._closed:
            raise Unavailable("the store has been closed")
        return await (self._lister if listing else self._reader).read(work)

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        """The durable heads of these jobs."""
        if not jobs:
            return {}
        return await self._read(lambda db: _heads(db, jobs))

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
            low = None
            if job is not None:
                nr = await db.fetchval(_NR, job_hash(job), job.bytes)
                if nr is None:
                    return []
                low = nr * PLACES
            tasks = await db.fetch(_TASK + _PLACES, low, parked)
            timers = await db.fetch(_TIMER + _PLACES, low, parked)
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
                packed, row, cid = await _link(db, job, row, cid)
                found.append(packed)
                seq -= 1
            return found

        return await self._read(work, listing=True)

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
        value = int.from_bytes(prefix, "big") >> (len(prefix) * 8 - bits)
        wide = min(bits, 64)
        top = value >> (bits - wide)
        low = (top << (64 - wide)).to_bytes(8, "big")
        high = (((top + 1) << (64 - wide)) - 1).to_bytes(8, "big")

        async def work(db: Any) -> list[CID]:
            found: dict[CID, None] = {}
            async for block in _between(db, low, high):
                cid = CID.of(block)
                if int.from_bytes(cid.digest, "big") >> (256 - bits) == value:
                    found[cid] = None
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

    def version(self) -> int:
        """Changes when another store has committed, as soon as that is heard of."""
        return self._foreign

    # --- workers ----------------------------------------------------------------------------------

    def enlist(self, worker: int | None = None) -> int:
        """A new worker's number, and its lock for life. Raises Unavailable."""
        if self._read_only:
            raise ReadOnly("the database is open for reading only")
        assert self._keeper is not None
        return self._keeper.enlist(worker)

    def retire(self, worker: int) -> None:
        """Let go of the lock."""
        if self._keeper is not None and not self._closed:
            self._keeper.retire(worker)

    async def workers(self) -> Sequence[WorkerRow]:
        """Every worker that has beaten and was not reaped."""
        sql = "SELECT nr, until FROM stmflow.worker ORDER BY nr"
        return [WorkerRow(*row) for row in await self._read(lambda db: db.fetch(sql))]


async def _refuse_unsafe(db: Any) -> None:
    found = await unsafe(db)
    if found:
        raise UnsafeStore(f"{', '.join(found)} is off on this server: commits could be lost")


@asynccontextmanager
async def _transaction(db: Any) -> AsyncIterator[None]:
    await db.execute(_BEGIN)
    try:
        yield
    except BaseException:
        await _roll_back(db)
        raise
    await db.execute("COMMIT")


async def _roll_back(db: Any) -> None:
    """End the transaction; where that is not possible, the session."""
    try:
        if not db.is_closed():
            await db.execute("ROLLBACK")
    except BaseException as error:
        db.terminate()
        if not isinstance(error, DRIVER):
            raise


async def _heads(db: Any, jobs: Collection[CID]) -> dict[CID, StoredHead | None]:
    found: dict[CID, StoredHead | None] = dict.fromkeys(jobs)
    hashes, ids = [job_hash(job) for job in jobs], [job.bytes for job in jobs]
    for row in await db.fetch(_HEADS, hashes, ids):
        head = _stored(row)
        found[head.job] = head
    return found


def _stored(row: Any) -> StoredHead:
    id, workflow, version, key, revision, seq, epoch, at, tag, place, opens, data = row
    job, head = CID.parse(id), CID.parse(revision)
    blocks = unpack(data)
    if CID.of(blocks[0]) != head:
        raise Corrupt(f"the head of job {job} does not hash to {head}")
    state = blocks[1 + place]
    named = next((w for w in codec.decode(blocks[0])["writes"] if w["job"] == job), None)
    if named is None:
        raise Corrupt(f"the head of job {job} is a revision that does not write it")
    if CID.of(state) != named["state"]:
        raise Corrupt(f"the state of job {job} does not hash to {named['state']}")
    return StoredHead(
        job,
        workflow,
        version,
        codec.decode(key),
        head,
        seq,
        epoch,
        at,
        tag.decode(),
        state,
        named["state"],
        unpack(opens)[place],
    )


async def _link(db: Any, job: CID, row: int, cid: CID) -> tuple[Packed, int, CID]:
    """One revision of a chain, and where the one before it lies."""
    stored = await db.fetchrow("SELECT prev, data FROM stmflow.revision WHERE nr = $1", row)
    if stored is None:
        raise Corrupt(f"revision {cid} of job {job} is missing")
    revision, *blocks = unpack(stored[1])
    if CID.of(revision) != cid:
        raise Corrupt(f"revision {cid} of job {job} does not hash to its CID")
    writes = codec.decode(revision)["writes"]
    place = next((at for at, write in enumerate(writes) if write["job"] == job), None)
    if place is None:
        raise Corrupt(f"revision {cid} does not write job {job}, whose chain it is in")
    before = unpack_rows(stored[0])[place]
    return Packed(cid, revision, blocks), before, writes[place]["prev"] or cid


async def _between(db: Any, low: bytes, high: bytes) -> AsyncIterator[bytes]:
    """All blocks of revisions that hold one whose digest begins between these bounds."""
    rows = await db.fetch("SELECT DISTINCT stmflow.rows_of($1, $2)", low, high)
    for (row,) in rows:
        nr = int.from_bytes(row, "big")
        data = await db.fetchval("SELECT data FROM stmflow.revision WHERE nr = $1", nr)
        for block in unpack(data):
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
