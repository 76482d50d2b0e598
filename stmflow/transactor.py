"""The transactor: read, update, compare-and-swap, answer after the commit.

async with Transactor(store, [store_add]) as transactor:
    answer = await transactor.send(store_add, Added(space, link, 5))
    head = await transactor.wait(answer.job, lambda state: state.status == "receiving")
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel

from stmflow import codec
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.clock import Clock, SystemClock
from stmflow.committer import Committer
from stmflow.effect import DISMISSED, Err, Outcome, outcome_of
from stmflow.errors import (
    DeadlineExceeded,
    InvalidEvent,
    InvalidWorkflow,
    LimitExceeded,
    StmflowError,
    Unavailable,
    UnknownTask,
)
from stmflow.job import Head, restore
from stmflow.limits import LIMITS
from stmflow.observe import Observer, Observers
from stmflow.placement import Placement
from stmflow.request import (
    Fire,
    Housekeeping,
    Request,
    Run,
    Send,
    Settle,
    TaskBody,
    Transact,
    Worker,
    outside,
)
from stmflow.store import DueTimer, Member, Redrive, Ref, Store, TaskRow
from stmflow.transaction import Answer, Transactional
from stmflow.workflow import Chooser, Job, Registry, Workflow

Target = Workflow | Job | CID
T = TypeVar("T")

_PAST = 2**63
POLL_MS = 20
"""How often an idle process looks whether another one has written."""
RESTORED_AT_ONCE = 256
"""Heads of a snapshot that are decoded before others may use the loop."""


class Transactor:
    """One process's way to the jobs of a store.

    Args:
        store: an open store.
        workflows: every version of every workflow that this process knows.
        transactional: task type → pure function `(tx, task) -> outcome`, run inside commits.
        clock: where time comes from. random: draws delivery nonces and the jitter of retries.
        pure: development mode: every `update` runs twice and must agree.
        alarm: called with a text when a reducer answered *impossible*.
        tenant: job → the tenant whose limits its tasks count against.
        queued_requests: so many may wait for a batch; past it `send` and `transact` raise `Busy`.
        observers: told of what happens (`stmflow.observe`).
        chooser: makes versions sticky. A job stays on the version of its head until `tx.adopt`
            moves it, and a new one is born at the version that `chooser(tx, job)` gives (None: the
            newest). All processes of a store must agree. Default: every job is run by the newest
            version.
        needs: task type → pure function of the task: what it needs of the worker that performs it
            (`stmflow.placement`). Every process that commits for a workflow has to be given it.
    """

    def __init__(
        self,
        store: Store,
        workflows: Iterable[Workflow],
        *,
        transactional: Transactional | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        pure: bool = False,
        alarm: Callable[[str], None] = lambda text: None,
        tenant: Callable[[Job], str] = lambda job: "",
        queued_requests: int = LIMITS.queued_requests,
        observers: Sequence[Observer] = (),
        chooser: Chooser | None = None,
        needs: Mapping[type[Any], Placement] | None = None,
    ) -> None:
        if not __debug__:
            raise InvalidWorkflow("python -O drops the checks that guard committed data")
        self.store = store
        self.clock: Clock = SystemClock() if clock is None else clock
        self.needs = dict(needs or {})
        self.registry = Registry([*workflows, CELL], chooser=chooser)
        self._random = Random() if random is None else random
        self._waiting: dict[CID, list[_Wait]] = {}
        self._version = store.version()
        self._stack: AsyncExitStack | None = None
        self._missed = False
        self.observers = Observers(observers, alarm) if observers else None
        self._committer = Committer(
            store,
            self.registry,
            self.clock,
            self._random,
            transactional=transactional or {},
            pure=pure,
            published=self._published,
            alarm=alarm,
            tenant=tenant,
            queued_requests=queued_requests,
            observers=self.observers,
            needs=self.needs,
        )
        if self.observers is not None:
            self.observers.attach(self)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            stack.callback(self._committer.stop)
            group.start_soon(self._committer.run)
            group.start_soon(self._poll)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._stack is not None
        await leave(self._stack, kind, error, trace)

    # --- sending ----------------------------------------------------------------------------------

    async def send(
        self,
        target: Target,
        event: Any,
        *,
        delivery: str | bytes | None = None,
        keep_until: int | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Deliver an outside event; the answer comes when it is durable.

        Args:
            target: the workflow (the event's key finds the job), a `Job`, or a job's CID.
            delivery: your id for this delivery: sent again under it, the event is not applied
                again and the first answer comes back. Default: a random nonce.
            keep_until: how long that holds, in milliseconds since 1970. Default: for 24 h.
            timeout: seconds.

        Raises:
            InvalidEvent, NotOutside, UnknownVersion, ReducerFailed, LimitExceeded: refused,
                nothing written.
            ConflictsExhausted, Unavailable: did not happen; may be tried again. `Busy`, which is
                an `Unavailable`, says when.
            Archived: did not happen; the job has left for the archive and may be revived.
            Indeterminate: unknown. With an id of yours, send again under it; without one
                (`error.delivery` is None) look for yourself.
            DeadlineExceeded: the deadline passed before it was committed; did not happen.
        """
        job, workflow = self._target(target, event)
        identity = self._delivery_id(delivery)
        now = self.clock.now()
        if workflow is not None:
            event = _outside(workflow, event, now)
        until = None if delivery is None else _kept(keep_until, now)
        cid = job.id if isinstance(job, Job) else job

        def make(done: Any, failed: Any) -> Request:
            known = job if isinstance(job, Job) else None
            return Send(cid, known, event, identity, until, now, done, failed)

        if workflow is None:
            head = await self.get(cid)
            if head is None:
                return Answer("rejected", cid, code="NotFound")
            event = _outside(self.registry.speaks(head.name, type(event)), event, now)
        answer: Answer = await self._ask(make, timeout)
        return answer

    async def transact(
        self,
        body: Callable[[Any], T],
        *,
        at: Job | None = None,
        delivery: str | bytes | None = None,
        keep_until: int | None = None,
        reads: Iterable[Job] = (),
        timeout: float | None = None,
    ) -> T:
        """Run a pure function over several jobs as one transaction; its value, once durable.

        Args:
            body: `body(tx)` reads, applies events and writes cells; it may run many times.
            at: the job under which `delivery` is remembered; with both, a repeat gives the first
                value (plain data) again. Without, `Indeterminate` is final for the caller.
            keep_until: how long that holds, in milliseconds since 1970. Default: for 24 h.
            reads: jobs that the body will surely read, fetched before its first run.

        Raises:
            As `send`; and whatever `body` raises on a snapshot that still stands.
        """
        if (at is None) != (delivery is None):
            raise InvalidEvent("transact takes at= and delivery= together, or neither")
        identity = None if delivery is None else self._delivery_id(delivery)
        now = self.clock.now()
        until = _kept(keep_until, now)
        jobs = tuple(job.id for job in reads)

        def make(done: Any, failed: Any) -> Request:
            return Transact(body, jobs, at, identity, until, now, done, failed)

        answer: Answer = await self._ask(make, timeout)
        value: T = answer.value
        return value

    def _target(self, target: Target, event: Any) -> tuple[Job | CID, Workflow | None]:
        if isinstance(target, Workflow):
            workflow = self.registry.speaks(target.name, type(event))
            if type(event) not in target.outside:
                _outside(workflow, event, 0)
            return workflow.job_of(event), workflow
        if isinstance(target, Job):
            return target, self.registry.speaks(target.workflow, type(event))
        return CID.parse(target), None

    def _delivery_id(self, delivery: str | bytes | None) -> bytes:
        if delivery is None:
            return self._random.randbytes(16)
        identity = delivery.encode() if isinstance(delivery, str) else delivery
        if not 0 < len(identity) <= LIMITS.delivery_id_bytes:
            raise LimitExceeded(f"a delivery id has 1 to {LIMITS.delivery_id_bytes} bytes")
        return identity

    async def _ask(self, make: Callable[[Any, Any], Request], timeout: float | None) -> Any:
        reply = _Reply()
        request = make(reply.done, reply.failed)
        self._committer.submit(request)
        try:
            if timeout is None:
                return await reply.wait()
            with anyio.move_on_after(timeout):
                return await reply.wait()
            if request.planned:  # it may happen yet: its fate is waited for
                self._committer.hurry(request)
                return await reply.wait()
            raise DeadlineExceeded(f"not committed within {timeout} s; it did not happen")
        finally:
            self._committer.withdraw(request)  # it is answered, or its caller has gone

    # --- reading ----------------------------------------------------------------------------------

    async def get(self, job: Job | CID | str) -> Head | None:
        """The durable head of a job: state, epoch, seq, revision; None where there is no job.

        Raises:
            UnknownVersion: nothing registered here can read it.
            Archived: it has left for the archive.
        """
        cid = job.id if isinstance(job, Job) else CID.parse(job)
        stored = (await self.store.heads([cid]))[cid]
        if stored is None:
            return None
        head = self._committer.cached(cid)
        if head is None or head.revision != stored.revision:
            head = restore(stored, self.registry)
        return head

    async def snapshot(self, jobs: Iterable[Job]) -> dict[Job, Any]:
        """The durable states of these jobs as of one moment; None where there is no job.

        A commit, whoever made it, is in it whole or not at all. These may be more jobs than a
        transaction may read. Everything comes from the store, nothing from a cache.

        Raises:
            LimitExceeded: more than `LIMITS.snapshot_jobs` jobs.
            UnknownVersion: nothing registered here can read one of them.
        """
        asked: dict[CID, Job] = {}
        for job in jobs:
            asked[job.id] = job
            if len(asked) > LIMITS.snapshot_jobs:
                raise LimitExceeded(f"a snapshot of more than {LIMITS.snapshot_jobs} jobs")
        found: dict[Job, Any] = {}
        for cid, stored in (await self.store.heads(asked)).items():
            if len(found) % RESTORED_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            found[asked[cid]] = None if stored is None else restore(stored, self.registry).state
        return found

    async def wait(
        self,
        job: Job | CID | str,
        until: Callable[[Any], bool],
        *,
        timeout: float | None = None,
    ) -> Head:
        """The first head, from now on, whose state `until` accepts.

        Every later revision is tested in order, so a state passed through inside one batch is not
        missed. A job that does not exist yet is waited for.

        Raises:
            DeadlineExceeded: after `timeout` seconds. The job goes on.
        """
        cid = job.id if isinstance(job, Job) else CID.parse(job)
        head = await self.get(cid)
        if head is not None and until(head.state):
            return head
        waiting = _Wait(until, 0 if head is None else head.seq)
        self._waiting.setdefault(cid, []).append(waiting)
        try:
            await self._catch_up(cid, waiting)  # what was committed while it was on its way here
            found: Head = await _within(
                timeout, waiting.reply, f"{cid} did not get there within {timeout} s; it goes on"
            )
            return found
        finally:
            self._waiting[cid].remove(waiting)
            if not self._waiting[cid]:
                del self._waiting[cid]

    def _published(self, head: Head) -> None:
        for waiting in self._waiting.get(head.job, ()):
            if head.seq > waiting.seq + 1:  # another process wrote what lies between
                self._missed = True
            else:
                waiting.see(head)

    async def _poll(self) -> None:
        """Look for what other processes have written."""
        while True:
            await self.clock.sleep_until(self.clock.now() + POLL_MS)
            version = self.store.version()
            with suppress(Unavailable):  # looked at again in the next round
                if version != self._version:
                    await self._foreign(self.store.changed(self._version))
                    self._version = version
                elif self._missed:
                    await self._show_missed()

    async def _foreign(self, jobs: Collection[CID] | None) -> None:
        """Somebody else has written these jobs; None: any."""
        self._committer.forget(jobs)
        if self._committer.worker is not None:
            self._committer.worker.wake(self.clock.now())
        await self._show_missed(None if self._missed else jobs)

    async def _show_missed(self, jobs: Collection[CID] | None = None) -> None:
        """Show every waiter for one of these jobs, in order, what it was not shown when it was
        committed."""
        if jobs is None:
            self._missed = False
        for job, waiting in list(self._waiting.items()):
            if jobs is not None and job not in jobs:
                continue
            for one in list(waiting):
                try:
                    await self._catch_up(job, one)
                except Unavailable:
                    raise
                except StmflowError as error:  # that waiter's to know, and nobody else's
                    one.reply.failed(error)

    async def _catch_up(self, job: CID, waiting: _Wait) -> None:
        """Show a waiter the revisions that it has not seen, in order."""
        found = (await self.store.heads([job]))[job]
        if found is None or found.seq <= waiting.seq:
            return
        newest = restore(found, self.registry)
        packs = await self.store.revisions(job, down_to=waiting.seq)
        for packed in reversed(packs):
            waiting.see(self._as_of(newest, packed))

    def _as_of(self, newest: Head, packed: Any) -> Head:
        """The head as one of its revisions made it (open effects: those of the newest)."""
        if packed.cid == newest.revision:
            return newest
        revision = codec.decode(packed.revision)
        write = next(w for w in revision["writes"] if w["job"] == newest.job)
        block = next(block for block in packed.blocks if CID.of(block) == write["state"])
        name, version = write["workflow"]
        home = self.registry.home(name, version)
        workflow, lifted = self.registry.lift(codec.decode(block), event=False, to=home)
        return Head(
            newest.job,
            newest.name,
            newest.key,
            version,
            packed.cid,
            write["seq"],
            write["epoch"],
            revision["at"],
            workflow.state_of(lifted),
            write["state"],
            block,
            newest.open,
            newest.rows,
            newest.next_n,
        )

    # --- for operators ----------------------------------------------------------------------------

    async def redrive(self, task: CID | str, *, perform: bool = False) -> Answer:
        """Make a parked task due again under the same id; or, where its outcome was kept, deliver
        that without performing again.

        Args:
            perform: perform it again even if its outcome was kept (its handler has been mended).

        Raises:
            UnknownTask: no such task is parked.
        """
        row = await self._parked(task)
        now = self.clock.now()
        if row.outcome is not None and not perform:
            return await self.settle(_ref(row), outcome_of(codec.decode(row.outcome)))
        if row.timer:
            return await self.fire(DueTimer(row.job, row.n, row.id, row.due))
        lost = await self.do(lambda: Redrive(row.job, row.n, row.id, now))
        if isinstance(lost, Answer):  # somebody else was faster
            return lost
        if self._committer.worker is not None:
            self._committer.worker.wake(now)
        return Answer("redriven", row.job)

    async def dismiss(self, task: CID | str) -> Answer:
        """Settle a parked task as `Err("Dismissed")`: its branch ends and no event fires.

        Raises:
            UnknownTask: no such task is parked.
        """
        row = await self._parked(task)
        if not row.timer:
            return await self.settle(_ref(row), Err(DISMISSED))
        timer = DueTimer(row.job, row.n, row.id, row.due)
        answer: Answer = await self._ask(
            lambda done, failed: Fire(
                timer, self.clock.now(), done, failed, outcome=Err(DISMISSED)
            ),
            None,
        )
        return answer

    async def _parked(self, task: CID | str) -> TaskRow:
        row = await self.store.task(CID.parse(task))
        if row is None or not row.parked:
            raise UnknownTask(f"no parked task {task}")
        return row

    # --- for the scheduler ------------------------------------------------------------------------

    def attach(self, worker: Worker | None) -> None:
        """Let a scheduler claim tasks in the very commits that make them."""
        self._committer.worker = worker

    def settling(
        self,
        ref: Ref,
        outcome: Outcome,
        done: Callable[[Answer], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Settle a claimed task; one of the callbacks is called once, after the commit."""
        self._committer.submit(Settle(ref, outcome, self.clock.now(), done, failed))

    def running(
        self,
        ref: Ref,
        task: Any,
        body: TaskBody,
        until: int,
        done: Callable[[Answer], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Settle a claimed task with what `body(tx, task)` gives in that very commit; where it
        retries, leave the task waiting for a change of what it has read, or until `until`."""
        self._committer.submit(Run(ref, task, body, until, self.clock.now(), done, failed))

    def firing(
        self,
        timer: DueTimer,
        done: Callable[[Answer], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Deliver a timer's event."""
        self._committer.submit(Fire(timer, self.clock.now(), done, failed))

    async def settle(self, ref: Ref, outcome: Outcome) -> Answer:
        """Settle a task and wait for the answer."""
        answer: Answer = await self._ask(
            lambda done, failed: Settle(ref, outcome, self.clock.now(), done, failed), None
        )
        return answer

    async def fire(self, timer: DueTimer) -> Answer:
        """Deliver a timer's event and wait for the answer."""
        answer: Answer = await self._ask(
            lambda done, failed: Fire(timer, self.clock.now(), done, failed), None
        )
        return answer

    def doing(
        self,
        member: Callable[[], Member],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Let a member of the store's protocol, made when its batch is, ride in the next batch."""
        self._committer.submit(Housekeeping(member, self.clock.now(), done, failed))

    async def do(self, member: Callable[[], Member]) -> Any:
        """The same, and wait for its result's value."""
        return await self._ask(
            lambda done, failed: Housekeeping(member, self.clock.now(), done, failed), None
        )

    @property
    def counters(self) -> dict[str, int]:
        """How often: batches, conflicts, indeterminate, unavailable, landed, fenced, replanned,
        waits, busy, fetched, alarms."""
        return dict(self._committer.counters)

    def gauges(self) -> dict[str, float]:
        """How things stand now: requests that wait, the age of the first, heads in memory."""
        return self._committer.gauges()


async def leave(
    stack: AsyncExitStack,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Leave a stack that holds a task group: what the body raised comes out as it is, not in a
    group of one."""
    if isinstance(error, Exception):
        await stack.__aexit__(None, None, None)
    else:
        await stack.__aexit__(kind, error, trace)


class _Reply:
    """One answer, waited for by one caller."""

    __slots__ = ("_error", "_event", "_value")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self, value: Any) -> None:
        self._value = value
        self._event.set()

    def failed(self, error: BaseException) -> None:
        self._error = error
        self._event.set()

    @property
    def ready(self) -> bool:
        return self._event.is_set()

    async def arrived(self) -> None:
        await self._event.wait()

    async def wait(self) -> Any:
        await self._event.wait()
        if self._error is not None:
            raise self._error
        return self._value


async def _within(timeout: float | None, reply: _Reply, late: str) -> Any:
    """The reply, or DeadlineExceeded. Without a timeout the deadline costs nothing."""
    if timeout is not None:
        with anyio.move_on_after(timeout):
            await reply.arrived()
        if not reply.ready:
            raise DeadlineExceeded(late)
    return await reply.wait()


class _Wait:
    """A waiter: what it waits for, and the last revision that it has seen."""

    __slots__ = ("_until", "reply", "seq")

    def __init__(self, until: Callable[[Any], bool], seq: int) -> None:
        self._until = until
        self.seq = seq
        self.reply = _Reply()

    def see(self, head: Head) -> None:
        """Test a revision, once, in order."""
        if head.seq <= self.seq:
            return
        self.seq = head.seq
        try:
            if self._until(head.state):
                self.reply.done(head)
                self.seq = _PAST
        except Exception as error:
            self.reply.failed(error)


def _outside(workflow: Workflow, event: Any, now: int) -> Any:
    return outside(workflow, workflow.check_event(event, now))


def _kept(keep_until: int | None, now: int) -> int:
    """Until when an answer is kept. What no store can keep would fail the whole batch it is in."""
    until = keep_until or now + LIMITS.delivery_window_ms
    if type(until) is not int or not 0 <= until <= LIMITS.int_max:
        raise LimitExceeded(f"keep_until is in whole milliseconds, up to {LIMITS.int_max}")
    return until


def _ref(row: TaskRow) -> Ref:
    return Ref(row.job, row.n, row.id, None, row.token)


__all__ = ["Transactor"]
