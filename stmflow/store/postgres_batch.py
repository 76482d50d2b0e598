"""One batch inside one PostgreSQL transaction: hold, check member by member, write all at once.

What the members read or write is held first, in one pass in job order, then the outbox rows that
they settle, in order of place; claims skip what others hold. So nobody waits in a circle. The
members are then checked one by one in memory, exactly as the memory store does, and what they write
is staged and sent as one wide statement. No driver is imported here; the connection is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.schema import thaw
from stmflow.store import (
    Beat,
    Claim,
    Claimed,
    Closed,
    Commit,
    Conflicted,
    Defer,
    Disown,
    Done,
    Drop,
    Duplicate,
    HeadWrite,
    LeaseLost,
    Member,
    NewTask,
    Park,
    Reap,
    Redrive,
    Ref,
    Result,
    Revive,
    Sweep,
    Watch,
)
from stmflow.store import postgres_retention as retention
from stmflow.store.packing import pack, pack_rows
from stmflow.store.postgres_statements import (
    BEAT,
    BURY,
    CLAIM,
    CLAIM_OF,
    DISOWN,
    HOLD,
    PUT,
    REAP,
    SWEEP,
    UNWATCH,
    WAKE,
    WATCH,
    WORKERS,
    YOUNGEST,
)
from stmflow.store.rows import PLACES, arranged, delivery_hash, job_hash, stranger

LOOK, READ, WRITE = 0, 1, 2
"""How a job is held, as `stmflow.hold` takes it."""
_TIMER, _DELIVERY, _WATCHED = 2, 3, 4
"""What a row of its answer is, beside jobs and tasks."""


def needs(members: Sequence[Member]) -> dict[CID, int]:
    """Every job that these members touch, and how it must be held."""
    found: dict[CID, int] = {}
    for member in members:
        if type(member) is Commit:
            for job, _ in member.reads:
                found.setdefault(job, READ)
            for job in _written(member):
                found[job] = WRITE
        elif isinstance(member, (Defer, Park, Watch)):
            found.setdefault(member.ref.job, LOOK)
            for job, _ in () if isinstance(member, Defer) else member.reads:
                found.setdefault(job, READ)
        elif isinstance(member, Redrive):
            found.setdefault(member.job, LOOK)
        elif isinstance(member, Disown):
            for job, _ in member.keep:
                found.setdefault(job, LOOK)
    for member in members:  # a job looked at by one and read by another is held to read
        if isinstance(member, (Commit, Park, Watch)):
            for job, _ in member.reads:
                found[job] = max(found[job], READ)
    return found


def widen(wanted: dict[CID, int], members: Sequence[Member]) -> None:
    """Add what these members need to what is wanted."""
    for job, mode in needs(members).items():
        wanted[job] = max(mode, wanted.get(job, mode))


def _written(commit: Commit) -> Iterator[CID]:
    """Jobs whose head, rows or deliveries a commit writes: all of them are held by their heads."""
    for write in commit.writes:
        yield write.job
    for task in commit.tasks:
        yield task.job
    for timer in commit.timers:
        yield timer.job
    for job, _, _ in commit.closed:
        yield job
    if commit.settles is not None:
        yield commit.settles.job
    if commit.fires is not None:
        yield commit.fires[0]
    if commit.delivery is not None:
        yield commit.delivery.job


class _Named:
    """The rows that members name and the deliveries that they bring, as `stmflow.hold` takes them:
    by the place of their job among those held. Each is asked for once in a batch."""

    def __init__(
        self, seen: set[tuple[Any, ...]], at: dict[CID, int], members: Sequence[Member]
    ) -> None:
        self.tasks: dict[tuple[CID, int, bool], tuple[int, int]] = {}
        self.timers: dict[tuple[CID, int, bool], tuple[int, int]] = {}
        self.deliveries: dict[tuple[CID, bytes], tuple[int, bytes]] = {}
        self._seen = seen
        self._at = at
        for member in members:
            if type(member) is Commit:
                self._commit(member)
            elif isinstance(member, (Defer, Park, Watch)):
                timer = isinstance(member, Park) and member.timer
                self._row(member.ref.job, member.ref.n, timer=timer)
            elif isinstance(member, Redrive):
                self._row(member.job, member.n, timer=False)
                self._row(member.job, member.n, timer=True)

    def any(self) -> bool:
        """Whether there is anything to ask for."""
        return bool(self.tasks or self.timers or self.deliveries)

    def _commit(self, commit: Commit) -> None:
        for job, n, timer in commit.closed:
            self._row(job, n, timer=timer)
        if commit.settles is not None:
            self._row(commit.settles.job, commit.settles.n, timer=False)
        if commit.fires is not None:
            self._row(*commit.fires[:2], timer=True)
        if (row := commit.delivery) is not None:
            key = (row.job, delivery_hash(row.id))
            if key not in self._seen:
                self._seen.add(key)
                self.deliveries[key] = (self._at[row.job], key[1])

    def _row(self, job: CID, n: int, *, timer: bool) -> None:
        key = (job, n, timer)
        if key not in self._seen:
            self._seen.add(key)
            (self.timers if timer else self.tasks)[key] = (self._at[job], n)


@dataclass(slots=True)
class _Job:
    """A job as it is now, staged writes included."""

    nr: int | None
    revision: CID | None
    head: int
    created: tuple[Any, ...] | None = None
    """Hash, id, workflow and key of a job whose row is not written yet."""
    staged: tuple[Any, ...] | None = None


@dataclass(slots=True)
class _Row:
    """An outbox row as it is now, staged writes included."""

    id: bytes
    due: int
    attempt: int
    token: int
    worker: int | None
    parked: bool
    error: bytes | None
    outcome: bytes | None
    new: NewTask | None = None
    """Where the whole row is still to be written."""
    dirty: bool = False


class BatchWriter:
    """Applies the members of one batch on an open transaction.

    Args:
        connection: after BEGIN.
        rows: gives numbers for revisions.
        lost: whether a worker of this process is without its owner lock.
        lock: the first number of the workers' advisory locks.
    """

    def __init__(
        self, connection: Any, rows: Iterator[int], lost: Callable[[int], bool], lock: int
    ) -> None:
        self._db = connection
        self._rows = rows
        self._lost_lock = lost
        self._lock = lock
        self._jobs: dict[CID, _Job] = {}
        self._modes: dict[CID, int] = {}
        self._spare: list[int] = []  # numbers for jobs in order of their creation, least last
        self._seen = set[tuple[Any, ...]]()  # rows and deliveries that have been asked for
        self._tasks: dict[int, _Row | None] = {}
        self._timers: dict[int, _Row | None] = {}
        self._no_tasks: set[int] = set()
        self._no_timers: set[int] = set()
        self._answers: dict[tuple[int, bytes], bytes] = {}
        self._revisions: list[tuple[int, bytes, bytes, bytes]] = []
        self._entries: list[bytes] = []
        self._deliveries: list[tuple[int, bytes, bytes, int]] = []
        self.blocks = 0
        """How many blocks were written."""
        self.changed = set[CID]()
        """The jobs that have a new head."""
        self.wrote = False
        """Whether anything was."""
        self._watched = False
        self._moved = set[CID]()  # jobs of which nobody who waits for them has been told
        self._landed: list[tuple[int, Commit]] = []  # which of the members are staged
        self._waking = set[int]()

    # --- before the members

    async def hold(self, wanted: dict[CID, int], members: Sequence[Member]) -> None:
        """Hold these jobs, in job order, and learn their heads, the outbox rows that members name
        and the answers to their deliveries. What is held already stays as it is."""
        jobs = sorted(wanted, key=lambda job: job.bytes)
        if not jobs:
            return
        modes = [mode if self._modes.get(job, -1) < (mode := wanted[job]) else LOOK for job in jobs]
        named = _Named(self._seen, {job: at for at, job in enumerate(jobs, 1)}, members)
        if self._jobs.keys() >= wanted.keys() and not any(modes) and not named.any():
            return
        rows = await self._db.fetch(
            HOLD,
            [job_hash(job) for job in jobs],
            [job.bytes for job in jobs],
            modes,
            *_columns(list(named.tasks.values()), 2),
            *_columns(list(named.timers.values()), 2),
            *_columns(list(named.deliveries.values()), 2),
        )
        for job, mode, (_, nr, revision, head, *_) in zip(jobs, modes, rows, strict=False):
            self._learn(job, mode, nr, revision, head)
        self._spare.sort(reverse=True)
        for job, n, timer in (*named.tasks, *named.timers):
            if (place := self._place(job, n)) != -1:
                (self._timers if timer else self._tasks)[place] = None
        for kind, place, *fields in rows[len(jobs) :]:
            if kind == _WATCHED:
                self._watched = True
            elif kind == _DELIVERY:
                self._answers[(place, fields[0])] = fields[-1]
            else:
                (self._timers if kind == _TIMER else self._tasks)[place] = _Row(*fields)

    def _learn(
        self, job: CID, mode: int, nr: int | None, revision: bytes | None, head: int
    ) -> None:
        if mode == LOOK and job in self._jobs:
            return
        self._modes[job] = max(mode, self._modes.get(job, LOOK))
        if revision is not None:
            self._jobs[job] = _Job(nr, CID.parse(revision), head)
        else:
            self._jobs[job] = _Job(None, None, 0)
            if nr is not None:
                self._spare.append(nr)

    def holds(self, wanted: dict[CID, int]) -> bool:
        """Whether what is held is enough for that."""
        return all(self._modes.get(job, -1) >= mode for job, mode in wanted.items())

    def moved(self, members: Sequence[Member]) -> bool:
        """Whether a head that a member takes for given was moved by somebody outside the batch."""
        written: set[CID] = set()
        for member in members:
            if not isinstance(member, (Commit, Park, Watch)):
                continue
            expected = _expected(member) if isinstance(member, Commit) else member.reads
            for job, revision in expected:
                held = self._jobs.get(job)
                if job not in written and (held is None or held.revision != revision):
                    return True
            if isinstance(member, Commit):
                written.update(write.job for write in member.writes)
        return False

    # --- the members

    async def apply(self, members: Sequence[Member]) -> list[Result]:
        """The results, one for each member, all of it written but not committed."""
        results: list[Result] = []
        for at, member in enumerate(members):
            if type(member) is Commit:
                results.append(self._commit(member))
                if type(results[-1]) is Done:
                    self._landed.append((at, member))
            elif isinstance(member, (Defer, Park, Redrive)):
                results.append(_STAGED[type(member)](self, member))
            else:
                await self.flush()
                results.append(await _SENT[type(member)](self, member))
        await self.flush()
        for at in self._waking:
            results[at] = Done(True)
        return results

    async def flush(self) -> None:
        """Write what is staged, in one statement."""
        created = [job for job in self._jobs.values() if job.staged and job.created]
        moved = [job for job in self._jobs.values() if job.staged and not job.created]
        tasks = [(place, row) for place, row in self._tasks.items() if row and row.dirty]
        timers = [(place, row) for place, row in self._timers.items() if row and row.dirty]
        if not (
            self._revisions or created or moved or tasks or timers
            or self._no_tasks or self._no_timers or self._deliveries
        ):  # fmt: skip
            return
        new = [(place, row, row.new) for place, row in tasks if row.new is not None]
        kept = [(place, row) for place, row in tasks if row.new is None]
        self.wrote = True
        await self._db.execute(
            PUT,
            *_columns(self._revisions, 4),
            b"".join(self._entries),
            *_columns([(*job.staged, *job.created) for job in created], 13),  # type: ignore[misc]
            *_columns([job.staged for job in moved if job.staged], 9),
            list(self._no_tasks),
            list(self._no_timers),
            *_columns([(place, *_whole(task), *_state(row)) for place, row, task in new], 15),
            *_columns([(p, row.id, row.due, row.parked, row.error) for p, row in timers], 5),
            *_columns([(place, *_state(row)) for place, row in kept], 8),
            *_columns(self._deliveries, 4),
        )
        for job in (*created, *moved):
            job.staged = job.created = None
        for _, row in (*tasks, *timers):
            row.dirty, row.new = False, None
        if self._watched:
            closed = await self._db.fetch(UNWATCH, list(self._no_tasks))
            jobs = [job.bytes for job in self._moved]
            self._wake([*closed, *await self._db.fetch(WAKE, jobs)])
        self._moved.clear()
        self._landed.clear()
        self._no_tasks, self._no_timers = set(), set()
        self._revisions, self._entries, self._deliveries = [], [], []

    def _wake(self, watches: Sequence[tuple[int, bytes]]) -> None:
        """Which of the staged commits were the first to wake a row, by these rows' watches."""
        waiting: dict[int, set[bytes]] = {}
        for row, job_id in watches:
            waiting.setdefault(row, set()).add(job_id)
        for at, commit in self._landed:
            for job, n, _ in commit.closed:
                waiting.pop(self._place(job, n), None)
            jobs = {write.job.bytes for write in commit.writes}
            for place in [place for place, watched in waiting.items() if watched & jobs]:
                del waiting[place]
                self._waking.add(at)

    # --- commits

    def _commit(self, commit: Commit) -> Result:
        refusal = self._refuse(commit)
        if refusal is not None:
            return refusal
        if commit.writes:
            self._write(commit)
        for job, n, timer in commit.closed:
            self._close(self._place(job, n), timer=timer)
        for task in commit.tasks:
            self._arm(task)
        for timer_row in commit.timers:
            place = self._place(timer_row.job, timer_row.n)
            self._no_timers.discard(place)
            self._timers[place] = _Row(
                timer_row.id.bytes, timer_row.due, 0, 0, None, False, None, None, dirty=True
            )
        if (row := commit.delivery) is not None:
            place, short = self._addresses(row.job)[-1], delivery_hash(row.id)
            self._answers[(place, short)] = row.answer
            self._deliveries.append((place, short, row.answer, row.until))
        return Done()

    def _refuse(self, commit: Commit) -> Result | None:
        if (row := commit.delivery) is not None:
            short = delivery_hash(row.id)
            for place in self._addresses(row.job):
                if (place, short) in self._answers:
                    return Duplicate(self._answers[(place, short)])
        if commit.settles is not None and (lost := self._lost(commit.settles)) is not None:
            return lost
        if commit.fires is not None and not self._open_timer(*commit.fires):
            return Closed()
        return self._conflict(_expected(commit))

    def _conflict(self, expected: Sequence[tuple[CID, CID | None]]) -> Result | None:
        moved = [job for job, revision in expected if self._revision(job) != revision]
        return Conflicted(moved) if moved else None

    def _revision(self, job: CID) -> CID | None:
        return self._jobs[job].revision

    def _place(self, job: CID, n: int) -> int:
        nr = self._jobs[job].nr
        return -1 if nr is None else nr * PLACES + n

    def _addresses(self, job: CID) -> list[int]:
        """Where that job's deliveries may lie; the last is where a new one goes."""
        held = self._jobs[job]
        if held.nr is None:
            return [stranger(job)]
        return [stranger(job), held.nr]

    def _write(self, commit: Commit) -> None:
        nr = next(self._rows)
        blocks = [commit.revision, *(write.head.state for write in commit.writes), *commit.blocks]
        prev = [self._head(write, nr, place) for place, write in enumerate(commit.writes)]
        self._append(nr, blocks, prev, [write.head.open for write in commit.writes])  # type: ignore[arg-type]

    def _append(
        self, nr: int, blocks: Sequence[bytes], prev: Sequence[int], opens: Sequence[bytes]
    ) -> None:
        """Stage a row of the log, and its entries in the CID index."""
        self._revisions.append((nr, pack_rows(prev), pack(opens), pack(blocks)))
        row = nr.to_bytes(8, "big")
        self._entries += [hashlib.sha256(block).digest()[:8] + row for block in blocks]
        self.blocks += len(blocks)

    def _head(self, write: HeadWrite, nr: int, place: int) -> int:
        """Stage a job's new head; the row of its previous revision."""
        job, head = self._jobs[write.job], write.head
        before, job.head = job.head, nr
        if job.revision is None:
            key = codec.encode(thaw(head.key))
            job.nr = self._spare.pop()
            job.created = (job_hash(write.job), write.job.bytes, head.workflow, key)
        job.revision = head.revision
        self.changed.add(write.job)
        self._moved.add(write.job)
        job.staged = (
            job.nr,
            head.version,
            head.revision.bytes,
            nr,
            place,
            head.seq,
            head.epoch,
            head.at,
            head.tag.encode(),
        )
        return before

    def _arm(self, task: NewTask) -> None:
        place = self._place(task.job, task.n)
        claimed = int(task.worker is not None)
        self._no_tasks.discard(place)
        self._tasks[place] = _Row(
            task.id.bytes, task.at, claimed, claimed, task.worker, False, None, None, task, True
        )

    def _close(self, place: int, *, timer: bool) -> None:
        if timer:
            self._timers[place] = None
            self._no_timers.add(place)
        else:
            self._tasks[place] = None
            self._no_tasks.add(place)

    def _lost(self, ref: Ref, *, timer: bool = False) -> Result | None:
        """Why that row is not the caller's to settle, or None."""
        row = (self._timers if timer else self._tasks).get(self._place(ref.job, ref.n))
        if row is None or row.id != ref.id.bytes:
            return Closed()
        if ref.worker is None:
            return None if timer or (row.parked and row.token == ref.token) else LeaseLost()
        if row.parked or row.worker != ref.worker or row.token != ref.token:
            return LeaseLost()
        return None

    def _open_timer(self, job: CID, n: int, id: CID) -> bool:
        row = self._timers.get(self._place(job, n))
        return row is not None and row.id == id.bytes

    # --- single rows

    def _defer(self, defer: Defer) -> Result:
        if (lost := self._lost(defer.ref)) is not None:
            return lost
        row = self._tasks[self._place(defer.ref.job, defer.ref.n)]
        assert row is not None
        row.worker, row.due, row.error = None, defer.due, defer.error or row.error
        row.attempt -= int(defer.back)
        row.dirty = True
        return Done()

    async def _watch(self, watch: Watch) -> Result:
        refusal = self._lost(watch.ref) or self._conflict(watch.reads)
        if refusal is not None:
            return refusal
        place = self._place(watch.ref.job, watch.ref.n)
        row = self._tasks[place]
        assert row is not None
        row.worker, row.due, row.dirty = None, watch.until, True
        row.attempt -= 1
        jobs = {job.bytes: None for job, _ in watch.reads}
        await self._db.execute(WATCH, place, list(jobs))
        self._watched = True
        return Done()

    def _park(self, park: Park) -> Result:
        refusal = self._lost(park.ref, timer=park.timer) or self._conflict(park.reads)
        if refusal is not None:
            return refusal
        rows = self._timers if park.timer else self._tasks
        row = rows[self._place(park.ref.job, park.ref.n)]
        assert row is not None
        row.worker, row.parked, row.error, row.outcome = None, True, park.error, park.outcome
        row.dirty = True
        return Done()

    def _redrive(self, redrive: Redrive) -> Result:
        place = self._place(redrive.job, redrive.n)
        row = self._tasks.get(place) or self._timers.get(place)
        if row is None or row.id != redrive.id.bytes or not row.parked:
            return Closed()
        row.parked, row.due, row.attempt, row.outcome = False, redrive.due, 0, None
        row.dirty = True
        return Done()

    # --- many rows (staged ones are written before each)

    async def _claim(self, claim: Claim) -> Result:
        """Take due tasks; none for a worker that is without its lock."""
        if self._lost_lock(claim.worker):
            return Done([])
        most: dict[tuple[str, int, str, str | None], int] = {}
        for want in claim.wants:
            whose = (*want[:3], want.tenant)
            most[whose] = most.get(whose, 0) + want.limit
        anybody = [whose for whose in most if whose[3] is None]
        somebody = [whose for whose in most if whose[3] is not None]
        rows: list[Any] = []
        for sql, wanted in ((CLAIM, anybody), (CLAIM_OF, somebody)):
            if wanted:
                rows += await self._db.fetch(
                    YOUNGEST[sql] if claim.youngest else sql,
                    claim.worker,
                    [workflow for workflow, *_ in wanted],
                    [version for _, version, *_ in wanted],
                    [tag.encode() for _, _, tag, _ in wanted],
                    [most[whose] for whose in wanted],
                    claim.now,
                    [(tenant or "").encode() for *_, tenant in wanted],
                )
        turn = {whose: n for n, whose in enumerate(most)}
        taken: list[tuple[int, int, Claimed]] = []
        for place, id, workflow, version, tag, block, tenant, at, due, attempt, token, job in rows:
            kind = (workflow, version, tag.decode())
            ref = Ref(CID.parse(job), place % PLACES, CID.parse(id), claim.worker, token)
            claimed = Claimed(ref, block, *kind, tenant.decode(), at, attempt)
            mine = turn.get((*kind, claimed.tenant), turn.get((*kind, None), 0))
            taken.append((mine, -due if claim.youngest else due, claimed))
            if (row := self._tasks.get(place)) is not None:
                row.worker, row.token, row.attempt = claim.worker, token, attempt
        self.wrote |= bool(taken)
        taken.sort(key=lambda one: one[:2])
        return Done([claimed for _, _, claimed in taken])

    async def _beat(self, beat: Beat) -> Result:
        await self._db.execute(BEAT, beat.worker, beat.until)
        return Done()

    async def _reap(self, reap: Reap) -> Result:
        """The locks taken here are kept until the commit: nobody comes back to life meanwhile."""
        workers = await self._db.fetch(WORKERS, self._lock)
        gone = [nr for nr, _, gone in workers if gone]
        late = [nr for nr, until, _ in workers if until is not None and until < reap.now]
        freed = 0
        if gone or late:
            freed = self._free(await self._db.fetch(REAP, [*gone, *late]))
        if gone:
            await self._db.execute(BURY, gone)
        return Done(freed)

    async def _disown(self, disown: Disown) -> Result:
        keep = [self._place(job, n) for job, n in disown.keep]
        return Done(self._free(await self._db.fetch(DISOWN, disown.worker, keep)))

    def _free(self, places: Sequence[Any]) -> int:
        for (place,) in places:
            if (row := self._tasks.get(place)) is not None:
                row.worker = None
        self.wrote |= bool(places)
        return len(places)

    async def _sweep(self, sweep: Sweep) -> Result:
        return Done(await self._db.fetchval(SWEEP, sweep.now, sweep.limit))

    # --- what leaves the log, and comes back

    async def _drop(self, drop: Drop) -> Result:
        dropped = await retention.drop(self._db, drop, self._lock)
        if dropped is None:
            return Conflicted()
        self.wrote |= bool(dropped.revisions)
        return Done(dropped)

    async def _revive(self, revive: Revive) -> Result:
        blocks = arranged(revive.packed)
        jobs = [write["job"] for write in codec.decode(blocks[0])["writes"]]
        opens: Sequence[bytes | None] = [None] * len(jobs)
        if await retention.known(self._db):
            opens = await retention.revivable(self._db, revive.packed.cid, jobs)
        back = [(job, at) for at, job in enumerate(jobs) if opens[at] is not None]
        if revive.job not in [job for job, _ in back]:
            return Conflicted([revive.job])
        nr = next(self._rows)
        self._append(nr, blocks, [0] * len(jobs), [open or b"" for open in opens])
        await self.flush()
        await retention.come_back(self._db, nr, back)
        return Done()


