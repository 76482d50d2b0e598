"""A macro-step: which cells are taken, in which order states are left and entered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from stmflow import LIMITS, Err, perform
from stmflow.errors import InvalidWorkflow, LimitExceeded, ReducerFailed
from stmflow.statechart import (
    Chart,
    Did,
    Done,
    Final,
    Go,
    History,
    Invoke,
    Parallel,
    Refuse,
    State,
    Stay,
)
from stmflow.testing import Trace


@dataclass(frozen=True, slots=True)
class Log:
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class A:
    pass


@dataclass(frozen=True, slots=True)
class B:
    pass


@dataclass(frozen=True, slots=True)
class C:
    pass


@dataclass(frozen=True, slots=True)
class D:
    pass


@dataclass(frozen=True, slots=True)
class Begin:
    pass


@dataclass(frozen=True, slots=True)
class Work:
    name: str = "work"


@dataclass(frozen=True, slots=True)
class Worked:
    value: int


@dataclass(frozen=True, slots=True)
class Failed:
    error: Err


def says(text: str) -> Any:
    """An act that writes a word into the log."""
    return lambda event, log: replace(log, said=(*log.said, text))


def told(name: str, **how: Any) -> State:
    """A state that says when it is entered and left."""
    kind = how.pop("kind", State)
    how.setdefault("entry", says(f"+{name}"))
    how.setdefault("exit", says(f"-{name}"))
    return kind(name, **how)  # type: ignore[no-any-return]


def chart(*states: State, **how: Any) -> Chart:
    given: dict[str, Any] = {
        "data": Log,
        "start": lambda event: Log(),
        "events": (Begin, A, B, C, D, Worked, Failed),
        "begin": (Begin,),
        "tasks": (Work,),
        **how,
    }
    return Chart("chart", states=states, **given)


def begun(*states: State, **how: Any) -> Trace:
    return Trace(chart(*states, **how).workflow).send(Begin())


def said(trace: Trace, *events: Any) -> tuple[str, ...]:
    """What was said because of these events."""
    before = len(trace.state.data.said)
    for event in events:
        trace.send(event)
    return tuple(trace.state.data.said[before:])


# --- hierarchy ----------------------------------------------------------------------------------


def nest() -> Trace:
    """a{b{c, d}, e}, f"""
    return begun(
        told(
            "a",
            states=(
                told(
                    "b",
                    on={B: "e", D: Go("d", internal=True)},
                    states=(told("c", on={A: "f"}), told("d", on={A: "c"})),
                ),
                told("e", on={A: "d"}),
            ),
            on={C: "f"},
        ),
        told("f", on={A: "a", B: "d"}),
    )


def test_a_state_is_entered_with_its_first_child_from_the_outside_in() -> None:
    trace = nest()
    assert trace.state.active == ("c",)
    assert trace.state.data.said == ("+a", "+b", "+c")


def test_exits_run_from_the_inside_out_and_before_entries() -> None:
    assert said(nest(), A()) == ("-c", "-b", "-a", "+f")


def test_what_a_state_does_not_answer_its_parents_do() -> None:
    assert said(nest(), B()) == ("-c", "-b", "+e")
    assert said(nest(), C()) == ("-c", "-b", "-a", "+f")


def test_a_target_deep_inside_enters_what_is_around_it() -> None:
    trace = nest()
    assert said(trace, A(), B()) == ("-c", "-b", "-a", "+f", "-f", "+a", "+b", "+d")


def test_an_internal_cell_does_not_leave_its_state() -> None:
    assert said(nest(), D()) == ("-c", "+d")


def test_an_external_one_does() -> None:
    trace = begun(told("a", on={A: "c"}, states=(told("b"), told("c"))))
    assert said(trace, A()) == ("-b", "-a", "+a", "+c")


def test_an_act_runs_between_exits_and_entries() -> None:
    trace = begun(told("a", on={A: Go("b", do=says("act"))}), told("b"))
    assert said(trace, A()) == ("-a", "act", "+b")


def test_a_cell_without_a_target_acts_and_stays() -> None:
    trace = begun(told("a", on={A: Go(do=says("act"))}))
    assert said(trace, A()) == ("act",)


def test_the_first_cell_whose_guard_holds_is_taken() -> None:
    full = lambda event, log: len(log.said) > 1  # noqa: E731
    trace = begun(told("a", on={A: [Go("c", when=full), Go(do=says("no"))]}), told("c"))
    assert said(trace, A(), A()) == ("no", "-a", "+c")


def test_a_guard_may_see_what_is_active() -> None:
    inside = lambda event, log, active: {"a", "b"} <= active and "c" not in active  # noqa: E731
    trace = begun(State("a", states=(State("b", on={A: Go("c", when=inside)}),)), State("c"))
    assert trace.send(A()).state.active == ("c",)


# --- answers ------------------------------------------------------------------------------------


def test_the_four_answers() -> None:
    trace = begun(State("a", on={A: Stay(), B: Refuse("No"), C: Go(do=says("x"))}))
    head = trace.head
    assert trace.send(A()).answer.kind == "no change"
    assert trace.send(B()).refused == "No"
    assert trace.send(D()).answer.kind == "ignored"
    assert trace.head is head
    assert trace.send(C()).answer.kind == "committed"


def test_a_refusal_counts_only_where_no_region_takes_the_event() -> None:
    regions = Parallel(
        "p",
        states=(
            State(
                "r", states=(State("a", on={A: Refuse("No"), B: Refuse("No"), C: "b"}), State("b"))
            ),
            State("s", states=(State("x", on={A: "y", B: Stay()}), State("y"))),
        ),
    )
    trace = begun(regions)
    assert trace.send(B()).answer.kind == "no change"
    assert trace.send(A()).state.active == ("a", "y")
    assert trace.send(A()).refused == "No"


def test_a_job_begins_by_an_event_only_if_a_cell_takes_it() -> None:
    states = (State("a", on={A: "b", B: Stay(), C: Refuse("No")}), State("b"))
    for event, kind in ((B(), "no change"), (C(), "rejected"), (D(), "ignored")):
        trace = Trace(chart(*states).workflow).send(event)
        assert (trace.answer.kind, trace.head) == (kind, None)
    assert Trace(chart(*states).workflow).send(A()).state.active == ("b",)


def test_what_follows_by_itself_begins_no_job() -> None:
    states = (State("a", always="b"), State("b", on={A: "c"}), State("c"))
    trace = Trace(chart(*states).workflow).send(D())
    assert (trace.answer.kind, trace.head) == ("ignored", None)
    assert trace.send(A()).state.active == ("c",)


def test_a_job_may_end_where_it_begins() -> None:
    trace = begun(told("a", kind=Final))
    assert (trace.state.active, trace.state.data.said) == (("a",), ("+a", "-a"))


# --- regions ------------------------------------------------------------------------------------


def regions() -> Trace:
    return begun(
        told(
            "p",
            kind=Parallel,
            states=(
                told("r", states=(told("a", on={A: "b", B: "z"}), told("b"))),
                told("s", states=(told("x", on={A: "y", B: Go("y")}), told("y", on={C: "a"}))),
            ),
        ),
        told("z", on={A: Go(("b", "y")), B: "y"}),
    )


def test_regions_are_entered_and_left_in_document_order() -> None:
    trace = regions()
    assert trace.state.data.said == ("+p", "+r", "+a", "+s", "+x")
    assert said(trace, B()) == ("-x", "-s", "-a", "-r", "-p", "+z")


def test_each_region_takes_an_event_for_itself() -> None:
    assert said(regions(), A()) == ("-x", "-a", "+b", "+y")


def test_several_targets_enter_several_regions() -> None:
    trace = regions().send(B())
    assert trace.send(A()).state.active == ("b", "y")


def test_a_target_in_one_region_enters_the_others_too() -> None:
    assert regions().send(B()).send(B()).state.active == ("a", "y")


def test_a_cell_that_leaves_all_regions_enters_them_anew() -> None:
    trace = regions().send(A())
    assert said(trace, C()) == ("-y", "-s", "-b", "-r", "-p", "+p", "+r", "+a", "+s", "+x")


def test_of_two_cells_that_clash_the_inner_state_s_is_taken() -> None:
    trace = begun(
        Parallel(
            "p",
            on={A: "out"},
            states=(
                State("r", states=(State("a"),)),
                State("s", states=(State("x", on={A: "y"}), State("y"))),
            ),
        ),
        State("out"),
    )
    assert trace.send(A()).state.active == ("a", "y")


# --- history ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("deep", "leaf"), [(False, "c"), (True, "d")])
def test_a_history_is_where_its_state_was_left(deep: bool, leaf: str) -> None:
    trace = begun(
        State(
            "a",
            on={B: "out"},
            states=(
                State("first"),
                State("b", states=(State("c", on={A: "d"}), State("d"))),
                History("was", default="b", deep=deep),
            ),
        ),
        State("out", on={C: "was"}),
        initial="out",
    )
    assert trace.send(C()).state.active == ("c",), "the default, at the first time"
    trace.send(A()).send(B())
    assert trace.state.memory == (("was", ("d",) if deep else ("b",)),)
    assert trace.send(C()).state.active == (leaf,)


def test_a_deep_history_remembers_every_region() -> None:
    trace = begun(
        Parallel(
            "p",
            on={B: "out"},
            states=(
                State("r", states=(State("a", on={A: "b"}), State("b"))),
                State("s", states=(State("x", on={C: "y"}), State("y"))),
                History("was", default=Go(("a", "x")), deep=True),
            ),
        ),
        State("out", on={D: "was"}),
    )
    trace.send(A()).send(B()).send(D())
    assert trace.state.active == ("b", "x")


def test_the_default_of_a_history_may_act() -> None:
    trace = begun(
        State("out", on={A: "was"}),
        told("a", states=(told("b"), History("was", default=Go("b", do=says("first"))))),
    )
    assert said(trace, A()) == ("+a", "first", "+b")


# --- final states -------------------------------------------------------------------------------


def test_a_state_is_done_when_its_final_child_is_entered() -> None:
    trace = begun(
        State("a", done="z", states=(State("b", on={A: "end"}), Final("end"))),
        told("z"),
    )
    assert trace.send(A()).state.active == ("z",)


def test_a_parallel_state_is_done_when_every_region_is() -> None:
    region = lambda name, event: State(  # noqa: E731
        name, states=(State(f"{name}1", on={event: f"{name}2"}), Final(f"{name}2"))
    )
    trace = begun(Parallel("p", done="z", states=(region("r", A), region("s", B))), State("z"))
    assert trace.send(A()).state.active == ("r2", "s1")
    assert trace.send(B()).state.active == ("z",)


def test_done_tells_what_the_final_state_gives() -> None:
    def keep(event: Done, log: Log) -> Log:
        return Log((f"{event.state}={event.value}",))

    trace = begun(
        State(
            "a",
            done=Go("z", do=keep),
            states=(State("b", on={A: "end"}), Final("end", gives=lambda event, log: 7)),
        ),
        State("z"),
    )
    assert trace.send(A()).state.data.said == ("a=7",)


def test_a_job_that_has_come_to_its_end_ignores_everything() -> None:
    trace = begun(told("a", on={A: "end"}, invoke=WORK), told("end", kind=Final))
    assert said(trace, A()) == ("-a", "+end", "-end")
    assert (trace.state.active, trace.ready) == (("end",), [])
    assert trace.send(A()).answer.kind == "ignored"


# --- what follows by itself ---------------------------------------------------------------------


def test_eventless_cells_follow_in_the_same_commit() -> None:
    full = lambda event, log: len(log.said) >= 3  # noqa: E731
    trace = begun(
        told("a", on={A: "b"}),
        told("b", always=[Go("d", when=full), "c"]),
        told("c"),
        told("d"),
    )
    revisions = len(trace.history)
    assert said(trace, A()) == ("-a", "+b", "-b", "+d")
    assert len(trace.history) == revisions + 1


def test_what_an_act_raises_comes_before_anything_else() -> None:
    def act(event: A, log: Log) -> Did:
        return Did(log, raised=[B(), C()], sent=[D()])

    trace = begun(
        State(
            "a",
            on={A: Go(do=act), B: Go(do=says("b")), C: Go(do=says("c")), D: Go(do=says("d"))},
        )
    )
    assert said(trace, A()) == ("b", "c", "d")


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_micro_steps_are_bounded(off: int) -> None:
    """`chart_microsteps`: the event itself is the first of them."""
    last = LIMITS.chart_microsteps + off - 1

    @dataclass(frozen=True, slots=True)
    class Count:
        n: int = 0

    trace = Trace(
        Chart(
            "count",
            data=Count,
            start=lambda event: Count(),
            events=(Begin, A),
            begin=(Begin,),
            states=(
                State("a", on={A: "b"}),
                State(
                    "b",
                    always=Go(
                        when=lambda event, count: count.n < last,
                        do=lambda event, count: Count(count.n + 1),
                    ),
                ),
            ),
        ).workflow
    ).send(Begin())
    if off > 0:
        with pytest.raises(ReducerFailed, match="micro-steps"):
            trace.send(A())
        assert trace.state.data.n == 0
    else:
        assert trace.send(A()).state.data.n == last


# --- what is invoked, and what waits ------------------------------------------------------------

WORK = Invoke(lambda event, log: Work(), done=Worked, error=Failed)


def test_an_invocation_becomes_an_event() -> None:
    trace = begun(State("a", invoke=WORK, on={Worked: "b", Failed: "c"}), State("b"), State("c"))
    assert trace.ready == [Work()]
    assert trace.succeed(Work, 5).state.active == ("b",)


def test_a_failure_does_too() -> None:
    trace = begun(State("a", invoke=WORK, on={Worked: "b", Failed: "c"}), State("b"), State("c"))
    assert trace.fail(Work, "Broken").state.active == ("c",)


def test_an_invocation_is_cancelled_with_its_state_and_its_answer_closed() -> None:
    trace = begun(State("a", invoke=WORK, on={A: "b", Worked: "c"}), State("b"), State("c"))
    (task,) = trace.outbox
    trace.send(A())
    assert trace.ready == []
    assert trace.succeed(task, 5).answer.kind == "closed"
    assert trace.state.active == ("b",)


def test_a_state_that_is_entered_again_invokes_again() -> None:
    trace = begun(State("a", invoke=WORK, on={A: "a", Worked: "b"}), State("b"))
    (first,) = trace.outbox
    trace.send(A())
    (second,) = trace.outbox
    assert first != second
    assert trace.succeed(first, 1).answer.kind == "closed"
    assert trace.succeed(second, 2).state.active == ("b",)


def test_nothing_is_invoked_by_a_state_that_is_only_passed() -> None:
    trace = begun(
        State("a", on={A: "b"}),
        State("b", invoke=WORK, after={timedelta(seconds=1): "a"}, always="c"),
        State("c"),
    )
    trace.send(A())
    assert (trace.ready, trace.timers) == ([], [])


@pytest.mark.parametrize(("ms", "leaf"), [(29_999, "a"), (30_000, "b"), (30_001, "b")])
def test_a_timer_fires_at_its_time_after_entry(ms: int, leaf: str) -> None:
    trace = begun(
        State("a", after={timedelta(seconds=30): "b"}, on={A: Go(do=says("x"))}), State("b")
    )
    trace.pass_time(seconds=10).send(A())
    assert trace.pass_time(until=ms).state.active == (leaf,)


def test_a_timer_ends_with_its_state() -> None:
    trace = begun(
        State("a", after={timedelta(seconds=30): "c"}, on={A: "b"}), State("b"), State("c")
    )
    trace.send(A())
    assert trace.timers == []
    assert trace.pass_time(hours=1).state.active == ("b",)


def test_a_timer_outlives_what_happens_below_its_state() -> None:
    trace = begun(
        State(
            "a",
            after={timedelta(seconds=30): "z"},
            states=(State("b", on={A: "c"}), State("c")),
        ),
        State("z"),
    )
    trace.pass_time(seconds=20).send(A())
    assert trace.pass_time(until=30_000).state.active == ("z",)


def test_effects_of_exits_stand_before_those_of_entries() -> None:
    ask = lambda name: lambda event, log: (log, [perform(Work(name))])  # noqa: E731
    trace = begun(
        State("a", exit=ask("exit"), on={A: Go("b", do=ask("act"))}), State("b", entry=ask("entry"))
    )
    assert trace.send(A()).ready == [Work("exit"), Work("act"), Work("entry")]


# --- what is refused before any job exists ------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ((State("a"), State("a")), "two states"),
        ((State(""),), "no name"),
        ((State("a b"),), "no name"),
        ((State("a+b"),), "no name"),
        ((State("a", on={A: "b"}),), "no state 'b'"),
        ((State("a", initial="b", states=(State("c"),)), State("b")), "begin inside"),
        ((State("a", on={A: Go(("b", "c"))}), State("b"), State("c")), "exclude"),
        ((State("a", on={A: Go(("b", "c"))}, states=(State("b", states=(State("c"),)),)),), "excl"),
        ((Final("a", on={A: "a"}),), "final"),
        ((Parallel("p"),), "regions"),
        ((Parallel("p", states=(Final("f"),)),), "region"),
        ((State("a", states=(State("b"), History("h"))),), "default"),
        ((State("a", after={timedelta(0): "a"}),), "no time"),
        ((State("a", on={int: "a"}),), "not among events"),
        ((State("a", invoke=Invoke(lambda: Work(), Worked, Worked)),), "its field is error"),
        ((State("a", invoke=Invoke(lambda: Work(), done=int)),), "not among events"),
        ((State("a", always=Stay()),), "only go"),
    ],
)
def test_a_chart_that_cannot_work_is_refused(states: Any, why: str) -> None:
    with pytest.raises(InvalidWorkflow, match=why):
        chart(*states)


def guarded(event: Any, log: Log) -> bool:
    return True


@pytest.mark.parametrize(
    "states",
    [
        (State("a", always="a"),),
        (State("a", always=Go(do=says("x"))),),
        (State("a", always="b"), State("b", always="a")),
        (State("a", always=Go("b", when=guarded)), State("b", always=Go("a", when=guarded))),
        (
            State("a", always="b", states=(State("x"),)),
            State("b", states=(State("c", always="x"),)),
        ),
        (State("a", always="h", states=(State("b"), History("h", default="b"))),),
        (  # by what another region begins with
            State("a", always="c"),
            Parallel(
                "p",
                states=(
                    State("r", states=(State("b"), State("c"))),
                    State("s", states=(State("d", always="a"),)),
                ),
            ),
        ),
        (  # by what a deep history may remember
            State("a", always="h"),
            State(
                "b",
                states=(
                    State("c", states=(State("d"), State("e", always="a"))),
                    History("h", default="c", deep=True),
                ),
            ),
        ),
    ],
)
def test_eventless_cells_without_end_are_refused(states: Any) -> None:
    with pytest.raises(InvalidWorkflow, match="without end"):
        chart(*states)


@pytest.mark.parametrize(
    "states",
    [
        (State("a", always="b"), State("b", always="c"), State("c")),
        (State("a", always=Go("b", when=guarded)), State("b", on={A: "a"})),
        (State("a", always=Go(when=guarded, do=says("x"))),),
    ],
)
def test_those_that_come_to_an_end_are_not(states: Any) -> None:
    chart(*states)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_timer_is_at_most_so_long(off: int) -> None:
    state = State("a", after={timedelta(milliseconds=LIMITS.timer_max_ms + off): "a"})
    if off > 0:
        with pytest.raises(LimitExceeded):
            chart(state)
    else:
        chart(state)
