"""A small workflow whose facts the tests of observers look at, and hands that perform it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import anyio

from scheduler import Context, Failure, Policy, Retry, Scheduler
from stmflow import At, Err, Job, Transactor, Workflow, ignore, perform, reject, sleep
from stmflow.observe import (
    Answered,
    Attempt,
    Landed,
    Observer,
    Part,
    Performed,
    Refused,
)
from stmflow.store import Store
from stmflow.store.memory import MemoryStore

SOON = 5.0


@dataclass(frozen=True)
class Added:
    name: str
    how: str = "well"


@dataclass(frozen=True)
class Read:
    found: bool


@dataclass(frozen=True)
class Lost:
    error: Err


@dataclass(frozen=True)
class Rang:
    at: At = 0


@dataclass(frozen=True)
class Stat:
    name: str
    how: str


@dataclass(frozen=True)
class Mark:
    name: str


@dataclass(frozen=True)
class File:
    name: str
    status: str
    rings: int = 0


def update(event: Any, file: File | None) -> Any:
    match event:
        case Added(how="no"):
            return reject("No")
        case Added() if file is not None:
            return ignore()
        case Added(name, "sleepy"):
            return File(name, "sleeping"), [sleep(for_=timedelta(milliseconds=20)).then(Rang)]
        case Added(name, how):
            return File(name, "looking"), [perform(Stat(name, how)).then(Read).catch(Lost, "Gone")]
        case Read() if file is not None:
            return replace(file, status="marking"), [perform(Mark(file.name)).then(Rang)]
        case Lost() if file is not None:
            return replace(file, status="lost"), []
        case Rang() if file is not None:
            return replace(file, status="done", rings=file.rings + 1), []
    raise AssertionError(event)


FILE = Workflow(
    "file",
    state=File,
    events=(Added, Read, Lost, Rang),
    outside=(Added,),
    tasks=(Stat, Mark),
    key=("name",),
    tag="status",
    update=update,
)


class Hands:
    """Handlers: what a file's `how` says, they do."""

    async def stat(self, task: Stat, context: Context) -> Any:
        if task.how == "flaky" and context.attempt < 3:
            raise Failure("Away", retry=Retry.SAFE)
        if task.how == "gone":
            raise Failure("Gone", retry=Retry.FATAL)
        if task.how == "uncaught":
            raise Failure("Odd", retry=Retry.FATAL)
        return {"found": True}

    async def mark(self, task: Mark, context: Context) -> Any:
        return None


QUICK = Policy(attempts=4, base_ms=1, cap_ms=2)


def scheduled(transactor: Transactor, hands: Hands | None = None) -> Scheduler:
    """A scheduler that performs everything."""
    hands = hands or Hands()
    return Scheduler(
        transactor, {Stat: hands.stat, Mark: hands.mark}, policies={Stat: QUICK, Mark: QUICK}
    )


@asynccontextmanager
async def running(
    *observers: Observer, store: Store | None = None, **options: Any
) -> AsyncIterator[Transactor]:
    """A transactor and its scheduler, watched."""
    store = MemoryStore() if store is None else store
    async with (
        Transactor(store, [FILE], observers=observers, **options) as transactor,
        scheduled(transactor),
    ):
        yield transactor


async def file(transactor: Transactor, name: str, how: str = "well", **options: Any) -> Job:
    """Add a file and wait until its job rests."""
    job = FILE.job(name)
    await transactor.send(FILE, Added(name, how), **options)
    if how == "uncaught":
        with anyio.fail_after(SOON):
            while not await transactor.store.tasks(job=job.id, parked=True):
                await anyio.sleep(0.005)
    else:
        await transactor.wait(job, lambda state: state.status in ("done", "lost"), timeout=SOON)
    return job


class Notes(Observer):
    """Keeps every fact."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.batches: list[Landed] = []
        self.answers: list[Answered] = []
        self.errors: list[Refused] = []
        self.attempts: list[tuple[Attempt, Performed]] = []

    def attach(self, part: Part) -> None:
        self.parts.append(part)

    def origin(self) -> Any:
        return "here"

    def landed(self, batch: Landed) -> None:
        self.batches.append(batch)

    def answered(self, fact: Answered) -> None:
        self.answers.append(fact)

    def refused(self, fact: Refused) -> None:
        self.errors.append(fact)

    def performing(self, attempt: Attempt) -> Any:
        return lambda fact: self.attempts.append((attempt, fact))

    def told(self) -> Sequence[tuple[str, str]]:
        """Request and answer of every fact."""
        return [(fact.asked.request, fact.answer.kind) for fact in self.answers]


class Rude(Observer):
    """Raises wherever it is called."""

    def _raise(self, *args: Any) -> Any:
        raise RuntimeError("an observer's own trouble")

    attach = origin = landed = answered = refused = performing = _raise
