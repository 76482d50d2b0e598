"""IO errors: every call of every kind that SQLite makes fails in turn, once or for a while.

    python -m tests.campaign --only "IO errors" --first 17 --slices 1

A run is a short day of a service (`tests.crash.service`). After it the disk works again and the
stock store opens what is there: it must hold what was acknowledged last, or what was answered with
`Indeterminate` since; what was refused must not be there. It is then looked at as a whole.

Short reads are tried on the WAL alone: in the other files SQLite takes one for the end of the file,
as it is on every system it runs on, and a disk that lies there is a damaged disk.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anyio
import apsw

from stmflow.store.sqlite import SQLiteStore
from tests.campaign.part import Part, Step, Violation
from tests.crash.disk import Mark
from tests.crash.power_loss import DATABASE, SHM, Knowledge, look_closely
from tests.crash.service import live
from tests.crash.system_calls import failing
from tests.crash.watched import DELETE_EXTRA, WAL_FULL, Day, Modes, held

STEPS = 6
LASTS = 24
KINDS: Mapping[str, tuple[str, type[Exception]]] = {
    "read": ("read", apsw.IOError),
    "short read": ("read", EOFError),
    "write": ("write", apsw.IOError),
    "disk full": ("write", apsw.FullError),
    "sync": ("sync", apsw.IOError),
    "disk full at sync": ("sync", apsw.FullError),
    "truncate": ("truncate", apsw.IOError),
    "delete": ("delete", apsw.IOError),
    "open": ("open", apsw.CantOpenError),
    "access": ("access", apsw.IOError),
    "size": ("size", apsw.IOError),
    "lock": ("lock", apsw.IOError),
    "busy": ("lock", apsw.BusyError),
    "shared memory": ("mmap", OSError),
    "lock of shared memory": ("fcntl", OSError),
}
"""What fails, and with what."""
RARE = ("sync", "disk full at sync", "truncate", "delete", "open", "shared memory")
"""Of these a day has few, so that a slice takes one in three; of the others, one in 24."""


class Run(NamedTuple):
    """Which day, and which call of it fails."""

    kind: str
    number: int
    sticky: bool = False
    modes: Modes = WAL_FULL
    inline: bool = True
    seed: int = 0


@dataclass(slots=True)
class Fault:
    """Makes the calls of one kind fail: the one of that number, or `LASTS` from it on. For ever it
    cannot be: what comes from inside, as an outcome, is tried again until it is committed."""

    day: Day
    run: Run
    calls: int = 0
    fired: int = 0

    def __call__(self, kind: str, path: str) -> None:
        call, error = KINDS[self.run.kind]
        if kind != call or self.day.watching or (error is EOFError and "-wal" not in path):
            return
        self.calls += 1
        last = self.run.number + (LASTS if self.run.sticky else 1)
        if self.run.number <= self.calls < last:
            self.fired += 1
            if error is OSError:
                raise OSError(errno.EIO, "planted")
            raise error(f"planted: {self.run.kind} {self.calls}")


def tried(run: Run, folder: Path, counts: Counter[str]) -> bool:
    """Live through a day with that fault and judge what is left; whether it fired.

    Raises Violation.
    """
    day = Day(run.seed)
    fault = day.log.trouble = Fault(day, run)
    day.alone = KINDS[run.kind][1] is OSError
    below = failing(fault) if day.alone else nullcontext()
    inline = run.inline or day.alone
    with TemporaryDirectory(dir=folder) as here:
        try:
            with below:
                anyio.run(partial(live, day, Path(here), STEPS, run.modes, inline=inline))
            _judge(day, Path(here), counts)
        except Exception as error:
            raise Violation(f"{run}: {error!r}") from error
    if fault.fired:
        counts["faults"] += fault.fired
        counts["runs"] += 1
        counts[run.kind] += fault.fired
        counts.update(day.done)
    return fault.fired > 0


def _judge(day: Day, folder: Path, counts: Counter[str]) -> None:
    knowledge = Knowledge()
    for entry in day.log.entries:
        if isinstance(entry, Mark):
            knowledge.hear(entry.what)
    store = SQLiteStore(str(folder / DATABASE), read_only=False, inline=True)
    try:
        found = held(store._writer)
        said = store._writer.execute("PRAGMA integrity_check").fetchall()
    finally:
        store.close()
    assert said == [("ok",)], said
    if not day.states:  # it could not be opened before
        counts["never opened"] += 1
        return
    numbers = [n for n in knowledge.possible if day.states[n].held == found]
    assert numbers, (
        f"{knowledge.acknowledged} was acknowledged, possible are {knowledge.possible};"
        f" it holds {[n for n, state in enumerate(day.states) if state.held == found]}"
    )
    counts["unknown, had happened"] += numbers[0] != knowledge.acknowledged
    anyio.run(look_closely, day, numbers[0], folder, counts)


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    yield partial(_step, SHM if SHM.is_dir() else folder)


def _step(folder: Path, number: int) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for kind in KINDS:
        stride = 3 if kind in RARE else 24
        run = Run(
            kind,
            1 + number % stride,
            sticky=number % 2 == 1,
            modes=DELETE_EXTRA if number % 3 == 2 else WAL_FULL,
            inline=number % 5 != 4,
            seed=number,
        )
        while tried(run, folder, counts):
            run = run._replace(number=run.number + stride)
    return counts


PARTS = (Part("IO errors, SQLite", "P1 P2 P5 P14", "runs", 300, _open),)
