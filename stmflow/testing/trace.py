"""Play events and outcomes through workflows with no IO and virtual time, and look at the result.

    job = Trace(store_add).send(Add(space, link, 5))
    assert job.ready == [Allocate(space, reservation, 5)]
    job.succeed(Allocate).succeed(Stat, absent).succeed(Presign, signed).pass_time(hours=2)
    assert job.tag == "verifying"

It runs the code that production runs, `Tx` and `Draft`, on a dict of heads, and after every step
checks what must always hold: `update` gave one answer twice, every block reads back as the same
bytes, what is stored beside a head restores to it, and the events alone give the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, Self, TypeVar

from stmflow import codec
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import Err, Outcome, Sleep
from stmflow.errors import InvalidEvent, NotOutside, StmflowError
from stmflow.job import Armed, Draft, Head, Parked, Verdict, restore
from stmflow.schema import freeze, thaw
from stmflow.store import HeadWrite, Kind, NewTask, NewTimer
from stmflow.transaction import Answer, Later, Planned, Retry, Transactional, Tx
from stmflow.workflow import Job, Registry, Workflow

T = TypeVar("T")


class Timer(NamedTuple):
    """An armed timer: its name, if it has one, and when it is due (milliseconds)."""

    name: str | None
    due: int


class Past(NamedTuple):
    """What one revision did to the job: the events applied, and the state that they led to."""

    revision: CID
    seq: int
    epoch: int
    at: int
    events: tuple[Any, ...]
    state: Any
    tag: str


class Trace:
    """One job of a workflow, played step by step. The first event sent says which job it is.

    Args:
        workflow: the job's workflow. others: workflows of the other jobs it touches.
        at: the time at which it begins, in milliseconds.
        transactional: task type → function `(tx, task) -> outcome` run inside commits.
        tasks: task type → the body of the `scheduler.Transaction` that performs it; see `run`.

    Every step returns the trace, so that steps can be chained. A step that cannot be made, such as
    an outcome for a task that is not ready, is an `AssertionError` that says what was ready.
    """

    def __init__(
        self,
        workflow: Workflow,
        *,
        at: int = 0,
        transactional: Transactional | None = None,
        tasks: Transactional | None = None,
        others: Iterable[Workflow] = (),
    ) -> None:
        registry = Registry([workflow, *others, CELL])
        self._world = _World(registry, dict(transactional or {}), dict(tasks or {}), at)
        self._workflow = workflow
        self._job: Job | None = None
        self._answer: Answer | None = None

    def job(self, job: Job) -> Trace:
        """A trace of another job in the same world: one store, one clock."""
        twin = object.__new__(Trace)
        twin._world = self._world
        twin._workflow = self._world.registry.newest(job.workflow)
        twin._job = job
        twin._answer = None
        return twin

    # --- steps ------------------------------------------------------------------------------------

    def send(self, event: Any, *, delivery: str | None = None) -> Self:
        """Deliver an outside event; `answer` says what became of it.

        Under a `delivery` that was answered before, the event is not applied and the first answer
        comes again. Raises NotOutside or InvalidEvent as the transactor would.
        """
        self._workflow.check_event(event, self.now)
        if type(event) not in self._workflow.outside:
            name = type(event).__name__
            raise NotOutside(f"{name} is not an outside event of {self._workflow.name}")
        self._name(event)
        self._answer = self._world.send(self._known(), event, delivery)
        return self

    def succeed(self, what: Any, outcome: Any = None) -> Self:
        """Settle a ready task with an ok outcome: the first of that type, or equal to that value.

        A task's id (see `outbox`) names that very task; one that is settled is answered `closed`.
        """
        return self._settle(what, freeze(codec.decode(codec.encode(thaw(outcome)))))

    def fail(self, what: Any, name: str, detail: Any = None) -> Self:
        """Settle a ready task with a failure: `Err(name, detail)`."""
        return self._settle(what, Err(name, freeze(thaw(detail))))

    def run(self, what: Any) -> Self:
        """Run a ready task that is a transaction, and settle it in the same commit.

        Where its body retries, nothing is written and the answer's kind is `waits`.
        """
        row = self._find(what)
        self._answer = self._world.run(self._known(), row)
        return self

    def repeat(self) -> Self:
        """Deliver the last outcome of this world once more: nothing may come of it."""
        assert self._world.last is not None, "no outcome was delivered yet"
        self._answer = self._world.settle(*self._world.last)
        return self

    def pass_time(
        self,
        *,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        until: int | None = None,
        late: bool = False,
    ) -> Self:
        """Let time pass, for this and all other jobs; timers fire in the order of their deadlines.

        Args:
            until: to this time (milliseconds) rather than by so much.
            late: no timer fires, as if every process slept: `fire` them, or pass time again.
        """
        span = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        end = self.now + span // timedelta(milliseconds=1) if until is None else until
        assert end >= self.now, f"time does not go back: it is {self.now}"
        while not late and (due := self._world.next_timer(end)) is not None:
            self._answer = self._world.fire(due)
        self._world.now = max(self.now, end)
        return self

    def fire(self, name: str | None = None) -> Self:
        """Fire this job's timer of that name, whose deadline must have passed."""
        rows = [row for row in self._rows() if row.due is not None and row.name == name]
        due = [row for row in rows if (row.due or 0) <= self.now]
        assert due, f"no timer {name!r} is due at {self.now}; armed: {self.timers}"
        self._answer = self._world.fire(due[0])
        return self

    def transact(self, body: Callable[[Tx], T]) -> T:
        """Run a transaction over several jobs; its value."""
        return self._world.transact(body)

    # --- what there is to see ---------------------------------------------------------------------

    @property
    def answer(self) -> Answer:
        """What the last event or outcome got."""
        assert self._answer is not None, "nothing was delivered yet"
        return self._answer

    @property
    def now(self) -> int:
        """The time, in milliseconds."""
        return self._world.now

    @property
    def head(self) -> Head | None:
        """The job's head, or None where there is no job."""
        return None if self._job is None else self._world.heads.get(self._job.id)

    @property
    def state(self) -> Any:
        """The job's state, or None where there is no job."""
        return None if self.head is None else self.head.state

    @property
    def tag(self) -> str | None:
        """The state's tag."""
        return None if self.head is None else self._workflow.tag_of(self.head.state)

    @property
    def epoch(self) -> int:
        """Which try of the job this is; 0 where there is no job."""
        return 0 if self.head is None else self.head.epoch

    @property
    def refused(self) -> str | None:
        """Why the last event was rejected, or None."""
        return self.answer.code if self.answer.rejected else None

    @property
    def ready(self) -> list[Any]:
        """The tasks in the outbox, in the order in which they were asked for."""
        return list(self.outbox.values())

    @property
    def outbox(self) -> dict[CID, Any]:
        """The same tasks by their ids."""
        rows = self._rows()
        return {row.id: row.task for row in rows if row.due is None and row.error is None}

    @property
    def unsettled(self) -> list[Any]:
        """Every task that was asked for and may still be performed, ready or behind others."""
        return [
            leaf.task
            for effect in (() if self.head is None else self.head.open)
            for number, leaf in enumerate(effect.plan.leaves)
            if not isinstance(leaf, Sleep)
            if number not in effect.log and number not in effect.withdrawn
        ]

    @property
    def timers(self) -> list[Timer]:
        """The armed timers, earliest first."""
        rows = [row for row in self._rows() if row.due is not None and row.error is None]
        return sorted((Timer(row.name, row.due or 0) for row in rows), key=lambda timer: timer.due)

    @property
    def parked(self) -> list[tuple[Any, Err]]:
        """Tasks (or names of timers) that wait for a person, and why."""
        rows = [(row, row.error) for row in self._rows()]
        return [(row.task or row.name, error) for row, error in rows if error is not None]

    @property
    def history(self) -> list[Past]:
        """The job's revisions, first one first."""
        return [] if self._job is None else self._world.history.get(self._job.id, [])

    @property
    def alarms(self) -> list[str]:
        """What `update` called impossible, in any job of this world."""
        return self._world.alarms

    # --- finding ----------------------------------------------------------------------------------

    def _name(self, event: Any) -> None:
        if self._job is None:
            self._job = self._workflow.job_of(event)
            return
        try:
            other = self._workflow.job_of(event)
        except (AttributeError, InvalidEvent):  # it names none
            return
        if other.key and other != self._job:
            raise AssertionError(f"this event is for another job: use trace.job(…) for {other.key}")

    def _known(self) -> Job:
        assert self._job is not None, "send an event first: it says which job this is"
        return self._job

    def _rows(self) -> list[_Row]:
        if self._job is None:
            return []
        return [row for row in self._world.rows.values() if row.job == self._job]

    def _find(self, what: Any) -> _Row:
        for row in self._rows():
            found = type(row.task) is what or row.task == what
            if found and row.due is None and row.error is None:
                return row
        wanted = what.__name__ if isinstance(what, type) else what
        ready = "".join(f"\n  {task}" for task in self.ready) or " nothing"
        parked = "".join(f"\n  {task}: {error.name}" for task, error in self.parked)
        raise AssertionError(
            f"{wanted} is not ready in {self.tag or 'no state'}; ready:{ready}"
            + (f"\nparked:{parked}" if parked else "")
        )

    def _settle(self, what: Any, outcome: Outcome) -> Self:
        task = what if isinstance(what, CID) else self._find(what).id
        self._answer = self._world.settle(self._known(), task, outcome)
        return self


