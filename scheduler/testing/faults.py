"""What can go wrong in the virtual world: which faults exist, and the store that shows them.

Swarm rule: a seed first draws *which* faults exist, then how often each comes. So some seeds are
all crashes and no delay. A store that fails in too many ways at once lets nothing happen: of its
faults a seed has few or many.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any, Final

import anyio

from scheduler.testing.loop import EPOCH_MS, Process, VirtualLoop
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import (
    Corrupt,
    DiskFull,
    Indeterminate,
    ReducerFailed,
    StoreError,
    Unavailable,
)
from stmflow.store import (
    Batch,
    Claim,
    Claimed,
    Commit,
    Conflicted,
    Defer,
    Done,
    DueTimer,
    Duplicate,
    JobRow,
    Kind,
    LeaseLost,
    Logged,
    Packed,
    Park,
    Queue,
    Reap,
    Redrive,
    Ref,
    Result,
    Store,
    StoredHead,
    TaskRow,
    Vitals,
    Watch,
    WorkerRow,
)

STORE: Final = (
    "unavailable",  # refused before anything happened
    "slow",
    "storm",  # members answered with a conflict that nobody caused
    "unknown done",  # Indeterminate, and it had committed
    "unknown lost",  # Indeterminate, and it had not
    "unknown late",  # Indeterminate, and it commits a while later
    "cut before",  # the connection is lost on the way, and comes back later
    "cut after",  # the same, and what was sent has taken place: Indeterminate
    "disk full",  # for everybody, for a while
    "fsync",  # Indeterminate; the store must be reopened, and only then is it done or lost
    "deaf",  # a read is refused
    "flip",  # a read gives a flipped byte
    "crash before",
    "crash inside",
    "crash after",
)
CLOCKS: Final = frozenset({"skew", "old clock", "jump", "freeze", "drift", "off"})
PROCESS: Final = ("crash", "leave", "pause", "skew", "old clock", "jump", "freeze", "drift")
HANDLER: Final = ("raise", "fatal", "hang", "answer lost", "wrong type", "wrong shape", "cancelled")
DELIVERY: Final = ("duplicate", "late", "delay", "reorder", "abandon", "impatient")
FAULTS: Final = (*STORE, *PROCESS, *HANDLER, *DELIVERY)

ALWAYS: Final = ("storm", "storm", "unknown done", "unknown lost")
"""Faults that come every time in some seeds, alone, as long as faults come."""


Connection = AbstractAsyncContextManager[Store]


class Faults:
    """The faults of one seed. `active` is False before and after their time.

    Attributes:
        rates: fault → how often. fired: fault → how often it has come.
    """

    def __init__(self, random: Random, rates: Mapping[str, float]) -> None:
        self._random = random
        self.rates = dict(rates)
        self.active = False
        self.fired: Counter[str] = Counter()

    @staticmethod
    def draw(random: Random) -> dict[str, float]:
        """Which exist, then how often."""
        few = random.choice((0.1, 0.2, 0.4))
        shares = {fault: few if fault in STORE else 0.5 for fault in FAULTS}
        chosen = [fault for fault, share in shares.items() if random.random() < share]
        rates = {fault: random.choice((0.01, 0.05, 0.2)) for fault in chosen}
        return {random.choice(ALWAYS): 1.0} if random.random() < 0.09 else rates

    def hit(self, fault: str) -> bool:
        """Whether this fault comes now."""
        rate = self.rates.get(fault)
        if rate is None or not self.active or self._random.random() >= rate:
            return False
        self.fired[fault] += 1
        return True


class Ground:
    """What all stores of one world share: the real store, and who has written last.

    Args:
        join: opens the same store once more; where it is given, each process has a connection.
    """

    def __init__(self, store: Store, join: Callable[[], Connection] | None = None) -> None:
        self.store = store
        self._join = join
        self._joined: list[Connection] = []
        self.version = 0
        self.losses: Counter[bytes] = Counter()
        self.holders: dict[CID, tuple[int, int]] = {}
        self.attempts: Counter[CID] = Counter()
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()
        self.full_until = 0.0

    def joined(self) -> Store:
        """The store, by a way of one process's own if there is one."""
        if self._join is None:
            return self.store
        self._joined.append(self._join())
        opened: Store = at_once(self._joined[-1].__aenter__())
        return opened

    def close(self) -> None:
        """Close what processes have opened."""
        for connection in self._joined:
            at_once(connection.__aexit__(None, None, None))
        self._joined.clear()


