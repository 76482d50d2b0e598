"""One job in memory: what each delivery writes, and what becomes of outcomes and timers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import (
    ANY,
    BAD_OUTCOME,
    DISMISSED,
    Effect,
    Err,
    cancel,
    perform,
    sleep,
    together,
)
from stmflow.errors import (
    CodecError,
    ImpureReducer,
    InvalidEvent,
    InvalidWorkflow,
    LimitExceeded,
    ReducerFailed,
    StmflowError,
)
from stmflow.job import Draft, Finished, Head, Parked, Verdict, load_open
from stmflow.limits import LIMITS
from stmflow.schema import At, Data
from stmflow.workflow import (
    Guard,
    Hook,
    Registry,
    Workflow,
    ignore,
    impossible,
    reject,
    same,
)


@dataclass(frozen=True)
class Go:
    name: str
    at: At = 0


@dataclass(frozen=True)
class Ok:
    value: Data
    at: At = 0


@dataclass(frozen=True)
class Two:
    left: int
    right: int


@dataclass(frozen=True)
class Rang:
    at: At = 0


@dataclass(frozen=True)
class Size:
    bytes: int


@dataclass(frozen=True)
class Bad:
    error: Err


@dataclass(frozen=True)
class Stat:
    n: int


@dataclass(frozen=True)
class Take:
    n: int


@dataclass(frozen=True)
class S:
    status: str = "new"
    epoch: int = 1
    seen: tuple[str, ...] = ()
    text: str = ""


EVENTS = (Go, Ok, Two, Rang, Size, Bad)
A, B, C = (perform(Stat(n)) for n in range(3))

Rule = Callable[[Any, S], Any]


def workflow(rules: dict[str, Rule], **changes: Any) -> Workflow:
    """What a rule does not name is noted in `seen`; `Go` is named by its name."""

    def update(event: Any, state: S | None) -> Any:
        name = event.name if isinstance(event, Go) else type(event).__name__
        if name in rules:
            return rules[name](event, state)  # type: ignore[arg-type]
        state = state or S()
        return replace(state, seen=(*state.seen, name)), []

    given: dict[str, Any] = {
        "state": S,
        "events": EVENTS,
        "outside": (Go,),
        "tasks": (Stat, Take),
        "update": update,
        "key": lambda event: ("j",),
        "epoch": "epoch",
        "tag": "status",
    }
    return Workflow("job", **(given | changes))


class Life:
    """A job's revisions, one after the other, without a store."""

    def __init__(
        self,
        *workflows: Workflow,
        transactional: dict[type, Callable[[Any], Any]] | None = None,
        pure: bool = True,
        **rules: Rule,
    ) -> None:
        self.registry = Registry(workflows or [workflow(rules)])
        self.job = self.registry.newest("job").job("j")
        self.head: Head | None = None
        self.transactional = transactional or {}
        self.pure = pure
        self.draft: Draft
        self.done: Finished | None = None

    def drafted(self, at: int = 0) -> Draft:
        at = max(at, 0 if self.head is None else self.head.at)
        self.draft = Draft(
            self.registry,
            self.job,
            self.head,
            at,
            transactional=frozenset(self.transactional),
            perform=lambda draft, id, task: self.transactional[type(task)](task),
            pure=self.pure,
        )
        return self.draft

    def commit(self) -> None:
        self.done = None
        if self.draft.touched:
            self.done = self.draft.finish()
            self.head = self.draft.next_head(CID.of(self.draft.entry()), self.done)
            again = load_open(self.head.open_bytes(), "job", self.registry)
            assert (again[0], again[2]) == (self.head.next_n, self.head.rows)
            assert [o.encoded() for o in again[1]] == [o.encoded() for o in self.head.open]

    def send(self, name: str, at: int = 0) -> Verdict:
        verdict = self.drafted(at).send(Go(name))
        self.commit()
        return verdict

    def settle(self, task: CID, outcome: Any, at: int = 0) -> Verdict:
        verdict = self.drafted(at).settle(task, outcome)
        self.commit()
        return verdict

    def task(self, task: Any) -> CID:
        """The id of the one open task that is this value, or a timer of that name."""
        found = [
            armed
            for opened in self.now.open
            for number, armed in opened.armed.items()
            if task in (getattr(leaf := opened.plan.leaves[number], "task", None), leaf.name)
        ]
        assert len(set(found)) == 1, found
        return found[0]

    @property
    def now(self) -> Head:
        assert self.head is not None
        return self.head

    @property
    def state(self) -> Any:
        return self.now.state

    @property
    def waiting(self) -> list[Any]:
        """What is open: tasks, and names or deadlines of timers."""
        return [
            getattr(leaf, "task", None) or leaf.name or row.due
            for opened in self.now.open
            for number, armed in opened.armed.items()
            for leaf, row in [(opened.plan.leaves[number], self.now.rows[armed])]
        ]

    @property
    def entry(self) -> Any:
        return codec.decode(self.draft.entry())


