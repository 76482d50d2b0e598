"""The floor of W1: its very rows, written without an engine.

One W1 job is run and its rows are read back from the database. Then the same statements write rows
of the same byte lengths, under the same pragmas, from one writer thread that takes all that waits,
syncs once and tells the loop once for each batch. A job's next step is asked for only after its
previous commit is acknowledged. There is no reducer, no codec, no hash, no lease, no cache of heads
and no check: what W1 costs beyond this is the engine's.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import apsw

from benchmarks.load import drive
from benchmarks.workloads import HANDLERS, short_add
from scheduler import Context, Limits, Scheduler
from stmflow import Transactor
from stmflow.limits import LIMITS
from stmflow.store import sqlite_batch as engine  # its statements: the floor runs these, not copies
from stmflow.store.packing import pack_rows
from stmflow.store.rows import PLACES
from stmflow.store.sqlite import SQLiteStore

Row = tuple[Any, ...]


@dataclass(slots=True)
class Sample:
    """The rows of one real W1 job: what each of its commits left behind."""

    revisions: list[Row] = field(default_factory=list)
    """One for each commit, in order."""
    jobs: list[Row] = field(default_factory=list)
    """The job's row after each commit."""
    tasks: list[Row] = field(default_factory=list)
    """The one outbox row after each commit but the last."""

    @property
    def steps(self) -> int:
        """How many commits a job takes."""
        return len(self.revisions)

    @property
    def blocks(self) -> int:
        """How many blocks a job leaves."""
        return sum(len(row[1]) for row in self.revisions) // 8

    def sizes(self) -> dict[str, list[int]]:
        """The bytes of text and blobs in each row."""
        return {
            "revision": list(map(_bytes, self.revisions)),
            "job": list(map(_bytes, self.jobs)),
            "task": list(map(_bytes, self.tasks)),
        }


def _bytes(row: Row) -> int:
    return sum(len(value) for value in row if isinstance(value, (bytes, str)))


async def sample(path: Path) -> Sample:
    """Run one W1 job in a new database and read its rows while it goes on."""
    from benchmarks.w1 import add, ended

    found = Sample()

    def rows(sql: str) -> list[Row]:
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return list(reader.execute(sql))
        finally:
            reader.close()

    def watched(perform: Any) -> Any:
        async def handler(task: Any, context: Context) -> Any:
            found.jobs += rows("SELECT * FROM job")
            found.tasks += rows("SELECT * FROM task")
            return await perform(task, context)

        return handler

    async with (
        SQLiteStore.open(path) as store,
        Transactor(store, [short_add]) as transactor,
        Scheduler(transactor, {t: watched(h) for t, h in HANDLERS.items()}, limits=Limits(slots=1)),
    ):
        answer = await transactor.send(short_add, add(123_456))
        assert answer.job is not None
        await transactor.wait(answer.job, ended)
    found.jobs += rows("SELECT * FROM job")
    found.revisions = rows("SELECT * FROM revision ORDER BY row")
    assert len(found.revisions) == len(found.jobs) == len(found.tasks) + 1 == 4, found.sizes()
    return found


@dataclass(slots=True)
class Slot:
    """One job on its way."""

    row: int
    hash: int
    head: int = 0
    step: int = 0


