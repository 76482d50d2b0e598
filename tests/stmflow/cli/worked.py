"""An app whose tasks are performed by worker processes, in the tests of `stmflow worker`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from scheduler import App, Context, Limits, Performer, Policy, Shared, by_need
from stmflow import Data, Transactor, Workflow, perform


@dataclass(frozen=True)
class Put:
    name: str
    bucket: str = ""
    tasks: int = 1
    version: int = 1


@dataclass(frozen=True)
class Done:
    by: Data


@dataclass(frozen=True)
class Store:
    name: str
    bucket: str
    n: int


@dataclass(frozen=True)
class Jobs:
    done: tuple[str, ...] = ()


def update(event: Any, state: Jobs | None) -> Any:
    state = state or Jobs()
    if isinstance(event, Put):
        tasks = [perform(Store(event.name, event.bucket, n)).then(Done) for n in range(event.tasks)]
        return state, tasks
    return replace(state, done=(*state.done, str(event.by))), []


def workflow(version: int = 1) -> Workflow:
    same = {n: (lambda tag, fields: (tag, fields),) * 2 for n in range(1, version)}
    return Workflow(
        "work",
        version=version,
        state=Jobs,
        events=(Put, Done),
        outside=(Put,),
        tasks=(Store,),
        update=update,
        key=("name",),
        upcasts=same,  # type: ignore[arg-type]
    )


WORK = workflow()
NEWER = workflow(2)
FOLDER = Path(os.environ.get("WORKED_FOLDER", "."))
NAME = os.environ.get("WORKED_NAME", "?")


async def store(task: Store, context: Context) -> str:
    """Say who performed it; wait while the file `hold` is there."""
    with (FOLDER / "performed").open("a") as performed:
        performed.write(f"{NAME} {task.name} {task.bucket} {task.n} {context.attempt}\n")
    while (FOLDER / "hold").exists():
        await anyio.sleep(0.01)
    return NAME


async def call(task: Store, context: Context) -> str:
    """A call to a bucket that only takes so many at once; it says when it begins and ends."""
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"begin {NAME} {task.bucket} {task.name}/{task.n}\n")
    await anyio.sleep(0.05)
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"end {NAME} {task.bucket} {task.name}/{task.n}\n")
    return NAME


async def reachable() -> str:
    if (FOLDER / "unreachable").exists():
        raise ConnectionError("no bucket")
    return "bucket"


@asynccontextmanager
async def handlers(transactor: Transactor) -> AsyncIterator[Mapping[type, Performer]]:
    yield {Store: Performer(handler=store, probe=reachable, policy=Policy(attempt_ms=60_000))}
    if "WORKED_FOLDER" in os.environ:
        (FOLDER / f"left {NAME}").touch()


def needs(task: Store) -> dict[str, str]:
    return {"bucket": task.bucket} if task.bucket else {}


old = App(workflows=[WORK], handlers=handlers, needs={Store: needs}, limits=Limits(slots=4))
new = App(
    workflows=lambda: [WORK, NEWER],
    handlers=handlers,
    needs={Store: needs},
    metrics=lambda: "up 1\n",
)
shared = App(
    workflows=[WORK],
    handlers={Store: Performer(handler=call, policy=Policy(attempt_ms=1_000, base_ms=10))},
    needs={Store: needs},
    limits=Limits(slots=8, shared=[Shared("bucket", slots=2, of=by_need("bucket"))]),
)
picky = App(
    workflows=[WORK],
    handlers={Store: Performer(handler=store, needs={"agent": ">=2"})},
)
senseless = App(workflows=[WORK], handlers={Store: Performer(handler=store, needs={"agent": "~2"})})