def to(status: str, *effects: Effect, epoch: int | None = None) -> Rule:
    """A rule: that status, and these effects."""

    def rule(event: Any, state: S | None) -> Any:
        state = state or S()
        return replace(state, status=status, epoch=state.epoch if epoch is None else epoch), effects

    return rule


def begun(*effects: Effect, **rules: Rule) -> Life:
    """A job whose first event asked for these effects."""
    life = Life(**{"begin": to("new", *effects), **rules})
    assert life.send("begin").kind == "committed"
    return life


# --- answers from outside -------------------------------------------------------------------------


def test_a_first_event_makes_the_first_revision() -> None:
    life = Life(begin=to("open", A.then(Ok)))
    assert life.send("begin", at=7) == Verdict("committed")
    assert (life.now.seq, life.now.epoch, life.now.at) == (1, 1, 7)
    assert (life.entry["prev"], life.entry["key"]) == (None, ["j"])
    assert life.waiting == [Stat(0)]
    event = codec.decode(life.draft.blocks[0])
    assert event["f"] == {"name": "begin", "at": 7}  # type: ignore[call-overload, index]


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (lambda event, state: same(), "no change"),
        (lambda event, state: (state, []), "no change"),
        (lambda event, state: (replace(state), ()), "no change"),
        (lambda event, state: ignore(), "ignored"),
        (lambda event, state: reject("No", {"why": 1}), "rejected"),
        (lambda event, state: impossible(), "rejected"),
    ],
)
def test_an_answer_that_changes_nothing_writes_no_revision(rule: Rule, kind: str) -> None:
    life = begun(odd=rule)
    before = life.head
    assert life.send("odd").kind == kind
    assert life.head is before
    assert not life.draft.touched


@pytest.mark.parametrize("answer", [same, ignore])
def test_effects_make_a_revision_even_when_the_state_stays(answer: Any) -> None:
    life = begun(odd=lambda event, state: answer(A.then(Ok)))
    before = life.now
    assert life.send("odd") == Verdict("committed")
    assert (life.now.seq, life.state, life.now.state_cid) == (2, before.state, before.state_cid)
    assert life.waiting == [Stat(0)]
    assert len(life.entry["events"]) == 1


def test_a_rejection_says_why() -> None:
    life = begun(odd=lambda event, state: reject("No", (1, 2)))
    assert life.send("odd") == Verdict("rejected", "No", (1, 2))


def test_impossible_from_outside_is_rejected_and_alarms_even_with_effects() -> None:
    life = begun(odd=lambda event, state: impossible(A))
    assert life.send("odd").code == "Impossible"
    assert life.now.seq == 1
    assert len(life.draft.alarms) == 1


def test_an_unknown_job_stays_unknown_where_the_event_may_not_create_it() -> None:
    for rule in (
        lambda event, state: ignore(),
        lambda event, state: reject("No"),
        lambda event, state: same(),
        lambda event, state: (None, []),
    ):
        life = Life(odd=rule)
        life.send("odd")
        assert life.head is None


@pytest.mark.parametrize("answer", [same, ignore, impossible])
def test_effects_without_a_state_are_refused(answer: Any) -> None:
    life = Life(odd=lambda event, state: answer(A))
    if answer is impossible:
        assert life.send("odd").code == "Impossible"
    else:
        with pytest.raises(ReducerFailed, match="state"):
            life.send("odd")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "x",
        (S(),),
        (S(), [], []),
        ignore,
        (S(), None),
        (S(), ["x"]),
        (S(), [Stat(0)]),
        ("x", []),
        (S(status=5), []),  # type: ignore[arg-type]
        (S(text="x" * (LIMITS.text_bytes + 1)), []),
        (S(), [perform(Go("x"))]),
        (S(), [A.then("Nobody")]),
        (S(), [together(perform(Stat(0), name="x"), perform(Stat(1), name="x"))]),
    ],
)
def test_an_answer_that_makes_no_sense_fails_and_writes_nothing(answer: Any) -> None:
    life = begun(odd=lambda event, state: answer)
    with pytest.raises(StmflowError):
        life.send("odd")


def test_a_reducer_that_raises_fails_and_says_what() -> None:
    def odd(event: Any, state: Any) -> Any:
        raise KeyError("oops")

    with pytest.raises(ReducerFailed, match="oops"):
        begun(odd=odd).send("odd")


def test_a_state_cannot_become_none() -> None:
    with pytest.raises(ReducerFailed):
        begun(odd=lambda event, state: (None, [])).send("odd")


def test_equality_of_states_is_of_what_is_stored() -> None:
    @dataclass(frozen=True, eq=False)
    class Fresh:
        n: int

    made = Workflow("job", state=Fresh, events=(Go,), update=lambda event, state: (Fresh(1), []))
    life = Life(made)
    assert [life.send("x").kind for _ in range(2)] == ["committed", "no change"]


@pytest.mark.parametrize("epoch", [0, -1])
def test_an_epoch_is_at_least_one(epoch: int) -> None:
    with pytest.raises(ReducerFailed, match="epoch"):
        Life(begin=to("new", epoch=epoch)).send("begin")


