"""The health endpoint: what it answers, whom it refuses, and how often it asks the probes."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from scheduler import health as module
from scheduler.health import KEEP_MS, REQUEST_BYTES, Health, serving


class Clock:
    at = 1_000

    def now(self) -> int:
        return self.at

    async def sleep_until(self, at_ms: int) -> None: ...


async def ask(address: tuple[str, int], request: bytes, rest: bytes = b"") -> tuple[int, bytes]:
    """The status and body that a request gets; `rest` follows a little later."""
    async with await anyio.connect_tcp(*address) as stream:
        await stream.send(request)
        if rest:
            await anyio.sleep(0.02)
            await stream.send(rest)
        answer = b""
        try:
            while True:
                answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return int(head.split(b" ")[1]), body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/live"), 200),
        (get("/live?full=1"), 200),
        (get("/ready"), 503),
        (get("/metrics"), 404),
        (get("/../etc"), 404),
        (b"POST /live HTTP/1.1\r\n\r\n", 405),
        (b"HEAD /live HTTP/1.1\r\n\r\n", 405),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /live\r\n\r\n", 400),
        (b"GET /live FTP/1.1\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nX: " + b"y" * 3 * REQUEST_BYTES, 400),
    ],
)
async def test_each_request_gets_one_answer(request_: bytes, status: int) -> None:
    async with serving(Health(Clock()), "127.0.0.1", 0) as address:
        assert (await ask(address, request_))[0] == status
        assert (await ask(address, get("/live"))) == (200, b"alive\n")


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("pieces", [1, 2])
async def test_the_head_of_a_request_has_at_most_so_many_bytes(off: int, pieces: int) -> None:
    """However it comes in pieces."""
    size = REQUEST_BYTES + off
    asked = b"GET /live HTTP/1.1\r\nX: "
    asked += b"y" * (size - len(asked) - 4) + b"\r\n\r\n"
    assert len(asked) == size
    async with serving(Health(Clock()), "127.0.0.1", 0) as address:
        first = asked[: size // pieces]
        assert (await ask(address, first, asked[len(first) :]))[0] == (400 if off > 0 else 200)


@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_so_many_are_heard_at_once(monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    """`CONNECTIONS`: who is over the number waits until one of them has gone."""
    monkeypatch.setattr(module, "CONNECTIONS", 3)
    async with serving(Health(Clock()), "127.0.0.1", 0) as address:
        silent = [await anyio.connect_tcp(*address) for _ in range(module.CONNECTIONS - 1 + off)]
        await anyio.sleep(0.05)
        told: list[int] = []

        async def one() -> None:
            told.append((await ask(address, get("/live")))[0])

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            if off > 0:
                await anyio.sleep(0.05)
                assert told == []
                await silent.pop().aclose()
        assert told == [200]
        for each in silent:
            await each.aclose()


async def test_readiness_says_what_stands_in_the_way() -> None:
    async def fine() -> dict[str, int]:
        return {"age_ms": 5}

    async def wrong() -> None:
        raise ConnectionError("no\x00 bucket")

    clock = Clock()
    health = Health(clock)
    async with serving(health, "127.0.0.1", 0, metrics=lambda: "up 1\n") as address:
        status, body = await ask(address, get("/ready"))
        assert (status, json.loads(body)["checks"]["standing"]["error"]) == (503, "starting")
        health.standing, health.probes = "working", {"fine": fine}
        status, body = await ask(address, get("/ready"))
        told = {"ready": True, "checks": {"fine": {"ok": True, "detail": {"age_ms": 5}}}}
        assert (status, json.loads(body)) == (200, told)
        assert await ask(address, get("/metrics")) == (200, b"up 1\n")
        health.probes = {"fine": fine, "wrong": wrong}
        assert (await ask(address, get("/ready")))[0] == 200  # as just before
        clock.at += KEEP_MS
        status, body = await ask(address, get("/ready"))
        assert (status, json.loads(body)["checks"]["wrong"]["ok"]) == (503, False)
        health.standing = "draining"
        assert b"draining" in (await ask(address, get("/ready")))[1]


async def test_a_probe_that_hangs_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_MS", 10)

    async def never() -> None:
        await anyio.sleep_forever()

    health = Health(Clock())
    health.standing, health.probes = "working", {"never": never}
    ready, checks = await health.ready()
    assert not ready
    assert checks["never"].error == "no answer within 10 ms"


@pytest.mark.parametrize(("later", "calls"), [(KEEP_MS - 1, 1), (KEEP_MS, 2), (-1, 2)])
async def test_probes_are_asked_again_when_the_answer_is_old(later: int, calls: int) -> None:
    asked: list[Any] = []

    async def probe() -> None:
        asked.append(None)

    clock = Clock()
    health = Health(clock)
    health.standing, health.probes = "working", {"one": probe}
    await health.ready()
    clock.at += later
    await health.ready()
    assert len(asked) == calls


async def test_leaving_cuts_off_who_says_nothing() -> None:
    async with serving(Health(Clock()), "127.0.0.1", 0) as address:
        stream = await anyio.connect_tcp(*address)
    async with stream:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)), anyio.fail_after(5):
            await stream.receive()
