"""Connections to PostgreSQL: the one module that knows the driver.

A `Link` is one connection that comes back by itself. A `Keeper` is one connection held for life on
a thread of its own: it holds the owner locks of this process's workers and hears of what others
commit. `words` puts the driver's errors in ours.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg

from stmflow.cid import CID
from stmflow.clock import SystemClock
from stmflow.errors import (
    Corrupt,
    DiskFull,
    Indeterminate,
    ReadOnly,
    StmflowError,
    StoreError,
    Unavailable,
    UnknownSchema,
)
from stmflow.store.postgres_news import news_in

T = TypeVar("T")

CONNECT_S = 5.0
"""Seconds after which a server that does not answer a new connection is `Unavailable`."""
ANSWER_S = 30.0
"""Seconds after which a connection whose statement got no answer counts as lost."""
FOREVER_S = 1e6
"""Seconds that the driver waits where we cut the line ourselves."""
WAIT_MS = 5_000
"""Milliseconds to wait for a row or lock that another transaction holds; then `Unavailable`."""
IDLE_MS = 30_000
"""Milliseconds after which the server ends a transaction of ours that has gone silent: a host that
hangs or is cut off does not hold its jobs for longer."""
GOODBYE_S = 1.0
"""Seconds for an orderly end of a session; then it is cut."""
POLL_S = 1.0
"""Seconds between two looks for what others have committed, should a notification be lost."""
RETRY_S = 0.05, 1.0
"""Seconds between tries to connect again: at first, at most."""

WORKERS = 0x73746D77
"""The first number of every worker's advisory lock ("stmw"); the second is the worker's."""
WRITERS = 0x73746D63
"""The same for the session that writes for one open store ("stmc")."""

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # among others: the server has said goodbye and not yet hung up
    asyncpg.OperatorInterventionError,  # 57P01 and others: the server ends the session
    asyncpg.TargetServerAttributeNotMatched,
    OSError,
    EOFError,
    TimeoutError,
)
AGAIN = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
HARMLESS = (asyncpg.LockNotAvailableError, asyncpg.DiskFullError)
"""Errors after which the session is as good as before."""
DRIVER = (asyncpg.PostgresError, *LOST)

_SESSION = "SELECT current_setting($1)"
_DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def words(error: BaseException, *, committing: bool = False) -> StoreError:
    """A driver error as ours. While committing, whatever happens is unknown."""
    text = f"{type(error).__name__}: {error}"
    if committing:
        return Indeterminate(text)
    if isinstance(error, (asyncpg.DiskFullError, asyncpg.OutOfMemoryError)):
        return DiskFull(text) if isinstance(error, asyncpg.DiskFullError) else Unavailable(text)
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ReadOnly(text)
    if isinstance(error, (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)):
        return Corrupt(text)
    if isinstance(error, (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)):
        return UnknownSchema(text)
    return Unavailable(text)


@asynccontextmanager
async def asking() -> AsyncIterator[None]:
    """Driver errors of what is not a commit, in our words."""
    try:
        yield
    except StmflowError:
        raise
    except DRIVER as error:
        raise words(error) from error


# It does not say what is wrong: where an address is misread, that may be a part of the password.
_UNREADABLE = (
    "no server is known by that DSN: it is postgresql://user:password@host:port/name, with %40 for"
    " @ and %2F for / in a password, and the host must have an address"
)


def _misread(dsn: str) -> bool:
    """Whether a character of the password would end it."""
    rest = dsn.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    return authority.count("@") > 1 or ("@" in rest and "@" not in authority)


async def connect(dsn: str, name: str, *, writing: bool) -> Any:
    """A new session; on a server that takes writes, if it is for `writing`. Raises Unavailable."""
    async with asking():
        if _misread(dsn):
            raise Unavailable(_UNREADABLE)
        try:
            return await asyncpg.connect(
                dsn,
                timeout=CONNECT_S,
                command_timeout=ANSWER_S,
                target_session_attrs="read-write" if writing else None,
                server_settings={
                    "application_name": name,
                    "jit": "off",
                    "default_transaction_isolation": "read committed",
                    "standard_conforming_strings": "on",
                    "lock_timeout": str(WAIT_MS),
                    "idle_in_transaction_session_timeout": str(IDLE_MS),
                    "tcp_keepalives_idle": "10",
                    "tcp_keepalives_interval": "5",
                    "tcp_keepalives_count": "3",
                },
            )
        except (ValueError, asyncpg.ClientConfigurationError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
                raise
            raise Unavailable(_UNREADABLE) from None


async def send_commit(db: Any, sql: str) -> None:
    """Send what ends a transaction.

    Without an answer the line is cut, and never a cancel request sent, as for other statements:
    that would end a commit's wait for its standbys. Where somebody else ends it, the server says
    that all is well, and warns. Raises Indeterminate then; else the driver's errors.
    """
    warnings: list[Any] = []

    def warned(db: Any, message: Any) -> None:
        if message.server_source_filename == "syncrep.c":  # not the words: they are translated
            warnings.append(message)

    cut = asyncio.get_running_loop().call_later(ANSWER_S, db.terminate)
    db.add_log_listener(warned)
    try:
        await db.execute(sql, timeout=FOREVER_S)
    finally:
        cut.cancel()
        if not db.is_closed():
            db.remove_log_listener(warned)
    if warnings:
        raise Indeterminate(f"the server warned: {warnings[0]}")


async def seal(db: Any, sql: str) -> None:
    """Make what can be read here final, by a commit that waits for the standbys. Raises Unavailable
    where it does not come to an end."""
    try:
        await send_commit(db, sql)
    except (Indeterminate, *DRIVER) as error:
        raise Unavailable(f"what a standby lacks cannot be read yet: {error}") from error


async def unsafe(db: Any) -> list[str]:
    """The settings that would let this server lose a commit that it has acknowledged."""
    found = [name for name in _DURABLE if await db.fetchval(_SESSION, name) == "off"]
    if await db.fetchval(_SESSION, "synchronous_standby_names") and (
        await db.fetchval(_SESSION, "synchronous_commit") == "local"
    ):
        found.append("waiting for the synchronous standbys (synchronous_commit is local)")
    return found


class Link:
    """One connection, used by one at a time, made again when it is lost.

    Args:
        make: connects and prepares the session; raises StoreErrors.
    """

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make = make
        self._db: Any = None
        self._lock = asyncio.Lock()
        self._closed = False

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        """The connection. Raises Unavailable when there is none to be had."""
        async with self._lock:
            if not self._closed and (self._db is None or self._db.is_closed()):
                self._db = None
                self._db = await self._make()
            if self._closed:  # perhaps while it was made
                self.drop()
                raise Unavailable("the store has been closed")
            try:
                yield self._db
            except BaseException as error:
                if not isinstance(error, (StmflowError, *DRIVER)) or isinstance(error, LOST):
                    self.drop()  # cancelled in the middle, or lost
                raise

    async def read(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run something that only reads; once more if the connection was lost under it."""
        for last in (False, True):
            try:
                async with asking(), self.use() as db:
                    return await work(db)
            except Unavailable as error:
                if last or not isinstance(error.__cause__, LOST):
                    raise
        raise AssertionError

    def drop(self) -> None:
        """Cut the connection, whatever it is doing."""
        db, self._db = self._db, None
        if db is not None:
            db.terminate()

    async def close(self) -> None:
        """Say goodbye, for good."""
        self._closed = True
        db, self._db = self._db, None
        await _goodbye(db)


