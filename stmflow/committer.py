"""The group committer: one store commit, and one fsync, for whatever waits.

Requests are planned one after the other on a private overlay of heads, so a hot job is folded
event after event inside one batch. Batch n+1 is planned while n is being synced; it is sent only
after n is done, and planned again if n is not. Until the store has answered *done*, nothing leaves
the overlay: no cache entry, answer, claim, wake-up or log line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from stmflow import codec
from stmflow.cid import CID
from stmflow.clock import Clock
from stmflow.effect import Outcome, outcome_bytes
from stmflow.errors import (
    Conflict,
    ConflictsExhausted,
    Indeterminate,
    InvalidEvent,
    Stopped,
    StoreError,
)
from stmflow.job import CLOSED, Armed, Head, Parked, Verdict, refusal, restore
from stmflow.limits import LIMITS
from stmflow.store import (
    Batch,
    Claimed,
    Closed,
    Commit,
    Conflicted,
    DeliveryRow,
    Done,
    DueTimer,
    Duplicate,
    Kind,
    LeaseLost,
    Member,
    NewTask,
    Park,
    Ref,
    Result,
    Store,
    StoredHead,
)
from stmflow.transaction import Answer, Body, Later, Missing, Planned, Transactional, Tx
from stmflow.workflow import Job, Registry

CACHED_HEADS = 2_048
RETRY_MS = 50
INDETERMINATE_TRIES = 8


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


@dataclass(slots=True)
class Step:
    """What a request comes to: a member for the store (or none), its answer, the heads it makes."""

    answer: Any
    member: Member | None = None
    heads: Sequence[Head] = ()
    alarms: Sequence[str] = ()


class View:
    """What a request is planned against: the overlay of one batch."""

    __slots__ = ("_committer", "_last", "_worker", "lent", "read")

    def __init__(
        self,
        committer: Committer,
        heads: dict[CID, Head | None],
        read: Callable[[CID], Head | None],
        worker: Worker | None,
    ) -> None:
        def lookup(job: CID) -> Head | None:
            return heads[job] if job in heads else read(job)

        self._committer = committer
        self._last: Tx | None = None
        self._worker = worker
        self.lent: list[tuple[CID, int]] = []
        self.read = lookup
        """job → the head as the next commit will find it."""

    def place(self, job: Job, armed: Armed) -> tuple[str, int | None]:
        """A task's tenant, and the worker that claims it at once, if one lends a slot."""
        tenant = self._committer.tenant(job)
        if self._worker is None:
            return tenant, None
        worker = self._worker.reserve(job.id, armed.n, armed.kind, tenant)
        if worker is not None:
            self.lent.append((job.id, armed.n))
        return tenant, worker

    def give_back(self) -> None:
        """Return what was lent to a plan that came to nothing."""
        for job, n in self.lent:
            if self._worker is not None:
                self._worker.release(job, n)
        self.lent = []

    def reads(self) -> list[tuple[CID, CID | None]]:
        """What the last transaction on this overlay has read."""
        seen = {} if self._last is None else self._last.seen
        return [(job, None if head is None else head.revision) for job, head in seen.items()]

    def tx(self, at: int) -> Tx:
        """A transaction on this overlay."""
        owner = self._committer
        self._last = Tx(
            self.read, owner.registry, at, transactional=owner.transactional, pure=owner.pure
        )
        return self._last


