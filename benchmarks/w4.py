"""W4: SIGKILL with 1,000 jobs in flight: how long until all are finished, what was lost or twice.

The first process starts 1,000 W1 jobs whose handlers take 50 to 200 ms; it lets the first of them
begin only when every job has been acknowledged. It is killed a moment later, in the middle of all
three steps. The next process runs the handlers of W1, which return at once: what is measured is the
engine. Every handler, when its work is done, appends its task's id to one file by one write.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import apsw

from benchmarks.child import measure, scratch, start
from benchmarks.load import middle
from benchmarks.w1 import add
from benchmarks.workloads import HANDLERS, Upload, short_add
from scheduler import Context, Limits, Scheduler
from stmflow import CID, Transactor, codec
from stmflow.store.sqlite import SQLiteStore

JOBS = 1_000
CLIENTS = 64
STEPS = 3
TAKES_MS = (50, 200)
KILL_AFTER_MS = 120
"""After the gate: by then tasks of every step are running, and no job has come to its end."""
PATIENCE_SECONDS = 120


async def flood(folder: Path) -> None:
    """The process that is killed: says "ready" when every job is acknowledged, then goes on."""
    gate = anyio.Event()
    random = Random(4)
    with _log(folder) as write:

        def slow(perform: Any) -> Any:
            async def handler(task: Any, context: Context) -> Any:
                await gate.wait()
                write("begun", context.key)
                await anyio.sleep(random.uniform(*TAKES_MS) / 1_000)
                write("done", context.key)
                return await perform(task, context)

            return handler

        async with (
            SQLiteStore.open(folder / "jobs.db") as store,
            Transactor(store, [short_add]) as transactor,
            Scheduler(
                transactor,
                {task: slow(perform) for task, perform in HANDLERS.items()},
                limits=Limits(slots=2 * JOBS),
            ),
        ):
            numbers = iter(range(JOBS))

            async def client() -> None:
                for number in numbers:
                    answer = await transactor.send(short_add, add(number))
                    assert answer.committed

            async with anyio.create_task_group() as group:
                for _ in range(CLIENTS):
                    group.start_soon(client)
            gate.set()
            print("ready", flush=True)
            await anyio.sleep(PATIENCE_SECONDS)


async def recover(folder: Path) -> dict[str, Any]:
    """The next process: from the opened store until all jobs are finished, then what went wrong."""
    before = _finished(folder)
    with _log(folder) as write:

        def quick(perform: Any) -> Any:
            async def handler(task: Any, context: Context) -> Any:
                write("begun", context.key)
                write("done", context.key)
                return await perform(task, context)

            return handler

        async with SQLiteStore.open(folder / "jobs.db") as store:
            opened = time.perf_counter()
            async with (
                Transactor(store, [short_add]) as transactor,
                Scheduler(
                    transactor,
                    {task: quick(perform) for task, perform in HANDLERS.items()},
                    limits=Limits(slots=256),
                ),
            ):
                with anyio.move_on_after(PATIENCE_SECONDS):
                    while _finished(folder) < JOBS:
                        await anyio.sleep(0.01)
                recovered = time.perf_counter() - opened
                missing, steps = await _audit(transactor)
    begun, done = _read_log(folder)
    return {
        "recover_s": recovered,
        "in_flight": JOBS - before,
        "lost": missing + sum(done[step] == 0 for step in steps),
        "repeated": sum(times > 1 for times in done.values()),
        "begun_again": sum(times > 1 for times in begun.values()),
    }


async def _audit(transactor: Transactor) -> tuple[int, list[CID]]:
    """Jobs that were acknowledged and are not finished; the tasks that the finished ones name."""
    missing = 0
    steps: list[CID] = []
    for number in range(JOBS):
        job = short_add.job_of(add(number))
        head = await transactor.get(job)
        if head is None or not isinstance(head.state, Upload) or head.state.status != "receiving":
            missing += 1
            continue
        named = []
        for packed in await transactor.store.revisions(job.id):
            revision = codec.decode(packed.revision)
            if revision["writes"][0]["receipts"]:
                named.append(CID.parse(revision["delivery"][1]))
        assert len(named) == STEPS, f"job {number} has {len(named)} receipts"
        steps += named
    return missing, steps


def _finished(folder: Path) -> int:
    """How many jobs the database shows at their end: one cheap look, outside the engine."""
    reader = apsw.Connection(str(folder / "jobs.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        sql = "SELECT count(*) FROM job WHERE tag = 'receiving'"
        found: list[Any] = reader.execute(sql).fetchall()
    finally:
        reader.close()
    return int(found[0][0])


@contextmanager
def _log(folder: Path) -> Iterator[Callable[[str, CID], None]]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    file = os.open(folder / "performed.log", flags, 0o600)

    def write(what: str, task: CID) -> None:
        os.write(file, f"{what} {task}\n".encode())

    try:
        yield write
    finally:
        os.close(file)


def _read_log(folder: Path) -> tuple[Counter[CID], Counter[CID]]:
    begun: Counter[CID] = Counter()
    done: Counter[CID] = Counter()
    for line in (folder / "performed.log").read_text().splitlines():
        what, task = line.split()
        (begun if what == "begun" else done)[CID.parse(task)] += 1
    return begun, done


def _once() -> dict[str, Any]:
    with scratch() as folder:
        with start("w4:flood", folder) as child:
            assert child.stdout is not None
            try:
                assert child.stdout.readline() == "ready\n"
                time.sleep(KILL_AFTER_MS / 1_000)
            finally:
                os.kill(child.pid, signal.SIGKILL)
        return measure("w4:recover", inside=folder)


def report(*, rounds: int) -> dict[str, Any]:
    """As often as there are rounds: the median time, and the worst of the counts."""
    found = [_once() for _ in range(rounds)]
    return {
        "recover_s": middle(found, "recover_s"),
        "lost": max(one["lost"] for one in found),
        "repeated": max(one["repeated"] for one in found),
        "begun_again": max(one["begun_again"] for one in found),
        "in_flight": min(one["in_flight"] for one in found),
    }
