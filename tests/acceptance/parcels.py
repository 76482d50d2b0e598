"""A worker process for the rollout's acceptance test: parcels that are put into one of two buckets.

    python -m tests.acceptance.parcels STORE BUCKET FOLDER

It performs tasks of its bucket alone, whatever version asked for them, and the tasks of rollouts.
Each performed task is a line in FOLDER, written before the outcome is settled, so that what was
done and never told can be counted. It runs until it is killed, or SIGTERM lets it leave in order.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import anyio

from examples.rollout import POLICIES, ROLLOUT, chooser, handlers, moving
from scheduler import Context, Limits, Policy, Scheduler
from stmflow import Transactor, Workflow, perform
from stmflow.store import Store

BUCKETS = ("east", "west")
PUTS = 3


@dataclass(frozen=True, slots=True)
class Send:
    name: str
    bucket: str


@dataclass(frozen=True, slots=True)
class Stored:
    n: int


@dataclass(frozen=True, slots=True)
class PutEast:
    tag: ClassVar[str] = "put/east"
    name: str
    n: int


@dataclass(frozen=True, slots=True)
class PutWest:
    tag: ClassVar[str] = "put/west"
    name: str
    n: int


PUT = {"east": PutEast, "west": PutWest}


@dataclass(frozen=True, slots=True)
class Parcel1:
    tag: ClassVar[str] = "Parcel"
    name: str
    bucket: str
    puts: int = 0
    status: str = "open"


@dataclass(frozen=True, slots=True)
class Parcel2:
    """From version 2 on: who delivers it stands in it."""

    tag: ClassVar[str] = "Parcel"
    name: str
    bucket: str
    puts: int = 0
    status: str = "open"
    by: str = "nobody"


def update(event: Any, state: Any, kind: Any, step: int = 1) -> Any:
    """Put by put, until all are stored. `step` 2 is the mistake of version 3."""
    if isinstance(event, Send):
        if state is not None:
            return state, ()
        state = kind(event.name, event.bucket)
    else:
        puts = state.puts + step
        state = replace(state, puts=puts, status="done" if puts >= PUTS else "open")
    if state.status == "done":
        return state, ()
    return state, perform(PUT[state.bucket](state.name, state.puts)).then(Stored)


def up(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return tag, {**fields, "by": "nobody"} if tag == "Parcel" else fields


def down(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return tag, {name: value for name, value in fields.items() if name != "by"}


def same(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return tag, fields


def _version(version: int, kind: type, step: int = 1) -> Workflow:
    return Workflow(
        "parcel",
        version=version,
        state=kind,
        events=(Send, Stored),
        outside=(Send,),
        tasks=(PutEast, PutWest),
        update=lambda event, state: update(event, state, kind, step),
        key=("name",),
        tag="status",
        upcasts={1: (up, up), 2: (same, same)},
        downcasts={2: (down, down), 3: (same, same)},
    )


PARCELS = (_version(1, Parcel1), _version(2, Parcel2), _version(3, Parcel2, step=2))
WORKFLOWS = (*PARCELS, ROLLOUT)


def opened(where: str) -> AbstractAsyncContextManager[Store]:
    """The store at a path, or at the address of a PostgreSQL database."""
    if where.startswith("postgresql:"):
        from stmflow.store.postgres import PostgresStore

        return PostgresStore.open(where)
    from stmflow.store.sqlite import SQLiteStore

    return SQLiteStore.open(where)


@asynccontextmanager
async def engine(where: str) -> AsyncIterator[Transactor]:
    """A transactor as every process of this service has it."""
    async with (
        opened(where) as store,
        Transactor(
            store, WORKFLOWS, chooser=chooser({"parcel": 1}), transactional=moving(PARCELS[:1])
        ) as transactor,
    ):
        yield transactor


async def work(where: str, bucket: str, folder: Path) -> None:
    """One worker."""
    ledger = os.open(folder / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(**line: Any) -> None:
        os.write(ledger, json.dumps({"bucket": bucket, **line}).encode() + b"\n")

    async def put(task: Any, context: Context) -> int:
        await anyio.sleep(0.1)
        note(task=str(context.key), token=context.token, put=task.tag)
        return int(task.n)

    async with engine(where) as transactor:
        known = {**handlers(transactor), PUT[bucket]: put}
        async with Scheduler(
            transactor,
            known,
            policies={**POLICIES, PUT[bucket]: Policy(attempts=10_000, base_ms=20, cap_ms=200)},
            limits=Limits(slots=8),
            lease_seconds=5,
            grace_seconds=5,
        ) as scheduler:
            note(worker=scheduler.worker)
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async with anyio.create_task_group() as group:
                    group.start_soon(_count, scheduler, note)
                    async for _ in signals:
                        group.cancel_scope.cancel()
                        break
        note(counters=scheduler.counters)


async def _count(scheduler: Scheduler, note: Any) -> None:
    while True:
        await anyio.sleep(0.5)
        note(counters=scheduler.counters)


if __name__ == "__main__":
    anyio.run(work, sys.argv[1], sys.argv[2], Path(sys.argv[3]))
