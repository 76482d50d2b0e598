"""The scheduler: claim, perform, settle. Outcomes go back through the transactor as events.

    async with Scheduler(transactor, {Allocate: allocate, Stat: bucket.stat}):
        ...

Tasks are claimed in the commit that makes them where a slot is free, else taken from the store
when one becomes free. Handlers run on a fixed set of long-lived workers. A claim belongs to this
worker incarnation; its lease is renewed by a row that rides in any batch.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import chain
from random import Random
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from scheduler.able import Able, Performs
from scheduler.handlers import Context, Handler, Performer, Transaction
from scheduler.retry import Failure, Policy, Retry, next_delay_ms
from scheduler.room import Room, Slot
from scheduler.slots import Limits
from scheduler.turns import Turns
from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import BAD_OUTCOME, DISMISSED, EXHAUSTED, Err, Outcome
from stmflow.errors import Busy, InvalidWorkflow, StmflowError, Unavailable
from stmflow.limits import LIMITS
from stmflow.observe import STOPPED, Attempt, Performed
from stmflow.placement import Labels, plain
from stmflow.schema import freeze, thaw
from stmflow.store import Beat, Claim, Claimed, Defer, Disown, DueTimer, Kind, Reap, Sweep, Want
from stmflow.transaction import Answer
from stmflow.transactor import Transactor, leave

log = logging.getLogger("stmflow.scheduler")

TIMER_BATCH = 256
"""Timers fired at once; the others are read when these are done."""
OLD_FOR_ONE_YOUNG = 7
"""Of the tasks taken from the store, so many come from the old end of the queue for each one from
the young end: what is asked for now does not wait until a backlog is worked off. After Maurer,
*Fail at Scale*, ACM Queue 13(8), 2015."""
SWEEP_MS = 60_000
"""Between two sweeps of delivery rows past their window."""
SWEEP = 1_000
SWEEP_AGAIN_MS = 100
"""How many rows a sweep forgets, and until the next where it has found as many."""
SHUN_MS = 60_000
"""How long a timer of a workflow unknown here is left to others."""
UNSETTLED_MS = 200
"""When a task that cannot be settled here is due again; its kind is paused ten times as long."""
RETRY_MS = 200
"""Until the store is asked again after it was unavailable."""
LONGEST_NAP_MS = 60_000
"""The longest sleep between two looks at the wall clock, which may have been set."""
_NEVER = 2**63 - 1
"""A time that a store can keep, and that does not come."""

Place = tuple[CID, int]


class Scheduler:
    """Runs the outbox of a transactor's store.

    Args:
        transactor: entered before the scheduler, left after it.
        handlers: task type → async function, or `Transaction`, or a `Performer` that says more.
            Only these types are claimed.
        policies: task type → how failures are retried. Default: `Policy()`.
        limits: slots, rates and tenants of this worker.
        labels: what this worker is and has, for what tasks need (`stmflow.placement`).
        lease_seconds: how long a silent worker keeps its claims (5 s to 1 h).
        grace_seconds: on leaving, how long running handlers may still finish.
        random: draws the jitter of backoff.

    Raises:
        InvalidWorkflow: labels, needs or limits that cannot be meant.
    """

    def __init__(
        self,
        transactor: Transactor,
        handlers: Mapping[type[Any], Handler | Transaction | Performer],
        *,
        policies: Mapping[type[Any], Policy] | None = None,
        limits: Limits | None = None,
        labels: Labels | None = None,
        lease_seconds: float = 30,
        grace_seconds: float = 10,
        random: Random | None = None,
    ) -> None:
        self._lease_ms = int(lease_seconds * 1_000)
        if not LIMITS.lease_min_ms <= self._lease_ms <= LIMITS.lease_max_ms:
            raise InvalidWorkflow(
                f"a lease lasts {LIMITS.lease_min_ms} to {LIMITS.lease_max_ms} ms"
            )
        self._transactor = transactor
        self._observers = transactor.observers
        self._clock = transactor.clock
        self._limits = Limits() if limits is None else limits
        self._random = Random() if random is None else random
        self._grace_seconds = grace_seconds
        self._able = Able(transactor, handlers, policies or {}, labels or {})
        self.labels = self._able.labels
        _refuse_unknown(self._limits, transactor)
        attempts = {kind[2]: how.policy.attempt_ms for kind, how in self._able.kinds.items()}
        self._room = Room(self._limits, attempts, self._clock)
        self._turns = Turns(self._limits.weights)
        self._held: dict[Place, list[Slot]] = {}
        self._dealt: dict[tuple[Kind, str], list[Slot]] = {}
        self._firing: set[Place] = set()
        self._shunned: dict[Place, int] = {}
        self._paused: dict[Kind, int] = {}
        self._todo: deque[Claimed] = deque()
        self._asleep: list[anyio.Event] = []
        self._waking = False
        self._pending = 0
        self._idle = anyio.Event()
        self._next = 0
        self._soonest = 0
        self._oldest = 0
        self._old = 0  # tasks taken from the old end since the last one from the young end
        self._left = False
        self._full = False
        self._behind: set[tuple[str, str | None]] = set()
        self._doubt = False
        self._stopping = False
        self._woken = anyio.Event()
        self._worker = 0
        self._beaten = 0
        self._next_beat = 0
        self._resting: anyio.CancelScope | None = None
        self._next_sweep = 0
        self._stack: AsyncExitStack | None = None
        self.counters: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._worker = self._transactor.store.enlist()
            stack.callback(lambda: self._transactor.store.retire(self._worker))
            await self._beat()
            stack.push_async_callback(self._rest, 1.0)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            for _ in range(self._limits.slots):
                group.start_soon(self._work)
            group.start_soon(self._dispatch)
            self._transactor.attach(self)
            if self._observers is not None:
                self._observers.attach(self)
            stack.callback(lambda: self._transactor.attach(None))
            if self._limits.shared:
                shares, asking = self._room.shares, (self._transactor, self._worker)
                group.start_soon(shares.run, *asking, lambda: self.wake(0))
                stack.push_async_callback(shares.leave, *asking)
            stack.push_async_callback(self._drain)
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

    @property
    def worker(self) -> int:
        """The number of this worker incarnation."""
        return self._worker

    @property
    def performs(self) -> Collection[Kind]:
        """The kinds of task that are performed here: labels meet needs, and there is a handler."""
        return self._able.kinds.keys()

    @property
    def beaten(self) -> int:
        """When the last beat was asked for that the store has confirmed (milliseconds)."""
        return self._beaten

    async def oldest(self) -> int | None:
        """Since when the oldest task that could be performed here is due and waits; or None."""
        due = await self._transactor.store.next_task(await self._able.waiting())
        return due if due is not None and due <= self._clock.now() else None

    def hurry(self) -> None:
        """Leaving, wait no longer for handlers that run: they are cancelled and put back."""
        self._grace_seconds = 0
        if self._resting is not None:
            self._resting.cancel()

    @property
    def running(self) -> int:
        """Tasks held: reserved, running or being settled."""
        return sum(map(len, self._held.values()))

    def gauges(self) -> dict[str, float]:
        """How things stand: `slots`, how many of them are `running` a task, and for how long the
        oldest task that is due has waited in the store (`due_age_ms`)."""
        age_ms = max(self._clock.now() - self._oldest, 0) if self._left else 0
        return {"slots": self._limits.slots, "running": self.running, "due_age_ms": age_ms}

    # --- what the committer calls -----------------------------------------------------------------

    def reserve(self, job: CID, n: int, kind: Kind, tenant: str) -> int | None:
        """A slot for a task that is about to be committed; none where others wait for one."""
        if self._stopping or self._full or kind in self._paused or not self._able.fits(kind):
            return None
        tag = plain(kind[2])
        if (tag, None) in self._behind or (tag, tenant) in self._behind:
            return None
        slot = self._room.take(kind, tenant)
        if slot is None:
            return None
        self._held.setdefault((job, n), []).append(slot)
        return self._worker

    def release(self, job: CID, n: int) -> None:
        """The slot is free again."""
        held = self._held.get((job, n))
        if held is None:
            return
        self._room.give(held.pop())  # twice there where we took over a claim of our own
        if not held:
            del self._held[(job, n)]
        if self._left:  # something due was left in the store for want of a slot
            self._woken.set()

    def take(self, claimed: Sequence[Claimed]) -> None:
        """Perform these; put them back where we are about to leave."""
        self._pending += len(claimed)
        if self._stopping:
            for one in claimed:
                self._put_back(one)
            return
        self._todo.extend(claimed)
        self._rouse()

    def _rouse(self) -> None:
        """Wake one idle worker, unless one is waking. It wakes the next, so that handlers which
        return at once cost two wake-ups a batch and not one each."""
        if self._todo and self._asleep and not self._waking:
            self._waking = True
            self._asleep.pop().set()

    def wake(self, due: int) -> None:
        """Something in the store is due then."""
        self._soonest = min(self._soonest, due)
        if due < self._next:
            self._woken.set()

    def doubt(self) -> None:
        """Some claims of ours may be unknown to us."""
        self._doubt = True
        self._woken.set()

    # --- claiming ---------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """Renew the lease, free the dead, fire timers, claim what is due; then sleep."""
        await self._transactor.do(lambda: Reap(self._clock.now()))
        while True:
            self._woken = anyio.Event()
            self._soonest = _NEVER
            self._next = 0
            due: list[int | None] = []
            try:
                await self._housekeep()
                due += [await self._fire(), await self._claim()]
            except Unavailable:
                self._count("unavailable")
                due.append(self._clock.now() + RETRY_MS)
            now = self._clock.now()
            due += [self._soonest, self._next_beat, self._next_sweep]
            due.append(self._room.slots.next_token(now) if self._left else None)
            self._next = min(at for at in due if at is not None)
            delay_ms = min(self._next - now, LONGEST_NAP_MS)
            if delay_ms > 0:
                with anyio.move_on_after(delay_ms / 1_000):
                    await self._woken.wait()
            else:
                await anyio.lowlevel.checkpoint()

    async def _housekeep(self) -> None:
        now = self._clock.now()
        if self._doubt:
            self._doubt = False
            await self._transactor.do(lambda: Disown(self._worker, list(self._held)))
        if now >= self._next_beat:
            await self._beat()
            self._doubt = True  # a commit of unknown fate may land after we have asked
            await self._transactor.do(lambda: Reap(self._clock.now()))
            await self._able.look()
        if now >= self._next_sweep:
            swept = await self._transactor.do(lambda: Sweep(self._clock.now(), SWEEP))
            self._next_sweep = now + (SWEEP_MS if swept < SWEEP else SWEEP_AGAIN_MS)

    async def _beat(self) -> None:
        now = self._clock.now()
        await self._transactor.do(lambda: Beat(self._worker, self._clock.now() + self._lease_ms))
        self._beaten, self._next_beat = now, now + self._lease_ms // 3

    async def _fire(self) -> int | None:
        """Deliver the timers that are due; when the next one is."""
        if self._firing:
            return None  # the last of them wakes us
        now = self._clock.now()
        store = self._transactor.store
        due = await store.next_timer()
        if due is None or due > now:
            return due
        self._shunned = {place: until for place, until in self._shunned.items() if until > now}
        for timer in await store.timers(now, TIMER_BATCH + len(self._shunned)):
            if (timer.job, timer.n) in self._shunned:
                continue
            self._firing.add((timer.job, timer.n))
            self._count("timers")
            self._transactor.firing(timer, self._fired(timer), self._unfired(timer))
        if self._firing:
            return None
        rows = await store.timers(_NEVER, len(self._shunned) + 1)
        later = [timer.due for timer in rows if (timer.job, timer.n) not in self._shunned]
        return min([*self._shunned.values(), *later], default=None)

    def _fired(self, timer: DueTimer) -> Callable[[Any], None]:
        def done(_: Any) -> None:
            self._firing.discard((timer.job, timer.n))
            if not self._firing:
                self.wake(0)

        return done

    def _unfired(self, timer: DueTimer) -> Callable[[BaseException], None]:
        """A timer that we cannot deliver, of a workflow or version unknown here, is for others."""
        done = self._fired(timer)

        def failed(error: BaseException) -> None:
            self._shunned[(timer.job, timer.n)] = self._clock.now() + SHUN_MS
            done(error)

        return failed

    async def _claim(self) -> int | None:
        """Take what is due and has room; when more will be due."""
        now = self._clock.now()
        self._paused = {kind: until for kind, until in self._paused.items() if until > now}
        for until in self._paused.values():
            self.wake(until)
        kinds = [kind for kind in await self._able.waiting() if kind not in self._paused]
        due = await self._transactor.store.next_task(kinds)
        self._left = due is not None and due <= now
        self._oldest = due or 0
        if not self._left or self._stopping:
            self._full, self._behind = False, set()
            return None if self._left else due  # leaving, we take nothing that is due
        young = self._old // OLD_FOR_ONE_YOUNG
        wants = await self._wants(kinds, now, young)
        if not wants:
            return None  # a slot that becomes free wakes us
        try:
            claimed = await self._transactor.do(
                lambda: Claim(self._worker, wants, now, youngest=young > 0)
            )
            for one in claimed:
                slot = self._dealt[(one[2:5], one.tenant)].pop()
                self._held.setdefault(one.ref[:2], []).append(slot)
        finally:
            for slot in chain.from_iterable(self._dealt.values()):
                self._room.give(slot, unused=True)
            self._dealt = {}
        self._old = 0 if young else self._old + len(claimed)
        self.take(claimed)
        for tag, count in Counter(plain(one.tag) for one in claimed).items():
            self._turns.served(tag, count)
        return now if claimed else now + RETRY_MS  # others have held what was due

    async def _wants(self, kinds: Sequence[Kind], now: int, most: int) -> list[Want]:
        """Deal the slots that are free to whoever has something due, at most so many if that is not
        0; note who is left waiting, so that nothing new is claimed before it by its own commit."""
        slots = self._room.slots
        rooms = {tag: slots.room(tag, now) for tag in {plain(kind[2]) for kind in kinds}}
        able = [kind for kind in kinds if rooms[plain(kind[2])]]
        queues = self._transactor.store.queues
        pages = await self._turns.look(
            able, queues, slots=slots.free, room_of=self._room.of, now=now
        )
        self._dealt = {}
        wants = self._turns.deal(pages, slots=min(slots.free, most or slots.free), take=self._deal)
        self._full = not slots.free
        self._behind = {(tag, None) for tag, room in rooms.items() if not room}
        for tag, page in pages.items():
            self._behind |= {(tag, None)} if page.tenants else {(tag, who) for who in page.barred}
        return wants

    def _deal(self, kind: Kind, tenant: str) -> bool:
        """Take a slot for what is about to be claimed."""
        slot = self._room.take(kind, tenant)
        if slot is not None:
            self._dealt.setdefault((kind, tenant), []).append(slot)
        return slot is not None

    # --- performing -------------------------------------------------------------------------------

    async def _work(self) -> None:
        """One of the fixed set of workers."""
        while True:
            while self._todo:
                claimed = self._todo.popleft()
                self._rouse()
                await self._perform(claimed)
            awake = anyio.Event()
            self._asleep.append(awake)
            await awake.wait()
            self._waking = False

    async def _perform(self, claimed: Claimed) -> None:
        performs = self._able.how(claimed[2:5])
        started = self._clock.now()
        if (why := _given_up(performs.policy, claimed, started)) is not None:
            self._count("exhausted")
            last = {"name": why, "detail": None, "attempts": claimed.attempt - 1}
            self._settle(claimed, Err(EXHAUSTED, freeze(last)))
            return
        if isinstance(performs.handler, Transaction):
            self._transact(performs, performs.handler, claimed)
            return
        performed = self._performing(claimed, started)
        error: str | None = STOPPED
        again: int | None = None
        try:
            outcome = await self._attempt(performs, performs.handler, claimed, started)
            error = outcome.name if isinstance(outcome, Failure | Err) else None
            if isinstance(outcome, Failure):
                again = self._failed(performs.policy, claimed, outcome)
            else:
                self._settle(claimed, outcome)
        except anyio.get_cancelled_exc_class():
            self._put_back(claimed)
            raise
        finally:
            if performed is not None:
                performed(Performed(error, again, self._clock.now()))

    def _performing(self, claimed: Claimed, at: int) -> Callable[[Performed], None] | None:
        """Tell who watches; what to call when it is over."""
        if self._observers is None:
            return None
        (job, _, task, _, token), worker = claimed.ref, self._worker
        return self._observers.performing(
            Attempt(
                job,
                task,
                claimed.workflow,
                claimed.tag,
                claimed.tenant,
                worker,
                claimed.attempt,
                token,
                claimed.at,
                at,
            )
        )

    async def _attempt(
        self, performs: Performs, handler: Handler, claimed: Claimed, started: int
    ) -> Outcome | Failure:
        """One call of the handler: an outcome that can be stored, or a failure."""
        policy = performs.policy
        end = started + policy.attempt_ms
        if policy.deadline_ms is not None:
            end = min(end, max(started, claimed.at + policy.deadline_ms))
        for slot in self._held.get(claimed.ref[:2], ())[-1:]:
            if (end := slot.ends(end)) <= started:
                return Failure("ShareLost", None, retry=Retry.SAFE)
        context = Context(
            key=claimed.ref.id,
            job=claimed.ref.job,
            attempt=claimed.attempt,
            token=claimed.ref.token,
            deadline=end,
            clock=self._clock,
        )
        self._count("performed")
        try:
            task = _typed(performs, claimed)
            with anyio.move_on_after(max(end - started, 1) / 1_000):
                return _outcome(await handler(task, context))
            raise TimeoutError
        except Failure as failure:
            return failure
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise  # we are being stopped
            return Failure("Cancelled", None, retry=Retry.IDEMPOTENT)
        except TimeoutError:
            return Failure("TimedOut", {"after_ms": end - started}, retry=Retry.IDEMPOTENT)
        except Busy as busy:  # what the handler itself has sent was not taken
            return Failure("Busy", None, retry=Retry.IDEMPOTENT, after_ms=busy.retry_after)
        except Exception as error:
            log.warning("handler of %s raised %r", claimed.tag, error, extra=_told(claimed))
            return Failure(type(error).__name__, None, retry=Retry.IDEMPOTENT)

    def _transact(self, performs: Performs, handler: Transaction, claimed: Claimed) -> None:
        """Let the commit that settles the task run it; or let it wait for what it has read."""
        deadline = performs.policy.deadline_ms
        until = _NEVER if deadline is None else min(claimed.at + deadline, _NEVER)
        settled = self._settled(claimed)

        def done(answer: Answer) -> None:
            settled(answer)
            self.wake(until)

        self._count("performed")
        try:
            task = _typed(performs, claimed)
        except Exception as error:
            log.warning("task of %s cannot be read: %r", claimed.tag, error, extra=_told(claimed))
            unread = Failure(type(error).__name__, None, retry=Retry.IDEMPOTENT)
            self._failed(performs.policy, claimed, unread)
            return
        self._transactor.running(
            claimed.ref,
            task,
            handler.body,
            until,
            done,
            self._unsettled(claimed),
        )

    def _failed(self, policy: Policy, claimed: Claimed, failure: Failure) -> int | None:
        """Try again later, and say when; or settle with the failure."""
        now = self._clock.now()
        delay = next_delay_ms(
            policy,
            failure,
            attempt=claimed.attempt,
            elapsed_ms=max(now - claimed.at, 0),
            draw=self._random.random(),
        )
        name = _named(failure.name)
        error = {"name": name, "retry": failure.retry.value}
        error["detail"] = detail = _storable(failure.detail, **error)
        if delay is not None:
            self._count("retries")
            defer = Defer(claimed.ref, min(now + delay, _NEVER), codec.encode(error))
            self._transactor.doing(
                lambda: defer, self._put(claimed, defer.due), self._gone(claimed)
            )
            return defer.due
        if failure.retry in (Retry.FATAL, Retry.CONFLICT, Retry.CORRUPT):
            self._settle(claimed, Err(name, freeze(detail)))
        else:
            self._count("exhausted")
            last = {**error, "attempts": claimed.attempt}
            self._settle(claimed, Err(EXHAUSTED, freeze(last)))
        return None

    def _settle(self, claimed: Claimed, outcome: Outcome) -> None:
        if isinstance(outcome, Err) and outcome.name == DISMISSED:
            outcome = Err(BAD_OUTCOME, f"a handler may not answer {DISMISSED}")
        self._transactor.settling(
            claimed.ref, outcome, self._settled(claimed), self._unsettled(claimed)
        )

    def _settled(self, claimed: Claimed) -> Callable[[Answer], None]:
        def done(answer: Answer) -> None:
            self._count(answer.kind)
            self._free(claimed)

        return done

    def _unsettled(self, claimed: Claimed) -> Callable[[BaseException], None]:
        """The job cannot be read here, being of a newer version: the task is another worker's."""

        def failed(error: BaseException) -> None:
            log.error("settling %s: %r", claimed.ref.id, error, extra=_told(claimed))
            self._count("unsettled")
            now = self._clock.now()
            self._paused[claimed[2:5]] = now + 10 * UNSETTLED_MS  # so that another one is first
            defer = Defer(claimed.ref, now + UNSETTLED_MS, back=True)
            self._transactor.doing(
                lambda: defer, self._put(claimed, defer.due), self._gone(claimed)
            )

        return failed

    def _gone(self, claimed: Claimed) -> Callable[[BaseException], None]:
        def failed(error: BaseException) -> None:
            if not isinstance(error, StmflowError):
                log.error("settling %s: %r", claimed.ref.id, error, extra=_told(claimed))
            self._free(claimed)

        return failed

    def _put_back(self, claimed: Claimed) -> None:
        """A graceful release: the attempt is given back."""
        defer = Defer(claimed.ref, self._clock.now(), back=True)
        self._transactor.doing(lambda: defer, self._put(claimed, None), self._gone(claimed))

    def _put(self, claimed: Claimed, due: int | None) -> Callable[[Any], None]:
        def done(_: Any) -> None:
            self._free(claimed)
            if due is not None:
                self.wake(due)

        return done

    def _free(self, claimed: Claimed) -> None:
        self.release(*claimed.ref[:2])
        self._pending -= 1
        if self._pending == 0:
            self._idle.set()

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    # --- stopping ---------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Finish or release: take no more, put back what has not begun, wait for the rest."""
        self._stopping = True
        with anyio.CancelScope(shield=True):
            while self._todo:
                self._put_back(self._todo.popleft())
            await self._rest(self._grace_seconds)

    async def _rest(self, seconds: float) -> None:
        """Wait until nothing is held, so long."""
        with anyio.move_on_after(seconds, shield=True) as self._resting:
            while self._pending:
                self._idle = anyio.Event()
                await self._idle.wait()
        self._resting = None