class Request:
    """Something that wants a place in a batch. Subclasses say what by `plan`."""

    __slots__ = ("abandoned", "base", "done", "doubt", "failed", "now", "planned", "tries")

    inside = True
    """Whether it must not be lost when the store is unavailable: the committer tries it again."""

    def __init__(
        self, now: int, done: Callable[[Any], None], failed: Callable[[BaseException], None]
    ) -> None:
        self.now = now
        self.done = done
        self.failed = failed
        self.tries = 0
        self.doubt = 0
        self.base: int | None = None
        self.planned = False
        self.abandoned = False

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
        verdict = draft.send(self.event, checked=True)
        if tx.broken is not None:
            raise tx.broken
        if verdict.kind == "committed":
            planned = tx.plan(self.delivery(), view.place)
            made = next(h for h in planned.heads if h.job == self.target)
            answer = _answer(verdict, made)
        else:
            answer = _answer(verdict, head, self.target)
            planned = Planned(_judged(self.target, head), [], draft.alarms)
        if self.until is not None and (head is not None or planned.heads):
            planned.commit.delivery = DeliveryRow(self.target, self.id, answer.block(), self.until)
        return Step(answer, planned.commit, planned.heads, planned.alarms)


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
            kept = outcome_bytes(parked.outcome) if parked.kept else None
            step.member = Park(ref, codec.encode(parked.error.plain()), kept)
            step.answer = Answer("parked", ref.job, code=parked.error.name)
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
        step = _inside(view, max(self.now, timer.due), timer.job, timer.id, self.outcome)
        if isinstance(step.member, Commit):
            step.member.fires = (timer.job, timer.n, timer.id)
        elif isinstance(step.answer, Parked):
            ref = Ref(timer.job, timer.n, timer.id, None, 0)
            step.member = Park(ref, codec.encode(step.answer.error.plain()), timer=True)
            step.answer = Answer("parked", timer.job, code=step.answer.error.name)
        return step


class Transact(Request):
    """A transaction over several jobs."""

    __slots__ = ("at", "body", "id", "until")
    inside = False

    def __init__(
        self, body: Body, at: Job | None, id: bytes | None, until: int, *rest: Any
    ) -> None:
        super().__init__(*rest)
        self.body = body
        self.at = at
        self.id = id
        self.until = until

    def jobs(self) -> Iterable[CID]:
        return () if self.at is None else (self.at.id,)

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


def _inside(view: View, now: int, job: CID, task: CID, outcome: Outcome) -> Step:
    """Settle a task or timer: a commit; or the `Parked` that must be written instead."""
    head = view.read(job)
    if head is None:
        return Step(_answer(CLOSED, None, job), _judged(job, None))
    tx = view.tx(max(now, head.at))
    draft = tx.draft(Job(head.name, head.key, head.job))
    try:
        verdict = draft.settle(task, outcome)
        if verdict is CLOSED:
            return Step(_answer(CLOSED, head, job), _judged(job, head))
        planned = tx.plan((job, task.bytes), view.place)
    except Parked as parked:
        return Step(parked, alarms=draft.alarms)
    except Exception as error:  # of whatever type: a task that is not parked would be lost
        return Step(Parked(refusal(error), outcome), alarms=draft.alarms)
    made = next(h for h in planned.heads if h.job == job)
    kind = verdict if verdict.kind == "stale" else Verdict("committed")
    return Step(_answer(kind, made), planned.commit, planned.heads, planned.alarms)


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


@dataclass(slots=True)
class _Open:
    """A batch in the making."""

    requests: list[Request] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    heads: dict[CID, Head | None] = field(default_factory=dict)


