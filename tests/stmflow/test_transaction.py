"""One transaction by itself, without a store: what a body may do, and what commit it becomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from stmflow import codec
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import ANY, Err, cancel, perform, sleep, together
from stmflow.errors import InvalidEvent, LimitExceeded, ReducerFailed, UnknownVersion
from stmflow.job import Head
from stmflow.limits import LIMITS
from stmflow.transaction import Answer, Later, Planned, Tx
from stmflow.workflow import Job, Registry, Workflow, ignore


@dataclass(frozen=True)
class Go:
    name: str
    task: str = ""


@dataclass(frozen=True)
class Done:
    value: int


@dataclass(frozen=True)
class Failed:
    error: Err


@dataclass(frozen=True)
class Charge:
    name: str


@dataclass(frozen=True)
class Send:
    name: str


@dataclass(frozen=True)
class Busy:
    told: int


def update(event: Any, state: Busy | None) -> Any:
    told = Busy(1 if state is None else state.told + 1)
    match event:
        case Go(task="charge"):
            return told, perform(Charge(event.name)).then(Done).catch(Failed, "Full")
        case Go(task="both"):
            both = together(perform(Charge(event.name)), perform(Send(event.name)))
            return told, both.catch(Failed)
        case Go(task="send"):
            return told, perform(Send(event.name))
        case Go(task="sleep"):
            return told, sleep(until=0, during=ANY, name="bell")
        case Go(task="wake"):
            return told, cancel("bell")
        case Go(task="ignore"):
            return ignore()
        case Go(task="raise"):
            raise ValueError("told to")
    return told, ()


FLOW = Workflow(
    "flow",
    state=Busy,
    events=(Go, Done, Failed),
    outside=(Go,),
    tasks=(Charge, Send),
    update=update,
    key=("name",),
)
NEXT = Workflow(
    "flow",
    version=2,
    state=Busy,
    events=(Go, Done, Failed),
    outside=(Go,),
    tasks=(Charge, Send),
    update=update,
    key=("name",),
    upcasts={1: (lambda tag, fields: (tag, fields),) * 2},
)
A, B = FLOW.job("a"), FLOW.job("b")
CELLS = [CELL.job(n) for n in range(8)]


def opened(
    heads: Iterable[Head] = (),
    *workflows: Workflow,
    at: int = 1,
    chooser: Any = None,
    **transactional: Any,
) -> Tx:
    """A transaction on these heads; `Charge=` and `Send=` are bodies of transactional tasks."""
    known = {head.job: head for head in heads}
    registry = Registry([CELL, *(workflows or (FLOW,))], chooser=chooser)
    bodies = {
        kind: transactional[kind.__name__]
        for kind in (Charge, Send)
        if kind.__name__ in transactional
    }
    return Tx(known.get, registry, at, transactional=bodies)


def told(job: Job, task: str = "", *, at: int = 1, heads: Iterable[Head] = ()) -> Tx:
    tx = opened(heads, at=at)
    tx.apply(job, Go(job.key[0], task))
    return tx


def planned(tx: Tx, delivery: tuple[CID, bytes] | None = None) -> Planned:
    return tx.plan(delivery, lambda job, armed: (armed.kind, "tenant", None))


def revision(planned: Planned) -> Any:
    assert planned.commit.revision is not None
    return codec.decode(planned.commit.revision)


# --- answers --------------------------------------------------------------------------------------


def test_an_answer_comes_back_as_the_first_one_with_all_that_it_said() -> None:
    first = Answer(
        "rejected", A.id, B.id, CELLS[0].id, 7, 3, "No", {"why": ["a", 1]}, value=("x", {"y": None})
    )
    again = Answer.of(first.block())
    assert again.repeated
    assert again == Answer.of(again.block())
    assert again[:7] == first[:7]
    assert (again.detail["why"], again.value[0], again.value[1]["y"]) == (("a", 1), "x", None)


def test_an_answer_about_no_job_names_no_revision_of_it() -> None:
    answer = Answer("rejected", code="NotFound")
    assert (answer.seq, answer.epoch, answer.revision, answer.repeated) == (0, 0, None, False)
    assert (answer.rejected, answer.committed) == (True, False)
    assert (Answer("committed").rejected, Answer("committed").committed) == (False, True)


# --- the snapshot ---------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_what_was_read_is_no_younger_than_the_revision(off: int) -> None:
    """Else time would fall along a chain: the body is run again, at the time of what it read."""
    (head,) = planned(told(A, at=7)).heads
    tx = opened([head], at=7 - off)
    if off > 0:
        with pytest.raises(Later) as later:
            tx.read(A)
        assert later.value.at == 7
    else:
        assert [tx.read(A), tx.read(A), tx.read(B)] == [Busy(1), Busy(1), None]


# --- what bodies call -----------------------------------------------------------------------------


def test_an_event_that_a_reducer_fails_on_ends_the_body_there() -> None:
    tx = opened()
    with pytest.raises(ReducerFailed, match="told to"):
        tx.apply(A, Go("a", "raise"))


def test_an_error_that_a_body_swallows_still_lets_nothing_be_written() -> None:
    tx = opened()
    tx.apply(B, Go("b"))
    with pytest.raises(ReducerFailed, match="told to"):
        tx.apply(A, Go("a", "raise"))
    with pytest.raises(ReducerFailed, match="told to"):
        planned(tx)


def test_a_body_that_changes_nothing_makes_no_revision() -> None:
    (head,) = planned(told(A)).heads
    tx = opened([head])
    assert tx.apply(A, Go("a", "ignore")).kind == "ignored"
    assert tx.read(B) is None
    commit, heads, alarms = planned(tx)
    assert (commit.revision, commit.writes, heads, alarms) == (None, [], [], [])
    assert commit.reads == [(A.id, head.revision), (B.id, None)]


def test_an_effect_is_given_to_a_job_that_is_there() -> None:
    with pytest.raises(ReducerFailed, match="needs a job with a state"):
        opened().effect(A, perform(Send("x")))


def test_a_body_is_told_in_which_process_it_runs() -> None:
    """0 where nobody says: what a check or a replay runs comes out the same everywhere."""
    registry = Registry([CELL])
    assert Tx(lambda job: None, registry, 1, transactional={}, process=7).process == 7
    assert Tx(lambda job: None, registry, 1, transactional={}).process == 0


def test_only_cells_are_written() -> None:
    tx = opened()
    with pytest.raises(InvalidEvent, match="is for cells; flow has a reducer"):
        tx.write(A, 1)


def test_what_a_transaction_gives_a_job_is_told_apart_from_what_its_reducer_returned() -> None:
    tx = opened()
    tx.apply(A, Go("a", "send"))
    tx.effect(A, perform(Send("given")))
    (write,) = revision(planned(tx))["writes"]
    (given,) = write["extra"]
    assert given["by"] == "transaction"
    assert (len(given["effects"]), len(write["effects"])) == (1, 1)
    assert given["effects"][0] not in write["effects"]


def test_a_branch_that_is_undone_takes_its_error_along() -> None:
    """What `first` has swallowed before it gave up is not told of `second`."""

    def first(tx: Tx) -> None:
        with pytest.raises(ReducerFailed):
            tx.apply(A, Go("a", "raise"))
        tx.retry()

    tx = opened()
    tx.or_else(first, lambda tx: tx.apply(B, Go("b")).kind)
    assert [head.job for head in planned(tx).heads] == [B.id]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_job_that_was_read_is_not_counted_again(off: int) -> None:
    tx = opened()
    for n in range(LIMITS.jobs_per_transaction + off - 1):
        tx.read(CELL.job(n))
    tx.read(CELL.job(0))
    if off > 0:
        with pytest.raises(LimitExceeded, match="a transaction over more than"):
            tx.read(A)
    else:
        assert tx.read(A) is None


# --- transactional tasks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("touch", "said"),
    [
        (lambda tx: tx.apply(A, Go("a")), "apply events to its own job"),
        (lambda tx: tx.effect(A, perform(Send("x"))), "give effects to its own job"),
        (lambda tx: tx.adopt(A, 1), "move its own job"),
    ],
)
def test_a_transactional_task_leaves_its_own_job_alone(touch: Any, said: str) -> None:
    tx = opened(Charge=lambda tx, task: touch(tx))
    with pytest.raises(ReducerFailed, match=said):
        tx.apply(A, Go("a", "charge"))


def test_a_transactional_task_cannot_wait_for_another_commit() -> None:
    tx = opened(Charge=lambda tx, task: tx.retry())
    with pytest.raises(ReducerFailed, match="transactional Charge cannot retry"):
        tx.apply(A, Go("a", "charge"))


@pytest.mark.parametrize("answer", [object(), {1: 2}, float("nan"), Err("Full", float("nan"))])
def test_what_a_transactional_task_answers_has_to_be_data(answer: Any) -> None:
    tx = opened(Charge=lambda tx, task: answer)
    with pytest.raises(ReducerFailed, match="transactional Charge raised"):
        tx.apply(A, Go("a", "charge"))


@pytest.mark.parametrize("failed", [False, True])
def test_an_outcome_is_what_it_was_when_the_transactional_task_answered(failed: bool) -> None:
    """A body that keeps its list and changes it later changes nothing: receipt and log agree."""
    kept: list[Any] = ["then"]
    tx = opened(Charge=lambda tx, task: Err("Full", kept) if failed else kept)
    tx.apply(A, Go("a", "both"))
    kept.append("later")
    done = planned(tx)
    (write,) = revision(done)["writes"]
    (receipt,) = [block for block in done.commit.blocks if CID.of(block) in write["receipts"]]
    ((_, _, _, _, [[_, logged]], _, _),) = codec.decode(done.heads[0].open_bytes())[1]
    assert logged == codec.decode(receipt)["outcome"]
    assert logged in ({"ok": ["then"]}, {"err": {"name": "Full", "detail": ["then"]}})


def test_the_task_of_another_job_may_touch_every_job_but_those_that_wait_for_it() -> None:
    """Tasks nest: A's task tells B, whose own task runs inside it."""
    seen: list[str] = []

    def charge(tx: Tx, task: Charge) -> int:
        tx.apply(B, Go("b", "send"))
        with pytest.raises(ReducerFailed, match="its own job"):
            tx.effect(A, perform(Charge("more")))
        tx.apply(B, Go("b"))  # its task is done
        return 1

    def send(tx: Tx, task: Send) -> None:
        for job in (A, B):
            with pytest.raises(ReducerFailed, match="its own job"):
                tx.effect(job, perform(Charge("more")))
            seen.append(job.key[0])

    tx = opened(Charge=charge, Send=send)
    tx.apply(A, Go("a", "charge"))
    tx.apply(A, Go("a"))
    assert seen == ["a", "b"]
    assert (tx.read(A).told, tx.read(B).told) == (3, 2)


