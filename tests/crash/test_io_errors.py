"""IO errors: whatever call fails, the answers are true and nothing acknowledged is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import apsw
import pytest

from stmflow.errors import DiskFull, StoreError, Unavailable
from stmflow.store.sqlite import SQLiteStore
from tests.crash.disk import Log, recording
from tests.crash.io_errors import KINDS, Run, tried
from tests.crash.service import DELETE_EXTRA, WAL_FULL, Modes


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