def _expected(commit: Commit) -> list[tuple[CID, CID | None]]:
    return [*commit.reads, *((write.job, write.prev) for write in commit.writes)]


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[Sequence[Any]]:
    """Rows as so many columns."""
    return list(zip(*rows, strict=True)) if rows else [()] * count


def _whole(task: NewTask) -> tuple[Any, ...]:
    return (
        task.id.bytes,
        task.workflow,
        task.version,
        task.tag.encode(),
        task.tenant.encode(),
        task.block,
        task.at,
    )


def _state(row: _Row) -> tuple[Any, ...]:
    return (row.due, row.attempt, row.token, row.worker, row.parked, row.error, row.outcome)


_STAGED: dict[type, Callable[[BatchWriter, Any], Result]] = {
    Defer: BatchWriter._defer,
    Park: BatchWriter._park,
    Redrive: BatchWriter._redrive,
}
_SENT: dict[type, Callable[[BatchWriter, Any], Awaitable[Result]]] = {
    Claim: BatchWriter._claim,
    Beat: BatchWriter._beat,
    Reap: BatchWriter._reap,
    Disown: BatchWriter._disown,
    Sweep: BatchWriter._sweep,
    Watch: BatchWriter._watch,
    Drop: BatchWriter._drop,
    Revive: BatchWriter._revive,
}
