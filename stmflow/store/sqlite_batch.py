"""One batch inside one SQLite transaction: members checked in order, rows written in bulk.

Statements are few and wide, because each one costs a hand-over of the interpreter lock: rows are
staged and flushed as multi-row statements. No driver is imported here; the connection is given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.limits import LIMITS
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
    Park,
    Reap,
    Redrive,
    Ref,
    Result,
    Revive,
    Sweep,
    Watch,
)
from stmflow.store import sqlite_retention as retention
from stmflow.store.packing import pack, pack_rows
from stmflow.store.rows import PLACES, delivery_hash, job_hash, stranger

CACHED_JOBS = 16_384
CACHED_CLAIMS = 16_384
_CHUNKS = (64, 16, 4, 1)


@dataclass(slots=True)
class JobRef:
    """Where a job lies: its row, its head and the head's row."""

    row: int
    revision: CID
    head: int


@dataclass(slots=True)
class Known:
    """What the writer knows without asking, for as long as nobody else writes."""

    jobs: dict[CID, JobRef] = field(default_factory=dict)
    claims: dict[int, tuple[CID, int, int]] = field(default_factory=dict)
    """place → (task id, worker, token) of rows that are claimed and not parked."""
    workers: set[int] = field(default_factory=set)
    """Workers that have a row."""
    next_job: int = 0
    next_revision: int = 0
    watched: bool = True
    """Whether some row may wait for a job to change."""

    def forget(self, connection: Any) -> None:
        """Start from what the database says."""
        self.jobs.clear()
        self.claims.clear()
        self.workers.clear()
        self.watched = bool(connection.execute("SELECT 1 FROM watch LIMIT 1").fetchall())
        (self.next_job,) = next(connection.execute("SELECT coalesce(max(row), 0) + 1 FROM job"))
        (self.next_revision,) = next(
            connection.execute("SELECT coalesce(max(row), 0) + 1 FROM revision")
        )

    def trim(self) -> None:
        """Keep the memory flat."""
        while len(self.jobs) > CACHED_JOBS:
            del self.jobs[next(iter(self.jobs))]
        while len(self.claims) > CACHED_CLAIMS:
            del self.claims[next(iter(self.claims))]


class _Wide:
    """A statement for many rows at once, as few executions as chunks allow."""

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        self._sql = {n: head + ", ".join([row] * n) + tail for n in _CHUNKS}

    def run(self, connection: Any, rows: Sequence[Sequence[Any]]) -> None:
        at = 0
        for size in _CHUNKS:
            sql = self._sql[size]
            while len(rows) - at >= size:
                values = [value for row in rows[at : at + size] for value in row]
                connection.execute(sql, values)
                at += size


