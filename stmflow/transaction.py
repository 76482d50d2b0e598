"""What one transaction may read and do, and the revision that it becomes. Pure.

A transaction over several jobs is a pure function `body(tx)`. It may run many times: a read that
is not in the snapshot ends the run, the transactor fetches it and runs the body again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

from stmflow import codec, wire
from stmflow.cell import CELL, Set
from stmflow.cid import CID
from stmflow.effect import Effect, Err, Outcome, outcome_of, outcome_plain
from stmflow.errors import InvalidEvent, LimitExceeded, ReducerFailed, StmflowError
from stmflow.job import Armed, Draft, Finished, Head, Verdict
from stmflow.limits import LIMITS
from stmflow.schema import freeze, thaw
from stmflow.store import Commit, HeadWrite, Kind, NewTask, NewTimer, StoredHead
from stmflow.workflow import Job, Registry

T = TypeVar("T")
Body = Callable[["Tx"], Any]
Transactional = Mapping[type[Any], Callable[["Tx", Any], Any]]
Read = Callable[[CID], Head | None]


class Missing(BaseException):
    """The body read a job that is not in the snapshot. No `Exception`: bodies must not eat it."""

    def __init__(self, job: CID) -> None:
        self.job = job


class Later(BaseException):
    """A head read is younger than the transaction: run it again with this `at`."""

    def __init__(self, at: int) -> None:
        self.at = at


class Retry(BaseException):
    """The body gave this attempt up: to be run again when one of these jobs has changed."""

    jobs: tuple[CID, ...] = ()


class Answer(NamedTuple):
    """What a delivery got.

    Attributes:
        kind: committed, no change, ignored, rejected, stale, closed or fenced.
        job: the job it was about. revision: what was committed, or judged against (None: no job).
        state: the CID of the job's state then. seq, epoch: of that state's revision.
        code, detail: why it was rejected. value: what a transaction's body returned.
        repeated: this very delivery was answered before; this is its first answer.
    """

    kind: str
    job: CID | None = None
    revision: CID | None = None
    state: CID | None = None
    seq: int = 0
    epoch: int = 0
    code: str | None = None
    detail: Any = None
    value: Any = None
    repeated: bool = False

    @property
    def committed(self) -> bool:
        """Whether a revision was written."""
        return self.kind == "committed"

    @property
    def rejected(self) -> bool:
        """Whether it was refused; `code` says why."""
        return self.kind == "rejected"

    def block(self) -> bytes:
        """The form in which a delivery row keeps it."""
        return codec.encode(
            {
                "kind": self.kind,
                "job": self.job,
                "revision": self.revision,
                "state": self.state,
                "seq": self.seq,
                "epoch": self.epoch,
                "code": self.code,
                "detail": thaw(self.detail),
                "value": thaw(self.value),
            }
        )

    @staticmethod
    def of(block: bytes) -> Answer:
        """The first answer, read back."""
        fields = codec.decode(block)
        fields["detail"], fields["value"] = freeze(fields["detail"]), freeze(fields["value"])
        return Answer(**fields, repeated=True)


class Tx:
    """The view that a body, or a transactional task, has of the jobs.

    Args:
        read: the snapshot: job → head or None; raises `Missing` for what it does not hold.
        at: the revision's time; a younger head raises `Later`.
        process: a number of the process that runs it, for bodies that spread what they write.
    """

    __slots__ = (
        "_busy",
        "_read",
        "_registry",
        "_transactional",
        "at",
        "broken",
        "drafts",
        "own",
        "process",
        "pure",
        "seen",
    )

    def __init__(
        self,
        read: Read,
        registry: Registry,
        at: int,
        *,
        transactional: Transactional,
        pure: bool = False,
        process: int = 0,
    ) -> None:
        self._read = read
        self._registry = registry
        self._transactional = transactional
        self._busy: set[CID] = set()
        self.at = at
        self.pure = pure
        self.process = process
        self.drafts: dict[CID, Draft] = {}
        self.seen: dict[CID, Head | None] = {}
        self.own: set[CID] = set()
        """Jobs that a task of theirs has read. (The engine reads them in any case.)"""
        self.broken: Exception | None = None

    # --- what bodies call

    def read(self, job: Job) -> Any:
        """The job's state as this transaction sees it, or None."""
        if job.id in self._busy:
            self.own.add(job.id)
        draft = self.drafts.get(job.id)
        if draft is not None:
            return draft.state
        head = self.head(job.id)
        return None if head is None else head.state

    def apply(self, job: Job, event: Any) -> Verdict:
        """Run another job's reducer inside this transaction; its answer. A rejected, ignored or
        unchanging event leaves the job read, not written."""
        if job.id in self._busy:
            raise ReducerFailed("a transactional task cannot apply events to its own job")
        draft = self.draft(job)
        try:
            return draft.send(event)
        except Exception as error:
            self.broken = error
            raise

    def write(self, job: Job, value: Any) -> Verdict:
        """Set the value of a job of the built-in workflow `cell`."""
        if job.workflow != CELL.name:
            raise InvalidEvent(f"tx.write is for cells; {job.workflow} has a reducer: tx.apply")
        return self.apply(job, Set(value))

    def adopt(self, job: Job, version: int) -> bool:
        """Move a job to another version of its workflow; whether it moved (False: it is there).

        The revision has no events: state and epoch stay, seq rises. The state is raised, or
        lowered for a revert, by the registered casts. Nothing else may be written to the job in
        the same transaction. After a refusal the job has been read, not written.

        Raises:
            UnknownVersion: the version, the one it is on, or a cast between them is not registered.
            ReducerFailed: no such job, written already, run by the newest version only (no
                chooser), or its state does not fit: a cast raised, the epoch would change, or a
                sleep would end because the state's tag is another one.
        """
        if job.id in self._busy:
            raise ReducerFailed("a transactional task cannot move its own job")
        return self.draft(job).adopt(version)

    def effect(self, job: Job, effect: Effect) -> None:
        """Commit an effect for that job which no reducer returned; `verify` shows it as given."""
        if job.id in self._busy:
            raise ReducerFailed("a transactional task cannot give effects to its own job")
        draft = self.draft(job)
        if draft.state is None:
            raise ReducerFailed("an effect needs a job with a state")
        draft.give("transaction", effect)

    def retry(self) -> NoReturn:
        """Give this attempt up, and run the body again when something that it has read changes.

        Nothing is written meanwhile. A caller of `transact` sleeps as long as its timeout allows; a
        task that is a transaction waits as a row, over restarts, and any process wakes it.
        Transactional tasks cannot wait. After Harris, Marlow, Peyton Jones and Herlihy,
        *Composable Memory Transactions*, PPoPP 2005.
        """
        raise Retry

    def or_else(self, first: Callable[[Tx], T], second: Callable[[Tx], T]) -> T:
        """What `first` gives; if it retries, what `second` gives, with all of `first` undone.

        Both have been read then: if `second` retries too, a change of either wakes the body.
        """
        saved = self._save()
        try:
            return first(self)
        except Retry:
            self._undo(saved)
        return second(self)

    # --- what the transactor calls

    def head(self, job: CID) -> Head | None:
        """The head as read; remembered as part of the read-set."""
        if job in self.seen:
            return self.seen[job]
        if len(self.seen) >= LIMITS.jobs_per_transaction:
            raise LimitExceeded(f"a transaction over more than {LIMITS.jobs_per_transaction} jobs")
        head = self.seen[job] = self._read(job)
        if head is not None and head.at > self.at:
            raise Later(head.at)
        return head

    def draft(self, job: Job) -> Draft:
        """The draft of that job's next write."""
        draft = self.drafts.get(job.id)
        if draft is None:
            head = self.head(job.id)
            draft = self.drafts[job.id] = Draft(
                self._registry,
                job,
                head,
                self.at,
                version=self._chosen(job) if head is None else None,
                transactional=self._transactional,
                perform=self._perform,
                pure=self.pure,
                read=self.read,
            )
        return draft

    def _chosen(self, job: Job) -> int | None:
        """The version at which a new job is born, where somebody chooses it."""
        chooser = self._registry.chooser
        if chooser is None or job.workflow == CELL.name:
            return None
        try:
            return chooser(self, job)
        except StmflowError:
            raise
        except Exception as error:
            raise ReducerFailed(f"the chooser of versions raised {error!r}") from error

    def _perform(self, draft: Draft, id: CID, task: Any) -> Outcome:
        try:
            return self.run(draft, self._transactional[type(task)], id, task)
        except Retry:
            raise ReducerFailed(f"transactional {type(task).__name__} cannot retry") from None

    def run(self, draft: Draft, body: Callable[[Tx, Any], Any], id: CID, task: Any) -> Outcome:
        """The outcome of an open task that is a transaction. What it wrote is kept on ok and rolled
        back on `Err`; so it is where no event can be made of the outcome, which counts as one."""
        assert draft.job.id not in self._busy  # its tasks come one by one
        self._busy.add(draft.job.id)
        saved = self._save()
        try:
            plain = outcome_plain(body(self, task))
            codec.encode(plain)
            outcome = outcome_of(plain)
            if isinstance(outcome, Err) or not draft.fits(id, outcome):
                self._undo(saved)
        except Exception as error:
            raise ReducerFailed(f"transactional {type(task).__name__} raised {error!r}") from error
        finally:
            self._busy.remove(draft.job.id)
        return outcome

    def _save(self) -> tuple[dict[CID, Draft], Exception | None]:
        """What `_undo` comes back to: everything but the jobs whose own tasks are running."""
        saved = {job: each.fork() for job, each in self.drafts.items() if job not in self._busy}
        return saved, self.broken

    def _undo(self, saved: tuple[dict[CID, Draft], Exception | None]) -> None:
        kept = {job: each for job, each in self.drafts.items() if job in self._busy}
        self.drafts, self.broken = saved[0] | kept, saved[1]

    def plan(self, delivery: tuple[CID, bytes] | None, place: Place) -> Planned:
        """The revision of everything drafted, ready for the store.

        Args:
            delivery: (job, id) of the delivery that caused it.
            place: decides for each armed task whether this process claims it at once.

        Raises:
            LimitExceeded, ReducerFailed: nothing may be written.
        """
        if self.broken is not None:
            raise self.broken
        touched = (draft for draft in self.drafts.values() if draft.touched)
        drafts = sorted(touched, key=lambda draft: draft.job.id)
        written = {draft.job.id for draft in drafts}
        reads = [
            (job, None if head is None else head.revision)
            for job, head in self.seen.items()
            if job not in written
        ]
        commit = Commit(reads=reads)
        alarms = [alarm for draft in self.drafts.values() for alarm in draft.alarms]
        if not drafts:
            return Planned(commit, [], alarms)
        writes = [(draft, draft.finish()) for draft in drafts]
        revision = wire.checked(
            _REVISION(
                [
                    _VERSION,
                    wire.integer(self.at),
                    _reads(reads),
                    wire.array([draft.entry() for draft in drafts]),
                    wire.NULL if delivery is None else _delivery(*delivery),
                ]
            )
        )
        cid = CID.of(revision)
        commit.revision, commit.revision_cid = revision, cid
        heads: list[Head] = []
        for draft, finished in writes:
            job = draft.job.id
            head = draft.next_head(cid, finished)
            heads.append(head)
            commit.blocks += draft.blocks
            commit.writes.append(_write(draft, head))
            commit.tasks += [_task(draft, armed, self.at, place) for armed in finished.armed]
            for task, row in finished.timers:
                assert row.due is not None
                commit.timers.append(NewTimer(job, row.n, task, row.due))
            for _, row in finished.closed:
                commit.closed.append((job, row.n, row.due is not None))
        return Planned(commit, heads, alarms)