def test_an_epoch_never_falls() -> None:
    life = begun(up=to("up", epoch=3), down=to("down", epoch=2))
    life.send("up")
    with pytest.raises(ReducerFailed, match="fell from 3 to 2"):
        life.send("down")


def test_an_impure_reducer_is_found_where_it_is_looked_for() -> None:
    calls: list[int] = []

    def odd(event: Any, state: Any) -> Any:
        calls.append(1)
        return S(status=str(len(calls))), []

    with pytest.raises(ImpureReducer):
        Life(odd=odd).send("odd")
    life = Life(odd=odd, pure=False)
    assert life.send("odd").kind == "committed"


def test_effects_given_one_by_one_are_not_lost_to_the_second_look() -> None:
    for pure in (True, False):
        life = Life(odd=lambda event, state: (S(), iter([A, B])), pure=pure)
        life.send("odd")
        assert life.waiting == [Stat(0), Stat(1)]


def test_a_state_is_as_frozen_in_memory_as_when_it_is_read_again() -> None:
    @dataclass(frozen=True)
    class Loose:
        value: Data

    shared = [1]
    made = Workflow(
        "job", state=Loose, events=(Go,), update=lambda event, state: (Loose(shared), [])
    )
    life = Life(made)
    life.send("x")
    shared.append(2)
    assert life.state == Loose((1,))


def test_an_event_that_is_refused_by_its_type_is_not_applied() -> None:
    with pytest.raises(InvalidEvent):
        Life().drafted().send(Go(5))  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent):
        Life().drafted().send(S())


# --- guards and hooks -----------------------------------------------------------------------------


def test_a_guard_vetoes_events_from_outside_only() -> None:
    veto = Guard("quota", lambda event, state: "Full" if state and state.seen else None)
    life = Life(workflow({"begin": to("new", A.then(Ok))}, pre=[veto]))
    life.send("begin")
    life.send("note")
    assert life.send("more") == Verdict("rejected", "Full", {"guard": "quota"})
    assert life.settle(life.task(Stat(0)), 5).kind == "committed"
    assert life.state.seen == ("note", "Ok")


def test_a_guard_that_raises_is_a_failure_with_a_name() -> None:
    def veto(event: Any, state: Any) -> str | None:
        raise KeyError("oops")

    with pytest.raises(ReducerFailed, match="quota"):
        Life(workflow({}, pre=[Guard("quota", veto)])).send("x")


def test_a_hook_adds_effects_recorded_apart() -> None:
    seen: list[Any] = []

    def audit(event: Any, before: Any, after: Any) -> Sequence[Effect]:
        seen.append((type(event).__name__, before and before.seen, after.seen))
        return [perform(Stat(9))] if isinstance(event, Go) else []

    life = Life(workflow({"begin": to("new", A.then(Ok))}, post=[Hook("audit", 2, audit)]))
    life.send("begin")
    assert life.waiting == [Stat(0), Stat(9)]
    (extra,) = life.entry["extra"]
    assert extra["by"] == "audit@2"
    assert len(life.entry["effects"]) == 1
    life.settle(life.task(Stat(0)), 5)
    assert seen[-1] == ("Ok", (), ("Ok",))


def test_a_hook_is_not_asked_about_what_was_refused_or_ignored() -> None:
    hook = Hook("audit", 1, lambda event, before, after: [perform(Stat(9))])
    rules = {"no": lambda event, state: reject("No"), "late": lambda event, state: ignore()}
    life = Life(workflow(rules, post=[hook]))
    life.send("begin")
    assert life.send("no").kind == "rejected"
    assert life.send("late").kind == "ignored"
    assert life.now.seq == 1


def test_a_hook_that_raises_or_speaks_of_no_job_fails_the_event() -> None:
    hook = Hook("audit", 1, lambda event, before, after: [A])
    with pytest.raises(ReducerFailed):
        Life(workflow({"odd": lambda event, state: same()}, post=[hook])).send("odd")
    broken = Hook("audit", 1, lambda event, before, after: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ReducerFailed, match="audit@1"):
        Life(workflow({}, post=[broken])).send("x")


# --- outcomes -------------------------------------------------------------------------------------


def test_an_outcome_becomes_a_receipt_and_an_event_in_one_revision() -> None:
    life = begun(A.then(Ok))
    assert life.settle(life.task(Stat(0)), 5, at=9) == Verdict("committed")
    assert life.state.seen == ("Ok",)
    assert len(life.entry["receipts"]) == len(life.entry["events"]) == 1
    assert life.waiting == []
    assert life.now.open == ()


def test_a_receipt_enters_the_log_also_when_no_event_fires() -> None:
    life = begun(A.and_(B).then(Ok))
    life.settle(life.task(Stat(0)), None)
    assert (len(life.entry["receipts"]), life.entry["events"]) == (1, [])
    assert (life.now.seq, life.waiting) == (2, [Stat(1)])
    life.settle(life.task(Stat(1)), 5)
    assert life.state.seen == ("Ok",)


