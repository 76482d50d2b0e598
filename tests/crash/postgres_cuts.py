"""The line to PostgreSQL is cut at each message of a commit, of every member a store knows.

A shape prepares one batch and says how to see, by another line, whether it has happened. It is
committed again and again, each time on new jobs, and each time the line breaks one message later,
until the batch is through untouched. What the store says must be so: *done* has happened,
*unavailable* has not, *indeterminate* either; the same batch is then committed again, and has
happened once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

import anyio

from stmflow.cid import CID
from stmflow.errors import Archived, Indeterminate, Unavailable
from stmflow.store import (
    Batch,
    Beat,
    Claim,
    Claimed,
    Commit,
    Defer,
    Disown,
    Done,
    Drop,
    Finished,
    Member,
    Packed,
    Park,
    Reap,
    Redrive,
    Revive,
    Sweep,
    Want,
    Watch,
    postgres_link,
)
from stmflow.store.postgres import PostgresStore
from stmflow.testing import builders as make
from stmflow.testing.builders import WORKFLOW, commit, head_of, job_id
from tests.campaign.part import Part, Step, Violation
from tests.crash.postgres_wire import BREAKS, DOWN, HOOK, HOOK_AFTER, UP, Break, Wire
from tests.pgservers import PostgresServer, admin

WRITER = "stmflow writer"
T = TypeVar("T")

ANSWER_S = 0.3
"""Seconds after which a silent line counts as lost where it is the line that breaks so."""
MOST = 400
"""Messages of one batch at most; more, and the harness counts what it should not."""
FAR = 2**62

ENDINGS = {
    "terminated": (HOOK, "SELECT pg_terminate_backend($1)"),
    "terminated after": (HOOK_AFTER, "SELECT pg_terminate_backend($1)"),
    "cancelled": (HOOK_AFTER, "SELECT pg_cancel_backend($1)"),
}
"""What an operator may do to a session, before or after the server gets a message."""

Look = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch, and how to see whether it has happened: each of `looks` says the same."""

    members: Sequence[Member]
    looks: Sequence[Look]


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of batch.

    Attributes:
        once: a second time the store must refuse it. told: others are told of its commit. cold:
            the session is new, so that its opening is cut as well.
    """

    name: str
    prepare: Callable[[Bench, str], Awaitable[Ready]]
    once: bool = True
    told: bool = True
    cold: bool = False


class Bench:
    """A database with a store on a line that breaks, and one on a line that does not."""

    def __init__(self, wire: Wire, store: PostgresStore, sound: PostgresStore) -> None:
        self.wire = wire
        self.store = store
        self.sound = sound

    async def did(self, member: Member) -> Any:
        """Commit what cannot fail, on the sound line."""
        (result,) = await self.sound.commit(Batch([member]))
        assert isinstance(result, Done), result
        return result.value

    async def made(self, *names: str, **given: Any) -> Commit:
        """New jobs, in one commit."""
        made = commit(dict.fromkeys(names), **given)
        await self.did(made)
        return made

    async def held(self, name: str, worker: int = 1) -> tuple[Commit, Claimed]:
        """A job with a task, and that task, claimed by a worker."""
        made = await self.made(name, tasks=[make.task(name, 0, tag=name)])
        (claimed,) = await self.did(Claim(worker, [Want(WORKFLOW, 1, name, 1)], 0))
        return made, claimed

    async def at(self, name: str, seq: int) -> bool:
        """Whether that job has got that far."""
        found = (await self.sound.heads([job_id(name)]))[job_id(name)]
        return found is not None and found.seq == seq

    async def row(self, id: CID, says: Callable[[Any], bool]) -> bool:
        """Whether the row of that task is there and as it should be."""
        row = await self.sound.task(id)
        return row is not None and says(row)

    async def gone(self, id: CID) -> bool:
        """Whether the row of that task is gone."""
        return await self.sound.task(id) is None


# --- shapes ---------------------------------------------------------------------------------------


async def _one(bench: Bench, name: str) -> Ready:
    made = await bench.made(name)
    return Ready([commit({name: head_of(made, name)})], [partial(bench.at, name, 2)])


async def _born(bench: Bench, name: str) -> Ready:
    given = make.delivery(name, until=FAR)
    return Ready([commit({name: None}, delivery=given)], [partial(bench.at, name, 1)])


async def _many(bench: Bench, name: str) -> Ready:
    names = [f"{name} {n}" for n in range(6)]
    made = await bench.made(*names[:3])
    members = [commit({one: head_of(made, one)}) for one in names[:3]]
    members += [commit({one: None}) for one in names[3:]]
    looks = [partial(bench.at, one, 1 + (at < 3)) for at, one in enumerate(names)]
    return Ready(members, looks)


async def _two_jobs(bench: Bench, name: str) -> Ready:
    left, right, other, new = (f"{name} {n}" for n in range(4))
    made = await bench.made(left, right, other)
    both = commit(
        {left: head_of(made, left), right: head_of(made, right), new: None},
        reads=[(job_id(other), made.revision_cid)],
        timers=[make.timer(left, 1, due=FAR, seq=2)],
    )
    looks = [partial(bench.at, left, 2), partial(bench.at, right, 2), partial(bench.at, new, 1)]
    return Ready([both], looks)


async def _claim(bench: Bench, name: str) -> Ready:
    made = make.task(name, 0, tag=name)
    await bench.made(name, tasks=[made])
    worker = bench.sound.enlist()
    member = Claim(worker, [Want(WORKFLOW, 1, name, 1)], 0)
    return Ready([member], [partial(bench.row, made.id, lambda row: row.worker == worker)])


async def _settle(bench: Bench, name: str) -> Ready:
    made, held = await bench.held(name)
    after = [make.task(name, 1, seq=2, tag=name)]
    member = commit({name: head_of(made, name)}, settles=held.ref, tasks=after)
    looks = [
        partial(bench.at, name, 2),
        partial(bench.gone, held.ref.id),
        partial(bench.row, after[0].id, lambda row: row.worker is None),
    ]
    return Ready([member], looks)


async def _fire(bench: Bench, name: str) -> Ready:
    timer = make.timer(name, 0, due=5)
    made = await bench.made(name, timers=[timer])
    member = commit({name: head_of(made, name)}, fires=timer)
    return Ready([member], [partial(bench.at, name, 2), partial(bench.gone, timer.id)])


async def _defer(bench: Bench, name: str) -> Ready:
    _, held = await bench.held(name)
    look = partial(bench.row, held.ref.id, lambda row: row.worker is None and row.due == 77)
    return Ready([Defer(held.ref, 77)], [look])


async def _park(bench: Bench, name: str) -> Ready:
    made, held = await bench.held(name)
    member = Park(held.ref, b"\xf6", reads=[(job_id(name), made.revision_cid)])
    return Ready([member], [partial(bench.row, held.ref.id, lambda row: row.parked)])


async def _redrive(bench: Bench, name: str) -> Ready:
    _, held = await bench.held(name)
    await bench.did(Park(held.ref, b"\xf6"))
    member = Redrive(held.ref.job, held.ref.n, held.ref.id, 99)
    return Ready([member], [partial(bench.row, held.ref.id, lambda row: not row.parked)])


async def _watch(bench: Bench, name: str) -> Ready:
    _, held = await bench.held(name)
    other = await bench.made(f"{name} other")
    member = Watch(held.ref, [(job_id(f"{name} other"), other.revision_cid)], FAR)
    look = partial(bench.row, held.ref.id, lambda row: row.worker is None and row.due == FAR)
    return Ready([member], [look])


async def _wake(bench: Bench, name: str) -> Ready:
    """The commit that moves what a task watches makes it due."""
    _, held = await bench.held(name)
    other = await bench.made(f"{name} other")
    watch = Watch(held.ref, [(job_id(f"{name} other"), other.revision_cid)], FAR)
    await bench.did(watch)
    member = commit({f"{name} other": head_of(other, f"{name} other")})
    due = partial(bench.row, held.ref.id, lambda row: row.due == held.at)
    return Ready([member], [partial(bench.at, f"{name} other", 2), due])


async def _beat(bench: Bench, name: str) -> Ready:
    worker = bench.sound.enlist()

    async def look() -> bool:
        return worker in [row.worker for row in await bench.sound.workers()]

    return Ready([Beat(worker, FAR)], [look])


async def _reap(bench: Bench, name: str) -> Ready:
    _, held = await bench.held(name, worker=4_711)
    return Ready([Reap(10)], [partial(bench.row, held.ref.id, lambda row: row.worker is None)])


async def _disown(bench: Bench, name: str) -> Ready:
    _, held = await bench.held(name, worker := bench.sound.enlist())
    member = Disown(worker, [])
    return Ready([member], [partial(bench.row, held.ref.id, lambda row: row.worker is None)])


async def _sweep(bench: Bench, name: str) -> Ready:
    given = make.delivery(name, until=1)
    await bench.made(name, delivery=given)

    async def look() -> bool:
        return await bench.sound.delivery(given.job, given.id) is None

    return Ready([Sweep(2, 1_000)], [look])


async def _drop(bench: Bench, name: str) -> Ready:
    _, drop = await _leaves(bench, name)
    return Ready([drop], [partial(_is_away, bench, name)])


async def _revive(bench: Bench, name: str) -> Ready:
    packed, drop = await _leaves(bench, name)
    await bench.did(drop)

    async def look() -> bool:
        return not await _is_away(bench, name)

    return Ready([Revive(job_id(name), packed)], [look])


async def _leaves(bench: Bench, name: str) -> tuple[Packed, Drop]:
    """A job that may leave, as an archive keeps it, and the member by which it leaves."""
    made = await bench.made(name, tag="Over")
    await bench.made(f"{name} next")  # the newest of the log stays
    assert made.revision is not None
    assert made.revision_cid is not None
    packed = Packed(
        made.revision_cid, made.revision, [*made.blocks, *(w.head.state for w in made.writes)]
    )
    logged = [each for each in await bench.sound.log(limit=100_000) if each.packed.cid == packed[0]]
    over = Finished(WORKFLOW, ("Over",), 1_000)
    return packed, Drop([(logged[0].place, packed.cid)], CID.of(b"archive"), [over])


async def _is_away(bench: Bench, name: str) -> bool:
    try:
        return (await bench.sound.heads([job_id(name)]))[job_id(name)] is None
    except Archived:
        return True


SHAPES = (
    Shape("one job", _one),
    Shape("new job", _born),
    Shape("many members", _many),
    Shape("three jobs and a read", _two_jobs),
    Shape("claim", _claim, once=False),
    Shape("settle", _settle),
    Shape("fire", _fire),
    Shape("defer", _defer),
    Shape("park", _park),
    Shape("redrive", _redrive),
    Shape("watch", _watch),
    Shape("wake", _wake),
    Shape("beat", _beat, once=False, told=False),
    Shape("reap", _reap, once=False),
    Shape("disown", _disown, once=False),
    Shape("sweep", _sweep, once=False, told=False),
    Shape("drop", _drop, once=False),
    Shape("revive", _revive),
    Shape("one job, new session", _one, cold=True),
)

# --- cutting --------------------------------------------------------------------------------------


async def cut_everywhere(
    bench: Bench, shape: Shape, way: str, how: str, chance: Random, *, mark: str = ""
) -> Counter[str]:
    """Break the line at message 1, 2, 3 … of that shape's batch, until it is through untouched.

    Raises:
        Violation: the store said what is not so, or the batch happened by half, twice, or never.
    """
    counts: Counter[str] = Counter()
    for at in steps(how, chance):
        name = f"{mark} {shape.name} {way} {how} {at}"
        cut = break_at(bench.wire.behind, way, at, how, chance)
        await _cut(bench, shape, cut, name, counts)
        if not cut.fired:
            counts["untouched"] += 1
            return counts
        counts["cuts"] += 1
        counts[f"{way}: {how}"] += 1
    raise Violation(f"{shape.name} takes more than {MOST} messages {way}")


@contextmanager
def impatient(how: str) -> Iterator[None]:
    """Sessions that are opened inside count a silent line as lost soon, if the line stalls."""
    if how != "stall":
        yield
        return
    with (
        patch.object(postgres_link, "ANSWER_S", ANSWER_S),
        patch.object(postgres_link, "CONNECT_S", 4 * ANSWER_S),
    ):
        yield


def break_at(url: str, way: str, at: int, how: str, chance: Random) -> Break:
    """The line, or what the server does with the session, breaks there."""
    if how in ENDINGS:
        when, sql = ENDINGS[how]
        hook = partial(_end, url, sql, chance.random() * 0.002 if when == HOOK_AFTER else 0)
        return Break(WRITER, way, at, when, hook=hook)
    return Break(WRITER, way, at, how, late_seconds=chance.random() * 0.03)


async def _end(url: str, sql: str, delay_seconds: float, pid: int) -> None:
    await asyncio.sleep(delay_seconds)
    await admin(url, sql, values=[pid])


def steps(how: str, chance: Random) -> range:
    """The messages to break at, one after the other; every sixth, from one that is drawn, where
    each costs the time after which a line counts as lost."""
    return range(1 + chance.randrange(6), MOST, 6) if how == "stall" else range(1, MOST)


async def answered(ask: Callable[[], Awaitable[T]]) -> T:
    """What comes of it. Where a line counts as stalled soon, a busy machine may be as slow as one:
    then it is asked again."""
    with anyio.fail_after(20):
        while True:
            try:
                return await ask()
            except Unavailable as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise


async def _opened(store: PostgresStore) -> None:
    """The writer's session is there."""
    async with store._writer.use():
        pass