class FaultyStore:
    """One process's way to the shared store, with the seed's faults on it.

    Args:
        ground: the store below. replans: re-plan a batch under the lock where others have written,
            as the SQLite store does, instead of answering with a conflict. A process with a
            connection of its own leaves that to the store.
    """

    def __init__(
        self,
        ground: Ground,
        loop: VirtualLoop,
        process: Process,
        faults: Faults,
        random: Random,
        *,
        replans: bool = False,
        news_s: float = 0.0,
    ) -> None:
        self.ground = ground
        self.store = ground.joined()
        self._shares = self.store is ground.store
        self.enlisted: list[int] = []
        self.crash: Callable[[], Awaitable[None]] | None = None
        self.lands = False
        """Whether a commit that is on its way when the process crashes still takes place."""
        self._flying: Batch | None = None
        self._loop = loop
        self._process = process
        self._faults = faults
        self._random = random
        self._replans = replans
        self._news_s = news_s
        self._news: deque[tuple[float, int]] = deque()
        """When which version will be heard of."""
        self._retired = False
        self._own = 0
        self._cuts = 0
        self._seen = 0
        self._cut_until = 0.0
        self._limbo: tuple[Batch, int] | None = None
        """What a failed fsync has left in doubt, and the ground's version then."""

    # --- writing

    async def commit(self, batch: Batch) -> Sequence[Result]:
        """The store's answer, unless the seed has other plans."""
        faults = self._faults
        self._flying = batch
        await self._pass()
        try:
            self._refuse(batch)
        except StoreError:
            self._flying = None
            raise
        await self._dies("crash before")
        if not self._replans and faults.hit("unknown late"):
            self._flying = None
            self._loop.spawn(None, self._land_later(batch))
            raise Indeterminate("the seed says: unknown, and it may land later")
        if self._random.random() < 0.5:
            await self._dies("crash inside")
        results = self._apply(batch)
        await self._dies("crash inside")
        await self._pass()
        await self._dies("crash after")
        if faults.hit("cut after"):
            self._cut()
            raise Indeterminate("the seed says: the connection was lost, and it is done")
        if faults.hit("unknown done"):
            raise Indeterminate("the seed says: unknown, but it is done")
        return results

    def _refuse(self, batch: Batch) -> None:
        """What keeps a commit from being applied now."""
        faults, now = self._faults, self._loop.time()
        self._connected()
        self._reopen()
        if faults.hit("unavailable"):
            raise Unavailable("the seed says: not now")
        if faults.hit("cut before"):
            self._cut()
            raise Unavailable("the seed says: the connection is lost")
        if faults.hit("disk full"):
            self.ground.full_until = now + self._random.random() * 3
        if faults.active and now < self.ground.full_until:
            raise DiskFull("the seed says: no room")
        if faults.hit("fsync"):
            self._limbo = batch, self.ground.version
            raise Indeterminate("the seed says: the sync has failed")
        if faults.hit("unknown lost"):
            raise Indeterminate("the seed says: unknown, and it was lost")

    def _cut(self) -> None:
        """No connection for a while; what others write meanwhile is not told."""
        self._cut_until = self._loop.time() + self._random.random() * self._random.choice((2, 12))
        self._cuts += 1

    def _connected(self) -> None:
        if self._faults.active and self._loop.time() < self._cut_until:
            raise Unavailable("the seed says: no connection")

    def _reopen(self) -> None:
        """After a failed sync: what is on the disk decides, unless others have written over it."""
        if self._limbo is None:
            return
        batch, version = self._limbo
        self._limbo = None
        if version == self.ground.version and self._random.random() < 0.5:
            self._apply(Batch(batch.members))
            self.ground.seen["fsync failed, and it was done"] += 1
        else:
            self.ground.seen["fsync failed, and it was lost"] += 1

    def fall(self) -> None:
        """The process crashes: what it had sent is lost, or lands all the same."""
        self._reopen()
        if self.lands and self._flying is not None:
            self._apply(Batch(self._flying.members))

    async def _dies(self, fault: str) -> None:
        if self.crash is not None and self._faults.hit(fault):
            await self.crash()

    async def _pass(self) -> None:
        """The way to the store takes time."""
        if self._faults.hit("slow"):
            await anyio.sleep(self._random.random() * 3)
        else:
            await anyio.sleep(self._random.random() * 0.004)

    async def _land_later(self, batch: Batch) -> None:
        """Not from a process that has gone: SQLite, which has no messages on their way, need not
        look for the claims of a worker that was struck off. PostgreSQL does."""
        await anyio.sleep(self._random.random() * 2)
        if not self._process.dead and not self._retired:
            self._apply(Batch(batch.members))

    def _apply(self, batch: Batch) -> Sequence[Result]:
        """The real commit, without the members that the storm takes."""
        self._flying = None
        moved = self._version() != self._seen
        replan = batch.replan if self._replans and self._shares and moved else None
        members = list(batch.members if replan is None else replan(self._head))
        lost = [isinstance(m, Commit) and self._faults.hit("storm") for m in members]
        kept = [member for member, gone in zip(members, lost, strict=True) if not gone]
        held = [self._held(member) for member in members]
        again = None if self._shares or any(lost) else self._under_lock(batch, members, held)
        answers = iter(at_once(self.store.commit(Batch(kept, again, batch.contended))))
        self.ground.version += 1
        self._own += 1
        self._seen = self._version()
        results = [Conflicted() if gone else next(answers) for gone in lost]
        for member, result, own in zip(members, results, held, strict=True):
            self._note(member, result)
            if not own and isinstance(result, Done):
                self.ground.problems.append(f"settled without its claim: {member}")
        return results

    def _under_lock(self, batch: Batch, members: list[Any], held: list[bool]) -> Any:
        """What the store calls where others have written: the members planned again, some of which
        have nothing left to settle."""
        if batch.replan is None:
            return None

        def replan(read: Callable[[CID], StoredHead | None]) -> Sequence[Any]:
            assert batch.replan is not None
            members[:] = batch.replan(lambda job: self._flipped(read(job)))
            held[:] = [self._held(member) for member in members]
            return members

        return replan

    def _held(self, member: Any) -> bool:
        """Whether what it settles is its own to settle, now."""
        ref: Ref | None = member.settles if isinstance(member, Commit) else None
        if ref is None or ref.worker is None:
            return True
        row = at_once(self.ground.store.task(ref.id))
        return row is not None and (row.worker, row.token) == (ref.worker, ref.token)

    def _head(self, job: CID) -> StoredHead | None:
        return self._flipped(at_once(self.ground.store.heads([job]))[job])

    def _fires(self, at: int) -> None:
        """No timer fires early; who has a wrong clock cannot know."""
        right = not self._faults.rates.keys() & CLOCKS
        if right and at > EPOCH_MS + int(self._loop.time() * 1_000):
            self.ground.problems.append(f"a timer fired at {at}, which is yet to come")

    def _note(self, member: Any, result: Result) -> None:
        """Count what must sometimes happen."""
        ground = self.ground
        if isinstance(result, Conflicted):
            ground.seen["conflict"] += 1
            if isinstance(member, Commit) and member.revision is not None:
                cause = codec.encode(codec.decode(member.revision)["delivery"])
                ground.losses[cause] += 1
                ground.seen["conflict on the third try"] += int(ground.losses[cause] == 3)
        elif isinstance(result, Duplicate):
            ground.seen["duplicate answered"] += 1
        elif isinstance(result, LeaseLost):
            ground.seen["fenced settle"] += int(isinstance(member, Commit))
        elif isinstance(member, Reap) and isinstance(result, Done):
            ground.seen["claims taken from the dead"] += result.value
        elif isinstance(member, Claim) and isinstance(result, Done):
            for claimed in result.value:
                self._holds(claimed)
        elif isinstance(member, Commit) and isinstance(result, Done):
            if member.fires is not None and member.revision is not None:
                self._fires(codec.decode(member.revision)["at"])
            for task in member.tasks:
                if task.worker is not None:
                    ground.holders[task.id] = (task.worker, 1)
                    ground.attempts[task.id] = 1
        elif isinstance(member, Park) and isinstance(result, Done):
            error = codec.decode(member.error)
            if error["name"] == ReducerFailed.__name__:
                ground.problems.append(f"parked, for a reducer raised: {error['detail']}")
        elif isinstance(result, Done):
            self._uncounts(member)

    def _uncounts(self, member: Any) -> None:
        """An attempt that was given back does not count; who tries again by hand counts anew."""
        if isinstance(member, Redrive):
            self.ground.attempts[member.id] = 0
        elif isinstance(member, Watch) or (isinstance(member, Defer) and member.back):
            self.ground.attempts[member.ref.id] -= 1

    def _holds(self, claimed: Claimed) -> None:
        """Tokens grow from claim to claim, and attempts are counted on."""
        ref: Ref = claimed.ref
        self.ground.attempts[ref.id] += 1
        if claimed.attempt != (attempt := self.ground.attempts[ref.id]):
            self.ground.problems.append(f"{ref.id}: attempt {claimed.attempt} is the {attempt}th")
            self.ground.attempts[ref.id] = claimed.attempt
        worker, token = self.ground.holders.get(ref.id, (None, 0))
        self.ground.seen["claimed by another"] += int(worker not in (None, ref.worker))
        if ref.token <= token:
            self.ground.problems.append(f"{ref.id}: token {ref.token} after {token}")
        assert ref.worker is not None
        self.ground.holders[ref.id] = (ref.worker, ref.token)

    # --- reading

    async def _read(self) -> Store:
        await anyio.sleep(self._random.random() * 0.002)
        self._connected()
        if self._faults.hit("deaf"):
            raise Unavailable("the seed says: not now")
        return self.store

    async def _whole(self) -> Store:
        """To read what a store hashes by itself before it gives it away."""
        store = await self._read()
        if self._faults.hit("flip"):
            raise Corrupt("the seed says: it does not hash to its CID")
        return store

    def _flipped(self, stored: StoredHead | None) -> StoredHead | None:
        """A head, and sometimes one byte of its state is not what was written."""
        if stored is None or not self._faults.hit("flip"):
            return stored
        state = bytearray(stored.state)
        state[self._random.randrange(len(state))] ^= 1 << self._random.randrange(8)
        return stored._replace(state=bytes(state))

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        """The heads of these jobs."""
        found = await (await self._read()).heads(jobs)
        return {job: self._flipped(stored) for job, stored in found.items()}

    async def delivery(self, job: CID, id: bytes) -> bytes | None:
        """The answer that this delivery got."""
        return await (await self._read()).delivery(job, id)

    async def timers(self, now: int, limit: int) -> Sequence[DueTimer]:
        """Timers due by now."""
        return await (await self._read()).timers(now, limit)

    async def next_timer(self) -> int | None:
        """The earliest timer."""
        return await (await self._read()).next_timer()

    async def next_task(self, kinds: Collection[Kind]) -> int | None:
        """The earliest unclaimed task."""
        return await (await self._read()).next_task(kinds)

    async def placed(self, kinds: Collection[Kind]) -> Sequence[Kind]:
        """The kinds that wait for these and needs beside."""
        return await (await self._read()).placed(kinds)

    async def queues(self, after: Mapping[Kind, str | None], limit: int) -> Sequence[Queue]:
        """Who waits."""
        return await (await self._read()).queues(after, limit)

    async def workers(self) -> Sequence[WorkerRow]:
        """Every worker that was not reaped."""
        return await (await self._read()).workers()

    async def task(self, id: CID) -> TaskRow | None:
        """The outbox row of that task."""
        return await (await self._read()).task(id)

    async def tasks(self, *, job: CID | None = None, parked: bool = False) -> Sequence[TaskRow]:
        """The outbox."""
        return await (await self._read()).tasks(job=job, parked=parked)

    async def revisions(
        self, job: CID, *, down_to: int = 0, limit: int | None = None
    ) -> Sequence[Packed]:
        """The chain, newest first."""
        return await (await self._whole()).revisions(job, down_to=down_to, limit=limit)

    async def vitals(self, now: int) -> Vitals:
        """How the store stands."""
        return await (await self._read()).vitals(now)

    async def log(
        self, *, after: int = 0, limit: int = 256, archived: bool = False
    ) -> Sequence[Logged]:
        """Revisions in order of their places."""
        return await (await self._whole()).log(after=after, limit=limit, archived=archived)

    async def archives(self) -> Sequence[CID]:
        """What holds the dropped revisions."""
        return await (await self._read()).archives()

    async def block(self, cid: CID) -> bytes | None:
        """The block of that CID."""
        return await (await self._whole()).block(cid)

    async def find(self, prefix: bytes, bits: int) -> Sequence[CID]:
        """Blocks whose digest begins so."""
        return await (await self._read()).find(prefix, bits)

    async def jobs(
        self,
        *,
        workflow: str | None = None,
        tag: str | None = None,
        after: CID | None = None,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs in order of creation."""
        store = await self._read()
        return await store.jobs(workflow=workflow, tag=tag, after=after, limit=limit)

    async def under(
        self,
        workflow: str,
        *prefix: Any,
        tag: str | None = None,
        after: CID | None = None,
        reverse: bool = False,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs whose key begins with these parts, in order of key."""
        store = await self._read()
        return await store.under(
            workflow, *prefix, tag=tag, after=after, reverse=reverse, limit=limit
        )

    def version(self) -> int:
        """Another number once the news is here that another process has written."""
        now, version = self._loop.time(), self._version()
        if not self._news or self._news[-1][1] != version:
            self._news.append((now + self._news_s, version))
        while len(self._news) > 1 and self._news[1][0] <= now:
            self._news.popleft()
        return self._news[0][1]

    def _version(self) -> int:
        """What `version` will say."""
        foreign = self.ground.version if self._shares else self.store.version()
        return foreign - self._own * self._shares + self._cuts

    def changed(self, since: int) -> Collection[CID] | None:
        """Nobody knows which."""
        return None

    # --- workers

    def enlist(self, worker: int | None = None) -> int:
        """A worker's lock for life."""
        number = self.ground.store.enlist(worker)
        self.enlisted.append(number)
        return number

    def retire(self, worker: int) -> None:
        """Let go of it."""
        self._retired = True
        self.ground.store.retire(worker)


def at_once(coroutine: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the store below must not wait")
