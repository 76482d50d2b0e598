"""What is alike is explored once: the same is found as without, and every trace is a real one."""

from __future__ import annotations

from dataclasses import replace
from math import factorial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.lease import JOBS, STATES, STEPS, WORKERS, model, sends
from stmflow import Job
from stmflow.check import Alike, Check, Move, Send, Transact, prove, replay, words
from stmflow.check.quotient import Quotient
from stmflow.check.symmetry import MOST
from stmflow.check.tla import module
from stmflow.errors import InvalidWorkflow
from tests.check import parcel
from tests.check.drawn import checks, nudge, stolen, swapped, told
from tests.check.parcel import Hurry, Order, Pack


def leases(*, failing: bool = True, workers: bool = True, lively: bool = False) -> Check:
    """Three jobs that are alike, and two workers."""
    rows = [sends(job, failing=failing) for job in JOBS]
    flat = [one for row in rows for one in row]
    by = [[one for one in flat if getattr(one.event, "worker", None) == each] for each in WORKERS]
    symmetric = [Alike(rows), *([Alike(by)] if workers else [])]
    return replace(model(failing=failing, lively=lively), symmetric=symmetric)


def unfolded(graph: Any) -> Any:
    assert isinstance(graph, Quotient)
    return graph.unfolded()


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(checks())
async def test_the_same_is_found_as_without(check: Check) -> None:
    plain = prove(replace(check, symmetric=()), every=True)
    found = prove(check, every=True)
    assert {one.property for one in found.wrong} == {one.property for one in plain.wrong}
    assert (found.unreached, found.vacuous) == (plain.unreached, plain.vacuous)
    orders = factorial(len(check.symmetric[0].rows))
    states = len(found.graph.states)
    assert states <= len(plain.graph.states) <= states * orders
    whole = unfolded(found.graph)
    assert len(whole.states) == len(plain.graph.states)
    assert whole.steps == plain.graph.steps
    assert sorted(repr(told(whole.machine, one)) for one in whole.states) == sorted(
        repr(told(plain.graph.machine, one)) for one in plain.graph.states
    )


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(checks(most=2))
async def test_every_trace_is_one_of_the_engine_and_as_short_as_without(check: Check) -> None:
    plain = prove(replace(check, symmetric=()), every=True)
    lengths = {one.property: len(plain.graph.way(one)) for one in plain.wrong}
    report = prove(check, every=True)
    for wrong in report.wrong:
        played = await replay(check, words(report.graph, wrong))
        assert played.breaks(wrong.property), (wrong.property, str(played))
        if not wrong.way:  # of a safety property
            assert len(report.graph.way(wrong)) == lengths[wrong.property]


def test_three_leases_and_two_workers_are_a_twelfth() -> None:
    graph = prove(leases()).graph
    assert (len(graph.states), graph.steps, graph.depth) == (7_106, 21_825, 21)
    assert len(prove(leases(workers=False)).graph.states) == 14_190  # 43 leases: 43·44·45/6


@pytest.mark.acceptance
@pytest.mark.parametrize("failing", [True, False])
def test_their_unfolded_graph_is_the_whole_one(failing: bool) -> None:
    report = prove(leases(lively=True, failing=failing))
    assert report.holds is failing
    whole = unfolded(report.graph)
    assert (len(whole.states), whole.steps) == (STATES, STEPS)


# --- what is not alike


def two(*, first: Any = None, world: Any = None, **how: Any) -> Check:
    """Two parcels that are said to be alike."""
    rows = [[first or Send(Order("a"))], [Send(Order("b"))]]
    alike = Alike(rows, world or swapped("ab"))
    return parcel.model(rows[0][0], rows[1][0], symmetric=[alike], **how)


def favoured(task: Pack, box: parcel.Box) -> Any:
    yield (None, box | {"a"}) if task.name == "a" else (None, box)


def first_only(box: parcel.Box) -> Any:
    if "a" in box:
        yield box - {"a"}


def picky(name: str) -> Transact:
    job = parcel.parcel(name)

    def body(tx: Any) -> None:
        if name == "a" and tx.read(job) is not None:
            tx.apply(job, Hurry(name))

    return Transact(f"nudge {name}", body)


def nudged(*nudges: Transact, **how: Any) -> Check:
    """Two parcels that are alike, but for what is done to them."""
    rows = [[Send(Order(name, timed=True)), one] for name, one in zip("ab", nudges, strict=True)]
    alike = Alike(rows, swapped("ab"))
    orders: list[Any] = [row[0] for row in rows]
    return parcel.model(*orders, transactions=nudges, symmetric=[alike], **how)


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (two(first=Send(Order("a"), 2)), "do not come as often"),
        (two(first=Send(Order("a", timed=True))), "leaves other tasks|asks for other tasks"),
        (two(handlers={Pack: favoured}), "one of the worlds"),
        (two(world=lambda box, one, other: box), "one of the worlds"),
        (two(world=lambda box, one, other: box | {"x"}), "one of the worlds"),
        (two(moves=[Move("stolen", first_only)]), "what stolen does is another thing"),
        (two(bound=lambda view: "a" not in view.world), "the bound tells apart"),
        (nudged(picky("a"), picky("b")), "is about other jobs"),
        (replace(two(), symmetric=[Alike([[nudge("a")], [Send(Order("b"))]])]), "are of two kinds"),
        (replace(two(), sends=[Send(Order("a"))]), "is not of the check"),
        (replace(two(), symmetric=[Alike([[Send(Order("a"))], []])]), "is longer"),
        (replace(two(), symmetric=[*two().symmetric] * 2), "4 orders together, but 2"),
    ],
)
def test_what_is_not_alike_is_refused(check: Check, why: str) -> None:
    with pytest.raises(InvalidWorkflow, match=why):
        prove(check)


def test_what_is_alike_is_not_refused() -> None:
    for check in (two(), two(moves=[Move("stolen", stolen)]), nudged(nudge("a"), nudge("b"))):
        assert prove(check).graph.whole


@pytest.mark.parametrize("rows", [7, 8])
def test_so_many_orders_are_tried_and_no_more(rows: int) -> None:
    sends = [Send(Order(name)) for name in "abcdefgh"[:rows]]
    alike = Alike([[one] for one in sends], swapped("abcdefgh"))
    check = parcel.model(*sends, symmetric=[alike], bound=lambda view: not view.states("parcel"))
    if factorial(rows) <= MOST:
        assert len(prove(check).graph.states) == 2
    else:
        with pytest.raises(InvalidWorkflow, match="orders of what is alike"):
            prove(check)


def test_jobs_to_which_nobody_sends_are_alike_if_they_are_named() -> None:
    def check(*jobs: Job) -> Check:
        def start(tx: Any) -> None:
            for job, name in zip(jobs, "ab", strict=True):
                tx.apply(job, Order(name, timed=True))

        transactions = [nudge("a"), nudge("b")]
        rows = [[transactions[at], job] for at, job in enumerate(jobs)]
        given: dict[str, Any] = {"transactions": transactions, "world": frozenset()}
        given |= {"symmetric": [Alike(rows, swapped("ab"))], "handlers": {Pack: parcel.packs}}
        return Check([parcel.PARCEL], start=start, faults=parcel.NONE, **given)

    jobs = (parcel.parcel("a"), parcel.parcel("b"))
    report = prove(check(*jobs))
    plain = prove(replace(check(*jobs), symmetric=()))
    assert plain.graph.whole
    assert len(report.graph.states) < len(plain.graph.states)


def test_a_quotient_is_not_exported() -> None:
    check = two()
    with pytest.raises(InvalidWorkflow, match="alike"):
        module(check, prove(check).graph)
