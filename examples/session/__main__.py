"""`python -m examples.session serve|call`: one side of a session, in a process of its own.

Both post numbered messages, count what comes, and tell in lines of JSON what they see: first where
a server listens, then each session, then that all has come. At the end of their input they close,
and tell what is left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import click

from examples.session import wires as sockets
from examples.session.client import CLIENT
from examples.session.model import BUFFER, Client, Close, Connect, Deliver, Post, Terms
from examples.session.server import SERVER
from scheduler import Scheduler
from stmflow import CELL, Clock, Job, SystemClock, Transactor, Tx
from stmflow.store.memory import MemoryStore

TOGETHER = 64
"""Messages that are posted in one commit."""


class Throttled:
    """A clock that moves once in so many milliseconds, like timers of a tab that nobody sees."""

    def __init__(self, step_ms: int) -> None:
        self._clock = SystemClock()
        self._since = self._clock.now()
        self._step_ms = step_ms

    def now(self) -> int:
        """The time of the last step."""
        past = self._clock.now() - self._since
        return self._since + past // self._step_ms * self._step_ms

    async def sleep_until(self, at_ms: int) -> None:
        """Until a step has reached it."""
        while self.now() < at_ms:
            await anyio.sleep(0.05)


def tally(tx: Tx, task: Deliver) -> None:
    """Count what comes, in the commit that acknowledges it; and whatever is not the next in row."""
    job = CELL.job(task.side, task.session)
    held = tx.read(job)
    count, wrong = (0, 0) if held is None else held.value
    for body in task.bodies:
        wrong += body != b"%d" % count
        count += 1
    tx.write(job, [count, wrong])


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def post_all(db: Transactor, job: Job, messages: int) -> None:
    """Number after number, as the buffer has room. A session that is gone takes no more."""
    posted = 0
    while posted < messages:
        head = await db.wait(
            job, lambda state: len(state.link.buffer) <= BUFFER - TOGETHER or state.status == "gone"
        )
        if head.state.status == "gone":
            return
        posted += await db.transact(posting(job, range(posted, min(posted + TOGETHER, messages))))


def posting(job: Job, numbers: range) -> Callable[[Tx], int]:
    """Post these in one commit; how many there was room for."""

    def post(tx: Tx) -> int:
        verdicts = [tx.apply(job, Post(b"%d" % number)) for number in numbers]
        return sum(verdict.kind == "committed" for verdict in verdicts)

    return post


async def run(side: str, job: Job, db: Transactor, wires: sockets.Wires, messages: int) -> None:
    """Post, wait until all has come both ways, and close at the end of the input."""
    await db.wait(job, lambda state: state.status == "connected")
    head = await db.get(job)
    assert head is not None
    session = head.state.session
    tell(session=session)
    await post_all(db, job, messages)
    inbox = CELL.job(side, session)
    if messages:
        await db.wait(job, lambda state: not state.link.buffer)
        await db.wait(inbox, lambda cell: cell.value[0] >= messages)
    cell = await db.get(inbox)
    count, wrong = (0, 0) if cell is None else cell.state.value
    tell(delivered=count, wrong=wrong)
    await anyio.to_thread.run_sync(sys.stdin.read)
    head = await db.get(job)
    assert head is not None
    tell(session=head.state.session, dials=getattr(head.state, "dials", 0), lost=head.state.lost)
    await db.send(job, Close())
    await told_and_gone(db, job, wires)


async def told_and_gone(db: Transactor, job: Job, wires: sockets.Wires) -> None:
    """What is left when the session has gone: nothing, in the end."""
    left, armed = 1, 1
    with anyio.move_on_after(30):
        while left or armed:
            await anyio.sleep(0.01)
            head = await db.get(job)
            assert head is not None
            left, armed = wires.open, sum(len(effect.armed) for effect in head.open)
    tell(wires=left, armed=armed, sockets=connected())


def connected() -> int:
    """How many TCP connections this process has open."""
    with open("/proc/self/net/tcp") as table:
        states = {row.split()[9]: row.split()[3] for row in table.readlines()[1:]}
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            link = os.readlink(f"/proc/self/fd/{descriptor}")
            if link.startswith("socket:"):
                count += states.get(link[8:-1], "0A") != "0A"  # 0A listens
    return count


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--port", type=int, required=True)
@click.option("--messages", type=int, default=0)
@click.option("--terms", default="{}", help="As JSON.")
def serve(port: int, messages: int, terms: str) -> None:
    """The server's side, for the client c."""

    async def serving() -> None:
        patience = Terms(**json.loads(terms))
        async with (
            Transactor(MemoryStore(), [SERVER], transactional={Deliver: tally}) as db,
            sockets.opened() as wires,
            Scheduler(db, wires.handlers),
            anyio.create_task_group() as group,
        ):
            tell(port=await group.start(wires.take_calls, db, "server", patience, port))
            await run("server", SERVER.job("server", "c"), db, wires, messages)
            group.cancel_scope.cancel()

    anyio.run(serving)


@main.command()
@click.option("--peer", required=True, help="HOST:PORT")
@click.option("--messages", type=int, default=0)
@click.option("--terms", default="{}", help="As JSON.")
@click.option(
    "--throttle", type=int, default=0, help="Milliseconds between two steps of its clock."
)
def call(peer: str, messages: int, terms: str, throttle: int) -> None:
    """The client's side, as the client c."""

    async def calling() -> None:
        patience = Terms(**json.loads(terms))
        clock: Clock = Throttled(throttle) if throttle else SystemClock()
        job = CLIENT.job("c")
        async with (
            Transactor(MemoryStore(), [CLIENT], transactional={Deliver: tally}, clock=clock) as db,
            sockets.opened(clock=clock) as wires,
            Scheduler(db, wires.handlers, lease_seconds=3_600),
            anyio.create_task_group() as group,
        ):
            await db.send(job, Connect("c", peer, os.urandom(8).hex(), patience))
            group.start_soon(watch, db, job)
            await run("client", job, db, wires, messages)
            group.cancel_scope.cancel()

    anyio.run(calling)


async def watch(db: Transactor, job: Job) -> None:
    """Tell of each session after the first."""
    number = 1

    def another(state: Client) -> bool:
        return state.number > number and state.status == "connected"

    while True:
        state: Client = (await db.wait(job, another)).state
        number = state.number
        tell(session=state.session, number=number, error=state.error and state.error.name)


if __name__ == "__main__":
    main()
