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
    Sweep,
)
from stmflow.store.packing import pack, pack_rows
from stmflow.store.rows import PLACES, delivery_hash, job_hash, stranger

LOOK, READ, WRITE = 0, 1, 2
"""How a job is held, as `stmflow.hold` takes it."""

_HOLD = "SELECT nr, revision, head FROM stmflow.hold($1::bigint[], $2::bytea[], $3::integer[])"
_TASKS = (
    "SELECT place, id, due, attempt, token, worker, parked, error, outcome FROM stmflow.task"
    " WHERE place = ANY($1::bigint[]) ORDER BY place FOR UPDATE"
)
_TIMERS = (
    "SELECT place, id, due, 0, 0, NULL, parked, error, NULL FROM stmflow.timer"
    " WHERE place = ANY($1::bigint[]) ORDER BY place FOR UPDATE"
)
_DELIVERIES = (
    "SELECT d.job, d.hash, d.answer FROM unnest($1::bigint[], $2::bytea[]) q (job, hash)"
    " JOIN stmflow.delivery d ON d.job = q.job AND d.hash = q.hash"
)
_PUT = """
WITH revisions AS (
    INSERT INTO stmflow.revision (nr, prev, open, data)
    SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[])
), entries AS (
    INSERT INTO stmflow.unsealed (entries) SELECT $5::bytea WHERE length($5::bytea) > 0
), created AS (
    INSERT INTO stmflow.job
        (nr, version, revision, head, place, seq, epoch, at, tag, hash, id, workflow, key)
    SELECT * FROM unnest($6::bigint[], $7::bigint[], $8::bytea[], $9::bigint[], $10::integer[],
        $11::bigint[], $12::bigint[], $13::bigint[], $14::bytea[], $15::bigint[], $16::bytea[],
        $17::text[], $18::bytea[])
), moved AS (
    UPDATE stmflow.job j SET version = q.version, revision = q.revision, head = q.head,
        place = q.place, seq = q.seq, epoch = q.epoch, at = q.at, tag = q.tag
    FROM unnest($19::bigint[], $20::bigint[], $21::bytea[], $22::bigint[], $23::integer[],
        $24::bigint[], $25::bigint[], $26::bigint[], $27::bytea[])
        q (nr, version, revision, head, place, seq, epoch, at, tag)
    WHERE j.nr = q.nr
), no_tasks AS (
    DELETE FROM stmflow.task WHERE place = ANY($28::bigint[])
), no_timers AS (
    DELETE FROM stmflow.timer WHERE place = ANY($29::bigint[])
), tasks AS (
    INSERT INTO stmflow.task AS t
        (place, id, workflow, version, tag, tenant, block, at,
         due, attempt, token, worker, parked, error, outcome)
    SELECT * FROM unnest($30::bigint[], $31::bytea[], $32::text[], $33::bigint[], $34::bytea[],
        $35::bytea[], $36::bytea[], $37::bigint[], $38::bigint[], $39::bigint[], $40::bigint[],
        $41::integer[], $42::boolean[], $43::bytea[], $44::bytea[])
    ON CONFLICT (place) DO UPDATE SET id = excluded.id, workflow = excluded.workflow,
        version = excluded.version, tag = excluded.tag, tenant = excluded.tenant,
        block = excluded.block, at = excluded.at, due = excluded.due, attempt = excluded.attempt,
        token = excluded.token, worker = excluded.worker, parked = excluded.parked,
        error = excluded.error, outcome = excluded.outcome
), timers AS (
    INSERT INTO stmflow.timer (place, id, due, parked, error)
    SELECT * FROM unnest($45::bigint[], $46::bytea[], $47::bigint[], $48::boolean[], $49::bytea[])
    ON CONFLICT (place) DO UPDATE SET id = excluded.id, due = excluded.due,
        parked = excluded.parked, error = excluded.error
), given_back AS (
    UPDATE stmflow.task t SET due = q.due, attempt = q.attempt, token = q.token, worker = q.worker,
        parked = q.parked, error = q.error, outcome = q.outcome
    FROM unnest($50::bigint[], $51::bigint[], $52::bigint[], $53::bigint[], $54::integer[],
        $55::boolean[], $56::bytea[], $57::bytea[])
        q (place, due, attempt, token, worker, parked, error, outcome)
    WHERE t.place = q.place
)
INSERT INTO stmflow.delivery (job, hash, answer, until)
SELECT * FROM unnest($58::bigint[], $59::bytea[], $60::bytea[], $61::bigint[])
"""
_CLAIM = """
WITH due AS (
    SELECT t.place FROM unnest($2::text[], $3::bigint[], $4::bytea[], $5::bigint[], $7::bytea[])
        q (workflow, version, tag, most, tenant),
    LATERAL (
        SELECT place FROM stmflow.task
        WHERE workflow = q.workflow AND version = q.version AND tag = q.tag
            AND worker IS NULL AND NOT parked AND due <= $6
        ORDER BY due LIMIT q.most FOR UPDATE SKIP LOCKED
    ) t
)
UPDATE stmflow.task t SET worker = $1, token = t.token + 1, attempt = t.attempt + 1
FROM due, stmflow.job j WHERE t.place = due.place AND j.nr = t.place / 1048576
RETURNING t.place, t.id, t.workflow, t.version, t.tag, t.block, t.tenant, t.at, t.due, t.attempt,
    t.token, j.id AS job
"""
_CLAIM_OF = _CLAIM.replace(
    "due <= $6",
    "due <= $6 AND tenant = q.tenant"
    " AND substring(tenant FROM 1 FOR 512) = substring(q.tenant FROM 1 FOR 512)",
)
_BEAT = (
    "INSERT INTO stmflow.worker AS w (nr, until) VALUES ($1, $2)"
    " ON CONFLICT (nr) DO UPDATE SET until = greatest(w.until, excluded.until)"
)
# A claim without a worker's row: its commit landed after that worker had been reaped.
_WORKERS = """
SELECT w.nr, w.until, pg_try_advisory_xact_lock($1, w.nr) AS gone FROM (
    SELECT nr, until FROM stmflow.worker
    UNION ALL
    SELECT DISTINCT worker, NULL::bigint FROM stmflow.task t WHERE worker IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM stmflow.worker w WHERE w.nr = t.worker)
) w
"""
_REAP = """
UPDATE stmflow.task SET worker = NULL WHERE place IN (
    SELECT place FROM stmflow.task WHERE worker = ANY ($1::integer[])
    ORDER BY place FOR UPDATE SKIP LOCKED
) RETURNING place
"""
_BURY = (
    "DELETE FROM stmflow.worker w WHERE nr = ANY ($1::integer[])"
    " AND NOT EXISTS (SELECT 1 FROM stmflow.task t WHERE t.worker = w.nr)"
)
_DISOWN = """
UPDATE stmflow.task SET worker = NULL WHERE place IN (
    SELECT place FROM stmflow.task WHERE worker = $1 AND place <> ALL ($2::bigint[])
    ORDER BY place FOR UPDATE SKIP LOCKED
) RETURNING place
"""
_SWEEP = """
WITH gone AS (
    DELETE FROM stmflow.delivery WHERE (job, hash) IN (
        SELECT job, hash FROM stmflow.delivery WHERE until < $1
        ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1
) SELECT count(*) FROM gone
"""


