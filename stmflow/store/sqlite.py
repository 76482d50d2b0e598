"""The embedded store: one SQLite file, one writer thread, one fsync for whatever waits.

Durability: WAL with `synchronous=FULL`, read back at open. A SQLite older than 3.51.3 can corrupt a
WAL database that two connections share, so it gets `journal_mode=DELETE, synchronous=EXTRA`. A
commit that fails in the middle is `Indeterminate`: the connection is closed and opened again, and a
commit made only for that purpose makes the verdict final before anything else is written.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, NoReturn, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import apsw

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import (
    Corrupt,
    DiskFull,
    Indeterminate,
    NotFound,
    ReadOnly,
    StoreError,
    Unavailable,
    UnknownSchema,
    UnsafeStore,
)
from stmflow.limits import LIMITS
from stmflow.schema import thaw
from stmflow.store import (
    Batch,
    DueTimer,
    JobRow,
    Kind,
    Logged,
    Packed,
    Queue,
    Result,
    StoredHead,
    TaskRow,
    Vitals,
    WorkerRow,
)
from stmflow.store import sqlite_retention as retention
from stmflow.store.locks import OwnerLocks, Turn
from stmflow.store.packing import unpack
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
from stmflow.store.sqlite_backup import copy
from stmflow.store.sqlite_batch import BatchWriter, Known
from stmflow.store.sqlite_vitals import vitals
from stmflow.store.sqlite_wal import write_again

__all__ = ["SQLiteStore"]

T = TypeVar("T")

SCHEMA = 2
CODEC = 1
APPLICATION_ID = 0x73746D66  # "stmf"
WAL_SAFE = 3_051_003
BUSY_MS = 5_000
HEADS_AT_ONCE = 512
"""Heads that are hashed and decoded before others may use the loop."""
MOST = 2**63 - 1
"""No row lies behind this one."""
RUN = 4_096
"""Entries of the CID index that are sorted together as they come."""

_YOUNGER = {
    2: "CREATE INDEX IF NOT EXISTS job_key ON job (workflow, key);"
    "CREATE TABLE watch (place INTEGER NOT NULL, job BLOB NOT NULL, PRIMARY KEY (place, job))"
    " STRICT, WITHOUT ROWID;"
    "CREATE INDEX watch_job ON watch (job);"
    "CREATE INDEX IF NOT EXISTS task_tenant ON task (workflow, version, tag, tenant, due)"
    " WHERE worker IS NULL AND parked = 0;"
}
"""Schema version → what raises a database of the version before to it. A file of an older version
that is opened for reading only is read as it is."""


_HEAD = (
    "SELECT j.id, j.workflow, j.version, j.key, j.revision, j.seq, j.epoch, j.at, j.tag, j.place,"
    " r.open, r.data FROM job j LEFT JOIN revision r ON r.row = j.head"
    " WHERE j.hash = ? AND j.id = ?"
)
_TASK = (
    "SELECT j.id, t.place, t.id, t.block, t.workflow, t.tag, t.tenant, t.due, t.attempt, t.token,"
    " t.worker, t.parked, t.error, t.outcome FROM task t JOIN job j ON j.row = t.place / 1048576"
)
_TIMER = (
    "SELECT j.id, t.place, t.id, j.workflow, t.due, t.parked, t.error"
    " FROM timer t JOIN job j ON j.row = t.place / 1048576"
)
_JOB = (
    "SELECT id, workflow, version, key, revision, seq, epoch, at, tag,"
    " (SELECT count(*) FROM task t WHERE t.parked = 1 AND t.place BETWEEN"
    "  j.row * 1048576 AND j.row * 1048576 + 1048575)"
    " + (SELECT count(*) FROM timer t WHERE t.parked = 1 AND t.place BETWEEN"
    "  j.row * 1048576 AND j.row * 1048576 + 1048575)"
    " FROM job j"
)


class SQLiteStore:
    """A store in one SQLite database. Made by `SQLiteStore.open`.

    Several processes may open one database at once. Writes go through one thread of this process;
    reads happen on a connection of their own, on the caller's thread (a point read takes tens of
    microseconds).
    """

    def __init__(self, path: str, *, read_only: bool, inline: bool) -> None:
        self.path = path
        self._read_only = read_only
        self._memory = path == ":memory:"
        self._inline = inline or self._memory
        beside = None if self._memory or read_only else path
        self._locks = OwnerLocks(beside and f"{beside}-workers")
        self._turn = Turn(beside and f"{beside}-turn")
        self._known = Known()
        self._seen = -1  # PRAGMA data_version when the cache was last known to be exact
        self._watched = -1  # the same, when we last looked for somebody else's commits
        self._foreign = 0
        self._broken = False
        self._sound = False  # whether what the WAL held when it was opened is on the disk
        self._closed = False
        self._unsealed: list[bytes] = []
        self._run: list[bytes] = []
        self._stale = True  # somebody else has written: the two say nothing
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        with ExitStack() as undo:
            undo.callback(self._turn.close)
            self._writer = self._connect()
            undo.callback(_close, self._writer)
            self._file = self._which()
            self._reader = self._writer if self._inline or read_only else self._connect()
            undo.pop_all()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: str | os.PathLike[str], *, read_only: bool = False, inline: bool = False
    ) -> AsyncIterator[SQLiteStore]:
        """Open a database, creating it where there is none.

        Args:
            path: a file, or ":memory:". By which links it is reached does not matter.
            read_only: never write to the database; it must exist. (SQLite itself may leave its
                `-wal` and `-shm` files beside it, empty.)
            inline: no thread: writes happen on the caller's (for simulations).

        Raises:
            UnknownSchema: not a database of ours, or of another schema or codec version.
            UnsafeStore: the settings that make commits durable did not take.
            NotFound, ReadOnly, Unavailable: it is not there, may not be written, cannot be opened.
        """
        path = os.fspath(path)
        if path != ":memory:":  # whatever becomes of links, and of the folder that we are in
            path = os.path.realpath(path)
        if read_only and not os.path.exists(path):
            raise NotFound(f"no database at {path}")
        try:
            store = cls(path, read_only=read_only, inline=inline)
        except apsw.Error as error:
            _raise(error, committing=False)
        except PermissionError as error:
            raise ReadOnly(f"{error.filename}: {error.strerror}") from error
        except OSError as error:
            raise Unavailable(f"{error.filename}: {error.strerror}") from error
        try:
            store._start()
            yield store
        finally:
            store.close()

    def close(self) -> None:
        """Finish what the writer has begun, and let go of everything."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        for connection in {id(c): c for c in (self._reader, self._writer)}.values():
            _close(connection)
        self._turn.close()
        self._locks.close()

    async def backup(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Write a copy of one moment to a new file, while everybody goes on writing.

        It is whole and on the disk when this returns, or it is not there. Opened, it is a database
        as any other: the workers of the original are dead to it, and their claims are free.

        Args:
            replace: whether it may take the place of another file, never that of this database.

        Raises:
            FileExistsError: there is something at `path`, or the journal of another database
                beside it.
            Corrupt, DiskFull, ReadOnly, Unavailable: there is no copy.
        """
        left = threading.Event()

        def work() -> None:
            try:
                with suppress(FileNotFoundError):
                    if not self._memory and os.path.samefile(path, self.path):
                        raise FileExistsError(f"{os.fspath(path)} is the database itself")
                with _reading(), ExitStack() as stack:
                    source = self._writer
                    if not self._memory:
                        source = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READONLY)
                        stack.callback(source.close)
                        source.set_busy_timeout(BUSY_MS)
                        source = self._readable(source)
                        stack.callback(source.close)
                    target = os.fspath(path)
                    copy(source, apsw.Connection, target, left.is_set, replace=replace)
            except FileExistsError:
                raise
            except OSError as error:
                raise Unavailable(f"{error.filename}: {error.strerror}") from error

        if self._memory:
            work()
            return
        try:
            await anyio.to_thread.run_sync(work)
        finally:
            left.set()

    # --- opening ----------------------------------------------------------------------------------

    def _connect(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READONLY if self._read_only else (
            apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )  # fmt: skip
        if not self._read_only and not self._memory and not os.path.exists(self.path):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = apsw.Connection(self.path, flags=flags, statementcachesize=256)
        try:
            connection.set_busy_timeout(BUSY_MS)
            if self._read_only:
                connection = self._readable(connection)
                self._check_schema(connection)
            else:
                self._prepare(connection)
        except BaseException:
            _close(connection)
            raise
        return connection

    def _which(self) -> tuple[int, int]:
        """Which file lies at the path now. Raises OSError: none."""
        if self._memory:
            return 0, 0
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def _readable(self, connection: apsw.Connection) -> apsw.Connection:
        """What a clean close left in a folder that may not be written can still be read."""
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            if os.path.exists(f"{self.path}-wal"):
                raise
            connection.close()
            flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            quoted = self.path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            connection = apsw.Connection("file:" + quoted + "?immutable=1", flags=flags)
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        new = not _one(connection, "SELECT count(*) FROM sqlite_schema")
        if not new:
            self._check_schema(connection)
        wal = _library() >= WAL_SAFE and not self._memory
        mode, sync = ("wal", 2) if wal else ("memory" if self._memory else "delete", 3)
        _one(connection, "PRAGMA journal_mode = " + mode)
        connection.execute("PRAGMA synchronous = " + str(sync))
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA cache_size = -32768")
        found = (
            str(_one(connection, "PRAGMA journal_mode")).lower(),
            _one(connection, "PRAGMA synchronous"),
        )
        if found != (mode, sync):
            raise UnsafeStore(
                f"journal_mode and synchronous are {found}, not {(mode, sync)}:"
                " commits could be lost"
            )
        if wal and not self._sound:
            self._write_again(connection)
        if new:
            self._create(connection)
        else:
            self._raise(connection)

    def _write_again(self, connection: apsw.Connection) -> None:
        """Build on no WAL of which a sync may have failed."""
        with self._turn():
            connection.execute("BEGIN IMMEDIATE")
            try:
                write_again(self.path)
            finally:
                connection.execute("ROLLBACK")
        self._sound = True

    def _raise(self, connection: apsw.Connection) -> None:
        """Bring the tables of an older schema up to this one."""
        if _one(connection, "SELECT schema FROM meta") == SCHEMA:
            return
        with self._turn():
            connection.execute("BEGIN IMMEDIATE")
            try:
                for version in range(_one(connection, "SELECT schema FROM meta") + 1, SCHEMA + 1):
                    connection.execute(_YOUNGER[version])
                connection.execute("UPDATE meta SET schema = ?", (SCHEMA,))
                connection.execute("COMMIT")
            except BaseException:
                with suppress(apsw.Error):  # SQLite may have done so by itself
                    connection.execute("ROLLBACK")
                raise

    def _create(self, connection: apsw.Connection) -> None:
        schema = files("stmflow.store").joinpath("schema.sql").read_text()
        with self._turn():
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not _one(connection, "SELECT count(*) FROM sqlite_schema"):
                    connection.execute(schema)
                    connection.execute("INSERT INTO meta VALUES (1, ?, ?, 0, 0)", (SCHEMA, CODEC))
                    connection.execute("PRAGMA application_id = " + str(APPLICATION_ID))
                connection.execute("COMMIT")
            except BaseException:
                with suppress(apsw.Error):  # SQLite may have done so by itself
                    connection.execute("ROLLBACK")
                raise

    def _check_schema(self, connection: apsw.Connection) -> None:
        try:
            ours = _one(connection, "PRAGMA application_id") == APPLICATION_ID
            found = (
                next(iter(connection.execute("SELECT schema, codec FROM meta")), None)
                if ours
                else None
            )
        except (apsw.NotADBError, apsw.SQLError):
            found = None
        if found is None:
            raise UnknownSchema(f"{self.path} is not an stmflow database")
        if not 1 <= found[0] <= SCHEMA or found[1] != CODEC:
            raise UnknownSchema(
                f"{self.path} has schema {found[0]} and codec {found[1]};"
                f" this stmflow knows {SCHEMA} and {CODEC}"
            )

    def _start(self) -> None:
        if not self._inline and not self._read_only:
            self._thread = threading.Thread(target=self._serve, name="stmflow-writer", daemon=True)
            self._thread.start()

    # --- the writer -------------------------------------------------------------------------------

    def _serve(self) -> None:
        """The writer thread: one piece of work after the other."""
        while (work := self._queue.get()) is not None:
            work()

    async def _write(self, work: Callable[[], T]) -> T:
        """Run on the writer thread; the loop is told once."""
        if self._read_only:
            raise ReadOnly(f"{self.path} is open for reading only")
        if self._closed:
            raise Unavailable(f"{self.path} has been closed")
        if self._inline:
            return self._guarded(work)
        box: list[Any] = []
        event = anyio.Event()
        tell = _teller(event)

        def run() -> None:
            try:
                box.append(self._guarded(work))
            except BaseException as error:
                box.append(error)
            tell()

        self._queue.put(run)
        await event.wait()
        if isinstance(box[0], BaseException):
            raise box[0]
        return box[0]  # type: ignore[no-any-return]

    def _guarded(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._broken:
                self._reopen()
            try:
                with self._turn():
                    return work()
            except apsw.Error as error:
                _raise(error, committing=False)

    async def commit(self, batch: Batch) -> Sequence[Result]:
        """Apply a batch in one transaction."""
        return await self._write(lambda: self._commit(batch))

    def _commit(self, batch: Batch) -> Sequence[Result]:
        db = self._writer
        self._begin()
        try:
            members = batch.members
            if self._look() and batch.replan is not None:
                members = batch.replan(self._head_now)
            writer = BatchWriter(db, self._known, self._locks.dead)
            results = writer.apply(members)
            self._seal(writer.entries)
        except BaseException:
            self._rollback()
            raise
        self._finish()
        return results

    def _begin(self) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            _raise(error, committing=False)

    def _look(self) -> bool:
        """Whether somebody else has written since we last held the lock. Forgets if so."""
        version = _one(self._writer, "PRAGMA data_version")
        if version == self._seen:
            return False
        first, self._seen = self._seen == -1, version
        self._known.forget(self._writer)
        self._unsealed, self._run, self._stale = [], [], True
        self._foreign += 1
        return not first or self._known.next_revision > 1

    def _rollback(self) -> None:
        self._seen = -1
        try:
            self._writer.execute("ROLLBACK")
        except apsw.Error:
            self._broken = not self._writer.get_autocommit()

    def _finish(self) -> None:
        """COMMIT: done, not done, or nobody knows."""
        try:
            self._writer.execute("COMMIT")
        except apsw.Error as error:
            self._seen = -1
            if isinstance(error, (apsw.BusyError, apsw.FullError)) and self._still_open():
                self._rollback()
                _raise(error, committing=False)
            self._broken = True
            _raise(error, committing=True)

    def _still_open(self) -> bool:
        return not self._writer.get_autocommit()

    def _reopen(self) -> None:
        """After a commit of unknown fate: never the same fsync again, but a new connection, the
        WAL written anew, and a commit whose success makes what is now visible final. Where the file
        has gone, no other one is written in its place."""
        self._sound = False
        _close(self._writer)
        try:
            if self._which() != self._file:
                raise Unavailable(f"{self.path} is not the file that was opened")
            self._writer = self._connect()
            if self._inline:
                self._reader = self._writer
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.execute("UPDATE meta SET seals = seals + 1")
            self._writer.execute("COMMIT")
        except apsw.Error as error:
            _raise(error, committing=False)
        except OSError as error:
            raise Unavailable(f"{error.filename}: {error.strerror}") from error
        self._seen = -1
        self._broken = False

    def _reading(self) -> _reading:
        """Within it driver errors are ours. A connection that reads as well as writes is opened
        again if it is broken: the write that would do it may have to read first."""
        if self._inline and self._broken:
            with self._lock:
                self._reopen()
        return _reading()

    # --- the CID index ----------------------------------------------------------------------------

    def _behind(self) -> int:
        """How many rows lie behind the last segment."""
        sql = (
            "SELECT (SELECT coalesce(max(row), 0) FROM revision)"
            " - (SELECT coalesce(max(last), 0) FROM segment)"
        )
        return int(_one(self._writer, sql))

    def _unsealed_now(self) -> list[bytes]:
        """What lies behind the last segment: digest prefixes with their rows, sorted."""
        sql = (
            "SELECT row, digests FROM revision"
            " WHERE row > (SELECT coalesce(max(last), 0) FROM segment)"
        )
        return sorted(
            digests[at : at + 8] + row.to_bytes(8, "big")
            for row, digests in self._writer.execute(sql)
            for at in range(0, len(digests), 8)
        )

    def _seal(self, entries: list[bytes]) -> None:
        """Index what has gathered behind the log, in one appended row.

        Entries are sorted run by run as they come, so that the last sort, which holds up a commit,
        only merges runs.
        """
        if self._stale:
            if self._behind() < LIMITS.index_segment_blocks // 2:  # a row has two blocks or more
                return
            entries, self._unsealed, self._stale = [], self._unsealed_now(), False
        self._run += entries
        if len(self._run) >= RUN:
            self._run.sort()
            self._unsealed += self._run
            self._run = []
        if len(self._unsealed) + len(self._run) < LIMITS.index_segment_blocks:
            return
        gathered = self._unsealed + self._run
        gathered.sort()
        rows = [int.from_bytes(entry[8:], "big") for entry in gathered]
        first = min(rows)
        self._writer.execute(
            "INSERT INTO segment (first, last, digests, offsets) VALUES (?, ?, ?, ?)",
            (
                first,
                max(rows),
                b"".join([entry[:8] for entry in gathered]),
                b"".join([(row - first).to_bytes(4, "big") for row in rows]),
            ),
        )
        self._unsealed, self._run = [], []

    def _rows_of(self, low: bytes, high: bytes) -> list[int]:
        """Revision rows that hold a block whose digest begins between these 8-byte bounds."""
        rows: list[int] = []
        sealed = 0
        segments: list[Any] = self._reader.execute(
            "SELECT row, first, last, length(digests) / 8 FROM segment"
        ).fetchall()
        for segment, first, last, size in segments:
            sealed = max(sealed, last)
            rows += [first + offset for offset in self._search(segment, size, low, high)]
        for row, digests in self._reader.execute(
            "SELECT row, digests FROM revision WHERE row > ?", (sealed,)
        ):
            if any(low <= digests[at : at + 8] <= high for at in range(0, len(digests), 8)):
                rows.append(row)
        return list(dict.fromkeys(rows))

    def _search(self, segment: int, size: int, low: bytes, high: bytes) -> list[int]:
        """Binary search in a segment's sorted prefixes, read in place."""
        with self._reader.blob_open("main", "segment", "digests", segment, False) as digests:

            def at(index: int) -> bytes:
                digests.seek(index * 8)
                return digests.read(8)

            start, end = 0, size
            while start < end:
                middle = (start + end) // 2
                start, end = (middle + 1, end) if at(middle) < low else (start, middle)
            count = 0
            while start + count < size and at(start + count) <= high:
                count += 1
        with self._reader.blob_open("main", "segment", "offsets", segment, False) as offsets:
            offsets.seek(start * 4)
            found = offsets.read(count * 4)
        return [int.from_bytes(found[i : i + 4], "big") for i in range(0, len(found), 4)]

    # --- reading ----------------------------------------------------------------------------------

    def _head_now(self, job: CID) -> StoredHead | None:
        """The head as the writer's transaction sees it."""
        return self._stored(self._writer, job)

    def _stored(self, connection: apsw.Connection, job: CID) -> StoredHead | None:
        row = _head_row(connection, job)
        return None if row is None else head_row(row)

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        """The durable heads of these jobs, as of one moment."""
        with self._reading():
            if len(jobs) == 1:  # one statement
                return {job: self._stored(self._reader, job) for job in jobs}
            with self._reader:  # one read transaction; hashing and decoding wait until it is over
                rows = [(job, _head_row(self._reader, job)) for job in jobs]
        found: dict[CID, StoredHead | None] = {}
        for job, row in rows:
            if found and len(found) % HEADS_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            found[job] = None if row is None else head_row(row)
        return found

    async def delivery(self, job: CID, id: bytes) -> bytes | None:
        """The answer that this delivery got."""
        sql = "SELECT answer FROM delivery WHERE job IN (?, ?) AND hash = ?"
        with self._reading():
            values = (stranger(job), self._row(job) or stranger(job), delivery_hash(id))
            answer: bytes | None = _one(self._reader, sql, values)
            return answer

    async def timers(self, now: int, limit: int) -> Sequence[DueTimer]:
        """Timers due by now, earliest first."""
        sql = (
            "SELECT j.id, t.place, t.id, t.due FROM timer t JOIN job j ON j.row = t.place / 1048576"
            " WHERE t.parked = 0 AND t.due <= ? ORDER BY t.due LIMIT ?"
        )
        with self._reading():
            return [
                DueTimer(CID.parse(job), place % PLACES, CID.parse(id), due)
                for job, place, id, due in self._reader.execute(sql, (now, limit))
            ]

    async def next_timer(self) -> int | None:
        """When the next timer is due."""
        with self._reading():
            due: int | None = _one(self._reader, "SELECT min(due) FROM timer WHERE parked = 0")
            return due

    async def next_task(self, kinds: Collection[Kind]) -> int | None:
        """When the next unclaimed task of these kinds is due."""
        sql = (
            "SELECT min(due) FROM task WHERE workflow = ? AND version = ? AND tag = ?"
            " AND worker IS NULL AND parked = 0"
        )
        with self._reading():
            if _one(self._reader, "SELECT 1 FROM task WHERE worker IS NULL AND parked = 0") is None:
                return None
            dues = [_one(self._reader, sql, kind) for kind in kinds]
            return min((due for due in dues if due is not None), default=None)

    async def placed(self, kinds: Collection[Kind]) -> Sequence[Kind]:
        """The kinds that wait for these and needs beside: each is one look at the index."""
        sql = (
            "SELECT min(tag) FROM task WHERE workflow = ? AND version = ? AND tag > ? AND tag < ?"
            " AND worker IS NULL AND parked = 0"
        )
        found: list[Kind] = []
        with self._reading():
            for workflow, version, tag in kinds:
                last, end = tag + " {", tag + " |"
                while (last := _one(self._reader, sql, (workflow, version, last, end))) is not None:
                    found.append((workflow, version, last))
        return sorted(found)

    async def queues(self, after: Mapping[Kind, str | None], limit: int) -> Sequence[Queue]:
        """Who waits: each tenant is one look at the index."""
        sql = (
            "SELECT tenant, due FROM task WHERE workflow = ? AND version = ? AND tag = ?"
            " AND tenant {} ? AND worker IS NULL AND parked = 0 ORDER BY tenant, due LIMIT 1"
        )
        first, later = sql.format(">="), sql.format(">")
        found: list[Queue] = []
        with self._reading():
            for kind, last in after.items():
                most = len(found) + limit
                values = (*kind, last or "")
                sql = first if last is None else later
                rows: Any = self._reader.execute(sql, values).fetchall()
                while rows and len(found) < most:
                    tenant, due = rows[0]
                    found.append(Queue(*kind, tenant, due))
                    rows = self._reader.execute(later, (*kind, tenant)).fetchall()
        return found

    async def task(self, id: CID) -> TaskRow | None:
        """The outbox row of that task."""
        with self._reading():
            tasks = self._reader.execute(_TASK + " WHERE t.id = ?", (id.bytes,))
            timers = self._reader.execute(_TIMER + " WHERE t.id = ?", (id.bytes,))
            return next(iter([*map(task_row, tasks), *map(timer_row, timers)]), None)

    async def tasks(self, *, job: CID | None = None, parked: bool = False) -> Sequence[TaskRow]:
        """The outbox, in order of jobs."""
        where = " WHERE t.place BETWEEN ? AND ?" + (" AND t.parked = 1" if parked else "")
        with self._reading():
            first, last = 0, MOST
            if job is not None:
                row = self._row(job)
                if row is None:
                    return []
                first, last = row * PLACES, row * PLACES + PLACES - 1
            tasks = self._reader.execute(_TASK + where + " ORDER BY t.place", (first, last))
            timers = self._reader.execute(_TIMER + where + " ORDER BY t.place", (first, last))
            return [*map(task_row, tasks), *map(timer_row, timers)]

    def _row(self, job: CID) -> int | None:
        sql = "SELECT row FROM job WHERE hash = ? AND id = ?"
        row: int | None = _one(self._reader, sql, (job_hash(job), job.bytes))
        return row

    async def revisions(
        self, job: CID, *, down_to: int = 0, limit: int | None = None
    ) -> Sequence[Packed]:
        """The chain, newest first, each hashed."""
        found: list[Packed] = []
        with self._reading():
            sql = "SELECT head, revision, seq FROM job WHERE hash = ? AND id = ?"
            head = next(iter(self._reader.execute(sql, (job_hash(job), job.bytes))), None)
            if head is None:
                return found
            row, cid, seq = head[0], CID.parse(head[1]), head[2]
            while row and seq > down_to and len(found) != limit:
                link = self._link(job, row, cid)
                if link is None:
                    break
                packed, row, cid = link
                found.append(packed)
                seq -= 1
        return found

    def _link(self, job: CID, row: int, cid: CID) -> tuple[Packed, int, CID] | None:
        """One revision of a chain, and where the one before it lies; None: it has left the log."""
        sql = "SELECT prev, data FROM revision WHERE row = ?"
        stored = next(iter(self._reader.execute(sql, (row,))), None)
        if stored is None:
            if retention.left(self._reader, row):
                return None
            raise Corrupt(f"revision {cid} of job {job} is missing")
        return link_row(job, cid, *stored)

    async def log(
        self, *, after: int = 0, limit: int = 256, archived: bool = False
    ) -> Sequence[Logged]:
        """Revisions in order of their places."""
        with self._reading():
            return retention.log(self._reader, after, limit, archived)

    async def archives(self) -> Sequence[CID]:
        """What holds the dropped revisions, newest first."""
        with self._reading():
            return retention.archives(self._reader)

    async def block(self, cid: CID) -> bytes | None:
        """The block of that CID."""
        prefix = cid.digest[:8]
        with self._reading(), self._reader:  # one moment: what leaves takes its index along
            for row in self._rows_of(prefix, prefix):
                for block in self._blocks(row):
                    if CID.of(block) == cid:
                        return block
        return None

    async def find(self, prefix: bytes, bits: int) -> Sequence[CID]:
        """Blocks whose digest begins with these bits."""
        digests = Digests.beginning(prefix, bits)
        with self._reading(), self._reader:
            rows = self._rows_of(digests.low, digests.high)
            blocks = (block for row in rows for block in self._blocks(row))
            found = {cid: None for block in blocks if digests.has(cid := CID.of(block))}
        return list(found)

    def _blocks(self, row: int) -> list[bytes]:
        data = _one(self._reader, "SELECT data FROM revision WHERE row = ?", (row,))
        return [] if data is None else unpack(data)  # it has left; the index may still name it

    async def jobs(
        self,
        *,
        workflow: str | None = None,
        tag: str | None = None,
        after: CID | None = None,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs in order of creation."""
        sql = _JOB + (
            " WHERE row > ? AND (? IS NULL OR workflow = ?) AND (? IS NULL OR tag = ?)"
            " ORDER BY row LIMIT ?"
        )
        with self._reading():
            start = 0 if after is None else self._row(after) or 0
            values = (start, workflow, workflow, tag, tag, limit)
            return [_job_row(row) for row in self._reader.execute(sql, values).fetchall()]

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
        sql = _JOB + (
            " WHERE workflow = ? AND key >= ? AND key < ? AND (? IS NULL OR tag = ?)"
            f" ORDER BY key {'DESC' if reverse else 'ASC'} LIMIT ?"
        )
        parts = codec.encode(thaw(prefix)).removeprefix(list_of(len(prefix)))
        rows: list[Any] = []
        with self._reading():
            last = None if after is None else self._key(workflow, after)
            counts = list(self._key_sizes(workflow, len(prefix)))
            for count in reversed(counts) if reverse else counts:
                low = list_of(count) + parts
                high = past(low)
                if last is not None and reverse:
                    high = min(high, last)
                elif last is not None:
                    low = max(low, last + b"\0")
                values = (workflow, low, high, tag, tag, limit - len(rows))
                rows += self._reader.execute(sql, values).fetchall()
                if len(rows) == limit:
                    break
            return [_job_row(row) for row in rows]

    def _key(self, workflow: str, job: CID) -> bytes:
        sql = "SELECT key FROM job WHERE hash = ? AND id = ? AND workflow = ?"
        key: bytes | None = _one(self._reader, sql, (job_hash(job), job.bytes, workflow))
        if key is None:
            raise NotFound(f"no job {job} of {workflow}")
        return key

    def _key_sizes(self, workflow: str, least: int) -> Iterator[int]:
        """How many parts the workflow's keys have, fewest first: one look at the index for each."""
        sql = "SELECT min(key) FROM job WHERE workflow = ? AND key >= ? AND key < x'a0'"  # lists
        low = list_of(least)
        while (key := _one(self._reader, sql, (workflow, low))) is not None:
            count = len(codec.decode(key))
            yield count
            low = past(list_of(count))

    async def vitals(self, now: int) -> Vitals:
        """How the database and its files stand."""
        path = "" if self._memory else self.path
        with self._reading():
            return vitals(
                self._reader,
                path,
                now,
                library=apsw.sqlite_lib_version(),
                alive=lambda worker: self._locks.alive(path and f"{path}-workers", worker),
            )

    def version(self) -> int:
        """Changes when another process has written."""
        if not self._read_only and self._lock.acquire(blocking=False):
            try:
                if not self._broken and self._writer.get_autocommit():
                    seen = _one(self._writer, "PRAGMA data_version")
                    if self._watched not in (-1, seen):
                        self._foreign += 1
                    self._watched = seen
            except apsw.Error:
                pass
            finally:
                self._lock.release()
        return self._foreign

    def changed(self, since: int) -> Collection[CID] | None:
        """Any job, once somebody else has written: the file does not tell which."""
        return () if self._foreign == since else None

    # --- workers ----------------------------------------------------------------------------------

    def enlist(self, worker: int | None = None) -> int:
        """A new worker's number, and its lock for life."""
        if worker is None:
            worker = self._guarded(self._number)
        self._locks.take(worker)
        return worker

    def _number(self) -> int:
        self._begin()
        try:
            sql = "UPDATE meta SET workers = workers + 1 RETURNING workers"
            number = int(_one(self._writer, sql))
        except BaseException:
            self._rollback()
            raise
        self._finish()
        return number

    def retire(self, worker: int) -> None:
        """Let go of the lock."""
        self._locks.drop(worker)

    async def workers(self) -> Sequence[WorkerRow]:
        """Every worker that has beaten and was not reaped."""
        with self._reading():
            rows = self._reader.execute("SELECT id, until FROM worker ORDER BY id")
            return [WorkerRow(*row) for row in rows]


def _library() -> int:
    return int(apsw.SQLITE_VERSION_NUMBER)


def _close(connection: apsw.Connection) -> None:
    """Close it, whatever its files say to that."""
    with suppress(apsw.Error):
        connection.close()


def _one(connection: apsw.Connection, sql: str, values: Any = ()) -> Any:
    """The first column of the first row, or None; the statement is run to its end."""
    rows = connection.execute(sql, values).fetchall()
    return rows[0][0] if rows else None


def _head_row(connection: apsw.Connection, job: CID) -> Any:
    rows = connection.execute(_HEAD, (job_hash(job), job.bytes)).fetchall()
    return rows[0] if rows else None


def _job_row(row: Any) -> JobRow:
    id, workflow, version, key, revision, *rest = row
    return JobRow(CID.parse(id), workflow, version, codec.decode(key), CID.parse(revision), *rest)


def _teller(event: anyio.Event) -> Callable[[], None]:
    """Sets the event from another thread: at once on asyncio, through anyio elsewhere."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        token = anyio.lowlevel.current_token()
        return lambda: anyio.from_thread.run_sync(event.set, token=token)

    def tell() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(event.set)

    return tell


class _reading:
    """Driver errors of a read, in our words."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, apsw.Error):
            _raise(error, committing=False)


def _raise(error: apsw.Error, *, committing: bool) -> NoReturn:
    """A driver error as ours. While committing, whatever is not plainly 'no' is unknown."""
    text = f"{type(error).__name__}: {error}"
    if committing:
        raise Indeterminate(text) from error
    found: StoreError
    if isinstance(error, apsw.FullError):
        found = DiskFull(text)
    elif isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError)):
        found = ReadOnly(text)
    elif isinstance(error, apsw.NotADBError):
        found = UnknownSchema(text)
    elif isinstance(error, apsw.CorruptError):
        found = Corrupt(text)
    else:
        found = Unavailable(text)
    raise found from error
