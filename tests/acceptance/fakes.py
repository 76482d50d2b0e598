"""What stands in for the world: a bucket that is a folder, a clock that is set, a process that dies
at a named point. And what must be true of a database when all is at rest."""

from __future__ import annotations

import os
import signal
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio

from examples.store_add.model import Receiving, Target
from examples.store_add.quota import Profile
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler import Context, Handler, Scheduler
from scheduler.handlers import Failure, Retry
from scheduler.handlers.allocate import QUOTA, RESERVATION, Granted
from scheduler.handlers.gc import BLOB, Live, sweeping
from scheduler.handlers.s3 import POLICIES, Delete, Presign, Stat, Verify, Watch
from stmflow import CID, Clock, Head, Job, Transactor, codec, history
from stmflow.store import Batch, Claim, Commit, Defer, Result, Store, TaskRow
from stmflow.store.sqlite import SQLiteStore

RAW = 0x55
EPOCH_MS = 1_800_000_000_000
PAYING = {"probing", "receiving", "verifying", "stored"}
TERMINAL = {"idle", "stored", "exceeded", "expired", "failed"}
PATIENCE_SECONDS = 20.0


# --- time ---------------------------------------------------------------------------------------


class SetClock:
    """A clock that shows what it was set to; with a file, so does the next process's."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._now = EPOCH_MS
        self._moved = anyio.Event()
        if file is not None and file.exists():
            self._now = int(file.read_text())

    def now(self) -> int:
        return self._now

    def set(self, at: int) -> None:
        """Show that time, unless it is past."""
        self._now = max(self._now, at)
        if self._file is not None:
            draft = self._file.with_suffix(".draft")
            draft.write_text(str(self._now))
            draft.rename(self._file)
        self._moved.set()
        self._moved = anyio.Event()

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0)
        while self._now < at_ms:
            await self._moved.wait()


# --- the bucket ---------------------------------------------------------------------------------


class FolderBucket:
    """A bucket whose objects are files, and which refuses what S3 would refuse.

    `lies` is what its looks say instead of the truth: a size, a checksum, or both.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.clock = clock
        self.lies: dict[str, Any] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def objects(self) -> set[bytes]:
        """The digests under which something lies here."""
        return {bytes.fromhex(file.name) for file in self.folder.iterdir()}

    def place(self, data: bytes, *, under: bytes | None = None) -> None:
        """Put an object here, behind everybody's back; `under` another name than its own."""
        name = sha256(data).hexdigest() if under is None else sha256(under).hexdigest()
        draft = self.folder.parent / f"{name}.draft"
        draft.write_bytes(data)
        draft.rename(self.folder / name)

    def upload(self, target: Target, data: bytes) -> int:
        """The status that a PUT to that URL gets."""
        checksum = target.headers["x-amz-checksum-sha256"]
        if self.clock.now() >= target.until:
            return 403
        if int(target.headers["content-length"]) != len(data):
            return 403
        if sha256(data).digest() != b64decode(checksum):
            return 400
        if sha256(data).digest() in self.objects():
            return 412
        self.place(data)
        return 200

    def handlers(self) -> dict[type, Handler]:
        return {
            Stat: self.stat,
            Presign: self.presign,
            Watch: self.watch,
            Verify: self.verify,
            Delete: self.delete,
        }

    async def stat(self, task: Stat, context: Context) -> dict[str, Any]:
        return self._look(task.link, task.size)

    async def presign(self, task: Presign, context: Context) -> dict[str, Any]:
        headers = {
            "content-length": str(task.size),
            "x-amz-checksum-sha256": b64encode(task.link.digest).decode(),
        }
        url = f"https://bucket.test/{task.link.digest.hex()}?until={task.until}"
        return {"url": url, "headers": headers, "until": task.until}

    async def watch(self, task: Watch, context: Context) -> dict[str, Any]:
        seen = self._look(task.link, task.size)
        if not seen["found"] and (left := task.until - self.clock.now()) > 0:
            raise Failure("Watching", retry=Retry.SAFE, after_ms=left)
        return seen

    async def verify(self, task: Verify, context: Context) -> dict[str, Any]:
        seen = self._look(task.link, task.size)
        if not seen["found"]:
            raise Failure("Mismatch", {"round": task.round, **seen})
        proof = {"size": seen["size"], "checksum": seen["checksum"]}
        return {"verified": True, "round": task.round, **proof}

    async def delete(self, task: Delete, context: Context) -> dict[str, Any]:
        (self.folder / task.link.digest.hex()).unlink(missing_ok=True)
        return {"deleted": True}

    def _look(self, link: CID, size: int) -> dict[str, Any]:
        if self.lies is not None:
            truth = {"size": size, "checksum": link.digest}
            return {"found": True, "mismatch": False, **truth, **self.lies}
        try:
            data = (self.folder / link.digest.hex()).read_bytes()
        except FileNotFoundError:
            return {"found": False, "size": None, "checksum": None, "mismatch": False}
        digest = sha256(data).digest()
        found = len(data) == size and digest == link.digest
        return {"found": found, "size": len(data), "checksum": digest, "mismatch": not found}


