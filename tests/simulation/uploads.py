"""A simulated world of store/add: production handlers over an S3 server that fails and lies, and
clients that lie as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

import anyio

from examples.store_add.model import Add, Cancel, Extend, Lost, Put, Receiving, Remove, Terms
from examples.store_add.quota import Profile, local, remote
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler import Context, Failure, Handler, Policy, Retry, Scheduler
from scheduler.handlers.allocate import QUOTA, RESERVATION, Deallocate, Granted, Released
from scheduler.handlers.gc import BLOB, Live, sweeping
from scheduler.handlers.s3 import Bucket, Delete, Watch, object_key
from scheduler.slots import Limits
from scheduler.testing.faults import at_once
from scheduler.testing.loop import EPOCH_MS, VirtualLoop
from scheduler.testing.s3 import S3_FAULTS, FakeS3
from scheduler.testing.workload import Workload
from scheduler.testing.world import Lost as Unheard
from scheduler.testing.world import Node, Options, Outcome, World
from stmflow import CID, Transactor, codec, history
from stmflow.errors import StmflowError, UnknownTask
from stmflow.store.memory import MemoryStore
from stmflow.workflow import Job

SPACES = ("did:key:zAlice", "did:key:zBob")
LIMIT = 150
DATA = tuple(bytes([n + 1]) * (20 + 13 * n) for n in range(5))
"""What clients want to store: 20 to 72 bytes."""

OFF_MS, EARLY_MS, SLOW_MS, PATIENCE_MS = 1_000, 2_200, 2_700, 60_000
TERMS = Terms(window_ms=6_000, skew_ms=5_000, longest_ms=15_000)
"""The margin covers what the clocks differ by (twice `OFF_MS` at most), an upload that began in
time (`EARLY_MS` before its end, for `SLOW_MS`), and how long a look may not see it."""

LIES = {"s3 wrong size", "s3 wrong checksum", "s3 wrong bytes"}
"""With these the last look may miss what is there."""

PAYING = {"probing", "receiving", "verifying", "stored"}
BEHIND_STORED = {"stored", "removing", "idle", "allocating", "probing"}
"""Removed, or missed by an audit; some of it in one commit."""

RESTING = {"idle", "stored", "exceeded", "expired", "failed"}
WAYS = (
    *("honest", "twice", "slow", "late", "never", "size", "hash", "tamper", "cancel", "extend"),
    "squat",  # somebody with a key of his own puts other bytes there
)
"""What a client does with the URL that it is given."""


@dataclass(frozen=True, slots=True)
class Landed:
    """An upload that the server took, by a URL of that try."""

    job: CID
    epoch: int
    began: int
    deadline: int


class ServerClock:
    """The S3 server's clock. It is right, until it is set."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.ahead_ms = 0

    def now(self) -> int:
        return EPOCH_MS + int(self._loop.time() * 1_000) + self.ahead_ms

    async def sleep_until(self, at_ms: int) -> None:
        raise AssertionError("a server does not sleep")


