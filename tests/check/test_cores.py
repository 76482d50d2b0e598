"""Several cores come to the very same graph as one."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from benchmarks.lease import model as lease
from examples.store_add.check import CHECKS
from stmflow.check import Alike, Check, Graph, Move, Send, explore, prove
from stmflow.check import cores as spreading
from stmflow.check.quotient import Quotient
from tests.check import parcel
from tests.check.drawn import properties, stolen, swapped
from tests.check.parcel import Order

ROWS = [[Send(Order(name, timed=True))] for name in "ab"]
PARCELS = parcel.model(
    *(row[0] for row in ROWS),
    moves=[Move("stolen", stolen)],
    properties=properties("ab"),
    faults=parcel.NONE,
    bound=lambda view: view.now < 10,
)
SMALL = {
    "two leases": lease("ab", lively=True),
    "parcels, with a bound": PARCELS,
    "parcels that are alike": replace(PARCELS, symmetric=[Alike(ROWS, swapped("ab"))]),
}


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every depth is worth it."""
    if not spreading.usable():
        pytest.skip("no processes are forked here")
    monkeypatch.setattr(spreading, "WORTH", 1)
    monkeypatch.setattr(spreading, "PORTION", 7)


def same(one: Graph, other: Graph) -> None:
    for name in ("states", "parents", "actions", "sights", "edges", "wrong", "reached", "cut"):
        assert getattr(one, name) == getattr(other, name), name
    assert (one.steps, one.depth, one.whole) == (other.steps, other.depth, other.whole)
    if isinstance(one, Quotient) and isinstance(other, Quotient):
        assert (one.turns, one.turned) == (other.turns, other.turned)


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_what_comes_out_is_the_same(name: str, every: bool) -> None:
    one, two = (explore(SMALL[name], every=every, cores=cores) for cores in (1, 2))
    same(one, two)


@pytest.mark.usefixtures("forking")
def test_a_process_that_is_killed_costs_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, prepare = count(), spreading._Worker.prepare

    def dies(worker: Any, at: int) -> Any:
        if next(calls) == 9:
            os._exit(9)
        return prepare(worker, at)

    monkeypatch.setattr(spreading._Worker, "prepare", dies)
    same(explore(lease("ab"), cores=3), explore(lease("ab")))


@pytest.mark.usefixtures("forking")
def test_what_a_property_raises_is_raised() -> None:
    def raises(check: Check) -> Check:
        return replace(check, bound=lambda view: 1 // (10 - len(view.states("parcel")) * 5) > -1)

    with pytest.raises(ZeroDivisionError):
        explore(raises(PARCELS), cores=2)


def test_a_depth_that_is_not_worth_it_is_not_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "WORTH", 10**9)
    monkeypatch.setattr(spreading, "_work", None)
    assert prove(lease("a", lively=True), cores=2).holds


@pytest.mark.acceptance
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_store_add_comes_out_the_same(check: Check) -> None:
    same(explore(check), explore(check, cores=2))
