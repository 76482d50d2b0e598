"""Sessions that end, statements that are cancelled, and a server that refuses, at every stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.errors import Indeterminate, Unavailable
from stmflow.store import Done, Member
from stmflow.store.postgres import PostgresStore
from stmflow.testing.builders import commit
from stmflow.testing.store_contract import created, one, seq
from tests.crash.postgres_server import victim
from tests.crash.postgres_wire import Wire
from tests.pgservers import PostgresServer, admin

END = (
    "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity"
    " WHERE application_name = $1 AND datname = current_database()"
)
SOON = 20.0

__all__ = ["victim"]


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
