"""A workflow is a value: its definition is checked when made, its blocks are fixed for ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import pytest

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import Err, perform, sleep
from stmflow.errors import (
    CodecError,
    InvalidEvent,
    InvalidWorkflow,
    LimitExceeded,
    MalformedBlock,
    StmflowError,
    UnknownVersion,
    UnknownWorkflow,
)
from stmflow.limits import LIMITS
from stmflow.schema import At, Data
from stmflow.workflow import Guard, Hook, Registry, Workflow, job


@dataclass(frozen=True)
class Open:
    name: str
    by: int = 0


@dataclass(frozen=True)
class Close:
    at: At = 0


@dataclass(frozen=True)
class Nothing:
    pass


@dataclass(frozen=True)
class Found:
    size: int
    at: At = 0


@dataclass(frozen=True)
class Both:
    left: int
    right: str | None
    at: At = 0


@dataclass(frozen=True)
class Held:
    value: Data


@dataclass(frozen=True)
class Failed:
    error: Err
    at: At = 0


@dataclass(frozen=True)
class Misfit:
    why: str


@dataclass(frozen=True)
class Stat:
    name: str


@dataclass(frozen=True)
class State:
    n: int = 0
    status: str = "new"
    epoch: int = 1
    text: str = ""
    many: tuple[int, ...] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    any: Data = None


@dataclass(frozen=True)
class Ended:
    n: int = 0
    status: str = "ended"
    epoch: int = 1


EVENTS = (Open, Close, Nothing, Found, Both, Held, Failed, Misfit)


def made(**changes: Any) -> Workflow:
    given: dict[str, Any] = {
        "state": (State, Ended),
        "events": EVENTS,
        "outside": (Open,),
        "tasks": (Stat,),
        "update": lambda event, state: (State(), []),
        "key": ("name",),
        "epoch": "epoch",
    }
    return Workflow("files", **(given | changes))


FILES = made()


# --- definitions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twin:
    tag = "Open"
    name: str


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"events": (*EVENTS, Twin)}, "tag 'Open'"),
        ({"outside": (Open, Twin)}, "Twin"),
        ({"outside": (Nothing,)}, "name"),
        ({"key": ("name", "nobody")}, "nobody"),
        ({"epoch": "nobody"}, "nobody"),
        ({"tag": "nobody"}, "nobody"),
        ({"version": 0}, "version"),
        ({"events": (Open, int)}, "neither"),
        ({"state": dict}, "neither"),
    ],
)
def test_a_definition_that_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidWorkflow, match=says):
        made(**changes)


def test_a_workflow_needs_a_name() -> None:
    with pytest.raises(InvalidWorkflow, match="name"):
        Workflow("", state=State, events=(Open,), update=lambda event, state: None)


def test_a_type_may_be_listed_twice() -> None:
    assert made(events=(*EVENTS, Open)).event_schema("Open").type is Open


def test_hooks_and_guards_have_names() -> None:
    assert Hook("audit", 3, lambda *_: []).by == "audit@3"
    assert made(pre=[Guard("quota", lambda event, state: None)]).pre[0].name == "quota"


# --- jobs -----------------------------------------------------------------------------------------


def test_a_job_is_the_cid_of_its_workflow_and_key() -> None:
    found = FILES.job_of(Open("a"))
    assert found == FILES.job("a") == job("files", "a")
    assert found.id == CID.of(codec.encode(["files", ["a"]]))


def test_jobs_of_different_keys_or_workflows_differ() -> None:
    ids = {
        job("files", "a").id,
        job("files", b"a").id,
        job("files", "a", "").id,
        job("files").id,
        job("files", ("a",)).id,
        job("file", "sa").id,
        job("files", 1).id,
        job("files", True).id,
    }
    assert len(ids) == 8


def test_a_key_may_be_a_function_of_the_event() -> None:
    assert made(key=lambda event: (event.name, event.by)).job_of(Open("a", 2)) == job(
        "files", "a", 2
    )


def test_a_key_that_cannot_be_stored_is_refused() -> None:
    for key in (object(), float("nan"), "\ud800", 2**64):
        with pytest.raises((InvalidEvent, LimitExceeded)):
            job("files", key)
    with pytest.raises(StmflowError):
        job("files", "x" * LIMITS.block_bytes)


# --- states ---------------------------------------------------------------------------------------


def test_a_tag_is_the_type_of_the_state_unless_something_else_is_named() -> None:
    assert FILES.tag_of(State(status="x")) == "State"
    assert made(tag="status").tag_of(State(status="x")) == "x"
    assert made(tag=lambda state: state.status.upper()).tag_of(State(status="x")) == "X"


def test_the_epoch_is_one_unless_a_field_is_named() -> None:
    assert FILES.epoch_of(State(epoch=4)) == 4
    assert made(epoch=None).epoch_of(State(epoch=4)) == 1


def test_a_state_block_has_its_fixed_form_and_comes_back() -> None:
    block = FILES.state_bytes(Ended(3))
    plain = codec.decode(block)
    assert plain == {
        "w": "files",
        "v": 1,
        "t": "Ended",
        "f": {"n": 3, "status": "ended", "epoch": 1},
    }
    assert codec.encode(plain) == block
    assert FILES.state_of(plain) == Ended(3)


@pytest.mark.parametrize("value", [None, Open("a"), "x", {"n": 1}, State])
def test_what_is_not_a_state_is_not_written_as_one(value: Any) -> None:
    with pytest.raises(MalformedBlock, match="not a state"):
        FILES.state_bytes(value)


def test_a_block_of_another_workflow_or_version_is_refused_by_name() -> None:
    plain: Any = codec.decode(FILES.state_bytes(State()))
    for change in ({"w": "other"}, {"v": 2}):
        with pytest.raises(UnknownVersion):
            FILES.state_of(plain | change)
    with pytest.raises(MalformedBlock, match="not a state"):
        FILES.state_of(plain | {"t": "Open"})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize(
    ("field", "limit", "value"),
    [
        ("text", LIMITS.text_bytes, lambda n: "x" * n),
        ("text", LIMITS.text_bytes, lambda n: "ä" * (n // 2) + "x" * (n % 2)),
        ("many", LIMITS.items, lambda n: tuple(range(n))),
        ("table", LIMITS.items, lambda n: {str(i): i for i in range(n)}),
        ("any", LIMITS.text_bytes, lambda n: "x" * n),
        ("any", LIMITS.items, lambda n: tuple(range(n))),
        ("any", LIMITS.depth - 2, nested),
    ],
)
def test_whatever_is_written_is_within_the_bounds_of_what_is_read(
    field: str, limit: int, value: Any, off: int
) -> None:
    """A state past a bound would be committed and never be read again."""
    state = replace(State(), **{field: value(limit + off)})
    if off > 0:
        with pytest.raises(CodecError):
            FILES.state_bytes(state)
    else:
        assert FILES.state_of(codec.decode(FILES.state_bytes(state))) == state


@pytest.mark.parametrize("field", ["text", "many", "any"])
def test_the_bounds_hold_for_events_and_tasks_too(field: str) -> None:
    long = "x" * (LIMITS.text_bytes + 1)
    with pytest.raises(CodecError):
        FILES.event_bytes(Open(long))
    with pytest.raises(CodecError):
        FILES.effect_bytes(perform(Stat(long)))
    with pytest.raises(CodecError):
        FILES.task_bytes(perform(Stat(long)))  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent):
        FILES.check_event(Held(nested(LIMITS.depth)), 0)


def test_a_state_past_the_block_limit_is_refused() -> None:
    many = tuple("x" * 60_000 for _ in range(5))
    with pytest.raises(LimitExceeded):
        FILES.state_bytes(State(any=many))


# --- events ---------------------------------------------------------------------------------------


def test_a_checked_event_has_its_time_and_its_plain_values() -> None:
    assert FILES.check_event(Close(), 77) == Close(77)
    assert FILES.check_event(Close(at=5), 77) == Close(77)
    held = FILES.check_event(Held([1, {"a": [2]}]), 0)
    assert held.value == (1, MappingProxyType({"a": (2,)}))


@pytest.mark.parametrize("event", [State(), "x", None, Open, Twin("a"), Open(5)])  # type: ignore[arg-type]
def test_an_event_that_its_workflow_does_not_know_or_its_type_refuses(event: Any) -> None:
    with pytest.raises(InvalidEvent):
        FILES.check_event(event, 0)


def test_dated_changes_the_time_alone() -> None:
    assert FILES.dated(Found(3, at=1), 9) == Found(3, at=9)
    event = Open("a")
    assert FILES.dated(event, 9) is event


# --- an outcome becomes an event ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "values", "event"),
    [
        ("Nothing", (), Nothing()),
        ("Nothing", (None,), Nothing()),
        ("Nothing", (None, None), Nothing()),
        ("Nothing", ({},), Nothing()),
        ("Found", (5,), Found(5, 9)),
        ("Found", ({"size": 5},), Found(5, 9)),
        ("Found", (None, 5), Found(5, 9)),
        ("Both", (1, "x"), Both(1, "x", 9)),
        ("Both", (1, None), Both(1, None, 9)),
        ("Both", ({"left": 1, "right": None},), Both(1, None, 9)),
        ("Held", (None,), Held(None)),
        ("Held", ((1, 2),), Held((1, 2))),
        ("Held", ({"value": {"a": 1}},), Held({"a": 1})),
        ("Close", (None,), Close(9)),
    ],
)
def test_an_ok_outcome_fills_the_event(tag: str, values: Any, event: Any) -> None:
    assert FILES.fill(tag, values, None, 9) == event


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("Nothing", (5,)),
        ("Nothing", ({"a": 1},)),
        ("Found", ()),
        ("Found", (None,)),
        ("Found", ("x",)),
        ("Found", (True,)),
        ("Found", (1, 2)),
        ("Found", ({"size": 5, "more": 1},)),
        ("Found", ({},)),
        ("Both", (1,)),
        ("Both", ("x", 1)),
        ("Nobody", ()),
    ],
)
def test_an_outcome_that_does_not_fit_is_refused(tag: str, values: Any) -> None:
    with pytest.raises(InvalidEvent):
        FILES.fill(tag, values, None, 9)


def test_an_outcome_cannot_set_the_time_of_its_event() -> None:
    """`at` is the revision's: a handler that could name it would break `at >= deadline`."""
    for values in ({"at": 5}, {"size": 5, "at": 1}):
        tag = "Close" if len(values) == 1 else "Found"
        try:
            event = FILES.fill(tag, (values,), None, 9)
        except InvalidEvent:
            continue
        assert event.at == 9


