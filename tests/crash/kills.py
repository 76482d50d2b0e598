"""kill -9 of processes that write to one SQLite file, at random moments and at named points.

    python -m tests.campaign --only "kills" --first 17 --slices 1

A worker lives through a day of a service (`tests.crash.service`) and says through a pipe what it is
about to commit, and what has been acknowledged. Once it is killed, the file must hold what was
acknowledged last, or the one commit on its way; the next worker goes on with the same file. Every
few slices two workers count on one file while the command line reads it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from click.testing import CliRunner

from scheduler.handlers.archive import FolderShelf
from scheduler.testing.orders import COUNTER, Add
from stmflow import Transactor
from stmflow.cli import cli
from stmflow.store.sqlite import SQLiteStore
from tests.campaign.part import Part, Step, Violation
from tests.crash.power_loss import DATABASE, GOLDEN, SHM, Knowledge, look_closely
from tests.crash.service import live
from tests.crash.watched import Acknowledged, Day, Flying, State, held

KILLS = 8
STEPS = 40
CLOSELY = 4
POINTS: Mapping[str, tuple[int, int]] = {
    "a random moment": (1, 60),
    "before a commit": (1, 40),
    "after a commit": (1, 40),
    "a write to the WAL": (1, 150),
    "between the WAL's writes and their sync": (1, 40),
    "a write of a checkpoint": (1, 60),
    "the sync of a checkpoint": (1, 4),
    "the raising of a schema": (1, 8),
    "a write to a backup": (1, 30),
    "a commit that drops history": (1, 4),
}
"""Where a worker kills itself, and how often it may pass there before; the first is for its parent:
so many milliseconds after it has opened the file."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])  # a worker is forked from a process that has it all


@dataclass(slots=True)
class Doomed(Day):
    """A day that ends at a named point; what happens is told while it happens."""

    point: str = ""
    left: int = 0
    tell: Connection = field(default=None)  # type: ignore[assignment]
    spoken: int = 0

    def passing(self, *points: str) -> None:
        """The process dies here when it has passed often enough."""
        if self.point in points:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def flying(self, store: SQLiteStore) -> None:
        self._say(Flying(self.note(store)))
        self.passing("before a commit")
        if self.doing == "retain":
            self.passing("a commit that drops history")

    def acknowledged(self, store: SQLiteStore) -> None:
        self.passing("after a commit")
        self._say(Acknowledged(self.note(store)))

    def _say(self, mark: Any) -> None:
        state = self.states[mark.state]
        self.tell.send((mark, state, self.told[self.spoken :]))
        self.spoken = len(self.told)

    def called(self, kind: str, path: str) -> None:
        """SQLite is about to touch a file."""
        if self.watching:
            return
        if path.endswith("-wal") and kind == "write":
            self.passing("a write to the WAL")
        elif path.endswith("-wal") and kind == "sync":
            self.passing("between the WAL's writes and their sync")
        elif path.endswith(DATABASE) and kind == "write":
            self.passing("a write of a checkpoint")
        elif path.endswith(DATABASE) and kind == "sync":
            self.passing("the sync of a checkpoint")
        elif path.endswith(".part") and kind == "write":
            self.passing("a write to a backup")
        if not self.states and kind in ("write", "sync"):
            self.passing("the raising of a schema")


def work(
    tell: Connection, folder: Path, seed: int, at: int, point: str, left: int, inline: bool
) -> None:
    """What a worker process does until it is killed; one that is not tells so."""
    day = Doomed(seed, point=point, left=left, tell=tell)
    day.clock.pass_time(at - day.clock.now())
    day.shelf = FolderShelf(folder / "shelf")  # type: ignore[assignment]
    day.log.trouble = day.called
    anyio.run(partial(live, day, folder, STEPS, inline=inline))
    tell.send(None)