# --- versions -------------------------------------------------------------------------------------


def test_the_version_is_chosen_where_a_job_is_born_and_never_for_a_cell() -> None:
    asked: list[Job] = []

    def chooser(tx: Tx, job: Job) -> int:
        asked.append(job)
        return 1

    tx = opened((), FLOW, NEXT, chooser=chooser)
    tx.write(CELLS[0], 1)
    tx.apply(A, Go("a"))
    heads = planned(tx).heads
    assert ({head.version for head in heads}, asked) == ({1}, [A])
    again = opened(heads, FLOW, NEXT, chooser=chooser)
    again.apply(A, Go("a"))
    assert asked == [A]


def test_another_error_of_a_chooser_is_told_as_one_of_the_service() -> None:
    def chooser(tx: Tx, job: Job) -> int:
        raise KeyError(job.key[0])

    with pytest.raises(ReducerFailed, match="the chooser of versions raised KeyError"):
        opened(chooser=chooser).apply(A, Go("a"))


def test_an_error_of_the_engine_leaves_the_chooser_as_it_is() -> None:
    def chooser(tx: Tx, job: Job) -> int:
        raise UnknownVersion("not here")

    with pytest.raises(UnknownVersion, match="not here"):
        opened(chooser=chooser).apply(A, Go("a"))


