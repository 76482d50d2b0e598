"""A PostgreSQL server that refuses: each error says what happened, and all goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from benchmarks.workloads import Increment, counter  # noqa: E402
from stmflow import Transactor  # noqa: E402
from stmflow.errors import (  # noqa: E402
    Corrupt,
    DiskFull,
    Indeterminate,
    ReadOnly,
    Unavailable,
)
from stmflow.store import Done, Member  # noqa: E402
from stmflow.store import postgres as module  # noqa: E402
from stmflow.store.postgres import PostgresStore  # noqa: E402
from stmflow.testing.builders import commit, head_of, job_id  # noqa: E402
from stmflow.testing.store_contract import created, one, seq  # noqa: E402
from tests.crash.postgres_server import victim  # noqa: E402
from tests.crash.postgres_wire import HOOK, UP, Break, Wire  # noqa: E402
from tests.pgservers import NoServer, PostgresServer, admin  # noqa: E402

__all__ = ["victim"]

SOON = 30.0
END = (
    "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity"
    " WHERE application_name = $1 AND datname = current_database()"
)

FAULT = """
CREATE SCHEMA fault;
CREATE SEQUENCE fault.hit;
CREATE FUNCTION fault.strike() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('fault.hit') <= TG_ARGV[1]::bigint THEN
        RAISE EXCEPTION USING ERRCODE = TG_ARGV[0];
    END IF;
    RETURN NULL;
