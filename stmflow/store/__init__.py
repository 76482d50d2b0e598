"""The seam to durable state: one protocol, few rows, and what a commit may answer.

`commit(batch)` applies its members in order in one store transaction. Each is checked alone: what
it read, what it replaces, the row whose outcome it settles, its delivery. One that fails writes
nothing and fails no other; one built on a failed member fails by the same check. The answers:

    Done        written, durable (of a commit, `Done(True)`: rows that watched it are due now)
    Conflict    not written: a head that it read or replaces has moved
    LeaseLost   not written: the row it settles is gone (`closed`) or owned anew (`fenced`)
    Duplicate   not written: that delivery has its answer already

or, for the whole batch, `Indeterminate` (unknown), `Unavailable` or another StoreError (not
written). Reducers never run inside a store. `stmflow.testing.store_contract` is the one suite that
every store passes; `MemoryStore` is short: it is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from stmflow.cid import CID
from stmflow.vitals import Vitals

__all__ = [
    "Beat",
    "Claim",
    "Claimed",
    "Closed",
    "Commit",
    "Conflicted",
    "Defer",
    "DeliveryRow",
    "Disown",
    "Done",
    "Drop",
    "Dropped",
    "DueTimer",
    "Duplicate",
    "Finished",
    "HeadWrite",
    "JobRow",
    "Kind",
    "LeaseLost",
    "Logged",
    "NewTask",
    "NewTimer",
    "Packed",
    "Park",
    "Queue",
    "Reap",
    "Redrive",
    "Ref",
    "Result",
    "Revive",
    "Store",
    "StoredHead",
    "Sweep",
    "TaskRow",
    "Vitals",
    "Want",
    "Watch",
    "WorkerRow",
]


Kind = tuple[str, int, str]
"""(workflow, version, task tag): what a worker has a handler for."""


class StoredHead(NamedTuple):
    """A head as the store keeps it: encoded state and open effects, nothing typed. `key` is plain
    data: a sequence of text, bytes, integers and links."""

    job: CID
    workflow: str
    version: int
    key: Sequence[Any]
    revision: CID
    seq: int
    epoch: int
    at: int
    tag: str
    state: bytes
    state_cid: CID
    open: bytes


class Ref(NamedTuple):
    """One claimed row: whose, which, and the fencing token. `worker=None`: a parked row, which has
    the token of its last claim still."""

    job: CID
    n: int
    id: CID
    worker: int | None
    token: int


# --- members of a batch -------------------------------------------------------------------------


class HeadWrite(NamedTuple):
    """One job's part in a commit. `prev` None creates the job, which then needs its key."""

    job: CID
    prev: CID | None
    head: StoredHead


class NewTask(NamedTuple):
    """A row for the outbox; with a `worker` it is claimed by the very commit that makes it."""

    job: CID
    n: int
    id: CID
    block: bytes
    workflow: str
    version: int
    tag: str
    tenant: str
    at: int
    worker: int | None
    task: Any = None
    """The typed task, for the process that claims it at once; no store keeps it."""


class NewTimer(NamedTuple):
    """A row that fires at `due` (milliseconds)."""

    job: CID
    n: int
    id: CID
    due: int


class DeliveryRow(NamedTuple):
    """The answer that a delivery got, kept until `until` (milliseconds)."""

    job: CID
    id: bytes
    answer: bytes
    until: int


@dataclass(slots=True)
class Commit:
    """One transaction: checks (reads, prevs, settles, fires, delivery) and what it writes."""

    revision: bytes | None = None
    revision_cid: CID | None = None
    blocks: list[bytes] = field(default_factory=list)
    writes: list[HeadWrite] = field(default_factory=list)
    reads: Sequence[tuple[CID, CID | None]] = ()
    tasks: list[NewTask] = field(default_factory=list)
    timers: list[NewTimer] = field(default_factory=list)
    closed: list[tuple[CID, int, bool]] = field(default_factory=list)
    """(job, n, whether it is a timer): rows that go, whoever holds them."""
    settles: Ref | None = None
    fires: tuple[CID, int, CID] | None = None
    delivery: DeliveryRow | None = None


class Want(NamedTuple):
    """What a worker can take now: tasks of one type, at most so many; of one tenant, if named."""

    workflow: str
    version: int
    tag: str
    limit: int
    tenant: str | None = None


@dataclass(slots=True)
class Claim:
    """Take due, unclaimed tasks. Answer: `Done(claimed)`. Token and attempt rise here."""

    worker: int
    wants: Sequence[Want]
    now: int
    youngest: bool = False
    """Take what fell due last first; else what fell due first."""


@dataclass(slots=True)
class Beat:
    """Say that a worker lives until `until`. The first beat registers it."""

    worker: int
    until: int


@dataclass(slots=True)
class Reap:
    """Free the claims of every worker found dead: its lock can be taken, or its lease is over."""

    now: int


@dataclass(slots=True)
class Disown:
    """Free this worker's claims that are not in `keep` (after a commit of unknown fate)."""

    worker: int
    keep: Collection[tuple[CID, int]]


