"""Retry classes, policies and backoff: pure, so every boundary is a row of a table."""

from __future__ import annotations

from copy import copy

import pytest

from scheduler.retry import Failure, Policy, Retry, next_delay_ms

POLICY = Policy(attempts=5, deadline_ms=10_000, attempt_ms=1_000, base_ms=100, cap_ms=800)
ALMOST_ONE = 1 - 2**-53


def delay(
    retry: Retry,
    *,
    policy: Policy = POLICY,
    attempt: int = 1,
    elapsed_ms: int = 0,
    draw: float = 0.5,
    after_ms: int | None = None,
    previous: Retry | None = None,
) -> int | None:
    failure = Failure("Broken", retry=retry, after_ms=after_ms)
    return next_delay_ms(
        policy, failure, attempt=attempt, elapsed_ms=elapsed_ms, draw=draw, previous=previous
    )


CLASSES = [
    (Retry.SAFE, 50, 50),
    (Retry.IDEMPOTENT, 50, None),
    (Retry.THROTTLED, 50, 50),
    (Retry.AUTH, 50, 50),
    (Retry.FATAL, None, None),
    (Retry.CONFLICT, None, None),
    (Retry.CORRUPT, None, None),
]


@pytest.mark.parametrize(("retry", "idempotent", "not_idempotent"), CLASSES)
def test_each_class_is_repeated_or_not(
    retry: Retry, idempotent: int | None, not_idempotent: int | None
) -> None:
    once = Policy(base_ms=100, cap_ms=800, idempotent=False)
    assert delay(retry) == idempotent
    assert delay(retry, policy=once) == not_idempotent


def test_every_class_stands_in_the_table() -> None:
    assert [row[0] for row in CLASSES] == list(Retry)


def test_the_names_of_the_classes_are_stored_and_stay() -> None:
    """They stand in parked rows and in `Exhausted`, where workflows and operators look for them."""
    names = ["safe", "idempotent", "throttled", "auth", "fatal", "conflict", "corrupt"]
    assert [retry.value for retry in Retry] == names


def test_without_a_policy_there_are_ten_attempts_of_half_a_minute_each() -> None:
    policy = Policy()
    pauses = [
        delay(Retry.IDEMPOTENT, policy=policy, attempt=attempt, draw=ALMOST_ONE)
        for attempt in range(1, 12)
    ]
    assert pauses == [199, 399, 799, 1_599, 3_199, 6_399, 12_799, 25_599, 29_999, None, None]
    assert (policy.attempt_ms, policy.deadline_ms) == (30_000, None)


@pytest.mark.parametrize(
    ("attempt", "draw", "expected"),
    [
        (1, 0.0, 0),
        (1, ALMOST_ONE, 99),
        (2, ALMOST_ONE, 199),
        (3, 0.5, 200),
        (4, ALMOST_ONE, 799),
    ],
)
def test_the_pause_is_drawn_from_zero_to_twice_the_last_one(
    attempt: int, draw: float, expected: int
) -> None:
    assert delay(Retry.SAFE, attempt=attempt, draw=draw) == expected


@pytest.mark.parametrize("attempt", [4, 5, 40, 41, 42, 10_000])
def test_the_pause_never_passes_its_cap(attempt: int) -> None:
    policy = Policy(attempts=20_000, base_ms=100, cap_ms=800)
    assert delay(Retry.SAFE, policy=policy, attempt=attempt, draw=ALMOST_ONE) == 799


@pytest.mark.parametrize(("attempt", "gives_up"), [(4, False), (5, True), (6, True)])
def test_the_last_attempt_is_the_last(attempt: int, gives_up: bool) -> None:
    for retry in (Retry.SAFE, Retry.IDEMPOTENT, Retry.THROTTLED):
        assert (delay(retry, attempt=attempt) is None) is gives_up


@pytest.mark.parametrize(
    ("elapsed_ms", "expected"), [(9_949, 50), (9_950, None), (9_951, None), (10_000, None)]
)
def test_an_attempt_begins_before_the_deadline_or_not_at_all(
    elapsed_ms: int, expected: int | None
) -> None:
    assert delay(Retry.SAFE, elapsed_ms=elapsed_ms) == expected


def test_without_a_deadline_only_the_attempts_count() -> None:
    policy = Policy(base_ms=100, cap_ms=800)
    assert delay(Retry.SAFE, policy=policy, elapsed_ms=10**15) == 50


@pytest.mark.parametrize(
    ("after_ms", "expected"), [(None, 50), (0, 50), (49, 50), (50, 50), (51, 51), (9_999, 9_999)]
)
def test_a_throttled_task_waits_as_told_and_never_less_than_its_backoff(
    after_ms: int | None, expected: int
) -> None:
    assert delay(Retry.THROTTLED, after_ms=after_ms) == expected


def test_a_wait_past_the_deadline_is_not_begun() -> None:
    assert delay(Retry.THROTTLED, after_ms=10_000) is None


@pytest.mark.parametrize(("after_ms", "expected"), [(-1, 0), (0, 0), (7, 7), (900, 900)])
def test_a_handler_that_sent_nothing_says_when_to_look_again(after_ms: int, expected: int) -> None:
    assert delay(Retry.SAFE, after_ms=after_ms, attempt=4) == expected


@pytest.mark.parametrize(
    ("attempt", "previous", "expected"),
    [
        (1, None, 50),
        (2, None, None),
        (2, Retry.AUTH, None),
        (2, Retry.SAFE, 100),
        (3, Retry.THROTTLED, 200),
    ],
)
def test_credentials_are_refreshed_once(
    attempt: int, previous: Retry | None, expected: int | None
) -> None:
    assert delay(Retry.AUTH, attempt=attempt, previous=previous) == expected


def test_a_failure_says_what_it_is() -> None:
    failure = Failure("Mismatch", {"round": 2}, retry=Retry.CORRUPT)
    assert str(failure) == "Mismatch (corrupt): {'round': 2}"
    assert str(Failure("Refused")) == "Refused (fatal)"
    assert (failure.name, failure.detail, failure.after_ms) == ("Mismatch", {"round": 2}, None)


def test_a_failure_comes_back_whole_from_another_process() -> None:
    """A handler may work in one: what it raises there is taken apart and built again."""
    failure = Failure(name="Slow", detail=(1, "a"), retry=Retry.THROTTLED, after_ms=7)
    again = copy(failure)
    assert (again.name, again.detail) == ("Slow", (1, "a"))
    assert (again.retry, again.after_ms) == (Retry.THROTTLED, 7)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize(
    ("bound", "least"), [("attempts", 1), ("attempt_ms", 1), ("deadline_ms", 1), ("base_ms", 0)]
)
def test_a_policy_is_taken_from_its_bounds_on(bound: str, least: int, off: int) -> None:
    taken_or_refused({bound: least + off}, off)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_pauses_grow_up_to_a_cap_that_is_no_less_than_the_first(off: int) -> None:
    taken_or_refused({"base_ms": 7, "cap_ms": 7 + off}, off)


def taken_or_refused(given: dict[str, int], off: int) -> None:
    if off < 0:
        with pytest.raises(ValueError, match=r"policy|deadline_ms"):
            Policy(**given)  # type: ignore[arg-type]
    else:
        Policy(**given)  # type: ignore[arg-type]