class UploadWorld(World):
    """Clients of two spaces that want the same few things stored, one bucket, and what happens.

    Args:
        seed: what to draw from. rates: faults and how often they come, in place of those drawn.
    """

    def __init__(self, seed: int, *, rates: Mapping[str, float] | None = None) -> None:
        random = Random(f"uploads {seed}")
        options = replace(Options.draw(seed), clients=random.randint(1, 4))
        options.operations = random.randint(2, 5)
        options.fault_seconds = random.uniform(6, 30)  # an upload takes its time
        options.nodes, options.grain_ms = random.randint(1, 3), random.choice((100, 400))
        self.wild = random.random() < 0.15
        """Whether clocks are wrong by more than the terms allow for."""
        if not self.wild:
            for fault in ("skew", "jump"):
                options.rates.pop(fault, None)
        if options.rates:
            if random.random() < 0.4:  # of all that can fail, the bucket alone
                options.rates = {"off": 0.5}
            for fault in (*S3_FAULTS, "off"):
                if random.random() < 0.3 or fault == S3_FAULTS[seed % len(S3_FAULTS)]:
                    options.rates[fault] = random.choice((0.02, 0.1, 0.3))
            if {"s3 cut", "s3 wrong bytes"} & set(options.rates):  # else nobody reads a body
                options.rates["s3 no checksum"] = 0.5 if "s3 wrong checksum" in options.rates else 1
        if rates is not None:
            options.rates, self.wild = dict(rates), False
        super().__init__(options, MemoryStore(), Workload)
        self.looks_ms = random.choice((300, 300, 10_000))
        least = random.choice((1, 1, 40))
        self.profile: Profile = random.choice((local, remote))(limit=LIMIT, least=least)
        self.clock = ServerClock(self.loop)
        self.s3 = FakeS3("blobs", self.clock, hit=self.faults.hit, random=Random(f"bucket {seed}"))
        self.s3.before_delete = self._judge_delete
        self.names = {
            STORE_ADD.job(space, link(data).multihash).id: (space, object_key(link(data)))
            for space in SPACES
            for data in DATA
        }
        self.landed: list[Landed] = []
        self.freed: set[CID] = set()

    # --- processes

    def _heal(self) -> None:
        super()._heal()
        if self.wild:  # whoever has set his clocks by each other has not left the server out
            now = self.clock.now()
            self.clock.ahead_ms = max([0, *(node.clock.now() - now for node in self.nodes)])
        self.loop.spawn(None, self._person())

    async def _person(self) -> None:
        """Somebody looks every other second at what is parked: who wants bytes that are on their
        way out waits until they are gone."""
        while True:
            await anyio.sleep(2)
            await self._operate()

    async def _node(self, node: Node) -> None:
        seed = f"{self.options.seed} {node.name}"
        random = Random(f"node {seed}")
        if "off" in self.options.rates and not self._healed:
            node.clock.skew_ms += random.randint(-OFF_MS, OFF_MS)
        slots = self.options.slots
        bucket = Bucket(
            "blobs",
            client=self.s3.client(node.clock),
            watch_base_ms=self.looks_ms,
            watch_cap_ms=self.looks_ms * 5,
            watchers=min(2, slots - 1),
        )
        try:
            async with (
                bucket,
                Transactor(
                    node.store,
                    self.profile.workflows,
                    transactional=self._noted(self.profile.transactional),
                    clock=node.clock,
                    random=Random(f"transactor {seed}"),
                    pure=self.options.pure,
                    alarm=lambda text: self.problem(f"alarm: {text}"),
                ) as transactor,
            ):
                node.transactor = transactor
                known: dict[type, Handler] = {
                    **bucket.handlers(),
                    **self._noted(self.profile.handlers(transactor)),
                    Delete: sweeping(transactor, bucket.delete),
                    Alert: _alert,
                }
                async with Scheduler(
                    transactor,
                    {kind: self._faulty(handler) for kind, handler in known.items()},
                    policies={kind: _policy(kind) for kind in known},
                    limits=Limits(slots=slots),
                    lease_seconds=self.options.lease_seconds,
                    grace_seconds=5,
                    random=Random(f"scheduler {seed}"),
                ):
                    await node.stop.wait()
            node.left = True
        except Exception as error:
            self.problem(f"{node.name} ended: {error!r}")
            self._crash(node)

    def _noted(self, functions: Mapping[type, Any]) -> dict[type, Any]:
        """The same, noting whose capacity some plan has given back."""
        noted = dict(functions)
        if (give_back := noted.get(Deallocate)) is not None:

            def note(first: Any, second: Any) -> Any:
                task = first if isinstance(first, Deallocate) else second
                self.freed.add(task.reservation)
                return give_back(first, second)

            noted[Deallocate] = note
        return noted

    def _faulty(self, handler: Handler) -> Handler:
        async def perform(task: Any, context: Context) -> Any:
            if self.faults.hit("raise"):
                raise Failure("NotSent", None, retry=Retry.SAFE)
            if self.faults.hit("hang"):
                await anyio.sleep(60)
            answer = await handler(task, context)
            if self.faults.hit("answer lost"):
                raise Failure("NoAnswer", None, retry=Retry.IDEMPOTENT)
            return answer

        return perform

    def _judge_delete(self, key: str) -> None:
        """No delete meets bytes that somebody has stored."""
        for row in at_once(self.ground.store.jobs(workflow=STORE_ADD.name, tag="stored")):
            if self.names[row.job][1] == key:
                self.problem(f"bytes were deleted that {self.names[row.job]} has stored")

    # --- clients

    async def _client(self, number: int) -> None:
        for _ in range(self.options.operations):
            await anyio.sleep(self.random.random() * self.random.choice((0.0, 0.3, 3.0)))
            space, data = self.random.choice(SPACES), self.random.choice(DATA)
            await self._deal(space, data, self.random.choice((*WAYS, "honest", "slow")))
            if self.random.random() < 0.3:
                await self._try(Remove(space, link(data)))
            elif self.random.random() < 0.1:
                await self._audit(space, data)

    async def _deal(self, space: str, data: bytes, way: str) -> None:
        """Ask for it to be stored, and upload, or not."""
        size = self.random.randint(1, 15) if way == "size" else len(data)
        await self._try(Add(space, link(data), size, terms=TERMS))
        if self.random.random() < 0.1:
            await self._try(Put(space, link(data)))  # before there is anything to claim
        job = STORE_ADD.job(space, link(data).multihash)
        state = await self._offered(job)
        if state is None:
            return
        self.outcome.seen[f"way {way}"] += 1
        if way == "cancel":
            await self._try(Cancel(space, link(data)))
        elif way == "extend":
            await anyio.sleep(self.random.random() * 4)
            await self._try(Extend(space, link(data)))
        if way == "late":
            await self._until(state.window.deadline)
            await anyio.sleep(self.random.random() * 8)
        if way == "tamper":
            await self._tamper(job, state, data)
        elif way == "squat":
            self._squat(job, object_key(link(data)), len(data))
        elif way != "never":
            await self._upload(job, state, data, way)
        if way in ("never", "size", "hash", "squat") or (
            way != "slow" and self.random.random() < 0.6
        ):
            await self._try(Put(space, link(data)))  # true or not

    async def _offered(self, job: Job) -> Receiving | None:
        """The state, once it has a URL; None if it comes to something else, or to nothing soon."""
        for _ in range(12):
            try:
                head = await self.call(lambda transactor: transactor.get(job))
            except (Unheard, StmflowError):
                head = None
            if head is not None and head.state.tag in RESTING:
                return None
            if head is not None and isinstance(head.state, Receiving):
                state: Receiving = head.state
                if state.window.target is not None:
                    return state
            await anyio.sleep(0.4)
        return None

    async def _until(self, at_ms: int) -> None:
        """Nobody waits for the deadline of a process whose clock is an hour ahead."""
        left_ms = min(at_ms - self.clock.now(), PATIENCE_MS)
        await anyio.sleep(max(left_ms, 0) / 1_000)

    async def _upload(self, job: Job, state: Receiving, data: bytes, way: str) -> None:
        assert state.window.target is not None
        body, headers = data, dict(state.window.target.headers)
        if way == "size" and self.random.random() < 0.5:
            headers["content-length"] = str(len(body))
        if way == "hash":
            body = bytes(len(data))[:-1] + b"!"
        seconds = self.random.random() * 0.3
        if way == "slow":  # begins in time, and ends when the URL is dead
            await self._until(state.window.deadline - EARLY_MS)
            seconds = SLOW_MS / 1_000
        for _ in range(2 if way == "twice" else 1):
            await self._put(job, state, body, headers, seconds, way)

    async def _put(
        self,
        job: Job,
        state: Receiving,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float,
        way: str,
    ) -> None:
        """One PUT, and what must be true if the server takes it."""
        assert state.window.target is not None
        began = self.clock.now()
        status = await self.s3.request(
            "PUT", state.window.target.url, headers, body, seconds=seconds
        )
        self.outcome.seen[f"{way}: {status}"] += 1
        if status != 200:
            return
        if len(body) != state.upload.size or link(body).digest != state.upload.link.digest:
            self.problem("an upload was taken of other bytes than were asked for")
        if began >= state.window.deadline:
            self.problem("an upload was taken after its deadline")
        if not self.wild and await self._given_back(job, state.upload.reservation):
            self.problem("an upload was taken whose space had been given back")
        self.landed.append(Landed(job.id, state.epoch, began, state.window.deadline))

    async def _given_back(self, job: Job, reservation: CID) -> bool:
        """Whether capacity has certainly been given back.

        What a plan would have given back, that was never committed, was not: the job still pays, or
        has a timer open behind which it will not any more.
        """
        store = self.ground.store
        if RESERVATION in self.profile.workflows:
            kept = RESERVATION.job(reservation).id
            head = (await store.heads([kept]))[kept]
            return head is not None and head.tag == Released.tag
        head = (await store.heads([job.id]))[job.id]
        assert head is not None
        upload = STORE_ADD.state_of(codec.decode(head.state)).upload
        pays = upload.charged > 0 and upload.reservation == reservation
        timers = [row for row in await store.tasks(job=job.id) if row.timer]
        return reservation in self.freed and not pays and not timers

    def _squat(self, job: Job, key: str, size: int) -> None:
        """Other bytes, where the job waits for its own: it has to see, and to have them swept."""
        stored = at_once(self.ground.store.heads([job.id]))[job.id]
        if stored.tag == "receiving" and key not in self.s3.objects:
            self.s3.place(key, bytes(size))
            self.outcome.seen["squatted"] += 1

    async def _tamper(self, job: Job, state: Receiving, data: bytes) -> None:
        """Whatever is changed in a URL, it is good for nothing then."""
        assert state.window.target is not None
        target, other = state.window.target, object_key(CID.of(b"another"))
        changed = self.random.choice(
            (
                (object_key(state.upload.link), other),
                ("/blobs/", "/other/"),
                ("X-Amz-Expires=", "X-Amz-Expires=9"),
                ("X-Amz-Date=", "X-Amz-Date=9"),
                ("X-Amz-Signature=", "X-Amz-Signature=0"),
                ("content-length%3B", ""),
            )
        )
        url = target.url.replace(*changed)
        assert url != target.url
        for method, where in (("PUT", url), ("DELETE", target.url)):
            status = await self.s3.request(method, where, target.headers, data)
            self.outcome.seen[f"tamper: {status}"] += 1
            if status == 200:
                self.problem(f"{method} with {changed} was taken")

    async def _audit(self, space: str, data: bytes) -> None:
        """An audit does not find the bytes, or believes so."""
        job = STORE_ADD.job(space, link(data).multihash)

        def body(tx: Any) -> None:
            state = tx.read(job)
            if state is not None and state.tag == "stored":
                tx.apply(job, Lost())

        try:
            await self.call(lambda transactor: transactor.transact(body))
        except (Unheard, StmflowError):
            return
        self.outcome.seen["audits"] += 1

    async def _try(self, event: Any) -> None:
        """Send it until somebody has taken or refused it."""
        delivery, job = f"ask {self.unique()}", STORE_ADD.job_of(event)
        for _ in range(60):
            try:
                answer = await self.call(lambda t: t.send(job, event, delivery=delivery))
            except (Unheard, StmflowError):
                await anyio.sleep(self.random.random())
            else:
                said = answer.code or answer.kind
                self.outcome.seen[f"{type(event).__name__}: {said}"] += 1
                return

    async def _operate(self) -> None:
        """A person has everything tried again that is parked."""
        for row in await self.ground.store.tasks(parked=True):
            try:
                await self.call(lambda transactor, id=row.id: transactor.redrive(id))
            except (Unheard, StmflowError, UnknownTask):
                continue
            self.outcome.seen["redriven"] += 1