# --- the world ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    """A line of the outbox: a task, or a timer (`due` is set); with `error`, parked."""

    job: Job
    n: int
    id: CID
    task: Any
    name: str | None
    due: int | None
    error: Err | None = None


@dataclass(slots=True)
class _World:
    """All jobs of a trace: what a store holds, in dicts."""

    registry: Registry
    transactional: Transactional
    tasks: Transactional
    now: int
    heads: dict[CID, Head] = field(default_factory=dict)
    rows: dict[tuple[CID, int], _Row] = field(default_factory=dict)
    history: dict[CID, list[Past]] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    answers: dict[tuple[CID, str], Answer] = field(default_factory=dict)
    last: tuple[Job, CID, Outcome] | None = None

    def send(self, job: Job, event: Any, delivery: str | None) -> Answer:
        first = None if delivery is None else self.answers.get((job.id, delivery))
        if first is not None:
            return first._replace(repeated=True)
        verdict, draft, planned = self._run(self.now, job, lambda _, draft: draft.send(event))
        self.alarms += draft.alarms
        if verdict.kind == "committed":
            self._apply(planned)
        answer = self._answer(job, verdict)
        if delivery is not None and job.id in self.heads:
            self.answers[(job.id, delivery)] = answer
        return answer

    def settle(self, job: Job, task: CID, outcome: Outcome) -> Answer:
        self.last = (job, task, outcome)
        return self._inside(job, task, outcome, self.now)

    def run(self, job: Job, row: _Row) -> Answer:
        body = self.tasks.get(type(row.task))
        assert body is not None, f"tasks= has no body for {type(row.task).__name__}"
        try:
            return self._inside(
                job, row.id, lambda tx, d: tx.run(d, body, row.id, row.task), self.now
            )
        except Retry:
            return Answer("waits", job.id)

    def fire(self, row: _Row) -> Answer:
        self.now = max(self.now, row.due or 0)
        return self._inside(row.job, row.id, None, self.now)

    def transact(self, body: Callable[[Tx], T]) -> T:
        value, tx = self._retry(self.now, body)
        self._apply(tx.plan(None, _nobody))
        return value

    def next_timer(self, end: int) -> _Row | None:
        """The first timer that is due by `end`."""
        armed = [row for row in self.rows.values() if row.due is not None and row.error is None]
        due = [row for row in armed if (row.due or 0) <= end]
        return min(due, key=lambda row: row.due or 0, default=None)

    def _inside(
        self, job: Job, task: CID, outcome: Outcome | Callable[[Tx, Draft], Outcome], now: int
    ) -> Answer:
        def settle(tx: Tx, draft: Draft) -> Verdict:
            return draft.settle(task, outcome(tx, draft) if callable(outcome) else outcome)

        try:
            verdict, _, planned = self._run(now, job, settle)
        except Parked as parked:
            return self._park(job, task, parked.error)
        except StmflowError as error:
            return self._park(job, task, Err(type(error).__name__, str(error)))
        if verdict.kind == "closed":
            return self._answer(job, verdict)
        before = self.heads[job.id].state_cid
        self._apply(planned)
        stale = verdict.kind == "stale"
        assert not stale or self.heads[job.id].state_cid == before, "a stale event changed a state"
        return self._answer(job, verdict if stale else Verdict("committed"))

    def _park(self, job: Job, task: CID, error: Err) -> Answer:
        row = next(row for row in self.rows.values() if row.id == task)
        row.error = error
        return Answer("parked", job.id, code=error.name, detail=error.detail)

    def _run(
        self, now: int, job: Job, step: Callable[[Tx, Draft], Verdict]
    ) -> tuple[Verdict, Draft, Planned]:
        def body(tx: Tx) -> tuple[Verdict, Draft]:
            draft = tx.draft(job)
            try:
                return step(tx, draft), draft
            except Parked:
                self.alarms += draft.alarms
                raise

        (verdict, draft), tx = self._retry(now, body)
        return verdict, draft, tx.plan(None, _nobody)

    def _retry(self, at: int, body: Callable[[Tx], T]) -> tuple[T, Tx]:
        """Run a body at a time that no head it reads is younger than."""
        while True:
            tx = Tx(self.heads.get, self.registry, at, transactional=self.transactional, pure=True)
            try:
                return body(tx), tx
            except Later as later:
                at = later.at

    def _answer(self, job: Job, verdict: Verdict) -> Answer:
        head = self.heads.get(job.id)
        code, detail = verdict.code, verdict.detail
        if head is None:
            return Answer(verdict.kind, job.id, code=code, detail=detail)
        return Answer(
            verdict.kind, job.id, head.revision, head.state_cid, head.seq, head.epoch, code, detail
        )

    # --- what a commit writes

    def _apply(self, planned: Planned) -> None:
        commit = planned.commit
        for job, n, _ in commit.closed:
            del self.rows[(job, n)]
        for write, made in zip(commit.writes, planned.heads, strict=True):
            head = restore(write.head, self.registry)
            self._check(head, made, write)
            self.heads[write.job] = head
        blocks = _checked([commit.revision or b"", *commit.blocks]) if commit.writes else {}
        for write in commit.writes:
            self._remember(write, commit.revision_cid, blocks)
        added: list[NewTask | NewTimer] = [*commit.tasks, *commit.timers]
        for new in added:
            self.rows[(new.job, new.n)] = self._row(new)

    def _check(self, head: Head, made: Head, write: HeadWrite) -> None:
        before = self.heads.get(write.job)
        assert head.open_bytes() == made.open_bytes() == write.head.open, (
            "open effects do not read back"
        )
        assert head.state == made.state, "a state does not read back"
        assert write.prev == (None if before is None else before.revision), "a fork"
        if before is not None:
            assert head.seq == before.seq + 1, "a gap"
            assert head.epoch >= before.epoch, "the epoch fell"
            assert head.at >= before.at, "time fell"

    def _remember(
        self, write: HeadWrite, revision: CID | None, blocks: Mapping[CID, bytes]
    ) -> None:
        """Append to the job's history, after folding its events once more."""
        assert revision is not None
        head = self.heads[write.job]
        workflow = self.registry.newest(head.name)
        history = self.history.setdefault(write.job, [])
        entries: list[Any] = _read(blocks[revision])["writes"]
        entry = next(entry for entry in entries if entry["job"] == write.job)
        events = tuple(workflow.event_of(_read(blocks[cid])) for cid in entry["events"])
        state = history[-1].state if history else None
        for event in events:
            answer = workflow.update(event, state)
            state = answer[0] if type(answer) is tuple else state
        assert CID.of(workflow.state_bytes(state)) == head.state_cid, (
            "the events give no such state"
        )
        tag = workflow.tag_of(head.state)
        history.append(Past(revision, head.seq, head.epoch, head.at, events, head.state, tag))

    def _row(self, new: NewTask | NewTimer) -> _Row:
        head = self.heads[new.job]
        job = Job(head.name, head.key, head.job)
        if isinstance(new, NewTimer):
            return _Row(job, new.n, new.id, None, _timer_name(head, new.id), new.due)
        plain = _read(new.block)
        task = self.registry.version(new.workflow, new.version).task_of(plain)
        return _Row(job, new.n, new.id, task, plain.get("n"), None)


def _timer_name(head: Head, timer: CID) -> str | None:
    for effect in head.open:
        for number, armed in effect.armed.items():
            if armed == timer:
                return effect.plan.leaves[number].name
    raise AssertionError(f"timer {timer} belongs to no open effect")


def _read(block: bytes) -> dict[str, Any]:
    plain: Any = codec.decode(block)
    return plain  # type: ignore[no-any-return]


def _checked(blocks: Iterable[bytes]) -> dict[CID, bytes]:
    """Blocks by name; each must read back as the same bytes."""
    found = {}
    for block in blocks:
        assert codec.encode(codec.decode(block)) == block, "a block is not canonical"
        found[CID.of(block)] = block
    return found


def _nobody(job: Job, armed: Armed) -> tuple[Kind, str, None]:
    return armed.kind, "", None


__all__ = ["Past", "Timer", "Trace"]