def needs(members: Sequence[Member]) -> dict[CID, int]:
    """Every job that these members touch, and how it must be held."""
    found: dict[CID, int] = {}
    for member in members:
        if type(member) is Commit:
            for job, _ in member.reads:
                found.setdefault(job, READ)
            for job in _written(member):
                found[job] = WRITE
        elif isinstance(member, (Defer, Park)):
            found.setdefault(member.ref.job, LOOK)
        elif isinstance(member, Redrive):
            found.setdefault(member.job, LOOK)
        elif isinstance(member, Disown):
            for job, _ in member.keep:
                found.setdefault(job, LOOK)
    for member in members:  # a job looked at by one and read by another is held to read
        if type(member) is Commit:
            for job, _ in member.reads:
                found[job] = max(found[job], READ)
    return found


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
        self._spare: list[int] = []  # numbers for jobs that are created here, in that order
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
        self.wrote = False
        """Whether anything was."""

    # --- before the members

    async def hold(self, wanted: dict[CID, int]) -> None:
        """Hold these jobs, in job order, and learn their heads."""
        jobs = sorted(wanted, key=lambda job: job.bytes)
        if not jobs:
            return
        found = await self._db.fetch(
            _HOLD,
            [job_hash(job) for job in jobs],
            [job.bytes for job in jobs],
            [wanted[job] for job in jobs],
        )
        self._modes = wanted
        self._jobs, self._spare = {}, []
        for job, (nr, revision, head) in zip(jobs, found, strict=True):
            if revision is not None:
                self._jobs[job] = _Job(nr, CID.parse(revision), head)
            else:
                self._jobs[job] = _Job(None, None, 0)
                if nr is not None:
                    self._spare.append(nr)
        self._spare.reverse()

    def holds(self, wanted: dict[CID, int]) -> bool:
        """Whether what is held is enough for that."""
        return all(self._modes.get(job, -1) >= mode for job, mode in wanted.items())

    def moved(self, members: Sequence[Member]) -> bool:
        """Whether a head that a member takes for given was moved by somebody outside the batch."""
        written: set[CID] = set()
        for member in members:
            if type(member) is Commit:
                for job, revision in _expected(member):
                    held = self._jobs.get(job)
                    if job not in written and (held is None or held.revision != revision):
                        return True
                written.update(write.job for write in member.writes)
        return False

    async def _fetch(self, members: Sequence[Member]) -> None:
        """Lock the outbox rows that members name, and look up their deliveries."""
        tasks, timers = set[int](), set[int]()
        deliveries: list[tuple[int, bytes]] = []
        for member in members:
            if type(member) is Commit:
                self._named(member, tasks, timers)
                if (row := member.delivery) is not None:
                    short = delivery_hash(row.id)
                    deliveries += [(place, short) for place in self._addresses(row.job)]
            elif isinstance(member, (Defer, Park)):
                timer = isinstance(member, Park) and member.timer
                (timers if timer else tasks).add(self._place(member.ref.job, member.ref.n))
            elif isinstance(member, Redrive):
                tasks.add(self._place(member.job, member.n))
                timers.add(self._place(member.job, member.n))
        for places, sql, rows in (
            (tasks, _TASKS, self._tasks),
            (timers, _TIMERS, self._timers),
        ):
            places.discard(-1)
            if places:
                rows.update(dict.fromkeys(places))
                for place, *fields in await self._db.fetch(sql, list(places)):
                    rows[place] = _Row(*fields)
        if deliveries:
            jobs, hashes = zip(*deliveries, strict=True)
            for job, hash, answer in await self._db.fetch(_DELIVERIES, jobs, hashes):
                self._answers[(job, hash)] = answer

    def _named(self, commit: Commit, tasks: set[int], timers: set[int]) -> None:
        for job, n, timer in commit.closed:
            (timers if timer else tasks).add(self._place(job, n))
        if commit.settles is not None:
            tasks.add(self._place(commit.settles.job, commit.settles.n))
        if commit.fires is not None:
            timers.add(self._place(*commit.fires[:2]))

    # --- the members

    async def apply(self, members: Sequence[Member]) -> list[Result]:
        """The results, one for each member, all of it written but not committed."""
        await self._fetch(members)
        results: list[Result] = []
        for member in members:
            if type(member) is Commit:
                results.append(self._commit(member))
            elif isinstance(member, (Defer, Park, Redrive)):
                results.append(_STAGED[type(member)](self, member))
            else:
                await self.flush()
                results.append(await _SENT[type(member)](self, member))
        await self.flush()
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
            _PUT,
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
        self._no_tasks, self._no_timers = set(), set()
        self._revisions, self._entries, self._deliveries = [], [], []

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
        moved = [job for job, revision in _expected(commit) if self._revision(job) != revision]
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
        opens = pack([write.head.open for write in commit.writes])
        self._revisions.append((nr, pack_rows(prev), opens, pack(blocks)))  # type: ignore[arg-type]
        row = nr.to_bytes(8, "big")
        self._entries += [hashlib.sha256(block).digest()[:8] + row for block in blocks]  # type: ignore[arg-type]
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
            return None if row.parked or timer else LeaseLost()
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

    def _park(self, park: Park) -> Result:
        if (lost := self._lost(park.ref, timer=park.timer)) is not None:
            return lost
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
        for sql, wanted in ((_CLAIM, anybody), (_CLAIM_OF, somebody)):
            if wanted:
                rows += await self._db.fetch(
                    sql,
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
            taken.append((mine, due, claimed))
            if (row := self._tasks.get(place)) is not None:
                row.worker, row.token, row.attempt = claim.worker, token, attempt
        self.wrote |= bool(taken)
        taken.sort(key=lambda one: one[:2])
        return Done([claimed for _, _, claimed in taken])

    async def _beat(self, beat: Beat) -> Result:
        await self._db.execute(_BEAT, beat.worker, beat.until)
        return Done()

    async def _reap(self, reap: Reap) -> Result:
        """The locks taken here are kept until the commit: nobody comes back to life meanwhile."""
        workers = await self._db.fetch(_WORKERS, self._lock)
        gone = [nr for nr, _, gone in workers if gone]
        late = [nr for nr, until, _ in workers if until is not None and until < reap.now]
        freed = 0
        if gone or late:
            freed = self._free(await self._db.fetch(_REAP, [*gone, *late]))
        if gone:
            await self._db.execute(_BURY, gone)
        return Done(freed)

    async def _disown(self, disown: Disown) -> Result:
        keep = [self._place(job, n) for job, n in disown.keep]
        return Done(self._free(await self._db.fetch(_DISOWN, disown.worker, keep)))

    def _free(self, places: Sequence[Any]) -> int:
        for (place,) in places:
            if (row := self._tasks.get(place)) is not None:
                row.worker = None
        self.wrote |= bool(places)
        return len(places)

    async def _sweep(self, sweep: Sweep) -> Result:
        return Done(await self._db.fetchval(_SWEEP, sweep.now, sweep.limit))


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
}