async def _cut(bench: Bench, shape: Shape, cut: Break, name: str, counts: Counter[str]) -> None:
    ready = await shape.prepare(bench, name)
    wire, store = bench.wire, bench.store
    batch, before = Batch(ready.members), wire.commits
    with impatient(cut.how):
        if cut.how == "stall" or shape.cold:
            store._writer.drop()
        if not shape.cold:
            await answered(partial(_opened, store))
        wire.arm(cut)
        told = await _told(store, batch)
        wire.arm(None)
    while cut.fired and cut.hook is not None and not cut.over:
        await asyncio.sleep(0.001)
    if cut.how == "stall" or cut.hook is not None:
        store._writer.drop()
    if not (cut.how == "late" and isinstance(told, Indeterminate)):
        await wire.quiet()
        happened = await _happened(ready, name)
        _compare(shape, told, happened, wire.commits - before, name)
        counts[_word(told, happened)] += 1
    again = await _told(store, batch)
    await wire.quiet()
    if not await _happened(ready, name):
        raise Violation(f"{name}: told {told!r}, then {again!r}, and it has not happened")
    if isinstance(again, Exception):
        raise Violation(f"{name}: the line is whole, and the store raised {again!r}")
    refused = [not isinstance(result, Done) for result in again]
    if cut.how == "late" and isinstance(told, Indeterminate):
        happened = shape.once and all(refused)
        counts[_word(told, happened)] += 1
    if shape.once and set(refused) != {happened}:
        raise Violation(f"{name}: told {told!r}, happened {happened}, and then {again!r}")