@dataclass(slots=True)
class Defer:
    """Give a claimed task back, due at `due`; `back` returns the attempt (graceful release)."""

    ref: Ref
    due: int
    error: bytes | None = None
    back: bool = False


@dataclass(slots=True)
class Park:
    """Let a row wait for a person: claimed task, or timer (`timer=True`).

    `reads`: on what the error was judged; a conflict where that has moved.
    """

    ref: Ref
    error: bytes
    outcome: bytes | None = None
    timer: bool = False
    reads: Sequence[tuple[CID, CID | None]] = ()


@dataclass(slots=True)
class Watch:
    """Let a claimed task wait until one of the jobs it has read has a new head, or until `until`.

    A conflict where one has moved already, so that no change is missed. The attempt is given back.
    The commit that moves a watched head makes the row due, whoever commits it.
    """

    ref: Ref
    reads: Sequence[tuple[CID, CID | None]]
    until: int


@dataclass(slots=True)
class Redrive:
    """Make a parked row due again at `due` under the same id; attempts start over, and so does its
    time: it is as if it had been committed at `due`."""

    job: CID
    n: int
    id: CID
    due: int


@dataclass(slots=True)
class Sweep:
    """Forget delivery rows whose time is over, at most `limit`. Answer: `Done(count)`."""

    now: int
    limit: int


class Finished(NamedTuple):
    """Jobs that may leave whole: of that workflow, with one of these tags, last written before
    `before` (milliseconds), and with nothing of theirs waiting: no task, timer or delivery row."""

    workflow: str
    tags: Collection[str]
    before: int


@dataclass(slots=True)
class Drop:
    """Let go of revisions, named by their places in the log, that an archive holds.

    A revision that is the head of a job stays, unless all jobs whose head it is are `finished`:
    these leave with it. Of such a job its row stays, so that it is never born again: `heads` raises
    Archived, a commit that takes it for absent conflicts, `Revive` brings it back. The newest
    revision of the log stays, too. Answer: `Done(Dropped)`.

    `archive` names what holds them, for `archives`. None: those that no earlier archive holds are
    gone for good, and no job leaves with them. `prev` is the archive that a new one names as the
    one before it: Conflicted, and nothing leaves, where that is not the newest.
    """

    revisions: Sequence[tuple[int, CID]]
    archive: CID | None
    finished: Sequence[Finished] = ()
    prev: CID | None = None


@dataclass(slots=True)
class Revive:
    """Put the head of an archived job back: the revision that its row names, with all its blocks.

    Other jobs that left with it come back with it. Answer: Done, or Conflicted where the job is not
    archived with that head.
    """

    job: CID
    packed: Packed


Member = (
    Commit | Claim | Beat | Reap | Disown | Defer | Park | Watch | Redrive | Sweep | Drop | Revive
)


# --- results ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Done:
    """Written and durable."""

    value: Any = None


@dataclass(slots=True)
class Conflicted:
    """Not written: these jobs have moved."""

    jobs: Sequence[CID] = ()


@dataclass(slots=True)
class LeaseLost:
    """Not written: the row is owned anew, `fenced`; or gone: then `Closed`."""


@dataclass(slots=True)
class Closed:
    """Not written: the row is not open (any more)."""


@dataclass(slots=True)
class Duplicate:
    """Not written: that delivery was answered before, with this."""

    answer: bytes


Result = Done | Conflicted | LeaseLost | Closed | Duplicate


@dataclass(slots=True)
class Batch:
    """Members, and how to plan them again when the store finds that its heads have moved.

    `replan(read)` is called under the store's write lock, with a function that reads heads as they
    are now; it returns new members, as many and in the same order.
    """

    members: Sequence[Member]
    replan: Callable[[Callable[[CID], StoredHead | None]], Sequence[Member]] | None = None
    contended: Collection[CID] = ()
    """Jobs over which members have lost the race several times: a store where others write at the
    same time holds them against all others first, and until the batch is done."""


# --- reading ------------------------------------------------------------------------------------


class Claimed(NamedTuple):
    """A task that a worker now holds."""

    ref: Ref
    block: bytes
    workflow: str
    version: int
    tag: str
    tenant: str
    at: int
    attempt: int
    task: Any = None
    """The typed task, where this very process has just committed it; else it is in `block`."""


class DueTimer(NamedTuple):
    """A timer whose time has come."""

    job: CID
    n: int
    id: CID
    due: int


class Queue(NamedTuple):
    """Tasks of one kind and tenant that wait unclaimed; when the first of them is due."""

    workflow: str
    version: int
    tag: str
    tenant: str
    due: int


class WorkerRow(NamedTuple):
    """A worker that has not been reaped, and until when its lease holds (milliseconds)."""

    worker: int
    until: int


