"""Rates: a bucket holds a second's worth, fills evenly, and says when there is something in it."""

from __future__ import annotations

import sys

import pytest

from scheduler import Limits
from scheduler.slots import Slots

MANY = 1_000


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (1, 1), (2, 2), (10, 10)])
def test_a_rate_lets_through_a_second_of_it_at_once_and_then_one_by_one(
    rate: float, burst: int
) -> None:
    slots = Slots(Limits(slots=MANY, rates={"x": rate}))
    assert slots.room("x", 0) == burst
    assert [slots.take("x", "t", 0) for _ in range(burst + 1)] == [True] * burst + [False]
    each = round(1_000 / rate)
    assert slots.room("x", each - 1) == 0
    assert slots.room("x", each) == 1
    assert slots.room("x", 100 * each) == burst  # no more than that is saved up
    assert slots.next_token(0) in (each, each + 1)


def test_a_clock_that_is_set_back_takes_and_gives_nothing() -> None:
    slots = Slots(Limits(slots=MANY, rates={"x": 1}))
    assert slots.take("x", "t", 5_000)
    assert slots.room("x", 0) == 0
    assert slots.room("x", 6_000) == 1


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (1, 1), (3, 3)])
def test_a_tenant_has_a_rate_of_its_own(rate: float, burst: int) -> None:
    slots = Slots(Limits(slots=MANY, rate_per_tenant=rate))
    assert slots.room_of("t", 0) == burst
    assert [slots.take("x", "t", 0) for _ in range(burst + 1)] == [True] * burst + [False]
    assert slots.room_of("u", 0) == burst
    assert slots.take("x", "u", 0)


def test_what_was_not_started_gives_its_token_back() -> None:
    slots = Slots(Limits(slots=MANY, rates={"x": 1}))
    assert slots.take("x", "t", 0)
    slots.give("x", "t", unused=True)
    assert slots.take("x", "t", 0)
    slots.give("x", "t")
    assert not slots.take("x", "t", 0)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("bound", ["slots", "per_type", "per_tenant"])
def test_no_more_run_at_once_than_a_limit_lets(bound: str, off: int) -> None:
    limits = {
        "slots": Limits(slots=3),
        "per_type": Limits(slots=MANY, per_type={"x": 3}),
        "per_tenant": Limits(slots=MANY, per_tenant=3),
    }[bound]
    slots = Slots(limits)
    taken = [slots.take("x", "t", 0) for _ in range(3 + off)]
    assert taken == [True] * (3 + min(off, 0)) + [False] * max(off, 0)
    assert slots.used == sum(taken)
    slots.give("x", "t")
    assert slots.take("x", "t", 0)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("bound", ["slots", "per_type", "per_tenant"])
def test_a_limit_lets_at_least_one_run(bound: str, off: int) -> None:
    given = {"x": 1 + off} if bound == "per_type" else 1 + off
    if off < 0:
        with pytest.raises(ValueError, match="at least one task"):
            Limits(**{bound: given})  # type: ignore[arg-type]
    else:
        Limits(**{bound: given})  # type: ignore[arg-type]


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("bound", ["rates", "weights", "rate_per_tenant"])
def test_a_speed_is_above_zero_and_has_an_end(bound: str, off: int) -> None:
    least, most = sys.float_info.min, sys.float_info.max
    for speed, fits in ((least * off, off > 0), (most + most * max(off, 0), off <= 0)):
        given = speed if bound == "rate_per_tenant" else {"x": speed}
        if fits:
            Limits(**{bound: given})  # type: ignore[arg-type]
        else:
            with pytest.raises(ValueError, match="a number above 0"):
                Limits(**{bound: given})  # type: ignore[arg-type]
