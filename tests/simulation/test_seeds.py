"""200 seeds on the stores that can run in one thread; `pytest --seed N` replays one on each.

`make gate` runs 2,000 of them.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from scheduler.testing import FAULTS
from scheduler.testing.__main__ import STORES
from scheduler.testing.loop import _Task
from tests.project import ROOT
from tests.simulation.worlds import held, run, tally

MEMORY = 100
SQLITE = 100
CHUNK = 25

ERRORS = (
    *("Busy", "ConflictsExhausted", "Corrupt", "DeadlineExceeded", "DiskFull", "Indeterminate"),
    *("InvalidEvent", "LimitExceeded", "NotOutside", "ReducerFailed", "Stopped", "Unavailable"),
    *("UnknownTask", "UnknownWorkflow", "Lost"),
)
"""What a client may be told. `Lost` is our own word: no answer, or its process has died."""

BRANCHES = (
    *("Start gave looking", "Start gave refused", "Taken gave looking", "Refused gave refused"),
    *("Looked gave working", "Worked gave done", "Broken gave broken", "Expired gave expired"),
    *("Poke gave looking", "Poke gave working", "Abort gave aborted"),
    *("Worked gave expired", "Worked gave aborted", "Looked gave expired"),  # stale, or too late
    *("Start: no change", "Poke: ignored", "Abort: ignored", "Abort: rejected"),
)

FLOORS = {
    **dict.fromkeys(FAULTS, 5),
    **{f"told {error}": 1 for error in ERRORS},
    **{f"order: {branch}": 1 for branch in BRANCHES},
    "conflict": 20,
    "conflict on the third try": 1,
    "claims taken from the dead": 20,
    "claimed by another": 20,
    "duplicate answered": 10,
    "fenced settle": 1,
    "landed": 3,
    "fsync failed, and it was done": 10,
    "fsync failed, and it was lost": 10,
    "replanned": 50,
    "sent to a job not yet visible": 10,
    "redrive: redriven": 1,
    "dismiss: committed": 1,
}
"""What must happen in these 100 seeds, on the whole: else they are blind to it."""

CHUNKS = range(MEMORY, MEMORY + SQLITE, CHUNK)

REPLAY = """
import logging
from tests.simulation.worlds import run
logging.disable(logging.CRITICAL)
print(*[run(seed, store).digest for store in ("memory", "sqlite", "file") for seed in (3, 11)])
"""


def test_a_world_leaves_nothing_behind() -> None:
    """What its crashes have cut off is forgotten by everybody, anyio included."""
    before, crashed = alive(), 0
    for number in range(6):
        crashed += run(number, "memory").seen["crash"]
    assert crashed > 0
    assert alive() <= before


def alive() -> int:
    """How many tasks of virtual worlds there are; other tests may hold some."""
    gc.collect()
    return sum(type(one) is _Task for one in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("first", CHUNKS)
def test_a_seed_holds_on_sqlite(first: int, seed: int | None) -> None:
    if seed is not None:
        pytest.skip("one seed was asked for")
    for number in range(first, first + CHUNK):
        held(run(number, "sqlite"))


@pytest.mark.slow
def test_a_seed_holds_where_each_process_has_a_connection_to_one_file(seed: int | None) -> None:
    if seed is not None:
        pytest.skip("one seed was asked for")
    seen = tally([held(run(number, "file")) for number in range(200, 210)])
    assert seen["replanned"] > 50


@pytest.mark.parametrize("store", STORES)
def test_the_seed_that_was_asked_for_holds(store: str, seed: int | None) -> None:
    if seed is None:
        pytest.skip("no --seed")
    outcome = run(seed, store)
    print(outcome.report(), dict(outcome.seen), sep="\n")
    held(outcome)


@pytest.mark.slow
def test_a_hundred_seeds_hold_in_memory_and_what_must_sometimes_happen_does(
    seed: int | None,
) -> None:
    if seed is not None:
        pytest.skip("one seed was asked for")
    seen = tally([held(run(number, "memory")) for number in range(MEMORY)])
    missing = {name: (seen[name], floor) for name, floor in FLOORS.items() if seen[name] < floor}
    assert not missing, f"seen less often than its floor: {missing}"


def test_a_settle_with_nothing_left_to_settle_needs_no_claim() -> None:
    """Seed 100: planned again under the lock, it was empty, and its claim had gone."""
    held(run(100, "file"))


def test_a_seed_replays_exactly_in_one_process() -> None:
    for number in (1, 5, 9):
        assert run(number, "memory").digest == run(number, "memory").digest


def test_a_seed_replays_exactly_in_another_process_with_other_hashes() -> None:
    digests = set()
    for hashes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", REPLAY],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1
