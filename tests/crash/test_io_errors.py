"""IO errors: whatever call fails, the answers are true and nothing acknowledged is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import apsw
import pytest

from benchmarks.workloads import Increment, counter
from stmflow import Transactor
from stmflow.errors import Corrupt, DiskFull, Indeterminate, StoreError, Unavailable
from stmflow.store.sqlite import SQLiteStore
from tests.crash.disk import Log, recording
from tests.crash.io_errors import KINDS, Run, tried
from tests.crash.watched import DELETE_EXTRA, WAL_FULL, Modes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for-a-while"])
def test_a_call_that_fails_loses_nothing(memory: Path, kind: str, sticky: bool) -> None:
    """Calls 1, 2, 4, 8 …; `test_every_call` takes them all."""
    counts: Counter[str] = Counter()
    run = Run(kind, 1, sticky)
    while tried(run, memory, counts):
        run = run._replace(number=2 * run.number)
    assert counts["runs"] >= 1


@pytest.mark.acceptance
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
@pytest.mark.parametrize("modes", [WAL_FULL, DELETE_EXTRA], ids=str)
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for-a-while"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_call(memory: Path, kind: str, sticky: bool, modes: Modes, inline: bool) -> None:
    run = Run(kind, 1, sticky, modes, inline)
    while tried(run, memory, Counter()):
        run = run._replace(number=run.number + 1)


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
async def test_an_opening_that_fails_says_why(memory: Path, error: type[Exception]) -> None:
    """SQLite may have rolled back by itself: to roll back again must not hide the first error."""
    log, left = Log(), 0

    def trouble(kind: str, path: str) -> None:
        nonlocal left
        if kind == "write":
            left -= 1
            if left == 0:
                raise error("planted")

    log.trouble = trouble
    wanted = DiskFull if error is apsw.FullError else Unavailable
    told = []
    with recording(log):
        while left <= 0:
            left = len(told) + 1
            try:
                async with SQLiteStore.open(memory / f"{left}.db"):
                    pass
            except StoreError as raised:
                told.append(type(raised))
    assert told == [wanted] * len(told)
    assert len(told) > 5


@pytest.mark.parametrize("kind", ["open", "read", "lock"])
async def test_an_opening_that_fails_leaves_no_file_open(memory: Path, kind: str) -> None:
    """IO errors, reads 7 to 9 in a row: the writer's connection was left to the garbage collector,
    which met the next of them; the file of turns was left open for good."""
    log, left, told = Log(), 0, list[StoreError]()

    def trouble(asked: str, path: str) -> None:
        nonlocal left
        left -= asked == kind
        if asked == kind and left == 0:
            raise (apsw.CantOpenError if kind == "open" else apsw.IOError)("planted")

    async with SQLiteStore.open(memory / "jobs.db"):  # made, and each opening finds a WAL
        shutil.copytree(memory, memory / "left")
    log.trouble = trouble
    with recording(log):
        for number in count(1):
            left = number
            try:
                async with SQLiteStore.open(memory / "left" / "jobs.db"):
                    pass
            except StoreError as raised:
                told.append(raised)  # and with it all that its frames hold
            assert not [path for path in opened() if path.startswith(str(memory))]
            if left > 0:
                break
    assert told


def opened() -> list[str]:
    """The files that this process has open."""
    held = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            held.append(os.readlink(f"/proc/self/fd/{number}"))
    return held


@pytest.mark.parametrize("kind", ["read", "write", "sync", "open"])
async def test_a_backup_whose_disk_fails_says_so_and_leaves_nothing(
    memory: Path, kind: str
) -> None:
    """IO errors 11: opening the source, and ending the copy, let the driver's own errors out."""
    log, left, told = Log(), 0, 0

    def trouble(asked: str, path: str) -> None:
        nonlocal left
        if asked == kind and left:
            left -= 1
            if left == 0:
                raise (apsw.CantOpenError if kind == "open" else apsw.IOError)("planted")

    log.trouble = trouble
    with recording(log):
        async with SQLiteStore.open(memory / "jobs.db") as store:
            async with Transactor(store, [counter]) as engine:
                await engine.send(counter, Increment("a"))
            copy = memory / "copy.db"
            while not copy.exists():
                told += 1
                left = told
                with suppress(Unavailable, Corrupt):
                    await store.backup(copy)
                assert copy.exists() or not left
                assert not list(memory.glob("*.part*"))
            left = 0
    assert told > 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "stmflow-test", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def test_a_disk_that_is_full_for_real(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    async with (
        SQLiteStore.open(small_disk / "jobs.db") as store,
        Transactor(store, [counter]) as engine,
    ):
        told: dict[str, bool] = {}
        while False not in told.values():
            name = f"{len(told)}" + "x" * 8_000
            try:
                told[name] = (await engine.send(counter, Increment(name))).kind == "committed"
            except (DiskFull, Indeterminate, Unavailable):
                told[name] = False
        assert len(told) > 5
        ballast.unlink()
        for name, done in told.items():
            head = await engine.get(counter.job(name))
            assert (head is not None) == done, name[:4]
        answer = await engine.send(counter, Increment("after"))
        assert answer.kind == "committed"
        assert store._writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