_REVISIONS = _Wide("INSERT INTO revision VALUES ", "(?, ?, ?, ?, ?)")
_JOBS = _Wide(
    "INSERT INTO job VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    " ON CONFLICT (row) DO UPDATE SET version = excluded.version, revision = excluded.revision,"
    " head = excluded.head, place = excluded.place, seq = excluded.seq, epoch = excluded.epoch,"
    " at = excluded.at, tag = excluded.tag",
)
_TASKS = _Wide("INSERT INTO task VALUES ", "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
_TIMERS = _Wide("INSERT INTO timer VALUES ", "(?, ?, ?, 0, NULL)")
_DELIVERIES = _Wide("INSERT INTO delivery VALUES ", "(?, ?, ?, ?)")
_DELETE_TASKS = _Wide("DELETE FROM task WHERE place IN (", "?", ")")
_DELETE_TIMERS = _Wide("DELETE FROM timer WHERE place IN (", "?", ")")
_DUE = (
    "SELECT t.place, t.id, t.block, t.tenant, t.at, t.attempt + 1, t.token + 1, j.id"
    " FROM task t JOIN job j ON j.row = t.place / 1048576"
    " WHERE t.workflow = ? AND t.version = ? AND t.tag = ? AND t.worker IS NULL"
    " AND t.parked = 0 AND t.due <= ? ORDER BY t.due LIMIT ?"
)
_DUE_OF = _DUE.replace("WHERE", "WHERE t.tenant = ? AND")
_YOUNGEST = {sql: sql.replace("ORDER BY t.due", "ORDER BY t.due DESC") for sql in (_DUE, _DUE_OF)}
_WATCHES = _Wide("INSERT INTO watch VALUES ", "(?, ?)")


class BatchWriter:
    """Applies the members of one batch on an open write transaction.

    Args:
        connection: inside `BEGIN IMMEDIATE`.
        known: exact as of now.
        dead: worker → whether its lock can be taken, so that its claims are free.
    """

    def __init__(self, connection: Any, known: Known, dead: Callable[[int], bool]) -> None:
        self._db = connection
        self._known = known
        self._dead = dead
        self._revisions: list[tuple[Any, ...]] = []
        self._jobs: dict[int, tuple[Any, ...]] = {}
        self._tasks: dict[int, tuple[Any, ...]] = {}
        self._timers: dict[int, tuple[Any, ...]] = {}
        self._no_tasks: dict[int, None] = {}
        self._no_timers: dict[int, None] = {}
        self._deliveries: dict[tuple[int, bytes], tuple[bytes, int]] = {}
        self.entries: list[bytes] = []
        """What the CID index will hold of this batch: 8 bytes of a digest, 8 of its row."""

    def apply(self, members: Sequence[Member]) -> list[Result]:
        """The results, one for each member, all of it staged and flushed."""
        results = []
        for member in members:
            if type(member) is Commit:
                results.append(self._commit(member))
            else:
                self.flush()
                results.append(_APPLY[type(member)](self, member))
        self.flush()
        self._known.trim()
        return results

    def flush(self) -> None:
        """Write what is staged."""
        db = self._db
        if self._revisions:
            _REVISIONS.run(db, self._revisions)
            self._revisions = []
        if self._jobs:
            _JOBS.run(db, list(self._jobs.values()))
            self._jobs = {}
        if self._no_tasks:
            _DELETE_TASKS.run(db, [(place,) for place in self._no_tasks])
            self._no_tasks = {}
        if self._no_timers:
            _DELETE_TIMERS.run(db, [(place,) for place in self._no_timers])
            self._no_timers = {}
        if self._tasks:
            _TASKS.run(db, list(self._tasks.values()))
            self._tasks = {}
        if self._timers:
            _TIMERS.run(db, list(self._timers.values()))
            self._timers = {}
        if self._deliveries:
            rows = [(*key, *row) for key, row in self._deliveries.items()]
            _DELIVERIES.run(db, rows)
            self._deliveries = {}

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
            self._timers[place] = (place, timer_row.id.bytes, timer_row.due)
        if (row := commit.delivery) is not None:
            ref = self._job(row.job)
            place = stranger(row.job) if ref is None else ref.row
            self._deliveries[(place, delivery_hash(row.id))] = (row.answer, row.until)
        return Done((self._known.watched and self._wake(commit)) or None)

    def _wake(self, commit: Commit) -> bool:
        """Make due what watches a job of this commit; whether anything did."""
        watching = "SELECT place FROM watch WHERE job = ?"
        places = [
            place
            for write in commit.writes
            for (place,) in self._db.execute(watching, (write.job.bytes,))
        ]
        if places:
            self._unwatch(places)
            self._db.execute(
                "UPDATE task SET due = at WHERE place IN (SELECT value FROM json_each(?))",
                (json.dumps(places),),
            )
        return bool(places)

    def _unwatch(self, places: Sequence[int]) -> None:
        """These rows wait for no job (any more)."""
        self._db.execute(
            "DELETE FROM watch WHERE place IN (SELECT value FROM json_each(?))",
            (json.dumps(places),),
        )
        if self._db.changes():
            self._known.watched = bool(self._db.execute("SELECT 1 FROM watch LIMIT 1").fetchall())

    def _refuse(self, commit: Commit) -> Result | None:
        if commit.delivery is not None:
            known = self._answer(commit.delivery.job, commit.delivery.id)
            if known is not None:
                return Duplicate(known)
        if commit.settles is not None and (lost := self._lost(commit.settles)) is not None:
            return lost
        if commit.fires is not None and not self._open_timer(*commit.fires):
            return Closed()
        expected = [*commit.reads, *((write.job, write.prev) for write in commit.writes)]
        return self._conflict(expected)

    def _conflict(self, expected: Sequence[tuple[CID, CID | None]]) -> Result | None:
        moved = []
        for job, revision in expected:
            ref = self._job(job)
            if (None if ref is None else ref.revision) != revision:
                moved.append(job)
        return Conflicted(moved) if moved else None

    def _job(self, job: CID) -> JobRef | None:
        ref = self._known.jobs.get(job)
        if ref is not None:
            return ref
        sql = "SELECT row, revision, head FROM job WHERE hash = ? AND id = ?"
        for row, revision, head in self._db.execute(sql, (job_hash(job), job.bytes)):
            ref = self._known.jobs[job] = JobRef(row, CID.parse(revision), head)
        return ref

    def _place(self, job: CID, n: int) -> int:
        ref = self._job(job)
        return -1 if ref is None else ref.row * PLACES + n

    def _answer(self, job: CID, id: bytes) -> bytes | None:
        ref = self._job(job)
        short = delivery_hash(id)
        places = (stranger(job), stranger(job) if ref is None else ref.row)
        for place in places:
            if (place, short) in self._deliveries:
                return self._deliveries[(place, short)][0]
        sql = "SELECT answer FROM delivery WHERE job IN (?, ?) AND hash = ?"
        found = self._db.execute(sql, (*places, short)).fetchall()
        return found[0][0] if found else None

    def _write(self, commit: Commit) -> None:
        known = self._known
        row = known.next_revision
        known.next_revision += 1
        blocks = [commit.revision, *(write.head.state for write in commit.writes), *commit.blocks]
        prev = []
        for place, write in enumerate(commit.writes):
            prev.append(self._head(write, row, place))
        digests = b"".join([hashlib.sha256(block).digest()[:8] for block in blocks])  # type: ignore[arg-type]
        opens = pack([write.head.open for write in commit.writes])
        self._revisions.append((row, digests, pack_rows(prev), opens, pack(blocks)))  # type: ignore[arg-type]
        offset = row.to_bytes(8, "big")
        self.entries += [digests[at : at + 8] + offset for at in range(0, len(digests), 8)]

    def _head(self, write: HeadWrite, row: int, place: int) -> int:
        """Stage a job's new head; the row of its previous revision."""
        known, head = self._known, write.head
        ref = known.jobs.get(write.job)
        if ref is None:
            before = 0
            ref = known.jobs[write.job] = JobRef(known.next_job, head.revision, row)
            known.next_job += 1
        else:
            before = ref.head
            known.jobs.pop(write.job)
            ref = known.jobs[write.job] = JobRef(ref.row, head.revision, row)
        staged = self._jobs.get(ref.row)  # made in this very batch: its key is not written yet
        key = b"" if staged is None else staged[5]
        self._jobs[ref.row] = (
            ref.row,
            job_hash(write.job),
            write.job.bytes,
            head.workflow,
            head.version,
            codec.encode(thaw(head.key)) if write.prev is None else key,
            head.revision.bytes,
            row,
            place,
            head.seq,
            head.epoch,
            head.at,
            head.tag,
        )
        return before

    def _arm(self, task: Any) -> None:
        place = self._place(task.job, task.n)
        claimed = int(task.worker is not None)
        if claimed:
            self._enrol(task.worker, task.at)
            self._known.claims[place] = (task.id, task.worker, 1)
        self._tasks[place] = (
            place,
            task.id.bytes,
            task.workflow,
            task.version,
            task.tag,
            task.tenant,
            task.block,
            task.at,
            task.at,
            claimed,
            claimed,
            task.worker,
            0,
            None,
            None,
        )

    def _close(self, place: int, *, timer: bool) -> None:
        if timer:
            if self._timers.pop(place, None) is None:
                self._no_timers[place] = None
            return
        self._known.claims.pop(place, None)
        if self._tasks.pop(place, None) is None:
            self._no_tasks[place] = None
            if self._known.watched:
                self._unwatch([place])

    def _lost(self, ref: Ref, *, timer: bool = False) -> Result | None:
        """Why that row is not the caller's to settle, or None."""
        place = self._place(ref.job, ref.n)
        if timer:
            return None if self._open_timer(ref.job, ref.n, ref.id) else Closed()
        claim = self._known.claims.get(place)
        if claim is not None:
            id, worker, token = claim
            parked = False
        elif place in self._no_tasks:
            return Closed()
        elif place in self._tasks:
            row = self._tasks[place]
            id, worker, token, parked = CID.parse(row[1]), row[11], row[10], False
        else:
            sql = "SELECT id, worker, token, parked FROM task WHERE place = ?"
            found = next(iter(self._db.execute(sql, (place,))), None)
            if found is None:
                return Closed()
            id, worker, token, parked = CID.parse(found[0]), found[1], found[2], bool(found[3])
        if id != ref.id:
            return Closed()
        if ref.worker is None:
            return None if parked and token == ref.token else LeaseLost()
        return LeaseLost() if parked or worker != ref.worker or token != ref.token else None

    def _open_timer(self, job: CID, n: int, id: CID) -> bool:
        place = self._place(job, n)
        if place in self._no_timers:
            return False
        if place in self._timers:
            return bool(self._timers[place][1] == id.bytes)
        found = self._db.execute("SELECT id FROM timer WHERE place = ?", (place,))
        return any(stored == id.bytes for (stored,) in found)

    # --- the others (staged rows are flushed before each)

    def _claim(self, claim: Claim) -> Result:
        taken: list[Claimed] = []
        for want in claim.wants:
            values: tuple[Any, ...] = (*want[:3], claim.now, want.limit)
            sql = _DUE
            if want.tenant is not None:
                sql, values = _DUE_OF, (want.tenant, *values)
            rows = self._db.execute(_YOUNGEST[sql] if claim.youngest else sql, values).fetchall()
            if not rows:
                continue
            self._enrol(claim.worker, claim.now)
            places = json.dumps([row[0] for row in rows])
            self._db.execute(
                "UPDATE task SET worker = ?, token = token + 1, attempt = attempt + 1"
                " WHERE place IN (SELECT value FROM json_each(?))",
                (claim.worker, places),
            )
            if self._known.watched:
                self._unwatch([row[0] for row in rows])
            for place, id, block, tenant, at, attempt, token, job in rows:
                ref = Ref(CID.parse(job), place % PLACES, CID.parse(id), claim.worker, token)
                self._known.claims[place] = (ref.id, claim.worker, token)
                taken.append(Claimed(ref, block, *want[:3], tenant, at, attempt))
        return Done(taken)

    def _enrol(self, worker: int, now: int) -> None:
        """No claim is durable before its worker has a row: whoever reaps goes by these."""
        if worker not in self._known.workers:
            self._known.workers.add(worker)
            self._db.execute(
                "INSERT OR IGNORE INTO worker VALUES (?, ?)", (worker, now + LIMITS.lease_min_ms)
            )

    def _beat(self, beat: Beat) -> Result:
        self._db.execute(
            "INSERT INTO worker VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)",
            (beat.worker, beat.until),
        )
        return Done()

    def _reap(self, reap: Reap) -> Result:
        freed = 0
        for worker, until in self._db.execute("SELECT id, until FROM worker").fetchall():
            gone = self._dead(worker)
            if gone or until < reap.now:
                freed += self._free("SELECT place FROM task WHERE worker = ?", (worker,))
            if gone:
                self._known.workers.discard(worker)
                self._db.execute("DELETE FROM worker WHERE id = ?", (worker,))
        return Done(freed)

    def _disown(self, disown: Disown) -> Result:
        keep = json.dumps([self._place(job, n) for job, n in disown.keep])
        sql = (
            "SELECT place FROM task WHERE worker = ?"
            " AND place NOT IN (SELECT value FROM json_each(?))"
        )
        return Done(self._free(sql, (disown.worker, keep)))

    def _free(self, sql: str, values: tuple[Any, ...]) -> int:
        places = [place for (place,) in self._db.execute(sql, values)]
        if places:
            for place in places:
                self._known.claims.pop(place, None)
            self._db.execute(
                "UPDATE task SET worker = NULL WHERE place IN (SELECT value FROM json_each(?))",
                (json.dumps(places),),
            )
        return len(places)

    def _defer(self, defer: Defer) -> Result:
        if (lost := self._lost(defer.ref)) is not None:
            return lost
        place = self._place(defer.ref.job, defer.ref.n)
        self._known.claims.pop(place, None)
        self._db.execute(
            "UPDATE task SET worker = NULL, due = ?, error = coalesce(?, error),"
            " attempt = attempt - ? WHERE place = ?",
            (defer.due, defer.error, int(defer.back), place),
        )
        return Done()

    def _watch(self, watch: Watch) -> Result:
        refusal = self._lost(watch.ref) or self._conflict(watch.reads)
        if refusal is not None:
            return refusal
        place = self._place(watch.ref.job, watch.ref.n)
        self._known.claims.pop(place, None)
        self._db.execute(
            "UPDATE task SET worker = NULL, due = ?, attempt = attempt - 1 WHERE place = ?",
            (watch.until, place),
        )
        jobs = {job: None for job, _ in watch.reads}
        _WATCHES.run(self._db, [(place, job.bytes) for job in jobs])
        self._known.watched = True
        return Done()

    def _park(self, park: Park) -> Result:
        refusal = self._lost(park.ref, timer=park.timer) or self._conflict(park.reads)
        if refusal is not None:
            return refusal
        place = self._place(park.ref.job, park.ref.n)
        if park.timer:
            sql = "UPDATE timer SET parked = 1, error = ? WHERE place = ?"
            self._db.execute(sql, (park.error, place))
            return Done()
        self._known.claims.pop(place, None)
        sql = "UPDATE task SET worker = NULL, parked = 1, error = ?, outcome = ? WHERE place = ?"
        self._db.execute(sql, (park.error, park.outcome, place))
        return Done()

    def _redrive(self, redrive: Redrive) -> Result:
        place = self._place(redrive.job, redrive.n)
        sql = (
            "UPDATE task SET parked = 0, due = ?, at = ?, attempt = 0, outcome = NULL"
            " WHERE place = ? AND id = ? AND parked = 1"
        )
        self._db.execute(sql, (redrive.due, redrive.due, place, redrive.id.bytes))
        changed = self._db.changes()
        if not changed:
            sql = "UPDATE timer SET parked = 0, due = ? WHERE place = ? AND id = ? AND parked = 1"
            self._db.execute(sql, (redrive.due, place, redrive.id.bytes))
            changed = self._db.changes()
        return Done() if changed else Closed()

    def _sweep(self, sweep: Sweep) -> Result:
        self._db.execute(
            "DELETE FROM delivery WHERE (job, hash) IN"
            " (SELECT job, hash FROM delivery WHERE until < ? ORDER BY until LIMIT ?)",
            (sweep.now, sweep.limit),
        )
        return Done(self._db.changes())

    # --- what leaves the log, and comes back

    def _drop(self, drop: Drop) -> Result:
        dropping = retention.Dropping(self._db, drop)
        result = dropping.run()
        for job in dropping.jobs:
            self._known.jobs.pop(job, None)
        return result

    def _revive(self, revive: Revive) -> Result:
        row = self._known.next_revision
        result, digests = retention.revive(self._db, row, revive)
        if digests:
            self._known.next_revision += 1
            self._known.jobs.clear()
            offset = row.to_bytes(8, "big")
            self.entries += [digests[at : at + 8] + offset for at in range(0, len(digests), 8)]
        return result


_APPLY: dict[type, Callable[[BatchWriter, Any], Result]] = {
    Claim: BatchWriter._claim,
    Beat: BatchWriter._beat,
    Reap: BatchWriter._reap,
    Disown: BatchWriter._disown,
    Defer: BatchWriter._defer,
    Park: BatchWriter._park,
    Watch: BatchWriter._watch,
    Redrive: BatchWriter._redrive,
    Sweep: BatchWriter._sweep,
    Drop: BatchWriter._drop,
    Revive: BatchWriter._revive,
}
