"""One story that meets every effect, every kind of ending and most timers, told to one machine.

What is asked of the service goes through `send`, under delivery ids of its own, so that a client
whose process died may tell the whole story again from its beginning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any

import anyio

from examples.store_add.model import Add, Cancel, Put, Receiving, Remove, Terms
from examples.store_add.quota import Profile, local, remote
from examples.store_add.workflow import STORE_ADD
from stmflow import CID
from tests.acceptance.fakes import (
    EPOCH_MS,
    RAW,
    FolderBucket,
    Machine,
    Points,
    SetClock,
    dying,
    job_of,
    machine,
)

ALICE, BOB, CAROL = "did:key:zAlice", "did:key:zBob", "did:key:zCarol"
LIMIT = 1_000
WINDOW_MS = 3_600_000
SHORT = Terms(window_ms=600_000, skew_ms=10_000)
SECOND_TRY = EPOCH_MS + 1_200_000

FOUND = b"found: somebody has put it there before"
UPLOADED = b"uploaded: by one space, and then found by another"
NEVER = b"never: its upload does not come"
CANCELLED = b"cancelled: and then uploaded, while the URL was alive"
REMOVED = b"removed: after it had been stored"
RETRIED = b"retried: expired at first, stored in the second try"
TOO_BIG = b"too big: " * 200

ENDINGS = {
    (ALICE, FOUND): "stored",
    (ALICE, UPLOADED): "stored",
    (BOB, UPLOADED): "stored",
    (ALICE, NEVER): "expired",
    (ALICE, CANCELLED): "failed",
    (ALICE, REMOVED): "idle",
    (ALICE, RETRIED): "stored",
    (CAROL, TOO_BIG): "exceeded",
}
PROFILES: dict[str, Callable[[], Profile]] = {
    "local": lambda: local(limit=LIMIT),
    "remote": lambda: remote(limit=LIMIT),
}

Send = Callable[[Machine, Any, str], Coroutine[Any, Any, None]]


async def once(world: Machine, event: Any, delivery: str) -> None:
    """Deliver an event once."""
    await world.transactor.send(STORE_ADD.job_of(event), event, delivery=delivery)


async def tell(world: Machine, *, send: Send = once, order: Random | None = None) -> None:
    """Tell the story, to its end: nothing is left to be done."""
    clock = world.clock
    assert isinstance(clock, SetClock)

    async def all_of(*deliveries: tuple[Any, str]) -> None:
        mixed = list(deliveries)
        if order is not None:
            order.shuffle(mixed)
        async with anyio.create_task_group() as group:
            for event, delivery in mixed:
                group.start_soon(send, world, event, delivery)

    async def each(space: str, datas: Sequence[bytes]) -> None:
        for data in datas:
            await upload(world, space, data)

    if clock.now() == EPOCH_MS:
        world.bucket.place(FOUND)
    asked = [FOUND, UPLOADED, NEVER, CANCELLED, REMOVED]
    await all_of(
        *((add(ALICE, data), f"add {data[:9]!r}") for data in asked),
        (add(ALICE, RETRIED, SHORT), "try"),
        (add(CAROL, TOO_BIG), "too big"),
    )
    for data in asked:
        await world.settled(job_of(ALICE, data))
    await each(ALICE, [UPLOADED, REMOVED])
    await all_of(
        (Put(ALICE, link(UPLOADED)), "put uploaded"),
        (Put(ALICE, link(REMOVED)), "put removed"),
        (Cancel(ALICE, link(CANCELLED)), "cancel"),
    )
    if clock.now() < EPOCH_MS + WINDOW_MS:
        world.bucket.place(CANCELLED)
    await world.reached(job_of(ALICE, UPLOADED), "stored")
    await world.reached(job_of(ALICE, REMOVED), "stored", "removing", "idle")
    await all_of((Remove(ALICE, link(REMOVED)), "remove"), (add(BOB, UPLOADED), "share"))
    await world.rest(until=SECOND_TRY)
    await all_of((add(ALICE, RETRIED), "try again"))
    await world.settled(job_of(ALICE, RETRIED))
    await each(ALICE, [RETRIED])
    await all_of((Put(ALICE, link(RETRIED)), "put again"))
    await world.rest()


def add(space: str, data: bytes, terms: Terms | None = None) -> Add:
    """Ask for these bytes. No two windows end at once, so that each timer has its own commit."""
    own = Terms(window_ms=WINDOW_MS + 1_000 * len(data), skew_ms=60_000)
    return Add(space, link(data), len(data), terms=terms or own)


def link(data: bytes) -> CID:
    return CID.of(data, RAW)


async def upload(world: Machine, space: str, data: bytes) -> None:
    """Use the URL that the job has, if it has one."""
    head = await world.settled(job_of(space, data))
    if isinstance(head.state, Receiving):
        assert head.state.window.target is not None
        assert world.bucket.upload(head.state.window.target, data) in (200, 412)


async def play(folder: Path, profile: str, points: Points) -> None:
    """The story in this process, which passes these points."""
    clock = SetClock(folder / "clock")
    bucket = FolderBucket(folder / "bucket", clock)
    async with machine(
        folder / "jobs.db",
        PROFILES[profile](),
        bucket,
        store_type=dying(points),
        around=points.around,
    ) as world:
        await tell(world)


if __name__ == "__main__":  # FOLDER PROFILE POINT N: the process that is killed
    anyio.run(play, Path(sys.argv[1]), sys.argv[2], Points(sys.argv[3], int(sys.argv[4])))
