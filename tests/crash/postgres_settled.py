"""The line breaks under an engine, and the engine settles what came of it by itself.

Here nobody commits again by hand: a caller sends once and is told once, a reader reads, a worker
enlists, a store hears of others, and under rich work any session breaks at any message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import anyio

from scheduler.testing.orders import COUNTER, PURSE, Add, Deposit, purse, transfer
from stmflow import Transactor
from stmflow.errors import Indeterminate, Unavailable
from stmflow.store import postgres, postgres_link
from stmflow.store.postgres import PostgresStore
from stmflow.store.postgres_link import WORKERS
from stmflow.testing.builders import head_of, job_id
from tests.campaign.part import Part, Step, Violation
from tests.crash.postgres_cuts import WRITER, Bench, answered, bench, impatient, steps
from tests.crash.postgres_wire import BREAKS, DOWN, UP, Break, Wire
from tests.crash.postgres_world import World
from tests.pgservers import PostgresServer, admin

SOON = 20.0
RENEW = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name LIKE 'stmflow %' AND datname = current_database()"
)
SESSIONS = {WRITER: 8, "stmflow reader": 3, "stmflow lister": 1, "stmflow keeper": 2}
"""The sessions of a store, and how often each is chosen to break under work."""

Act = Callable[[Bench, str], Awaitable[None]]
"""Does something on the line that breaks, under a name; raises Violation."""

# --- the writer's session: sent once, told once, applied once -------------------------------------


async def _engine(made: Bench, act: Callable[[Transactor], Awaitable[None]]) -> Counter[str]:
    async with Transactor(made.store, [COUNTER, PURSE]) as engine:
        await act(engine)
        return Counter({f"engine: {name}": n for name, n in engine.counters.items()})


async def _once(name: str, call: Callable[[str], Awaitable[Any]]) -> Any:
    """Until it is acknowledged. What has not happened may be sent under a new id; what nobody knows
    the engine finds out, so that no caller is told of it."""
    for n in count():
        try:
            return await call(f"{name}, {n}")
        except Unavailable:
            await anyio.sleep(0.01)
        except Indeterminate as error:
            raise Violation(f"{name}: {error!r}") from error


async def _applied(made: Bench, name: str, ops: list[int]) -> None:
    """That counter holds these operations, each once, in any order."""
    async with Transactor(made.sound, [COUNTER]) as engine:
        head = await engine.get(COUNTER.job(name))
        found = [] if head is None else sorted(head.state.ops)
        if found != sorted(ops):
            raise Violation(f"{name} holds {found}, and {ops} were acknowledged")


async def send_one(made: Bench, name: str) -> None:
    """One event to a job that is there, under an id."""

    async def act(engine: Transactor) -> None:
        for op in (1, 2):
            sending = partial(engine.send, COUNTER, Add(name, op, 1))
            answer = await _once(f"{name} {op}", lambda id: sending(delivery=id))  # noqa: B023
            if answer.kind != "committed":
                raise Violation(f"{name}: {answer}")

    await _engine(made, act)
    await _applied(made, name, [1, 2])


async def send_many(made: Bench, name: str) -> None:
    """Twelve events to three jobs, in few batches, under ids."""

    async def act(engine: Transactor) -> None:
        async def send(op: int) -> None:
            add = Add(f"{name} {op % 3}", op, 1)
            await _once(f"{name} {op}", lambda id: engine.send(COUNTER, add, delivery=id))

        async with anyio.create_task_group() as group:
            for op in range(12):
                group.start_soon(send, op)

    await _engine(made, act)
    for n in range(3):
        await _applied(made, f"{name} {n}", list(range(n, 12, 3)))


async def move(made: Bench, name: str) -> None:
    """A transaction over two jobs, under an id: in both or in none."""
    source, target = f"{name} source", f"{name} target"

    async def act(engine: Transactor) -> None:
        fund = Deposit(source, 1, 9)
        await _once(f"{name} fund", lambda id: engine.send(PURSE, fund, delivery=id))
        at, body = purse(source), transfer(source, target, 2, 4)
        told = await _once(f"{name} move", lambda id: engine.transact(body, at=at, delivery=id))
        if told != {"moved": 4}:
            raise Violation(f"{name}: {told}")

    await _engine(made, act)
    async with Transactor(made.sound, [PURSE]) as engine:
        states = await engine.snapshot([purse(source), purse(target)])
        held = {job.key[0]: (purse.balance, purse.ops) for job, purse in states.items()}
    if held != {source: (5, (1, 2)), target: (4, (2,))}:
        raise Violation(f"{name}: {held}")


# --- the reader's, the lister's, the keeper's -----------------------------------------------------


async def read(made: Bench, name: str) -> None:
    """What is read is right, through one break: the session is replaced and asked again."""
    if made.store._reader._db is not None:
        made.store._reader.drop()
    wrote = await made.made(name)
    for _ in range(2):  # by a new statement, and by one that the session knows
        heads = await answered(lambda: made.store.heads([job_id(name)]))
        if heads[job_id(name)] != head_of(wrote, name):
            raise Violation(f"{name}: read {heads}")


async def listing(made: Bench, name: str) -> None:
    """The same for what people ask."""
    if made.store._lister._db is not None:
        made.store._lister.drop()
    wrote = await made.made(name, tag=name)
    listed = await answered(lambda: made.store.jobs(tag=name))
    if [(row.job, row.revision) for row in listed] != [(job_id(name), wrote.revision_cid)]:
        raise Violation(f"{name}: listed {listed}")


async def enlist(made: Bench, name: str) -> None:
    """A worker that was told its number has its lock, or has it again soon."""
    try:
        worker = await asyncio.to_thread(made.store.enlist)
    except Unavailable:
        worker = await _insist(partial(asyncio.to_thread, made.store.enlist))
    held = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND classid = $1::bigint::oid AND objid = $2::bigint::oid AND objsubid = 2"
    )
    with anyio.move_on_after(SOON):
        while not await admin(made.wire.behind, held, values=[WORKERS, worker]):
            await anyio.sleep(0.01)
        await asyncio.to_thread(made.store.retire, worker)
        return
    raise Violation(f"{name}: worker {worker} was enlisted, and its lock is free")


async def _insist(call: Callable[[], Awaitable[int]]) -> int:
    with anyio.fail_after(SOON):
        while True:
            with suppress(Unavailable):
                return await call()
            await anyio.sleep(0.02)


async def hear(made: Bench, name: str) -> None:
    """What another store commits is heard of, whatever the keeper's session goes through."""
    for n in range(6):
        since, job = made.store.version(), f"{name} {n}"
        await made.made(job)
        with anyio.fail_after(SOON):
            while (jobs := made.store.changed(since)) is not None and job_id(job) not in jobs:
                await anyio.sleep(0.005)


