"""The S3 server is killed in the middle of jobs and started again on its data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import groupby
from pathlib import Path
from random import Random

import anyio
import httpx
import pytest

from examples.store_add.model import Receiving, Terms
from examples.store_add.quota import local
from examples.store_add.seaweed import Endpoint, SeaweedMissing, find_weed, running
from examples.store_add.service import Service, service, upload_target
from scheduler.handlers.s3 import object_key
from tests.acceptance.fakes import job_of, tags, verified
from tests.acceptance.story import link

SPACE = "did:key:zAlice"
LIMIT = 10_000_000
PATIENCE_SECONDS = 240


@pytest.fixture(autouse=True)
def installed() -> None:
    try:
        find_weed()
    except SeaweedMissing as missing:
        pytest.skip(str(missing))


class Mortal:
    """A server over a folder. It dies as by `kill -9`, and comes back on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint: Endpoint | None = None
        self._running = AsyncExitStack()

    async def start(self) -> Endpoint:
        found = await self._running.enter_async_context(running(self.folder))
        assert self.endpoint in (None, found), "another port: URLs that were signed are lost"
        self.endpoint = found
        return found

    async def kill(self) -> None:
        await self._running.aclose()


@asynccontextmanager
async def mortal(folder: Path) -> AsyncIterator[Mortal]:
    server = Mortal(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


async def test_a_server_that_is_killed_in_the_middle_of_a_job_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    data = b"bytes that outlive their server" * 1_000
    async with mortal(tmp_path / "s3") as server:
        assert server.endpoint is not None
        async with service(tmp_path / "jobs.db", server.endpoint) as storage:
            await server.kill()
            answer = await storage.add(SPACE, data)  # its first look finds nobody
            assert answer.job is not None
            await server.start()
            assert await put(await offered(storage, data), data) == 200
            await server.kill()  # right after it has acknowledged
            await storage.claim(SPACE, data)
            await server.start()
            await storage.reached(answer.job, "stored", timeout=PATIENCE_SECONDS)
            assert (await storage.add(SPACE, data)).kind == "no change"
            await at_rest(storage, [data])


@pytest.mark.acceptance
async def test_a_server_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    random = Random(5)
    datas = [random.randbytes(random.randint(1, 200_000)) for _ in range(40)]
    kills, done = 0, anyio.Event()
    async with mortal(tmp_path / "s3") as server:
        assert server.endpoint is not None
        async with service(tmp_path / "jobs.db", server.endpoint) as storage:

            async def client(mine: list[bytes]) -> None:
                for data in mine:
                    await store(storage, data)

            async def killer() -> None:
                nonlocal kills
                while not done.is_set():
                    await anyio.sleep(random.random() * 2)
                    await server.kill()
                    kills += 1
                    await anyio.sleep(random.random())
                    await server.start()

            async with anyio.create_task_group() as group:
                group.start_soon(killer)
                async with anyio.create_task_group() as clients:
                    for n in range(4):
                        clients.start_soon(client, datas[n::4])
                done.set()
            assert kills >= 3
            await at_rest(storage, datas)


async def store(storage: Service, data: bytes) -> None:
    """What a patient client does: ask, upload, and ask again if it came to nothing."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            await storage.add(SPACE, data, terms=Terms(window_ms=60_000))
            state = await storage.settled(job_of(SPACE, data), timeout=PATIENCE_SECONDS)
            if state.tag == "stored":
                return
            if isinstance(state, Receiving) and await put(state, data) in (200, 412):
                await storage.claim(SPACE, data)
            await anyio.sleep(0.2)


async def offered(storage: Service, data: bytes) -> Receiving:
    state = await storage.settled(job_of(SPACE, data), timeout=PATIENCE_SECONDS)
    assert isinstance(state, Receiving)
    return state


async def put(state: Receiving, data: bytes) -> int:
    """The status of an upload; 0: nobody answered."""
    target = upload_target(state)
    assert target is not None
    async with httpx.AsyncClient(timeout=20) as client:
        try:
            answer = await client.put(target.url, content=data, headers=dict(target.headers))
        except httpx.TransportError:
            return 0
    return answer.status_code


async def at_rest(storage: Service, datas: list[bytes]) -> None:
    """Every job is stored once, every object is there once, and the account agrees."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while await storage.store.tasks():
            await anyio.sleep(0.05)
    for data in datas:
        went = [tag for tag, _ in groupby(await tags(storage.store, job_of(SPACE, data)))]
        assert went.count("stored") == 1, went
    assert await storage.used(SPACE) == sum(len(data) for data in datas)
    await verified(storage.store, local(limit=LIMIT))
    for data in datas:
        assert await storage.bucket.ask("get_object", Key=object_key(link(data))) == data
