"""Transactional tasks that touch one other job several times in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stmflow import Err, Transactor, Workflow, perform, same
from stmflow.store.memory import MemoryStore
from stmflow.testing import Trace


@dataclass(frozen=True, slots=True)
class Go:
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Failed:
    error: Err


@dataclass(frozen=True, slots=True)
class Tell:
    what: str
    step: int


@dataclass(frozen=True, slots=True)
class Sweep:
    what: str


@dataclass(frozen=True, slots=True)
class Heard:
    words: tuple[str, ...]


def _other(event: Tell, state: Heard | None) -> Any:
    words = (() if state is None else state.words) + (event.what,)
    return Heard(words), perform(Sweep(event.what)) if event.what == "sweep" else ()


def _one(event: Any, state: Heard | None) -> Any:
    if isinstance(event, Failed):
        return same()
    tell = perform(Tell(event.first, 1)).and_(perform(Tell(event.second, 2)))
    return Heard((event.first,)), tell.catch(Failed)


OTHER = Workflow("other", state=Heard, events=(Tell,), tasks=(Sweep,), update=_other)
ONE = Workflow(
    "one", state=Heard, events=(Go, Failed), outside=(Go,), tasks=(Tell,), update=_one, key=()
)


def told(tx: Any, task: Tell) -> Any:
    tx.apply(OTHER.job(), task)
    return Err("No") if task.what == "fail" else None


@dataclass(frozen=True, slots=True)
class Counted:
    times: int


def _counted(event: Any, state: Heard | None) -> Any:
    if isinstance(event, Go):
        return Heard(()), perform(Tell(event.first, 1)).then(Counted).catch(Failed)
    return Heard((event.error.name if isinstance(event, Failed) else str(event.times),)), []


COUNTED = Workflow(
    "counted",
    state=Heard,
    events=(Go, Counted, Failed),
    outside=(Go,),
    tasks=(Tell,),
    update=_counted,
    key=(),
)


def counted(tx: Any, task: Tell) -> Any:
    tx.apply(OTHER.job(), task)
    return {"times": "twice"}


def play(first: str, second: str) -> Trace:
    trace = Trace(ONE, transactional={Tell: told}, others=[OTHER]).send(Go(first, second))
    return trace.job(OTHER.job())


def test_a_task_asked_for_before_another_transactional_task_enters_the_outbox() -> None:
    assert play("sweep", "rest").ready == [Sweep("sweep")]


def test_a_task_asked_for_before_one_that_is_rolled_back_enters_the_outbox() -> None:
    other = play("sweep", "fail")
    assert (other.ready, other.state.words) == ([Sweep("sweep")], ("sweep",))


def test_a_task_asked_for_in_what_is_rolled_back_does_not() -> None:
    other = play("fail", "rest")
    assert (other.ready, other.state) == ([], None)


def test_what_was_written_is_rolled_back_where_no_event_can_be_made_of_the_outcome() -> None:
    asked = Trace(COUNTED, transactional={Tell: counted}, others=[OTHER]).send(Go("a", "b"))
    assert isinstance(asked.state, Heard)
    assert asked.state.words == ("BadOutcome",)
    assert asked.job(OTHER.job()).state is None


async def test_a_job_whose_transactional_tasks_are_done_may_be_told_more_in_the_same_commit() -> (
    None
):
    async with Transactor(MemoryStore(), [ONE, OTHER], transactional={Tell: told}) as transactor:

        def body(tx: Any) -> Any:
            for words in (("a", "b"), ("fail", ""), ("c", "d")):  # two tasks, one, two
                tx.apply(ONE.job(), Go(*words))
            return tx.read(ONE.job()).words, tx.read(OTHER.job()).words

        assert await transactor.transact(body) == (("c",), ("a", "b", "c", "d"))
