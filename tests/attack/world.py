"""A service under attack: its front door, its clock, and all that its store holds."""

from __future__ import annotations

import copy
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import httpx
import pytest

from capabilities.did import DID
from capabilities.service import WORKFLOWS, Asked, Ok, Reads, Service, application, provide
from capabilities.ucan1 import Delegation, Invocation, container
from capabilities.ucanto import Token, message, receipt
from examples.store_add import commands, uploads
from stmflow import CID, Transactor, Workflow, codec
from stmflow.cid import write_varint
from stmflow.errors import StmflowError
from stmflow.store import Store
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from tests.capabilities.ucanto.tokens import NOW, SERVICE

Family: TypeAlias = Literal["ucanto", "ucan1"]
CAR_TYPE = {"content-type": message.CONTENT_TYPE}


# --- a workflow of two events, one of which nobody may send ---------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """Put something on the shelf of a space."""

    space: str
    link: CID
    size: int


@dataclass(frozen=True, slots=True)
class Expire:
    """Take it down again: an event of the inside."""

    space: str
    link: CID


@dataclass(frozen=True, slots=True)
class Held:
    """It is there. `times`: how many deliveries have put it there."""

    size: int
    times: int


def _update(event: Put | Expire, state: Held | None) -> Any:
    if isinstance(event, Expire):
        return Held(0, 0), []
    return Held(event.size, 1 if state is None else state.times + 1), []


SHELF = Workflow(
    "shelf",
    state=Held,
    events=(Put, Expire),
    outside=(Put,),
    update=_update,
    key=("space", "link"),
)


async def nothing(asked: Asked, transactor: Transactor) -> Ok:
    return Ok({"results": [], "size": 0})


PROVIDERS = (
    provide(
        commands.STORE_ADD,
        SHELF,
        event=lambda asked: Put(str(asked.subject), asked.arguments.link, asked.arguments.size),
        result=lambda asked, head: Ok({"size": head.state.size, "times": head.state.times}),
    ),
    provide(
        commands.UPLOAD_ADD,
        uploads.UPLOAD,
        event=lambda asked: uploads.Add(
            str(asked.subject), asked.arguments.root, asked.arguments.shards
        ),
        result=lambda asked, head: Ok({"shards": len(head.state.shards)}),
    ),
    Reads(commands.STORE_LIST, nothing),
)


# --- the service ----------------------------------------------------------------------------------


class Clock:
    """Shows what it is set to, in milliseconds."""

    def __init__(self) -> None:
        self.time = NOW * 1_000

    def now(self) -> int:
        return self.time

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0)
        while self.time < at_ms:
            await anyio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: its status, its value if it is a good one, the names of all that was wrong."""

    status: int
    ok: Mapping[str, Any] | None = None
    names: tuple[str, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """A service, and what it has written."""

    service: Service
    store: Store
    clock: Clock
    http: httpx.AsyncClient
    file: Path | None = None

    async def post(self, family: Family, body: bytes) -> Told:
        """The answer to a body, as a client gets it; to several invocations, that to the first."""
        path, headers = ("/", CAR_TYPE) if family == "ucanto" else ("/ucan", {})
        reply = await self.http.post(path, content=body, headers=headers)
        if reply.status_code != 200:
            return Told(
                reply.status_code, names=await self._raised(family, body), message=reply.text
            )
        out = _receipt(reply.content) if family == "ucanto" else _told1(reply.json())
        if "ok" in out:
            return Told(200, ok=out["ok"])
        error = out["error"]
        lines = re.findall(r"^ *- (\w+): ", error["message"], re.M)
        return Told(200, names=(error["name"], *lines), message=error["message"])

    async def _raised(self, family: Family, body: bytes) -> tuple[str, ...]:
        """Which error stands behind a 400 or 413: its name, and those of its bases."""
        respond = self.service.respond if family == "ucanto" else self.service.respond1
        with pytest.raises(StmflowError) as caught:
            await respond(body)
        return tuple(kind.__name__ for kind in type(caught.value).__mro__)

    def snapshot(self) -> object:
        """Everything that is stored: heads, blocks, outbox, timers, deliveries."""
        if isinstance(self.store, MemoryStore):
            held = vars(self.store)
            return copy.deepcopy({name: held[name] for name in held if name != "_version"})
        assert self.file is not None
        with sqlite3.connect(self.file) as database:
            return {
                table: database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
                for table in ("revision", "job", "task", "timer", "delivery", "segment")
            }

    async def held(self, space: DID, link: CID) -> Held | None:
        """What is on the shelf."""
        head = await self.service.transactor.get(SHELF.job(str(space), link))
        return None if head is None else head.state

    async def jobs(self) -> int:
        """How many things are on shelves."""
        return len(await self.store.jobs(workflow=SHELF.name))


@asynccontextmanager
async def world(
    store: Store | None = None,
    *,
    file: Path | None = None,
    clock: Clock | None = None,
    transactor_type: type[Transactor] = Transactor,
    **options: Any,
) -> AsyncIterator[World]:
    """The service over a store in memory, or over a SQLite file."""
    clock = clock or Clock()
    if file is not None:
        async with SQLiteStore.open(file) as opened, world(opened, clock=clock, **options) as made:
            yield World(made.service, opened, clock, made.http, file)
        return
    store = store or MemoryStore()
    workflows = (SHELF, uploads.UPLOAD, *WORKFLOWS)
    async with transactor_type(store, workflows, clock=clock) as transactor:
        service = Service(SERVICE, transactor, PROVIDERS, **options)
        transport = httpx.ASGITransport(application(service), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            yield World(service, store, clock, http)


def _receipt(body: bytes) -> Mapping[str, Any]:
    reply = message.decode(body)
    cid = next(iter(reply.receipts.values()))
    told = receipt.decode(cid, reply.blocks[cid])
    assert receipt.verify_signature(told, SERVICE.verifier)
    return told.out


def _told1(told: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"error": told["error"]} if "error" in told else {"ok": told["result"]}


# --- bodies ---------------------------------------------------------------------------------------


def post(invocation: Token | bytes, *proofs: Token | bytes) -> bytes:
    """An agent message of one invocation, with these blocks."""
    tokens = (invocation, *proofs)
    first, *others = [each if isinstance(each, bytes) else each.data for each in tokens]
    cid = CID.of(first)
    blocks = {CID.of(each): each for each in (*others, first)}
    return message_of([cid], blocks)


def message_of(invocations: Sequence[CID], blocks: Mapping[CID, bytes]) -> bytes:
    """An agent message, whatever its blocks hold."""
    root, data = codec.block({message.VARIANT: {"execute": list(invocations)}})
    return car([root], [*blocks.items(), (root, data)])


def car(roots: Sequence[CID], entries: Sequence[tuple[CID | bytes, bytes]]) -> bytes:
    """A CAR of these entries; nothing in it is checked."""
    header = codec.encode({"roots": list(roots), "version": 1})
    parts = [write_varint(len(header)), header]
    for cid, data in entries:
        parts += [write_varint(len(bytes(cid)) + len(data)), bytes(cid), data]
    return b"".join(parts)


def pack(invocation: Invocation | bytes, *proofs: Delegation | bytes) -> bytes:
    """A container of one invocation and its proofs; the bare invocation where there are none."""
    tokens = [each if isinstance(each, bytes) else each.data for each in (invocation, *proofs)]
    return container.encode(tokens) if len(tokens) > 1 else tokens[0]