class Committer:
    """Plans requests into batches and gives them to the store, one batch at a time.

    Args:
        store, registry, clock: what it works on.
        random: draws the jitter of retries.
        published: called with each new head, in commit order, once it is durable.
        alarm: called with a text when `update` answered *impossible*.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        random: Random,
        *,
        transactional: Transactional,
        pure: bool,
        published: Callable[[Head], None],
        alarm: Callable[[str], None],
        tenant: Callable[[Job], str],
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.transactional = dict(transactional)
        self.pure = pure
        self.worker: Worker | None = None
        self.counters: dict[str, int] = {}
        self._random = random
        self._published = published
        self._alarm = alarm
        self.tenant = tenant
        self._queue: deque[Request] = deque()
        self._cache: dict[CID, Head] = {}
        self._open = _Open()
        self._flying: _Open | None = None
        self._wake = anyio.Event()
        self._send = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._stopping = False
        self._planning: Request | None = None
        self._asleep: set[Request] = set()
        self._broken: StoreError | None = None

    # --- from outside

    def submit(self, request: Request) -> None:
        """Queue a request. Its `done` or `failed` is called once, after the commit is durable."""
        if self._stopping:
            request.failed(Stopped("the transactor has been left"))
            return
        self._queue.append(request)
        self._wake.set()

    def cached(self, job: CID) -> Head | None:
        """The durable head, if it is in the cache."""
        return self._cache.get(job)

    def flies(self, job: CID) -> bool:
        """Whether a commit of that job is on its way: it may be durable and not yet known here."""
        return self._flying is not None and job in self._flying.heads

    def forget(self, jobs: Iterable[CID] | None = None) -> None:
        """Drop cached heads: somebody else has written."""
        if jobs is None:
            self._cache.clear()
        else:
            for job in jobs:
                self._cache.pop(job, None)

    def remember(self, head: Head) -> None:
        """Keep a durable head; the least recently committed make room."""
        cache = self._cache
        cache.pop(head.job, None)
        cache[head.job] = head
        if len(cache) > CACHED_HEADS:
            del cache[next(iter(cache))]

    async def run(self) -> None:
        """Plan and send until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._fly)
            while True:
                await self._assemble()
                if self._flying is None and self._open.requests:
                    self._flying, self._open = self._open, _Open()
                    self._send.set()
                    continue
                if not self._queue or self._full():
                    await self._wake.wait()
                if self._wake.is_set():
                    self._wake = anyio.Event()

    def stop(self) -> None:
        """Refuse what comes from now on, and leave nobody without an answer."""
        self._stopping = True
        planning = [] if self._planning is None else [self._planning]
        for request in [*self._queue, *self._open.requests, *self._asleep, *planning]:
            self._fail(request, Stopped("the transactor has been left"))
        self._queue.clear()
        self._asleep.clear()
        self._open = _Open()
        if self._flying is not None:
            for request in self._flying.requests:
                request.failed(_unknown(request))
            self._flying = None

    # --- planning

    def _full(self) -> bool:
        return len(self._open.requests) >= LIMITS.batch_transactions

    async def _assemble(self) -> None:
        """Move what waits into the open batch."""
        started = self.clock.now()
        while self._queue and not self._full():
            request = self._queue.popleft()
            if request.abandoned:
                continue
            try:
                self._planning = request
                missing = [job for job in request.jobs() if not self._knows(job)]
                if missing:
                    await self._fetch(missing)
                # After the fetch: what the head may hold, the look at the chain must have seen.
                if request.doubt and await self._landed(request):
                    continue
                step = await self._plan(request)
            except Exception as error:
                self._refused(request, error)
                continue
            finally:
                self._planning = None
            if self._stopping or request.abandoned:  # while something was fetched for it
                if isinstance(step.member, Commit):
                    self._unreserve(step.member)
                continue
            if step.member is None:
                self._raise(step)
                request.done(step.answer)
                continue
            self._join(request, step)
            if self.clock.now() - started > LIMITS.batch_reducer_ms:
                break

    def _join(self, request: Request, step: Step) -> None:
        request.planned = True
        self._open.requests.append(request)
        self._open.steps.append(step)
        for head in step.heads:
            self._open.heads[head.job] = head

    async def _plan(self, request: Request) -> Step:
        for _ in range(LIMITS.body_reruns + LIMITS.jobs_per_transaction):
            try:
                return self._at(request, View(self, self._open.heads, self._durable, self.worker))
            except Missing as missing:
                await self._fetch([missing.job])
        raise ConflictsExhausted("a body asked for new jobs again and again")

    def _at(self, request: Request, view: View) -> Step:
        """Plan; and plan again where a head read is younger than the request.

        An error is news only if what was read still stands, so it goes to the store as a step that
        reads and writes nothing.
        """
        for _ in range(LIMITS.body_reruns):
            try:
                return request.plan(view)
            except BaseException as error:
                view.give_back()
                if isinstance(error, Later):
                    request.now = error.at
                    continue
                reads = view.reads()
                if request.inside or not reads or not isinstance(error, Exception):
                    raise
                return Step(error, Commit(reads=reads))
        raise ConflictsExhausted("the clock of a job's head would not be caught up with")

    def _knows(self, job: CID) -> bool:
        flying = self._flying
        return (
            job in self._open.heads
            or (flying is not None and job in flying.heads)
            or job in self._cache
        )

    def _durable(self, job: CID) -> Head | None:
        flying = self._flying
        if flying is not None and job in flying.heads:
            return flying.heads[job]
        head = self._cache.get(job)
        if head is None:
            raise Missing(job)
        return head

    async def _fetch(self, jobs: Sequence[CID]) -> None:
        """Read heads into the cache; an absent one is noted for this batch only."""
        for job, stored in (await self.store.heads(jobs)).items():
            if self._knows(job):
                continue
            if stored is None:
                self._open.heads[job] = None
            else:
                self.remember(restore(stored, self.registry))

    def _replan(
        self, flight: _Open, read: Callable[[CID], StoredHead | None]
    ) -> tuple[_Open, list[Member]]:
        """Plan a batch again on heads as they are, called by the store under its lock."""
        again = _Open()
        known: dict[CID, Head | None] = {}

        def durable(job: CID) -> Head | None:
            if job not in known:
                stored = read(job)
                known[job] = None if stored is None else restore(stored, self.registry)
            return known[job]

        view = View(self, again.heads, durable, None)  # on another thread: no worker is asked
        for request in flight.requests:
            try:
                step = self._at(request, view)
            except Exception as error:
                step = Step(error)
            again.requests.append(request)
            again.steps.append(step)
            for head in step.heads:
                again.heads[head.job] = head
        return again, [step.member or Commit() for step in again.steps]

    # --- committing

    async def _fly(self) -> None:
        """The sender: one batch after the other."""
        while True:
            await self._send.wait()
            self._send = anyio.Event()
            flight = self._flying
            if flight is None:
                continue  # stopped before it was sent
            await self._commit(flight)
            self._flying = None
            self._wake.set()

    async def _commit(self, flight: _Open) -> None:
        landed = flight

        def replan(read: Callable[[CID], StoredHead | None]) -> Sequence[Member]:
            nonlocal landed
            landed, members = self._replan(flight, read)
            return members

        batch = Batch([step.member or Commit() for step in flight.steps], replan)
        try:
            results = await self.store.commit(batch)
        except StoreError as error:
            self._failed(flight, error)
        except Exception as error:
            self._failed(flight, Indeterminate(f"the store raised {error!r}"))
        else:
            self._landed_batch(flight, landed, results)

    def _landed_batch(self, flight: _Open, landed: _Open, results: Sequence[Result]) -> None:
        """Publish what is durable; send back what was refused."""
        self._count("batches")
        moved = landed is not flight
        if moved:
            self._count("replanned")
            self._give_back(flight)
            self.forget()
        redo: list[Request] = []
        for request, step, result in zip(landed.requests, landed.steps, results, strict=True):
            if isinstance(step.answer, Exception) and isinstance(result, Done):
                self._refused(request, step.answer)
            elif isinstance(result, Done):
                self._done(request, step, result)
            else:
                moved = True
                self._lost(request, step, result, redo, given_back=landed is not flight)
        if moved:
            self._reopen(redo)

    def _done(self, request: Request, step: Step, result: Done) -> None:
        for head in step.heads:
            self.remember(head)
            self._published(head)
        if isinstance(step.member, Commit):
            self._hand_over(step.member)
        self._raise(step)
        request.done(step.answer if step.answer is not None else result.value)

    def _hand_over(self, commit: Commit) -> None:
        """Claims to their worker; what waits in the store wakes it."""
        worker = self.worker
        if worker is None:
            return
        claimed = [_claimed(task) for task in commit.tasks if task.worker is not None]
        if claimed:
            worker.take(claimed)
        if len(claimed) < len(commit.tasks):
            worker.wake(commit.tasks[0].at)
        for timer in commit.timers:
            worker.wake(timer.due)

    def _lost(
        self, request: Request, step: Step, result: Result, redo: list[Request], *, given_back: bool
    ) -> None:
        """A member that the store refused: answer it, or try it again."""
        if isinstance(step.member, Commit) and not given_back:
            self._unreserve(step.member)
        if isinstance(result, Duplicate):
            request.done(Answer.of(result.answer))
        elif isinstance(result, Closed):
            request.done(Answer("closed", code="Closed"))
        elif isinstance(result, LeaseLost):
            self._count("fenced")
            request.done(Answer("fenced", code="Fenced"))
        elif isinstance(result, Conflicted):
            self._count("conflicts")
            self.forget(result.jobs)
            self._again(request, redo)

    def _again(self, request: Request, redo: list[Request]) -> None:
        request.tries += 1
        if request.tries > LIMITS.conflict_retries and not request.inside:
            error = ConflictsExhausted(f"lost the race {request.tries} times")
            error.__cause__ = Conflict("a head that was read has moved")
            self._fail(request, error)
        elif request.tries == 1:
            redo.append(request)
        else:
            self._later(request, self._random.random() * min(1_000, 2 ** min(request.tries, 10)))

    def _failed(self, flight: _Open, error: StoreError) -> None:
        """The whole batch was not written, or nobody knows."""
        self._give_back(flight)
        self.forget()
        unknown = isinstance(error, Indeterminate)
        self._count("indeterminate" if unknown else "unavailable")
        if unknown and self.worker is not None:
            self.worker.doubt()
        for request in flight.requests:
            request.doubt += int(unknown)
            if unknown and request.doubt <= INDETERMINATE_TRIES and _settles(request):
                self._later(request, RETRY_MS * self._random.random() * request.doubt)
            elif unknown and not request.inside:
                request.failed(_unknown(request))
            elif request.inside:
                self._later(request, RETRY_MS * (1 + self._random.random()))
            else:
                self._fail(request, error)
        self._reopen([])

    def _reopen(self, first: list[Request]) -> None:
        """Plan the open batch again: it was built on what did not come true."""
        waiting = self._open
        self._give_back(waiting)
        self._open = _Open()
        self._queue.extendleft(reversed([*first, *waiting.requests]))

    def _give_back(self, batch: _Open) -> None:
        for step in batch.steps:
            if isinstance(step.member, Commit):
                self._unreserve(step.member)

    def _unreserve(self, commit: Commit) -> None:
        if self.worker is not None:
            for task in commit.tasks:
                if task.worker is not None:
                    self.worker.release(task.job, task.n)

    def _later(self, request: Request, delay_ms: float) -> None:
        async def wait() -> None:
            await self.clock.sleep_until(self.clock.now() + int(delay_ms) + 1)
            if request in self._asleep:
                self._asleep.remove(request)
                self.submit(request)

        if self._stopping:
            self._fail(request, Stopped("the transactor has been left"))
            return
        assert self._tasks is not None
        self._asleep.add(request)
        self._tasks.start_soon(wait)

    async def _landed(self, request: Request) -> bool:
        """Settle an unknown fate: whether an earlier attempt of this request was committed."""
        where = request.delivery()
        if where is None:
            return False
        block = await self.store.delivery(*where)
        if block is not None:
            self._count("landed")
            request.done(Answer.of(block))
            return True
        if request.base is None:
            return False
        for packed in await self.store.revisions(where[0], down_to=request.base):
            revision = codec.decode(packed.revision)
            if revision["delivery"] == list(where):
                write = next(w for w in revision["writes"] if w["job"] == where[0])
                self._count("landed")
                request.done(
                    Answer(
                        "committed",
                        where[0],
                        packed.cid,
                        write["state"],
                        write["seq"],
                        write["epoch"],
                    )
                )
                return True
        return False

    def _refused(self, request: Request, error: Exception) -> None:
        """Planning failed: the caller's to know; an inside request is tried again later."""
        if request.inside and isinstance(error, StoreError):
            self._later(request, RETRY_MS * (1 + self._random.random()))
        else:
            self._fail(request, error)

    @staticmethod
    def _fail(request: Request, error: Exception) -> None:
        """Tell the caller; where an earlier attempt is in doubt, that it may have happened."""
        if request.doubt and not isinstance(error, Indeterminate):
            unknown = _unknown(request)
            unknown.__cause__ = error
            error = unknown
        request.failed(error)

    def _raise(self, step: Step) -> None:
        for alarm in step.alarms:
            self._count("alarms")
            with suppress(Exception):
                self._alarm(alarm)

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def _settles(request: Request) -> bool:
    return request.inside or request.delivery() is not None


def _unknown(request: Request) -> Indeterminate:
    if not request.remembered:
        return Indeterminate("the commit may or may not have happened")
    return Indeterminate(
        "the commit may or may not have happened; send the same delivery again to find out",
        delivery=request.delivery(),
    )


def _claimed(task: NewTask) -> Claimed:
    ref = Ref(task.job, task.n, task.id, task.worker, 1)
    return Claimed(
        ref, task.block, task.workflow, task.version, task.tag, task.tenant, task.at, 1, task.task
    )


__all__ = ["Committer", "Fire", "Housekeeping", "Request", "Send", "Settle", "Transact", "Worker"]