async def _told(store: PostgresStore, batch: Batch) -> Any:
    """The results, or the error, which is one of those that a store may raise."""
    try:
        return await store.commit(batch)
    except (Indeterminate, Unavailable) as error:
        return error


async def _happened(ready: Ready, name: str) -> bool:
    found = [await look() for look in ready.looks]
    if len(set(found)) != 1:
        raise Violation(f"{name}: happened by half: {found}")
    return found[0]


def _compare(shape: Shape, told: Any, happened: bool, commits: int, name: str) -> None:
    """What was told, what is there, and what the server said on the line."""
    if not isinstance(told, Indeterminate) and happened != (not isinstance(told, Unavailable)):
        raise Violation(f"{name}: told {told!r}, and happened is {happened}")
    if shape.told and commits != happened:
        raise Violation(f"{name}: happened is {happened}, and the server confirmed {commits}")


def _word(told: Any, happened: bool) -> str:
    if isinstance(told, Indeterminate):
        return "unknown: committed" if happened else "unknown: not committed"
    return "told: not done" if isinstance(told, Unavailable) else "told: done"


# --- the part -------------------------------------------------------------------------------------

HOWS = {UP: (*BREAKS[UP], *ENDINGS), DOWN: BREAKS[DOWN]}
COMBINATIONS = [(shape, way, how) for shape in SHAPES for way in HOWS for how in HOWS[way]]
AT_ONCE = 3
"""Combinations of one slice."""