ACTS: tuple[tuple[str, Act], ...] = (
    (WRITER, send_one),
    (WRITER, send_many),
    (WRITER, move),
    ("stmflow reader", read),
    ("stmflow lister", listing),
    ("stmflow keeper", enlist),
    ("stmflow keeper", hear),
)
COMBINATIONS = [
    (session, act, way, how) for session, act in ACTS for way in (UP, DOWN) for how in BREAKS[way]
]


async def break_everywhere(
    made: Bench, session: str, act: Act, way: str, how: str, chance: Random, *, mark: str = ""
) -> Counter[str]:
    """Do it again and again, the line breaking one message later each time."""
    counts: Counter[str] = Counter()
    with impatient(how):
        await _renewed(made)
        for at in steps(how, chance):
            where = Break(session, way, at, how, late_seconds=chance.random() * 0.03)
            made.wire.arm(where)
            await act(made, f"{mark} {act.__name__} {way} {how} {at}")
            made.wire.arm(None)
            await made.wire.quiet()
            if not where.fired:
                counts["untouched"] += 1
                break
            counts["cuts"] += 1
            counts[f"{session.removeprefix('stmflow ')}, {way}: {how}"] += 1
    return counts


async def _renewed(made: Bench) -> None:
    """Every session of that store is a new one."""
    keeper = made.store._keeper
    assert keeper is not None
    before = keeper._db
    await admin(made.wire.behind, RENEW)
    with anyio.fail_after(SOON):
        while keeper._db is before or keeper._db is None:
            await anyio.sleep(0.01)


# --- any session, under work ----------------------------------------------------------------------


async def under_work(server: PostgresServer, number: int, cuts: int) -> Counter[str]:
    """Rich work while sessions break, so many times."""
    chance = Random(f"breaks {number}")
    database = await server.new_database()
    counts: Counter[str] = Counter()
    async with Wire(database) as wire:
        world = World(number, lambda: PostgresStore.open(wire.url))
        async with world.run():
            with patch.object(postgres_link, "ANSWER_S", ANSWER_S):
                await admin(database, RENEW)
                for _ in range(cuts):
                    session = chance.choices(list(SESSIONS), list(SESSIONS.values()))[0]
                    way = chance.choice((UP, DOWN))
                    at, how = chance.randint(1, 40), chance.choice(BREAKS[way])
                    where = Break(session, way, at, how, late_seconds=chance.random() * 0.05)
                    wire.arm(where)
                    with anyio.move_on_after(2):
                        while not where.fired:
                            await anyio.sleep(0.002)
                    if where.fired:
                        counts["cuts"] += 1
                        counts[f"{session.removeprefix('stmflow ')}, {way}: {how}"] += 1
                    wire.arm(None)
                    await anyio.sleep(chance.random() * chance.choice((0.01, 0.2)))
    name = database.rpartition("/")[2]
    await admin(server.url(), f"DROP DATABASE {name} WITH (FORCE)")
    return counts + world.counts


# --- the part -------------------------------------------------------------------------------------

CUTS = 12
"""Breaks of one slice under work."""
ANSWER_S = 1.0
"""Seconds after which a silent line counts as lost under work."""


def step(server: PostgresServer, number: int) -> Mapping[str, int]:
    """Every other slice is under work; those between go through the combinations."""

    async def run() -> Counter[str]:
        with patch.object(postgres_link, "POLL_S", 0.05):
            half, odd = divmod(number, 2)
            if not odd:
                return await under_work(server, number, CUTS)
            around, place = divmod(half, len(COMBINATIONS))
            order = list(range(len(COMBINATIONS)))
            Random(f"order {around}").shuffle(order)
            session, act, way, how = COMBINATIONS[order[place]]
            async with bench(server) as made:
                with patch.object(postgres, "_neighbours", {}):  # as in two processes
                    chance = Random(f"settled {number}")
                    return await break_everywhere(made, session, act, way, how, chance)

    return asyncio.run(run())


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    with PostgresServer() as server:
        yield partial(step, server)


PARTS = (
    Part("cuts under an engine, PostgreSQL", "P1 P2 P3 P4 P5 P6 P8 P9 P14", "cuts", 60, _open),
)

__all__ = ["ACTS", "COMBINATIONS", "PARTS", "break_everywhere", "step", "under_work"]