def link(data: bytes) -> CID:
    return CID.of(data, 0x55)


def _policy(kind: type) -> Policy:
    attempts = 100_000 if kind is Watch else 6
    return Policy(attempts=attempts, attempt_ms=4_000, base_ms=100, cap_ms=2_000)


async def _alert(task: Alert, context: Context) -> None:
    pass


# --- what must be true at rest --------------------------------------------------------------------


def uploaded(seed: int) -> Outcome:
    """Run the world of that seed to its rest, and check everything that must hold."""
    return checked(UploadWorld(seed))


def checked(world: UploadWorld) -> Outcome:
    """The same for any world."""
    outcome = world.run()
    if not outcome.problems:
        outcome.problems += at_once(_check(world))
    return outcome


async def _check(world: UploadWorld) -> list[str]:
    store = world.outcome.store
    problems = [f"still parked: {row}" for row in await store.tasks()]
    states: dict[str, list[tuple[CID, Any]]] = {}
    chains: dict[CID, Sequence[tuple[int, Any]]] = {}
    for row in await store.jobs(limit=10_000):
        stored = (await store.heads([row.job]))[row.job]
        blocks = history.blocks_of(await store.revisions(row.job))
        report = history.verify(
            row.job,
            stored.revision,
            blocks.get,
            workflows=world.profile.workflows,
            stored=stored,
            rows=await store.tasks(job=row.job),
        )
        problems += [f"{stored.workflow}: {one.text}" for one in report.findings]
        workflow = next(w for w in world.profile.workflows if w.name == stored.workflow)
        chain = [
            (one.at, workflow.state_of(codec.decode(blocks[one.line(row.job).state])))
            for one in history.walk(row.job, stored.revision, blocks.get)
        ][::-1]
        chains[row.job] = chain
        states.setdefault(workflow.name, []).append((row.job, chain[-1][1]))
        if workflow is QUOTA and (most := max(quota.used for _, quota in chain)) > LIMIT:
            problems.append(f"{most} of {LIMIT} bytes were used")
    uploads = states.get(STORE_ADD.name, [])
    problems += _contents(world, uploads)
    problems += _accounts(world, uploads, states)
    problems += _blobs(uploads, states)
    for job, _ in uploads:
        problems += _course(world, job, chains[job])
    return problems


