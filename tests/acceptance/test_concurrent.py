"""Rules 3 and 4: many adds at once, by two processes' worth of service over one database."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from examples.store_add.model import Add
from examples.store_add.quota import local, remote
from examples.store_add.workflow import STORE_ADD
from scheduler.handlers.allocate import QUOTA, RESERVATION
from stmflow import Answer, SystemClock
from tests.acceptance.fakes import (
    FolderBucket,
    Machine,
    balanced,
    chain,
    events,
    job_of,
    machine,
    verified,
)
from tests.acceptance.story import link

SPACE = "did:key:zAlice"
SIZE = 10
ROOM = 50
PROFILES = pytest.mark.parametrize("profile", [local, remote], ids=["local", "remote"])


@asynccontextmanager
async def two(folder: Path, profile: Any) -> AsyncIterator[list[Machine]]:
    """Two services that share a database and a bucket."""
    bucket = FolderBucket(folder / "bucket", SystemClock())
    async with (
        machine(folder / "jobs.db", profile, bucket) as one,
        machine(folder / "jobs.db", profile, bucket) as other,
    ):
        yield [one, other]


@PROFILES
async def test_200_adds_on_a_quota_for_50(tmp_path: Path, profile: Any) -> None:
    datas = [f"data {n:05}".encode() for n in range(200)]
    assert {len(data) for data in datas} == {SIZE}
    async with two(tmp_path, profile(limit=SIZE * ROOM)) as worlds:
        for data in datas[::2]:
            worlds[0].bucket.place(data)

        async def add(n: int, data: bytes) -> None:
            world = worlds[n % 2]
            await world.transactor.send(STORE_ADD, Add(SPACE, link(data), SIZE))
            await world.settled(job_of(SPACE, data))

        async with anyio.create_task_group() as group:
            for n, data in enumerate(datas):
                group.start_soon(add, n, data)
        world = worlds[0]
        tags = Counter([await world.tag(SPACE, data) for data in datas])
        assert tags["exceeded"] == 150, tags
        assert tags["stored"] + tags["receiving"] == ROOM, tags
        used = [state["f"]["used"] for _, state in await chain(world.store, QUOTA.job(SPACE))]
        assert used == [SIZE * n for n in range(1, ROOM + 1)]  # every committed state there was
        for data in datas:  # we put them there, by nobody's leave
            if await world.tag(SPACE, data) == "exceeded":
                (world.bucket.folder / link(data).digest.hex()).unlink(missing_ok=True)
        await balanced(world)
        await verified(world.store, world.profile)


@PROFILES
async def test_100_adds_of_the_same_link(tmp_path: Path, profile: Any) -> None:
    data = b"the same bytes"
    asked = Add(SPACE, link(data), len(data))
    async with two(tmp_path, profile(limit=1_000)) as worlds:
        world = worlds[0]
        answers = await at_once(worlds, asked)
        head = await world.settled(job_of(SPACE, data))
        assert len(answers) == 100
        kinds = Counter(answer.kind for answer in answers)
        assert kinds == {"committed": 1, "no change": 99}
        assert {answer.job for answer in answers} == {head.job}
        assert [one.job for one in await world.jobs(STORE_ADD.name)] == [head.job]

        await reserved_once(world, len(data))
        applied = await events(world.store, head.job)
        assert applied["store/signed"] == 1
        assert applied["store/add"] == 1

        again = await at_once(worlds, asked)
        assert {(answer.kind, answer.state) for answer in again} == {("no change", head.state_cid)}
        now = await world.transactor.get(head.job)
        assert now is not None
        assert now.revision == head.revision
        await verified(world.store, world.profile)


async def reserved_once(world: Machine, size: int) -> None:
    states = [state["f"]["used"] for _, state in await chain(world.store, QUOTA.job(SPACE))]
    assert states == [size]
    if RESERVATION in world.profile.workflows:
        (reservation,) = await world.jobs(RESERVATION.name)
        assert (reservation.state.tag, reservation.seq) == ("granted", 1)


async def at_once(worlds: list[Machine], asked: Add) -> list[Answer]:
    """100 answers to 100 agents, half of them at each service."""
    answers: list[Answer] = []

    async def add(n: int) -> None:
        event = replace(asked, agent=f"did:key:zAgent{n}")
        answers.append(await worlds[n % 2].transactor.send(STORE_ADD, event))

    async with anyio.create_task_group() as group:
        for n in range(100):
            group.start_soon(add, n)
    return answers