@pytest.mark.parametrize("answer", [ignore(), reject("No"), same()])
def test_a_receipt_enters_the_log_also_when_its_event_changes_nothing(answer: Any) -> None:
    life = begun(A.then(Ok), Ok=lambda event, state: answer)
    before = life.now.state_cid
    life.settle(life.task(Stat(0)), 5)
    assert (life.now.seq, life.now.state_cid) == (2, before)
    assert (len(life.entry["receipts"]), len(life.entry["events"])) == (1, 1)


def test_an_outcome_for_a_task_that_is_not_open_is_closed() -> None:
    life = begun(A.then(Ok))
    task = life.task(Stat(0))
    life.settle(task, 5)
    for late in (task, CID.of(b"never")):
        before = life.head
        assert life.settle(late, 6) == Verdict("closed")
        assert life.head is before


def test_the_event_of_an_older_epoch_is_stale_and_its_receipt_is_kept() -> None:
    life = begun(A.and_(B).then(Ok).catch(Bad), up=to("new", epoch=2))
    life.send("up")
    assert life.waiting == [Stat(0)]
    assert life.settle(life.task(Stat(0)), None).kind == "committed"
    assert life.waiting == [Stat(1)]
    assert life.settle(life.task(Stat(1)), 5) == Verdict("stale")
    assert (life.state.seen, len(life.entry["receipts"]), life.entry["events"]) == ((), 1, [])
    assert life.now.seq == 4


def test_a_caught_failure_of_an_older_epoch_is_stale_and_an_uncaught_one_parks() -> None:
    life = begun(A.catch(Bad), B, up=to("new", epoch=2))
    life.send("up")
    assert life.settle(life.task(Stat(0)), Err("Full")) == Verdict("stale")
    with pytest.raises(Parked):
        life.settle(life.task(Stat(1)), Err("Full"))


def test_the_first_event_of_a_receipt_may_make_the_rest_stale() -> None:
    life = begun(together(A.then(Ok), A.then(Size)), Ok=to("new", epoch=2))
    life.settle(life.task(Stat(0)), 5)
    assert (life.state.epoch, life.state.seen) == (2, ())
    assert len(life.entry["events"]) == 1


def test_effects_belong_to_the_epoch_of_the_state_returned_with_them() -> None:
    life = begun(up=to("new", A.then(Ok), epoch=2))
    life.send("up")
    assert [epoch for epoch, _ in life.entry["effects"]] == [2]
    life.settle(life.task(Stat(0)), 5)
    assert life.state.seen == ("Ok",)


def test_events_of_one_receipt_are_applied_in_tree_order() -> None:
    life = begun(A.then(Size), A.then(Ok), A.then(Size))
    life.settle(life.task(Stat(0)), 5)
    assert life.state.seen == ("Size", "Ok", "Size")
    assert (life.now.seq, len(life.entry["receipts"])) == (2, 1)


def test_equal_tasks_of_one_revision_are_one_row() -> None:
    life = begun(A.then(Ok), A.and_(B).then(Size))
    assert len(life.now.rows) == 1
    life.settle(life.task(Stat(0)), 5)
    assert life.waiting == [Stat(1)]


def test_the_same_task_of_a_later_revision_is_another_one() -> None:
    life = begun(A.then(Ok), more=to("more", A.then(Ok)))
    first = life.task(Stat(0))
    life.send("more")
    assert len(life.now.rows) == 2
    life.settle(first, 5)
    assert (life.state.seen, len(life.now.rows)) == (("Ok",), 1)


def test_a_task_asked_for_again_in_the_write_that_settled_it_counts_at_once() -> None:
    """The id is of (job, seq, task): a settle at seq 1 cannot meet the same task of seq 2."""
    life = begun(A.then(Ok), Ok=to("again", A.and_(B).then(Size)))
    life.settle(life.task(Stat(0)), 5)
    assert life.waiting == [Stat(0)]


def test_what_an_event_asks_for_comes_after_what_was_asked_before() -> None:
    life = begun(A.then(Ok), Ok=to("next", B.then(Size)))
    first = life.now.rows[life.task(Stat(0))].n
    life.settle(life.task(Stat(0)), 5)
    assert life.now.rows[life.task(Stat(1))].n == first + 1
    assert life.done is not None
    assert [row.n for _, row in life.done.closed] == [first]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_one_receipt_fires_at_most_so_many_events(off: int) -> None:
    count = LIMITS.events_per_receipt + off
    life = begun(*[A.then(Size)] * count)
    if off > 0:
        with pytest.raises(Parked) as parked:
            life.settle(life.task(Stat(0)), 5)
        assert parked.value.error.name == "LimitExceeded"
    else:
        life.settle(life.task(Stat(0)), 5)
        assert life.state.seen == ("Size",) * count


# --- parking --------------------------------------------------------------------------------------


def parked(life: Life, task: Any, outcome: Any) -> Parked:
    before = life.head
    with pytest.raises(Parked) as caught:
        life.settle(life.task(task), outcome)
    assert life.head is before
    return caught.value