END $$;
"""
AT_ONCE = (
    "CREATE TRIGGER fault AFTER INSERT ON stmflow.revision"
    " FOR EACH ROW EXECUTE FUNCTION fault.strike('{code}', '{times}')"
)
AT_COMMIT = (
    "CREATE CONSTRAINT TRIGGER fault AFTER INSERT ON stmflow.revision DEFERRABLE"
    " INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fault.strike('{code}', '{times}')"
)


@pytest.fixture
async def url(victim: PostgresServer) -> AsyncIterator[str]:
    """An empty database."""
    database = await victim.new_database()
    yield database
    with suppress(asyncpg.PostgresError, OSError):
        await admin(database, "DROP SCHEMA IF EXISTS fault CASCADE")
        await victim.give_back(database)


async def plant(url: str, where: str, code: str, times: int) -> None:
    """Let the server raise that error so many times: counted by a sequence, which goes on."""
    again = "DROP SCHEMA IF EXISTS fault CASCADE"
    quiet = "SET client_min_messages = error"
    await admin(url, quiet, again, FAULT, where.format(code=code, times=times))


# --- errors in the middle of a transaction --------------------------------------------------------


@pytest.mark.parametrize("code", ["40P01", "40001"])
async def test_a_victim_of_a_deadlock_or_of_serialization_is_sent_again_a_few_times(
    url: str, code: str
) -> None:
    async with PostgresStore.open(url) as store:
        await created(store, "a")
        await plant(url, AT_ONCE, code, module.DEADLOCKS - 1)
        await created(store, "b")
        await plant(url, AT_ONCE, code, module.DEADLOCKS)
        with pytest.raises(Unavailable, match="victim"):
            await created(store, "c")
        assert await seq(store, "c") == 0
        await created(store, "c")


REFUSALS = {
    "53100": DiskFull,
    "53200": Unavailable,  # out of memory
    "53400": Unavailable,  # a configured limit
    "54000": Unavailable,
    "55P03": Unavailable,  # a lock that is not to be had
    "57014": Unavailable,  # cancelled
    "58030": Unavailable,  # an IO error
    "25006": Unavailable,  # has become read-only: it is looked for anew
    "42501": ReadOnly,
    "XX001": Corrupt,
    "XX000": Unavailable,
}


async def test_what_a_statement_is_refused_for_did_not_happen(url: str) -> None:
    async with PostgresStore.open(url) as store:
        for code, error in REFUSALS.items():
            made = await created(store, code)
            await plant(url, AT_ONCE, code, 1)
            member = commit({code: head_of(made, code), f"{code} new": None})
            with pytest.raises(error) as raised:
                await one(store, member)
            assert type(raised.value) is error, code
            assert (await seq(store, code), await seq(store, f"{code} new")) == (1, 0)
            assert await one(store, member) == Done()


async def test_a_commit_that_is_refused_is_unknown_and_settled(url: str) -> None:
    """At the commit nobody can tell an error that undid it from one that came after it."""
    async with PostgresStore.open(url) as store, Transactor(store, [counter]) as engine:
        for n, code in enumerate(["40P01", "40001", "53100", "57014", "23505"], 1):
            await engine.send(counter, Increment(code), delivery="first")
            await plant(url, AT_COMMIT, code, 2)
            with pytest.raises(Indeterminate):
                await one(store, commit({f"{code} direct": None}))
            assert await seq(store, f"{code} direct") == 0
            answer = await engine.send(counter, Increment(code), delivery="second")
            assert answer.kind == "committed"
            assert engine.counters["indeterminate"] == n
            head = await engine.get(counter.job(code))
            assert head is not None
            assert (head.state.value, head.seq) == (2, 2)


# --- locks and clocks of the server ---------------------------------------------------------------


@asynccontextmanager
async def held(url: str) -> AsyncIterator[Any]:
    """A session of somebody else that holds every job."""
    holder = await asyncpg.connect(url)
    try:
        await holder.execute("BEGIN; SELECT 1 FROM stmflow.job FOR UPDATE")
        yield holder
    finally:
        await holder.close()


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
async def test_a_statement_that_waits_for_too_long_did_not_happen(url: str, setting: str) -> None:
    async with PostgresStore.open(url) as store:
        made = await created(store, "a")
        async with held(url):
            async with store._writer.use() as db:
                await db.execute("SELECT set_config($1, '100', false)", setting)
            with pytest.raises(Unavailable):
                await one(store, commit({"a": head_of(made, "a")}))
        assert await seq(store, "a") == 1
        assert await one(store, commit({"a": head_of(made, "a")})) == Done()


@pytest.mark.parametrize("act", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_statement_that_waits_and_is_cancelled_did_not_happen(url: str, act: str) -> None:
    waits = (
        f"SELECT {act}(pid) FROM pg_stat_activity"  # noqa: S608
        " WHERE application_name = 'stmflow writer' AND wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    async with PostgresStore.open(url) as store:
        made = await created(store, "a")
        async with held(url):
            told = asyncio.ensure_future(one(store, commit({"a": head_of(made, "a")})))
            with anyio.fail_after(SOON):
                while not await admin(url, waits):
                    await anyio.sleep(0.02)
            with pytest.raises(Unavailable):
                await told
        assert await seq(store, "a") == 1
        assert await one(store, commit({"a": head_of(made, "a")})) == Done()


async def test_a_transaction_that_fell_silent_is_ended_by_the_server(url: str) -> None:
    async def sleep(pid: int) -> None:
        await asyncio.sleep(0.5)

    async with Wire(url) as wire, PostgresStore.open(wire.url) as store:
        made = await created(store, "a")
        async with store._writer.use() as db:
            await db.execute("SET idle_in_transaction_session_timeout = 100")
        wire.arm(Break("stmflow writer", UP, 2, HOOK, hook=sleep))
        with pytest.raises(Unavailable):
            await one(store, commit({"a": head_of(made, "a")}))
        assert await seq(store, "a") == 1
        assert await one(store, commit({"a": head_of(made, "a")})) == Done()


async def test_a_real_deadlock_with_somebody_else_is_survived(url: str) -> None:
    """The store holds the first job and waits for the second, which somebody holds who waits for
    the first: the server chooses the store, which is sent again."""
    names = sorted("ab", key=lambda name: job_id(name).bytes)
    lock = "SELECT 1 FROM stmflow.job WHERE id = $1 FOR UPDATE"
    async with PostgresStore.open(url) as store:
        made = await created(store, "a", "b")
        other = await asyncpg.connect(url)
        try:
            await other.execute("SET deadlock_timeout = '60s'; BEGIN")
            await other.execute(lock, job_id(names[1]).bytes)
            member = commit({name: head_of(made, name) for name in names})
            told = asyncio.ensure_future(one(store, member))
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            with anyio.fail_after(SOON):
                while not await admin(url, waits):
                    await anyio.sleep(0.02)
            await other.execute(lock, job_id(names[0]).bytes)  # granted when the store lets go
            await other.execute("ROLLBACK")
            assert await told == Done()
        finally:
            await other.close()
        assert (await seq(store, "a"), await seq(store, "b")) == (2, 2)


# --- a server that says goodbye, takes nobody, or takes no writes ---------------------------------


@pytest.mark.parametrize("session", ["reader", "lister", "writer", "keeper"])
async def test_a_session_is_replaced_whose_server_has_said_goodbye_and_not_hung_up(
    victim: PostgresServer, session: str
) -> None:
    """A statement may fall between the server's last word and the end of the line."""
    url = await victim.new_database()
    async with Wire(url) as wire, PostgresStore.open(wire.url) as store:
        await created(store, "a")
        assert len(await store.jobs()) == 1
        wire.linger()
        assert await admin(url, END, values=[f"stmflow {session}"]) == 1
        if session == "keeper":
            await eventually(lambda: store._keeper is None or store._keeper._db is None)
        else:
            await anyio.sleep(0.05)
        assert await seq(store, "a") == 1
        assert len(await store.jobs()) == 1
        told = await _told(store, commit({"b": None}))
        assert isinstance(told, Unavailable if session == "writer" else Done)
        assert await seq(store, "b") == isinstance(told, Done)
        await created(store, "c")
        wire.linger(False)
        worker = await anyio.to_thread.run_sync(store.enlist)
        await eventually(lambda: not store._lost(worker))


