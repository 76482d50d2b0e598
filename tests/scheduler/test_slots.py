"""Slots and rates: what may run at once, and a bucket that holds a second's worth of starts."""

from __future__ import annotations

import sys

import pytest

from scheduler import Limits, Shared
from scheduler.slots import Slots

MANY = 1_000


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (1, 1), (2, 2), (10, 10), (500, 500)])
def test_a_rate_lets_through_a_second_of_it_at_once_and_then_one_by_one(
    rate: float, burst: int
) -> None:
    slots = Slots(Limits(slots=MANY, rates={"x": rate}))
    assert slots.room("x", 0) == burst
    assert [slots.take("x", "t", 0) for _ in range(burst + 1)] == [True] * burst + [False]
    each = round(1_000 / rate)
    assert slots.room("x", each - 1) == 0
    assert slots.room("x", each) == 1
    assert slots.room("x", 100 * each * burst) == burst  # no more than that is saved up
    for now in (0, each // 2):
        assert slots.next_token(now) in (each, each + 1)


def test_the_next_token_is_that_of_the_empty_bucket_that_fills_first() -> None:
    slots = Slots(Limits(slots=MANY, rates={"slow": 0.5, "fast": 1, "two": 2}))
    assert slots.next_token(0) is None
    for tag in ("slow", "fast", "two"):
        assert slots.take(tag, "t", 0)
    assert slots.room("two", 0) == 1  # so nobody has to wait for its next one
    assert slots.next_token(0) in (1_000, 1_001)
    assert slots.next_token(1_500) in (2_000, 2_001)
    assert slots.next_token(2_000) is None


def test_a_clock_that_is_set_back_takes_and_gives_nothing() -> None:
    slots = Slots(Limits(slots=MANY, rates={"x": 1}))
    assert slots.take("x", "t", 5_000)
    assert slots.room("x", 0) == 0
    assert slots.room("x", 6_000) == 1


def test_a_clock_that_is_set_back_by_an_hour_stops_no_rate_for_an_hour() -> None:
    slots = Slots(Limits(slots=MANY, rates={"x": 1}))
    assert slots.take("x", "t", 3_600_000)
    assert (slots.room("x", 0), slots.next_token(0)) == (0, 1_001)
    assert slots.room("x", 1_001) == 1


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


def test_one_token_comes_back_for_one_slot() -> None:
    slots = Slots(Limits(slots=MANY, rates={"x": 3}))
    for _ in range(3):
        assert slots.take("x", "t", 0)
    slots.give("x", "t", unused=True)
    assert slots.room("x", 0) == 1


def test_a_tenants_token_comes_back_too_where_nothing_was_started() -> None:
    slots = Slots(Limits(slots=MANY, rate_per_tenant=1))
    for unused in (True, False):
        assert slots.take("x", "t", 0)
        slots.give("x", "t", unused=unused)
    assert not slots.take("x", "t", 0)


# --- tenants that are forgotten -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [(1_023, 1_024), (1_024, 1), (1_025, 1_026), (2_047, 2_048), (2_048, 1)]
)
def test_full_buckets_are_forgotten_once_there_are_so_many(before: int, after: int) -> None:
    """A service has tenants without end, and a full bucket says no more than none. Where none is
    full they are looked through again when there are twice as many."""
    slots = Slots(Limits(slots=10 * MANY, rate_per_tenant=1))
    for n in range(before):
        assert slots.take("x", f"t{n}", 0)
    assert len(slots._starts) == before
    assert slots.take("x", "last", 1_000)
    assert len(slots._starts) == after


@pytest.mark.parametrize("used", [1, 2, 3])
def test_a_tenant_that_has_used_its_rate_is_not_forgotten_with_the_others(used: int) -> None:
    slots = Slots(Limits(slots=10 * MANY, rate_per_tenant=3))
    for n in range(1_023):
        assert slots.take("x", f"t{n}", 0)
    for _ in range(used):
        assert slots.take("x", "busy", 10_000)
    assert slots.take("x", "last", 10_000)
    assert list(slots._starts) == ["busy", "last"]
    assert slots.room_of("busy", 10_000) == 3 - used


# --- how many at once -----------------------------------------------------------------------------


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
    assert slots.free == limits.slots - sum(taken)
    slots.give("x", "t")
    assert [slots.take("x", "t", 0) for _ in range(2)] == [True, off < 0]


def test_room_is_what_the_tightest_limit_leaves() -> None:
    slots = Slots(Limits(slots=4, per_type={"x": 3}, per_tenant=2))
    assert [slots.room(tag, 0) for tag in "xy"] == [3, 4]
    assert slots.room_of("t", 0) == 2
    for tag, tenant in (("x", "t"), ("y", "u"), ("y", "v")):
        assert slots.take(tag, tenant, 0)
    assert [slots.room(tag, 0) for tag in "xy"] == [1, 1]
    assert [slots.room_of(tenant, 0) for tenant in "tw"] == [1, 1]


def test_limits_say_which_types_they_name() -> None:
    shared = Shared("s", slots=1, types=("d",))
    limits = Limits(per_type={"a": 1}, rates={"b": 1}, weights={"c": 1}, shared=[shared])
    assert limits.tags == set("abcd")


def test_nothing_is_known_of_a_tenant_that_uses_nothing() -> None:
    slots = Slots(Limits(per_tenant=2))
    for _ in range(2):
        assert slots.take("x", "t", 0)
    for left in (1, 0):
        slots.give("x", "t")
        assert slots._tenants == ({"t": left} if left else {})


def test_without_limits_64_run_at_once() -> None:
    slots = Slots(Limits())
    assert (slots.free, slots.room("x", 0), slots.room_of("t", 0)) == (64, 64, 64)
    assert slots.next_token(0) is None


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("bound", ["slots", "per_type", "per_tenant"])
def test_a_limit_lets_at_least_one_run(bound: str, off: int) -> None:
    given = {"x": 1 + off} if bound == "per_type" else 1 + off
    if off < 0:
        with pytest.raises(ValueError, match=rf"^{bound}( x)?: at least one task"):
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
            with pytest.raises(ValueError, match=rf"^{bound}( x)?: a number above 0"):
                Limits(**{bound: given})  # type: ignore[arg-type]