def test_a_failure_that_nothing_catches_parks_the_task() -> None:
    life = begun(A.catch(Bad, "Full").then(Ok))
    assert parked(life, Stat(0), Err("Gone", 5)).error == Err("Gone", 5)
    assert life.settle(life.task(Stat(0)), Err("Full")).kind == "committed"


@pytest.mark.parametrize(
    "rule",
    [
        lambda event, state: impossible(),
        lambda event, state: 1 / 0,
        lambda event, state: (S(status=5), []),  # type: ignore[arg-type]
        lambda event, state: (state, [perform(Go("x"))]),
        lambda event, state: (state, [A.then("Nobody")]),
        lambda event, state: "what",
        lambda event, state: (S(epoch=0), []),
    ],
)
def test_an_outcome_that_update_cannot_take_parks_the_task_and_keeps_it(rule: Rule) -> None:
    life = begun(A.then(Ok), Ok=rule)
    assert parked(life, Stat(0), 5).outcome == 5


def test_impossible_from_inside_with_effects_is_committed_and_alarms() -> None:
    life = begun(A.then(Ok), Ok=lambda event, state: impossible(B))
    assert life.settle(life.task(Stat(0)), 5).kind == "committed"
    assert len(life.draft.alarms) == 1
    assert (life.waiting, len(life.entry["receipts"])) == ([Stat(1)], 1)


def test_impossible_from_inside_without_effects_alarms_and_parks() -> None:
    life = begun(A.then(Ok), Ok=lambda event, state: impossible())
    parked(life, Stat(0), 5)
    assert len(life.draft.alarms) == 1


def test_a_wrong_outcome_is_a_failure_that_can_be_caught() -> None:
    life = begun(A.then(Size).catch(Bad, BAD_OUTCOME))
    life.settle(life.task(Stat(0)), "five")
    assert life.state.seen == ("Bad",)
    event: Any = codec.decode(life.draft.blocks[-1])
    receipts = [codec.decode(block) for block in life.draft.blocks]
    assert event is not None
    assert any("err" in (r.get("outcome") or {}) for r in receipts)  # type: ignore[union-attr, operator]


def test_a_wrong_outcome_that_nothing_catches_parks_the_task() -> None:
    life = begun(A.then(Size))
    assert parked(life, Stat(0), "five").error.name == BAD_OUTCOME
    assert life.settle(life.task(Stat(0)), 5).kind == "committed"


def test_a_dismissed_task_is_settled_and_fires_nothing() -> None:
    life = begun(A.and_(B).then(Ok).catch(Bad), A.catch(Bad, DISMISSED))
    assert life.settle(life.task(Stat(0)), Err(DISMISSED)).kind == "committed"
    assert (life.state.seen, life.waiting, life.now.open) == ((), [], ())
    assert len(life.entry["receipts"]) == 1


def test_the_job_goes_on_while_a_task_is_parked() -> None:
    life = begun(A.then(Ok), Ok=lambda event, state: impossible())
    parked(life, Stat(0), 5)
    assert life.send("note").kind == "committed"
    assert life.waiting == [Stat(0)]


@pytest.mark.parametrize("where", ["tag", "epoch", "upcast"])
def test_whatever_else_raises_parks_the_task_too(where: str) -> None:
    """An error of a type of its own would leave the task in the hands of its worker for ever."""

    def oops(*_: Any) -> Any:
        raise KeyError("oops")

    changes: dict[str, Any] = {
        "tag": {"tag": lambda state: state.status if "Ok" not in state.seen else oops()},
        "epoch": {"epoch": None},
        "upcast": {"version": 2, "upcasts": {1: (lambda tag, fields: (tag, fields), oops)}},
    }[where]
    one = workflow({"begin": to("new", A.then(Ok))})
    life = Life(one)
    life.send("begin")
    two = workflow({}, **changes)
    if where == "epoch":
        two.epoch_of = oops  # type: ignore[method-assign]
    life.registry = Registry([one, two] if where == "upcast" else [two])
    with pytest.raises((Parked, StmflowError)):
        life.settle(life.task(Stat(0)), 5)


@pytest.mark.parametrize("deep", [20, 24, 26, 27, 28, 30, 31])
def test_an_outcome_is_kept_only_as_deep_as_it_can_be_read_again(deep: int) -> None:
    """Beside the head an outcome lies deeper than in its receipt."""
    value: Any = 1
    for _ in range(deep):
        value = (value,)
    life = begun(A.and_(B).then(Size))
    try:
        life.settle(life.task(Stat(0)), value)
        kept = True
    except Parked as parked:
        kept = parked.error.name != "LimitExceeded"
    assert kept is (deep <= 26)
    assert life.waiting == [Stat(1 if kept else 0)]


# --- timers ---------------------------------------------------------------------------------------


