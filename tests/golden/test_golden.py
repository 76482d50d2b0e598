"""Every golden database opens with this code, verifies on all levels, and goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from scheduler import Scheduler
from stmflow import CID, Transactor
from stmflow.cli import cli
from stmflow.clock import Clock, SystemClock
from stmflow.errors import Unavailable, UnknownSchema
from stmflow.store import Batch, Commit, Store
from stmflow.store.sqlite import SCHEMA, SQLiteStore
from tests.golden.workflow import PARCEL, TRANSACTIONAL, WORKFLOWS, Fetch, Note, Order, Stop

FOLDER = Path(__file__).parent
FILES = sorted([*FOLDER.glob("schema-*.db"), *FOLDER.glob("postgres-*.sql")])


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A server to load PostgreSQL's into; skips where none can be had."""
    servers = pytest.importorskip("tests.pgservers", reason="asyncpg is not installed")
    try:
        with servers.shared_server() as server:
            yield server
    except servers.NoServer as error:
        pytest.skip(str(error))


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a copy of it can be opened."""
    if request.param.suffix == ".db":
        copy = tmp_path / "jobs.db"
        shutil.copyfile(request.param, copy)
        yield str(copy)
        return
    server = request.getfixturevalue("postgres")
    url = anyio.run(loaded, server, request.param)
    yield url
    anyio.run(server.give_back, url)


async def loaded(server: Any, file: Path) -> str:
    from tests.pgservers import admin

    url: str = await server.new_database()
    await admin(url, file.read_text(), "SELECT 1")
    return url


def store_at(database: str, **options: Any) -> AbstractAsyncContextManager[Store]:
    if not database.startswith("postgresql:"):
        return SQLiteStore.open(database, **options)
    from stmflow.store.postgres import PostgresStore

    return PostgresStore.open(database, **options)


def test_there_is_one_for_each_schema() -> None:
    module = pytest.importorskip("stmflow.store.postgres")
    names = {path.name for path in FILES}
    assert {f"schema-{n}.db" for n in range(1, SCHEMA + 1)} <= names
    assert {f"postgres-{n}.sql" for n in range(1, module.SCHEMA + 1)} <= names


def test_every_chain_verifies_on_all_levels(database: str) -> None:
    options = ["--database", database, "--app", "tests.golden.workflow:WORKFLOWS", "--json"]
    result = CliRunner().invoke(cli, [*options, "verify", "--all"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1]) is not None
    assert '"mismatch":0' in result.output


async def after(database: str, passed: timedelta) -> Clock:
    """The wall clock, set back to so long after the last commit of a golden database."""
    async with store_at(database, read_only=True) as store:
        last = max(row.at for row in await store.jobs())
    back = SystemClock().now() - last - passed // timedelta(milliseconds=1)

    class Later(SystemClock):
        def now(self) -> int:
            return super().now() - back

    return Later()


async def fetch(task: Fetch, context: Any) -> Any:
    return b"late" if task.part == 1 else None


async def note(task: Note, context: Any) -> None: ...


async def test_the_first_answers_are_given_again(database: str) -> None:
    clock = await after(database, timedelta(hours=23))
    async with (
        store_at(database) as store,
        Transactor(store, WORKFLOWS, clock=clock, transactional=TRANSACTIONAL) as engine,
    ):
        for name in ("done", "lost", "stuck"):
            order = Order(name, CID.of(name.encode()), 7)
            answer = await engine.send(PARCEL, order, delivery=f"d-{name}")
            assert answer.repeated
            assert (answer.kind, answer.seq) == ("committed", 1)


@asynccontextmanager
async def opened(database: str, passed: timedelta) -> AsyncIterator[tuple[Store, Transactor]]:
    """The engine as it runs, every handler willing."""
    clock = await after(database, passed)
    async with (
        store_at(database) as store,
        Transactor(store, WORKFLOWS, clock=clock, transactional=TRANSACTIONAL, pure=True) as engine,
        Scheduler(engine, {Fetch: fetch, Note: note}),
    ):
        yield store, engine


async def test_what_was_running_goes_on_and_what_was_parked_can_be_redriven(database: str) -> None:
    async with opened(database, timedelta(minutes=1)) as (store, engine):
        slow = await engine.wait(PARCEL.job("slow"), lambda p: p.status == "done", timeout=10)
        assert slow.state.found == (b"late", None)
        for row in await store.tasks(parked=True):
            await engine.redrive(row.id)
        stuck = await engine.wait(PARCEL.job("stuck"), lambda p: p.status == "done", timeout=10)
        assert stuck.epoch == 1
        assert (await engine.send(PARCEL.job("stopped"), Stop("stopped"))).kind == "ignored"
        again = await engine.send(PARCEL, Order("stopped", CID.of(b"again"), 1))
        assert again.epoch == 2


async def test_a_deadline_that_passed_while_nobody_ran_fires(database: str) -> None:
    async with opened(database, timedelta(hours=2)) as (_, engine):
        slow = await engine.wait(PARCEL.job("slow"), lambda p: p.status != "fetching", timeout=10)
        assert (slow.state.status, slow.state.found) == ("failed", None)


# --- a schema to come, on PostgreSQL --------------------------------------------------------------


@pytest.fixture
def next_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a later stmflow, whose schema 2 has one table more."""
    module = pytest.importorskip("stmflow.store.postgres")
    real = module.files
    step = tmp_path / "postgres-2.sql"
    step.write_text("CREATE TABLE stmflow.more (x integer);")

    class Files:
        def joinpath(self, name: str) -> Any:
            return step if name == step.name else real("stmflow.store").joinpath(name)

    monkeypatch.setattr(module, "files", lambda package: Files())
    monkeypatch.setattr(module, "SCHEMA", module.SCHEMA + 1)
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, step.name))


@pytest.fixture
async def url(postgres: Any) -> AsyncIterator[str]:
    url = await loaded(postgres, FOLDER / "postgres-1.sql")
    yield url
    await postgres.give_back(url)


async def test_an_older_schema_is_brought_up_to_date_at_open(url: str, next_schema: None) -> None:
    with pytest.raises(UnknownSchema, match="to be brought up to 2"):
        async with store_at(url, read_only=True):
            pass
    async with store_at(url) as store:
        count = len(await store.jobs())
    async with store_at(url, read_only=True) as store:
        assert len(await store.jobs()) == count > 5


async def test_an_older_stmflow_refuses_what_a_newer_one_has_brought_up_to_date(url: str) -> None:
    from tests.pgservers import admin

    async with store_at(url) as store:  # and one that has it open does not get in again
        await admin(url, "UPDATE stmflow.meta SET schema = 2 RETURNING 1")
        with pytest.raises(UnknownSchema, match="this stmflow knows 1 and 1"):
            async with store_at(url):
                pass
        store._writer.drop()  # type: ignore[attr-defined]
        with pytest.raises(UnknownSchema):
            await store.commit(Batch([Commit()]))


async def test_no_schema_is_changed_under_those_who_have_it_open(
    url: str, request: pytest.FixtureRequest
) -> None:
    async with store_at(url) as old:
        request.getfixturevalue("next_schema")
        with pytest.raises(Unavailable, match="1 others have the database open"):
            async with store_at(url):
                pass
        assert len(await old.jobs()) > 5
    async with store_at(url) as new:
        assert len(await new.jobs()) > 5
