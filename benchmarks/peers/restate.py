"""Restate: a server that keeps journals, and a Python service that it calls over HTTP/2.

Set up as its documentation says: https://docs.restate.dev/develop/python/serving for the service
under Hypercorn with its production settings, https://docs.restate.dev/services/invocation/http for
jobs with an idempotency key, https://docs.restate.dev/develop/python/durable-timers for sleep, and
a virtual object for what is counted. The server is the single binary with its defaults.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config

from benchmarks.peers.peer import SPACE, Peer, Place, work_of
from benchmarks.peers.processes import workers

ENDED = """
SELECT count(*) AS n FROM sys_invocation WHERE target_service_name = 'ShortAdd'
AND status = 'completed' AND completion_result = 'success'
"""
STEPS_RECORDED = """
SELECT count(*) AS n FROM sys_journal j JOIN sys_invocation i ON i.id = j.id
WHERE i.target_service_name = 'ShortAdd' AND i.status = 'completed'
AND j.entry_type = 'Command: Run'
"""
COUNTED = "SELECT value_utf8 AS value FROM state WHERE service_name = 'Counter' AND key = 'value'"
ASLEEP = """
SELECT count(*) AS n FROM sys_journal WHERE entry_type = 'Command: Sleep'
"""
WOKEN = """
SELECT idempotency_key, completed_at FROM sys_invocation
WHERE target_service_name = 'Sleeper' AND status = 'completed'
"""
UNBOUNDED = 2**31 - 1


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Peer]:
    """The asking side in this process, the service in one of its own; the server runs already."""
    memo = place.folder / "service-port"
    known = memo.exists()
    if not known:
        memo.write_text(str(_free_port()))
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    with workers("restate", place):
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            peer = RestatePeer(place, http)
            if not known:
                await peer.register(f"http://127.0.0.1:{memo.read_text()}")
            yield peer


async def worker(place: Place) -> None:
    """The service: one Hypercorn process."""
    work = work_of(place)
    short_add = restate.Service("ShortAdd")
    counter = restate.VirtualObject("Counter")
    sleeper = restate.Service("Sleeper")

    @short_add.handler("add")
    async def add(ctx: restate.Context, asked: dict[str, Any]) -> str:
        number = asked["number"]

        async def allocate() -> None:
            await work(number, "allocate")

        async def stat() -> bool:
            await work(number, "stat")
            return False

        async def presign() -> str:
            await work(number, "presign")
            return f"https://bucket.example/{number}"

        await ctx.run_typed("allocate", allocate)
        assert await ctx.run_typed("stat", stat) is False
        return await ctx.run_typed("presign", presign)

    @counter.handler("increment")
    async def increment(ctx: restate.ObjectContext) -> int:
        value = (await ctx.get("value", type_hint=int) or 0) + 1
        ctx.set("value", value)
        return value

    @sleeper.handler("rest")
    async def rest(ctx: restate.Context, until: float) -> None:
        await ctx.sleep(timedelta(seconds=max(0.0, until - await ctx.time())))

    config = Config()
    config.bind = ["127.0.0.1:" + (place.folder / "service-port").read_text()]
    config.h2_max_concurrent_streams = UNBOUNDED
    config.keep_alive_max_requests = UNBOUNDED
    config.keep_alive_timeout = UNBOUNDED
    config.errorlog = None
    print("ready", flush=True)
    await serve(restate.app([short_add, counter, sleeper]), config)


class RestatePeer:
    """As `Peer` says."""

    def __init__(self, place: Place, http: aiohttp.ClientSession) -> None:
        self._url, self._admin, self._http = place.url, place.options["admin"], http

    async def register(self, service: str) -> None:
        """Tell the server where the service is; it asks there for the handlers."""
        async with self._http.post(f"{self._admin}/deployments", json={"uri": service}) as answer:
            assert answer.status in (200, 201), await answer.text()

    async def job(self, number: int) -> None:
        await self._call("ShortAdd/add", _asked(number), key=f"job {number}")

    async def begin(self, number: int) -> None:
        await self._call("ShortAdd/add/send", _asked(number), key=f"job {number}")

    async def jobs_ended(self) -> int:
        return int((await self._query(ENDED))[0]["n"])

    async def steps_recorded(self) -> int:
        return int((await self._query(STEPS_RECORDED))[0]["n"])

    async def increment(self, name: str) -> None:
        await self._call(f"Counter/{name.replace(' ', '-')}/increment", None)

    async def counted(self) -> int:
        return sum(int(row["value"]) for row in await self._query(COUNTED))

    async def rest(self, number: int, until: float) -> None:
        await self._call("Sleeper/rest/send", until, key=str(number))

    async def asleep(self) -> int:
        return int((await self._query(ASLEEP))[0]["n"])

    async def woken(self) -> dict[int, float]:
        rows = await self._query(WOKEN)
        return {
            int(row["idempotency_key"]): datetime.fromisoformat(row["completed_at"]).timestamp()
            for row in rows
        }

    async def _call(self, path: str, body: Any, *, key: str | None = None) -> None:
        headers = {} if key is None else {"idempotency-key": key}
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = json.dumps(body)
        async with self._http.post(
            f"{self._url}/{path}", data=data, headers=headers, skip_auto_headers=["content-type"]
        ) as answer:
            text = await answer.text()
            if answer.status not in (200, 202):
                raise RuntimeError(f"{path}: {answer.status} {text}")

    async def _query(self, sql: str) -> list[dict[str, Any]]:
        """The server's own view of its journals."""
        accept = {"accept": "application/json"}
        async with self._http.post(
            f"{self._admin}/query", json={"query": sql}, headers=accept
        ) as answer:
            text = await answer.text()
            assert answer.status == 200, text
        return list(json.loads(text)["rows"])


def _asked(number: int) -> dict[str, Any]:
    return {"space": SPACE, "number": number, "size": 1_000 + number}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
