"""Every golden database opens with this code, verifies on all levels, and goes on."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler import Scheduler
from stmflow import CID, Transactor
from stmflow.cli import cli
from stmflow.clock import Clock, SystemClock
from stmflow.store.sqlite import SCHEMA, SQLiteStore
from tests.golden.workflow import PARCEL, TRANSACTIONAL, WORKFLOWS, Fetch, Note, Order, Stop

FOLDER = Path(__file__).parent
DATABASES = sorted(FOLDER.glob("schema-*.db"))


@pytest.fixture(params=DATABASES, ids=lambda path: path.stem)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    copy: Path = tmp_path / "jobs.db"
    shutil.copyfile(request.param, copy)
    return copy


def test_there_is_one_for_the_present_schema() -> None:
    assert FOLDER / f"schema-{SCHEMA}.db" in DATABASES


def test_every_chain_verifies_on_all_levels(database: Path) -> None:
    options = ["--database", str(database), "--app", "tests.golden.workflow:WORKFLOWS", "--json"]
    result = CliRunner().invoke(cli, [*options, "verify", "--all"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1]) is not None
    assert '"mismatch":0' in result.output


class Later(SystemClock):
    """The wall clock, set back to so long after the last commit of a golden database."""

    def __init__(self, database: Path, after: timedelta) -> None:
        connection = sqlite3.connect(database)
        ((last,),) = connection.execute("SELECT max(at) FROM job")
        connection.close()
        self._back = super().now() - last - after // timedelta(milliseconds=1)

    def now(self) -> int:
        return super().now() - self._back


async def fetch(task: Fetch, context: Any) -> Any:
    return b"late" if task.part == 1 else None


async def note(task: Note, context: Any) -> None: ...


async def test_the_first_answers_are_given_again(database: Path) -> None:
    clock = Later(database, timedelta(hours=23))
    async with (
        SQLiteStore.open(database) as store,
        Transactor(store, WORKFLOWS, clock=clock, transactional=TRANSACTIONAL) as engine,
    ):
        for name in ("done", "lost", "stuck"):
            order = Order(name, CID.of(name.encode()), 7)
            answer = await engine.send(PARCEL, order, delivery=f"d-{name}")
            assert answer.repeated
            assert (answer.kind, answer.seq) == ("committed", 1)


@asynccontextmanager
async def opened(database: Path, clock: Clock) -> AsyncIterator[tuple[SQLiteStore, Transactor]]:
    """The engine as it runs, every handler willing."""
    async with (
        SQLiteStore.open(database) as store,
        Transactor(store, WORKFLOWS, clock=clock, transactional=TRANSACTIONAL, pure=True) as engine,
        Scheduler(engine, {Fetch: fetch, Note: note}),
    ):
        yield store, engine


async def test_what_was_running_goes_on_and_what_was_parked_can_be_redriven(database: Path) -> None:
    async with opened(database, Later(database, timedelta(minutes=1))) as (store, engine):
        slow = await engine.wait(PARCEL.job("slow"), lambda p: p.status == "done", timeout=10)
        assert slow.state.found == (b"late", None)
        for row in await store.tasks(parked=True):
            await engine.redrive(row.id)
        stuck = await engine.wait(PARCEL.job("stuck"), lambda p: p.status == "done", timeout=10)
        assert stuck.epoch == 1
        assert (await engine.send(PARCEL.job("stopped"), Stop("stopped"))).kind == "ignored"
        again = await engine.send(PARCEL, Order("stopped", CID.of(b"again"), 1))
        assert again.epoch == 2


async def test_a_deadline_that_passed_while_nobody_ran_fires(database: Path) -> None:
    async with opened(database, Later(database, timedelta(hours=2))) as (_, engine):
        slow = await engine.wait(PARCEL.job("slow"), lambda p: p.status != "fetching", timeout=10)
        assert (slow.state.status, slow.state.found) == ("failed", None)