def test_a_failure_fills_the_error() -> None:
    error = Err("Full", (1, "x"))
    assert FILES.fill("Failed", (), error, 9) == Failed(error, 9)
    with pytest.raises(InvalidEvent):
        FILES.fill("Misfit", (), error, 9)


def test_a_catch_that_could_never_be_filled_is_refused_when_asked_for() -> None:
    """Found when `update` answers, not in production when the failure comes."""
    with pytest.raises(InvalidWorkflow, match="error"):
        FILES.effect_bytes(perform(Stat("a")).catch(Misfit))


# --- effects --------------------------------------------------------------------------------------


def test_an_effect_names_only_events_and_tasks_of_its_workflow() -> None:
    with pytest.raises(InvalidWorkflow, match="Open is not among the tasks"):
        FILES.effect_bytes(perform(Open("a")))
    for effect in (perform(Stat("a")).then("Nobody"), perform(Stat("a")).catch("Nobody")):
        with pytest.raises(StmflowError, match="Nobody"):
            FILES.effect_bytes(effect)


def test_a_task_is_written_with_its_name_or_without() -> None:
    leaf: Any = perform(Stat("a"))
    plain = codec.decode(FILES.task_bytes(leaf))
    assert plain == {"w": "files", "v": 1, "t": "Stat", "f": {"name": "a"}}
    assert FILES.task_of(plain) == Stat("a")
    named: Any = perform(Stat("a"), name="x")
    assert codec.decode(FILES.task_bytes(named)) == {**plain, "n": "x"}  # type: ignore[dict-item]


