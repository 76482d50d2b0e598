"""The commits of a case on a real PostgreSQL, statement by statement, in the order of a schedule.

Each lane is an open store with sessions of its own. Its connection stops before every statement. A
statement that has been sent is over, or the server says that it waits for another lane: there is no
third, so a run depends on its schedule alone. After PostgreSQL's own isolation tester.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import asyncpg

from stmflow.store import Batch, Drop, Member, Reap
from stmflow.store.postgres import PostgresStore
from tests.exhaustive.cases import Case, Stage, observed, told
from tests.exhaustive.schedule import Chooser
from tests.exhaustive.serial import Outcome, act

LANES = 3
POLL_S = 0.002
PATIENCE_S = 60.0
FREE = ("SELECT nextval",)
"""Statements that are not worth a stop: numbers come from a sequence."""
OPENING = ("BEGIN",)
"""Nor is one that takes no snapshot: it is left out where lanes are many."""
_BLOCKED = "SELECT pg_isolation_test_session_is_blocked($1, $2)"


class Gate:
    """Where one lane stops. `state`: moving, waiting (for its turn), sent, or over."""

    def __init__(self, free: tuple[str, ...]) -> None:
        self.state = "moving"
        self.what = ""
        self.pid = 0
        self._free = free
        self._open = asyncio.Event()
        self.news = asyncio.Event()

    async def stop(self, sql: str) -> None:
        """Wait for this lane's turn."""
        if self.state == "over" or sql.startswith(self._free):
            return
        self.what = " ".join(sql.split())
        self._open.clear()
        self._set("waiting")
        await self._open.wait()

    def go(self) -> None:
        """It is this lane's turn."""
        self._set("sent")
        self._open.set()

    def answered(self) -> None:
        """The statement is over."""
        if self.state == "sent":
            self._set("moving")

    def _set(self, state: str) -> None:
        self.state = state
        self.news.set()

    async def run(self, work: Any) -> Any:
        """Do the lane's work."""
        try:
            return await work
        finally:
            self._set("over")


class Gated:
    """A connection that stops before each of its statements."""

    def __init__(self, db: Any, gate: Gate) -> None:
        self._db = db
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def _pass(self, method: str, sql: str, *values: Any, **how: Any) -> Any:
        await self._gate.stop(sql)
        self._gate.pid = self._db.get_server_pid()
        try:
            return await getattr(self._db, method)(sql, *values, **how)
        finally:
            self._gate.answered()

    async def execute(self, sql: str, *values: Any, **how: Any) -> Any:
        return await self._pass("execute", sql, *values, **how)

    async def fetch(self, sql: str, *values: Any, **how: Any) -> Any:
        return await self._pass("fetch", sql, *values, **how)

    async def fetchrow(self, sql: str, *values: Any, **how: Any) -> Any:
        return await self._pass("fetchrow", sql, *values, **how)

    async def fetchval(self, sql: str, *values: Any, **how: Any) -> Any:
        return await self._pass("fetchval", sql, *values, **how)


class PostgresLanes:
    """Three stores on one database, and an eye on who waits for whom."""

    def __init__(self, stores: Sequence[PostgresStore], eye: Any) -> None:
        self._stores = stores
        self._eye = eye
        self._runs = count()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[PostgresLanes]:
        """Lanes on an empty database."""
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(PostgresStore.open(url)) for _ in range(LANES)
            ]
            eye = await asyncpg.connect(url, timeout=10)
            stack.push_async_callback(eye.close)
            await stores[0].commit(_batch(Drop([], None)))  # makes its tables once
            yield cls(stores, eye)

    def run_name(self) -> str:
        """A name that no run before had."""
        return f"run {next(self._runs)}"

    async def tell(self, case: Case, run: str, chooser: Chooser, *, begins: bool) -> Outcome:
        """Run a case in the order that the chooser wants."""
        stage = Stage(self._stores[0], run)
        wishes = await case.prepare(stage)
        gates = [Gate(FREE if begins else FREE + OPENING) for _ in wishes]
        try:
            for store, gate in zip(self._stores, gates, strict=False):
                for link in (store._writer, store._reader):
                    link._db = Gated(link._db, gate)
            works = [
                asyncio.ensure_future(gate.run(act(store, wish)))
                for store, gate, wish in zip(self._stores, gates, wishes, strict=False)
            ]
            await self._conduct(gates, chooser)
            answers = tuple([told(stage, await work) for work in works])
        finally:
            for store in self._stores:
                for link in (store._writer, store._reader):
                    link._db = getattr(link._db, "_db", link._db)
        outcome = answers, await observed(stage)
        for worker in stage.workers:
            stage.store.retire(worker)
        await stage.store.commit(_batch(Reap(0)))
        return outcome

    async def _conduct(self, gates: Sequence[Gate], chooser: Chooser) -> None:
        while True:
            await self._still(gates)
            able = {n: gate.what for n, gate in enumerate(gates) if gate.state == "waiting"}
            if not able:
                return
            gates[chooser.choose(able)].go()

    async def _still(self, gates: Sequence[Gate]) -> None:
        """Return when no lane moves by itself: each waits for its turn, or for another, or is
        over; and not all of those that are not over wait for another."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for gate in gates:
                    gate.news.clear()
                moving = [gate for gate in gates if gate.state in ("moving", "sent")]
                if not moving:
                    return
                news = [asyncio.ensure_future(gate.news.wait()) for gate in gates]
                done, _ = await asyncio.wait(
                    news, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for each in news:
                    each.cancel()
                able = any(gate.state == "waiting" for gate in gates)
                if not done and able and await self._blocked(moving, gates):
                    return

    async def _blocked(self, moving: Sequence[Gate], gates: Sequence[Gate]) -> bool:
        """Whether each of these waits for a lock that another lane holds."""
        for gate in moving:
            if gate.state != "sent":
                return False
            others = [other.pid for other in gates if other is not gate and other.pid]
            if not await self._eye.fetchval(_BLOCKED, gate.pid, others):
                return False
        return all(gate.state == "sent" for gate in moving)


def _batch(*members: Member) -> Batch:
    return Batch(members)
