"""What may be asked of the committer, and how each request becomes a member of a store batch.

A request is planned on a `View`, the overlay of one batch. Planning is pure but for the slots that
a view borrows from the worker: it may be done again, on other heads or on another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import Outcome, outcome_bytes
from stmflow.errors import Archived, InvalidEvent, NotOutside, ReducerFailed
from stmflow.job import CLOSED, Armed, Draft, Head, Parked, Verdict, refusal
from stmflow.placement import Placement, placed
from stmflow.store import (
    Claimed,
    Commit,
    DeliveryRow,
    DueTimer,
    Kind,
    Member,
    Park,
    Ref,
    Watch,
)
from stmflow.transaction import Answer, Body, Planned, Retry, Transactional, Tx
from stmflow.workflow import Job, Registry, Workflow


class Worker(Protocol):
    """What a scheduler lets the committer do: claim at commit, and wake it."""

    def reserve(self, job: CID, n: int, kind: Kind, tenant: str) -> int | None:
        """A slot for that task, as the number of the worker that claims it; or None."""
        ...

    def release(self, job: CID, n: int) -> None:
        """Give back a slot whose claim was not committed."""
        ...

    def take(self, claimed: Sequence[Claimed]) -> None:
        """Perform these: they are claimed, durably."""
        ...

    def wake(self, due: int) -> None:
        """Something in the store is due at this time (milliseconds)."""
        ...

    def doubt(self) -> None:
        """A commit of unknown fate may have claimed tasks that nobody here knows of."""
        ...


TaskBody = Callable[[Tx, Any], Any]
"""A task that is a transaction: `(tx, task) -> outcome`, pure."""


class Rules(Protocol):
    """What a service has settled once, and every plan goes by."""

    @property
    def registry(self) -> Registry: ...

    @property
    def transactional(self) -> Transactional: ...

    @property
    def pure(self) -> bool: ...

    @property
    def process(self) -> int: ...

    @property
    def tenant(self) -> Callable[[Job], str]: ...

    @property
    def needs(self) -> Mapping[type[Any], Placement]: ...


@dataclass(slots=True)
class Step:
    """What a request comes to: a member for the store (or none), its answer, the heads it makes."""

    answer: Any
    member: Member | None = None
    heads: Sequence[Head] = ()
    alarms: Sequence[str] = ()


class Barred(BaseException):
    """A job is read that has left for the archive. No `Exception`: bodies must not eat it."""

    def __init__(self, error: Archived) -> None:
        self.error = error


class View:
    """What a request is planned against: the overlay of one batch."""

    __slots__ = ("_last", "_rules", "_worker", "barred", "lent", "read")

    def __init__(
        self,
        rules: Rules,
        heads: dict[CID, Head | None],
        read: Callable[[CID], Head | None],
        worker: Worker | None,
    ) -> None:
        def lookup(job: CID) -> Head | None:
            if self.barred is not None and job == self.barred.job:
                raise Barred(self.barred)
            return heads[job] if job in heads else read(job)

        self._rules = rules
        self._last: Tx | None = None
        self._worker = worker
        self.barred: Archived | None = None
        """What the request that is planned cannot read."""
        self.lent: list[tuple[CID, int]] = []
        self.read = lookup
        """job → the head as the next commit will find it."""

    def place(self, job: Job, armed: Armed) -> tuple[Kind, str, int | None]:
        """The kind under which a task waits, its tenant, and the worker that claims it at once, if
        one lends a slot."""
        kind, tenant = armed.kind, self._tenant(job)
        if self._rules.needs:
            kind = self._placed(kind, armed.leaf.task)
        if self._worker is None:
            return kind, tenant, None
        worker = self._worker.reserve(job.id, armed.n, kind, tenant)
        if worker is not None:
            self.lent.append((job.id, armed.n))
        return kind, tenant, worker

    def _tenant(self, job: Job) -> str:
        try:
            tenant = self._rules.tenant(job)
            str.encode(tenant)  # what no store can keep would fail the whole batch it is in
        except Exception as error:
            raise ReducerFailed(f"the tenant of {job} cannot be told: {error!r}") from error
        return tenant

    def _placed(self, kind: Kind, task: Any) -> Kind:
        needs = self._rules.needs.get(type(task))
        if needs is None:
            return kind
        try:
            return placed(kind, needs(task))
        except Exception as error:
            raise ReducerFailed(f"the needs of {kind[2]} cannot be told: {error!r}") from error

    def give_back(self) -> None:
        """Return what was lent to a plan that came to nothing."""
        for job, n in self.lent:
            if self._worker is not None:
                self._worker.release(job, n)
        self.lent = []

    def reads(self, but: CID | None = None) -> list[tuple[CID, CID | None]]:
        """What the last transaction on this overlay has read; but not the job of the task that it
        ran, unless the task has asked for it."""
        if self._last is None:
            return []
        seen = dict(self._last.seen)
        if but is not None and but not in self._last.own:
            seen.pop(but, None)
        return [(job, None if head is None else head.revision) for job, head in seen.items()]

    def tx(self, at: int) -> Tx:
        """A transaction on this overlay."""
        rules = self._rules
        self._last = Tx(
            self.read,
            rules.registry,
            at,
            transactional=rules.transactional,
            pure=rules.pure,
            process=rules.process,
        )
        return self._last


class Request:
    """Something that wants a place in a batch. Subclasses say what by `plan`."""

    __slots__ = (
        "abandoned",
        "barred",
        "base",
        "done",
        "doubt",
        "failed",
        "late",
        "now",
        "origin",
        "planned",
        "since",
        "tries",
        "waits",
    )

    inside = True
    """Whether it must not be lost when the store is unavailable: the committer tries it again."""

    def __init__(
        self, now: int, done: Callable[[Any], None], failed: Callable[[BaseException], None]
    ) -> None:
        self.now = self.since = now
        self.origin: Any = None
        self.done = done
        self.failed = failed
        self.tries = 0
        self.doubt = 0
        self.base: int | None = None
        self.planned = False
        self.abandoned = False
        self.barred: Archived | None = None
        self.late = False
        self.waits: tuple[CID, ...] = ()

    def jobs(self) -> Iterable[CID]:
        """The jobs that it will surely read."""
        return ()

    def plan(self, view: View) -> Step:
        """The step on this overlay. Raises Missing, Later, or what the caller shall get."""
        raise NotImplementedError

    def delivery(self) -> tuple[CID, bytes] | None:
        """The id by which an unknown fate can be settled."""
        return None

    @property
    def remembered(self) -> bool:
        """Whether the store keeps the answer under that id, so that anybody may ask again."""
        return self.delivery() is not None


class Send(Request):
    """An outside event for one job."""

    __slots__ = ("event", "id", "job", "target", "until")
    inside = False

    def __init__(
        self, target: CID, job: Job | None, event: Any, id: bytes, until: int | None, *rest: Any
    ) -> None:
        super().__init__(*rest)
        self.target = target
        self.job = job
        self.event = event
        self.id = id
        self.until = until

    def jobs(self) -> Iterable[CID]:
        return (self.target,)

    def delivery(self) -> tuple[CID, bytes]:
        return (self.target, self.id)

    @property
    def remembered(self) -> bool:
        return self.until is not None

    def plan(self, view: View) -> Step:
        head = view.read(self.target)
        seq = 0 if head is None else head.seq
        self.base = seq if self.base is None else min(self.base, seq)  # overlays may be dropped
        if head is not None and any(task.bytes == self.id for task in head.rows):
            raise InvalidEvent("this delivery id is the name of a task of the job")
        if head is None and self.job is None:
            answer = Answer("rejected", self.target, code="NotFound")
            return Step(answer, _judged(self.target, None))
        job = self.job if head is None else Job(head.name, head.key, head.job)
        assert job is not None
        tx = view.tx(self.now if head is None else max(self.now, head.at))
        draft = tx.draft(job)
        event = self.event
        if type(event) not in draft.workflow.outside:  # it was checked by another version
            event = outside(draft.workflow, draft.spoken(event))
        verdict = draft.send(event, checked=True)
        if tx.broken is not None:
            raise tx.broken
        if verdict.kind == "committed":
            planned = tx.plan(self.delivery(), view.place)
            made = next(h for h in planned.heads if h.job == self.target)
            answer = _answer(verdict, made)
        else:
            answer = _answer(verdict, head, self.target)
            planned = Planned(Commit(reads=view.reads()), [], draft.alarms)
        if self.until is not None and (head is not None or planned.heads):
            planned.commit.delivery = DeliveryRow(self.target, self.id, answer.block(), self.until)
        return Step(answer, planned.commit, planned.heads, planned.alarms)


def outside(workflow: Workflow, event: Any) -> Any:
    """The event, if callers may send it. Raises NotOutside."""
    if type(event) not in workflow.outside:
        raise NotOutside(f"{type(event).__name__} is not an outside event of {workflow.name}")
    return event


class Settle(Request):
    """The outcome of a claimed or parked task."""

    __slots__ = ("outcome", "ref")

    def __init__(self, ref: Ref, outcome: Outcome, *rest: Any) -> None:
        super().__init__(*rest)
        self.ref = ref
        self.outcome = outcome

    def jobs(self) -> Iterable[CID]:
        return (self.ref.job,)

    def plan(self, view: View) -> Step:
        ref = self.ref
        step = _inside(view, self.now, ref.job, ref.id, self.outcome)
        if isinstance(step.member, Commit):
            step.member.settles = ref
        elif isinstance(step.answer, Parked):
            parked = step.answer
            _park(step, view, ref, outcome_bytes(parked.outcome) if parked.kept else None)
        return step


class Run(Request):
    """A claimed task that is a transaction: `body` runs in the very commit that settles the task;
    where it retries, the task waits for a change of what was read."""

    __slots__ = ("body", "ref", "task", "until")

    def __init__(self, ref: Ref, task: Any, body: TaskBody, until: int, *rest: Any) -> None:
        super().__init__(*rest)
        self.ref = ref
        self.task = task
        self.body = body
        self.until = until

    def jobs(self) -> Iterable[CID]:
        return (self.ref.job,)

    def plan(self, view: View) -> Step:
        ref = self.ref

        def outcome(tx: Tx, draft: Draft) -> Outcome:
            return tx.run(draft, self.body, self.ref.id, self.task)

        try:
            step = _inside(view, self.now, ref.job, ref.id, outcome)
        except Retry:
            reads = view.reads(but=ref.job)
            if reads:
                return Step(Answer("waits", ref.job), Watch(ref, reads, self.until))
            step = Step(Parked(refusal(ReducerFailed("it retries and has read nothing")), None))
        if isinstance(step.member, Commit):
            step.member.settles = ref
        elif isinstance(step.answer, Parked):
            _park(step, view, ref)  # its writes are undone, so its outcome is not kept
        return step


class Fire(Request):
    """A timer whose time has come."""

    __slots__ = ("outcome", "timer")

    def __init__(self, timer: DueTimer, *rest: Any, outcome: Outcome = None) -> None:
        super().__init__(*rest)
        self.timer = timer
        self.outcome = outcome

    def jobs(self) -> Iterable[CID]:
        return (self.timer.job,)

    def plan(self, view: View) -> Step:
        timer = self.timer
        now = max(self.now, timer.due)
        step = _inside(view, now, timer.job, timer.id, self.outcome)
        if isinstance(step.member, Commit):
            step.member.fires = (timer.job, timer.n, timer.id)
        elif isinstance(step.answer, Parked):
            _park(step, view, Ref(timer.job, timer.n, timer.id, None, 0), timer=True)
        return step


class Transact(Request):
    """A transaction over several jobs."""

    __slots__ = ("at", "body", "id", "reads", "until")
    inside = False

    def __init__(
        self,
        body: Body,
        reads: Iterable[CID],
        at: Job | None,
        id: bytes | None,
        until: int,
        *rest: Any,
    ) -> None:
        super().__init__(*rest)
        self.body = body
        self.reads = reads
        self.at = at
        self.id = id
        self.until = until

    def jobs(self) -> Iterable[CID]:
        return self.reads if self.at is None else (self.at.id, *self.reads)

    def delivery(self) -> tuple[CID, bytes] | None:
        return None if self.at is None or self.id is None else (self.at.id, self.id)

    def plan(self, view: View) -> Step:
        tx = view.tx(self.now)
        where = self.delivery()
        if self.at is not None:
            tx.head(self.at.id)
        value = self.body(tx)
        planned = tx.plan(where, view.place)
        at = None if self.at is None else self.at.id
        made = next((head for head in planned.heads if head.job == at), None)
        kind = "committed" if planned.heads else "no change"
        revision = planned.heads[0].revision if planned.heads else None
        answer = Answer(kind, at, revision, value=value)
        if made is not None:
            answer = _answer(Verdict(kind), made, value=value)
        if where is not None and (planned.heads or view.read(where[0]) is not None):
            planned.commit.delivery = DeliveryRow(*where, answer.block(), self.until)
        return Step(answer, planned.commit, planned.heads, planned.alarms)


class Housekeeping(Request):
    """A member that needs no planning: a claim, a beat, a release."""

    __slots__ = ("member",)

    def __init__(self, member: Callable[[], Member], *rest: Any) -> None:
        super().__init__(*rest)
        self.member = member

    def plan(self, view: View) -> Step:
        return Step(None, self.member())


def _inside(
    view: View,
    now: int,
    job: CID,
    task: CID,
    outcome: Outcome | Callable[[Tx, Draft], Outcome],
) -> Step:
    """Settle a task or timer: a commit; or the `Parked` that must be written instead.

    An outcome that is a function is asked for within the transaction, if the task is open.
    """
    head = view.read(job)
    if head is None:
        return Step(_answer(CLOSED, None, job), _judged(job, None))
    tx = view.tx(max(now, head.at))
    draft = tx.draft(Job(head.name, head.key, head.job))
    try:
        if callable(outcome) and draft.holds(task):
            outcome = outcome(tx, draft)
        verdict = draft.settle(task, outcome)
        if verdict is CLOSED:
            return Step(_answer(CLOSED, head, job), _judged(job, head))
        planned = tx.plan((job, task.bytes), view.place)
    except Parked as parked:
        return Step(parked, alarms=draft.alarms)
    except Barred as barred:
        return Step(Parked(refusal(barred.error), outcome), alarms=draft.alarms)
    except Exception as error:  # of whatever type: a task that is not parked would be lost
        return Step(Parked(refusal(error), outcome), alarms=draft.alarms)
    made = next(h for h in planned.heads if h.job == job)
    kind = verdict if verdict.kind == "stale" else Verdict("committed")
    return Step(_answer(kind, made), planned.commit, planned.heads, planned.alarms)


def _park(
    step: Step, view: View, ref: Ref, kept: bytes | None = None, *, timer: bool = False
) -> None:
    """Let the row wait for a person, if the heads that the error was judged on are those of now."""
    error = step.answer.error
    step.member = Park(ref, codec.encode(error.plain()), kept, timer, view.reads())
    step.answer = Answer("parked", ref.job, code=error.name)


def _judged(job: CID, head: Head | None) -> Commit:
    """Writes nothing: lets the store confirm that an answer was judged on the head as it is."""
    return Commit(reads=[(job, None if head is None else head.revision)])


def _answer(
    verdict: Verdict, head: Head | None, job: CID | None = None, *, value: Any = None
) -> Answer:
    if head is None:
        return Answer(verdict.kind, job, code=verdict.code, detail=verdict.detail)
    return Answer(
        verdict.kind,
        head.job,
        head.revision,
        head.state_cid,
        head.seq,
        head.epoch,
        verdict.code,
        verdict.detail,
        value,
    )


__all__ = [
    "Barred",
    "Fire",
    "Housekeeping",
    "Request",
    "Rules",
    "Run",
    "Send",
    "Settle",
    "Step",
    "Transact",
    "View",
    "Worker",
    "outside",
]