def test_a_timer_is_due_at_its_deadline_or_so_long_after_its_revision() -> None:
    life = Life(
        begin=to("new", sleep(until=50).then(Rang), sleep(for_=timedelta(seconds=1)).then(Rang))
    )
    life.send("begin", at=10)
    assert life.waiting == [50, 1_010]
    assert life.done is not None
    assert [row.due for _, row in life.done.timers] == [50, 1_010]
    assert life.done.armed == []


def test_a_sleep_behind_a_task_counts_from_the_revision_in_which_it_is_ready() -> None:
    life = begun(A.and_(sleep(for_=timedelta(milliseconds=5))).then(Rang))
    life.settle(life.task(Stat(0)), None, at=100)
    assert life.waiting == [105]


def test_a_timer_fires_its_event() -> None:
    life = begun(sleep(until=5, name="t").then(Rang))
    assert life.settle(life.task("t"), None, at=5).kind == "committed"
    assert life.state.seen == ("Rang",)
    assert life.settle(CID.of(b"t"), None).kind == "closed"


def test_a_timer_lives_in_the_state_that_was_returned_with_it() -> None:
    life = begun(sleep(until=5, name="t").then(Rang), on=to("open"), note=to("new"))
    life.send("note")
    assert life.waiting == ["t"]
    life.send("on")
    assert life.waiting == []
    assert life.done is not None
    assert len(life.done.closed) == 1


def test_during_names_the_states_in_which_a_timer_lives() -> None:
    timer = sleep(until=5, name="t", during=("open", "shut")).then(Rang)
    life = Life(begin=to("open", timer), shut=to("shut"), end=to("end"))
    life.send("begin")
    life.send("shut")
    assert life.waiting == ["t"]
    life.send("end")
    assert life.waiting == []


def test_a_timer_that_is_not_for_this_state_is_never_armed() -> None:
    life = begun(sleep(until=5, during="open").then(Rang), A.and_(sleep(until=9, during="open")))
    assert life.waiting == [Stat(0)]
    life.settle(life.task(Stat(0)), None)
    assert life.waiting == []


def test_a_timer_beside_a_task_in_one_effect_ends_with_its_state() -> None:
    life = begun(together(sleep(until=5, name="t"), A), end=to("end"))
    assert sorted(map(str, life.waiting)) == sorted(map(str, ["t", Stat(0)]))
    life.send("end")
    assert life.waiting == [Stat(0)]


def test_a_state_left_and_entered_again_in_one_write_keeps_the_timer() -> None:
    """Judged once, at the end of the write."""
    life = begun(
        sleep(until=5, name="t").then(Rang),
        A.then(Ok),
        A.then(Size),
        Ok=to("open"),
        Size=to("new"),
    )
    life.settle(life.task(Stat(0)), 5)
    assert life.waiting == ["t"]


def test_a_new_epoch_ends_every_timer_but_those_for_any() -> None:
    life = begun(
        sleep(until=5, name="a").then(Rang),
        sleep(until=5, name="b", during=("new",)).then(Rang),
        sleep(until=5, name="c", during=ANY).then(Rang),
        up=to("new", epoch=2),
    )
    life.send("up")
    assert life.waiting == ["c"]
    assert life.settle(life.task("c"), None, at=5) == Verdict("stale")
    assert life.state.seen == ()


def test_a_timer_for_any_outlives_every_state_and_its_chain_goes_on() -> None:
    life = begun(sleep(until=5, name="t", during=ANY).and_(A), end=to("end", epoch=7))
    life.send("end")
    life.settle(life.task("t"), None, at=5)
    assert life.waiting == [Stat(0)]


def test_arming_a_name_that_is_open_replaces_it() -> None:
    life = begun(
        sleep(until=5, name="t").then(Rang), more=to("new", sleep(until=9, name="t").then(Rang))
    )
    first = life.task("t")
    life.send("more")
    assert [row.due for row in life.now.rows.values()] == [9]
    assert life.settle(first, None).kind == "closed"


def test_of_two_of_one_name_in_one_answer_the_later_stands() -> None:
    life = begun(sleep(until=5, name="t").then(Rang), sleep(until=9, name="t").then(Rang))
    assert [row.due for row in life.now.rows.values()] == [9]


def test_the_same_named_sleep_again_in_one_answer_stays_armed_once() -> None:
    life = begun(sleep(until=5, name="t").then(Rang), sleep(until=5, name="t").then(Rang))
    assert life.waiting == ["t"]
    life.settle(life.task("t"), None, at=5)
    assert life.state.seen == ("Rang",)


def test_cancel_removes_what_is_open_by_that_name() -> None:
    life = begun(
        sleep(until=5, name="t").then(Rang),
        perform(Stat(0), name="x").and_(B).then(Ok),
        stop=to("new", cancel("t"), cancel("x")),
    )
    task = life.task("x")
    life.send("stop")
    assert (life.waiting, life.now.open) == ([], ())
    assert life.settle(task, 5).kind == "closed"
    assert life.state.seen == ()