# --- dying --------------------------------------------------------------------------------------


@dataclass
class Points:
    """Counts how often each named point is passed; at the n-th time of one the process is killed.

    commit, settle, timer, claim, defer   before: planned, not sent to the store
                                          inside: written, not committed (of every commit)
                                          after: durable, nobody told
    effect                                before the handler's call; after it, not settled
    """

    name: str = ""
    n: int = 0
    passed: Counter[str] = field(default_factory=Counter)

    def hit(self, name: str) -> None:
        self.passed[name] += 1
        if name == self.name and self.passed[name] == self.n:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, handler: Handler) -> Handler:
        """The handler, with a point before and one after."""

        async def perform(task: Any, context: Context) -> Any:
            self.hit("effect:before")
            outcome = await handler(task, context)
            self.hit("effect:after")
            return outcome

        return perform


def dying(points: Points) -> type[SQLiteStore]:
    """A SQLite store whose commits pass these points."""

    class Dying(SQLiteStore):
        async def commit(self, batch: Batch) -> Sequence[Result]:
            for name in sorted(_kinds(batch)):
                points.hit(f"{name}:before")
            results = await super().commit(batch)
            for name in sorted(_kinds(batch)):
                points.hit(f"{name}:after")
            return results

        def _finish(self) -> None:
            points.hit("commit:inside")
            super()._finish()

    return Dying


def _kinds(batch: Batch) -> set[str]:
    found: set[str] = set()
    for member in batch.members:
        if isinstance(member, Claim):
            found.add("claim")
        elif isinstance(member, Defer):
            found.add("defer")
        elif isinstance(member, Commit) and member.writes:
            found.add("commit")
            if member.settles is not None:
                found.add("settle")
            if member.fires is not None:
                found.add("timer")
            if any(task.worker is not None for task in member.tasks):
                found.add("claim")
    return found


# --- one process --------------------------------------------------------------------------------