@asynccontextmanager
async def bench(
    server: PostgresServer, kind: type[PostgresStore] = PostgresStore
) -> AsyncIterator[Bench]:
    """A new database with two stores; the first, of that kind, on a line that breaks."""
    url = await server.new_database()
    async with (
        Wire(url) as wire,
        kind.open(wire.url) as store,
        PostgresStore.open(url) as sound,
    ):
        yield Bench(wire, store, sound)
    await server.give_back(url)


def step(server: PostgresServer, number: int) -> Mapping[str, int]:
    """Some of the combinations of shape, way and break, in an order that has every one of them
    before it has one twice."""

    async def run() -> Counter[str]:
        counts: Counter[str] = Counter()
        order = list(range(len(COMBINATIONS)))
        around, place = divmod(number * AT_ONCE, len(order))
        Random(f"order {around}").shuffle(order)
        async with bench(server) as made:
            for n in order[place : place + AT_ONCE]:
                shape, way, how = COMBINATIONS[n]
                chance = Random(f"cuts {number} {n}")
                counts += await cut_everywhere(made, shape, way, how, chance, mark=str(n))
                counts["combinations"] += 1
        return counts

    return asyncio.run(run())


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    with PostgresServer() as server:
        yield partial(step, server)


PARTS = (Part("cuts, PostgreSQL", "P1 P2 P5 P14", "cuts", 300, _open),)

__all__ = ["COMBINATIONS", "PARTS", "SHAPES", "bench", "cut_everywhere", "step"]