def test_cancel_reaches_tasks_that_are_not_ready_yet() -> None:
    life = begun(A.and_(perform(Stat(1), name="x")).then(Ok), stop=to("new", cancel("x")))
    life.send("stop")
    assert life.waiting == [Stat(0)]
    life.settle(life.task(Stat(0)), None)
    assert (life.waiting, life.state.seen) == ([], ())


def test_cancel_reaches_effects_before_it_and_none_after() -> None:
    named = perform(Stat(0), name="x").then(Ok)
    assert begun(named, cancel("x")).waiting == []
    assert begun(cancel("x"), named).waiting == [Stat(0)]
    again = begun(named, cancel("x"), named)
    assert again.waiting == [Stat(0)]
    again.settle(again.task("x"), 5)
    assert again.state.seen == ("Ok",)


def test_cancelling_nothing_is_no_error() -> None:
    life = begun(stop=to("new", cancel("nobody")))
    assert life.send("stop").kind == "committed"


def test_a_settled_task_is_not_withdrawn_by_its_name() -> None:
    life = begun(together(perform(Stat(0), name="x"), B).then(Two), stop=to("new", cancel("x")))
    life.settle(life.task("x"), 1)
    life.send("stop")
    life.settle(life.task(Stat(1)), 2)
    assert life.state.seen == ("Two",)


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("shape", ["one effect each", "many in each"])
def test_a_job_has_at_most_so_many_open_tasks(off: int, shape: str) -> None:
    count = LIMITS.open_tasks_per_job + off
    tasks = [perform(Stat(n)) for n in range(count)]
    effects: list[Effect] = list(tasks)
    if shape == "many in each":
        effects = [together(*tasks[at : at + 200]) for at in range(0, count, 200)]
    life = Life(begin=to("new", *effects), pure=False)
    if off > 0:
        with pytest.raises(LimitExceeded, match="open tasks"):
            life.send("begin")
    else:
        life.send("begin")
        assert len(life.now.rows) == count


def test_what_lies_beside_a_head_is_refused_before_it_cannot_be_read() -> None:
    """Many large effects: the write is refused, or what it keeps can be read back."""
    text = "x" * 10_000
    rule = to("new", *[perform(Long(n, text)) for n in range(40)])
    life = Life(workflow({"begin": rule}, tasks=(Long,)))
    try:
        life.send("begin")
    except CodecError:
        return
    assert len(life.waiting) == 40


@dataclass(frozen=True)
class Long:
    n: int
    text: str


def test_a_tree_deeper_than_the_stack_is_refused() -> None:
    tree = A
    for _ in range(5_000):
        tree = tree.catch(Bad)
    life = begun(A.then(Ok), odd=to("new", tree), Ok=to("new", tree))
    with pytest.raises(StmflowError):
        life.send("odd")
    parked(life, Stat(0), 5)


# --- transactional tasks --------------------------------------------------------------------------


def test_a_transactional_task_is_done_in_the_write_that_asks_for_it() -> None:
    life = Life(
        begin=to("new", perform(Take(1)).then(Ok)),
        transactional={Take: lambda task: task.n + 1},
    )
    life.send("begin")
    assert (life.state.seen, life.waiting, life.now.seq) == (("Ok",), [], 1)
    assert (len(life.entry["receipts"]), len(life.entry["events"])) == (1, 2)


def test_what_a_transactional_task_leads_to_is_armed_or_done_likewise() -> None:
    done: list[int] = []
    life = Life(
        begin=to("new", perform(Take(1)).and_(A).and_(perform(Take(2))).then(Ok)),
        transactional={Take: lambda task: done.append(task.n)},
    )
    life.send("begin")
    assert (done, life.waiting) == ([1], [Stat(0)])
    life.settle(life.task(Stat(0)), None)
    assert (done, life.state.seen, life.now.seq) == ([1, 2], ("Ok",), 2)


def test_equal_transactional_tasks_are_run_once() -> None:
    done: list[int] = []
    take = perform(Take(1))
    life = Life(
        begin=to("new", take.then(Ok), take.and_(A), together(take, B).then(Size)),
        transactional={Take: lambda task: done.append(task.n)},
    )
    life.send("begin")
    assert done == [1]
    assert life.waiting == [Stat(0), Stat(1)]


def test_a_transactional_task_asked_for_again_in_one_write_has_its_receipt_at_once() -> None:
    done: list[int] = []
    life = Life(
        begin=to("new", perform(Take(1)).then(Ok)),
        Ok=to("more", perform(Take(1)).then(Rang)),
        transactional={Take: lambda task: done.append(task.n)},
    )
    life.send("begin")
    assert done == [1]
    assert (life.state.status, life.waiting) == ("more", [])


def test_a_transactional_failure_is_caught_as_any_other() -> None:
    life = Life(
        begin=to("new", perform(Take(1)).then(Ok).catch(Bad, "Full")),
        transactional={Take: lambda task: Err("Full")},
    )
    life.send("begin")
    assert life.state.seen == ("Bad",)


