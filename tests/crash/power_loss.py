"""Power loss: every state in which a recorded day may leave the disk, opened by the stock store.

    python -m tests.campaign --only "power loss" --first 17 --slices 1

Each image that was not seen before is opened as any start opens it. It must hold exactly what the
database held after the last commit that was acknowledged, or after the one that was on its way,
and SQLite must find nothing wrong with it. Every `TWICE`-th loses power again while it is opened.
Every `FULLY`-th is looked at as a whole: every chain is verified on three levels with its outbox,
every answer that a caller has had is given again, and the service goes on with one more commit and
a claim. Equal images are opened once and counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import apsw

from scheduler.testing.orders import COUNTER, Add
from stmflow import CELL, Answer, Transactor, history
from stmflow.archive import whole
from stmflow.errors import Archived
from stmflow.observe.doctor import examine
from stmflow.store import Beat, Claim, Reap
from stmflow.store.sqlite import SQLiteStore
from stmflow.workflow import Registry
from tests.campaign.part import Part, Step, Violation
from tests.crash.disk import (
    Choice,
    Disk,
    Found,
    Log,
    Mark,
    everything,
    lay_out,
    nothing,
    recording,
    some,
)
from tests.crash.service import TRANSACTIONAL, WANTS, WORKFLOWS, live
from tests.crash.watched import (
    DELETE_EXTRA,
    WAL_FULL,
    Acknowledged,
    Copied,
    Day,
    Flying,
    HandClock,
    Modes,
    Refused,
    held,
)

DATABASE = "jobs.db"
FULLY = 100
TWICE = 200
STEPS = 60
SHM = Path("/dev/shm")
GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("schema-*.db"))


class Knowledge:
    """What those who asked for commits know at some moment."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.possible = {0}
        """The states that the database may hold: the one that was acknowledged last, and what has
        been on its way since."""

    def hear(self, what: Any) -> None:
        """One mark of the log."""
        match what:
            case Flying(state):
                self.possible.add(state)
            case Acknowledged(state):
                self.acknowledged, self.possible = state, {state}
            case Refused():
                self.possible = {self.acknowledged}


class Cuts:
    """All losses of one day: images, and what the stock store makes of them.

    Args:
        folder: where images are laid out; a file system in memory makes it fast.
        fully: every so many images one is looked at as a whole.
    """

    def __init__(self, day: Day, folder: Path, random: Random, fully: int = FULLY) -> None:
        self.day = day
        self.folder = folder
        self.random = random
        self.fully = fully
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._found: dict[tuple[tuple[str, int, int], ...], bytes] = {}

    def run(self, *, first: int = 0, most: int = 10**9) -> None:
        """Cut the day after each thing that the disk was told, from the `first` on, until so many
        images were seen."""
        disk, knowledge, copies = Disk(self.random), Knowledge(), dict[str, int]()
        for number, entry in enumerate(self.day.log.entries):
            if isinstance(entry, Mark):
                knowledge.hear(entry.what)
                if isinstance(entry.what, Copied):
                    copies[entry.what.name] = entry.what.state
                continue
            disk.play(entry)
            for choice in self._choices(disk) if number >= first else ():
                self._judge(number, disk.image(choice), knowledge, copies)
            if self.counts["images"] >= most or len(self.problems) >= 3:
                return
        self.counts["backups"] += len(copies)

    def _choices(self, disk: Disk) -> Iterator[Choice]:
        yield nothing()
        if disk.unsynced:
            yield everything()
        for _ in range(min(disk.unsynced, 2)):
            yield some(self.random)

    def _judge(
        self,
        number: int,
        files: dict[str, bytes],
        knowledge: Knowledge,
        copies: Mapping[str, int],
    ) -> None:
        self.counts["drawn"] += 1
        name = f"day {self.day.seed}, after entry {number}, image {self.counts['drawn']}"
        for copy, of in copies.items():
            if copy not in files:
                self.problems.append(f"{name}: the backup {copy} is gone")
            elif self._state(name, {DATABASE: files[copy]}) != self.day.states[of].held:
                self.problems.append(f"{name}: the backup {copy} does not hold state {of}")
        for other in [n for n in files if n.endswith(".db") and n not in {DATABASE, *copies}]:
            if self._number(self._state(name, {DATABASE: files[other]})) is None:
                self.problems.append(f"{name}: half a backup, {other}")
        ours = {n: data for n, data in files.items() if n.startswith(DATABASE)}
        state = self._state(name, ours, count=True)
        if state is None or state in {self.day.states[n].held for n in knowledge.possible}:
            return
        where = self._number(state)
        what = "what never was" if where is None else f"state {where}"
        self.problems.append(
            f"{name}: {knowledge.acknowledged} was acknowledged, possible are"
            f" {sorted(knowledge.possible)}; it holds {what}"
        )

    def _number(self, held: bytes | None) -> int | None:
        """The last state that was like this."""
        found = [n for n, state in enumerate(self.day.states) if state.held == held]
        return found[-1] if found else None

    def _state(self, name: str, files: dict[str, bytes], *, count: bool = False) -> bytes | None:
        """What the stock store finds in these files; None: a problem, which was noted."""
        key = tuple((file, len(data), hash(data)) for file, data in sorted(files.items()))
        if key in self._found:
            return self._found[key]
        images = self.counts["images"] = self.counts["images"] + count
        try:
            found = self._opened(files)
            if count and images % TWICE == 0:
                self._lost_again(files, found)
            where = self._number(found)
            if count and images % self.fully == 0 and where is not None:
                lay_out(str(self.folder), files)
                anyio.run(look_closely, self.day, where, self.folder, self.counts)
        except Exception as error:
            self.problems.append(f"{name}: {error!r}")
            return None
        self._found[key] = found
        return found

    def _opened(self, files: Mapping[str, bytes]) -> bytes:
        """What the database holds once the stock store has opened it; and then it is closed."""
        lay_out(str(self.folder), files)
        store = SQLiteStore(str(self.folder / DATABASE), read_only=False, inline=True)
        try:
            found = held(store._writer)
            said = store._writer.execute("PRAGMA integrity_check").fetchall()
        finally:
            store.close()
        if said != [("ok",)]:
            raise AssertionError(f"SQLite finds: {said}")
        return found

    def _lost_again(self, files: Mapping[str, bytes], found: bytes) -> None:
        """Power is lost once more while the image is opened and closed: that changes nothing."""
        log, disk = Log(), Disk()
        with recording(log):
            self._opened(files)
        for entry in log.entries:
            disk.play(entry)
            for choice in () if isinstance(entry, Found) else self._choices(disk):
                self.counts["lost twice"] += 1
                if self._opened(disk.image(choice)) != found:
                    raise AssertionError(f"another state after a second loss: {entry[:2]}")


