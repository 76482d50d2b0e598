"""A one-order run, crashed before every one of its loop steps, with both fates of the commit."""

from __future__ import annotations

import pytest

from tests.simulation.worlds import held, one_order

CHUNKS = 8


def test_the_run_without_a_crash_holds_and_is_long_enough_to_be_worth_cutting() -> None:
    outcome, _ = one_order()
    held(outcome)
    assert outcome.steps > 250


@pytest.mark.parametrize("lands", [False, True], ids=["lost", "lands"])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_crash_at_any_step_loses_and_doubles_nothing(chunk: int, lands: bool) -> None:
    steps = one_order()[0].steps
    crashed = 0
    for step in range(1 + chunk, steps + 1, CHUNKS):
        outcome, world = one_order(crash_at=step, lands=lands)
        assert not outcome.problems, f"crash before step {step}, lands={lands}\n{outcome.report()}"
        crashed += world.crashed
    assert crashed > steps // CHUNKS // 2


def test_a_crash_before_the_acknowledgement_is_seen_in_both_fates() -> None:
    lost = one_order(crash_at=40, lands=False)[0]
    landed = one_order(crash_at=40, lands=True)[0]
    held(lost)
    held(landed)
