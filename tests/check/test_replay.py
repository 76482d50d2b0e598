"""A trace is what production does: played on the engine it ends in the same states, by CID."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import pytest

from stmflow import CID, Err, ignore
from stmflow.check import (
    Check,
    Diverged,
    Faults,
    Report,
    Send,
    View,
    always,
    eventually,
    leads_to,
    prove,
    replay,
    words,
)
from stmflow.check.search import NO_FAILURE, NO_IMPOSSIBLE, Graph, Wrong
from stmflow.errors import InvalidWorkflow
from tests.check.parcel import (
    IMPOSSIBLE,
    PARCEL,
    UNCAUGHT,
    Box,
    Hurry,
    Order,
    Pack,
    Poke,
    may_break,
    model,
    parcel,
)

A = parcel("a")


def never(name: str, status: str) -> Any:
    def test(view: View) -> bool:
        state = view.state(A)
        return state is None or state.status != status

    return always(name, test)


def shown(report: Report) -> tuple[Graph, Wrong, list[str]]:
    (wrong,) = report.wrong
    return report.graph, wrong, words(report.graph, wrong)


def states(graph: Graph, wrong: Wrong) -> dict[Any, CID]:
    """What the model says of the end of a trace."""
    at = wrong.after if wrong.after is not None else graph.states[(wrong.cycle or [wrong.at])[-1]]
    locals = [graph.machine.locals[one] for one in at[2]]
    jobs = zip(graph.machine.jobs, locals, strict=False)  # not all of them exist yet
    return {job: local.head.state_cid for job, local in jobs if local is not None}


async def test_a_counter_example_ends_in_the_same_states() -> None:
    check = model(
        Send(Order("a", timed=True)), handlers={Pack: may_break}, properties=[never("x", "lost")]
    )
    graph, wrong, lines = shown(prove(check))
    played = await replay(check, lines)
    assert played.breaks("x"), played
    assert played.states == states(graph, wrong)


@pytest.mark.parametrize("status", ["sent", "lost", "late"])
async def test_every_fault_replays(status: str) -> None:
    # Lost answers, late attempts and an overdue timer come in, as the shortest trace needs them.
    def test(view: View) -> bool:
        state = view.state(A)
        return state is None or state.status != status or view.now < 11 or bool(view.world)

    check = model(
        Send(Order("a", timed=True)),
        Send(Hurry("a")),
        handlers={Pack: may_break},
        faults=Faults(overdue=True),
        properties=[always("x", test)],
    )
    report = prove(check)
    if not report.wrong:
        assert status == "sent"  # it cannot be sent unpacked
        return
    graph, wrong, lines = shown(report)
    played = await replay(check, lines)
    assert played.breaks("x"), played
    assert played.states == states(graph, wrong)


async def test_a_walk_through_every_kind_of_step_replays() -> None:
    """From every state, its trace: all that the engine may do in this model."""
    check = model(
        Send(Order("a", timed=True)), handlers={Pack: may_break}, faults=Faults(overdue=True)
    )
    graph = prove(check).graph
    kinds = set()
    for at in range(len(graph.states)):
        wrong = Wrong("any", "is a state", at)
        lines = words(graph, wrong)
        kinds |= {one.split(" ")[0] for one in lines}
        played = await replay(check, lines)
        assert played.missing is None
        assert played.states == states(graph, wrong)
    assert kinds >= {"send", "perform", "settle", "answer", "lease", "fire", "time:"}


async def test_what_never_comes_is_shown_to_the_end() -> None:
    ends = leads_to("ends", lambda v: v.state(A) is not None, lambda v: False)
    check = model(properties=[ends])
    _, _, lines = shown(prove(check))
    assert (await replay(check, lines)).breaks("ends")
    assert not (await replay(check, lines[:-1])).breaks("ends")


async def test_what_nobody_has_to_begin_is_shown_by_no_step_at_all() -> None:
    check = model(properties=[eventually("ordered", lambda v: v.state(A) is not None)])
    _, _, lines = shown(prove(check))
    assert lines == []
    assert (await replay(check, lines)).breaks("ordered")
    fair = replace(check, sends=[Send(Order("a"), fair=True)])
    assert not (await replay(fair, lines)).breaks("ordered")


async def test_a_check_that_is_not_pure_is_told() -> None:
    turns = iter(range(1_000))

    def drifts(task: Pack, box: Box) -> Iterator[tuple[Any, Box]]:
        yield None, box | {str(next(turns))}

    check = model(handlers={Pack: drifts}, properties=[always("x", lambda v: not v.world)])
    report = prove(check)
    with pytest.raises(InvalidWorkflow, match="another answer each time"):
        words(report.graph, report.wrong[0])


async def test_an_engine_that_does_otherwise_is_told() -> None:
    """A reducer that is not pure: the second time it is asked, it answers otherwise."""
    asked = iter(range(1_000))
    moody = copy(PARCEL)
    moody.update = lambda event, state: PARCEL.update(event, state) if next(asked) < 2 else ignore()
    check = model(properties=[never("x", "packing")])
    lines = ["send parcel: Order(name='a', timed=False)  committed"]
    with pytest.raises(Diverged):
        await replay(replace(check, workflows=[moody]), lines)


async def test_an_impossible_cell_and_a_parked_task_replay() -> None:
    check = Check([IMPOSSIBLE], sends=[Send(Poke("a"), 2)])
    _, wrong, lines = shown(prove(check))
    assert wrong.property == NO_IMPOSSIBLE
    assert (await replay(check, lines)).breaks(NO_IMPOSSIBLE)

    def fails(task: Pack, world: Any) -> Iterator[tuple[Any, Any]]:
        yield Err("Broken"), world

    check = Check([UNCAUGHT], sends=[Send(Poke("a"))], handlers={Pack: fails})
    _, wrong, lines = shown(prove(check))
    assert wrong.property == NO_FAILURE
    assert (await replay(check, lines)).breaks(NO_FAILURE)


async def test_a_trace_that_is_not_possible_any_more_breaks_nothing() -> None:
    check = model(handlers={Pack: may_break}, properties=[never("x", "lost")])
    _, _, lines = shown(prove(check))
    mended = copy(PARCEL)
    mended.update = lambda event, state: ignore()
    played = await replay(replace(check, workflows=[mended]), lines)
    assert played.missing == lines[0]
    assert not played.breaks("x")
    assert str(played) == f"not possible: {lines[0]}"


async def test_lines_that_read_alike_are_numbered() -> None:
    def twice(task: Pack, box: Box) -> Iterator[tuple[Any, Box]]:
        yield None, box
        yield None, box | {"a"}

    check = model(handlers={Pack: twice}, properties=[always("x", lambda v: "a" not in v.world)])
    _, _, lines = shown(prove(check))
    assert lines[-1].endswith("None #2")
    assert (await replay(check, lines)).breaks("x")
