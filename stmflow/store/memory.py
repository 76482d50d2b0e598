"""The store in memory: the specification of all stores, and the mock of none.

Everything is a dict. A commit checks each member against the dicts and then changes them; nothing
in it awaits, so it is atomic. Other stores must do the same, durably, and pass the same contract.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import Archived, NotFound
from stmflow.schema import thaw
from stmflow.store import (
    Batch,
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
    Dropped,
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
    Revive,
    StoredHead,
    Sweep,
    TaskRow,
    Vitals,
    Watch,
    WorkerRow,
)
from stmflow.store.rows import arranged
from stmflow.vitals import EXAMPLES, JobGroup, TaskGroup, WorkerState

__all__ = ["MemoryStore"]

Place = tuple[CID, int]


@dataclass(slots=True)
class _Task:
    row: Any
    due: int
    attempt: int = 0
    token: int = 0
    worker: int | None = None
    parked: bool = False
    error: bytes | None = None
    outcome: bytes | None = None
    watches: Collection[CID] = ()


class MemoryStore:
    """All state in this object; several transactors may share it."""

    def __init__(self) -> None:
        self._heads: dict[CID, StoredHead] = {}
        self._blocks: dict[CID, bytes] = {}
        self._packed: dict[CID, Packed] = {}
        self._log: dict[int, CID] = {}
        self._archived: dict[int, None] = {}
        self._archives: dict[CID, None] = {}
        self._away: set[CID] = set()
        self._next_place = 1
        self._tasks: dict[Place, _Task] = {}
        self._timers: dict[Place, _Task] = {}
        self._deliveries: dict[tuple[CID, bytes], tuple[bytes, int]] = {}
        self._workers: dict[int, int] = {}
        self._alive: set[int] = set()
        self._next_worker = 1
        self._version = 0
        self._moved: dict[CID, int] = {}  # job → version of its last write, latest last

    # --- writing

    async def commit(self, batch: Batch) -> Sequence[Result]:
        """Apply the members in order, each checked alone."""
        for member in batch.members:
            if isinstance(member, Revive):
                arranged(member.packed)
        self._version += 1
        return [self._apply(member) for member in batch.members]

    def _apply(self, member: Any) -> Result:
        return _APPLY[type(member)](self, member)

    def _commit(self, commit: Commit) -> Result:
        refusal = self._refuse(commit)
        if refusal is not None:
            return refusal
        for write in commit.writes:
            self._heads[write.job] = write.head
            self._moved.pop(write.job, None)
            self._moved[write.job] = self._version
            self._away.discard(write.job)
        if commit.revision is not None and commit.revision_cid is not None:
            blocks = [*commit.blocks, *(write.head.state for write in commit.writes)]
            self._append(Packed(commit.revision_cid, commit.revision, blocks))
        for job, n, timer in commit.closed:
            (self._timers if timer else self._tasks).pop((job, n), None)
        for task in commit.tasks:
            claimed = int(task.worker is not None)
            self._tasks[(task.job, task.n)] = _Task(task, task.at, claimed, claimed, task.worker)
        for timer_row in commit.timers:
            self._timers[(timer_row.job, timer_row.n)] = _Task(timer_row, timer_row.due)
        if (row := commit.delivery) is not None:
            self._deliveries[(row.job, row.id)] = (row.answer, row.until)
        return Done(self._wake({write.job for write in commit.writes}) or None)

    def _wake(self, moved: set[CID]) -> bool:
        """Make due what watches one of these jobs; whether anything did."""
        woken = [task for task in self._tasks.values() if not moved.isdisjoint(task.watches)]
        for task in woken:
            task.due, task.watches = task.row.at, ()
        return bool(woken)

    def _refuse(self, commit: Commit) -> Result | None:
        if (row := commit.delivery) is not None and (row.job, row.id) in self._deliveries:
            return Duplicate(self._deliveries[(row.job, row.id)][0])
        if commit.settles is not None and (lost := self._lost(commit.settles)) is not None:
            return lost
        if commit.fires is not None:
            job, n, id = commit.fires
            timer = self._timers.get((job, n))
            if timer is None or timer.row.id != id:
                return Closed()
        expected = [*commit.reads, *((write.job, write.prev) for write in commit.writes)]
        return self._conflict(expected)

    def _conflict(self, expected: Sequence[tuple[CID, CID | None]]) -> Result | None:
        moved = [job for job, revision in expected if self._revision(job) != revision]
        return Conflicted(moved) if moved else None

    def _revision(self, job: CID) -> CID | None:
        head = self._heads.get(job)
        return None if head is None else head.revision

    def _lost(self, ref: Ref, *, timer: bool = False) -> Result | None:
        """Why that row is not the caller's to settle."""
        task = (self._timers if timer else self._tasks).get((ref.job, ref.n))
        if task is None or task.row.id != ref.id:
            return Closed()
        if ref.worker is None:
            return None if timer or (task.parked and task.token == ref.token) else LeaseLost()
        if task.parked or task.worker != ref.worker or task.token != ref.token:
            return LeaseLost()
        return None

    def _claim(self, claim: Claim) -> Result:
        taken: list[Claimed] = []
        due: dict[tuple[Kind, str | None], list[_Task]] = {}
        waiting = sorted(self._waiting(), key=lambda task: task.due, reverse=claim.youngest)
        for task in waiting:
            if task.due <= claim.now:
                for tenant in (task.row.tenant, None):
                    due.setdefault((_kind(task), tenant), []).append(task)
        for want in claim.wants:
            free = (task for task in due.get((want[:3], want.tenant), ()) if task.worker is None)
            for task in islice(free, want.limit):
                task.worker, task.watches = claim.worker, ()
                task.token, task.attempt = task.token + 1, task.attempt + 1
                taken.append(self._claimed(task))
        return Done(taken)

    @staticmethod
    def _claimed(task: _Task) -> Claimed:
        row = task.row
        ref = Ref(row.job, row.n, row.id, task.worker, task.token)
        return Claimed(
            ref, row.block, row.workflow, row.version, row.tag, row.tenant, row.at, task.attempt
        )

    def _beat(self, beat: Beat) -> Result:
        self._workers[beat.worker] = max(beat.until, self._workers.get(beat.worker, 0))
        return Done()

    def _reap(self, reap: Reap) -> Result:
        dead = {
            worker
            for worker, until in self._workers.items()
            if worker not in self._alive or until < reap.now
        }
        claims = {task.worker for task in self._tasks.values() if task.worker is not None}
        dead |= claims - self._workers.keys() - self._alive  # landed after its worker was reaped
        return Done(self._free(lambda task: task.worker in dead, dead))

    def _disown(self, disown: Disown) -> Result:
        keep = set(disown.keep)
        return Done(
            self._free(
                lambda task: task.worker == disown.worker and (task.row.job, task.row.n) not in keep
            )
        )

    def _free(self, which: Callable[[_Task], bool], gone: Collection[int] = ()) -> int:
        freed = [task for task in self._tasks.values() if task.worker is not None and which(task)]
        for task in freed:
            task.worker = None
        for worker in gone:
            if worker not in self._alive:
                self._workers.pop(worker, None)
        return len(freed)

    def _defer(self, defer: Defer) -> Result:
        if (lost := self._lost(defer.ref)) is not None:
            return lost
        task = self._tasks[(defer.ref.job, defer.ref.n)]
        task.worker, task.due, task.error = None, defer.due, defer.error or task.error
        task.attempt -= int(defer.back)
        return Done()

    def _watch(self, watch: Watch) -> Result:
        refusal = self._lost(watch.ref) or self._conflict(watch.reads)
        if refusal is not None:
            return refusal
        task = self._tasks[(watch.ref.job, watch.ref.n)]
        task.worker, task.due, task.watches = None, watch.until, {job for job, _ in watch.reads}
        task.attempt -= 1
        return Done()

    def _park(self, park: Park) -> Result:
        refusal = self._lost(park.ref, timer=park.timer) or self._conflict(park.reads)
        if refusal is not None:
            return refusal
        task = (self._timers if park.timer else self._tasks)[(park.ref.job, park.ref.n)]
        task.worker, task.parked, task.error, task.outcome = None, True, park.error, park.outcome
        return Done()

    def _redrive(self, redrive: Redrive) -> Result:
        place = (redrive.job, redrive.n)
        task = self._tasks.get(place) or self._timers.get(place)
        if task is None or task.row.id != redrive.id or not task.parked:
            return Closed()
        task.parked, task.due, task.attempt, task.outcome = False, redrive.due, 0, None
        if place in self._tasks:
            task.row = task.row._replace(at=redrive.due)
        return Done()

    def _sweep(self, sweep: Sweep) -> Result:
        old = [key for key, (_, until) in self._deliveries.items() if until < sweep.now]
        for key in old[: sweep.limit]:
            del self._deliveries[key]
        return Done(len(old[: sweep.limit]))

    # --- the log, and what leaves it

    def _append(self, packed: Packed) -> int:
        place, self._next_place = self._next_place, self._next_place + 1
        self._log[place] = packed.cid
        self._packed[packed.cid] = packed
        self._blocks |= {CID.of(block): block for block in (packed.revision, *packed.blocks)}
        return place

    def _drop(self, drop: Drop) -> Result:
        dropped = Dropped()
        if drop.archive is not None and drop.archive not in self._archives:
            if next(reversed(self._archives), None) != drop.prev:
                return Conflicted()
            self._archives[drop.archive] = None
        for place, cid in drop.revisions:
            if self._log.get(place) != cid:
                continue
            heads = [job for job, head in self._heads.items() if head.revision == cid]
            heads = [job for job in heads if job not in self._away]
            held = drop.archive is not None or place in self._archived
            needed = place == max(self._log) or bool(heads and not held)
            needed |= not all(self._may_leave(self._heads[job], drop) for job in heads)
            if needed:
                if held:
                    self._archived[place] = None
                dropped = dropped._replace(kept=dropped.kept + 1)
                continue
            self._away.update(heads)
            del self._log[place], self._packed[cid]
            self._archived.pop(place, None)
            dropped = Dropped(dropped.revisions + 1, dropped.kept, dropped.jobs + len(heads))
        packs = self._packed.values()
        self._blocks = {CID.of(b): b for pack in packs for b in (pack.revision, *pack.blocks)}
        return Done(dropped)

    def _may_leave(self, head: StoredHead, drop: Drop) -> bool:
        waiting = [*self._tasks, *self._timers, *self._deliveries]
        return any(
            head.workflow == one.workflow and head.tag in one.tags and head.at < one.before
            for one in drop.finished
        ) and all(row[0] != head.job for row in waiting)

    def _revive(self, revive: Revive) -> Result:
        job, packed = revive.job, revive.packed
        if job not in self._away or self._revision(job) != packed.cid:
            return Conflicted([job])
        self._away -= {each for each in self._away if self._revision(each) == packed.cid}
        self._archived[self._append(packed)] = None
        return Done()

    async def log(
        self, *, after: int = 0, limit: int = 256, archived: bool = False
    ) -> Sequence[Logged]:
        """Revisions in order of their places."""
        places = [place for place in self._log if (place in self._archived) == archived]
        found = [place for place in sorted(places) if place > after][:limit]
        return [Logged(place, self._packed[self._log[place]]) for place in found]

    async def archives(self) -> Sequence[CID]:
        """What holds the dropped revisions, newest first."""
        return list(self._archives)[::-1]

    # --- reading

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        """The heads of these jobs, as of now."""
        for job in self._away.intersection(jobs):
            raise Archived(job, self._heads[job].revision)
        return {job: self._heads.get(job) for job in jobs}

    async def delivery(self, job: CID, id: bytes) -> bytes | None:
        """The answer that this delivery got."""
        found = self._deliveries.get((job, id))
        return None if found is None else found[0]

    async def timers(self, now: int, limit: int) -> Sequence[DueTimer]:
        """Timers due by now, earliest first."""
        due = [task for task in self._timers.values() if not task.parked and task.due <= now]
        rows = sorted(due, key=lambda task: task.due)[:limit]
        return [DueTimer(t.row.job, t.row.n, t.row.id, t.due) for t in rows]

    async def next_timer(self) -> int | None:
        """The earliest timer."""
        return min((t.due for t in self._timers.values() if not t.parked), default=None)

    async def next_task(self, kinds: Collection[Kind]) -> int | None:
        """The earliest unclaimed task of these kinds."""
        return min((t.due for t in self._waiting() if _kind(t) in kinds), default=None)

    async def placed(self, kinds: Collection[Kind]) -> Sequence[Kind]:
        """The kinds that wait for these and needs beside."""
        begins = {(workflow, version, tag + " {") for workflow, version, tag in kinds}
        waiting = {_kind(task) for task in self._waiting()}
        return sorted(k for k in waiting if (*k[:2], k[2][: k[2].find(" {") + 2]) in begins)

    async def queues(self, after: Mapping[Kind, str | None], limit: int) -> Sequence[Queue]:
        """Who waits, in order of names."""
        first: dict[tuple[Kind, str], int] = {}
        for task in self._waiting():
            place = (_kind(task), task.row.tenant)
            first[place] = min(task.due, first.get(place, task.due))
        found: list[Queue] = []
        for kind, last in after.items():
            tenants = sorted(t for k, t in first if k == kind and (last is None or t > last))
            found += [Queue(*kind, tenant, first[(kind, tenant)]) for tenant in tenants[:limit]]
        return found

    def _waiting(self) -> list[_Task]:
        return [t for t in self._tasks.values() if t.worker is None and not t.parked]

    async def task(self, id: CID) -> TaskRow | None:
        """The outbox row of that task."""
        return next((row for row in await self.tasks() if row.id == id), None)

    async def tasks(self, *, job: CID | None = None, parked: bool = False) -> Sequence[TaskRow]:
        """The outbox."""
        rows = [_row(task, timer=False) for task in self._tasks.values()]
        rows += [_row(task, timer=True) for task in self._timers.values()]
        rows = [
            row._replace(workflow=self._heads[row.job].workflow) if row.timer else row
            for row in rows
        ]
        return [row for row in rows if job in (None, row.job) and (row.parked or not parked)]

    async def revisions(
        self, job: CID, *, down_to: int = 0, limit: int | None = None
    ) -> Sequence[Packed]:
        """The chain, newest first."""
        found: list[Packed] = []
        cid = self._revision(job)
        while cid in self._packed and len(found) != limit:
            packed = self._packed[cid]
            write = next(w for w in codec.decode(packed.revision)["writes"] if w["job"] == job)
            if write["seq"] <= down_to:
                break
            found.append(packed)
            cid = write["prev"]
        return found

    async def block(self, cid: CID) -> bytes | None:
        """The block of that CID."""
        return self._blocks.get(cid)

    async def find(self, prefix: bytes, bits: int) -> Sequence[CID]:
        """Blocks whose digest begins so."""
        shift = len(prefix) * 8 - bits
        wanted = int.from_bytes(prefix) >> shift

        def begins(cid: CID) -> bool:
            return int.from_bytes(cid.digest[: len(prefix)]) >> shift == wanted

        return [cid for cid in self._blocks if begins(cid)]

    async def jobs(
        self,
        *,
        workflow: str | None = None,
        tag: str | None = None,
        after: CID | None = None,
        limit: int = 1_000,
    ) -> Sequence[JobRow]:
        """Jobs in order of creation."""
        order = list(self._heads)
        start = order.index(after) + 1 if after is not None else 0
        rows = [
            await self._listed(head)
            for head in map(self._heads.__getitem__, order[start:])
            if workflow in (None, head.workflow) and tag in (None, head.tag)
        ]
        return rows[:limit]

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
        heads = {_encoded(h.key): h for h in self._heads.values() if h.workflow == workflow}
        order = sorted(heads, reverse=reverse)
        start = 0
        if after is not None:
            head = self._heads.get(after)
            if head is None or head.workflow != workflow:
                raise NotFound(f"no job {after} of {workflow}")
            start = order.index(_encoded(head.key)) + 1
        begins = _encoded(prefix)
        found = [
            head
            for head in map(heads.__getitem__, order[start:])
            if _encoded(head.key[: len(prefix)]) == begins and tag in (None, head.tag)
        ]
        return [await self._listed(head) for head in found[:limit]]

    async def _listed(self, head: StoredHead) -> JobRow:
        return JobRow(*head[:9], faulted=len(await self.tasks(job=head.job, parked=True)))

    async def vitals(self, now: int) -> Vitals:
        """How things stand."""
        jobs, tasks = _Groups(), _Groups()
        for head in self._heads.values():
            jobs.add((head.workflow, head.version), head.job)
        for row in sorted(await self.tasks(), key=lambda row: row.due):
            if not row.parked:
                version = (
                    self._heads[row.job].version
                    if row.timer
                    else self._tasks[(row.job, row.n)].row.version
                )
                group = (row.workflow, version, row.tag, row.timer, row.worker, row.due <= now)
                tasks.add(group, row)
        ahead = sorted(
            ((head.job, head.at) for head in self._heads.values() if head.at > now),
            key=lambda found: -found[1],
        )
        return Vitals(
            schema=1,
            codec=1,
            jobs=[
                JobGroup._make((*group, len(ids), ids[:EXAMPLES])) for group, ids in jobs.items()
            ],
            tasks=[
                TaskGroup._make((*group, len(rows), rows[0].due, _named(rows[:EXAMPLES])))
                for group, rows in tasks.items()
            ],
            workers=[WorkerState(n, until, n in self._alive) for n, until in self._workers.items()],
            ahead=(len(ahead), ahead[:EXAMPLES]),
            deliveries=len(self._deliveries),
            stale_deliveries=sum(until < now for _, until in self._deliveries.values()),
        )

    def version(self) -> int:
        """Grows with every commit, one's own included."""
        return self._version

    def changed(self, since: int) -> Collection[CID]:
        """The jobs written since then, by whomever."""
        return list(takewhile(lambda job: self._moved[job] > since, reversed(self._moved)))

    # --- workers

    def enlist(self, worker: int | None = None) -> int:
        """A new worker's number; it counts as alive until retired."""
        number = self._next_worker if worker is None else worker
        self._next_worker = max(self._next_worker, number) + 1
        self._alive.add(number)
        return number

    def retire(self, worker: int) -> None:
        """The worker is gone, by stop or crash."""
        self._alive.discard(worker)

    async def workers(self) -> Sequence[WorkerRow]:
        """Every worker that has beaten and was not reaped."""
        return [WorkerRow(*row) for row in sorted(self._workers.items())]


