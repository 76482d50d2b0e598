"""The group committer: one store commit, and one fsync, for whatever waits.

Requests are planned one after the other on a private overlay of heads, so a hot job is folded
event after event inside one batch. Batch n+1 is planned while n is being synced; it is sent only
after n is done, and planned again if n is not. Until the store has answered *done*, nothing leaves
the overlay: no cache entry, answer, claim, wake-up or log line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

import anyio
from anyio.abc import TaskGroup

from stmflow import codec
from stmflow.cid import CID
from stmflow.clock import Clock
from stmflow.errors import (
    Archived,
    Busy,
    Conflict,
    ConflictsExhausted,
    DeadlineExceeded,
    Indeterminate,
    ReducerFailed,
    StmflowError,
    Stopped,
    StoreError,
)
from stmflow.job import Head, restore
from stmflow.limits import LIMITS
from stmflow.observe import Observers
from stmflow.placement import Placement
from stmflow.pressure import Drain
from stmflow.request import Barred, Request, Step, View, Worker
from stmflow.store import (
    Batch,
    Claimed,
    Closed,
    Commit,
    Conflicted,
    Done,
    Duplicate,
    LeaseLost,
    Member,
    NewTask,
    Park,
    Ref,
    Result,
    Store,
    StoredHead,
    Watch,
)
from stmflow.transaction import Answer, Later, Missing, Retry, Transactional
from stmflow.workflow import Job, Registry

CACHED_HEADS = 2_048
RETRY_MS = 50
INDETERMINATE_TRIES = 8
FETCHES = 8
"""How often a head is read anew of which there was news on its way here."""
CONTENDED_TRIES = 4
"""Lost races after which the store is asked to hold what a request touches against all others."""


class _Unreadable(BaseException):
    """A head that a new plan needs cannot be read. No `Exception`: bodies must not eat it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@dataclass(slots=True)
class _Open:
    """A batch in the making."""

    sent: int = 0
    requests: list[Request] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    heads: dict[CID, Head | None] = field(default_factory=dict)
    seen: Collection[CID] = ()
    """The jobs that were read for it, where it was planned again under the store's lock."""


@dataclass(slots=True, eq=False)
class _Look:
    """Heads on their way here from the store, and news that came meanwhile: of which of them
    nobody can say whether they are older than it."""

    jobs: set[CID] = field(default_factory=set)
    any: bool = False

    def hear(self, jobs: Collection[CID] | None) -> None:
        if jobs is None:
            self.any = True
        else:
            self.jobs.update(jobs)

    def doubts(self, job: CID) -> bool:
        return self.any or job in self.jobs


