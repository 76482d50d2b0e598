"""Who works: the labels and versions of live workers, in one cell; their beats, in the store.

Every worker writes itself into the cell once, when it starts, and out of it when it leaves; it
drops those that the store has reaped. So the cell never grows with the number of starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stmflow.cell import CELL
from stmflow.job import restore
from stmflow.schema import thaw
from stmflow.store import Store
from stmflow.transaction import Tx
from stmflow.transactor import Transactor
from stmflow.workflow import Job, Registry

NEW_MS = 60_000
"""A worker that started within this time is not dropped, though it was not seen to live yet."""


def roster() -> Job:
    """The cell: worker number, as text → what it said of itself."""
    return CELL.job("stmflow", "workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What is known of a worker.

    Attributes:
        worker: its number. labels: as it was given them.
        versions: workflow → the versions whose tasks it performs, and of which types:
            `{"store/add": {"1": ["Stat", "Watch"]}}`.
        host, pid: where it runs. slots: tasks at once.
        started: when. beat: when it last said that it lives. until: its claims are its own till
            then, if it says nothing more. All in milliseconds since 1970; None where not known.
    """

    worker: int
    until: int
    labels: Mapping[str, str]
    versions: Mapping[str, Mapping[str, Sequence[str]]]
    host: str | None = None
    pid: int | None = None
    slots: int | None = None
    started: int | None = None
    beat: int | None = None


async def enrol(transactor: Transactor, worker: int, said: Mapping[str, Any]) -> None:
    """Write a worker that has beaten into the roster. Raises as `Transactor.transact`."""
    cell = roster()
    live = {str(row.worker) for row in await transactor.store.workers()}

    def body(tx: Tx) -> None:
        known = _said(tx.read(cell))
        kept = {
            number: each
            for number, each in known.items()
            if number in live or each["started"] > tx.at - NEW_MS  # enrolled since we looked
        }
        tx.write(cell, kept | {str(worker): dict(said)})

    await transactor.transact(body, reads=[cell])


async def strike(transactor: Transactor, worker: int) -> None:
    """Write a worker out of the roster."""
    cell = roster()

    def body(tx: Tx) -> None:
        known = _said(tx.read(cell))
        if known.pop(str(worker), None) is not None:
            tx.write(cell, known)

    await transactor.transact(body, reads=[cell])


async def workers(store: Store) -> list[WorkerInfo]:
    """Every worker that the store has not reaped, by number. A scheduler that is not run by
    `Worker` is listed without what it never said of itself."""
    cell = roster()
    head = (await store.heads([cell.id]))[cell.id]
    known = {} if head is None else _said(restore(head, Registry([CELL])).state)
    return [_info(row.worker, row.until, known.get(str(row.worker), {}))
            for row in await store.workers()]  # fmt: skip


def _info(worker: int, until: int, said: Mapping[str, Any]) -> WorkerInfo:
    lease = said.get("lease_ms")
    return WorkerInfo(
        worker=worker,
        until=until,
        labels=said.get("labels", {}),
        versions=said.get("versions", {}),
        host=said.get("host"),
        pid=said.get("pid"),
        slots=said.get("slots"),
        started=said.get("started"),
        beat=None if lease is None else until - lease,
    )


def _said(state: Any) -> dict[str, Any]:
    return {} if state is None else dict(thaw(state.value))