class Cycles:
    """One file that outlives one worker after the other."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.random = Random(f"kills {number}")
        self.counts: Counter[str] = Counter()
        self.day = Day(number)
        self.day.shelf = FolderShelf(folder / "shelf")  # type: ignore[assignment]

    def run(self, kills: int, points: Iterator[str]) -> None:
        """So many cycles. Raises Violation."""
        for cycle in range(kills):
            point = next(points)
            if point == "the raising of a schema" or (cycle == 0 and self.random.random() < 0.3):
                self._begin()
            left = self.random.randint(*POINTS[point])
            try:
                self._cycle(cycle, point, left)
            except Exception as error:
                where = f"slice {self.number}, cycle {cycle}, killed at {point} ({left})"
                raise Violation(f"{where}: {error!r}") from error

    def _begin(self) -> None:
        """From here on with a golden database, in place of what there was."""
        for file in self.folder.glob(f"{DATABASE}*"):
            file.unlink()
        shutil.copyfile(self.random.choice(GOLDEN[:1]), self.folder / DATABASE)
        self.day.states, self.day.told = [], []

    def _cycle(self, cycle: int, point: str, left: int) -> None:
        day, knowledge = self.day, Knowledge()
        if day.states:  # as the one before left it
            last = day.states.pop()
            day.states.clear()
            day.states.append(last._replace(told=len(day.told)))
        begun = len(day.states)
        here, there = _processes.Pipe(duplex=False)
        at = max([day.clock.now(), *(state.at for state in day.states)])
        inline = self.random.random() < 0.5
        seed = self.number * 1_000 + cycle
        process = _processes.Process(
            target=work, args=(there, self.folder, seed, at, point, left, inline)
        )
        process.start()
        there.close()
        ended = False
        with suppress(EOFError):
            while True:
                if (
                    point == "a random moment"
                    and len(day.states) > begun
                    and not here.poll(left / 1_000)
                ):
                    process.kill()
                said = here.recv()
                if said is None:
                    ended = True
                    continue
                mark, state, told = said
                day.told += told
                day.states.append(State(state.held, len(day.told), state.at))
                knowledge.hear(mark._replace(state=len(day.states) - 1))
                if point == "a random moment" and self.random.random() < left / 1_000:
                    process.kill()
        process.join()
        here.close()
        killed = process.exitcode == -signal.SIGKILL
        assert killed or (ended and process.exitcode == 0), f"it ended with {process.exitcode}"
        self.counts["kills"] += killed
        self.counts[point if killed else "not killed"] += 1
        if not day.states[begun:]:  # before it had opened the file
            return self._judge_opening()
        self._judge(cycle, knowledge)
        return None

    def _judge_opening(self) -> None:
        """Nothing was said: the file opens, and whatever it holds is told by the next."""
        self.counts["killed while opening"] += 1
        with self._copy() as copy:
            found = _held(copy)
        assert not self.day.states or found == self.day.states[-1].held

    def _judge(self, cycle: int, knowledge: Knowledge) -> None:
        with self._copy() as copy:
            found = _held(copy)
        where = [n for n in knowledge.possible if self.day.states[n].held == found]
        assert where, f"{knowledge.acknowledged} of {knowledge.possible} was acknowledged"
        self.counts["the last commit had happened"] += where[0] != knowledge.acknowledged
        if cycle % CLOSELY == CLOSELY - 1:
            with self._copy() as copy:
                anyio.run(look_closely, self.day, where[0], copy, self.counts)
        state = self.day.states[where[0]]
        self.day.states[:] = [state]

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        """The files as they are now, to be opened elsewhere."""
        with TemporaryDirectory(dir=self.folder) as copy:
            for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-journal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(self.folder / name, Path(copy) / name)
            yield Path(copy)


def _held(folder: Path) -> bytes:
    store = SQLiteStore(str(folder / DATABASE), read_only=False, inline=True)
    try:
        said = store._writer.execute("PRAGMA integrity_check").fetchall()
        assert said == [("ok",)], said
        return held(store._writer)
    finally:
        store.close()


# --- two writers, and somebody who reads ----------------------------------------------------------


def count_on(tell: Connection, database: Path, first: int) -> None:
    """Count on three jobs for ever; say which operation was acknowledged."""

    async def main() -> None:
        async with SQLiteStore.open(database) as store, Transactor(store, [COUNTER]) as engine:
            for op in range(first, first + 100_000):
                tell.send((op, False))
                await engine.send(COUNTER, Add(f"c{op % 3}", op, 1), delivery=f"{op}")
                tell.send((op, True))

    anyio.run(main)


def beside_each_other(folder: Path, number: int, counts: Counter[str], kills: int = 4) -> None:
    """Two workers; one after the other is killed and replaced. Raises Violation."""
    random, database = Random(f"beside {number}"), folder / "both.db"
    asked: set[int] = set()
    acknowledged: set[int] = set()
    workers: list[tuple[Any, Connection]] = []

    def start(first: int) -> None:
        here, there = _processes.Pipe(duplex=False)
        process = _processes.Process(target=count_on, args=(there, database, first))
        process.start()
        there.close()
        workers.append((process, here))

    def listen(ends: Connection, least: int) -> None:
        """Until so many more were acknowledged, or it says no more."""
        with suppress(EOFError):
            while least > 0:
                op, done = ends.recv()
                (acknowledged if done else asked).add(op)
                least -= done

    def killed() -> None:
        process, ends = workers.pop(0)
        process.kill()
        process.join()
        listen(ends, 10**9)
        ends.close()
        counts["kills"] += 1
        counts["beside another writer"] += 1

    start(0)
    start(10**6)
    for cycle in range(kills):
        for _, ends in workers:
            listen(ends, random.randint(1, 10))
        for command in (["ls"], ["doctor"], ["verify", "--all"]):
            options = ["--database", str(database), "--app", "tests.crash.service:WORKFLOWS"]
            result = CliRunner().invoke(cli, [*options, *command])
            if "too fast" in result.output:  # verify does not wait for a job to come to rest
                counts["commands told to come back"] += 1
            elif result.exit_code not in (0, 10):  # the doctor may warn
                raise Violation(f"slice {number}: {command}: {result.output}")
            counts["commands beside writers"] += 1
        killed()
        start((cycle + 2) * 10**6)
    while workers:
        killed()
    with TemporaryDirectory(dir=folder) as copy:
        for file in folder.glob("both.db*"):
            if not file.name.endswith(("-shm", "-workers", "-turn")):
                shutil.copyfile(file, Path(copy) / file.name.replace("both.db", DATABASE))
        _held(Path(copy))
        ops = anyio.run(_ops, Path(copy) / DATABASE)
    lost, twice = acknowledged - ops.keys(), [op for op, times in ops.items() if times > 1]
    if lost or twice or ops.keys() - asked:
        raise Violation(f"slice {number}: lost {sorted(lost)}, twice {twice}, strange ones too")
    counts["acknowledged beside each other"] += len(acknowledged)


async def _ops(database: Path) -> Counter[int]:
    async with SQLiteStore.open(database) as store, Transactor(store, [COUNTER]) as engine:
        heads = [await engine.get(COUNTER.job(f"c{n}")) for n in range(3)]
        return Counter(op for head in heads if head is not None for op in head.state.ops)


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    with TemporaryDirectory(dir=SHM if SHM.is_dir() else folder) as here:
        yield partial(_step, Path(here))


def _step(folder: Path, number: int) -> Mapping[str, int]:
    names = list(POINTS)
    points = (names[(number * KILLS + cycle) % len(names)] for cycle in range(KILLS))
    with TemporaryDirectory(dir=folder) as here:
        cycles = Cycles(Path(here), number)
        cycles.run(KILLS, points)
        if number % 4 == 3:
            beside_each_other(Path(here), number, cycles.counts)
    return cycles.counts


PARTS = (Part("kills, SQLite", "P1 P2 P5 P14", "kills", 100, _open, whole=True),)
