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
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any
from weakref import WeakSet

import anyio

from stmflow.cid import CID
from stmflow.clock import SystemClock
from stmflow.errors import (
    Indeterminate,
    NotFound,
    ReadOnly,
    StmflowError,
    Unavailable,
    UnknownSchema,
    UnsafeStore,
)
from stmflow.limits import LIMITS
from stmflow.store import (
    Batch,
    Commit,
    Member,
    Result,
    StoredHead,
    Vitals,
    WorkerRow,
)
from stmflow.store.postgres_batch import WRITE, BatchWriter, widen
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
    seal,
    send_commit,
    unsafe,
    words,
)
from stmflow.store.postgres_news import News, news_of
from stmflow.store.postgres_read import PostgresReader, heads_of
from stmflow.store.postgres_vitals import vitals

__all__ = ["PostgresStore", "ServerClock"]

SCHEMA = 1
CODEC = 1
MIGRATIONS = ("postgres.sql",)
"""The statements that lead from each schema version to the next, the first from nothing."""
NUMBERS = 1_024
"""How many revision numbers a writer takes at a time: the increment of their sequence."""
NUMBERS_MS = 60_000
"""Milliseconds after which the rest of them is given up: by so much at most, and by what a commit
takes, the log is out of the order of time."""
PLANS = 8
"""How often a batch is planned again under its locks before its members go back as conflicts."""
DEADLOCKS = 4
"""How often a batch is sent again that the server chose as the victim of a deadlock."""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_APPEAR = (
    "INSERT INTO stmflow.writer AS w VALUES (",
    ", 0) ON CONFLICT (nr) DO UPDATE SET batches = w.batches RETURNING batches",
)
_WRITERS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::bigint::oid"
    " AND objid <> 0::oid AND objsubid = 2 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
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