def test_an_uncaught_transactional_failure_fails_the_transaction() -> None:
    rules = {
        "begin": to("new", A.then(Ok)),
        "odd": to("odd", perform(Take(1))),
        "Ok": to("odd", perform(Take(1))),
    }
    life = Life(workflow(rules), transactional={Take: lambda task: Err("Full")})
    life.send("begin")
    with pytest.raises(ReducerFailed, match="Full"):
        life.send("odd")
    assert parked(life, Stat(0), 5).outcome == 5


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_transaction_takes_at_most_so_many_steps(off: int) -> None:
    count = LIMITS.transactional_steps + off
    steps = perform(Take(0))
    effects = [perform(Take(n)) for n in range(count)]
    assert steps == effects[0]
    life = Life(begin=to("new", *effects), transactional={Take: lambda task: None})
    if off > 0:
        with pytest.raises(ReducerFailed, match="16"):
            life.send("begin")
    else:
        life.send("begin")
        assert len(life.entry["receipts"]) == count


def test_a_given_effect_cannot_hold_a_transactional_task() -> None:
    life = Life(transactional={Take: lambda task: None})
    life.send("begin")
    draft = life.drafted()
    draft.give("transaction", perform(Take(1)))
    with pytest.raises(ReducerFailed, match="given"):
        draft.finish()


def test_nor_one_that_was_settled_in_this_very_write() -> None:
    """Its receipt would count at once; but nobody would take the event that it fires."""
    life = Life(
        begin=to("new", perform(Take(1)).then(Ok)),
        ok=to("new"),
        transactional={Take: lambda task: None},
    )
    draft = life.drafted()
    draft.send(Go("begin"))
    draft.give("transaction", perform(Take(1)).then(Ok))
    with pytest.raises(ReducerFailed, match="given"):
        draft.finish()


def test_a_copy_of_a_draft_keeps_what_is_to_be_armed() -> None:
    """Copies are made whenever a transactional task runs beside other jobs' drafts."""
    life = Life(begin=to("new", A.then(Ok)))
    draft = life.drafted()
    draft.send(Go("begin"))
    twin = draft.fork()
    for one in (draft, twin):
        life.draft = one
        life.head = None
        life.commit()
        assert life.waiting == [Stat(0)]


def test_a_copy_and_its_original_go_their_own_ways() -> None:
    life = begun(A.then(Ok), together(B, C).then(Two))
    draft = life.drafted()
    twin = draft.fork()
    draft.settle(life.task(Stat(0)), 5)
    twin.settle(life.task(Stat(1)), 6)
    assert (len(draft.receipts), len(twin.receipts)) == (1, 1)
    assert (draft.state.seen, twin.state.seen) == (("Ok",), ())
    before = life.head
    for one, waiting in ((draft, [Stat(1), Stat(2)]), (twin, [Stat(0), Stat(2)])):
        life.draft, life.head = one, before
        life.commit()
        assert life.waiting == waiting


# --- versions -------------------------------------------------------------------------------------


def lift(tag: str, fields: Any) -> tuple[str, Any]:
    return tag, {**fields, "text": fields.get("text", "") + "2"} if tag == "S" else fields


def rename(tag: str, fields: Any) -> tuple[str, Any]:
    return ("Size", {"bytes": fields["value"]}) if tag == "Ok" else (tag, fields)


def test_a_job_of_an_older_version_is_carried_on_by_the_newer_one() -> None:
    one = workflow({"begin": to("new", A.then(Ok).catch(Bad), sleep(until=5, name="t").then(Rang))})
    two = workflow({}, version=2, upcasts={1: (lift, rename)})
    life = Life(one)
    life.send("begin")
    old = life.now
    life.registry = Registry([one, two])
    life.head = old._replace(state=replace(old.state, text="2"))
    assert life.settle(life.task(Stat(0)), 5).kind == "committed"
    assert life.state == S(seen=("Size",), text="2")
    assert life.entry["workflow"] == ["job", 2]
    assert life.now.version == 2
    life.settle(life.task("t"), None, at=5)
    assert life.state.seen == ("Size", "Rang")


def test_an_outcome_for_an_older_effect_is_judged_by_the_older_types() -> None:
    one = workflow({"begin": to("new", A.then(Size).catch(Bad))})
    two = workflow({}, version=2, upcasts={1: (lift, rename)})
    life = Life(one)
    life.send("begin")
    life.registry = Registry([one, two])
    life.settle(life.task(Stat(0)), "five")
    assert life.state.seen == ("Bad",)


def test_a_task_id_is_of_job_seq_and_task() -> None:
    life = begun(A.then(Ok))
    plain = {"w": "job", "v": 1, "t": "Stat", "f": {"n": 0}}
    assert life.task(Stat(0)) == CID.of(codec.encode([life.job.id, 1, plain]))


def test_a_job_of_an_unknown_workflow_has_no_draft() -> None:
    with pytest.raises(StmflowError):
        Draft(Registry([]), Life().job, None, 0)


def test_an_invalid_effect_is_a_definition_error() -> None:
    with pytest.raises((InvalidWorkflow, ReducerFailed)):
        begun(perform(Go("x")))
