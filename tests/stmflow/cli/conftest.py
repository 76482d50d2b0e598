"""A database with histories of every kind, and ways to call the command line on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from click.testing import CliRunner, Result

from stmflow import CID, Err
from stmflow.cli import cli
from stmflow.store import Store
from stmflow.store.sqlite import SQLiteStore
from tests.stmflow.cli import sample
from tests.stmflow.cli.sample import ORDER, UPLOAD, Added, world

HOSTILE = "evil\x1b[31m[red]\n\u202e\x9b2J"
APP = "tests.stmflow.cli.sample:app"


class Names(NamedTuple):
    """What is in the database."""

    path: Path | str
    upload: CID
    stored: CID
    order: CID
    quota: CID
    audited: CID
    hostile: CID
    parked: CID
    kept: CID


async def fill(store: Store, path: Path | str) -> Names:
    """Histories of every kind, at a path or DSN."""
    async with world(store) as found:
        upload = await sample.upload(found)
        stored = await sample.stored(found)
        await sample.orders(found)
        audited = await found.send(UPLOAD, Added("audited", "x", 1))
        hostile = await found.send(UPLOAD, Added(HOSTILE, "-x\x00", 1))
        await found.perform(Allocate=None)
        await found.perform(Stat=False)
        await found.perform(Mark=Err("Boom\x1b[0m", {"why": "no\x1b]0;x\x07", "/": 1}))
        parked = next(row.id for row in await store.tasks() if row.parked)
        await found.send(UPLOAD, Added("s", "kept", 1))
        await found.perform(Allocate=None)
        await found.perform(Stat=True)
        await found.perform(Mark=13)  # the reducer raises: the outcome is kept
        kept = next(row.id for row in await store.tasks() if row.parked and row.id != parked)
        return Names(
            path,
            upload,
            stored,
            ORDER.job("s", 0).id,
            sample.QUOTA.job("s").id,
            audited,
            hostile,
            parked,
            kept,
        )


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Names:
    path = tmp_path_factory.mktemp("cli") / "jobs.db"

    async def make() -> Names:
        async with SQLiteStore.open(path) as store:
            return await fill(store, path)

    return anyio.run(make)


@pytest.fixture
def names(original: Names, tmp_path: Path) -> Names:
    """The names, and a copy of the database for this test alone."""
    path = tmp_path / "jobs.db"
    shutil.copy(original.path, path)
    return original._replace(path=path)


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of so many jobs that beginnings of ten letters collide."""
    path = tmp_path_factory.mktemp("cli") / "crowd.db"

    async def fill() -> None:
        async with SQLiteStore.open(path) as store, world(store) as found:
            for number in range(200):
                await found.send(UPLOAD, Added("s", str(number), 1))

    anyio.run(fill)
    return path


class Call:
    """Calls the command line in this process."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def __call__(self, *args: Any, code: int = 0, **options: Any) -> Result:
        path = options.pop("database", self.names.path)
        result = CliRunner().invoke(cli, ["--database", str(path), *map(str, args)], **options)
        assert result.exit_code == code, result.output + repr(result.exception)
        told = result.stderr.splitlines()
        assert len(told) == 1 if code in (2, 3, 4, 6, 7, 70) else len(told) <= (code == 5)
        assert all(line.startswith("stmflow: ") for line in told)
        assert_harmless(result.output)
        return result

    def json(self, *args: Any, code: int = 0, **options: Any) -> list[Any]:
        result = self(*args, "--json", code=code, **options)
        return [json.loads(line) for line in result.stdout.splitlines()]


def assert_harmless(text: str) -> None:
    """No control or format character but line feeds and tabs."""
    assert [c for c in text if not c.isprintable() and c not in "\n\t"] == []


@pytest.fixture
def call(names: Names) -> Callable[..., Any]:
    return Call(names)


def link(cid: CID) -> dict[str, str]:
    return {"/": str(cid)}
