"""Promises: found anywhere in arguments, and kept, broken or not yet due."""

from __future__ import annotations

from typing import Any

import pytest

from capabilities.ucan1.promise import Mismatch, Promise, Settled, promise, promises, resolve
from stmflow.cid import CID
from stmflow.errors import LimitExceeded, MalformedBlock, NotFound
from stmflow.limits import LIMITS

ONE, TWO, RECEIPT = CID.of(b"one"), CID.of(b"two"), CID.of(b"receipt")
GOOD = {ONE: Settled(RECEIPT, {"ok": {"url": "u"}})}
BAD = {ONE: Settled(RECEIPT, {"error": "no room"})}


def test_promises_are_found_anywhere_each_once() -> None:
    arguments = {
        "to": [{"await/ok": ONE}, {"deep": [{"await/error": TWO}]}],
        "again": {"await/ok": ONE},
        "any": {"await/*": ONE},
        "plain": {"link": ONE},
    }
    assert promises(arguments) == (Promise("ok", ONE), Promise("error", TWO), Promise("*", ONE))


@pytest.mark.parametrize(
    "value",
    [
        None,
        ONE,
        "await/ok",
        [],
        {},
        {"await/ok": str(ONE)},
        {"await/ok": None},
        {"await/ok": ONE, "await/error": ONE},
        {"await/ok": ONE, "x": 1},
        {"await/": ONE},
        {"ucan/await": [".out.ok", ONE]},
    ],
)
def test_anything_else_is_plain_data(value: Any) -> None:
    assert promise(value) is None
    assert promises({"a": value}) == ()
    assert resolve({"a": value}, {}) == {"a": value}


def test_a_kept_promise_is_replaced_by_the_value() -> None:
    arguments = {"a": [{"await/ok": ONE}], "b": 1}
    assert resolve(arguments, GOOD) == {"a": [{"url": "u"}], "b": 1}
    assert arguments == {"a": [{"await/ok": ONE}], "b": 1}
    assert resolve({"a": {"await/error": ONE}}, BAD) == {"a": "no room"}


def test_any_branch_is_replaced_with_its_name() -> None:
    assert resolve({"a": {"await/*": ONE}}, GOOD) == {"a": {"ok": {"url": "u"}}}
    assert resolve({"a": {"await/*": ONE}}, BAD) == {"a": {"error": "no room"}}


def test_the_other_branch_is_a_mismatch() -> None:
    found = resolve({"a": [{"await/ok": ONE}]}, BAD)
    assert found == Mismatch("ok", "error", RECEIPT)
    assert isinstance(found, Mismatch)
    assert found.error() == {
        "error": {"reason": "branch mismatch", "expected": "ok", "got": "error", "from": RECEIPT}
    }
    assert resolve({"a": {"await/error": ONE}}, GOOD) == Mismatch("error", "ok", RECEIPT)


def test_all_arguments_may_be_one_promise_of_a_map() -> None:
    assert promises({"await/ok": ONE}) == (Promise("ok", ONE),)
    assert resolve({"await/ok": ONE}, GOOD) == {"url": "u"}
    with pytest.raises(MalformedBlock):
        resolve({"await/error": ONE}, BAD)


def test_promises_inside_an_outcome_are_left_alone() -> None:
    inner = {"await/ok": TWO}
    assert resolve({"a": {"await/ok": ONE}}, {ONE: Settled(RECEIPT, {"ok": inner})}) == {"a": inner}


def test_a_task_without_an_outcome_is_not_found() -> None:
    with pytest.raises(NotFound):
        resolve({"a": {"await/ok": TWO}}, GOOD)


@pytest.mark.parametrize("out", [{}, {"ok": 1, "error": 2}, {"value": 1}])
def test_an_outcome_is_ok_or_error(out: dict[str, Any]) -> None:
    with pytest.raises(MalformedBlock):
        resolve({"a": {"await/*": ONE}}, {ONE: Settled(RECEIPT, out)})


def nested(depth: int) -> dict[str, Any]:
    value: Any = 0
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


def test_the_depth_is_bounded() -> None:
    for depth in (LIMITS.depth - 1, LIMITS.depth):
        assert promises(nested(depth)) == ()
        assert resolve(nested(depth), {}) == nested(depth)
    for depth in (LIMITS.depth + 1, 100_000):
        with pytest.raises(LimitExceeded):
            promises(nested(depth))
        with pytest.raises(LimitExceeded):
            resolve(nested(depth), {})
