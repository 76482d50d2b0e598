"""A dump of the schema made while others write is of one moment, and what is restored runs on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow import history
from stmflow.store import Batch, Beat, Done, Reap
from stmflow.store.postgres import PostgresStore
from stmflow.testing import builders as make
from stmflow.testing.builders import commit
from stmflow.testing.store_contract_jobs import COUNTER, Add, counter
from stmflow.transaction import Tx
from stmflow.transactor import Transactor
from tests.pgservers import PostgresServer


def tool(server: PostgresServer, name: str) -> Path:
    """A program of the server's own release."""
    folder = getattr(server, "_bin", None)
    if folder is None or not (folder / name).exists():
        pytest.skip(f"no {name} here")
    return Path(folder / name)


async def run(*command: object, stdin: bytes | None = None) -> bytes:
    done = await anyio.run_process(
        [str(word) for word in command], input=stdin, stderr=subprocess.PIPE
    )
    return done.stdout


def _move(tx: Tx) -> None:
    tx.apply(counter("a"), Add("a", 1))
    tx.apply(counter("b"), Add("b", -1))


async def test_a_dump_made_meanwhile_is_of_one_moment_and_runs_on(
    postgres: PostgresServer, anyio_backend: str
) -> None:
    dump, psql = tool(postgres, "pg_dump"), tool(postgres, "psql")
    first, second = await postgres.new_database(), await postgres.new_database()
    async with PostgresStore.open(first) as store:
        worker = store.enlist()
        await store.commit(Batch([Beat(worker, 10**15)]))
        await store.commit(
            Batch([commit({"held": None}, tasks=[make.task("held", 0, worker=worker)])])
        )
        async with Transactor(store, [COUNTER]) as transactor, anyio.create_task_group() as group:
            stop = False

            async def write() -> None:
                while not stop:
                    await transactor.transact(_move)

            group.start_soon(write)
            await transactor.wait(counter("a"), lambda state: state.total > 5)
            text = await run(dump, "--schema=stmflow", first)
            stop = True
    await run(psql, "-q", "-v", "ON_ERROR_STOP=1", second, stdin=text)
    async with PostgresStore.open(second) as store:
        for name in "ab":
            packs = await store.revisions(counter(name).id)
            (head,) = (await store.heads([counter(name).id])).values()
            assert head is not None
            report = history.verify(
                counter(name).id,
                head.revision,
                history.blocks_of(packs).get,
                workflows=[COUNTER],
                stored=head,
                rows=[],
            )
            assert report.status == history.OK, report.findings
        assert (await store.commit(Batch([Reap(0)])))[0] == Done(1)
        async with Transactor(store, [COUNTER]) as transactor:
            heads = [await transactor.get(counter(name)) for name in "ab"]
            assert sum(one.state.total for one in heads if one is not None) == 0
            before = heads[0].seq  # type: ignore[union-attr]
            answer = await transactor.send(COUNTER, Add("a", 1))
            assert answer.seq == before + 1
    for database in (first, second):
        await postgres.give_back(database)
