"""One host: a process with a scheduler of its own, told by files in a folder what to do.

    python -m tests.topology.host NAME DSN FOLDER LEASE_SECONDS

It notes in `FOLDER/NAME.log` when it begins and ends a task, and its counters twice a second in
`FOLDER/NAME.json`. It leaves when `FOLDER/leave` is there. A task `Hold` is performed until
`FOLDER/NAME.go` is there.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from scheduler import Context, Limits, Scheduler
from stmflow import Transactor, Workflow, ignore, perform
from stmflow.errors import StmflowError
from stmflow.store.postgres import PostgresStore


@dataclass(frozen=True, slots=True)
class Step:
    """One of the steps of a job."""

    n: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Takes as long as the host is told."""


@dataclass(frozen=True, slots=True)
class Go:
    """Begin."""

    name: str
    steps: int
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step is done."""


@dataclass(frozen=True, slots=True)
class Trip:
    """How far a job is."""

    left: int
    status: str


def _update(event: Any, trip: Trip | None) -> Any:
    match event, trip:
        case Go(_, steps, holds), None:
            first = perform(Hold() if holds else Step(steps)).then(Stepped)
            return Trip(steps, "under way"), [first]
        case Stepped(), Trip(left=1):
            return Trip(0, "there"), []
        case Stepped(), Trip(left):
            return replace(trip, left=left - 1), [perform(Step(left - 1)).then(Stepped)]
    return ignore()


TRIP = Workflow(
    "topology/trip",
    state=Trip,
    events=(Go, Stepped),
    outside=(Go,),
    tasks=(Step, Hold),
    update=_update,
    key=("name",),
    tag="status",
)
WORKFLOWS = (TRIP,)


async def main(name: str, dsn: str, folder: Path, lease_seconds: float) -> None:
    """Work until told to leave."""
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(word: str, context: Context) -> None:
        os.write(log, f"{word} {context.key} {context.token}\n".encode())

    async def step(task: Step, context: Context) -> None:
        note("begin", context)
        await anyio.sleep(0.02)
        note("end", context)

    async def hold(task: Hold, context: Context) -> None:
        note("hold", context)
        while not (folder / f"{name}.go").exists():
            await anyio.sleep(0.02)
        note("end", context)

    async with (
        PostgresStore.open(dsn) as store,
        Transactor(store, WORKFLOWS, clock=store.clock) as engine,
        Scheduler(
            engine,
            {Step: step, Hold: hold},
            limits=Limits(slots=8),
            lease_seconds=lease_seconds,
            grace_seconds=0.2,
        ) as scheduler,
    ):
        while not (folder / "leave").exists():
            counters = {"engine": engine.counters, "scheduler": scheduler.counters}
            fresh = folder / f"{name}.new"
            fresh.write_text(json.dumps(counters))
            fresh.replace(folder / f"{name}.json")
            await anyio.sleep(0.1)


if __name__ == "__main__":
    try:
        anyio.run(main, sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
    except StmflowError as error:
        sys.exit(f"{type(error).__name__}: {error}")
