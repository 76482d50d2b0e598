"""A harness that finds nothing proves nothing: each planted bug is found within its bar.

`test_seeds.py` runs the same seeds on the engine as it is.
"""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED, SEEDS, Patch
from tests.simulation.worlds import first_bad

QUICK = 64
"""A bug with a higher bar is looked for by `make acceptance`."""

HARD = ["absence_judged_by_the_cache"]
"""Found too late: worlds in which it matters are rare. The case has a test of its own shape."""


def _bug(plant: Patch, bar: int) -> object:
    marks = [pytest.mark.acceptance] if bar > QUICK else []
    return pytest.param(plant, bar, id=plant.__name__, marks=marks)


@pytest.mark.parametrize(("plant", "bar"), [_bug(*each) for each in PLANTED.items()])
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
    assert [plant.__name__ for plant, bar in PLANTED.items() if bar > SEEDS] == HARD
