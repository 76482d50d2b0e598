"""A harness that finds nothing proves nothing: each planted bug is found within its bar.

`test_seeds.py` runs the same seeds on the engine as it is.
"""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED, SEEDS, Patch
from tests.simulation.worlds import first_bad


@pytest.mark.parametrize(
    ("plant", "bar"),
    [pytest.param(plant, bar, id=plant.__name__) for plant, bar in PLANTED.items()],
)
def test_a_planted_bug_is_found_within_its_bar(
    plant: Patch, bar: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = first_bad(range(bar))
    assert found is not None, f"{plant.__name__} was not found in {bar} seeds"
    seed, problem = found
    print(f"{plant.__name__}: seed {seed}: {problem[:200]}")


def test_there_are_enough_bugs_and_no_bar_is_too_high() -> None:
    assert len(PLANTED) >= 20
    assert max(PLANTED.values()) <= SEEDS
