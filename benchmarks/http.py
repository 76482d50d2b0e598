"""A closed loop of HTTP clients in this process, against a server in another; its CPU is told."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.load import percentile

TYPE = "application/vnd.ipld.car"


def cpu_seconds(pid: int) -> float:
    """What the process has used so far, of all cores; its children not counted. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def post(url: str, bodies: Iterable[bytes], *, clients: int) -> list[float]:
    """Post every body once, so many at a time on connections kept alive; seconds that each took.

    Raises RuntimeError for an answer that is not 200.
    """
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    head = (
        f"POST {where.path or '/'} HTTP/1.1\r\nhost: {where.netloc}\r\n"
        f"content-type: {TYPE}\r\naccept: {TYPE}\r\ncontent-length: %d\r\n\r\n"
    )
    took: list[float] = []
    waiting: Iterator[bytes] = iter(bodies)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        for body in waiting:
            began = time.perf_counter()
            writer.write((head % len(body)).encode() + body)
            await _answer(reader)
            took.append(time.perf_counter() - began)
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return took


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    if not head.startswith("http/1.1 200"):
        raise RuntimeError(head.partition("\r\n")[0])
    if "transfer-encoding: chunked" in head:
        return await _chunks(reader)
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    return await reader.readexactly(length)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


def one(url: str, body: bytes) -> bytes:
    """Post one body; the answer."""

    async def run() -> bytes:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        head = f"POST {where.path or '/'} HTTP/1.1\r\nhost: {where.netloc}\r\n"
        head += f"content-type: {TYPE}\r\naccept: {TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await _answer(reader)
        writer.close()
        return answer

    return asyncio.run(run())


def measure(url: str, pid: int, bodies: list[bytes], *, clients: int) -> dict[str, float]:
    """Invocations per second, CPU milliseconds of the server for each, latencies."""
    warm = len(bodies) // 10
    asyncio.run(post(url, bodies[:warm], clients=clients))
    cpu, began = cpu_seconds(pid), time.perf_counter()
    took = asyncio.run(post(url, itertools.islice(bodies, warm, None), clients=clients))
    wall = time.perf_counter() - began
    cpu = cpu_seconds(pid) - cpu
    return {
        "per_s": len(took) / wall,
        "cpu_ms": cpu / len(took) * 1_000,
        "p50_ms": median(took) * 1_000,
        "p99_ms": percentile(took, 0.99) * 1_000,
    }


__all__ = ["cpu_seconds", "measure", "one", "post"]
