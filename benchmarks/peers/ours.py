"""stmflow itself, on SQLite or PostgreSQL, with the workflows of `benchmarks.workloads`.

Only the sleeper is another one: every peer is told a deadline, not a length.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import apsw
import asyncpg
from anyio.abc import TaskGroup

from benchmarks.peers.peer import STEPS, Peer, Place, work_of
from benchmarks.w1 import add, ended
from benchmarks.workloads import HANDLERS, Increment, Sleeper, Woke, counter, short_add
from scheduler import Context, Limits, Scheduler
from stmflow import CID, Transactor, Workflow, ignore, sleep
from stmflow.store.postgres import PostgresStore
from stmflow.store.sqlite import SQLiteStore

ENDED = "SELECT count(*), coalesce(sum(seq) - count(*), 0) FROM {} WHERE tag = 'receiving'"
"""Jobs at their end; every revision but a job's first one holds the receipt of one task."""
ASLEEP = "SELECT count(*) FROM {}"


@dataclass(frozen=True, slots=True)
class Rest:
    """Sleep until then."""

    number: int
    until_ms: int


def _sleeper(event: Any, state: Sleeper | None) -> Any:
    match event:
        case Rest(_, until_ms):
            return Sleeper(False), [sleep(until=until_ms).then(Woke)]
        case Woke():
            return Sleeper(True), []
    return ignore()


sleeper = Workflow(
    "peers/sleeper",
    state=Sleeper,
    events=(Rest, Woke),
    outside=(Rest,),
    update=_sleeper,
    key=("number",),
)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Peer]:
    """One process: transactor and scheduler, the clients beside them."""
    workflows = [short_add, counter, sleeper]
    work = work_of(place)

    def handler(step: str, perform: Any) -> Any:
        async def handle(task: Any, context: Context) -> Any:
            await work(task.size - 1_000, step)
            return await perform(task, context)

        return perform if place.handlers == "instant" else handle

    handlers: Any = {
        task: handler(step, perform)
        for (task, perform), step in zip(HANDLERS.items(), STEPS, strict=True)
    }
    async with (
        _store(place) as store,
        Transactor(store, workflows) as transactor,
        Scheduler(transactor, handlers, limits=Limits(slots=2 * place.clients)),
        anyio.create_task_group() as watchers,
    ):
        aside = await asyncpg.connect(place.url) if place.url else None
        yield Ours(place, transactor, watchers, aside)
        watchers.cancel_scope.cancel()
        if aside is not None:
            await aside.close()


def _store(place: Place) -> Any:
    if place.url:
        return PostgresStore.open(place.url)
    return SQLiteStore.open(place.folder / "jobs.db")


class Ours:
    """As `Peer` says."""

    def __init__(
        self, place: Place, transactor: Transactor, watchers: TaskGroup, aside: Any
    ) -> None:
        self._place = place
        self._aside = aside
        self._transactor = transactor
        self._watchers = watchers
        self._woken: dict[int, float] = {}
        self._names: set[str] = set()

    async def job(self, number: int) -> None:
        answer = await self._transactor.send(short_add, add(number))
        assert answer.job is not None, answer
        await self._transactor.wait(answer.job, ended)

    async def begin(self, number: int) -> None:
        answer = await self._transactor.send(short_add, add(number))
        assert answer.committed

    async def jobs_ended(self) -> int:
        return (await self._row(ENDED, "job"))[0]

    async def steps_recorded(self) -> int:
        return (await self._row(ENDED, "job"))[1]

    async def increment(self, name: str) -> None:
        self._names.add(name)
        answer = await self._transactor.send(counter, Increment(name))
        assert answer.committed

    async def counted(self) -> int:
        """By a second transactor, which has to read the heads from the database."""
        async with _store(self._place) as store, Transactor(store, [counter]) as transactor:
            heads = [await transactor.get(counter.job_of(Increment(n))) for n in self._names]
        return sum(head.state.value for head in heads if head is not None)

    async def rest(self, number: int, until: float) -> None:
        answer = await self._transactor.send(sleeper, Rest(number, round(until * 1_000)))
        assert answer.committed
        assert answer.job is not None
        self._watchers.start_soon(self._watch, answer.job, number)

    async def _watch(self, job: CID, number: int) -> None:
        await self._transactor.wait(job, lambda state: isinstance(state, Sleeper) and state.awake)
        self._woken[number] = time.time()

    async def asleep(self) -> int:
        return (await self._row(ASLEEP, "timer"))[0]

    async def woken(self) -> dict[int, float]:
        """When each woken state was published: after its commit."""
        return self._woken

    async def _row(self, sql: str, table: str) -> tuple[int, ...]:
        """Beside the engine, by a connection of its own."""
        if self._aside is not None:
            return tuple(map(int, await self._aside.fetchrow(sql.format(f"stmflow.{table}"))))
        path = str(self._place.folder / "jobs.db")
        reader = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return tuple(reader.execute(sql.format(table)).fetchall()[0])
        finally:
            reader.close()