class Committer:
    """Plans requests into batches and gives them to the store, one batch at a time.

    Args:
        store, registry, clock: what it works on.
        random: draws the jitter of retries.
        published: called with each new head, in commit order, once it is durable.
        alarm: called with a text when `update` answered *impossible*.
        queued_requests: so many may wait; one more from outside is refused as `Busy`.
        observers: told of what is durable, and of what was refused.
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
        queued_requests: int,
        observers: Observers | None,
        needs: Mapping[type[Any], Placement],
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.transactional = dict(transactional)
        self.pure = pure
        self.worker: Worker | None = None
        self.counters: dict[str, int] = {}
        self.process = _number(random)
        self._random = random
        self._published = published
        self._alarm = alarm
        self.tenant = tenant
        self._most = queued_requests
        self._drain = Drain()
        self._observers = observers
        self.needs = needs
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
        self._looks: list[_Look] = []
        self._waiting: dict[CID, dict[Request, None]] = {}

    # --- from outside

    def submit(self, request: Request) -> None:
        """Queue a request. Its `done` or `failed` is called once, after the commit is durable.

        What comes from inside is never refused: it is what empties the queue.
        """
        if self._observers is not None:
            request.origin = self._observers.origins()
        if not request.inside and self.waiting >= self._most and not self._stopping:
            self._count("busy")
            after = self._drain.retry_after(self.waiting, self.clock.now())
            self._fail(request, Busy(f"{self.waiting} requests wait already", retry_after=after))
        else:
            self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        if self._stopping:
            self._fail(request, Stopped("the transactor has been left"))
            return
        self._queue.append(request)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Requests that wait for a batch, or to be tried again."""
        return len(self._queue) + len(self._open.requests) + len(self._asleep)

    def gauges(self) -> dict[str, float]:
        """How things stand: `queue` and `queue_age_ms`, `heads` that are cached, `sleeping`."""
        first = next(iter(self._open.requests or self._queue), None)
        age_ms = 0 if first is None else max(self.clock.now() - first.since, 0)
        sleeping = {request for each in self._waiting.values() for request in each}
        return {
            "queue": self.waiting,
            "queue_age_ms": age_ms,
            "heads": len(self._cache),
            "sleeping": len(sleeping),
        }

    def cached(self, job: CID) -> Head | None:
        """The durable head, if it is in the cache."""
        return self._cache.get(job)

    def forget(self, jobs: Iterable[CID] | None = None) -> None:
        """Drop cached heads: somebody else has written."""
        noted = self._open.heads  # of the absent ones: a batch that nobody joins never flies
        jobs = None if jobs is None else tuple(jobs)
        for look in self._looks:
            look.hear(jobs)
        if jobs is None:
            self._cache.clear()
            for job in [job for job, head in noted.items() if head is None]:
                del noted[job]
            self._changed(tuple(self._waiting))
        else:
            for job in jobs:
                self._cache.pop(job, None)
                if noted.get(job, job) is None:
                    del noted[job]
            self._changed(jobs)

    def remember(self, head: Head) -> None:
        """Keep a durable head; the least recently committed make room."""
        cache = self._cache
        cache.pop(head.job, None)
        cache[head.job] = head
        if len(cache) > CACHED_HEADS:
            del cache[next(iter(cache))]

    def withdraw(self, request: Request) -> None:
        """Forget a request that nobody waits for any more, unless it is under way."""
        request.abandoned = True
        self._unwait(request)

    def hurry(self, request: Request) -> None:
        """Its deadline has passed: if it has not happened yet, it is not tried much longer."""
        request.late = True
        if request.waits:  # in doubt: look once more whether it has happened
            self._unwait(request)
            self._enqueue(request)

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
        waiting = {request: None for each in self._waiting.values() for request in each}
        for request in [*self._queue, *self._open.requests, *self._asleep, *planning, *waiting]:
            self._fail(request, Stopped("the transactor has been left"))
        self._queue.clear()
        self._asleep.clear()
        self._waiting.clear()
        self._open = _Open()
        if self._flying is not None:
            for request in self._flying.requests:
                self._fail(request, _unknown(request))
            self._flying = None

    # --- planning

    def _full(self) -> bool:
        return len(self._open.requests) >= LIMITS.batch_transactions

    async def _assemble(self) -> None:
        """Move what waits into the open batch."""
        await self._prefetch()
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
            if isinstance(step.answer, Retry):
                self._wait(request, step.answer)
                continue
            if step.member is None:
                self._raise(step)
                self._tell(request, step.answer)
                continue
            self._join(request, step)
            if self.clock.now() - started > LIMITS.batch_reducer_ms:
                break

    async def _prefetch(self) -> None:
        """Read at once what the next batch will surely ask for. Where that fails, each request
        asks for itself and is told."""
        room = LIMITS.batch_transactions - len(self._open.requests)
        wanted = (job for request in islice(self._queue, room) for job in request.jobs())
        missing = {job: None for job in wanted if not self._knows(job)}
        if len(missing) > 1:
            with suppress(Exception):
                await self._fetch(list(missing))

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
                view.barred = request.barred
                step = request.plan(view)
                if not isinstance(step.member, Commit):  # it is parked, or waits: nothing is armed
                    view.give_back()
                return step
            except BaseException as error:
                view.give_back()
                if isinstance(error, Later):
                    request.now = error.at
                    continue
                reads = view.reads()
                if isinstance(error, Retry):
                    error.jobs = tuple(job for job, _ in reads)
                    return Step(error)
                if isinstance(error, Barred):
                    error = error.error
                if request.inside or not reads or not isinstance(error, Exception):
                    raise error
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
        for tries_left in reversed(range(FETCHES)):
            self._count("fetched", len(jobs))
            with self._looking() as look:
                heads = await self.store.heads(jobs)
            jobs = [job for job in jobs if tries_left and look.doubts(job)]
            for job, stored in heads.items():
                if self._knows(job) or job in jobs:
                    continue
                if stored is None:
                    self._open.heads[job] = None
                else:
                    self.remember(restore(stored, self.registry))
            if not jobs:
                return

    @contextmanager
    def _looking(self) -> Iterator[_Look]:
        """While heads are on their way here: what news comes meanwhile."""
        look = _Look()
        self._looks.append(look)
        try:
            yield look
        finally:
            self._looks.remove(look)

    def _replan(
        self, flight: _Open, read: Callable[[CID], StoredHead | None]
    ) -> tuple[_Open, list[Member]]:
        """Plan a batch again on heads as they are, called by the store under its lock."""
        again = _Open()
        known: dict[CID, Head | None] = {}

        def durable(job: CID) -> Head | None:
            if job not in known:
                try:
                    stored = read(job)
                    known[job] = None if stored is None else restore(stored, self.registry)
                except Exception as error:
                    raise _Unreadable(error) from error
            return known[job]

        view = View(self, again.heads, durable, None)  # on another thread: no worker is asked
        for request in flight.requests:
            try:
                step = self._at(request, view)
            except _Unreadable as unreadable:
                if not isinstance(unreadable.error, StmflowError):
                    raise unreadable.error from None  # the store's own trouble
                step = Step(unreadable.error)
            except Exception as error:
                step = Step(error)
            again.requests.append(request)
            again.steps.append(step)
            for head in step.heads:
                again.heads[head.job] = head
        again.seen = known
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
        flight.sent = self.clock.now()

        def replan(read: Callable[[CID], StoredHead | None]) -> Sequence[Member]:
            nonlocal landed
            landed, members = self._replan(flight, read)
            return members

        members = [step.member or Commit() for step in flight.steps]
        batch = Batch(members, replan, _contended(flight))
        try:
            with self._looking() as look:
                results = await self.store.commit(batch)
        except StoreError as error:
            self._failed(flight, error)
        except Exception as error:
            self._failed(flight, Indeterminate(f"the store raised {error!r}"))
        else:
            self._landed_batch(flight, landed, results)
            if look.any or look.jobs:  # what has landed, or was absent, may be older than that
                self.forget(None if look.any else look.jobs)

    def _landed_batch(self, flight: _Open, landed: _Open, results: Sequence[Result]) -> None:
        """Publish what is durable; send back what was refused."""
        self._count("batches")
        now = self.clock.now()
        self._drain.left(len(landed.requests), now, waiting=self.waiting)
        moved = landed is not flight
        if self._observers is not None:
            self._observers.landed(len(landed.requests), flight.sent, now, replanned=moved)
        if moved:
            self._count("replanned")
            self._give_back(flight)
            self.forget(landed.seen)
        redo: list[Request] = []
        for request, step, result in zip(landed.requests, landed.steps, results, strict=True):
            if isinstance(step.answer, Retry):
                self._wait(request, step.answer)
            elif isinstance(step.answer, Exception) and isinstance(result, Done):
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
            self._changed((head.job,))
        if isinstance(step.member, Commit):
            self._hand_over(step.member)
            if result.value and self.worker is not None:
                self.worker.wake(self.clock.now())  # what watched these heads is due
        self._raise(step)
        answer = step.answer if step.answer is not None else result.value
        self._tell(request, answer, step.member)

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
            self._tell(request, Answer.of(result.answer))
        elif isinstance(result, Closed):
            self._tell(request, Answer("closed", code="Closed"))
        elif isinstance(result, LeaseLost):
            self._count("fenced")
            self._tell(request, Answer("fenced", code="Fenced"))
        elif isinstance(result, Conflicted):
            self._count("conflicts")
            self.forget(result.jobs)
            self._again(request, redo)

    # --- waiting for a change

    def _wait(self, request: Request, retry: Retry) -> None:
        """Sleep until one of the jobs that the body has read changes.

        It may have read what a batch on its way is about to write: that batch wakes it when it
        lands, and when it does not.
        """
        if not retry.jobs:
            self._fail(request, ReducerFailed("a body that has read nothing would retry for ever"))
            return
        if request.late:
            self._fail(request, DeadlineExceeded("what it waits for is late; it did not happen"))
            return
        request.planned = request.doubt > 0
        for job in retry.jobs:
            self._waiting.setdefault(job, {})[request] = None
        request.waits = retry.jobs
        self._count("waits")

    def _changed(self, jobs: Iterable[CID]) -> None:
        """Run again what waits for one of these."""
        if not self._waiting:
            return
        for job in jobs:
            for request in self._waiting.get(job, {}).copy():
                self._unwait(request)
                self._enqueue(request)

    def _unwait(self, request: Request) -> None:
        for job in request.waits:
            waiting = self._waiting.get(job)
            if waiting is not None:
                waiting.pop(request, None)
                if not waiting:
                    del self._waiting[job]
        request.waits = ()

    # --- trying again

    def _again(self, request: Request, redo: list[Request]) -> None:
        request.tries += 1
        request.barred = None
        request.planned = request.doubt > 0  # it did not happen: its caller may give it up
        if request.late and not request.planned:
            self._fail(request, DeadlineExceeded("lost the race and is late; it did not happen"))
            return
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
            request.barred = None
            request.doubt += int(unknown)
            if unknown and request.doubt <= INDETERMINATE_TRIES and _settles(request):
                self._later(request, RETRY_MS * self._random.random() * request.doubt)
            elif unknown and not request.inside:
                self._fail(request, _unknown(request))
            elif request.inside:
                self._later(request, RETRY_MS * (1 + self._random.random()))
            else:
                self._fail(request, error)
        self._reopen([])

    def _reopen(self, first: list[Request]) -> None:
        """Plan the open batch again: it was built on what did not come true."""
        self._changed(tuple(self._waiting))  # they may have read what did not come true
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
                self._enqueue(request)

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
            self._tell(request, Answer.of(block))
            return True
        if request.base is None:
            return False
        for packed in await self.store.revisions(where[0], down_to=request.base):
            revision = codec.decode(packed.revision)
            if revision["delivery"] == list(where):
                write = next(w for w in revision["writes"] if w["job"] == where[0])
                self._count("landed")
                self._tell(
                    request,
                    Answer(
                        "committed",
                        where[0],
                        packed.cid,
                        write["state"],
                        write["seq"],
                        write["epoch"],
                    ),
                )
                return True
        return False

    def _refused(self, request: Request, error: Exception) -> None:
        """Planning failed: the caller's to know; an inside request is tried again later. A job that
        has been archived has nothing open. Where only another job that was read has been, that
        counts if whatever led to it still stands: it is planned once more, up to there."""
        archived = error if isinstance(error, Archived) else None
        if archived and archived.job not in request.jobs() and archived is not request.barred:
            request.barred = archived
            self._enqueue(request)
        elif archived and request.inside:
            self._tell(request, Answer("closed", archived.job, code="Closed"))
        elif request.inside and isinstance(error, StoreError):
            self._later(request, RETRY_MS * (1 + self._random.random()))
        else:
            self._fail(request, error)

    def _tell(self, request: Request, answer: Any, member: Member | None = None) -> None:
        """Answer a request: what it wrote is durable."""
        if self._observers is not None:
            self._observers.answered(request, answer, member, self.clock.now())
        request.done(answer)

    def _fail(self, request: Request, error: Exception) -> None:
        """Tell the caller; where an earlier attempt is in doubt, that it may have happened."""
        if request.doubt and not isinstance(error, Indeterminate):
            unknown = _unknown(request)
            unknown.__cause__ = error
            error = unknown
        if self._observers is not None:
            self._observers.refused(request, error, self.clock.now())
        request.failed(error)

    def _raise(self, step: Step) -> None:
        for alarm in step.alarms:
            self._count("alarms")
            with suppress(Exception):
                self._alarm(alarm)

    def _count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by


def _number(random: Random) -> int:
    """A number for this process, of its generator, which draws on as if nobody had asked."""
    try:
        return hash(random.getstate()[1])
    except NotImplementedError:  # one that the operating system feeds
        return random.getrandbits(32)


def _contended(flight: _Open) -> set[CID]:
    """The jobs of those that have lost the race too often."""
    return {
        job
        for request, step in zip(flight.requests, flight.steps, strict=True)
        if request.tries >= CONTENDED_TRIES and isinstance(step.member, (Commit, Park, Watch))
        for job in (
            *(job for job, _ in step.member.reads),
            *(write.job for write in getattr(step.member, "writes", ())),
        )
    }


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


__all__ = ["Committer"]