class Writer:
    """Writes steps of jobs: one thread, one transaction for all that waits."""

    def __init__(self, connection: apsw.Connection, sample: Sample) -> None:
        self._db = connection
        self._sample = sample
        self._revision = 0
        self._queue: queue.SimpleQueue[tuple[Slot, asyncio.Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="floor-writer", daemon=True)
        self.batches = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    async def write(self, slot: Slot) -> None:
        """The slot's next step, durable."""
        future = self._loop.create_future()
        self._queue.put((slot, future))
        await future

    def _serve(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < LIMITS.batch_transactions:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                assert more is not None, "left before every step was acknowledged"
                batch.append(more)
            self._db.execute("BEGIN IMMEDIATE")
            self.apply([slot for slot, _ in batch])
            self._db.execute("COMMIT")
            self.batches += 1
            self._loop.call_soon_threadsafe(_acknowledge, batch)

    def apply(self, slots: Sequence[Slot]) -> None:
        """The rows of one step of each of these jobs, in the engine's order of statements."""
        revisions, jobs, gone, tasks = [], [], [], []
        for slot in slots:
            self._revision += 1
            step, slot.step = slot.step, slot.step + 1
            _, digests, _, opens, data = self._sample.revisions[step]
            revisions.append((self._revision, digests, pack_rows([slot.head]), opens, data))
            slot.head = self._revision
            job = self._sample.jobs[step]
            jobs.append((slot.row, slot.hash, *job[2:7], slot.head, *job[8:]))
            place = slot.row * PLACES
            if step:
                gone.append((place + step - 1,))
            if step < len(self._sample.tasks):
                tasks.append((place + step, *self._sample.tasks[step][1:]))
        engine._REVISIONS.run(self._db, revisions)
        engine._JOBS.run(self._db, jobs)
        engine._DELETE_TASKS.run(self._db, gone)
        engine._TASKS.run(self._db, tasks)


def _acknowledge(batch: list[tuple[Slot, asyncio.Future[None]]]) -> None:
    for _, future in batch:
        future.set_result(None)


def slots() -> Iterator[Slot]:
    """Jobs under hashes that are as random as the engine's."""
    random = Random(0)
    row = 0
    while True:
        row += 1
        yield Slot(row, random.getrandbits(64) - 2**63)


async def bare(folder: Path, *, concurrency: int, seconds: float) -> dict[str, Any]:
    """The floor: from the first step until the last one is acknowledged."""
    rows = await sample(folder / "sample.db")
    fresh = slots()
    async with SQLiteStore.open(folder / "floor.db") as store:
        with Writer(store._writer, rows) as writer:  # opened by the store: the same pragmas

            async def job(_: int, __: int) -> None:
                slot = next(fresh)
                for _step in range(rows.steps):
                    await writer.write(slot)

            found = await drive(job, clients=concurrency, seconds=seconds)
        per_batch = rows.steps * found["done"] / writer.batches
        return {**found, "commits_per_batch": per_batch, "sizes": rows.sizes()}


async def fill(folder: Path, *, jobs: int) -> dict[str, Any]:
    """A database that looks as if this many W1 jobs had been finished in it.

    The rows have the lengths and the keys of real ones, the CID index is sealed as the engine seals
    it; the blocks are copies of one job's, so `verify` would object.
    """
    rows = await sample(folder / "sample.db")
    path = folder / "jobs.db"
    fresh = slots()
    async with SQLiteStore.open(path) as store:
        db = store._writer
        writer = Writer(db, rows)
        left = jobs
        while left:
            some = [next(fresh) for _ in range(min(left, 5_000))]
            db.execute("BEGIN IMMEDIATE")
            for _ in range(rows.steps):
                writer.apply(some)
            seal(db)
            db.execute("COMMIT")
            left -= len(some)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return {"jobs": jobs, "database_mib": path.stat().st_size / 2**20}


def seal(db: apsw.Connection) -> None:
    """One row of the CID index for what this transaction has appended."""
    random = Random(1)
    first, last, blocks = next(
        db.execute(
            "SELECT min(row), max(row), sum(length(digests)) / 8 FROM revision"
            " WHERE row > (SELECT coalesce(max(last), 0) FROM segment)"
        )
    )
    entries = sorted((random.randbytes(8), number) for number in range(blocks))
    db.execute(
        "INSERT INTO segment (first, last, digests, offsets) VALUES (?, ?, ?, ?)",
        (
            first,
            last,
            b"".join([digest for digest, _ in entries]),
            b"".join([(n * (last - first) // blocks).to_bytes(4, "big") for _, n in entries]),
        ),
    )
