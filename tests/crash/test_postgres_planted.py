"""The PostgreSQL parts find what is planted: a harness that finds nothing proves nothing.

Each bug is one that a store, or whoever sets one up, may well have.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.errors import Indeterminate, Unavailable
from stmflow.store import Batch, Done, Result
from stmflow.store.postgres import PostgresStore
from tests.campaign.part import Violation
from tests.crash import postgres_kills, postgres_settled
from tests.crash.postgres_cuts import SHAPES, bench, cut_everywhere
from tests.crash.postgres_server import victim
from tests.crash.postgres_wire import DOWN, UP
from tests.crash.postgres_world import World
from tests.pgservers import PostgresServer, admin

__all__ = ["victim"]

ONE = SHAPES[0]
KILLS = 4


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Servers that die are much talked of."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Forgets(PostgresStore):
    """Takes a commit of unknown fate for one that did not happen: who asks again, asks twice."""

    async def commit(self, batch: Batch) -> Sequence[Result]:
        try:
            return await super().commit(batch)
        except Indeterminate as error:
            raise Unavailable(str(error)) from error


class Believes(PostgresStore):
    """Takes a commit of unknown fate for done."""

    async def commit(self, batch: Batch) -> Sequence[Result]:
        try:
            return await super().commit(batch)
        except Indeterminate:
            return [Done([]) for _ in batch.members]


class Lazy(PostgresStore):
    """Does not wait for the log: the server was safe when it was asked, and no more after that."""

    async def _writing(self) -> Any:
        db = await super()._writing()
        await db.execute("SET synchronous_commit = off")
        return db


async def test_a_lost_commit_taken_for_undone_is_found(victim: PostgresServer) -> None:
    async with bench(victim, Forgets) as made:
        with pytest.raises(Violation, match=r"told Unavailable.*and happened is True"):
            await cut_everywhere(made, ONE, DOWN, "before", Random(0))


async def test_a_lost_commit_taken_for_undone_is_applied_twice(victim: PostgresServer) -> None:
    async with bench(victim, Forgets) as made:
        act = postgres_settled.send_one
        with pytest.raises(Violation, match="were acknowledged"):
            await postgres_settled.break_everywhere(
                made, "stmflow writer", act, DOWN, "before", Random(0)
            )


async def test_a_lost_commit_taken_for_done_is_found(victim: PostgresServer) -> None:
    async with bench(victim, Believes) as made:
        with pytest.raises(Violation, match=r"told \[Done.*and happened is False"):
            await cut_everywhere(made, ONE, UP, "half", Random(0))


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", [Believes, Lazy])
async def test_what_is_planted_is_found_by_kills(
    victim: PostgresServer, kind: type[PostgresStore]
) -> None:
    """Not so `Forgets`: that a server dies between a commit and its answer is too rare."""
    opening = kind.open
    for number in range(8):
        step = partial(postgres_kills.step, victim, number, kills=KILLS, opening=opening)
        try:
            await anyio.to_thread.run_sync(step)
        except Exception as found:
            print(f"{kind.__name__}: found in slice {number}: {found!r}")
            return
    pytest.fail(f"not found in {8 * KILLS} kills")


async def test_reads_that_are_not_held_are_found(victim: PostgresServer) -> None:
    """Without `FOR SHARE`, and the lock on what is absent, write skew commits."""
    url = await victim.new_database()

    @asynccontextmanager
    async def opening() -> AsyncIterator[PostgresStore]:
        async with PostgresStore.open(url) as store:
            found = await admin(url, "SELECT pg_get_functiondef('stmflow.hold'::regproc)")
            held = "PERFORM pg_advisory_xact_lock_shared(hashes[i]);"
            await admin(url, found.replace("FOR SHARE", "").replace(held, ""))
            yield store

    with pytest.raises(Violation, match=r"write skew|G2-item"):
        await _rivals(World(0, opening))


async def _rivals(world: World) -> None:
    async with world.run(clients=0, debts=0):
        with anyio.move_on_after(20):
            while len(world.pairs) < 25:
                await anyio.sleep(0.01)
