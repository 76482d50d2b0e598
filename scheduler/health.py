"""Is this worker alive, is it ready: probes, and a small HTTP server that tells.

    GET /live      200 while the event loop turns
    GET /ready     200 while every check passes; else 503. The body says which, as JSON
    GET /metrics   200 and text, where a function that gives it was passed; else 404

It answers one request for each connection, on a port of its own that is meant for the
orchestrator, not for the world: no TLS, no bodies, no keep-alive.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.abc

from scheduler.handlers import Probe
from stmflow.clock import Clock

PROBE_MS: Final = 5_000
"""A probe that takes longer has failed."""
KEEP_MS: Final = 2_000
"""For so long the last look is told again, so that questions cost nothing."""
REQUEST_BYTES: Final = 8_192
REQUEST_SECONDS: Final = 5.0
CONNECTIONS: Final = 32

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one probe found: `detail` is a number or a text for people, `error` why it failed."""

    ok: bool
    detail: Any = None
    error: str | None = None


class Health:
    """The checks of one worker.

    Args:
        clock: tells how long a look is kept.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.probes: Mapping[str, Probe] = {}
        """Name → async function: what it returns is the check's detail, what it raises the reason
        why it fails."""
        self._lock = anyio.Lock()
        self._looked: int | None = None
        self._found: dict[str, Check] = {}
        self.standing = "starting"
        """What the worker is about: it is ready only while it is "working"."""

    async def checks(self) -> dict[str, Check]:
        """What every probe says, all asked at once; an answer of just before is given again."""
        async with self._lock:
            now = self._clock.now()
            if self._looked is None or not 0 <= now - self._looked < KEEP_MS:
                found: dict[str, Check] = {}
                async with anyio.create_task_group() as group:
                    for name, probe in self.probes.items():
                        group.start_soon(_ask, name, probe, found)
                self._found = {name: found[name] for name in self.probes}
                self._looked = now
            return self._found

    async def ready(self) -> tuple[bool, dict[str, Check]]:
        """Whether it does its work, and what stands in the way."""
        checks = await self.checks() if self.standing == "working" else {}
        if self.standing != "working":  # perhaps only since the probes were asked
            return False, {"standing": Check(False, error=self.standing)}
        return all(check.ok for check in checks.values()), checks


async def _ask(name: str, probe: Probe, found: dict[str, Check]) -> None:
    found[name] = Check(False, error=f"no answer within {PROBE_MS} ms")
    with anyio.move_on_after(PROBE_MS / 1_000):
        try:
            found[name] = Check(True, await probe())
        except Exception as error:
            found[name] = Check(False, error=f"{type(error).__name__}: {error}"[:500])


# --- HTTP -----------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(
    health: Health, host: str, port: int, *, metrics: Callable[[], str] | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve until left; where, as (host, port). Port 0: a free one. Raises OSError.

    Args:
        metrics: gives the text of /metrics, in whatever exposition format it speaks.
    """
    room = anyio.Semaphore(CONNECTIONS)

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                async with room:
                    with anyio.move_on_after(REQUEST_SECONDS):
                        status, kind, body = await _answer(health, metrics, await _head(stream))
                        await stream.send(_response(status, kind, body))

    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        address = listener.extra(anyio.abc.SocketAttribute.local_address)
        try:
            yield str(address[0]), int(address[1])
        finally:
            group.cancel_scope.cancel()


async def _head(stream: anyio.abc.ByteStream) -> bytes | None:
    """The head of a request; None where it is none, or too long."""
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        if len(head) == REQUEST_BYTES:
            return None
        try:
            head += await stream.receive(REQUEST_BYTES - len(head))
        except anyio.EndOfStream:
            return None
    return head


async def _answer(
    health: Health, metrics: Callable[[], str] | None, head: bytes | None
) -> tuple[int, str, str]:
    words = [] if head is None else head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return 400, "text/plain", "not a request\n"
    if words[0] != b"GET":
        return 405, "text/plain", "GET alone\n"
    match words[1].partition(b"?")[0]:
        case b"/live":
            return 200, "text/plain", "alive\n"
        case b"/ready":
            ready, checks = await health.ready()
            told = {"ready": ready, "checks": {name: _told(c) for name, c in checks.items()}}
            return 200 if ready else 503, "application/json", json.dumps(told, default=str) + "\n"
        case b"/metrics" if metrics is not None:
            return 200, "text/plain; version=0.0.4", metrics()
    return 404, "text/plain", "nothing here\n"


def _told(check: Check) -> dict[str, Any]:
    told = {"ok": check.ok, "detail": check.detail, "error": check.error}
    return {name: value for name, value in told.items() if value is not None}


def _response(status: int, kind: str, body: str) -> bytes:
    data = body.encode(errors="backslashreplace")
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Service Unavailable')}\r\n"
        f"Content-Type: {kind}; charset=utf-8\r\nContent-Length: {len(data)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data
