"""Random walks: what they find is there, and the same seed finds it again."""

from __future__ import annotations

import pytest

from stmflow.check import Faults, Send, always, explore, prove, sometimes, walk
from stmflow.check.trace import line, steps
from tests.check.parcel import Order, Pack, may_break, model, parcel

A = parcel("a")
LOST = always("never lost", lambda v: getattr(v.state(A), "status", None) != "lost")


def test_a_walk_finds_what_is_wrong_and_shows_a_way_without_loops() -> None:
    report = walk(model(handlers={Pack: may_break}, faults=Faults(), properties=[LOST]), seed=1)
    (wrong,) = report.wrong
    states = [one.after for one in steps(report.graph, wrong)]
    assert len(set(states)) == len(states)
    assert states[-1] in prove(report.check).graph.states or wrong.property == "never lost"


def test_the_same_seed_takes_the_same_steps() -> None:
    check = model(handlers={Pack: may_break}, faults=Faults(), properties=[LOST])

    def told(seed: int) -> list[str]:
        report = walk(check, seed=seed)
        return [line(one.told) for one in steps(report.graph, report.wrong[0])]

    assert told(7) == told(7)


def test_a_walk_that_finds_nothing_proves_nothing() -> None:
    report = walk(model(), runs=10)
    assert (report.wrong, report.holds) == ([], False)


@pytest.mark.parametrize(("length", "found"), [(2, False), (3, True), (4, True)])
def test_a_walk_goes_no_further_than_it_is_told(length: int, found: bool) -> None:
    check = model(properties=[always("x", lambda v: getattr(v.state(A), "status", "") != "sent")])
    assert bool(walk(check, runs=1, length=length).wrong) is found


def test_walks_come_where_the_search_comes() -> None:
    check = model(Send(Order("a", timed=True)), handlers={Pack: may_break}, faults=Faults())
    ends = [
        sometimes(each, lambda v, each=each: getattr(v.state(A), "status", None) == each)
        for each in ("sent", "lost", "late")
    ]
    from dataclasses import replace

    check = replace(check, properties=ends)
    walked, searched = walk(check, runs=50).graph.reached, explore(check).reached
    assert {name for name, at in walked.items() if at} == {n for n, at in searched.items() if at}


def test_a_walk_ends_at_the_bound() -> None:
    report = walk(model(bound=lambda v: v.state(A) is None), runs=5)
    assert report.graph.depth == 1
