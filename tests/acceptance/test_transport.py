"""Requests against a hostile peer: each has one result, no socket is left, no budget is passed."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import anyio
import pytest

from examples.transport import TRANSPORT, Request, Start, Terms, hostile, wires
from examples.transport.hostile import MOODS, Hostile, answer_to
from scheduler import Scheduler
from stmflow import Transactor
from stmflow.store.sqlite import SQLiteStore

PATIENT = Terms(
    attempts=10_000, lookups=100, attempt_ms=1_000, deadline_ms=3_600_000, base_ms=5, cap_ms=200
)
HASTY = Terms(attempts=3, lookups=2, attempt_ms=200, deadline_ms=1_500, base_ms=5, cap_ms=200)
AT_ONCE = 24


async def test_some_requests_against_a_hostile_peer(tmp_path: Path) -> None:
    await patient(tmp_path, len(MOODS), Random(1))


@pytest.mark.acceptance
async def test_1_000_requests_against_a_hostile_peer(tmp_path: Path) -> None:
    met = await patient(tmp_path, 1_000, Random(2))
    assert set(met) == set(MOODS)


async def test_requests_that_have_little_time_say_what_became_of_them(tmp_path: Path) -> None:
    await hasty(tmp_path, 12, Random(3))


@pytest.mark.acceptance
async def test_1_000_requests_that_have_little_time(tmp_path: Path) -> None:
    await hasty(tmp_path, 1_000, Random(4))


async def patient(path: Path, count: int, random: Random) -> Counter[str]:
    peer, ended = await requests(path, count, PATIENT, random)
    assert [state.status for state in ended] == ["done"] * count
    return peer.met


async def hasty(path: Path, count: int, random: Random) -> None:
    _, ended = await requests(path, count, HASTY, random)
    print(Counter((state.status, state.happened) for state in ended))


async def requests(
    path: Path, count: int, terms: Terms, random: Random
) -> tuple[Hostile, list[Request]]:
    """So many requests, every other one idempotent, and what became of each."""
    ended: list[Request] = []
    async with hostile.opened(random, late_seconds=1.5) as peer:
        before = sockets()
        async with (
            SQLiteStore.open(path / "requests.db") as store,
            Transactor(store, [TRANSPORT]) as db,
            wires.opened(peer.token) as here,
            Scheduler(db, here.handlers, limits=wires.limits(AT_ONCE)),
        ):
            gate = anyio.Semaphore(AT_ONCE)

            async def request(number: int) -> None:
                key = f"r{number}"
                job = TRANSPORT.job(key)
                start = Start(key, peer.address, key.encode(), number % 2 == 0, terms)
                async with gate:
                    await db.send(job, start)
                    head = await db.wait(job, lambda state: state.ended, timeout=3_600)
                    ended.append(head.state)

            async with anyio.create_task_group() as group:
                for number in range(count):
                    group.start_soon(request, number)
            with anyio.fail_after(120):
                while here.open or peer.connections:
                    await anyio.sleep(0.01)  # closing is a task like any other
            assert sockets() <= before
    for state in ended:
        judge(state, peer)
    said = f"{count} requests, {sum(peer.frames.values())} frames"
    print(f"\n{said}, {max(state.attempt for state in ended)} attempts at most: {dict(peer.met)}")
    return peer, ended


def judge(state: Request, peer: Hostile) -> None:
    """What it says of itself is what the peer knows of it."""
    carried = peer.carried[state.key]
    if state.status == "done":
        assert state.answer == answer_to(state.body)
    if state.happened is not None:
        assert state.happened == (carried > 0), (state, carried)
    assert carried <= 1 or state.idempotent, (state, carried)
    attempts = [attempt for key, attempt in peer.frames if key == state.key]
    assert max(attempts, default=0) <= state.attempt <= state.terms.attempts
    assert all(peer.frames[state.key, attempt] == 1 for attempt in attempts)


def sockets() -> set[str]:
    """The sockets that this process has open."""
    links = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists
            links.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {link for link in links if link.startswith("socket:")}