def _contents(world: UploadWorld, uploads: Sequence[tuple[CID, Any]]) -> Iterator[str]:
    """P13; and nothing lies in the bucket that nobody stores."""
    owned = set()
    for _, state in uploads:
        world.outcome.seen[f"end {state.tag}"] += 1
        if state.tag not in RESTING:
            yield f"a job rests in {state}"
        if state.tag != "stored":
            continue
        key, found = object_key(state.upload.link), None
        owned.add(key)
        found = world.s3.objects.get(key)
        if found is None or len(found.data) != state.upload.size:
            yield f"stored, and there is {found}: {state}"
        elif link(found.data).digest != state.upload.link.digest:
            yield f"stored, and other bytes are there: {state}"
    strays = set(world.s3.objects) - owned
    if strays and not world.wild:
        yield f"objects that nobody stores: {strays}"


def _accounts(
    world: UploadWorld,
    uploads: Sequence[tuple[CID, Any]],
    states: Mapping[str, Sequence[tuple[CID, Any]]],
) -> Iterator[str]:
    """Every byte that a space is charged for is one of a job that pays, and the other way round."""
    paid: Counter[str] = Counter()
    reserved = {}
    for _, state in uploads:
        if (state.upload.charged > 0) != (state.tag in PAYING):
            yield f"charged: {state}"
        paid[state.upload.space] += state.upload.charged
        if state.upload.charged:
            reserved[state.upload.reservation] = state.upload.charged
    quotas = dict(states.get(QUOTA.name, []))
    for space in SPACES:
        quota = quotas.get(QUOTA.job(space).id)
        used = 0 if quota is None else quota.used
        if used != paid[space] or used > LIMIT:
            yield f"{space} is charged for {used} of {LIMIT} bytes, and uses {paid[space]}"
    granted = {
        job: state.size
        for job, state in states.get(RESERVATION.name, [])
        if isinstance(state, Granted)
    }
    if RESERVATION in world.profile.workflows:
        mine = {RESERVATION.job(name).id: size for name, size in reserved.items()}
        if granted != mine:
            yield f"granted are {granted}, and jobs hold {mine}"