@dataclass
class Machine:
    """A process's parts."""

    store: SQLiteStore
    transactor: Transactor
    scheduler: Scheduler
    profile: Profile
    bucket: FolderBucket
    clock: Clock

    async def settled(self, job: Job | CID) -> Head:
        """The job's head, once nothing but an agent or the time can move it."""

        def until(state: Any) -> bool:
            if isinstance(state, Receiving):
                return state.window.target is not None
            return state.tag in TERMINAL | {"removing"}

        return await self.transactor.wait(job, until, timeout=PATIENCE_SECONDS)

    async def reached(self, job: Job | CID, *tags: str) -> Head:
        return await self.transactor.wait(
            job, lambda state: state.tag in tags, timeout=PATIENCE_SECONDS
        )

    async def quiet(self) -> list[TaskRow]:
        """The outbox, once nothing in it is due and nothing is being performed."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                rows = list(await self.store.tasks())
                waiting = [row for row in rows if not row.parked and row.due <= self.clock.now()]
                if not waiting and not self.scheduler.running:
                    return rows
                await anyio.sleep(0.003)

    async def rest(self, until: int | None = None) -> None:
        """Let time pass from one due row to the next, until nothing is left, or until then."""
        assert isinstance(self.clock, SetClock)
        while True:
            rows = await self.quiet()
            assert not [row for row in rows if row.parked], rows
            due = min((row.due for row in rows), default=None)
            if due is None or (until is not None and due > until):
                break
            self.pass_to(due)
        if until is not None:
            self.pass_to(until)
            await self.quiet()

    def pass_to(self, at: int) -> None:
        """Let the clock show that time."""
        assert isinstance(self.clock, SetClock)
        self.clock.set(at)
        self.scheduler.wake(0)  # it sleeps by the real clock

    async def jobs(self, workflow: str | None = None) -> list[Head]:
        """Every job, or those of one workflow."""
        rows = await self.store.jobs(workflow=workflow, limit=10_000)
        heads = [await self.transactor.get(row.job) for row in rows]
        return [head for head in heads if head is not None]

    async def states(self) -> dict[CID, tuple[str, CID]]:
        """Every job with the name and the CID of its state."""
        rows = await self.store.jobs(limit=10_000)
        found = await self.store.heads([row.job for row in rows])
        return {job: (head.tag, head.state_cid) for job, head in found.items() if head is not None}

    async def tag(self, space: str, data: bytes) -> str:
        head = await self.transactor.get(job_of(space, data))
        assert head is not None
        return str(head.state.tag)

    async def used(self, space: str) -> int:
        head = await self.transactor.get(QUOTA.job(space))
        return 0 if head is None else int(head.state.used)


def job_of(space: str, data: bytes) -> Job:
    return STORE_ADD.job(space, CID.of(data, RAW).multihash)


@asynccontextmanager
async def machine(
    database: Path,
    profile: Profile,
    bucket: FolderBucket,
    *,
    store_type: type[SQLiteStore] = SQLiteStore,
    transactor_type: type[Transactor] = Transactor,
    around: Callable[[Handler], Handler] = lambda handler: handler,
    instead: Mapping[type, Handler] | None = None,
) -> AsyncIterator[Machine]:
    """The service over a folder instead of S3. `around` wraps every handler."""

    async def alert(task: Alert, context: Context) -> None:
        pass

    clock = bucket.clock
    async with (
        store_type.open(database) as store,
        transactor_type(
            store, profile.workflows, transactional=profile.transactional, clock=clock
        ) as transactor,
    ):
        handlers: dict[type, Handler] = {
            **bucket.handlers(),
            **profile.handlers(transactor),
            Delete: sweeping(transactor, bucket.delete),
            Alert: alert,
            **(instead or {}),
        }
        wrapped = {task: around(handler) for task, handler in handlers.items()}
        async with Scheduler(transactor, wrapped, policies=POLICIES) as scheduler:
            yield Machine(store, transactor, scheduler, profile, bucket, clock)


# --- what must be true ----------------------------------------------------------------------------


async def verified(store: Store, profile: Profile) -> None:
    """Every history holds on all three levels, and one serial order explains them all."""
    chains = {}
    for row in await store.jobs(limit=10_000):
        head = (await store.heads([row.job]))[row.job]
        assert head is not None
        blocks = history.blocks_of(await store.revisions(row.job))
        report = history.verify(
            row.job,
            head.revision,
            blocks.get,
            workflows=profile.workflows,
            stored=head,
            rows=await store.tasks(job=row.job),
        )
        assert report.status == history.OK, (row.workflow, row.tag, report.findings)
        chains[row.job] = list(history.walk(row.job, head.revision, blocks.get))[::-1]
    assert history.between(chains) == []


async def balanced(world: Machine) -> None:
    """The accounts agree with the jobs, the blobs with the jobs, the bucket with the blobs."""
    uploads = await world.jobs(STORE_ADD.name)
    for head in uploads:
        assert (head.state.upload.charged > 0) == (head.state.tag in PAYING), head
    await _accounts(world, uploads)
    await _blobs(world, uploads)


async def _accounts(world: Machine, uploads: Iterable[Head]) -> None:
    paid: Counter[str] = Counter()
    for head in uploads:
        paid[head.state.upload.space] += head.state.upload.charged
    accounts = {head.key[0]: head.state for head in await world.jobs(QUOTA.name)}
    assert {space: quota.used for space, quota in accounts.items() if quota.used} == +paid
    assert all(quota.used <= quota.limit for quota in accounts.values())
    if RESERVATION not in world.profile.workflows:
        return
    granted = {
        head.key[0]: head.state.size
        for head in await world.jobs(RESERVATION.name)
        if isinstance(head.state, Granted)
    }
    assert granted == {
        head.state.upload.reservation: head.state.upload.charged
        for head in uploads
        if head.state.tag in PAYING
    }


async def _blobs(world: Machine, uploads: Iterable[Head]) -> None:
    referred: Counter[bytes] = Counter()
    held: Counter[bytes] = Counter()
    for head in uploads:
        link = head.state.upload.link
        referred[link.digest] += head.state.tag == "stored"
        held[link.digest] += head.state.tag in ("probing", "receiving", "verifying")
    blobs = {head.state.link.digest: head.state for head in await world.jobs(BLOB.name)}
    live = {digest: blob for digest, blob in blobs.items() if isinstance(blob, Live)}
    assert {
        digest: blob.references for digest, blob in live.items() if blob.references
    } == +referred
    assert {digest: blob.held for digest, blob in live.items() if blob.held} == +held
    owned = set(+referred) | set(+held)
    assert world.bucket.objects() <= owned, "an object without an owner"
    assert set(+referred) <= world.bucket.objects(), "stored, but not there"


async def chain(store: Store, job: Job | CID) -> list[tuple[history.Revision, Any]]:
    """A job's revisions, oldest first, each with the job's state in it, as plain data."""
    cid = job.id if isinstance(job, Job) else job
    packs = await store.revisions(cid)
    blocks = history.blocks_of(packs)
    found = [history.read_revision(packed.cid, packed.revision) for packed in reversed(packs)]
    return [(one, codec.decode(blocks[one.line(cid).state])) for one in found]


async def tags(store: Store, job: Job | CID) -> list[str]:
    """The names of the states that a job has been in."""
    return [state["t"] for _, state in await chain(store, job)]


async def events(store: Store, job: Job | CID) -> Counter[str]:
    """How often each event was applied to a job."""
    cid = job.id if isinstance(job, Job) else job
    packs = await store.revisions(cid)
    blocks = history.blocks_of(packs)
    found: Counter[str] = Counter()
    for packed in packs:
        line = history.read_revision(packed.cid, packed.revision).line(cid)
        found.update(codec.decode(blocks[event])["t"] for event in line.events)
    return found