def _refuse_unknown(limits: Limits, transactor: Transactor) -> None:
    known = {tag for each in transactor.registry.versions.values() for tag in each.task_tags}
    if unknown := sorted(limits.tags - known):
        raise InvalidWorkflow(f"limits for {unknown[0]:.80}: no workflow here has such a task")


def _typed(performs: Performs, claimed: Claimed) -> Any:
    """The task itself: at hand where this process has just committed it."""
    if claimed.task is not None:
        return claimed.task
    return performs.workflow.task_of(codec.decode(claimed.block))


def _told(claimed: Claimed) -> dict[str, Any]:
    """What a log record says of a task, beside its text."""
    (job, _, task, worker, token), attempt = claimed.ref, claimed.attempt
    fields = {"job": job, "task": task, "type": claimed.tag, "worker": worker, "token": token}
    return {"stmflow": {"event": "trouble", **fields, "attempt": attempt}}


def _outcome(value: Any) -> Outcome:
    """What a handler returned, if it can be stored."""
    if isinstance(value, Err):
        raise Failure(value.name, thaw(value.detail))
    try:
        plain = thaw(value)
        codec.encode(plain)
    except StmflowError as error:
        return Err(BAD_OUTCOME, str(error))
    return freeze(plain)


def _given_up(policy: Policy, claimed: Claimed, now: int) -> str | None:
    """Why a task is not performed once more: who performed it before may have died of it."""
    if claimed.attempt > policy.attempts:
        return "LeaseLost"
    if policy.deadline_ms is not None and now >= claimed.at + policy.deadline_ms:
        return "DeadlineExceeded"
    return None


def _named(name: Any) -> str:
    """The name of a failure; where it is none that can be stored, how it looks."""
    return name if type(name) is str and _storable(name) is name else ascii(name)[:200]


def _storable(detail: Any, **beside: Any) -> Any:
    """The detail of a failure as plain data; where it is none, how it looks."""
    try:
        plain = thaw(detail)
        codec.encode({**beside, "detail": plain})
    except Exception:
        return ascii(detail)[:200]
    return plain
