"""store/add is proved: S1 to S11 and L1 to L4."""

from __future__ import annotations

import pytest

from examples.store_add.check import CHECKS
from stmflow.check import Check, prove

SHORT = (
    "store/add, with more time",
    "store/add, with more time, and timers that are overdue",
    "store/add, whose tasks fail",
    "store/add, not found by an audit",
)


def proved(check: Check) -> None:
    report = prove(check)
    assert report.wrong == []
    assert report.unreached == []
    assert report.holds


@pytest.mark.parametrize("check", [c for c in CHECKS if c.name in SHORT], ids=lambda c: c.name)
def test_the_smaller_models_hold(check: Check) -> None:
    proved(check)


@pytest.mark.acceptance
@pytest.mark.parametrize("check", [c for c in CHECKS if c.name not in SHORT], ids=lambda c: c.name)
def test_the_larger_models_hold(check: Check) -> None:
    proved(check)