async def _goodbye(db: Any) -> None:
    """Close a connection, if there is one; cut it where that fails or takes too long."""
    if db is not None:
        try:
            await db.close(timeout=GOODBYE_S)
        except (*DRIVER, asyncio.CancelledError):
            db.terminate()


class Keeper:
    """The session of a store that lives as long as the store: owner locks, and an ear.

    It runs on a thread with a loop of its own, so that workers can enlist from plain functions and
    a busy loop cannot make its session look dead. If the session is lost, so are the locks: until
    they are held again, `holds` says no.

    Args:
        make: connects; raises StoreErrors.
        number: of the writer whose own commits are no news.
        heard: called, from that thread, with the jobs that somebody else has written; None: any.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[Any]],
        number: int,
        heard: Callable[[Collection[CID] | None], None],
    ) -> None:
        self._make = make
        self._number = number
        self._heard = heard
        self._db: Any = None
        self._counted: dict[int, int] | None = None
        self._heard_of: dict[int, int] = {}
        self._wanted: set[int] = set()
        self._held: set[int] = set()
        self.offset_ms = 0
        """How far the server's clock is ahead of this machine's, by the last look."""
        self._loop = asyncio.new_event_loop()
        self._lock = asyncio.Lock()
        self._lost = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._serve, name="stmflow-keeper", daemon=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for task in (left := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def start(self) -> None:
        """Connect. Raises StoreErrors."""
        self._thread.start()
        try:
            await asyncio.wrap_future(self._send(self._begin()))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the session: every lock is let go."""
        if self._loop.is_closed():
            return
        with suppress(Exception):
            self._send(self._end()).result(2 * CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _send(self, work: Coroutine[Any, Any, T]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise Unavailable("the store has been closed")
        result: T = self._send(work).result()
        return result

    # --- from any thread

    def enlist(self, worker: int | None) -> int:
        """Hold that worker's lock, or that of a new one, until `retire`. Raises Unavailable."""
        return self._wait(self._enlist(worker))

    def retire(self, worker: int) -> None:
        """Let that lock go."""
        self._wait(self._retire(worker))

    def lost(self, worker: int) -> bool:
        """Whether this worker of ours is without its lock."""
        return worker in self._wanted and worker not in self._held

    # --- on the thread

    async def _begin(self) -> None:
        await self._connected()
        self._watching = self._loop.create_task(self._watch())

    async def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        db, self._db = self._db, None
        await _goodbye(db)

    async def _connected(self) -> Any:
        """The session, made again if it was lost, with all locks that are still wanted."""
        if self._db is not None and not self._db.is_closed():
            return self._db
        self._held.clear()
        self._lost.clear()
        self._counted = None
        db = await self._make()
        try:
            async with asking():
                db.add_termination_listener(self._cut)
                if not await db.fetchval("SELECT pg_is_in_recovery()"):  # a replica tells nothing
                    await db.add_listener("stmflow", self._told)
                for worker in sorted(self._wanted):  # waits for whoever is just reaping it
                    await db.execute("SELECT pg_advisory_lock($1, $2)", WORKERS, worker)
                    self._held.add(worker)
                await self._look(db)
        except BaseException:
            self._held.clear()
            db.terminate()
            raise
        self._db = db
        return db

    def _cut(self, db: Any) -> None:
        if db is self._db:
            self._held.clear()
            self._lost.set()

    def _told(self, db: Any, pid: int, channel: str, payload: object) -> None:
        try:
            number, batches, jobs = news_in(str(payload))
        except ValueError:  # anybody may notify
            return self._heard(None)
        if number != self._number:
            self._heard_of[number] = batches
            self._heard(jobs)

    async def _watch(self) -> None:
        """Stay connected, and look now and then for what no notification told of."""
        pause = RETRY_S[0]
        while True:
            try:
                async with asking(), self._lock:
                    await self._look(await self._connected())
                pause = RETRY_S[0]
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), POLL_S)
            except StoreError:
                if self._db is not None:
                    self._held.clear()
                    self._db.terminate()
                    self._db = None
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_S[1])

    async def _look(self, db: Any) -> None:
        """What time it is there; and whether others had committed, by the last look, what nobody
        has told of since. (The news of a commit comes shortly after it can be counted.)"""
        sql = (
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,"
            " array_agg(nr), array_agg(batches) FROM stmflow.writer WHERE nr <> $1"
        )
        now, numbers, batches = await db.fetchrow(sql, self._number)
        self.offset_ms = now - SystemClock().now()
        counted = dict(zip(numbers or (), batches or (), strict=True))
        before = self._counted
        if before is None or any(
            self._heard_of.get(number, 0) < before[number] or counted[number] < before[number]
            for number in before.keys() & counted.keys()
        ):
            self._heard(None)
            self._heard_of = counted
        self._heard_of = {nr: self._heard_of.get(nr, 0) for nr in counted}
        self._counted = counted

    async def _enlist(self, worker: int | None) -> int:
        async with asking(), self._lock:
            db = await self._connected()
            if worker is None:
                worker = int(await db.fetchval("SELECT nextval('stmflow.worker_nr')"))
            if worker not in self._held:
                sql = "SELECT pg_try_advisory_lock($1, $2)"
                if not await db.fetchval(sql, WORKERS, worker):
                    raise Unavailable(f"worker {worker} is alive elsewhere")
                self._wanted.add(worker)
                self._held.add(worker)
            return worker

    async def _retire(self, worker: int) -> None:
        self._wanted.discard(worker)
        async with self._lock:
            if worker in self._held:
                self._held.discard(worker)
                with suppress(*DRIVER):  # a session that is lost has let go already
                    await self._db.execute("SELECT pg_advisory_unlock($1, $2)", WORKERS, worker)