_VERSION = wire.integer(1)
_REVISION = wire.mapping(["v", "at", "reads", "writes", "delivery"])


def _reads(reads: list[tuple[CID, CID | None]]) -> bytes:
    pairs = [
        wire.array([wire.link(job), wire.NULL if cid is None else wire.link(cid)])
        for job, cid in sorted(reads, key=lambda read: read[0])
    ]
    return wire.array(pairs)


def _delivery(job: CID, id: bytes) -> bytes:
    return wire.array([wire.link(job), wire.octets(id)])


Place = Callable[[Job, Armed], tuple[Kind, str, int | None]]
"""(job, armed task) → the kind under which it waits, its tenant, and the worker that claims it in
this very commit, or None."""


class Planned(NamedTuple):
    """A commit, the heads that it will make, and the alarms to raise once it is durable."""

    commit: Commit
    heads: list[Head]
    alarms: list[str]


def _write(draft: Draft, head: Head) -> HeadWrite:
    stored = StoredHead(
        head.job,
        head.name,
        head.version,
        head.key,
        head.revision,
        head.seq,
        head.epoch,
        head.at,
        draft.workflow.tag_of(head.state),
        head.state_block,
        head.state_cid,
        head.open_bytes(),
    )
    return HeadWrite(head.job, None if draft.head is None else draft.head.revision, stored)


def _task(draft: Draft, armed: Armed, at: int, place: Place) -> NewTask:
    kind, tenant, worker = place(draft.job, armed)
    return NewTask(
        draft.job.id,
        armed.n,
        armed.id,
        armed.block,
        *kind,
        tenant,
        at,
        worker,
        armed.leaf.task,
    )


__all__ = ["Answer", "Body", "Finished", "Later", "Missing", "Place", "Planned", "Retry", "Tx"]
