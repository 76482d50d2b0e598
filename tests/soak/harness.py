"""The parent of a soak: starts the processes, ends them in every way, replaces them, and watches.

Worker 0 and client 0 are never killed, so that their memory tells something; all others live for
seconds. A process that ends by itself is a violation.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any, Final

import anyio

from tests.soak.client import ask
from tests.soak.gauges import MIB, Series, memory_mib, open_files
from tests.soak.places import Place
from tests.soak.records import Book, Spread, Tail
from tests.soak.settings import LEASE_SECONDS, UNREACHABLE, Settings
from tests.soak.worker import work

BETWEEN_KILLS: Final = (2.0, 6.0)
STOPPED: Final = (LEASE_SECONDS + 0.5, LEASE_SECONDS + 4.0)
BETWEEN_CRASHES: Final = (120.0, 240.0)
BETWEEN_TERMINATIONS: Final = (20.0, 60.0)
LEAVING_SECONDS: Final = 90.0
"""What a worker that drains may take, and a client that hears its last answers twice as much."""
SAMPLE_SECONDS: Final = 10.0


@dataclass(slots=True)
class Child:
    """One life of a worker or a client."""

    role: str
    index: int
    life: int
    process: Any
    ending: str = ""
    stopped_until: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.role}-{self.index}"

    @property
    def running(self) -> bool:
        """Nobody has ended it yet."""
        return not self.ending and self.process.exitcode is None

    def send(self, what: signal.Signals) -> None:
        if self.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, what)

    def expects(self, code: int) -> bool:
        """Whether it may end like this. SIGTERM finds some before they listen to it."""
        if self.ending == "kill":
            return code in (-signal.SIGKILL, UNREACHABLE)
        return code == UNREACHABLE or (self.ending == "drain" and code in (0, -signal.SIGTERM))


class Soak:
    """One run: `run`, then `leave`; what was seen is in its attributes."""

    def __init__(self, settings: Settings, place: Place, *, workers: int, seconds: float) -> None:
        self.settings = settings
        self.seconds = seconds
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.asked, self.rested = Spread(), Spread()
        self.minute = Spread()
        self.memory: dict[str, Series] = defaultdict(Series)
        self.files: dict[str, Series] = defaultdict(Series)
        self.size = Series()
        self.books = [
            Book(settings.ledger(n), n, settings.clients) for n in range(settings.clients)
        ]
        self.performed = 0
        self._place = place
        self._tail = Tail(settings.performed)
        self._random = Random(f"{settings.seed} kills")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.soak.worker", "tests.soak.client"])
        self._children: list[Child] = []
        self._workers = workers
        self._ending = False
        self._began = monotonic()

    # --- the run

    async def run(self) -> None:
        """Load and kills for the stated time; then the load ends, and the killing."""
        self._began = monotonic()
        for index in range(self._workers):
            self._start("worker", index, 0)
        for index in range(self.settings.clients):
            self._start("client", index, 0)
        async with anyio.create_task_group() as group:
            group.start_soon(self._supervise)
            group.start_soon(self._watch)
            group.start_soon(self._tell)
            async with anyio.create_task_group() as killing:
                killing.start_soon(self._kill)
                killing.start_soon(self._crash)
                killing.start_soon(self._terminate)
                await anyio.sleep(self.seconds)
                killing.cancel_scope.cancel()
            self._ending = True
            for child in self._children:
                self._wake(child)
                if child.role == "client":
                    self._drain(child)
            await self._heard()
            group.cancel_scope.cancel()
        self._read()

    async def _heard(self) -> None:
        """Until every client has heard every answer, and no process is on its way out."""
        until = monotonic() + 2 * LEAVING_SECONDS
        while any(child.role == "client" or child.ending for child in self._children):
            if monotonic() > until:
                left = [child.name for child in self._children if child.ending]
                self.violations.append(f"still there long after the end of the load: {left}")
                return
            await anyio.sleep(0.1)

    async def leave(self) -> None:
        """Drain the workers that are left."""
        for child in self._children:
            self._drain(child)
        with anyio.move_on_after(LEAVING_SECONDS):
            while self._children:
                self._reap()
                await anyio.sleep(0.1)
        if self._children:
            self.violations.append(f"{len(self._children)} workers do not leave")
        self.end()

    def end(self) -> None:
        """Whatever still runs is killed."""
        for child in self._children:
            child.process.kill()
            child.process.join()
        self._children.clear()

    # --- processes

    def _start(self, role: str, index: int, life: int) -> None:
        arguments: tuple[Any, ...]
        if role == "worker":
            arguments = (self.settings, f"worker-{index}", life)
            process = self._context.Process(target=work, args=arguments, daemon=True)
        else:
            self._read()
            book = self.books[index]
            arguments = (self.settings, index, book.begun, sorted(book.open), life, self._ending)
            process = self._context.Process(target=ask, args=arguments, daemon=True)
        process.start()
        last = role == "client" and self._ending
        self._children.append(Child(role, index, life, process, ending="drain" if last else ""))

    async def _supervise(self) -> None:
        while True:
            now = monotonic()
            for child in self._children:
                if child.stopped_until and child.stopped_until < now:
                    self._wake(child)
            self._reap()
            await anyio.sleep(0.05)

    def _reap(self) -> None:
        """Take leave of those that have ended, and replace them."""
        for child in [one for one in self._children if one.process.exitcode is not None]:
            self._children.remove(child)
            code = child.process.exitcode
            child.process.close()
            if not child.expects(code):
                self.violations.append(f"{child.name} ended by itself, with exit code {code}")
            if code == UNREACHABLE:
                self.counts["found no database at the start"] += 1
            if child.role == "client":
                wanted = not (self._ending and code == 0)
            else:
                wanted = not child.ending  # else it was replaced when it was ended
            if wanted:
                self._start(child.role, child.index, child.life + 1)

    def _drain(self, child: Child) -> None:
        child.ending = child.ending or "drain"
        child.send(signal.SIGTERM)

    def _wake(self, child: Child) -> None:
        if child.stopped_until:
            child.stopped_until = 0.0
            child.send(signal.SIGCONT)

    # --- kills

    async def _kill(self) -> None:
        while True:
            await anyio.sleep(self._random.uniform(*BETWEEN_KILLS))
            mortal = [one for one in self._children if one.running and one.index]
            workers = [one for one in mortal if one.role == "worker"]
            clients = [one for one in mortal if one.role == "client"]
            chance = self._random.random()
            if chance < 0.5:
                self._end_one(workers, "kill")
            elif chance < 0.7:
                self._stop_one([one for one in self._children if one.running])
            elif chance < 0.9:
                self._end_one(workers, "drain")
            else:
                self._end_one(clients, "kill")

    def _end_one(self, among: Sequence[Child], how: str) -> None:
        """End one of these; a worker is replaced at once, a client when its ledger is closed."""
        if not among:
            return
        child = self._random.choice(among)
        child.ending = how
        child.send(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        self.counts[f"{child.role} {'killed' if how == 'kill' else 'drained'}"] += 1
        if child.role == "worker":
            self._start(child.role, child.index, child.life + 1)

    def _stop_one(self, among: Sequence[Child]) -> None:
        awake = [one for one in among if not one.stopped_until]
        if awake:
            child = self._random.choice(awake)
            child.stopped_until = monotonic() + self._random.uniform(*STOPPED)
            child.send(signal.SIGSTOP)
            self.counts[f"{child.role} stopped for longer than a lease"] += 1

    async def _crash(self) -> None:
        longest = self.seconds / 3
        while True:
            await anyio.sleep(min(self._random.uniform(*BETWEEN_CRASHES), longest))
            with anyio.CancelScope(shield=True):
                if not await self._place.crash():
                    return
            self.counts["server crashed"] += 1

    async def _terminate(self) -> None:
        while True:
            await anyio.sleep(min(self._random.uniform(*BETWEEN_TERMINATIONS), self.seconds / 4))
            if await self._place.terminate():
                self.counts["session terminated"] += 1

    # --- watching

    def _read(self) -> None:
        for book in self.books:
            book.read(self.asked, self.rested, self.minute)
        for _ in self._tail.fresh():
            self.performed += 1

    async def _watch(self) -> None:
        while True:
            at = monotonic() - self._began
            with suppress(OSError):
                self._sample("parent", os.getpid(), at)
            for child in self._children:
                if child.life == 0 and child.running:
                    with suppress(OSError):
                        self._sample(child.name, child.process.pid, at)
            size = await self._place.size()
            if size is not None:
                self.size.add(at, size / MIB)
            for _ in range(int(SAMPLE_SECONDS)):
                self._read()
                await anyio.sleep(1)

    def _sample(self, name: str, pid: int, at: float) -> None:
        if name == "parent" or name.endswith("-0"):
            self.memory[name].add(at, memory_mib(pid))
            self.files[name].add(at, open_files(pid))

    async def _tell(self) -> None:
        while True:
            await anyio.sleep(60)
            held = ", ".join(
                f"{name} {one.samples[-1].value:.0f}" for name, one in self.memory.items()
            )
            late = f"{self.minute.at(0.5):.0f}/{self.minute.at(0.99):.0f}"
            print(
                f"{(monotonic() - self._began) / 60:4.0f} min  {self.answered:,} answered"
                f"  {sum(len(book.open) for book in self.books)} open"
                f"  {self.performed:,} packed  {self.counts.total()} faults"
                f"  p50/p99 {late} ms  MiB: {held}, database {self.size.figures()['end']:.0f}",
                flush=True,
            )
            self.minute = Spread()

    @property
    def answered(self) -> int:
        """Operations that the clients have heard the answer of."""
        return sum(book.answers.total() for book in self.books)