async def look_closely(day: Day, number: int, folder: Path, counts: Counter[str]) -> None:
    """Everything that callers and operators could see of that state; and the service goes on."""
    state, clock = day.states[number], HandClock()
    clock.pass_time(state.at - clock.now())
    async with SQLiteStore.open(folder / DATABASE) as store:
        both = whole(store, day.shelf)
        for row in await store.jobs(limit=10_000):
            away = False
            try:
                await store.heads([row.job])
            except Archived:
                away = True
            head = (await both.heads([row.job]))[row.job]
            assert head is not None
            report = history.verify(
                row.job,
                head.revision,
                history.blocks_of(await both.revisions(row.job)).get,
                workflows=[*WORKFLOWS, CELL],
                stored=None if away else head,
                rows=None if away else await store.tasks(job=row.job),
            )
            assert report.status == history.OK, report.findings
            counts["revisions verified"] += report.revisions
        for told in day.told[: state.told]:
            if told.until > clock.now():
                block = await store.delivery(told.job, told.delivery)
                assert block is not None, f"the answer to {told.delivery!r} is lost"
                again, first = Answer.of(block), told.answer
                assert again[:6] == first[:6], (again, first)
                counts["answers given again"] += 1
        for delivery, job in day.denied.items():
            if delivery not in day.doubted:
                assert await store.delivery(job, delivery) is None, f"{delivery!r} did happen"
                counts["denied, and did not happen"] += 1
        await examine(store, clock.now(), registry=Registry([*WORKFLOWS, CELL]))
        await _go_on(store, clock, counts)
    counts["verified as a whole"] += 1


async def _go_on(store: SQLiteStore, clock: HandClock, counts: Counter[str]) -> None:
    worker = store.enlist()
    async with Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL, clock=clock) as engine:
        answer = await engine.send(COUNTER, Add("after", 1, 1), delivery="after")
        assert (answer.kind, answer.seq) == ("committed", 1), answer
        await engine.do(lambda: Beat(worker, clock.now() + 60_000))
        await engine.do(lambda: Reap(clock.now()))
        claimed = await engine.do(lambda: Claim(worker, WANTS, clock.now()))
        counts["claimed afterwards"] += len(claimed)


def lost_power(
    seed: int,
    folder: Path,
    modes: Modes = WAL_FULL,
    *,
    fully: int = FULLY,
    failing_syncs: float = 0.0,
) -> Cuts:
    """Live through a day and lose power at every moment of it.

    Args:
        failing_syncs: so many of them fail; what of the file was not written then never is, though
            the next sync succeeds.
    """
    day = Day(seed)
    random = Random(f"cuts {seed}")
    begun = random.choice([None, None, *GOLDEN])

    def trouble(kind: str, path: str) -> None:
        if kind == "sync" and not day.watching and random.random() < failing_syncs:
            day.done["failed syncs"] += 1
            raise apsw.IOError("planted")

    if failing_syncs:
        day.log.trouble = trouble
    with TemporaryDirectory(dir=folder) as lived, TemporaryDirectory(dir=folder) as found:
        anyio.run(partial(live, day, Path(lived), STEPS, modes, begun))
        cuts = Cuts(day, Path(found), random, fully)
        cuts.run()
    cuts.counts.update({f"{name}": count for name, count in day.done.items()})
    cuts.counts["raised"] += int(begun is not None)
    cuts.counts["commits"] += len(day.states)
    return cuts


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    yield partial(_step, SHM if SHM.is_dir() else folder)


def _step(folder: Path, number: int) -> Mapping[str, int]:
    modes = (WAL_FULL, WAL_FULL, DELETE_EXTRA)[number % 3]
    failing = 0.05 if number % 4 == 3 else 0.0
    cuts = lost_power(number, folder, modes, failing_syncs=failing)
    if cuts.problems:
        raise Violation(
            f'python -m tests.campaign --only "power loss" --first {number} --slices 1\n'
            + "\n".join(cuts.problems)
        )
    cuts.counts[f"days, {modes.journal}"] += 1
    return cuts.counts


PARTS = (Part("power loss, SQLite", "P1 P2 P5 P6 P9", "images", 20_000, _open, 2.0, whole=True),)