class TaskRow(NamedTuple):
    """One line of the outbox, for people."""

    job: CID
    n: int
    id: CID
    timer: bool
    block: bytes | None
    workflow: str
    tag: str
    tenant: str
    due: int
    attempt: int
    token: int
    worker: int | None
    parked: bool
    error: bytes | None
    outcome: bytes | None


class Packed(NamedTuple):
    """A revision with every block that its commit wrote, states included."""

    cid: CID
    revision: bytes
    blocks: Sequence[bytes]


class Logged(NamedTuple):
    """A revision and its place in the log."""

    place: int
    packed: Packed


class Dropped(NamedTuple):
    """What a `Drop` came to: revisions that went, that stay as they are needed, jobs that left."""

    revisions: int = 0
    kept: int = 0
    jobs: int = 0


class JobRow(NamedTuple):
    """One job, for people."""

    job: CID
    workflow: str
    version: int
    key: Sequence[Any]
    revision: CID
    seq: int
    epoch: int
    at: int
    tag: str
    faulted: int


class Store(Protocol):
    """What the transactor, the scheduler and the CLI ask of durable state."""

    async def commit(self, batch: Batch) -> Sequence[Result]:
        """Apply a batch. Raises Indeterminate (unknown) or another StoreError (not written)."""
        ...

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        """The durable heads of these jobs, None for absent ones, all as of one moment.

        A commit, and a whole batch, is in the answer with all that it wrote of these jobs, or not
        at all. Raises Archived.
        """
        ...

    async def delivery(self, job: CID, id: bytes) -> bytes | None:
        """The answer that this delivery got, or None."""
        ...

    async def timers(self, now: int, limit: int) -> Sequence[DueTimer]:
        """Timers due by `now`, earliest first."""
        ...

    async def next_timer(self) -> int | None:
        """When the next timer is due, or None."""
        ...

    async def next_task(self, kinds: Collection[Kind]) -> int | None:
        """When the next unclaimed task of these kinds is due, or None."""
        ...

    async def placed(self, kinds: Collection[Kind]) -> Sequence[Kind]:
        """The kinds that wait unclaimed for these and needs beside (`stmflow.placement`), sorted.
        One look at an index for each."""
        ...

    async def queues(self, after: Mapping[Kind, str | None], limit: int) -> Sequence[Queue]:
        """Who waits: for each of these kinds, its next so many tenants, in an order of names that
        the store chooses, from the one after the tenant that is given (None: from the first). One
        look at an index for each."""
        ...

    async def task(self, id: CID) -> TaskRow | None:
        """The outbox row of that task."""
        ...

    async def tasks(self, *, job: CID | None = None, parked: bool = False) -> Sequence[TaskRow]:
        """The outbox: tasks and timers, of one job or all; only parked rows if asked."""
        ...

    async def revisions(
        self, job: CID, *, down_to: int = 0, limit: int | None = None
    ) -> Sequence[Packed]:
        """The job's revisions with seq > `down_to`, newest first, at most `limit`. They end where
        the archive begins."""
        ...

    async def log(
        self, *, after: int = 0, limit: int = 256, archived: bool = False
    ) -> Sequence[Logged]:
        """Revisions from the one after `after`, in order of their places: those that no archive
        holds yet, or (`archived`) those that one holds and that were needed here when last asked.
        """
        ...

    async def archives(self) -> Sequence[CID]:
        """What holds the dropped revisions, newest first, as `Drop` named it."""
        ...

    async def block(self, cid: CID) -> bytes | None:
        """The block of that CID, or None."""
        ...

    async def find(self, prefix: bytes, bits: int) -> Sequence[CID]:
        """Every block whose SHA-256 digest begins with these bits."""
        ...

    async def jobs(
        self,
        *,
        workflow: str | None = None,
        tag: str | None = None,
        after: CID | None = None,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs in order of creation, from the one after `after`."""
        ...

    async def under(
        self,
        workflow: str,
        *prefix: Any,
        tag: str | None = None,
        after: CID | None = None,
        reverse: bool = False,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs of that workflow whose key has these as its first parts, or all its parts.

        They come in order of the bytes of the DAG-CBOR key, so shorter keys first (with `reverse`
        in the opposite order), from the one after `after`.

        Raises:
            NotFound: `after` is no job of that workflow.
        """
        ...

    async def vitals(self, now: int) -> Vitals:
        """How the store stands at that time (milliseconds): figures and examples, for people."""
        ...

    def version(self) -> int:
        """A number that is another one once somebody else has written. Cheap; it may also change
        when nobody has."""
        ...

    def changed(self, since: int) -> Collection[CID] | None:
        """The jobs that others have written since `version()` gave that number, as far as it has
        been heard; None: any may have been. Only caches rely on it."""
        ...

    def enlist(self, worker: int | None = None) -> int:
        """Take a worker's lock for life and give its number; `retire` lets it go."""
        ...

    def retire(self, worker: int) -> None:
        """Let go of a worker's lock: whoever reaps next frees its claims."""
        ...

    async def workers(self) -> Sequence[WorkerRow]:
        """Every worker that has beaten and was not reaped, by number."""
        ...
