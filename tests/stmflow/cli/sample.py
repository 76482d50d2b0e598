"""Workflows and histories for the tests of `stmflow.history` and of the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any

import anyio

from stmflow import (
    ANY,
    CELL,
    CID,
    At,
    Data,
    Err,
    Hook,
    Job,
    Transactor,
    Tx,
    Workflow,
    cancel,
    ignore,
    perform,
    reject,
    same,
    sleep,
    together,
)
from stmflow.store import Claim, DueTimer, Store, StoredHead, Want
from stmflow.transaction import Transactional

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self, at_ms: int = START_MS) -> None:
        self.at_ms = at_ms

    def now(self) -> int:
        return self.at_ms

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(3_600 if at_ms > self.at_ms else 0)


# --- an upload ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Added:
    space: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Probed:
    found: bool


@dataclass(frozen=True, slots=True)
class Pair:
    left: int
    right: Data


@dataclass(frozen=True, slots=True)
class Claimed:
    pass


@dataclass(frozen=True, slots=True)
class Expired:
    at: At = 0


@dataclass(frozen=True, slots=True)
class Failed:
    error: Err


@dataclass(frozen=True, slots=True)
class Upload:
    space: str
    name: str
    size: int
    epoch: int = 1
    status: str = "allocating"
    note: Data = None


@dataclass(frozen=True, slots=True)
class Allocate:
    space: str
    size: int


@dataclass(frozen=True, slots=True)
class Stat:
    name: str


@dataclass(frozen=True, slots=True)
class Mark:
    what: str


def update(event: Any, upload: Upload | None) -> Any:
    match event, upload:
        case Added(space, name, size), None | Upload(status="expired" | "failed"):
            epoch = 1 if upload is None else upload.epoch + 1
            asked = perform(Allocate(space, size)).and_(perform(Stat(name), name="look"))
            return Upload(space, name, size, epoch), [asked.then(Probed).catch(Failed)]
        case Probed(found=True), Upload(status="allocating" | "receiving"):
            both = together(perform(Mark("left")), perform(Mark("right")))
            return replace(upload, status="stored"), [both.then(Pair), cancel("late")]
        case Probed(found=False), Upload(status="allocating"):
            again = sleep(for_=timedelta(minutes=5), name="late", during=ANY)
            limit = sleep(for_=timedelta(hours=1))
            return replace(upload, status="receiving"), [again, limit.then(Expired)]
        case Claimed(), Upload(status="receiving"):
            return same(perform(Stat(upload.name)).then(Probed).catch(Failed))
        case Pair(left=13), Upload():
            raise ValueError("thirteen")
        case Pair(left, right), Upload():
            return replace(upload, note=(left, right)), []
        case Expired(), Upload(status="receiving"):
            return replace(upload, status="expired"), [perform(Mark("free"))]
        case Failed(error), Upload():
            return replace(upload, status="failed", note=error.name), []
        case Added(), Upload(status="stored"):
            return reject("Stored")
        case Added(), _:
            return same()
    return ignore()


def audit(event: Any, before: Any, after: Any) -> Any:
    """Only for spaces that ask for it."""
    if isinstance(event, Added) and event.space.startswith("audited"):
        yield perform(Mark(f"{event.name} added"))


UPLOAD = Workflow(
    "upload",
    state=Upload,
    events=(Added, Probed, Pair, Claimed, Expired, Failed),
    outside=(Added, Claimed),
    tasks=(Allocate, Stat, Mark),
    update=update,
    key=("space", "name"),
    epoch="epoch",
    tag="status",
    post=(Hook("audit", 1, audit),),
)


# --- the same, one version later ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Added2:
    tag = "Added"
    space: str
    name: str
    size: int
    by: str


@dataclass(frozen=True, slots=True)
class Looked:
    found: bool


@dataclass(frozen=True, slots=True)
class Upload2:
    tag = "Upload"
    space: str
    name: str
    size: int
    epoch: int
    status: str
    note: Data
    by: str


def update2(event: Any, upload: Upload2 | None) -> Any:
    match event, upload:
        case Added2(), None | Upload2(status="expired" | "failed"):
            epoch = 1 if upload is None else upload.epoch + 1
            asked = perform(Stat(event.name)).then(Looked).catch(Failed)
            made = Upload2(event.space, event.name, event.size, epoch, "asking", None, event.by)
            return made, [asked]
        case Looked(found), Upload2():
            return replace(upload, status="stored" if found else "missing"), []
        case Claimed(), Upload2(status="receiving"):
            return same(perform(Stat(upload.name)).then(Looked).catch(Failed))
        case Failed(error), Upload2():
            return replace(upload, status="failed", note=error.name), []
        case Expired(), Upload2():
            return replace(upload, status="expired"), []
    return ignore()


def lift_state(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return tag, {**fields, "by": "nobody"}


def lift_event(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if tag == "Probed":
        return "Looked", fields
    return tag, {**fields, "by": "nobody"} if tag == "Added" else fields


UPLOAD2 = Workflow(
    "upload",
    version=2,
    state=Upload2,
    events=(Added2, Looked, Claimed, Expired, Failed),
    outside=(Added2, Claimed),
    tasks=(Allocate, Stat, Mark),
    update=update2,
    key=("space", "name"),
    epoch="epoch",
    tag="status",
    upcasts={1: (lift_state, lift_event)},
)


# --- an order that reserves in a quota, inside its own transaction --------------------------------


@dataclass(frozen=True, slots=True)
class Ordered:
    space: str
    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Reserved:
    left: int


@dataclass(frozen=True, slots=True)
class Refused:
    error: Err


@dataclass(frozen=True, slots=True)
class Order:
    space: str
    status: str
    left: int = 0


@dataclass(frozen=True, slots=True)
class Reserve:
    space: str
    size: int


def order(event: Any, state: Order | None) -> Any:
    match event, state:
        case Ordered(space, _, size), None:
            asked = perform(Reserve(space, size)).then(Reserved).catch(Refused, "NoSpace")
            return Order(space, "asking"), [asked]
        case Reserved(left), Order():
            return replace(state, status="reserved", left=left), [perform(Mark("reserved"))]
        case Refused(), Order():
            return replace(state, status="refused"), []
    return same()


ORDER = Workflow(
    "order",
    state=Order,
    events=(Ordered, Reserved, Refused),
    outside=(Ordered,),
    tasks=(Reserve, Mark),
    update=order,
    key=("space", "number"),
    tag="status",
)


@dataclass(frozen=True, slots=True)
class Take:
    size: int


@dataclass(frozen=True, slots=True)
class Quota:
    left: int


def quota(event: Take, state: Quota | None) -> Any:
    left = (10 if state is None else state.left) - event.size
    return reject("NoSpace") if left < 0 else (Quota(left), [])


QUOTA = Workflow("quota", state=Quota, events=(Take,), update=quota)


def reserve(tx: Tx, task: Reserve) -> Any:
    """A transactional task: the quota's job and the order's are written together."""
    tx.read(CELL.job("limits"))
    answer = tx.apply(QUOTA.job(task.space), Take(task.size))
    return Err("NoSpace") if answer.kind == "rejected" else tx.read(QUOTA.job(task.space)).left


TRANSACTIONAL: Transactional = {Reserve: reserve}


class App:
    """What `--app` may name: workflows, and what runs inside transactions."""

    workflows = (UPLOAD, ORDER, QUOTA)
    transactional = TRANSACTIONAL


app = App()
workflows = [UPLOAD, ORDER, QUOTA]
newer = [UPLOAD, UPLOAD2, ORDER, QUOTA]
only_orders = [ORDER, QUOTA]


def made() -> list[Workflow]:
    """A callable will do as well."""
    return workflows


def _lucky(event: Any, upload: Upload | None) -> Any:
    if isinstance(event, Pair) and event.left == 13:
        return replace(upload, note="lucky"), []
    return update(event, upload)


def _changed(event: Any, upload: Upload | None) -> Any:
    answer = update(event, upload)
    if isinstance(event, Probed) and isinstance(answer, tuple):
        return replace(answer[0], note="changed"), answer[1]
    return answer


def _with(changed_update: Any) -> list[Workflow]:
    upload = Workflow(
        "upload",
        state=Upload,
        events=(Added, Probed, Pair, Claimed, Expired, Failed),
        outside=(Added, Claimed),
        tasks=(Allocate, Stat, Mark),
        update=changed_update,
        key=("space", "name"),
        epoch="epoch",
        tag="status",
    )
    return [upload, ORDER, QUOTA]


changed = _with(_changed)
lucky = _with(_lucky)


# --- a world ------------------------------------------------------------------------------------


class World:
    """A store, a transactor and hands that perform tasks."""

    def __init__(self, store: Store, transactor: Transactor, clock: Hands) -> None:
        self.store = store
        self.transactor = transactor
        self.clock = clock
        self._worker: int | None = None

    async def send(self, workflow: Workflow, event: Any, **options: Any) -> CID:
        answer = await self.transactor.send(workflow, event, **options)
        assert answer.job is not None
        return answer.job

    async def perform(self, **outcomes: Any) -> int:
        """Claim the tasks of these types and settle them with these outcomes, once each."""
        settled = 0
        if self._worker is None:
            self._worker = self.store.enlist()
        worker = self._worker
        wants = [
            Want(workflow.name, workflow.version, tag, 100)
            for workflow in self.transactor.registry.versions.values()
            for tag in outcomes
        ]
        now = self.clock.now()
        for claimed in await self.transactor.do(lambda: Claim(worker, wants, now)):
            outcome = outcomes[claimed.tag]
            await self.transactor.settle(claimed.ref, outcome)
            settled += 1
        return settled

    async def pass_time(self, ms: int) -> None:
        """Fire the timers that become due."""
        self.clock.at_ms += ms
        for due in await self.store.timers(self.clock.now(), 100):
            await self.transactor.fire(DueTimer(*due))

    async def head(self, job: CID) -> StoredHead:
        found = (await self.store.heads([job]))[job]
        assert found is not None
        return found


@asynccontextmanager
async def world(
    store: Store, flows: Any = None, *, clock: Hands | None = None, pure: bool = True
) -> AsyncIterator[World]:
    """A transactor on that store."""
    clock = clock or Hands()
    async with Transactor(
        store,
        workflows if flows is None else flows,
        transactional=TRANSACTIONAL,
        clock=clock,
        random=Random(7),
        pure=pure,
    ) as transactor:
        yield World(store, transactor, clock)


async def upload(world: World, space: str = "s", name: str = "a") -> CID:
    """An upload that is received, expires, is tried again and fails: nine revisions, two epochs."""
    made = await world.send(UPLOAD, Added(space, name, 5), delivery="first")
    await world.perform(Allocate=None)
    await world.perform(Stat=False)
    await world.send(UPLOAD, Added(space, name, 5))
    await world.pass_time(HOUR_MS)
    await world.perform(Mark=None)
    await world.send(UPLOAD, Added(space, name, 6))
    await world.perform(Allocate=None)
    await world.perform(Stat=Err("Gone", {"why": [1, None]}))
    return made


async def stored(world: World, space: str = "s", name: str = "b") -> CID:
    """An upload that is claimed and found, and marked on both sides."""
    made = await world.send(UPLOAD, Added(space, name, 5))
    await world.perform(Allocate=None)
    await world.perform(Stat=False)
    await world.transactor.send(made, Claimed())
    await world.perform(Stat=True)
    await world.perform(Mark=3)
    return made


async def orders(world: World, space: str = "s", count: int = 3) -> list[Job]:
    """Orders of 4 out of a quota of 10: the third is refused."""
    made = []
    for number in range(count):
        await world.send(ORDER, Ordered(space, number, 4))
        made.append(ORDER.job(space, number))
    await world.perform(Mark=None)
    return made
