"""Rules 7 and 8: bytes that came in time are stored however late we look, and what belongs to an
old try does not touch a new one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx
import pytest

from examples.store_add.model import Cancel, Receiving, Terms
from examples.store_add.quota import local, remote
from examples.store_add.seaweed import Endpoint
from examples.store_add.service import service, upload_target
from examples.store_add.workflow import STORE_ADD
from scheduler import Context, Handler
from scheduler.handlers import Failure, Retry
from scheduler.handlers.s3 import Presign, Stat, Watch
from stmflow import ANY, SystemClock, Transactor, Workflow, same, sleep
from stmflow.store import DueTimer
from stmflow.store.sqlite import SQLiteStore
from tests.acceptance.fakes import (
    FolderBucket,
    Machine,
    SetClock,
    balanced,
    events,
    job_of,
    machine,
    tags,
    verified,
)
from tests.acceptance.story import add, link

SPACE = "did:key:zAlice"
DATA = b"in the last second"
PROFILES = pytest.mark.parametrize("profile", [local, remote], ids=["local", "remote"])


# --- 7: in time, but looked at late ---------------------------------------------------------------


@PROFILES
@pytest.mark.parametrize("skew_s", [1, 59, 60, 61])
async def test_a_put_one_second_before_the_deadline(
    tmp_path: Path, profile: Any, skew_s: int
) -> None:
    """No worker runs from before the PUT until 60 s after the deadline."""
    clock = SetClock()
    bucket = FolderBucket(tmp_path / "bucket", clock)
    terms = Terms(window_ms=3_600_000, skew_ms=skew_s * 1_000)
    async with machine(tmp_path / "jobs.db", profile(limit=100), bucket) as world:
        await world.transactor.send(STORE_ADD, add(SPACE, DATA, terms))
        head = await world.settled(job_of(SPACE, DATA))
        assert isinstance(head.state, Receiving)
        await world.quiet()
    deadline = head.state.window.deadline
    assert head.state.window.target is not None
    clock.set(deadline - 1_000)
    assert bucket.upload(head.state.window.target, DATA) == 200
    clock.set(deadline + 60_000)
    async with machine(tmp_path / "jobs.db", profile(limit=100), bucket) as world:
        await world.rest()
        assert await world.tag(SPACE, DATA) == "stored"
        assert "expired" not in await tags(world.store, head.job)
        assert await world.used(SPACE) == len(DATA)
        await balanced(world)
        await verified(world.store, world.profile)


@PROFILES
async def test_a_put_at_the_deadline_is_refused(tmp_path: Path, profile: Any) -> None:
    """The other side of the same second: nothing was written, so it ends expired."""
    clock = SetClock()
    bucket = FolderBucket(tmp_path / "bucket", clock)
    async with machine(tmp_path / "jobs.db", profile(limit=100), bucket) as world:
        await world.transactor.send(STORE_ADD, add(SPACE, DATA))
        head = await world.settled(job_of(SPACE, DATA))
        await world.quiet()
    clock.set(head.state.window.deadline)
    assert bucket.upload(head.state.window.target, DATA) == 403
    async with machine(tmp_path / "jobs.db", profile(limit=100), bucket) as world:
        await world.rest()
        assert await world.tag(SPACE, DATA) == "expired"
        await balanced(world)


class LateClock(SystemClock):
    """The system's clock, and so much later."""

    def __init__(self) -> None:
        self.later_ms = 0

    def now(self) -> int:
        return super().now() + self.later_ms


async def test_a_put_in_the_last_seconds_of_a_real_url(tmp_path: Path, endpoint: Endpoint) -> None:
    """A URL lives for whole seconds and may die up to two before its deadline."""
    clock = LateClock()
    terms = Terms(window_ms=5_000, skew_ms=2_000)

    async def blind(task: Watch, context: Context) -> None:
        raise Failure("Watching", retry=Retry.SAFE, after_ms=3_600_000)

    unseen: dict[type, Handler] = {Watch: blind}
    async with service(tmp_path / "jobs.db", endpoint, clock=clock, instead=unseen) as storage:
        answer = await storage.add(SPACE, DATA, terms=terms)
        assert answer.job is not None
        state = await storage.settled(answer.job)
        assert isinstance(state, Receiving)
    target = upload_target(state)
    assert target is not None
    await clock.sleep_until(state.window.deadline - 3_000)
    async with httpx.AsyncClient() as client:
        uploaded = await client.put(target.url, content=DATA, headers=dict(target.headers))
    assert uploaded.status_code == 200
    clock.later_ms = state.window.deadline + 60_000 - clock.now()
    async with service(tmp_path / "jobs.db", endpoint, clock=clock, instead=unseen) as storage:
        head = await storage.reached(answer.job, "stored")
        assert "expired" not in await tags(storage.store, head.job)


# --- 8: the second try ----------------------------------------------------------------------------


