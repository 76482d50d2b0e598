"""Each checker passes what is right and flags every planted wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from stmflow.testing.linear import Link, check_chain, check_outbox, check_runs, check_values

JOB = "job"


def link(number: int, delivery: str | None = None) -> Link:
    prev = f"r{number - 1}" if number > 1 else None
    return Link(f"r{number}", prev, number, None if delivery is None else (JOB, delivery))


def line(kind: str, op: int, f: str = "send", **more: Any) -> dict[str, Any]:
    return {"type": kind, "f": f, "process": 0, "job": JOB, "op": op, "delivery": None, **more}


def sent(op: int, delivery: str, seq: int, **more: Any) -> list[dict[str, Any]]:
    told = {"answer": "committed", "revision": f"r{seq}", "seq": seq, "repeated": False, **more}
    return [
        line("invoke", op, delivery=delivery, value=op),
        line("ok", op, delivery=delivery, value=op, **told),
    ]


def read(op: int, seq: int, revision: str | None = None) -> list[dict[str, Any]]:
    seen = revision or (f"r{seq}" if seq else None)
    return [line("invoke", op, "read"), line("ok", op, "read", revision=seen, seq=seq)]


CHAIN = [link(1, "a"), link(2, "b"), link(3, "c")]
GOOD = [
    *read(10, 0),
    *sent(1, "a", 1),
    *sent(2, "b", 2),
    *read(11, 2),
    *sent(3, "c", 3),
    *read(12, 3),
]


def test_a_true_history_passes() -> None:
    assert check_chain(JOB, CHAIN, GOOD) == []
    assert check_values(JOB, [1, 2, 3], GOOD) == []


def test_an_unknown_delivery_may_be_there_or_not() -> None:
    unknown = [line("invoke", 4, delivery="d", value=4), line("info", 4, delivery="d", value=4)]
    assert check_chain(JOB, CHAIN, [*GOOD, *unknown]) == []
    assert check_chain(JOB, [*CHAIN, link(4, "d")], [*GOOD, *unknown]) == []
    assert check_values(JOB, [1, 2, 3], [*GOOD, *unknown]) == []
    assert check_values(JOB, [1, 2, 3, 4], [*GOOD, *unknown]) == []


def test_a_repeat_may_be_answered_with_the_old_revision() -> None:
    again = [line("ok", 1, delivery="a", answer="committed", revision="r1", seq=1, repeated=True)]
    assert check_chain(JOB, CHAIN, [*GOOD, *again]) == []


def test_a_delivery_sent_again_by_somebody_else_gets_its_old_revision() -> None:
    again = sent(9, "a", 1, repeated=True)
    assert check_chain(JOB, CHAIN, [*GOOD, *again]) == []


def test_a_refusal_of_what_is_not_there_is_not_remembered_and_may_be_asked_again() -> None:
    """Seed 33071889584: nothing is written for strangers, so a repeat is another delivery."""
    refused = {"answer": "rejected", "revision": None, "seq": 0, "repeated": False}
    early = [line("invoke", 3, delivery="c"), line("ok", 3, delivery="c", **refused)]
    later = line("ok", 3, delivery="c", answer="committed", revision="r3", seq=3, repeated=False)
    assert check_chain(JOB, CHAIN, [*early, *sent(1, "a", 1), *sent(2, "b", 2), later]) == []


def test_other_jobs_do_not_matter() -> None:
    assert check_chain("other", [], GOOD) == []


def lost_update() -> Any:
    return CHAIN[:2], GOOD


def fork() -> Any:
    return [CHAIN[0], CHAIN[1], Link("r3", "r1", 2, (JOB, "c"))], []


def gap() -> Any:
    return [CHAIN[0], CHAIN[2]], []


def stale_read() -> Any:
    return CHAIN, [*GOOD, *read(13, 2)]


def read_of_absence_after_a_commit() -> Any:
    return CHAIN, [*GOOD, *read(13, 0)]


def dirty_read() -> Any:
    return CHAIN, [*GOOD, *read(13, 4, "never")]


def aborted_read() -> Any:
    failed = [line("invoke", 4, delivery="d"), line("fail", 4, delivery="d")]
    return [*CHAIN, link(4, "d")], [*GOOD, *failed]


def read_of_the_future() -> Any:
    early = [*sent(1, "a", 1), *read(9, 2), *sent(2, "b", 2)]
    return CHAIN[:2], early


def delivery_applied_twice() -> Any:
    return [*CHAIN, link(4, "a")], GOOD


def two_answers() -> Any:
    again = [line("ok", 1, delivery="a", answer="committed", revision="r3", seq=3, repeated=True)]
    return CHAIN, [*GOOD, *again]


def answer_of_another_delivery() -> Any:
    return CHAIN, [*sent(1, "a", 1), *sent(5, "e", 2)]


def commit_before_what_was_acknowledged() -> Any:
    return CHAIN, [*sent(3, "c", 3), *sent(2, "b", 2)]


def stale_refusal() -> Any:
    refused = {"answer": "rejected", "revision": "r1", "seq": 1, "repeated": False}
    return CHAIN, [*GOOD, line("invoke", 5, delivery="e"), line("ok", 5, delivery="e", **refused)]


def unknown_delivery_before_what_was_seen_before_it() -> Any:
    """It is at 1; a read that ended before it was sent saw 2."""
    late = [line("invoke", 1, delivery="a", value=1), line("info", 1, delivery="a", value=1)]
    return CHAIN[:2], [*sent(2, "b", 2), *late]


def unknown_applied_twice() -> Any:
    unknown = [line("invoke", 4, delivery="d"), line("info", 4, delivery="d")]
    return [*CHAIN, link(4, "d"), link(5, "d")], [*GOOD, *unknown]


def refused_and_applied() -> Any:
    refused = {"answer": "rejected", "revision": "r2", "seq": 2, "repeated": False}
    return CHAIN, [
        *sent(1, "a", 1),
        *sent(2, "b", 2),
        line("invoke", 3, delivery="c"),
        line("ok", 3, delivery="c", **refused),
    ]


def one_revision_for_two_senders_without_names() -> Any:
    told = {"answer": "committed", "revision": "r1", "seq": 1, "repeated": False}
    return [Link("r1", None, 1, (JOB, "nonce"))], [
        line("invoke", 1),
        line("invoke", 2),
        line("ok", 1, **told),
        line("ok", 2, **told),
    ]


def revision_of_a_delivery_for_a_sender_without_name() -> Any:
    told = {"answer": "committed", "revision": "r1", "seq": 1, "repeated": False}
    return CHAIN[:1], [
        line("invoke", 1, delivery="a"),
        line("invoke", 2),
        line("info", 1, delivery="a"),
        line("ok", 2, **told),
    ]


BAD: list[Callable[[], Any]] = [
    lost_update,
    fork,
    gap,
    stale_read,
    read_of_absence_after_a_commit,
    dirty_read,
    aborted_read,
    read_of_the_future,
    delivery_applied_twice,
    two_answers,
    answer_of_another_delivery,
    commit_before_what_was_acknowledged,
    stale_refusal,
    unknown_delivery_before_what_was_seen_before_it,
    unknown_applied_twice,
    refused_and_applied,
    one_revision_for_two_senders_without_names,
    revision_of_a_delivery_for_a_sender_without_name,
]


@pytest.mark.parametrize("plant", BAD, ids=lambda plant: plant.__name__)
def test_a_planted_history_is_flagged(plant: Callable[[], Any]) -> None:
    chain, history = plant()
    assert check_chain(JOB, chain, history) != []


@pytest.mark.parametrize(
    ("applied", "problem"),
    [
        ([1, 2], "lost"),
        ([1, 2, 2, 3], "2 times"),
        ([2, 1, 3], "stands before"),
        ([1, 2, 3, 77], "never sent"),
    ],
)
def test_a_wrong_list_of_values_is_flagged(applied: list[int], problem: str) -> None:
    assert any(problem in found for found in check_values(JOB, applied, GOOD))


def test_a_refused_value_that_was_applied_is_flagged() -> None:
    refused = [line("invoke", 4, value=4), line("ok", 4, value=4, answer="rejected")]
    assert "refused" in check_values(JOB, [1, 2, 3, 4], [*GOOD, *refused])[0]


def test_the_outbox_adds_up_when_each_task_has_one_fate() -> None:
    assert check_outbox({"t1", "t2", "t3"}, ["t1"], {"t2"}, {"t3": True}) == []


@pytest.mark.parametrize(
    ("receipts", "withdrawn", "rows"),
    [
        ([], set(), {}),
        (["t", "t"], set(), {}),
        (["t"], {"t"}, {}),
        (["t"], set(), {"t": True}),
        ([], set(), {"t": False}),
        (["t"], set(), {"strange": True}),
    ],
    ids=["lost", "two receipts", "withdrawn too", "row stays", "not at rest", "row of nobody"],
)
def test_a_task_with_another_fate_is_flagged(
    receipts: list[str], withdrawn: set[str], rows: dict[str, bool]
) -> None:
    assert check_outbox({"t"}, receipts, withdrawn, rows) != []


def test_runs_are_counted() -> None:
    assert check_runs({"t": 2}, ["t"], once=False) == []
    assert check_runs({"t": 2}, ["t"], once=True) != []
    assert check_runs({}, ["t"], once=False) != []


def test_ten_thousand_histories_of_a_true_register_pass_and_damaged_ones_do_not() -> None:
    random = Random(7)
    for _ in range(10_000):
        chain, history = _register(random)
        assert check_chain(JOB, chain, history) == []
        done = [n for n, one in enumerate(history) if one["type"] == "ok" and one["f"] == "send"]
        if done:
            damaged = [dict(one) for one in history]
            damaged[random.choice(done)]["revision"] = "nowhere"
            assert check_chain(JOB, chain, damaged) != []


def _register(random: Random) -> tuple[list[Link], list[dict[str, Any]]]:
    """Operations that overlap, each taking effect at one moment between its two lines."""
    chain: list[Link] = []
    history: list[dict[str, Any]] = []
    waiting: list[list[Any]] = []
    left = random.randint(1, 12)
    for op in range(1, 1_000):
        choice = random.random()
        if choice < 0.4 and left:
            left -= 1
            f = random.choice(("send", "read"))
            named = {"delivery": f"d{op}"} if f == "send" else {}
            history.append({**line("invoke", op, f), **named})
            waiting.append([op, f, None])
        elif waiting:
            one = random.choice(waiting)
            if one[2] is None:
                if one[1] == "send":
                    chain.append(link(len(chain) + 1, f"d{one[0]}"))
                one[2] = len(chain)
            else:
                waiting.remove(one)
                history.append(_told(one, random))
        elif not left:
            break
    return chain, history


def _told(one: list[Any], random: Random) -> dict[str, Any]:
    op, f, seq = one
    seen = {"revision": f"r{seq}" if seq else None, "seq": seq}
    if f == "read":
        return line("ok", op, "read", **seen)
    if random.random() < 0.2:
        return line("info", op, delivery=f"d{op}")
    return line("ok", op, delivery=f"d{op}", answer="committed", repeated=False, **seen)
