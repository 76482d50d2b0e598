"""Exploring: small models whose states are counted by hand, every kind of property true and false,
every fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stmflow import Err, Job, Sleep
from stmflow.check import (
    Check,
    Faults,
    Move,
    Send,
    Told,
    View,
    always,
    at_rest,
    eventually,
    explore,
    leads_to,
    prove,
    sometimes,
    step,
)
from stmflow.check.search import NO_FAILURE, NO_IMPOSSIBLE, Graph
from stmflow.check.trace import line, steps
from stmflow.errors import InvalidWorkflow
from stmflow.workflow import job
from tests.check.parcel import (
    IMPOSSIBLE,
    NONE,
    PARCEL,
    UNCAUGHT,
    Box,
    Calm,
    Hurry,
    Order,
    Pack,
    Parcel,
    Poke,
    may_break,
    model,
    packs,
    parcel,
)

A = parcel("a")
OTHER = job("parcels", "a")
"""A job of no workflow here."""


def status(view: View, job: Job = A) -> str | None:
    state = view.state(job)
    return None if state is None else state.status


def counted(check: Check) -> tuple[int, int, int]:
    graph = explore(check)
    assert graph.whole
    return len(graph.states), graph.steps, graph.depth


# --- counted by hand


def test_a_task_is_asked_for_performed_and_settled() -> None:
    assert counted(model()) == (4, 3, 3)  # none, packing, answered, sent


def test_a_lost_answer_leads_back_and_not_further() -> None:
    # Then the box is packed already, which is a state of its own.
    assert counted(model(faults=Faults(lost=True, late=0))) == (5, 5, 3)


def test_a_late_attempt_is_there_or_not_in_every_later_state() -> None:
    # The three states after the order, each with and without it, and the first. Being late does
    # nothing here: the box is packed by then, unless the attempt of old is what packs it.
    graph = explore(model(faults=Faults(lost=False, late=1)))
    seen = {(status(graph.view(at)), bool(state[4])) for at, state in enumerate(graph.states)}
    assert seen == {
        (None, False),
        *((each, late) for each in ("packing", "sent") for late in (False, True)),
    }
    packed_by_nobody = [at for at in range(len(graph.states)) if _late_pack(graph, at)]
    assert len(graph.states) == 7 + len(packed_by_nobody)


def _late_pack(graph: Graph, at: int) -> bool:
    view, state = graph.view(at), graph.states[at]
    return status(view) == "packing" and bool(view.world) and not state[3]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_send_comes_at_most_so_often(times: int) -> None:
    check = model(Send(Order("a")), Send(Hurry("a"), times), handlers={Pack: _never})
    graph = explore(check)
    # Each hurry at time 0 arms the same timer: packing, with as many hurries left, and the timer or
    # the first one not armed yet; it fires once, at 10.
    armed = {(state[5][1], len(graph.view(at).open(A))) for at, state in enumerate(graph.states)}
    assert armed >= {(left, 2) for left in range(times)}
    assert (times, 2) not in armed


def test_two_jobs_multiply() -> None:
    assert counted(model(Send(Order("a")), Send(Order("b")))) == (16, 24, 6)


def test_a_send_without_end_may_always_come_and_costs_no_state() -> None:
    assert counted(model(Send(Order("a"), None))) == (4, 3, 3)


def _never(task: Pack, box: Box) -> Iterator[tuple[Any, Box]]:
    return iter(())


# --- timers


def timed(*sends: Send, **how: Any) -> Check:
    return model(Send(Order("a", timed=True)), *sends, **how)


def test_a_timer_may_fire_before_everything_or_after() -> None:
    graph = explore(timed())
    ends = {(status(graph.view(at)), graph.view(at).now) for at in range(len(graph.states))}
    assert {("late", 10), ("sent", 0), ("packing", 0), (None, 0)} == ends


def test_a_timer_that_is_replaced_fires_once_and_at_the_new_time() -> None:
    graph = explore(timed(Send(Hurry("a")), handlers={Pack: _never}))
    for at in range(len(graph.states)):
        timers = [task for task in graph.view(at).open(A) if isinstance(task, Sleep)]
        assert len(timers) <= 1
    assert {status(graph.view(at)) for at in range(len(graph.states))} == {None, "packing", "late"}


def test_a_timer_that_is_cancelled_never_fires() -> None:
    calm = timed(
        Send(Calm("a")),
        handlers={Pack: _never},
        properties=[step("calm is calm", _no_fire_when_calm)],
    )
    assert prove(calm).holds
    graph = explore(calm)
    resting = [at for at, state in enumerate(graph.states) if state[5] == (0, 0)]
    assert any(not [t for t in graph.view(at).open(A) if isinstance(t, Sleep)] for at in resting)


def _no_fire_when_calm(before: View, action: Told, after: View) -> bool:
    armed = any(isinstance(task, Sleep) for task in before.open(A))
    return action.what != "fire" or armed


def test_time_may_pass_a_deadline_before_its_timer_fires() -> None:
    def late_hurry(view: View) -> bool:
        return status(view) == "packing" and view.now > 10

    check = timed(handlers={Pack: _never}, properties=[sometimes("overdue", late_hurry)])
    assert prove(check).unreached == ["overdue"]
    from dataclasses import replace

    assert prove(replace(check, faults=Faults(lost=False, late=0, overdue=True))).holds


# --- properties, true and false


def failing(*properties: Any, **how: Any) -> list[tuple[str, int]]:
    """What does not hold of a parcel that may break: (its name, steps of the trace)."""
    check = model(**({"handlers": {Pack: may_break}, "properties": properties} | how))
    report = prove(check, every=True)
    return [(one.property, len(steps(report.graph, one))) for one in report.wrong]


def test_always() -> None:
    assert failing(always("ordered or not", lambda view: True)) == []
    assert failing(always("never lost", lambda v: status(v) != "lost")) == [("never lost", 3)]
    assert failing(always("false at once", lambda v: False)) == [("false at once", 0)]


def test_sometimes() -> None:
    check = model(
        properties=[
            sometimes("sent", lambda v: status(v) == "sent"),
            sometimes("lost", lambda v: status(v) == "lost"),
        ]
    )
    report = prove(check)
    assert (report.unreached, report.wrong, report.holds) == (["lost"], [], False)


def test_step() -> None:
    def settled_once(before: View, action: Told, after: View) -> bool:
        return action.what != "settle" or status(before) == "packing"

    def never_settled(before: View, action: Told, after: View) -> bool:
        return action.what != "settle"

    assert failing(step("settled once", settled_once)) == []
    assert failing(step("never settled", never_settled)) == [("never settled", 3)]


def test_at_rest() -> None:
    ended = at_rest("all ends", lambda v: status(v) in (None, "sent", "lost"))
    packed = at_rest("all is packed", lambda v: status(v) is None or bool(v.world))
    assert failing(ended) == []
    assert failing(packed) == [("all is packed", 3)]


def test_eventually_and_leads_to() -> None:
    sent = eventually("sent", lambda v: status(v) == "sent")
    ends = leads_to("ends", lambda v: status(v) == "packing", lambda v: status(v) != "packing")
    fair = (Send(Order("a"), fair=True),)
    assert failing(sent, sends=fair, handlers={Pack: packs}) == []
    assert failing(ends) == []
    assert failing(sent, sends=fair) == [("sent", 3)]  # it may break
    assert failing(sent, handlers={Pack: packs}) == [("sent", 0)]  # nobody has to order


def test_an_answer_that_is_lost_for_ever_is_no_excuse_but_a_handler_that_never_answers_is() -> None:
    ends = leads_to("ends", lambda v: status(v) == "packing", lambda v: status(v) != "packing")
    assert failing(ends, faults=Faults()) == []
    assert failing(ends, handlers={Pack: _never}) == [("ends", 1)]


def test_an_impossible_cell_is_found_whatever_is_asked() -> None:
    report = prove(Check([IMPOSSIBLE], sends=[Send(Poke("a")), Send(Poke("a"))]))
    (wrong,) = report.wrong
    assert wrong.property == NO_IMPOSSIBLE
    assert len(steps(report.graph, wrong)) == 2


def test_a_failure_that_nothing_catches_is_found_unless_it_may_park() -> None:
    check = Check([UNCAUGHT], sends=[Send(Poke("a"))], handlers={Pack: _fails}, faults=NONE)
    (wrong,) = prove(check).wrong
    assert wrong.property == NO_FAILURE
    from dataclasses import replace

    parked = replace(check, parks=True, properties=[at_rest("rests", lambda view: True)])
    report = prove(parked)
    assert report.holds
    assert not report.vacuous
    assert len(report.graph.states) == 4  # and there it stays: none, asked, failed, parked


def test_what_is_parked_waits_for_ever() -> None:
    done = leads_to("done", lambda v: v.state(UNCAUGHT.job("a")) is not None, lambda v: False)
    check = Check(
        [UNCAUGHT],
        sends=[Send(Poke("a"))],
        handlers={Pack: _fails},
        properties=[done],
        faults=NONE,
        parks=True,
    )
    (wrong,) = prove(check).wrong
    assert wrong.text == "never comes: nothing is left to happen"


def _fails(task: Pack, world: Any) -> Iterator[tuple[Any, Any]]:
    yield Err("Broken"), world


# --- limits, bounds, vacuity


@pytest.mark.parametrize(("limit", "whole"), [(3, False), (4, True), (5, True)])
def test_a_limit_ends_the_search_and_says_so(limit: int, whole: bool) -> None:
    report = prove(model(), limit=limit)
    assert report.graph.whole is whole
    assert report.holds is whole


def test_beyond_the_bound_nothing_is_followed_nor_asked_to_come() -> None:
    check = model(
        bound=lambda v: status(v) is None,
        properties=[leads_to("sent", lambda v: status(v) == "packing", lambda v: False)],
    )
    report = prove(check)
    assert len(report.graph.states) == 2
    assert report.graph.cut == {1}
    assert report.holds


def test_what_was_never_put_to_the_test_is_told() -> None:
    check = model(
        Send(Order("a")),
        Send(Hurry("b")),
        moves=[Move("nothing", lambda world: [world])],
        properties=[
            leads_to("from lost", lambda v: status(v) == "lost", lambda v: True),
            at_rest("rests", lambda view: True),
        ],
        handlers={Pack: packs, Order: packs},
    )
    assert prove(check).vacuous == [
        "from lost: what it begins with is never met",
        "Hurry is never accepted",
        "the world never does nothing",
        "Order is never performed",
    ]


def test_a_task_without_a_model_is_refused_by_name() -> None:
    with pytest.raises(InvalidWorkflow, match="no handler for Pack"):
        explore(model(handlers={}))


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (lambda task, world: None, "the model of Pack raised TypeError: 'NoneType'"),
        (lambda task, world: [1 / 0], "the model of Pack raised ZeroDivisionError"),
        (lambda task, world: ["Packed"], "the model of Pack raised ValueError: too many values"),
        (lambda task, world: [(None, [1])], "a world must be a frozen value: unhashable"),
    ],
)
def test_a_model_that_raises_or_gives_no_pairs_is_refused_by_name(answers: Any, why: str) -> None:
    with pytest.raises(InvalidWorkflow, match=why):
        explore(model(handlers={Pack: answers}))


def test_so_is_a_move_that_does() -> None:
    with pytest.raises(InvalidWorkflow, match="the move 'drift' raised TypeError: 'int'"):
        explore(model(moves=[Move("drift", lambda world: 5)]))  # type: ignore[arg-type, return-value]


def test_a_property_that_raises_is_refused_by_name() -> None:
    for one in (
        always("x", lambda v: v.state(A).status != "lost"),
        leads_to("x", lambda v: v.state(A).status == "lost", lambda v: True),
        at_rest("x", lambda v: bool(1 / 0)),
        step("x", lambda before, told, after: bool(1 / 0)),
    ):
        with pytest.raises(InvalidWorkflow, match=r"property 'x' raised \w+Error: "):
            prove(model(properties=[one]))


@pytest.mark.parametrize(
    "look",
    [
        lambda view: view.states("parcels") == {},
        lambda view: view.state(OTHER) is None,
        lambda view: view.open(OTHER) == [],
        lambda view: view.asked(OTHER) == [],
    ],
)
def test_a_workflow_that_the_check_does_not_have_is_not_taken_for_empty(
    look: Callable[[View], bool],
) -> None:
    with pytest.raises(InvalidWorkflow, match="raised UnknownWorkflow: workflow 'parcels'"):
        explore(model(properties=[always("all sent", look)]))


def test_an_event_that_no_workflow_has_is_refused_by_name() -> None:
    with pytest.raises(InvalidWorkflow, match="has the event Parcel"):
        explore(model(Send(Parcel("a"))))


def test_a_start_that_fails_is_refused() -> None:
    def start(tx: Any) -> None:
        tx.apply(PARCEL.job("a"), Order(5))  # type: ignore[arg-type]

    with pytest.raises(InvalidWorkflow, match="start of the check failed"):
        explore(model(start=start))


def test_a_trace_reads_in_the_words_of_the_workflow() -> None:
    check = model(handlers={Pack: may_break}, properties=[always("x", lambda v: not v.world)])
    report = prove(check)
    told = [line(one.told) for one in steps(report.graph, report.wrong[0])]
    assert told == [
        "send parcel: Order(name='a', timed=False)  committed",
        "perform parcel: Pack(name='a')  None",
    ]
