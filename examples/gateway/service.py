"""The push service in one process: a store, the four machines, and the hands they need.

    async with service(store, gateway, app) as push:
        status = await push.connect("c1")            # what the gateway is answered
        await push.control("c1", [Do("send", text="hi")])

The gateway and the app are given as objects; `web` has those that speak HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, Protocol, TypeAlias

from examples.gateway.callback import Ask, Replied
from examples.gateway.channel import Channel
from examples.gateway.command import Command, FanOut, Post
from examples.gateway.connection import (
    Close,
    Closed,
    Connect,
    Control,
    Delete,
    Disconnect,
    Frame,
    Opening,
    Probe,
    Rejected,
)
from examples.gateway.model import DEFAULT, Call, Do, Terms
from examples.gateway.workflow import (
    CHANNEL,
    COMMAND,
    CONNECTION,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
    fan_out,
)
from scheduler import Context, Failure, Limits, Policy, Scheduler, Transaction
from stmflow import Answer, Clock, Transactor, Tx
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore

Store: TypeAlias = SQLiteStore | MemoryStore


class Gateway(Protocol):
    """The managed gateway, as the service uses it. False is its 404 or 410: no such connection,
    or not yet, or no longer. What else goes wrong is raised, and tried again."""

    async def probe(self, connection: str) -> bool: ...

    async def post(self, connection: str, n: int, text: str) -> bool:
        """Send a text to the client. `n` only grows for one connection: what is not above the last
        one that was taken is a repeat, or has been overtaken, and is not sent again."""
        ...

    async def delete(self, connection: str) -> bool: ...


class App(Protocol):
    """The service's customer."""

    async def call(self, call: Call) -> Replied:
        """Its answer. Raises where there is none."""
        ...


def policies(terms: Terms) -> dict[type, Policy]:
    """A callback is one attempt: the machine itself says when it is made again."""
    return {
        Ask: Policy(attempts=1, attempt_ms=terms.callback_ms),
        Probe: Policy(attempts=3, attempt_ms=5_000),
        Post: Policy(deadline_ms=60_000, attempt_ms=20_000),
        Delete: Policy(deadline_ms=60_000, attempt_ms=20_000),
    }


LIMITS: Final = Limits(slots=256, per_type={"ask": 128})
"""A slow app holds up its own callbacks, and neither probes nor posts."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What became of a control call: the numbers of its commands, or why it was refused."""

    numbers: range
    refused: str | None = None


class Service:
    """What the gateway and the app may ask of it."""

    def __init__(self, db: Transactor, terms: Terms) -> None:
        self.db = db
        self._terms = terms

    # --- by the gateway -------------------------------------------------------------------------

    async def connect(self, connection: str) -> int:
        """Whether a connection may be: 200, 403 or 504. The answer waits for the app's."""
        await self.db.send(CONNECTION, Connect(connection, self._terms))
        job = CONNECTION.job(connection)
        head = await self.db.wait(job, lambda state: not isinstance(state, Opening))
        match head.state:
            case Rejected(why="Timeout"):
                return 504
            case Rejected() | Closed():
                return 403
        return 200

    async def message(self, connection: str, text: str, delivery: str | None = None) -> Answer:
        """The client has sent something."""
        return await self.db.send(CONNECTION, Frame(connection, text), delivery=delivery)

    async def disconnect(self, connection: str) -> Answer:
        """The connection has ended."""
        return await self.db.send(CONNECTION, Disconnect(connection))

    # --- by the app -----------------------------------------------------------------------------

    async def control(
        self, connection: str, commands: Sequence[Do], delivery: str | None = None
    ) -> Issued:
        """Ask for these, in order; they are done once the connection is open."""
        job, event = CONNECTION.job(connection), Control(connection, tuple(commands))

        def body(tx: Tx) -> list[Any]:
            verdict = tx.apply(job, event)
            asked = 0 if verdict.rejected else tx.read(job).line.asked
            return [verdict.code, asked]

        where = {} if delivery is None else {"at": job, "delivery": delivery}
        code, asked = await self.db.transact(body, **where)  # type: ignore[arg-type]
        numbers = range(asked - len(commands) + 1, asked + 1)
        return Issued(range(0), code) if code else Issued(numbers)

    async def close(self, connection: str) -> Answer:
        """Close it, after what was asked for before."""
        return await self.db.send(CONNECTION, Close(connection))

    async def publish(self, channel: str, text: str) -> int:
        """Give a text to every member; how many there were. Texts of one caller who waits for the
        answer come in order."""
        reached, after = 0, ""
        while after is not None:
            page = FanOut(channel, text, after)
            answer = await self.db.transact(partial(fan_out, task=page))
            reached, after = reached + answer["reached"], answer["after"]
        return reached

    async def ended(self, connection: str, n: int, timeout: float | None = None) -> Command:
        """Command `n` once it has been delivered or dropped. Raises DeadlineExceeded."""
        head = await self.db.wait(
            COMMAND.job(connection, n),
            lambda one: one.label in ("delivered", "dropped"),
            timeout=timeout,
        )
        found: Command = head.state
        return found

    async def members(self, channel: str) -> tuple[str, ...]:
        """Who is subscribed to a channel."""
        head = await self.db.get(CHANNEL.job(channel))
        index: Channel | None = None if head is None else head.state
        return () if index is None else index.members


@asynccontextmanager
async def service(
    store: Store,
    gateway: Gateway,
    app: App,
    *,
    terms: Terms = DEFAULT,
    clock: Clock | None = None,
    random: Random | None = None,
) -> AsyncIterator[Service]:
    """A running service on an open store."""

    async def ask(task: Ask, context: Context) -> dict[str, Any]:
        return (await app.call(task.call)).outcome()

    async def probe(task: Probe, context: Context) -> None:
        if not await gateway.probe(task.connection):
            raise Failure("Gone")

    async def post(task: Post, context: Context) -> None:
        if not await gateway.post(task.connection, task.n, task.text):
            raise Failure("Gone")

    async def delete(task: Delete, context: Context) -> None:
        if not await gateway.delete(task.connection):
            raise Failure("Gone")

    handlers: dict[type, Any] = {Ask: ask, Probe: probe, Post: post, Delete: delete}
    handlers |= {kind: Transaction(body) for kind, body in TASKS.items()}
    async with (
        Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL, clock=clock, random=random) as db,
        Scheduler(db, handlers, policies=policies(terms), limits=LIMITS, random=random),
    ):
        yield Service(db, terms)