def _blobs(
    uploads: Sequence[tuple[CID, Any]], states: Mapping[str, Sequence[tuple[CID, Any]]]
) -> Iterator[str]:
    """References are the jobs that have stored it, and nobody holds anything at rest."""
    referred = Counter(state.upload.link.digest for _, state in uploads if state.tag == "stored")
    for _, blob in states.get(BLOB.name, []):
        count = referred.pop(blob.link.digest, 0)
        has = (blob.references, blob.held) if isinstance(blob, Live) else (0, 0)
        if has != (count, 0):
            yield f"{count} jobs store what {blob} counts"
    if referred:
        yield f"stored, and no blob: {referred}"


def _course(world: UploadWorld, job: CID, chain: Sequence[tuple[int, Any]]) -> Iterator[str]:
    """S5, S6, S10: how a job may get from state to state."""
    lying = world.wild or LIES & set(world.faults.fired)
    for (_, before), (at, state) in pairwise(chain):
        world.outcome.seen[f"to {state.tag}"] += 1
        if before.tag == "stored" and state.tag not in BEHIND_STORED:
            yield f"from stored to {state.tag}"
        if state.tag == "expired" and at < state.deadline + TERMS.skew_ms:
            yield f"expired {state.deadline + TERMS.skew_ms - at} ms too early"
        if state.tag == "expired" and not lying:
            for one in world.landed:
                if (one.job, one.epoch) == (job, state.epoch):
                    yield f"expired, and {one} had landed"


__all__ = ["WAYS", "UploadWorld", "checked", "uploaded"]
