"""Make the golden databases of the present schemas: `python -m tests.golden.make`.

It is run once for every schema version, when that version is new; the file is kept from then on.
SQLite's is the file itself, PostgreSQL's the statements that make it on any server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import asyncpg

from scheduler import Failure, Retry, Scheduler
from stmflow import CELL, CID, Transactor
from stmflow.store import Store, postgres, sqlite
from stmflow.store.postgres import PostgresStore
from stmflow.store.sqlite import SQLiteStore
from tests.golden.workflow import PARCEL, TRANSACTIONAL, WORKFLOWS, Fetch, Note, Order, Stop
from tests.pgservers import shared_server

FOLDER = Path(__file__).parent


async def fetch(task: Fetch, context: Any) -> Any:
    """The second part of `lost` is missing; of `stuck` nothing can be had."""
    if task.link == CID.of(b"lost") and task.part == 2:
        raise Failure("Gone", {"part": task.part}, retry=Retry.FATAL)
    if task.link == CID.of(b"stuck"):
        raise Failure("Broken", None, retry=Retry.FATAL)
    if task.link == CID.of(b"slow"):
        await anyio.sleep_forever()
    return b"first" if task.part == 1 else {"part": task.part, "of": task.link}


async def note(task: Note, context: Any) -> None:
    """Nothing to do."""


async def fill(store: Store) -> None:
    """Jobs that are done, failed, stopped, tried again, faulted and still running."""
    async with (
        Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL, pure=True) as engine,
        Scheduler(engine, {Fetch: fetch, Note: note}, grace_seconds=0.1),
    ):
        links = {"stopped": "slow"}
        for name in ("done", "lost", "stuck", "slow", "stopped"):
            link = CID.of(links.get(name, name).encode())
            await engine.send(PARCEL, Order(name, link, 7), delivery=f"d-{name}")
        await engine.send(PARCEL, Order("dear", CID.of(b"dear"), 5_000))
        for name, status in (("done", "done"), ("lost", "failed"), ("dear", "failed")):
            await engine.wait(PARCEL.job(name), lambda p, s=status: p.status == s, timeout=10)
        await engine.send(PARCEL, Order("lost", CID.of(b"done"), 8), delivery="again")
        await engine.wait(PARCEL.job("lost"), lambda p: p.status == "done", timeout=10)
        await engine.send(PARCEL.job("stopped"), Stop("stopped"))
        await engine.transact(lambda tx: tx.write(CELL.job("greeting"), {"hello": [1, 2]}))
        while len(await store.tasks(parked=True)) < 2:
            await anyio.sleep(0.01)


async def make_sqlite(path: Path) -> None:
    """One file."""
    async with SQLiteStore.open(path) as store:
        await fill(store)
    for beside in ("-workers", "-turn"):
        Path(f"{path}{beside}").unlink(missing_ok=True)


async def make_postgres(path: Path) -> None:
    """The statements that made the schema, and all rows."""
    with shared_server() as server:
        url = await server.new_database()
        async with PostgresStore.open(url) as store:
            await fill(store)
        schema = Path(postgres.__file__).parent
        steps = [(schema / name).read_text() for name in postgres.MIGRATIONS]
        path.write_text("\n".join([*steps, await rows(url)]))


async def rows(url: str) -> str:
    """INSERTs of everything in the schema, and where its sequences stand."""
    db = await asyncpg.connect(url)
    lines = []
    try:
        await db.execute("SET bytea_output = hex")
        for name, kind in await db.fetch(
            "SELECT relname, relkind::text FROM pg_class"
            " WHERE relnamespace = 'stmflow'::regnamespace AND relkind IN ('r', 'S')"
            " ORDER BY relkind = 'S', relname"
        ):
            if kind == "S":
                sql = f"SELECT last_value, is_called FROM stmflow.{name}"  # noqa: S608
                last, called = await db.fetchrow(sql)
                lines.append(f"SELECT setval('stmflow.{name}', {last}, {str(called).lower()});")
                continue
            columns = await db.fetchval(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
                " WHERE attrelid = $1::regclass AND attnum > 0",
                f"stmflow.{name}",
            )
            literals = ", ".join(f"quote_nullable({column})" for column in columns.split(", "))
            into = f"INSERT INTO stmflow.{name} ({columns}) OVERRIDING SYSTEM VALUE VALUES"
            sql = f"SELECT concat_ws(', ', {literals}) FROM stmflow.{name} t ORDER BY t"  # noqa: S608
            lines += [f"{into} ({values});" for (values,) in await db.fetch(sql)]
    finally:
        await db.close()
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, make in (
        (f"schema-{sqlite.SCHEMA}.db", make_sqlite),
        (f"postgres-{postgres.SCHEMA}.sql", make_postgres),
    ):
        if (FOLDER / name).exists():
            print(f"{name} exists: a golden database is never made again")
        else:
            anyio.run(make, FOLDER / name)