def test_a_sleep_is_written_with_its_end_and_its_tags() -> None:
    leaf: Any = sleep(until=5, during=("b", "a"))
    assert codec.decode(FILES.task_bytes(leaf)) == {
        "w": "files",
        "v": 1,
        "t": "sleep",
        "f": {"until": 5, "during": ["a", "b"]},
    }


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"and": []},
        {"perform": "Stat"},
        {"perform": 1, "f": {}},
        {"then": "Found"},
        {"catch": "Failed", "of": {"perform": "Stat", "f": {"name": "a"}}},
        {"and": [{"perform": "Stat", "f": {"name": "a"}}]},
        None,
        [],
    ],
)
def test_what_is_no_effect_is_not_read_as_one(plain: Any) -> None:
    with pytest.raises(StmflowError):
        FILES.effect_of({"w": "files", "v": 1, "t": "effect", "f": plain})


# --- versions -------------------------------------------------------------------------------------


def up_state(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return tag, {**fields, "n": fields["n"] + 1}


def up_event(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return tag, {**fields, "by": fields.get("by", 0) + 10}


def test_blocks_are_raised_step_by_step_to_the_newest_version() -> None:
    three = made(version=3, upcasts={1: (up_state, up_event), 2: (up_state, up_event)})
    registry = Registry([FILES, three])
    state: Any = codec.decode(FILES.state_bytes(State(1)))
    event: Any = codec.decode(FILES.event_bytes(Open("a", 1)))
    workflow, lifted = registry.lift(state, event=False)
    assert workflow is three
    assert three.state_of(lifted) == State(3)
    assert three.event_of(registry.lift(event, event=True)[1]) == Open("a", 21)
    assert registry.lift(state | {"v": 3}, event=False)[1] == state | {"v": 3}


def test_a_version_that_cannot_be_raised_or_is_too_new_is_refused_by_name() -> None:
    registry = Registry([FILES, made(version=3, upcasts={2: (up_state, up_event)})])
    state: Any = codec.decode(FILES.state_bytes(State(1)))
    with pytest.raises(UnknownVersion, match="from version 1"):
        registry.lift(state, event=False)
    with pytest.raises(UnknownVersion, match="newer"):
        registry.lift(state | {"v": 4}, event=False)
    with pytest.raises(UnknownVersion, match="version 7"):
        registry.version("files", 7)


def test_a_workflow_that_nobody_registered_is_unknown() -> None:
    registry = Registry([FILES])
    with pytest.raises(UnknownWorkflow, match="nobody"):
        registry.newest("nobody")


def test_the_newest_version_is_current_in_any_order() -> None:
    two = made(version=2, upcasts={1: (up_state, up_event)})
    for given in ([FILES, two], [two, FILES]):
        registry = Registry(given)
        assert registry.newest("files") is two
        assert registry.version("files", 1) is FILES


def test_a_version_is_registered_once() -> None:
    assert Registry([FILES, FILES]).newest("files") is FILES
    with pytest.raises(InvalidWorkflow, match="twice"):
        Registry([FILES, made()])


def test_a_block_is_cast_to_any_registered_version_up_and_down() -> None:
    def add(tag: str, fields: Any) -> Any:
        return tag, {**fields, "n": fields["n"] + 1}

    def take(tag: str, fields: Any) -> Any:
        return tag, {**fields, "n": fields["n"] - 1}

    def version(n: int) -> Workflow:
        ways = dict.fromkeys(range(1, n), (add, add)), dict.fromkeys(range(2, n + 1), (take, take))
        return Workflow(
            "w", version=n, state=(), events=(), update=_never, upcasts=ways[0], downcasts=ways[1]
        )

    registry = Registry(versions := [version(n) for n in (1, 2, 3)])
    for old in versions:
        for new in versions:
            plain = {"w": "w", "v": old.version, "t": "T", "f": {"n": old.version}}
            found = registry.lift(plain, event=False, to=new)[1]
            assert (found["v"], found["f"]) == (new.version, {"n": new.version})


def _never(event: Any, state: Any) -> Any:
    raise AssertionError


def test_with_a_chooser_a_job_is_run_by_the_version_of_its_head() -> None:
    one, two = (Workflow("w", version=n, state=(), events=(), update=_never) for n in (1, 2))
    newest, sticky = Registry([one, two]), Registry([one, two], chooser=lambda tx, job: None)
    assert newest.home("w", 1) is newest.home("w", None) is sticky.home("w", None) is two
    assert sticky.home("w", 1) is one
    with pytest.raises(UnknownVersion):
        sticky.home("w", 3)
    with pytest.raises(UnknownWorkflow):
        sticky.home("nobody", None)