def test_a_job_is_moved_to_another_version_once() -> None:
    heads = planned(told(A)).heads
    for version, moved in ((2, True), (1, False)):
        tx = opened(heads, FLOW, NEXT, chooser=lambda tx, job: 1)
        assert tx.adopt(A, version) is moved


# --- the commit -----------------------------------------------------------------------------------


def test_reads_and_writes_stand_in_the_order_of_jobs() -> None:
    """So one revision has one form, whatever the order in which its body went about it."""
    before = opened()
    for cell in CELLS[:3]:
        before.write(cell, 0)
    heads = planned(before).heads
    blocks = set()
    for order in (CELLS, CELLS[::-1]):
        tx = opened(heads)
        for cell in order:
            if cell in CELLS[::2]:
                tx.write(cell, 1)
            else:
                tx.read(cell)
        one = planned(tx)
        said = revision(one)
        read = [job for job, _ in said["reads"]]
        wrote = [write["job"] for write in said["writes"]]
        assert (read, wrote) == (
            sorted(cell.id for cell in CELLS[1::2]),
            sorted(cell.id for cell in CELLS[::2]),
        )
        blocks.add(one.commit.revision)
    assert len(blocks) == 1


def test_a_revision_says_when_it_was_what_caused_it_and_what_it_was_made_of() -> None:
    (before,) = planned(told(A)).heads
    tx = told(A, heads=[before], at=9)
    for job in (B, CELLS[0]):
        tx.read(job)
    done = planned(tx, (A.id, b"d"))
    said = revision(done)
    assert (said["v"], said["at"], said["delivery"]) == (1, 9, [A.id, b"d"])
    assert said["reads"] == [[id, None] for id in sorted((B.id, CELLS[0].id))]
    assert done.commit.reads == [(B.id, None), (CELLS[0].id, None)]
    (write,) = done.commit.writes
    assert (write.job, write.prev) == (A.id, before.revision)
    assert write.head.revision == done.heads[0].revision == CID.of(done.commit.revision or b"")
    assert planned(told(A)).commit.writes[0].prev is None


def test_what_was_read_is_named_by_its_revision() -> None:
    (before,) = planned(told(A)).heads
    tx = told(B, heads=[before])
    tx.read(A)
    done = planned(tx)
    assert revision(done)["reads"] == [[A.id, before.revision]]
    assert done.commit.reads == [(A.id, before.revision)]
    assert revision(done)["delivery"] is None


def test_the_rows_of_a_timer_are_made_and_closed() -> None:
    """Also of one that is due at the beginning of time."""
    done = planned(told(A, "sleep"))
    (head,) = done.heads
    ((job, n, id, due),) = done.commit.timers
    assert (job, due, head.rows[id].n, done.commit.tasks) == (A.id, 0, n, [])
    again = planned(told(A, "wake", heads=[head]))
    assert again.commit.closed == [(A.id, n, True)]


def test_the_rows_of_a_task_are_made_and_closed() -> None:
    done = planned(told(A, "send"))
    (head,) = done.heads
    (row,) = done.commit.tasks
    assert (row.job, row.task, head.rows[row.id].n) == (A.id, Send("a"), row.n)
    tx = opened([head])
    tx.draft(A).settle(row.id, None)
    assert planned(tx).commit.closed == [(A.id, row.n, False)]
