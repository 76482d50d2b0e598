"""Many workers that transfer at random, and whether the sum was exact in every snapshot meanwhile.

A store is named by `memory`, a file (SQLite) or `postgresql://…`. Several processes may work on
the latter two; in memory each worker is a transactor of its own, so that they compete as well.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import anyio
from pydantic import TypeAdapter

from examples.bank.accounts import ACCOUNT, Open, transfer
from stmflow import Job, Transactor
from stmflow.store.memory import MemoryStore

OPENING = 100
"""What each account holds at first."""
MOST = 50
"""The largest transfer: so some are refused, as they should be."""
PAUSE_SECONDS = 0.05
"""Between two snapshots."""


@dataclass(slots=True)
class Load:
    """What is to be done: so many workers, in so many processes, make so many transfers each."""

    workers: int = 8
    transfers: int = 10_000
    accounts: int = 100
    processes: int = 1


@dataclass(slots=True)
class Found:
    """What came of it: the answers, the engine's counters, how many seconds each process took, and
    the snapshots taken meanwhile."""

    answers: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)
    began: float = float("inf")
    ended: float = 0.0
    snapshots: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Count in what another worker found."""
        self.answers.update(other.answers)
        self.counters.update(other.counters)
        self.took += other.took
        self.began, self.ended = min(self.began, other.began), max(self.ended, other.ended)

    def text(self) -> str:
        """For people: throughput, and how often somebody else was faster."""
        count = self.answers.total()
        lost, again = self.counters["conflicts"], self.counters["replanned"]
        return (
            f"{count:,} transfers in {self.ended - self.began:.1f} s:"
            f" {count / (self.ended - self.began):,.0f}/s; {dict(self.answers)}\n"
            f"conflicts: {100 * lost / count:.2f} for 100 transfers; planned again:"
            f" {again:,} of {self.counters['batches']:,} batches\n"
            f"of {len(self.took)} processes the first was done after {min(self.took):.1f} s,"
            f" the last after {max(self.took):.1f} s\n"
            f"{self.snapshots} snapshots meanwhile, {len(self.wrong)} of them wrong"
        )


LOAD, FOUND = TypeAdapter(Load), TypeAdapter(Found)
"""How the two travel between processes."""


def accounts(count: int) -> list[Job]:
    """The jobs of that many accounts."""
    return [ACCOUNT.job(f"account {number}") for number in range(count)]


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Any]:
    """The store of that name."""
    if name == "memory":
        yield MemoryStore()
    elif name.startswith("postgresql:"):
        from stmflow.store.postgres import PostgresStore

        async with PostgresStore.open(name) as postgres:
            yield postgres
    else:
        from stmflow.store.sqlite import SQLiteStore

        async with SQLiteStore.open(name) as sqlite:
            yield sqlite


def transactor(store: Any) -> Transactor:
    """A transactor on it, by the store's own clock where it has one."""
    return Transactor(store, [ACCOUNT], clock=getattr(store, "clock", None))


async def run(store: Any, name: str, load: Load) -> Found:
    """Open the accounts, let all workers work, and look at the sum again and again.

    Args:
        name: of the store, for other processes to open it by.
    """
    found, jobs = Found(), accounts(load.accounts)
    async with transactor(store) as bank:
        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(bank.send, ACCOUNT, Open(job.key[0], OPENING))
        async with anyio.create_task_group() as watching:
            watching.start_soon(_watch, bank, jobs, found)
            if load.processes == 1:
                everybody = range(load.workers)
                found.add(await share(store, everybody, load, together=name != "memory"))
            else:
                for part in await _processes(name, load):
                    found.add(part)
            watching.cancel_scope.cancel()
        await _look(bank, jobs, found)
    return found


async def share(store: Any, workers: range, load: Load, *, together: bool) -> Found:
    """These workers, in this process: on one transactor, or on one each."""
    found = Found()
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(transactor(store))
            for _ in range(1 if together else len(workers))
        ]

        async def one(number: int) -> None:
            found.answers.update(await work(made[number % len(made)], number, load))

        found.began = time.time()
        async with anyio.create_task_group() as group:
            for number in workers:
                group.start_soon(one, number)
        found.ended = time.time()
        found.took.append(found.ended - found.began)
        for each in made:
            found.counters.update(each.counters)
    return found


async def work(bank: Transactor, worker: int, load: Load) -> Counter[str]:
    """One worker: one random transfer after the other; how often each answer came."""
    random, answers = Random(worker), Counter[str]()
    jobs = accounts(load.accounts)
    for _ in range(load.transfers):
        source, target = random.sample(jobs, 2)
        body = transfer(source, target, random.randint(1, MOST))
        answers[await bank.transact(body, reads=(source, target))] += 1
    return answers


async def _watch(bank: Transactor, jobs: list[Job], found: Found) -> None:
    while True:
        await _look(bank, jobs, found)
        await anyio.sleep(PAUSE_SECONDS)


async def _look(bank: Transactor, jobs: list[Job], found: Found) -> None:
    """One snapshot: the sum is exact, and nobody owes anything."""
    balances = [account.balance for account in (await bank.snapshot(jobs)).values()]
    found.snapshots += 1
    if sum(balances) != OPENING * len(jobs) or min(balances) < 0:
        found.wrong.append(f"sum {sum(balances)}, least {min(balances)}")


# --- in several processes -----------------------------------------------------------------------


async def _processes(name: str, load: Load) -> list[Found]:
    """Each process has its share of the workers."""
    parts: list[Found] = []
    each = load.workers // load.processes

    async def child(first: int) -> None:
        command = [sys.executable, "-m", "examples.bank", "work", name, str(first), str(each)]
        done = await anyio.run_process([*command, LOAD.dump_json(load)], stderr=None)
        parts.append(FOUND.validate_json(done.stdout))

    async with anyio.create_task_group() as group:
        for number in range(load.processes):
            group.start_soon(child, number * each)
    return parts


async def child(name: str, first: int, count: int, load: str) -> bytes:
    """What such a process does; its findings as one line of JSON."""
    async with opened(name) as store:
        everybody = range(first, first + count)
        found = await share(store, everybody, LOAD.validate_json(load), together=True)
    return FOUND.dump_json(found)
