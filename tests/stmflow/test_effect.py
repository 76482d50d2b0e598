"""The laws of effects: what a log of outcomes fires, in every order of completion."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmflow import codec
from stmflow.effect import (
    ANY,
    BAD_OUTCOME,
    DISMISSED,
    EXHAUSTED,
    And,
    Catch,
    Effect,
    Entry,
    Err,
    Perform,
    Plan,
    Progress,
    Sleep,
    Then,
    Together,
    cancel,
    deeper,
    outcome_bytes,
    outcome_of,
    outcome_plain,
    perform,
    progress,
    sleep,
    together,
)
from stmflow.errors import InvalidWorkflow, LimitExceeded
from stmflow.limits import LIMITS
from stmflow.schema import Data
from stmflow.workflow import Workflow


@dataclass(frozen=True)
class Task:
    n: int


@dataclass(frozen=True)
class Loose:
    value: Data


@dataclass(frozen=True)
class A:
    pass


@dataclass(frozen=True)
class B:
    pass


@dataclass(frozen=True)
class C:
    error: Err


@dataclass(frozen=True)
class D:
    error: Err


@dataclass(frozen=True)
class State:
    n: int


WORKFLOW = Workflow(
    "effects",
    state=State,
    events=(A, B, C, D),
    tasks=(Task, Loose),
    update=lambda event, state: (State(0), []),
)
FAILURES = ("Full", "Gone", "Late")


def leaf(n: int) -> Effect:
    return perform(Task(n))


leaves = st.integers(0, 7).map(leaf)
catching = st.lists(st.sampled_from(FAILURES), max_size=2, unique=True)


def trees(leaf: st.SearchStrategy[Effect]) -> st.SearchStrategy[Effect]:
    def grown(part: st.SearchStrategy[Effect]) -> st.SearchStrategy[Effect]:
        return st.one_of(
            st.builds(lambda a, b: a.and_(b), part, part),
            st.lists(part, min_size=1, max_size=3).map(lambda parts: together(*parts)),
            st.builds(lambda a, event: a.then(event), part, st.sampled_from((A, B))),
            st.builds(
                lambda a, event, names: a.catch(event, *names),
                part,
                st.sampled_from((C, D)),
                catching,
            ),
        )

    return st.recursive(leaf, grown, max_leaves=8).filter(lambda tree: deep(tree) <= 16)


def deep(tree: Effect) -> int:
    return 1 + max((deep(part) for part in parts_of(tree)), default=0)


def parts_of(tree: Effect) -> tuple[Effect, ...]:
    match tree:
        case And(first, second):
            return (first, second)
        case Together(parts):
            return parts
        case Then(body) | Catch(body):
            return (body,)
    return ()


def numbered(tree: Effect, counter: Iterator[int]) -> Effect:
    """The same tree with every leaf another task."""
    match tree:
        case Perform():
            return leaf(next(counter))
        case And(first, second):
            return And(numbered(first, counter), numbered(second, counter))
        case Together(parts):
            return Together(tuple(numbered(part, counter) for part in parts))
        case Then(body, event):
            return Then(numbered(body, counter), event)
        case Catch(body, event, names):
            return Catch(numbered(body, counter), event, names)
    raise AssertionError(tree)


def catchers(tree: Effect, task: Effect, above: tuple[Catch, ...] = ()) -> tuple[Catch, ...] | None:
    """The catch nodes above a task that stands once in the tree, nearest last."""
    if tree == task:
        return above
    inner = (*above, tree) if isinstance(tree, Catch) else above
    for part in parts_of(tree):
        found = catchers(part, task, inner)
        if found is not None:
            return found
    return None


outcomes = st.one_of(st.integers(0, 3), st.sampled_from(FAILURES).map(Err), st.just(Err(DISMISSED)))
NOTHING: Progress = Progress((), (), ())


class Run:
    """One effect under way: outcomes are accepted as the engine does, uncaught ones are parked."""

    def __init__(self, tree: Effect) -> None:
        self.plan = Plan(tree)
        self.log: dict[int, Entry] = {}
        self.withdrawn: frozenset[int] = frozenset()
        self.parked: set[int] = set()

    @property
    def now(self) -> Progress:
        return self.plan.progress(self.log, self.withdrawn)

    @property
    def choices(self) -> list[int]:
        return [number for number in self.now.ready if number not in self.parked]

    def after(self, number: int, outcome: Any) -> Progress:
        entry = Entry(len(self.log), outcome)
        return self.plan.progress({**self.log, number: entry}, self.withdrawn)

    def settle(self, number: int, outcome: Any) -> None:
        if self.after(number, outcome).uncaught:
            self.parked.add(number)
        else:
            self.log[number] = Entry(len(self.log), outcome)

    def withdraw(self, number: int) -> None:
        if number not in self.log:
            self.withdrawn |= {number}


def play(tree: Effect, data: st.DataObject, *, withdraw: bool = False) -> Iterator[Run]:
    """Outcomes and withdrawals in a drawn order, until nothing is left to do."""
    run = Run(tree)
    yield run
    while run.choices:
        if withdraw and data.draw(st.integers(0, 4)) == 0:
            run.withdraw(data.draw(st.sampled_from(range(len(run.plan.leaves)))))
        else:
            run.settle(data.draw(st.sampled_from(run.choices)), data.draw(outcomes))
        yield run


def events(tree: Effect, log: list[tuple[Effect, Any]]) -> list[tuple[Any, ...]]:
    """What fires, in order, by this log: everything that a workflow can see."""
    (seen,) = progress([tree], log)
    return [(fired.at, fired.event, fired.values, fired.error) for fired in seen.fired]


# --- algebra --------------------------------------------------------------------------------------


@given(a=trees(leaves), b=trees(leaves), c=trees(leaves), data=st.data())
def test_and_is_associative_up_to_the_events_fired(
    a: Effect, b: Effect, c: Effect, data: st.DataObject
) -> None:
    same_events(a.and_(b).and_(c), a.and_(b.and_(c)), data)


@given(a=trees(leaves), b=trees(leaves), c=trees(leaves), data=st.data())
def test_together_is_associative_up_to_the_events_fired(
    a: Effect, b: Effect, c: Effect, data: st.DataObject
) -> None:
    same_events(together(together(a, b), c), together(a, together(b, c)), data)


@given(a=trees(leaves), data=st.data())
def test_one_thing_together_is_that_thing(a: Effect, data: st.DataObject) -> None:
    same_events(together(a), a, data)


def same_events(left: Effect, right: Effect, data: st.DataObject) -> None:
    """Both fire the same under every log, also when named above."""
    left, right = left.then(A).catch(C), right.then(A).catch(C)
    if max(deep(left), deep(right)) > LIMITS.effect_depth:
        return
    tasks = data.draw(st.permutations(Plan(left).leaves))
    log: list[tuple[Effect, Any]] = []
    for task in [None, *tasks]:
        if task is not None:
            log.append((task, data.draw(outcomes)))
        assert events(left, log) == events(right, log)
        (one,), (two,) = progress([left], log), progress([right], log)
        ready = [[Plan(t).leaves[n] for n in p.ready] for t, p in ((left, one), (right, two))]
        assert ready[0] == ready[1]


# --- monotone -------------------------------------------------------------------------------------


@given(tree=trees(leaves), data=st.data())
def test_an_event_fired_stays_fired_and_unchanged(tree: Effect, data: st.DataObject) -> None:
    before: tuple[Any, ...] = ()
    for run in play(tree, data, withdraw=True):
        fired = run.now.fired
        assert fired[: len(before)] == before
        before = fired


@given(tree=trees(leaves), data=st.data())
def test_an_event_is_fired_by_the_receipt_that_is_added(tree: Effect, data: st.DataObject) -> None:
    """So the events of a receipt are those at its own place in the log: none comes late."""
    known = 0
    for run in play(tree, data):
        fresh = run.now.fired[known:]
        assert all(fired.at == len(run.log) - 1 for fired in fresh)
        known += len(fresh)


@given(tree=trees(leaves), data=st.data())
def test_what_is_ready_stays_ready_until_it_is_settled_or_withdrawn(
    tree: Effect, data: st.DataObject
) -> None:
    before: set[int] = set()
    for run in play(tree, data, withdraw=True):
        ready = set(run.now.ready)
        assert before - set(run.log) - run.withdrawn <= ready
        assert not ready & (set(run.log) | run.withdrawn)
        before = ready


@given(tree=trees(leaves), data=st.data())
def test_a_node_fires_at_most_once(tree: Effect, data: st.DataObject) -> None:
    nodes = sum(isinstance(node, (Then, Catch)) for node in walk(tree))
    for run in play(tree, data, withdraw=True):
        assert len(run.now.fired) <= nodes


def walk(tree: Effect) -> Iterator[Effect]:
    yield tree
    for part in parts_of(tree):
        yield from walk(part)


@given(tree=trees(leaves), data=st.data())
def test_progress_is_a_function_of_the_log_alone(tree: Effect, data: st.DataObject) -> None:
    for run in play(tree, data):
        shuffled = dict(data.draw(st.permutations(list(run.log.items()))))
        assert run.plan.progress(shuffled, run.withdrawn) == run.now
        assert Plan(tree).progress(run.log, run.withdrawn) == run.now


@given(tree=trees(leaves), data=st.data())
def test_what_is_ready_is_said_without_the_rest(tree: Effect, data: st.DataObject) -> None:
    for run in play(tree, data, withdraw=True):
        assert run.plan.ready(run.log, run.withdrawn) == run.now.ready


@pytest.mark.parametrize("count", [1, 2])
def test_of_tasks_side_by_side_those_are_ready_that_are_neither_settled_nor_withdrawn(
    count: int,
) -> None:
    plan = Plan(together(*map(leaf, range(count))))
    rest = tuple(range(1, count))
    assert plan.ready({}, frozenset()) == (0, *rest)
    assert plan.ready({0: Entry(0, 5)}, frozenset()) == rest
    assert plan.ready({}, frozenset([0])) == rest


@pytest.mark.parametrize(
    ("tree", "sleeps"),
    [
        (leaf(0), False),
        (sleep(until=1), True),
        (leaf(0).and_(sleep(until=1)), True),
        (sleep(until=1).and_(leaf(0)), True),
    ],
)
def test_an_effect_says_whether_some_sleep_in_it_may_end(tree: Effect, sleeps: bool) -> None:
    assert Plan(tree).sleeps is sleeps


# --- failures -------------------------------------------------------------------------------------


@given(tree=trees(leaves), data=st.data())
def test_a_failure_is_uncaught_exactly_where_no_node_above_names_it(
    tree: Effect, data: st.DataObject
) -> None:
    tree = numbered(tree, itertools.count())
    for run in play(tree, data):
        for number in run.choices:
            for name in FAILURES:
                seen = run.after(number, Err(name, number))
                above = catchers(tree, run.plan.leaves[number])
                assert above is not None
                caught = any(not node.names or name in node.names for node in above)
                assert bool(seen.uncaught) is not caught
                assert seen.uncaught in ((), (Err(name, number),))


@given(order=st.permutations(range(5)))
def test_of_several_failures_the_first_committed_one_is_caught(order: list[int]) -> None:
    tree = together(*map(leaf, range(5))).catch(C)
    log = [(leaf(n), Err("Full", n)) for n in order]
    for count in range(1, 6):
        (seen,) = progress([tree], log[:count])
        assert [fired.error for fired in seen.fired] == [Err("Full", order[0])]
        assert seen.uncaught == ()


def test_an_outcome_rises_to_the_nearest_node_that_names_it() -> None:
    tree = leaf(0).catch(C, "Full").catch(D, "Full", "Gone").catch(C)
    for name, event in (("Full", "C"), ("Gone", "D"), ("Late", "C")):
        assert events(tree, [(leaf(0), Err(name))]) == [(0, event, (), Err(name))]


def test_a_caught_failure_ends_its_branch_quietly() -> None:
    tree = leaf(0).catch(C, "Full").and_(leaf(1)).then(A).catch(D)
    (seen,) = progress([tree], [(leaf(0), Err("Full"))])
    assert [fired.event for fired in seen.fired] == ["C"]
    assert (seen.ready, seen.uncaught) == ((), ())


def test_the_other_parts_go_on_after_a_caught_failure() -> None:
    tree = together(leaf(0).catch(C), leaf(1)).then(A)
    (seen,) = progress([tree], [(leaf(0), Err("Full"))])
    assert seen.ready == (1,)
    (seen,) = progress([tree], [(leaf(0), Err("Full")), (leaf(1), 5)])
    assert [fired.event for fired in seen.fired] == ["C"]


def test_later_failures_that_a_fired_catch_names_are_absorbed() -> None:
    tree = together(leaf(0), leaf(1), leaf(2)).catch(C, "Full")
    (seen,) = progress([tree], [(leaf(1), Err("Full", 1)), (leaf(0), Err("Full", 0))])
    assert [fired.error for fired in seen.fired] == [Err("Full", 1)]
    assert seen.uncaught == ()


def test_later_failures_that_it_does_not_name_are_not() -> None:
    tree = together(leaf(0), leaf(1)).catch(C, "Full")
    (seen,) = progress([tree], [(leaf(1), Err("Full")), (leaf(0), Err("Gone"))])
    assert seen.uncaught == (Err("Gone"),)
    outer = tree.catch(D)
    assert events(outer, [(leaf(1), Err("Full")), (leaf(0), Err("Gone"))]) == [
        (0, "C", (), Err("Full")),
        (1, "D", (), Err("Gone")),
    ]


def test_nothing_behind_a_failure_is_asked_for() -> None:
    tree = leaf(0).and_(leaf(1)).catch(C)
    assert progress([tree], [(leaf(0), Err("Full"))])[0].ready == ()


def test_a_dismissed_task_ends_its_branch_and_fires_nothing() -> None:
    tree = leaf(0).and_(leaf(1)).then(A).catch(C).catch(D, DISMISSED)
    assert progress([tree], [(leaf(0), Err(DISMISSED))]) == [NOTHING]


# --- withdrawn ------------------------------------------------------------------------------------


def test_a_withdrawn_task_ends_its_branch_and_nothing_behind_it_is_asked_for() -> None:
    tree = together(leaf(0).and_(leaf(1)), leaf(2)).then(A).catch(C)
    (seen,) = progress([tree], [], [leaf(0)])
    assert seen == Progress((2,), (), ())
    (seen,) = progress([tree], [(leaf(2), 1)], [leaf(0)])
    assert seen == NOTHING


def test_a_withdrawn_task_not_yet_ready_ends_the_branch_when_it_is_reached() -> None:
    tree = leaf(0).then(B).and_(leaf(1)).then(A)
    (seen,) = progress([tree], [(leaf(0), 1)], [leaf(1)])
    assert [fired.event for fired in seen.fired] == ["B"]
    assert seen.ready == ()


def test_a_failure_beside_a_withdrawn_task_is_still_caught() -> None:
    tree = together(leaf(0), leaf(1)).catch(C)
    (seen,) = progress([tree], [(leaf(1), Err("Full"))], [leaf(0)])
    assert [fired.event for fired in seen.fired] == ["C"]


# --- equal tasks ----------------------------------------------------------------------------------


def test_equal_sleeps_are_one_and_others_are_not() -> None:
    second, minute = timedelta(seconds=1), timedelta(minutes=1)
    assert len(Plan(together(sleep(for_=second), sleep(for_=second))).leaves) == 1
    assert len(Plan(together(sleep(for_=second), sleep(for_=minute))).leaves) == 2


def test_equal_tasks_are_one_and_every_place_sees_its_outcome() -> None:
    tree = together(leaf(0).then(A), leaf(0).and_(leaf(1)).then(B), leaf(0))
    plan = Plan(tree)
    assert plan.leaves == [Perform(Task(0)), Perform(Task(1))]
    assert progress([tree], [])[0].ready == (0,)
    (seen,) = progress([tree], [(leaf(0), 5)])
    assert [fired.event for fired in seen.fired] == ["A"]
    assert seen.ready == (1,)


def test_a_task_settled_before_its_place_is_reached_counts_when_it_is() -> None:
    tree = together(leaf(0), leaf(1).and_(leaf(0)).then(A))
    assert events(tree, [(leaf(0), 5)]) == []
    assert events(tree, [(leaf(0), 5), (leaf(1), 6)]) == [(1, "A", (5,), None)]


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (0, False), (1, 1.0), (0.0, -0.0), ((1,), (True,))]
)
def test_tasks_that_only_python_holds_equal_are_two(one: Any, other: Any) -> None:
    """Equality is of what is stored: `1 == True == 1.0`, and each is another task."""
    tree = together(perform(Loose(one)), perform(Loose(other))).then(A)
    assert WORKFLOW.effect_bytes(perform(Loose(one))) != WORKFLOW.effect_bytes(
        perform(Loose(other))
    )
    assert len(Plan(tree).leaves) == 2


def test_a_name_is_part_of_what_a_task_is() -> None:
    plan = Plan(together(leaf(0), perform(Task(0), name="x"), perform(Task(0), name="y")))
    assert len(plan.leaves) == 3
    assert plan.names == {"x": 1, "y": 2}


def test_a_name_occurs_once_per_tree() -> None:
    for second in (Task(0), Task(1)):
        with pytest.raises(InvalidWorkflow, match="twice"):
            Plan(together(perform(Task(0), name="x"), perform(second, name="x")))
    with pytest.raises(InvalidWorkflow, match="twice"):
        Plan(together(perform(Task(0), name="x"), sleep(until=5, name="x", during=ANY)))


# --- values ---------------------------------------------------------------------------------------


def test_the_value_of_and_is_that_of_its_second_part() -> None:
    assert events(leaf(0).and_(leaf(1)).then(A), [(leaf(0), 5), (leaf(1), 6)]) == [
        (1, "A", (6,), None)
    ]


def test_the_values_of_together_are_those_of_its_parts_in_order() -> None:
    tree = together(leaf(0), together(leaf(1), leaf(2))).then(A)
    log = [(leaf(2), 7), (leaf(0), 5), (leaf(1), 6)]
    assert events(tree, log) == [(2, "A", (5, 6, 7), None)]


def test_an_event_takes_its_values_away() -> None:
    tree = together(leaf(0).then(B), leaf(1)).then(A)
    assert events(tree, [(leaf(0), 5), (leaf(1), 6)]) == [
        (0, "B", (5,), None),
        (1, "A", (6,), None),
    ]


def test_events_of_one_receipt_come_in_tree_order() -> None:
    tree = together(leaf(0).then(B), leaf(0).then(A)).and_(leaf(0).then(B)).then(A)
    assert [event for _, event, _, _ in events(tree, [(leaf(0), 5)])] == ["B", "A", "B", "A"]


def test_events_come_in_the_order_in_which_their_receipts_were_committed() -> None:
    tree = together(leaf(0).then(A), leaf(1).then(B))
    log = [(leaf(1), 6), (leaf(0), 5)]
    assert [(at, event) for at, event, _, _ in events(tree, log)] == [(0, "B"), (1, "A")]


# --- what may be made -----------------------------------------------------------------------------


def test_cancel_stands_only_at_the_top() -> None:
    for make in (
        lambda: leaf(0).and_(cancel("x")),
        lambda: cancel("x").and_(leaf(0)),
        lambda: cancel("x").then(A),
        lambda: cancel("x").catch(C),
        lambda: together(leaf(0), cancel("x")),
    ):
        with pytest.raises(InvalidWorkflow, match="top"):
            make()
    with pytest.raises(InvalidWorkflow):
        Plan(cancel("x"))


def test_an_event_is_named_by_its_type_or_by_its_tag() -> None:
    assert leaf(0).then("A") == leaf(0).then(A)
    assert leaf(0).catch("C", "Full") == leaf(0).catch(C, "Full")


def test_a_part_that_is_no_effect_is_refused_by_name() -> None:
    with pytest.raises(InvalidWorkflow, match="perform"):
        leaf(0).and_(Task(1))  # type: ignore[arg-type]
    with pytest.raises(InvalidWorkflow, match="at least one"):
        together()


def test_a_sleep_has_exactly_one_end() -> None:
    for ends in ({}, {"until": 5, "for_": timedelta(1)}):
        with pytest.raises(InvalidWorkflow, match="exactly one"):
            sleep(**ends)  # type: ignore[arg-type]
    for ends in ({"until": -1}, {"for_": timedelta(-1)}):
        with pytest.raises(InvalidWorkflow, match="before it begins"):
            sleep(**ends)  # type: ignore[arg-type]


def test_a_sleep_is_bounded() -> None:
    most = timedelta(milliseconds=LIMITS.timer_max_ms)
    tick = timedelta(milliseconds=1)
    assert sleep(for_=most - tick) == Sleep(for_ms=LIMITS.timer_max_ms - 1)
    assert sleep(for_=most) == Sleep(for_ms=LIMITS.timer_max_ms)
    with pytest.raises(LimitExceeded):
        sleep(for_=most + tick)


def test_during_takes_one_tag_or_several_in_any_order() -> None:
    assert sleep(until=1, during="Waiting") == Sleep(1, during=("Waiting",))
    assert sleep(until=1, during=("b", "a", "b")) == sleep(until=1, during=["a", "b"])
    assert sleep(until=1, during=ANY) == Sleep(1, during=ANY)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_an_effect_has_at_most_so_many_tasks(off: int) -> None:
    tree = together(*map(leaf, range(LIMITS.effect_tasks + off)))
    if off > 0:
        with pytest.raises(LimitExceeded, match="256 tasks"):
            Plan(tree)
    else:
        assert len(Plan(tree).leaves) == LIMITS.effect_tasks + off


def test_equal_tasks_count_once_against_that_limit() -> None:
    assert len(Plan(together(*[leaf(0)] * (LIMITS.effect_tasks + 1))).leaves) == 1


def chain(depth: int) -> Effect:
    tree = leaf(0)
    for n in range(depth - 1):
        tree = tree.and_(leaf(n + 1))
    return tree


def named(depth: int) -> Effect:
    tree = leaf(0)
    for n in range(depth - 1):
        tree = tree.catch(C, str(n))
    return tree


def told(depth: int) -> Effect:
    tree = leaf(0)
    for _ in range(depth - 1):
        tree = Then(tree, "A")
    return tree


def behind(depth: int) -> Effect:
    tree = leaf(depth)
    for n in range(depth - 1):
        tree = And(leaf(n), tree)
    return tree


def beside(depth: int) -> Effect:
    tree = leaf(depth)
    for n in range(depth - 1):
        tree = Together((leaf(n), tree))
    return tree


SHAPES = pytest.mark.parametrize("make", [chain, named, told, behind, beside])


@SHAPES
@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_how_deep_a_tree_is_at_least(make: Any, depth: int) -> None:
    tree = make(depth)
    assert [deeper(tree, than) for than in (0, depth - 1, depth, depth + 1)] == [
        True,
        True,
        False,
        False,
    ]


@SHAPES
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_an_effect_is_at_most_so_deep(make: Any, off: int) -> None:
    tree = make(LIMITS.effect_depth + off)
    if off > 0:
        with pytest.raises(LimitExceeded, match="deeper"):
            Plan(tree)
    else:
        assert Plan(tree).leaves


@pytest.mark.parametrize("make", [chain, named])
def test_a_line_of_the_greatest_depth_can_be_stored(make: Any) -> None:
    """What branches, or runs before what follows, nests twice as deep in a block."""
    tree = make(LIMITS.effect_depth)
    assert WORKFLOW.effect_of(codec.decode(WORKFLOW.effect_bytes(tree))) == tree


def test_a_tree_of_any_depth_is_refused_without_exhausting_the_stack() -> None:
    tree = leaf(0)
    for _ in range(20_000):
        tree = Then(tree, "A")
    with pytest.raises(LimitExceeded):
        Plan(tree)


# --- encoding -------------------------------------------------------------------------------------

storable = st.one_of(
    st.integers(0, 7).map(lambda n: perform(Task(n))),
    st.builds(lambda n, name: perform(Task(n), name=name), st.integers(0, 7), st.text(max_size=3)),
    st.builds(
        lambda until, during, name: sleep(until=until, during=during, name=name),
        st.integers(0, 2**50),
        st.one_of(st.just(ANY), st.lists(st.text(max_size=3), max_size=3)),
        st.none() | st.text(max_size=3),
    ),
    st.builds(
        lambda ms, during: sleep(for_=timedelta(milliseconds=ms), during=during),
        st.integers(0, 10**9),
        st.one_of(st.just(ANY), st.lists(st.text(max_size=3), max_size=3)),
    ),
)


@given(tree=trees(storable).filter(lambda tree: deep(tree) <= 12))
def test_a_tree_encodes_and_comes_back_equal(tree: Effect) -> None:
    block = WORKFLOW.effect_bytes(tree)
    again = WORKFLOW.effect_of(codec.decode(block))
    assert again == tree
    assert WORKFLOW.effect_bytes(again) == block


def test_cancel_encodes_and_comes_back_equal() -> None:
    assert WORKFLOW.effect_of(codec.decode(WORKFLOW.effect_bytes(cancel("x")))) == cancel("x")


def test_the_failures_that_the_engine_names_are_stored_and_stay() -> None:
    """Workflows catch them by name, and receipts keep them."""
    assert (DISMISSED, EXHAUSTED, BAD_OUTCOME) == ("Dismissed", "Exhausted", "BadOutcome")


@pytest.mark.parametrize(
    "outcome", [None, 0, (1, "a"), Err("Full"), Err("Full", (1, None)), {"a": 1}, True]
)
def test_an_outcome_is_recorded_and_comes_back(outcome: Any) -> None:
    block = outcome_bytes(outcome)
    assert block == codec.encode(outcome_plain(outcome))
    plain = codec.decode(block)
    assert outcome_of(plain) == outcome
    assert type(outcome_of(plain)) is type(outcome) or isinstance(outcome, dict)


def test_an_ok_value_that_looks_like_a_failure_is_none() -> None:
    value = {"err": {"name": "Full", "detail": None}}
    assert outcome_of(outcome_plain(value)) == value


@pytest.mark.parametrize("grow", [lambda tree: leaf(9).and_(tree), lambda tree: together(tree)])
def test_a_tree_that_a_block_could_not_hold_is_refused_when_written(grow: Any) -> None:
    tree = leaf(0)
    for depth in range(2, LIMITS.effect_depth + 1):
        tree = grow(tree)
        try:
            block = WORKFLOW.effect_bytes(tree)
        except LimitExceeded:
            assert depth > 12
        else:
            assert WORKFLOW.effect_of(codec.decode(block)) == tree
