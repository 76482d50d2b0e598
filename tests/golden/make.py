"""Make the golden database of the present schema: `python -m tests.golden.make`.

It is run once for every schema version, when that version is new; the file is kept from then on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio

from scheduler import Failure, Retry, Scheduler
from stmflow import CELL, CID, Transactor
from stmflow.store.sqlite import SCHEMA, SQLiteStore
from tests.golden.workflow import PARCEL, TRANSACTIONAL, WORKFLOWS, Fetch, Note, Order, Stop

FOLDER = Path(__file__).parent


async def fetch(task: Fetch, context: Any) -> Any:
    """The second part of `lost` is missing; of `stuck` nothing can be had."""
    if task.link == CID.of(b"lost") and task.part == 2:
        raise Failure("Gone", {"part": task.part}, retry=Retry.FATAL)
    if task.link == CID.of(b"stuck"):
        raise Failure("Broken", None, retry=Retry.FATAL)
    if task.link == CID.of(b"slow"):
        await anyio.sleep_forever()
    return b"first" if task.part == 1 else {"part": task.part, "of": task.link}


async def note(task: Note, context: Any) -> None:
    """Nothing to do."""


async def make(path: Path) -> None:
    """Jobs that are done, failed, stopped, tried again, faulted and still running."""
    async with (
        SQLiteStore.open(path) as store,
        Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL, pure=True) as engine,
        Scheduler(engine, {Fetch: fetch, Note: note}, grace_seconds=0.1),
    ):
        links = {"stopped": "slow"}
        for name in ("done", "lost", "stuck", "slow", "stopped"):
            link = CID.of(links.get(name, name).encode())
            await engine.send(PARCEL, Order(name, link, 7), delivery=f"d-{name}")
        await engine.send(PARCEL, Order("dear", CID.of(b"dear"), 5_000))
        for name, status in (("done", "done"), ("lost", "failed"), ("dear", "failed")):
            await engine.wait(PARCEL.job(name), lambda p, s=status: p.status == s, timeout=10)
        await engine.send(PARCEL, Order("lost", CID.of(b"done"), 8), delivery="again")
        await engine.wait(PARCEL.job("lost"), lambda p: p.status == "done", timeout=10)
        await engine.send(PARCEL.job("stopped"), Stop("stopped"))
        await engine.transact(lambda tx: tx.write(CELL.job("greeting"), {"hello": [1, 2]}))
        while len(await store.tasks(parked=True)) < 2:
            await anyio.sleep(0.01)
    for beside in ("-workers", "-turn"):
        Path(f"{path}{beside}").unlink(missing_ok=True)


if __name__ == "__main__":
    target = FOLDER / f"schema-{SCHEMA}.db"
    if target.exists():
        sys.exit(f"{target} exists: a golden database is never made again")
    anyio.run(make, target)