def _kind(task: _Task) -> Kind:
    return task.row.workflow, task.row.version, task.row.tag


def _named(rows: Sequence[TaskRow]) -> list[tuple[CID, CID]]:
    return [(row.job, row.id) for row in rows]


class _Groups(dict[Any, list[Any]]):
    def add(self, group: Any, one: Any) -> None:
        self.setdefault(group, []).append(one)


def _encoded(key: Sequence[Any]) -> bytes:
    return codec.encode(thaw(key))


def _row(task: _Task, *, timer: bool) -> TaskRow:
    row = task.row
    return TaskRow(
        row.job,
        row.n,
        row.id,
        timer,
        None if timer else row.block,
        "" if timer else row.workflow,
        "sleep" if timer else row.tag,
        "" if timer else row.tenant,
        task.due,
        task.attempt,
        task.token,
        task.worker,
        task.parked,
        task.error,
        task.outcome,
    )


_APPLY: dict[type, Callable[[MemoryStore, Any], Result]] = {
    Commit: MemoryStore._commit,
    Claim: MemoryStore._claim,
    Beat: MemoryStore._beat,
    Reap: MemoryStore._reap,
    Disown: MemoryStore._disown,
    Defer: MemoryStore._defer,
    Park: MemoryStore._park,
    Watch: MemoryStore._watch,
    Redrive: MemoryStore._redrive,
    Sweep: MemoryStore._sweep,
    Drop: MemoryStore._drop,
    Revive: MemoryStore._revive,
}
