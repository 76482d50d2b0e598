"""P16 in virtual time: 50 writers on one head do not starve 50 quiet jobs beside them.

Time passes only on the way to the store (0 to 4 ms each way), so the figures are the same on every
machine: what is measured is how batches, conflicts and retries share out the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import anyio
import pytest

from scheduler.testing import Faults, FaultyStore, Process, VirtualClock, VirtualLoop
from scheduler.testing.faults import Ground
from stmflow import Transactor, Workflow
from stmflow.limits import LIMITS
from stmflow.store.memory import MemoryStore

QUIET = WRITERS = 50
ROUNDS = 4
PROCESSES = 4


@dataclass(frozen=True, slots=True)
class Tick:
    """Once more."""

    name: str


@dataclass(frozen=True, slots=True)
class Ticks:
    """How often."""

    count: int = 0


def _tick(event: Tick, state: Ticks | None) -> Any:
    return Ticks(state.count + 1 if state else 1), []


TICKS = Workflow("ticks", state=Ticks, events=(Tick,), outside=(Tick,), update=_tick, key=("name",))
Send = Callable[[Tick], Awaitable[object]]


class Tally:
    """How long each send of a quiet job took, in virtual seconds; how often a head was lost."""

    def __init__(self, *, hot: bool, replans: bool) -> None:
        self.took: list[float] = []
        self.written = 0
        self._hot = hot
        loop = VirtualLoop(Random(16), max_steps=2_000_000)
        self.ground = Ground(MemoryStore())
        try:
            loop.run_until_complete(self._world(loop, replans))
        finally:
            loop.close()

    @property
    def p99(self) -> float:
        """Of the quiet jobs."""
        return sorted(self.took)[len(self.took) * 99 // 100]

    async def _world(self, loop: VirtualLoop, replans: bool) -> None:
        ready = anyio.Event()
        sends: list[Send] = []
        processes = [
            loop.spawn(None, self._process(loop, number, replans, sends, ready))
            for number in range(PROCESSES)
        ]
        while len(sends) < PROCESSES:
            await anyio.sleep(0.01)
        async with anyio.create_task_group() as writers, anyio.create_task_group() as quiet:
            for number in range(WRITERS * self._hot):
                writers.start_soon(self._write, sends[number % PROCESSES])
            for number in range(QUIET):
                quiet.start_soon(self._send, sends[number % PROCESSES], number)
        ready.set()
        for process in processes:
            await process

    async def _process(
        self, loop: VirtualLoop, number: int, replans: bool, sends: list[Send], ready: anyio.Event
    ) -> None:
        faults = Faults(Random(0), {})
        process = Process(f"process {number}")
        store = FaultyStore(self.ground, loop, process, faults, Random(number), replans=replans)
        clock, random = VirtualClock(loop), Random(f"transactor {number}")
        async with Transactor(store, [TICKS], clock=clock, random=random) as transactor:
            sends.append(lambda event: transactor.send(TICKS, event))
            await ready.wait()

    async def _write(self, send: Send) -> None:
        """As fast as it can, for as long as there are quiet jobs."""
        while len(self.took) < QUIET * ROUNDS:
            await send(Tick("hot"))
            self.written += 1

    async def _send(self, send: Send, number: int) -> None:
        random = Random(f"quiet {number}")
        for _ in range(ROUNDS):
            await anyio.sleep(random.random() * 0.1)
            began = anyio.current_time()
            await send(Tick(f"quiet {number}"))
            self.took.append(anyio.current_time() - began)


@pytest.mark.parametrize("replans", [True, False], ids=["replanned", "bounced"])
def test_a_hot_job_slows_quiet_jobs_down_no_more_than_threefold(replans: bool) -> None:
    alone = Tally(hot=False, replans=replans)
    beside = Tally(hot=True, replans=replans)
    print(f"p99 alone {alone.p99 * 1e3:.1f} ms, beside {beside.p99 * 1e3:.1f} ms")
    most = max(beside.ground.losses.values(), default=0)
    print(f"{beside.written} writes to the hot job, at most {most} conflicts of one delivery")
    assert len(beside.took) == len(alone.took) == QUIET * ROUNDS
    assert beside.p99 <= 3 * alone.p99
    assert most <= LIMITS.conflict_retries
    assert beside.written > WRITERS
