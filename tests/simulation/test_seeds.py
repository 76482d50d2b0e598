"""500 seeds on both stores that can run in one thread; `pytest --seed N` replays one on both."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scheduler.testing import FAULTS
from tests.project import ROOT
from tests.simulation.worlds import held, run, tally

MEMORY = 300
SQLITE = 200
CHUNK = 25

FLOORS = {
    **dict.fromkeys(FAULTS, 1),
    "conflict": 20,
    "claims taken from the dead": 20,
    "claimed by another": 20,
    "duplicate answered": 10,
    "landed": 3,
    "unknown done": 10,
    "unknown lost": 10,
    "replanned": 50,
}
"""What must happen in every 100 seeds, on the whole: else the batch is blind to it."""

RARE = ("fenced settle", "conflict on the third try", "told unknown")

CHUNKS = [
    *(("memory", first) for first in range(0, MEMORY, CHUNK)),
    *(("sqlite", first) for first in range(MEMORY, MEMORY + SQLITE, CHUNK)),
]

REPLAY = """
import logging
from tests.simulation.worlds import run
logging.disable(logging.CRITICAL)
print(*[run(seed, store).digest for store in ("memory", "sqlite") for seed in (3, 11, 17)])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("store", "first"), CHUNKS, ids=lambda value: str(value))
def test_a_seed_holds(store: str, first: int, seed: int | None) -> None:
    if seed is not None:
        pytest.skip("one seed was asked for")
    for number in range(first, first + CHUNK):
        held(run(number, store))


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_the_seed_that_was_asked_for_holds(store: str, seed: int | None) -> None:
    if seed is None:
        pytest.skip("no --seed")
    outcome = run(seed, store)
    print(outcome.report(), dict(outcome.seen), sep="\n")
    held(outcome)


@pytest.mark.slow
def test_what_must_sometimes_happen_does(seed: int | None) -> None:
    if seed is not None:
        pytest.skip("one seed was asked for")
    seen = tally([run(number, "memory") for number in range(100)])
    missing = {name: (seen[name], floor) for name, floor in FLOORS.items() if seen[name] < floor}
    assert not missing, f"seen less often than its floor: {missing}"
    assert [name for name in RARE if not seen[name]] == []


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