@PROFILES
async def test_an_old_timer_in_a_second_try(tmp_path: Path, profile: Any) -> None:
    """The timer of the first try, as a worker may still hold it in its hands."""
    bucket = FolderBucket(tmp_path / "bucket", SetClock())
    async with machine(tmp_path / "jobs.db", profile(limit=100), bucket) as world:
        old = await second_try(world)
        head = await world.transactor.get(job_of(SPACE, DATA))
        assert head is not None
        assert (head.epoch, head.state.tag) == (2, "receiving")
        for timer in (old, old._replace(due=0), DueTimer(old.job, new_place(old), old.id, 0)):
            answer = await world.transactor.fire(timer)
            assert answer.kind == "closed"
        now = await world.transactor.get(job_of(SPACE, DATA))
        assert now is not None
        assert (now.state_cid, now.revision) == (head.state_cid, head.revision)
        (timer_row,) = [row for row in await world.store.tasks(job=head.job) if row.timer]
        assert timer_row.id != old.id
        await world.rest()
        await balanced(world)
        await verified(world.store, world.profile)


async def second_try(world: Machine) -> DueTimer:
    """Let a job expire and ask again; the timer of its first try."""
    await world.transactor.send(STORE_ADD, add(SPACE, DATA))
    head = await world.settled(job_of(SPACE, DATA))
    (row,) = [row for row in await world.store.tasks(job=head.job) if row.timer]
    await world.rest()
    assert await world.tag(SPACE, DATA) == "expired"
    await world.transactor.send(STORE_ADD, add(SPACE, DATA))
    await world.reached(head.job, "receiving")
    await world.settled(head.job)
    await world.quiet()
    return DueTimer(row.job, row.n, row.id, row.due)


def new_place(timer: DueTimer) -> int:
    """Where another row of the job may lie by now."""
    return timer.n + 1


@PROFILES
@pytest.mark.parametrize("kind", ["stale", "closed"])
async def test_an_old_outcome_in_a_second_try(tmp_path: Path, profile: Any, kind: str) -> None:
    """The URL of the first try is signed when the second has begun: `stale`; when the second has
    asked for a URL under the same name: `closed`."""
    bucket = FolderBucket(tmp_path / "bucket", SetClock())
    signing, sign, look = anyio.Event(), anyio.Event(), anyio.Event()

    async def presign(task: Presign, context: Context) -> dict[str, Any]:
        if not signing.is_set():
            signing.set()
            await sign.wait()
        return await bucket.presign(task, context)

    async def stat(task: Stat, context: Context) -> dict[str, Any]:
        if signing.is_set():
            await look.wait()
        return await bucket.stat(task, context)

    slow: dict[type, Handler] = {Presign: presign, Stat: stat}
    async with machine(tmp_path / "jobs.db", profile(limit=100), bucket, instead=slow) as world:
        job = job_of(SPACE, DATA)
        await world.transactor.send(STORE_ADD, add(SPACE, DATA))
        await signing.wait()
        await world.transactor.send(STORE_ADD, Cancel(SPACE, link(DATA)))
        await world.transactor.send(STORE_ADD, add(SPACE, DATA))
        if kind == "closed":
            look.set()
            head = await world.settled(job)
        else:
            head = await world.reached(job, "probing")
        assert head.epoch == 2
        before = await events(world.store, head.job)
        assert kind not in world.scheduler.counters
        sign.set()
        with anyio.fail_after(20):
            while kind not in world.scheduler.counters:
                await anyio.sleep(0.003)
        now = await world.transactor.get(job)
        assert now is not None
        assert world.scheduler.counters[kind] == 1
        assert now.state_cid == head.state_cid
        assert now.seq == head.seq + (kind == "stale")  # its receipt enters the log
        assert await events(world.store, head.job) == before
        look.set()
        await world.rest()
        assert await world.tag(SPACE, DATA) == "expired"
        await balanced(world)
        await verified(world.store, world.profile)


@dataclass(frozen=True, slots=True)
class Begin:
    tag: ClassVar[str] = "begin"
    name: str


@dataclass(frozen=True, slots=True)
class Late:
    tag: ClassVar[str] = "late"


@dataclass(frozen=True, slots=True)
class Tries:
    tag: ClassVar[str] = "tries"
    epoch: int


def _tries(event: Begin | Late, state: Tries | None) -> object:
    if isinstance(event, Late):
        return Tries(0 if state is None else state.epoch + 1_000), []
    if state is not None and state.epoch == 2:
        return same()
    epoch = 1 if state is None else 2
    timer = sleep(for_=timedelta(hours=1), during=ANY).then(Late)
    return Tries(epoch), [timer] if epoch == 1 else []


TRIES = Workflow(
    "tries",
    state=Tries,
    events=(Begin, Late),
    outside=(Begin,),
    key=("name",),
    update=_tries,
    epoch="epoch",
)


async def test_an_old_timer_that_outlives_its_try_is_stale(tmp_path: Path) -> None:
    """`during=ANY` lets a timer live on; its event all the same belongs to the try that set it."""
    clock = SetClock()
    async with (
        SQLiteStore.open(tmp_path / "jobs.db") as store,
        Transactor(store, [TRIES], clock=clock) as transactor,
    ):
        for _ in range(2):
            await transactor.send(TRIES, Begin("one"))
        head = await transactor.get(TRIES.job("one"))
        assert head is not None
        assert head.epoch == 2
        clock.set(clock.now() + 3_600_000)
        (timer,) = await store.timers(clock.now(), 10)
        assert (await transactor.fire(timer)).kind == "stale"
        now = await transactor.get(TRIES.job("one"))
        assert now is not None
        assert (now.state_cid, now.epoch) == (head.state_cid, 2)
        assert (await transactor.fire(timer)).kind == "closed"
        assert await store.tasks() == []