class PostgresStore(PostgresReader):
    """A store in the schema `stmflow` of one PostgreSQL database. Made by `PostgresStore.open`.

    Any number of processes on any number of hosts may open one database at once. Each open store
    has a session that writes, up to two that read, and one that holds its workers' locks and hears
    of other stores' commits.
    """

    def __init__(self, dsn: str, *, read_only: bool) -> None:
        super().__init__(
            lambda: self._reading("stmflow reader"), lambda: self._reading("stmflow lister")
        )
        self._dsn = dsn
        self._read_only = read_only
        self._number = 0  # of this open store, for good; 0 while reading only
        self._id: Any = None
        self._doubt = False
        self._news = News()
        self._batches = 0
        self._numbers: list[int] = []
        self._numbers_since = 0
        self._unsealed = 0
        self._writer = Link(self._writing)
        self._keeper: Keeper | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self.clock = ServerClock(lambda: self._keeper.offset_ms if self._keeper else 0)
        """The server's time. Give it to the transactor, so that due times and leases, which come
        to the store as arguments, are by one clock on all hosts."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, dsn: str, *, read_only: bool = False, create: bool = True
    ) -> AsyncIterator[PostgresStore]:
        """Open a database, making the schema `stmflow` where there is none.

        Args:
            dsn: `postgresql://user:password@host:port/database`, as libpq takes it. Of several
                hosts, `host1:port,host2:port`, the one that takes writes is found.
            read_only: never write; the schema must exist. A replica will do.
            create: whether the schema may be made.

        Raises:
            UnknownSchema: its schema is not ours, or of another schema or codec version.
            UnsafeStore: `fsync`, `full_page_writes` or `synchronous_commit` is off.
            NotFound: there is no schema, and it is not to be made.
            ReadOnly, Unavailable: it may not be written, cannot be reached; or its schema is of an
                older version, and cannot be brought up to date while others have it open.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise Unavailable("PostgresStore needs the asyncio event loop") from None
        store = cls(dsn, read_only=read_only)
        try:
            await store._open(create=create and not read_only)
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

    async def _open(self, *, create: bool) -> None:
        async with self._reader.use() as db, asking():
            if not self._read_only:
                await _refuse_unsafe(db)
                await self._prepare(db, create=create)
            await self._check_schema(db)
            self._id = await db.fetchval("SELECT id FROM stmflow.meta")
            if not self._read_only:
                await self._register(db)
        if not self._read_only:
            async with self._writer.use():
                pass
        _neighbours.setdefault(self._id, WeakSet()).add(self)
        self._keeper = Keeper(
            lambda: connect(self._dsn, "stmflow keeper", writing=not self._read_only),
            self._number,
            self._news.tell,
        )
        await self._keeper.start()

    async def _prepare(self, db: Any, *, create: bool) -> None:
        """Make the schema, or bring it up to date; one process at a time."""
        if await self._version(db) == SCHEMA:
            return  # and wait for nobody
        async with _transaction(db):
            await db.execute("SELECT pg_advisory_xact_lock($1, 0)", WRITERS)
            found = await self._version(db)
            if found == SCHEMA or (found is None and not create):
                return
            if found is not None and (others := await db.fetchval(_WRITERS, WRITERS)):
                raise Unavailable(
                    f"schema {found} is to be brought up to {SCHEMA}, but {others} others have the"
                    " database open"
                )
            for name in MIGRATIONS[found or 0 :]:
                await db.execute(files("stmflow.store").joinpath(name).read_text())
            if found is None:
                await db.execute(
                    "INSERT INTO stmflow.meta VALUES (true, $1, $2, gen_random_uuid(), 0)",
                    SCHEMA,
                    CODEC,
                )
            else:
                await db.execute("UPDATE stmflow.meta SET schema = $1", SCHEMA)

    async def _version(self, db: Any) -> int | None:
        """The schema's version; None where there is none. Raises UnknownSchema."""
        # Not by to_regnamespace: that is answered from a cache, which may say that the schema is
        # not there when the lock for making it was waited for. Reading a catalog looks anew.
        if not await db.fetchval("SELECT true FROM pg_namespace WHERE nspname = 'stmflow'"):
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

    async def _reading(self, name: str) -> Any:
        """A session whose reads are final: its first act is a commit, which waits for the standbys.
        A server that has crashed may show what had not reached them."""
        db = await connect(self._dsn, name, writing=not self._read_only)
        try:
            if self._number:
                await seal(db, _APPEAR[0] + str(self._number) + _APPEAR[1])
        except BaseException:
            db.terminate()
            raise
        return db

    async def _writing(self) -> Any:
        """A session that writes: the only one of this store, and on a server that is safe."""
        db = await connect(self._dsn, "stmflow writer", writing=True)
        try:
            async with asking():
                await _refuse_unsafe(db)
                await db.execute(_BEGIN)
                await db.execute("SELECT pg_advisory_xact_lock_shared($1, 0)", WRITERS)
                await self._succeed(db)
                await self._check_schema(db)
                if self._doubt:
                    await db.execute("UPDATE stmflow.meta SET seals = seals + 1")
                self._batches = await db.fetchval("$1".join(_APPEAR), self._number)
                await seal(db, "COMMIT")
                self._doubt = False
                self._numbers.clear()  # a server that has crashed may give them again
        except BaseException:
            db.terminate()
            raise
        return db

    async def _succeed(self, db: Any) -> None:
        """Take the writer's lock: an earlier session of ours whose last commit may still be on its
        way is ended first, and waited for. One that waits for a standby is not ended: that would
        show others a commit that a failover can still undo."""
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND classid = $1::bigint::oid"
            " AND objid = $2::bigint::oid AND objsubid = 2 AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND wait_event IS DISTINCT FROM 'SyncRep'",
            WRITERS,
            self._number,
        )
        await db.execute("SELECT pg_advisory_lock($1, $2)", WRITERS, self._number)

    async def _settled(self) -> None:
        """Before anything is read: what a commit of unknown fate has left is final."""
        if self._doubt and not self._closed:
            async with self._writer.use():
                pass

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
        wanted: dict[CID, int] = dict.fromkeys(batch.contended, WRITE)
        for _ in range(DEADLOCKS):
            async with self._writer.use() as db:
                try:
                    return await self._once(db, batch, wanted)
                except AGAIN:
                    continue
        raise Unavailable(f"the batch was the victim of {DEADLOCKS} deadlocks")

    async def _once(self, db: Any, batch: Batch, wanted: dict[CID, int]) -> Sequence[Result]:
        try:
            await db.execute(_BEGIN)
            await self._number_rows(db, len(batch.members))
            writer, members = await self._planned(db, batch, wanted)
            results = await writer.apply(members)
        except BaseException as error:
            await _roll_back(db)
            if not isinstance(error, DRIVER) or isinstance(error, AGAIN):
                raise
            if not isinstance(error, HARMLESS):  # it may have become a replica: look again
                self._writer.drop()
            raise words(error) from error
        try:
            await send_commit(db, self._end(writer))
        except BaseException as error:
            self._doubt = True
            self._writer.drop()
            if isinstance(error, DRIVER):
                raise words(error, committing=True) from error
            if isinstance(error, Indeterminate):
                raise
            raise Indeterminate(f"cut short while committing: {error!r}") from error
        if writer.wrote:
            self._batches += 1
            self._told(writer)
        return results

    def _end(self, writer: BatchWriter) -> str:
        """The end of the transaction and the news of it, in one message, which has no parameters.
        In a message of its own NOTIFY locks nobody out while the commit is synced."""
        if not writer.wrote:
            return "COMMIT"
        number = str(self._number)
        news = "; ".join(
            "NOTIFY stmflow, '" + payload + "'"
            for payload in news_of(self._number, self._batches + 1, writer.changed)
        )
        return (
            "UPDATE stmflow.writer SET batches = batches + 1 WHERE nr = " + number  # noqa: S608
            + "; COMMIT; " + news
        )  # fmt: skip

    def _next_number(self) -> int:
        return self._numbers.pop()

    async def _number_rows(self, db: Any, count: int) -> None:
        """Have enough numbers for that many revisions, none of them old."""
        now = SystemClock().now()
        if not 0 <= now - self._numbers_since <= NUMBERS_MS:
            self._numbers.clear()
            self._numbers_since = now
        while len(self._numbers) < count:
            last = await db.fetchval("SELECT nextval('stmflow.revision_nr')")
            self._numbers[:0] = range(last + NUMBERS - 1, last - 1, -1)

    def _lost(self, worker: int) -> bool:
        return self._keeper is not None and self._keeper.lost(worker)

    async def _planned(
        self, db: Any, batch: Batch, wanted: dict[CID, int]
    ) -> tuple[BatchWriter, Sequence[Member]]:
        """The members, with all that they touch held; planned anew as long as a head has moved.

        Where a new plan needs more, all is let go and held again, in order. Not so where a member
        has lost the race too often: that one keeps what it has, at the risk of a deadlock, which
        the server finds.
        """
        writer = BatchWriter(db, iter(self._next_number, 0), self._lost, WORKERS)
        members = batch.members
        widen(wanted, members)
        await writer.hold(wanted, members)
        unowned = any(self._claims_without_lock(member) for member in members)
        if batch.replan is None:
            if unowned:
                raise Unavailable("the owner lock of a worker has been lost")
            return writer, members
        stale = unowned or writer.moved(members)
        for _ in range(PLANS):
            if not stale:
                break
            members = await self._plan_again(db, wanted, batch)  # by which nothing is claimed
            widen(wanted, members)
            if not batch.contended and not writer.holds(wanted):
                await db.execute("ROLLBACK")
                await db.execute(_BEGIN)
                writer = BatchWriter(db, iter(self._next_number, 0), self._lost, WORKERS)
            await writer.hold(wanted, members)
            stale = writer.moved(members)
        return writer, members

    def _claims_without_lock(self, member: Member) -> bool:
        return type(member) is Commit and any(
            task.worker is not None and self._lost(task.worker) for task in member.tasks
        )

    async def _plan_again(self, db: Any, known: Collection[CID], batch: Batch) -> Sequence[Member]:
        """Ask for new members, on heads as they are now."""
        assert batch.replan is not None
        heads: dict[CID, StoredHead | StmflowError | None] = {}
        try:
            heads |= await heads_of(db, known)
        except StmflowError:  # one of them: each is asked for when it is needed
            heads.clear()

        def read(job: CID) -> StoredHead | None:
            if job not in heads:
                raise _Unread(job)
            if isinstance(head := heads[job], StmflowError):
                raise head
            return head

        while True:
            try:
                return batch.replan(read)
            except _Unread as unread:
                try:
                    heads |= await heads_of(db, [unread.job])
                except StmflowError as error:
                    heads[unread.job] = error

    def _told(self, writer: BatchWriter) -> None:
        """After a commit: neighbours know at once, and the index follows the log."""
        for store in _neighbours.get(self._id, ()):
            if store is not self:
                store._news.tell(writer.changed)
        self._unsealed += writer.blocks
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

    # --- others -----------------------------------------------------------------------------------

    async def vitals(self, now: int) -> Vitals:
        """How the database and its server stand."""
        host = SystemClock().now()
        return await self._read(lambda db: vitals(db, now, host, WORKERS), listing=True)

    def version(self) -> int:
        """Rises when another store has committed, as soon as that is heard of."""
        return self._news.version

    def changed(self, since: int) -> Collection[CID] | None:
        """The jobs that other stores have written since then; None: any."""
        return self._news.since(since)

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
