"""`python -m examples.election`: workers that take turns by a lease, on a store of your choice."""

from __future__ import annotations

import json
from typing import Any

import anyio
import click

from examples.election.lease import LEASE, LOST, fenced, renew, take
from examples.election.lease_check import KEY, REGISTER
from scheduler import Scheduler
from stmflow import StmflowError, Transactor, Tx

PAUSE_SECONDS = 0.02
"""Between two tries to get the lease, or to reach the store."""


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("store")
@click.argument("name")
@click.option("--lease-ms", default=500, show_default=True, type=click.IntRange(1))
def work(store: str, name: str, lease_ms: int) -> None:
    """Take the lease in STORE (a file, or postgresql://…), write as long as it is held, begin anew.

    Prints a line whenever the lease was lost: the token, and how often it has written.
    """
    anyio.run(_work, store, name, lease_ms)


async def _work(where: str, name: str, lease_ms: int) -> None:
    if where.startswith("postgresql:"):
        from stmflow.store.postgres import PostgresStore

        async with PostgresStore.open(where) as postgres:
            await turns(postgres, name, lease_ms)
    else:
        from stmflow.store.sqlite import SQLiteStore

        async with SQLiteStore.open(where) as sqlite:
            await turns(sqlite, name, lease_ms)


async def turns(store: Any, name: str, lease_ms: int) -> None:
    """For ever. What fails is asked for again: it may have happened, and does no harm twice."""
    clock = getattr(store, "clock", None)
    async with Transactor(store, [LEASE], clock=clock) as db, Scheduler(db, {}):
        while True:
            try:
                token = await db.transact(take(KEY, name, lease_ms))
                if token is not None:
                    writes = await _turn(db, token, lease_ms)
                    print(json.dumps({"name": name, "token": token, "writes": writes}), flush=True)
            except StmflowError:
                pass
            await anyio.sleep(PAUSE_SECONDS)


async def _turn(db: Transactor, token: int, lease_ms: int) -> int:
    """Write until the lease is lost; how often."""

    def write(tx: Tx) -> str:
        before = tx.read(REGISTER)
        tx.write(REGISTER, [token, 1 if before is None else before.value[1] + 1])
        return "written"

    writes = 0
    while True:
        try:
            if await db.transact(fenced(KEY, token, write)) == LOST:
                return writes
            writes += 1
            await db.transact(renew(KEY, token, lease_ms))
        except StmflowError:
            await anyio.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
