"""The search finds an order where there is one; and the chain checker, told of the parents, says
the same of random histories, damaged or not."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from random import Random
from typing import Any

from stmflow.testing.search import Operation, job, linearizable
from tests.campaign.histories import agree


def register(state: int, what: tuple[str, int]) -> int | None:
    """One cell: ("w", value), ("r", value)."""
    if what[0] == "w":
        return what[1]
    return state if state == what[1] else None


def holds(*operations: tuple[Any, int, int | None]) -> bool:
    return linearizable([Operation(*one) for one in operations], 0, register)


def test_nothing_is_linearizable() -> None:
    assert holds()


def test_what_ended_is_seen_by_what_begins() -> None:
    assert holds((("w", 1), 0, 1), (("r", 1), 2, 3))
    assert not holds((("w", 1), 0, 1), (("r", 0), 2, 3))


def test_what_overlaps_may_be_seen_or_not() -> None:
    for value in (0, 1):
        assert holds((("w", 1), 0, 2), (("r", value), 1, 3))
    assert not holds((("w", 1), 0, 9), (("r", 1), 1, 2), (("r", 0), 3, 4))


def test_the_unknown_may_happen_late_or_never_but_not_before_it_began() -> None:
    unknown = (("w", 1), 4, None)
    assert holds(unknown, (("r", 0), 5, 6), (("r", 1), 7, 8))
    assert holds(unknown, (("r", 0), 5, 6))
    assert not holds(unknown, (("r", 1), 2, 3))


def test_the_unknown_happens_once() -> None:
    unknown = (("w", 1), 0, None)
    assert not holds(unknown, (("r", 1), 1, 2), (("w", 2), 3, 4), (("r", 1), 5, 6))


def test_a_job_counts_what_was_applied_to_it() -> None:
    assert job(("a",), ("send", ("b", 2))) == ("a", "b")
    assert job(("a",), ("send", ("b", 3))) is None
    assert job((), ("read", (None, 0))) == ()
    assert job(("a",), ("read", ("a", 1))) == ("a",)
    assert job(("a",), ("rest", ())) is None


def test_a_refusal_where_no_job_is_is_not_remembered() -> None:
    """History 50123609: told once that it was refused by a revision, once that there was no job."""
    agree(50_123_609, Counter())


def test_the_search_agrees_with_trying_every_order() -> None:
    random = Random(3)
    verdicts = Counter[bool]()
    for _ in range(500):
        operations = []
        for _ in range(random.randint(1, 5)):
            began = random.randint(0, 8)
            ended = None if random.random() < 0.2 else began + random.randint(1, 4)
            operations.append(Operation((random.choice("rw"), random.randint(0, 2)), began, ended))
        found = linearizable(operations, 0, register)
        assert found == tried(operations)
        verdicts[found] += 1
    assert min(verdicts.values()) > 50


def tried(operations: list[Operation]) -> bool:
    """The same by brute force: some order of some of them, with all that ended."""
    for count in range(len(operations) + 1):
        for order in permutations(operations, count):
            if any(one.ended is not None and one not in order for one in operations):
                continue
            in_time = all(
                later.ended is None or later.ended >= one.began
                for at, one in enumerate(order)
                for later in order[at:]
            )
            state: int | None = 0
            for one in order:
                state = None if state is None else register(state, one.what)
            if in_time and state is not None:
                return True
    return False


def test_both_checkers_say_the_same_of_random_histories() -> None:
    counts = Counter[str]()
    for number in range(600):
        agree(number, counts)
    assert counts["damaged"] == 300
    assert sum(n for name, n in counts.items() if name.endswith("flagged")) > 150
