"""What a wire may do to a request: cut it anywhere, split it anywhere, or send it for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx

from capabilities.service import application
from tests.attack.tokens0 import ASK, ROOT
from tests.attack.world import World, post, world

CAR = "application/vnd.ipld.car"
BODY = post(ASK, ROOT)
HEADERS = {"content-type": CAR, "accept": CAR}


@asynccontextmanager
async def served(**options: int) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    async with world() as at:
        transport = httpx.ASGITransport(application(at.service, **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as http:
            yield at, http


async def test_a_body_cut_at_any_byte_is_refused_and_writes_nothing() -> None:
    async with served() as (at, http):
        before = at.snapshot()
        statuses = set()
        for end in range(len(BODY)):
            reply = await http.post("/", content=BODY[:end], headers=HEADERS)
            statuses.add(reply.status_code)
        assert statuses == {400}
        assert at.snapshot() == before
        assert (await http.post("/", content=BODY, headers=HEADERS)).status_code == 200
        assert at.snapshot() != before


async def test_a_body_split_at_any_byte_is_the_same_body() -> None:
    async def parts(at: int) -> AsyncIterator[bytes]:
        yield BODY[:at]
        await anyio.sleep(0)
        yield BODY[at:]

    async with served() as (at, http):
        whole = await http.post("/", content=BODY, headers=HEADERS)
        before = at.snapshot()
        for place in range(len(BODY) + 1):
            reply = await http.post("/", content=parts(place), headers=HEADERS)
            assert (reply.status_code, reply.content) == (200, whole.content)
        assert at.snapshot() == before


async def test_bodies_that_never_end_hold_up_nobody_else() -> None:
    """A turn is taken when the whole body is there."""

    async def drip() -> AsyncIterator[bytes]:
        yield BODY[:10]
        await anyio.sleep_forever()

    async with (
        served(concurrent_requests=1, waiting_requests=1) as (_, http),
        anyio.create_task_group() as group,
    ):

        async def one() -> None:
            await http.post("/", content=drip(), headers=HEADERS)

        for _ in range(20):
            group.start_soon(one)
        await anyio.sleep(0.05)
        with anyio.fail_after(30):
            reply = await http.post("/", content=BODY, headers=HEADERS)
        assert reply.status_code == 200
        group.cancel_scope.cancel()