async def _told(store: PostgresStore, member: Member) -> Any:
    try:
        return await one(store, member)
    except (Unavailable, Indeterminate) as error:
        return error


async def eventually(ready: Callable[[], bool]) -> None:
    with anyio.fail_after(SOON):
        while not ready():
            await anyio.sleep(0.01)


async def test_a_server_without_a_free_connection_is_unavailable_for_now(
    victim: PostgresServer, url: str
) -> None:
    async with PostgresStore.open(url) as store:
        made = await created(store, "a")
        crowd: list[Any] = []
        try:
            store._writer.drop()
            await anyio.sleep(0.05)
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    crowd.append(await asyncpg.connect(url))
            with pytest.raises(Unavailable, match="TooManyConnections"):
                await one(store, commit({"a": head_of(made, "a")}))
            assert await seq(store, "a") == 1  # the reader has its session
            with pytest.raises(Unavailable):
                async with PostgresStore.open(url):
                    pass
        finally:
            for each in crowd:
                await each.close()
        assert await one(store, commit({"a": head_of(made, "a")})) == Done()


async def test_a_server_that_takes_no_writes_any_more_is_unavailable(url: str) -> None:
    """As an old primary after a failover: sessions that it has are ended, new ones are refused."""
    name = url.rpartition("/")[2]
    async with PostgresStore.open(url) as store:
        made = await created(store, "a")
        await admin(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            store._writer.drop()
            with pytest.raises(Unavailable, match="TargetServer"):
                await one(store, commit({"a": head_of(made, "a")}))
            assert await seq(store, "a") == 1
            async with PostgresStore.open(url, read_only=True) as reading:
                assert await seq(reading, "a") == 1
        finally:
            await admin(
                url,
                "SET default_transaction_read_only = off",
                f"ALTER DATABASE {name} RESET default_transaction_read_only",
            )
        assert await one(store, commit({"a": head_of(made, "a")})) == Done()


@pytest.mark.acceptance
async def test_a_session_killed_resets_the_server_and_nothing_is_lost(
    victim: PostgresServer, url: str
) -> None:
    """One of its processes dies: the server ends all others, as its memory may be damaged."""
    async with Wire(url) as wire, PostgresStore.open(wire.url) as store:

        async def kill(pid: int) -> None:
            os.kill(pid, signal.SIGKILL)

        for at in (1, 2, 5):
            made = await created(store, f"a{at}")
            wire.arm(Break("stmflow writer", UP, at, HOOK, hook=kill))
            with pytest.raises((Unavailable, Indeterminate)) as told:
                await one(store, commit({f"a{at}": head_of(made, f"a{at}")}))
            with anyio.fail_after(SOON):
                while (found := await _seq(store, f"a{at}")) is None:
                    await anyio.sleep(0.02)
            assert found == 1 or isinstance(told.value, Indeterminate)
            with anyio.fail_after(SOON):
                while True:
                    with suppress(Unavailable, Indeterminate):
                        await one(store, commit({f"a{at}": head_of(made, f"a{at}")}))
                        break
            assert await _seq(store, f"a{at}") == 2


async def _seq(store: PostgresStore, name: str) -> int | None:
    with suppress(Unavailable):
        return await seq(store, name)
    return None


# --- no room --------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[Path]:
    """A file system with room for little; skips where none can be made."""
    folder = Path(tempfile.mkdtemp(prefix="stmflow-small-"))
    try:
        folder.chmod(0o755)
        command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0777", "none", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=False)
    finally:
        folder.rmdir()


def fill(folder: Path, leave_kib: int) -> Path:
    """Leave only so much room there."""
    ballast = folder / "ballast"
    room = shutil.disk_usage(folder).free - leave_kib * 1024
    ballast.write_bytes(bytes(room))
    return ballast


async def test_a_full_disk_did_not_happen_and_all_goes_on_when_there_is_room(
    victim: PostgresServer, url: str, small: Path
) -> None:
    place = small / "space"
    place.mkdir()
    if (user := victim.user()) is not None:
        shutil.chown(place, user)
    name = url.rpartition("/")[2]
    await admin(victim.url(), f"CREATE TABLESPACE {name} LOCATION '{place}'")
    await admin(victim.url(), f"ALTER DATABASE {name} SET TABLESPACE {name}")
    async with PostgresStore.open(url) as store:
        ballast = fill(small, 64)
        made = 0
        try:
            for made in range(2_000):
                await created(store, *names(made))
        except DiskFull:
            pass
        assert 0 < made < 1_999
        assert await seq(store, f"{made} 0") == 0
        assert await seq(store, f"{made - 1} 19") == 1
        ballast.unlink()
        await created(store, *names(made))
        assert len(await store.jobs(limit=100_000)) == (made + 1) * 20


def names(n: int) -> list[str]:
    """Twenty jobs."""
    return [f"{n} {each}" for each in range(20)]


class SmallLog(PostgresServer):
    """A server whose log has little room."""

    def __init__(self, place: Path) -> None:
        super().__init__(max_wal_size="4MB", min_wal_size="2MB", wal_keep_size="0")
        self.place = place

    def _fill(self) -> None:
        log = self.place / "wal"
        log.mkdir()
        if (user := self.user()) is not None:
            shutil.chown(log, user)
        self._run("initdb", "-D", self._data, "-U", "stm", "-A", "trust", "-E", "UTF8",
                  "--no-locale", "--no-sync", "--wal-segsize=1", "-X", log)  # fmt: skip


@pytest.fixture
def small_log(small: Path) -> Iterator[SmallLog]:
    """That server."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(SmallLog(small))
        except NoServer as error:
            pytest.skip(str(error))


@pytest.mark.acceptance
async def test_a_full_log_stops_the_server_and_nothing_acknowledged_is_lost(
    small_log: SmallLog,
) -> None:
    """The server gives up at the first record that has no room, whatever it was in the midst of."""
    url = await small_log.new_database()
    sent = 0
    async with PostgresStore.open(url) as store, Transactor(store, [counter]) as engine:
        ballast = fill(small_log.place, 256)
        with anyio.fail_after(SOON):
            while await acknowledged(engine, sent):
                sent += 1
        small_log.kill()
        ballast.unlink()
        await anyio.to_thread.run_sync(small_log.start)
        with anyio.fail_after(SOON):
            while not await acknowledged(engine, sent):
                await anyio.sleep(0.05)
        head = await engine.get(counter.job("n"))
        assert head is not None
        assert sent > 0
        assert head.state.value == sent + 1


async def acknowledged(engine: Transactor, n: int) -> bool:
    """Whether that event is, now or before."""
    try:
        await engine.send(counter, Increment("n"), delivery=str(n))
    except (Unavailable, Indeterminate):
        return False
    return True
