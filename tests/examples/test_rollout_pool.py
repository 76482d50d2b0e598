"""A pool's spec: a plan is a dry run, and applying it is a compare-and-swap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from examples.rollout.pool import KINDS, POOL, WORKERS, Apply, Change, Kind, Pool, flaws, plan
from stmflow import CID
from stmflow.testing import Trace

EAST = Kind("parcel", 1, "put/east", 2, ("bucket=east",))
WEST = Kind("parcel", 1, "put/west", 2, ("bucket=west",))
MAIN = Pool("main", (EAST, WEST))


def test_a_plan_names_every_change_and_nothing_else() -> None:
    more = replace(EAST, workers=3)
    newer = replace(WEST, version=2)
    assert plan(None, MAIN) == [Change("add", None, EAST), Change("add", None, WEST)]
    assert plan(MAIN, Pool("main", (WEST, EAST))) == []
    assert plan(MAIN, Pool("main", (more, newer))) == [
        Change("change", EAST, more),
        Change("remove", WEST, None),
        Change("add", None, newer),
    ]


def test_it_is_applied_on_the_spec_that_was_planned_on_and_on_no_other() -> None:
    pool = Trace(POOL).send(Apply("main", MAIN))
    assert pool.head is not None
    first = pool.head.state_cid
    assert first == CID.of(POOL.state_bytes(MAIN))
    one, other = Pool("main", (EAST,)), Pool("main", (WEST,))
    assert pool.send(Apply("main", one, first)).state == one
    assert pool.send(Apply("main", other, first)).refused == "Moved"
    assert pool.answer.detail == {"now": CID.of(POOL.state_bytes(one))}
    assert pool.send(Apply("main", other)).refused == "Moved"
    assert pool.state == one


def test_the_same_spec_again_changes_nothing_whoever_planned_it() -> None:
    pool = Trace(POOL).send(Apply("main", MAIN)).send(Apply("main", MAIN))
    assert pool.answer.kind == "no change"


def test_a_spec_that_cannot_work_is_refused() -> None:
    pool = Trace(POOL).send(Apply("main", Pool("other")))
    assert pool.refused == "InvalidSpec"
    assert pool.send(Apply("main", Pool("main", (EAST, EAST)))).refused == "InvalidSpec"
    assert pool.state is None


@pytest.mark.parametrize(
    ("refused", "allowed"),
    [
        ({"workers": -1}, {"workers": 0}),
        ({"workers": WORKERS + 1}, {"workers": WORKERS}),
        ({"version": 0}, {"version": 1}),
        ({"needs": ("east",)}, {"needs": ("bucket=east",)}),
        ({"needs": ("=east",)}, {"needs": ()}),
    ],
)
def test_every_bound_of_a_kind(refused: Any, allowed: Any) -> None:
    assert list(flaws(Pool("main", (replace(EAST, **allowed),)))) == []
    assert len(list(flaws(Pool("main", (replace(EAST, **refused),))))) == 1


@pytest.mark.parametrize(("count", "wrong"), [(KINDS - 1, 0), (KINDS, 0), (KINDS + 1, 1)])
def test_the_number_of_kinds_is_bounded(count: int, wrong: int) -> None:
    kinds = tuple(replace(EAST, task=f"t{n}") for n in range(count))
    assert len(list(flaws(Pool("main", kinds)))) == wrong
