"""The command line on PostgreSQL: what it does on a file, and not a letter of the password."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.store.postgres import PostgresStore
from tests.pgservers import PostgresServer, admin
from tests.stmflow.cli.conftest import Call, Names, fill
from tests.stmflow.cli.test_exits import command

APP = "tests.stmflow.cli.sample:app"
PASSWORD = "p@ss/w:rd?s3cret#"


def with_password(url: str, password: str = quote(PASSWORD, safe="")) -> str:
    parts = urlsplit(url)
    return f"postgresql://{parts.username}:{password}@{parts.hostname}:{parts.port}{parts.path}"


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Names]:
    """Histories of every kind on a server that lets everybody in."""
    url = anyio.run(postgres.new_database)

    async def make() -> Names:
        async with PostgresStore.open(url) as store:
            return await fill(store, with_password(url))

    yield anyio.run(make)
    anyio.run(postgres.give_back, url)


@pytest.fixture
def on(database: Names) -> Callable[..., Any]:
    call = Call(database)

    def run(*args: Any, **options: Any) -> Any:
        result = call(*args, **options)
        assert not [part for part in ("s3cret", "ss/w", "p%40") if part in result.output]
        return result

    return run


def test_every_reading_command_takes_a_dsn(on: Call, database: Names, tmp_path: Path) -> None:
    assert len(on("ls").stdout.splitlines()) > 5
    for args in (
        ["head", database.upload],
        ["log", database.upload],
        ["show", database.upload],
        ["diff", database.upload, database.stored],
        ["why", database.upload],
        ["outbox"],
        ["verify", "--all", "--app", APP],
        ["export", database.upload, "-o", tmp_path / "job.car"],
    ):
        on(*args)
        on(*args, *(["--force"] if args[0] == "export" else []), "--json")


def test_tasks_are_redriven_and_dismissed(on: Call, database: Names) -> None:
    on("redrive", database.parked, "--app", APP)
    on("dismiss", database.kept, "--app", APP)
    on("verify", "--all", "--app", APP)


def test_a_schema_that_is_not_there_is_not_made(
    on: Call, database: Names, postgres: PostgresServer
) -> None:
    url = anyio.run(postgres.new_database)
    for args in (["ls"], ["redrive", database.parked, "--app", APP]):
        on(*args, database=with_password(url), code=3)
    assert not anyio.run(admin, url, "SELECT to_regnamespace('stmflow') IS NOT NULL")
    anyio.run(postgres.give_back, url)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{PASSWORD}@127.0.0.1/x",
        "postgresql://u:ss/w@127.0.0.1:1/x",
        "postgresql://u:12/s3cret@127.0.0.1:1/x",
        "postgresql://u:s3cret@127.0.0.1:s3cret/x",
        "postgresql://u:s3cret@[::1/x",
        "postgresql://u:s3cret@no-such-host.invalid/x",
        "postgresql://u:s3cret@127.0.0.1:1/x",
        "postgresql://u:s3cret@127.0.0.1:1,127.0.0.1:2/x",
        "postgresql://u:s3cret@127.0.0.1:1/x?sslmode=s3cret",
        "postgres://127.0.0.1:1/x?user=u&password=s3cret",
    ],
)
def test_a_server_that_is_not_there_is_unusable(on: Call, dsn: str) -> None:
    on("ls", database=dsn, code=6)


def test_a_password_that_is_wrong_is_not_shown(on: Call, postgres: PostgresServer) -> None:
    on("ls", database=with_password(postgres.url("no_such_database")), code=6)
    on("ls", database="postgresq://u:s3cret@h/x", code=2)
    on("ls", database="file://u:s3cret@h/x", code=2)


def test_a_dsn_may_come_from_the_environment(database: Names) -> None:
    found = command("ls", "--limit", "1", env={"STMFLOW_DATABASE": str(database.path)})
    assert (found.returncode, found.stderr) == (0, "")


def test_without_the_extra_it_says_what_to_install(
    on: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "stmflow.store.postgres":
            raise ModuleNotFoundError("No module named 'asyncpg'", name="asyncpg")
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "stmflow[postgres]" in on("ls", code=6).stderr
