"""A day of a service on one SQLite file: drawn work of every kind, one step after the other.

Jobs, transactions over several of them, claims, settled, failed, deferred and parked tasks, timers,
tasks that wait for a change, history that leaves for an archive and jobs that come back, backups,
checkpoints, clean restarts. What each commit leads to is in `Day.states`, and marks in the
log say when it was on its way, acknowledged or refused; `Day.told` is what callers were answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import anyio
import apsw

from scheduler.testing import orders
from scheduler.testing.orders import (
    COUNTER,
    DEBT,
    ORDER,
    PERFORMED,
    Abort,
    Add,
    Deposit,
    Doom,
    Look,
    OpenAccount,
    Poke,
    Repay,
    Start,
    purse,
    repay,
    transfer,
)
from stmflow import Answer, Err, Transactor, codec
from stmflow.archive import Reader
from stmflow.errors import Archived, Indeterminate, StmflowError
from stmflow.registered import asked, returning
from stmflow.retention import DAY, Over, Retention
from stmflow.schema import tag_of
from stmflow.store import (
    Beat,
    Claim,
    Claimed,
    Defer,
    Park,
    Reap,
    Want,
    sqlite,
    sqlite_backup,
    sqlite_wal,
)
from stmflow.store.sqlite import SQLiteStore
from stmflow.workflow import Workflow
from stmflow.workflow import job as job_of
from tests.crash.disk import Mark, RecordingOS, recording
from tests.crash.watched import WAL_FULL, Copied, Day, HandClock, Modes, Told, WatchedStore
from tests.golden import workflow as golden

WORKFLOWS = (*orders.WORKFLOWS, *golden.WORKFLOWS)
TRANSACTIONAL = {**orders.TRANSACTIONAL, **golden.TRANSACTIONAL}

WANTS = [
    *(Want(ORDER.name, 1, tag_of(kind), 4) for kind in PERFORMED),
    Want(DEBT.name, 1, tag_of(Repay), 4),
]


@contextmanager
def _library(modes: Modes) -> Iterator[None]:
    """An old library makes the store fall back to a rollback journal."""
    version = sqlite.WAL_SAFE if modes.journal == "wal" else sqlite.WAL_SAFE - 1
    with mock.patch.object(sqlite, "_library", return_value=version):
        yield


async def live(
    day: Day,
    folder: Path,
    steps: int,
    modes: Modes = WAL_FULL,
    begun: Path | None = None,
    *,
    inline: bool = True,
) -> None:
    """Live through a day of so many steps and note it. Where the log makes trouble, errors of
    stmflow's are counted and the day goes on; any other is not for this to catch.

    Args:
        begun: a database to go on with, of whatever schema.
        inline: without a writer thread, so that the same seed does the same.
    """
    database = folder / "jobs.db"
    if begun is not None:
        database.write_bytes(begun.read_bytes())
    with (
        recording(day.log),
        mock.patch.object(sqlite_backup, "os", RecordingOS(day.log)),
        mock.patch.object(sqlite_wal, "os", RecordingOS(day.log)),
        mock.patch.object(sqlite, "BUSY_MS", 20),
        _library(modes),
    ):
        random = Random(f"day {day.seed}")
        left, tries = steps, 5
        while left > 0 and tries > 0:
            share, tries = min(left, random.randint(20, 60)), tries - day.troubled
            async with anyio.create_task_group() as group:
                if day.troubled:
                    group.start_soon(_hurry, day.clock)
                with _counting(day):
                    async with _service(day, database, modes, random, inline) as service:
                        left -= share
                        with _counting(day):
                            await service.begin()
                        for _ in range(share):
                            with _counting(day):
                                await service.step()
                group.cancel_scope.cancel()


async def _hurry(clock: HandClock) -> None:
    """Time passes while everybody waits."""
    while True:
        for _ in range(50):
            await anyio.sleep(0)
        clock.pass_time(7)


@contextmanager
def _counting(day: Day) -> Iterator[None]:
    try:
        yield
    except StmflowError as error:
        if not day.troubled:
            raise
        day.done[type(error).__name__] += 1


@asynccontextmanager
async def _service(
    day: Day, database: Path, modes: Modes, random: Random, inline: bool
) -> AsyncIterator[Service]:
    async with WatchedStore.open(database, inline=inline) as store:
        assert isinstance(store, WatchedStore)
        day.prepare(store, modes)
        async with Transactor(
            store,
            WORKFLOWS,
            transactional=TRANSACTIONAL,
            clock=day.clock,
            random=Random(f"engine {day.seed} {len(day.states)}"),
        ) as engine:
            yield Service(day, store, engine, random, database.parent)


class Service:
    """Makes one drawn step after the other."""

    def __init__(
        self,
        day: Day,
        store: SQLiteStore,
        engine: Transactor,
        random: Random,
        folder: Path,
    ) -> None:
        self.day = day
        self.store = store
        self.engine = engine
        self.random = random
        self.clock = day.clock
        self.folder = folder
        self.worker = 0
        self.held: list[Claimed] = []
        self.kinds: Sequence[tuple[Callable[[], Awaitable[Any]], int]] = (
            (self.count, 10),
            (self.start, 12),
            (self.transfer, 8),
            (self.claim, 10),
            (self.perform, 30),
            (self.owe, 3),
            (self.deposit, 4),
            (self.ask, 6),
            (self.later, 10),
            (self.together, 5),
            (self.redrive, 3),
            (self.retain, 3),
            (self.revive, 3),
            (self.checkpoint, 3),
            (self.copy, 1),
        )

    async def begin(self) -> None:
        """A worker, and what everybody needs."""
        self.worker = self.store.enlist()
        await self.engine.do(lambda: Beat(self.worker, self.clock.now() + 60_000))
        await self.engine.do(lambda: Reap(self.clock.now()))
        for name in ("a", "b"):
            await self.send(job_of("account", name), OpenAccount(name, 40), f"open {name}")
        for name in ("p0", "p1", "p2"):
            await self.send(purse(name), Deposit(name, 0, 100), f"fund {name}")

    async def step(self) -> None:
        """One drawn step."""
        self.clock.pass_time(self.random.randint(1, 500))
        kinds, weights = zip(*self.kinds, strict=True)
        (kind,) = self.random.choices(kinds, weights)
        self.day.doing = kind.__name__
        self.day.done[kind.__name__] += 1
        try:
            await kind()
        except Archived as error:
            self.day.done["archived"] += 1
            await Reader(self.store, self.day.shelf).revive(error.job)

    async def send(self, target: Any, event: Any, delivery: str) -> Answer:
        day, identity, now = self.day, delivery.encode(), self.clock.now()
        try:
            answer = await self.engine.send(target, event, delivery=delivery)
        except StmflowError as error:
            job = target.job_of(event) if isinstance(target, Workflow) else target
            if isinstance(error, Indeterminate):
                day.doubted.add(identity)
            elif not any(told.delivery == identity for told in day.told):
                day.denied[identity] = job.id
            raise
        day.denied.pop(identity, None)
        if answer.job is not None and answer.kind != "rejected":
            day.told.append(Told(answer.job, identity, answer, now + DAY))
        return answer

    def name(self) -> str:
        return f"{self.day.seed}-{len(self.day.states)}-{self.random.randrange(2**32)}"

    def op(self) -> int:
        return self.random.randrange(2**40)

    def order(self) -> str:
        return f"o{self.random.randrange(8)}"

    async def count(self) -> None:
        name = f"c{self.random.randrange(3)}"
        await self.send(COUNTER, Add(name, self.op(), 1), self.name())

    async def start(self) -> None:
        start = Start(self.order(), self.random.choice("ab"), self.random.randint(1, 10))
        await self.send(ORDER, start, self.name())

    async def ask(self) -> None:
        event = self.random.choice((Poke(self.order()), Abort(self.order())))
        await self.send(ORDER, event, self.name())

    async def deposit(self) -> None:
        name = self.random.choice(("p0", "p1", "debtor"))
        await self.send(purse(name), Deposit(name, self.op(), 5), self.name())

    async def transfer(self) -> None:
        source, target = self.random.sample(("p0", "p1", "p2"), 2)
        body = transfer(source, target, self.op(), self.random.randint(1, 30))
        await self.engine.transact(body, at=purse(source), delivery=self.name())

    async def owe(self) -> None:
        debt = Repay("debtor", "p2", self.op(), self.random.randint(1, 20))
        await self.send(DEBT, asked(self.name(), debt), self.name())

    async def together(self) -> None:
        """Several at once: one batch, one commit."""
        async with anyio.create_task_group() as group:
            for kind in (self.count, self.count, self.start, self.transfer, self.deposit):
                group.start_soon(self._quiet, kind)

    async def _quiet(self, kind: Callable[[], Awaitable[Any]]) -> None:
        try:
            await kind()
        except Archived:
            self.day.done["archived"] += 1
        except StmflowError as error:
            if not self.day.troubled:
                raise
            self.day.done[type(error).__name__] += 1

    async def later(self) -> None:
        """Time passes, and what is due fires."""
        self.clock.pass_time(self.random.choice((500, 4_000, 9_000)))
        await self.engine.do(lambda: Beat(self.worker, self.clock.now() + 60_000))
        for timer in await self.store.timers(self.clock.now(), 4):
            await self.engine.fire(timer)
            self.day.done["fired"] += 1

    async def claim(self) -> None:
        youngest = self.random.random() < 0.2
        claimed = await self.engine.do(
            lambda: Claim(self.worker, WANTS, self.clock.now(), youngest=youngest)
        )
        self.held += claimed
        self.day.done["claimed"] += len(claimed)

    async def perform(self) -> None:
        if not self.held:
            return await self.claim()
        claimed = self.held.pop(self.random.randrange(len(self.held)))
        if claimed.tag == tag_of(Repay):
            return await self._repay(claimed)
        fate = self.random.random()
        if claimed.tag == tag_of(Doom) or fate < 0.1:
            await self.engine.settle(claimed.ref, Err("Broken", None))
            self.day.done["failed"] += 1
        elif fate < 0.2:
            due = self.clock.now() + 1_000
            await self.engine.do(lambda: Defer(claimed.ref, due, b"\x61x"))
            self.day.done["deferred"] += 1
        elif fate < 0.25:
            await self.engine.do(lambda: Park(claimed.ref, codec.encode(["Lost", None])))
            self.day.done["parked"] += 1
        else:
            plain: Any = codec.decode(claimed.block)
            part = 1 if claimed.tag == tag_of(Look) else 0
            await self.engine.settle(claimed.ref, plain["f"]["epoch"] * 10 + part)
            self.day.done["settled"] += 1
        return None

    async def _repay(self, claimed: Claimed) -> None:
        task = DEBT.task_of(codec.decode(claimed.block))
        answered: list[Any] = []
        event = anyio.Event()

        def tell(what: Any) -> None:
            answered.append(what)
            event.set()

        until = self.clock.now() + 30_000
        self.engine.running(claimed.ref, task, returning(repay), until, tell, tell)
        await event.wait()
        self.day.done["repaid"] += 1

    async def redrive(self) -> None:
        parked = await self.store.tasks(parked=True)
        if parked:
            row = self.random.choice(parked)
            if self.random.random() < 0.5:
                await self.engine.redrive(row.id)
            else:
                await self.engine.dismiss(row.id)

    async def retain(self) -> None:
        """History leaves, and whole jobs with it."""
        self.clock.pass_time(self.random.choice((0, 2 * DAY, 2 * DAY)))
        over = [
            Over("order", ("refused", "broken", "expired", "aborted", "done"), DAY),
            Over("counter", ("Counter",), DAY),
        ]
        retention = Retention(
            self.store,
            self.day.shelf,
            keep_ms=DAY,
            finished=over,
            clock=self.clock,
            segment_bytes=16_000,
        )
        totals = await retention.run()
        self.day.done["dropped"] += totals.dropped
        self.day.done["left"] += totals.jobs
        self.engine._committer.forget()

    async def revive(self) -> None:
        for row in await self.store.jobs():
            try:
                await self.store.heads([row.job])
            except Archived as error:
                await Reader(self.store, self.day.shelf).revive(error.job)
                self.day.done["revived"] += 1
                return

    async def checkpoint(self) -> None:
        kind = self.random.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE"))
        try:
            self.store._writer.execute("PRAGMA wal_checkpoint(" + kind + ")").fetchall()
        except apsw.Error as error:
            if not self.day.troubled:
                raise
            self.day.done[f"checkpoint: {type(error).__name__}"] += 1

    async def copy(self) -> None:
        if self.day.alone:
            return
        name = f"copy-{len(self.day.log.entries)}.db"
        try:
            await self.store.backup(self.folder / name)
        except SystemError:  # apsw, where a VFS written in Python raises while a backup is closed
            if not self.day.troubled:
                raise
            self.day.done["copy: no answer of the driver"] += 1
            return
        self.day.log.add(Mark(Copied(name, self.day.note(self.store))))
