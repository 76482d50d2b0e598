"""What `Trace` shows its user, and what it does not let pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from stmflow import CID, At, Err, Workflow, ignore, impossible, perform, reject, same, sleep
from stmflow.errors import ImpureReducer, InvalidEvent, NotOutside
from stmflow.testing import Timer, Trace


@dataclass(frozen=True, slots=True)
class Ask:
    name: str
    at: At = 0


@dataclass(frozen=True, slots=True)
class Odd:
    name: str
    how: str


@dataclass(frozen=True, slots=True)
class Push:
    """Does not say of which errand."""

    value: int


@dataclass(frozen=True, slots=True)
class Done:
    value: int


@dataclass(frozen=True, slots=True)
class Broken:
    error: Err


@dataclass(frozen=True, slots=True)
class Late:
    at: At = 0


@dataclass(frozen=True, slots=True)
class Work:
    name: str


@dataclass(frozen=True, slots=True)
class Twice:
    name: str


@dataclass(frozen=True, slots=True)
class Told:
    by: str


@dataclass(frozen=True, slots=True)
class Errand:
    name: str
    status: str = "working"
    epoch: int = 1
    value: int = 0
    reason: str | None = None


def update(event: Any, errand: Errand | None) -> Any:
    match event, errand:
        case Ask(name), None | Errand(status="failed" | "late"):
            epoch = 1 if errand is None else errand.epoch + 1
            work = perform(Work(name)).then(Done).catch(Broken, "No")
            late = sleep(for_=timedelta(hours=1), name="late").then(Late)
            return Errand(name, epoch=epoch), [work, late]
        case Ask(), Errand():
            return same()
        case Done(value), Errand(status="working"):
            return replace(errand, status="done", value=value), []
        case Broken(error), Errand(status="working"):
            return replace(errand, status="failed", reason=error.name), []
        case Late(), Errand(status="working"):
            return replace(errand, status="late"), [perform(Twice(errand.name)).then(Done)]
        case Push(value), Errand():
            return replace(errand, value=value), []
        case Odd(how="refuse"), Errand():
            return reject("Odd", {"why": "because"})
        case Odd(how="ignore"), Errand():
            return ignore()
        case Done(), Errand():
            return impossible()
        case Odd(how="impure"), Errand():
            tries.append(1)
            return replace(errand, value=len(tries)), []
    return impossible()


tries: list[int] = []


@dataclass(frozen=True, slots=True)
class Board:
    heard: tuple[str, ...] = ()


BOARD = Workflow(
    "board",
    state=Board,
    events=(Told,),
    update=lambda event, board: (Board((*(board or Board()).heard, event.by)), ()),
)

ERRAND = Workflow(
    "errand",
    state=Errand,
    events=(Ask, Odd, Push, Done, Broken, Late),
    outside=(Ask, Odd, Push),
    tasks=(Work, Twice),
    update=update,
    key=("name",),
    epoch="epoch",
    tag="status",
)


def play(at: int = 0) -> Trace:
    return Trace(ERRAND, at=at).send(Ask("bread"))


def test_it_shows_the_job_after_each_step() -> None:
    job = play(at=7)
    assert (job.state, job.tag, job.epoch) == (Errand("bread"), "working", 1)
    assert (job.ready, job.timers) == ([Work("bread")], [Timer("late", 3_600_007)])
    job.succeed(Work, 3)
    assert (job.tag, job.state.value, job.ready, job.timers) == ("done", 3, [], [])


def test_before_the_first_event_there_is_no_job() -> None:
    job = Trace(ERRAND)
    assert (job.state, job.tag, job.epoch, job.head) == (None, None, 0, None)
    assert (job.ready, job.timers, job.unsettled, job.history, job.parked) == ([], [], [], [], [])
    with pytest.raises(AssertionError, match="send an event first"):
        job.succeed(CID.of(b"task"))
    with pytest.raises(AssertionError, match="nothing was delivered"):
        _ = job.answer


def test_a_task_is_named_by_type_value_or_id() -> None:
    for what in (Work, Work("bread"), next(iter(play().outbox))):
        assert play().fail(what, "No").state.reason == "No"


def test_a_task_that_is_not_ready_is_told_with_what_is() -> None:
    with pytest.raises(AssertionError, match=r"Twice is not ready in working; ready:\n  Work"):
        play().succeed(Twice)
    with pytest.raises(AssertionError, match="ready: nothing"):
        play().succeed(Work, 1).succeed(Work, 1)
    with pytest.raises(AssertionError, match=r"parked:\n  Work\(name='bread'\): Yes"):
        play().fail(Work, "Yes").succeed(Work, 1)


def test_a_failure_that_nobody_catches_parks_its_task() -> None:
    job = play().fail(Work, "Yes", {"why": 1})
    assert job.answer.kind == "parked"
    assert job.parked == [(Work("bread"), Err("Yes", {"why": 1}))]
    assert (job.ready, job.tag) == ([], "working")


def test_what_a_reducer_calls_impossible_parks_and_raises_the_alarm() -> None:
    job = play().pass_time(hours=1).succeed(Work, 1)
    assert [task for task, _ in job.parked] == [Work("bread")]
    assert job.alarms == ["errand: Done in late"]


def test_time_fires_timers_in_order_and_never_goes_back() -> None:
    job = play().pass_time(minutes=59, seconds=59)
    assert (job.tag, job.now) == ("working", 3_599_000)
    job.pass_time(until=4_000_000)
    assert (job.tag, job.now, job.history[-1].at) == ("late", 4_000_000, 3_600_000)
    with pytest.raises(AssertionError, match="time does not go back"):
        job.pass_time(until=5)


def test_a_late_timer_is_fired_by_hand() -> None:
    job = play().pass_time(hours=2, late=True)
    assert (job.tag, job.timers) == ("working", [Timer("late", 3_600_000)])
    assert job.fire("late").tag == "late"
    assert job.history[-1].at == 7_200_000
    with pytest.raises(AssertionError, match="no timer 'late' is due"):
        job.fire("late")


def test_refused_says_why() -> None:
    job = play().send(Odd("bread", "refuse"))
    assert (job.refused, job.answer.detail) == ("Odd", {"why": "because"})
    assert job.send(Odd("bread", "ignore")).refused is None
    assert job.answer.kind == "ignored"
    assert job.send(Odd("bread", "strange")).refused == "Impossible"
    assert Trace(ERRAND).send(Odd("milk", "refuse")).refused == "Impossible"


def test_only_outside_events_of_the_declared_types_can_be_sent() -> None:
    with pytest.raises(NotOutside):
        play().send(Done(1))
    with pytest.raises(InvalidEvent):
        play().send(Ask(5))  # type: ignore[arg-type]


def test_a_delivery_gets_its_first_answer_again() -> None:
    job = Trace(ERRAND).send(Ask("bread"), delivery="one").succeed(Work, 1)
    seq = job.answer.seq
    job.send(Ask("bread"), delivery="one")
    assert (job.answer.repeated, job.answer.kind, job.answer.seq) == (True, "committed", seq - 1)


def test_an_outcome_delivered_again_is_closed() -> None:
    job = play().succeed(Work, 1)
    assert job.repeat().answer.kind == "closed"
    with pytest.raises(AssertionError, match="no outcome"):
        play().repeat()


def test_an_outcome_of_an_old_try_is_stale() -> None:
    job = play().pass_time(hours=1).send(Ask("bread"))
    assert (job.epoch, job.ready) == (2, [Work("bread"), Twice("bread"), Work("bread")])
    assert job.succeed(Work, 5).answer.kind == "stale"
    assert job.succeed(Work, 6).state.value == 6


def test_history_has_every_revision_with_its_events() -> None:
    job = play().pass_time(hours=1)
    assert [(past.seq, past.tag, past.events) for past in job.history] == [
        (1, "working", (Ask("bread"),)),
        (2, "late", (Late(3_600_000),)),
    ]


def test_a_reducer_that_gives_two_answers_is_found() -> None:
    with pytest.raises(ImpureReducer):
        play().send(Odd("bread", "impure"))


def test_an_event_that_names_no_job_is_for_the_one_that_is_played() -> None:
    assert play().send(Push(3)).state.value == 3
    with pytest.raises(InvalidEvent, match="does not name its job"):
        Trace(ERRAND).send(Push(3))


def test_a_trace_is_for_one_job_and_leads_to_others() -> None:
    job = play()
    with pytest.raises(AssertionError, match="another job"):
        job.send(Ask("milk"))
    other = job.job(ERRAND.job("milk")).send(Ask("milk")).pass_time(minutes=1)
    assert (other.ready, job.ready) == ([Work("milk")], [Work("bread")])
    assert job.now == other.now == 60_000


def test_transactional_tasks_run_in_the_same_revision_and_others_are_seen() -> None:
    def tell(tx: Any, task: Work) -> int:
        tx.apply(BOARD.job(), Told(task.name))
        return 4

    job = Trace(ERRAND, transactional={Work: tell}, others=[BOARD]).send(Ask("bread"))
    assert [past.tag for past in job.history] == ["done"]
    board = job.job(BOARD.job())
    assert board.state == Board(("bread",))
    assert board.history[-1].revision == job.history[-1].revision
    assert job.transact(lambda tx: tx.read(BOARD.job())) == board.state


def test_a_transaction_is_as_late_as_the_heads_it_reads() -> None:
    job = play().pass_time(hours=1)
    job._world.now = 0
    job.transact(lambda tx: tx.apply(ERRAND.job("bread"), Ask("bread")))
    assert job.history[-1].at == 3_600_000


def test_a_task_that_is_a_transaction_runs_once_what_it_waits_for_is_there() -> None:
    def wait(tx: Any, task: Work) -> int:
        board = tx.read(BOARD.job())
        if board is None:
            tx.retry()
        tx.apply(BOARD.job(), Told(task.name))
        return 4

    job = Trace(ERRAND, tasks={Work: wait}, others=[BOARD]).send(Ask("bread"))
    before = job.head
    assert job.run(Work).answer.kind == "waits"
    assert (job.head, job.ready) == (before, [Work("bread")])
    job.transact(lambda tx: tx.apply(BOARD.job(), Told("milk")))
    assert job.run(Work).tag == "done"
    board = job.job(BOARD.job())
    assert board.state == Board(("milk", "bread"))
    assert board.history[-1].revision == job.history[-1].revision
    with pytest.raises(AssertionError, match="not ready"):
        job.run(Work)


def test_a_transaction_that_answers_an_error_has_written_nothing() -> None:
    def fail(tx: Any, task: Work) -> Err:
        tx.apply(BOARD.job(), Told(task.name))
        return Err("No")

    job = Trace(ERRAND, tasks={Work: fail}, others=[BOARD]).send(Ask("bread")).run(Work)
    assert job.job(BOARD.job()).state is None
    assert job.tag != "done"


def test_a_transaction_without_a_body_is_named() -> None:
    with pytest.raises(AssertionError, match="no body for Work"):
        Trace(ERRAND).send(Ask("bread")).run(Work)
