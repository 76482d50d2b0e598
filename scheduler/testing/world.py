"""One simulated world: nodes on one store, clients, faults, then peace; and what it left behind."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from random import Random
from typing import Any

import anyio

from scheduler import App, Scheduler
from scheduler.testing.client import Client
from scheduler.testing.faults import Connection, Faults, FaultyStore, Ground
from scheduler.testing.loop import (
    EPOCH_MS,
    Lost,
    Process,
    Stuck,
    VirtualClock,
    VirtualLoop,
    uncollected,
)
from scheduler.testing.options import Crash, Options, Outcome
from scheduler.testing.performing import Performing
from scheduler.testing.workload import Workload
from stmflow import Transactor
from stmflow.store import Store, TaskRow

HOUR_MS = 3_600_000
REST_SECONDS = 600
LEAVE_SECONDS = 60
ENOUGH = 10
"""After so many problems a world ends."""


class Node(Process):
    """One simulated process: a transactor and a scheduler on the shared store."""

    def __init__(self, name: str, store: FaultyStore, clock: VirtualClock) -> None:
        super().__init__(name)
        self.store = store
        self.clock = clock
        self.app: App | None = None
        self.transactor: Transactor | None = None
        self.stop = anyio.Event()
        self.lost: dict[int, Callable[[], None]] = {}
        self.left = False

    @property
    def gone(self) -> bool:
        """Crashed, or left in order."""
        return self.dead or self.left


class World:
    """Runs the workload of one seed on a store.

    Args:
        options: what to run. store: an open, empty store whose methods never wait.
        workload: makes what runs and who uses it, from a generator of the seed.
        join: opens the same store once more, for each process.
    """

    def __init__(
        self,
        options: Options,
        store: Store,
        workload: Callable[[Random], Workload],
        *,
        join: Callable[[], Connection] | None = None,
    ) -> None:
        self.options = options
        self.workload = workload(Random(f"workload {options.seed}"))
        self.random = Random(f"world {options.seed}")
        self.loop = VirtualLoop(Random(f"loop {options.seed}"))
        self.faults = Faults(Random(f"faults {options.seed}"), options.rates)
        self.ground = Ground(store, join)
        self.outcome = Outcome(options, self.workload, store=store)
        self.performing = Performing(self)
        self.nodes: list[Node] = []
        self.crashed: list[Crash] = []
        self._crashes = list(options.crashes)
        if self._crashes:
            self.loop.watch = self._watch
        self._strays: list[Any] = []
        self._named = 0
        self._calls = 0
        self._numbers = 0
        self._begun = 0
        self._processes = options.clients
        self._healed = False
        self._leaving = False
        self._over = False

    def run(self) -> Outcome:
        """From the first process to the last check of rest."""
        outcome = self.outcome
        try:
            with uncollected():
                self.loop.run_until_complete(self._live())
        except Stuck as stuck:
            self.problem(f"stuck: {stuck}")
        except Exception as error:
            if len(outcome.problems) < ENOUGH:  # else the loop was stopped
                self.problem("".join(traceback.format_exception(error))[-3_000:])
        outcome.problems += [f"unhandled: {text}" for text in self.loop.errors]
        outcome.steps = self.loop.steps
        outcome.virtual_seconds = self.loop.time()
        for node in self.nodes:
            if node.transactor is not None:
                outcome.seen.update(node.transactor.counters)
            for worker in node.store.enlisted:
                self.ground.store.retire(worker)
        outcome.seen.update(self.ground.seen)
        outcome.seen.update(self.faults.fired)
        outcome.problems += self.ground.problems
        lines = "\n".join(outcome.lines())
        outcome.digest = hashlib.sha256(f"{self.loop.steps}\n{lines}".encode()).hexdigest()
        self._over = True
        self.loop.close()
        self.ground.close()
        return outcome

    def problem(self, text: str) -> None:
        """Something that must never happen."""
        if not self._over:
            self.outcome.problems.append(text)
        if len(self.outcome.problems) >= ENOUGH:
            self.loop.stop()

    # --- the course of things

    async def _live(self) -> None:
        options = self.options
        for _ in range(options.nodes):
            self._start_node()
        await self.workload.prepare(Client(self, 0))
        self.outcome.began = self.loop.steps
        self.faults.active = True
        plagues = [self.loop.spawn(None, self._plague()) for _ in self.nodes]
        clients = [self.loop.spawn(None, self._client(number)) for number in range(options.clients)]
        await anyio.sleep(options.fault_seconds)
        for plague in plagues:
            plague.cancel()
        self._heal()
        await self._rest(clients)
        for _ in range(3):
            await self._operate()
        await self._rest([])
        await self._leave()

    async def _client(self, number: int) -> None:
        await self.workload.live(Client(self, number))

    async def _operate(self) -> None:
        """A person looks at what is parked."""
        await Client(self, 0).operate()

    def _heal(self) -> None:
        """No more faults; every clock shows the latest time that any clock has shown."""
        self.faults.active = False
        self._healed = True
        now = EPOCH_MS + int(self.loop.time() * 1_000)
        ahead = max([0, *(node.clock.latest - now for node in self.nodes)])
        for node in list(self.nodes):
            node.clock.skew_ms, node.clock.frozen, node.timer_rate = ahead, None, 1.0
            if node.paused:
                self.loop.resume(node)
        while self._missing():
            self._start_node(ahead)

    async def _rest(self, clients: list[Any]) -> None:
        """Everything must end: clients, every row that is not parked, and what was asked for."""
        deadline = self.loop.time() + REST_SECONDS
        while self.loop.time() < deadline:
            await anyio.sleep(1)
            rows = [row for row in await self.ground.store.tasks() if not row.parked]
            waiting = [each for each in [*clients, *self._strays] if not each.done()]
            if not waiting and not rows and not self._asked():
                break
            if rows and not waiting and self._skip(rows):
                deadline = self.loop.time() + REST_SECONDS
        else:
            self.problem(f"no rest after {REST_SECONDS} s: {len(waiting)} wait, rows {rows}")
        for client in [*clients, *self._strays]:
            if client.done() and client.exception() is not None:
                self.problem("".join(traceback.format_exception(client.exception())))
        self._strays.clear()

    def _asked(self) -> float:
        """Requests on their way to the store: that whoever asked has gone does not end them."""
        living = [node.transactor for node in self.nodes if not node.gone]
        return sum(transactor.gauges()["queue"] for transactor in living if transactor is not None)

    def _skip(self, rows: Sequence[TaskRow]) -> bool:
        """Whether all there is to wait for is a late timer: then its time has come."""
        first = min(rows, key=lambda row: row.due)
        clocks = [node.clock.now() for node in self.nodes if not node.gone]
        seconds = (first.due - max(clocks, default=first.due)) / 1_000
        if not first.timer or seconds <= REST_SECONDS:
            return False
        self.loop.skip(seconds)
        return True

    async def _leave(self) -> None:
        """Leaving loses nothing and takes no longer than its grace."""
        self._leaving = True
        for node in self.nodes:
            node.stop.set()
        with anyio.move_on_after(LEAVE_SECONDS):
            while not all(node.gone for node in self.nodes):
                await anyio.sleep(0.1)
        for node in self.nodes:
            if not node.gone:
                self.problem(f"{node.name} could not be left")

    # --- nodes

    def _missing(self) -> int:
        return self.options.nodes - sum(not node.gone for node in self.nodes)

    def _start_node(self, skew_ms: int = 0) -> Node:
        self._named += 1
        options = self.options
        clock = VirtualClock(self.loop, skew_ms, grain_ms=options.grain_ms)
        random = Random(f"store {options.seed} {self._named}")
        node = Node(f"node{self._named}", None, clock)  # type: ignore[arg-type]
        node.store = FaultyStore(
            self.ground,
            self.loop,
            node,
            self.faults,
            random,
            replans=options.replans,
            news_s=options.news_s,
        )
        node.store.crash = self._crash_here
        if "skew" in self.faults.rates and not self._healed and self.random.random() < 0.5:
            clock.skew_ms += self.random.randint(-HOUR_MS, HOUR_MS)
            self.faults.fired["skew"] += 1
        if "drift" in self.faults.rates and not self._healed and self.random.random() < 0.5:
            node.timer_rate = self.random.uniform(0.9, 1.1)
            self.faults.fired["drift"] += 1
        self.nodes.append(node)
        self.loop.spawn(node, self._node(node))
        return node

    async def _node(self, node: Node) -> None:
        """What runs in a process."""
        options = self.options
        try:
            living = [each.app for each in self.nodes if each.app is not None and not each.gone]
            app = node.app = self.workload.deployed(living)
            others = (each.app for each in self.nodes if each.app is not None)
            self.outcome.mixed |= any(other is not app for other in others)
            workflows = list(app.workflows() if callable(app.workflows) else app.workflows)
            known = self.outcome.workflows
            known += [workflow for workflow in workflows if workflow not in known]
            async with AsyncExitStack() as stack:
                transactor = await stack.enter_async_context(
                    Transactor(
                        node.store,
                        workflows,
                        transactional=app.transactional,
                        clock=node.clock,
                        random=Random(f"transactor {options.seed} {node.name}"),
                        pure=options.pure,
                        alarm=lambda text: self.problem(f"alarm: {text}"),
                        tenant=app.tenant,
                        needs=app.needs,
                        chooser=app.chooser,
                        observers=app.observers,
                        queued_requests=options.queued_requests,
                    )
                )
                node.transactor = transactor
                handlers = app.handlers
                if callable(handlers):
                    handlers = await stack.enter_async_context(handlers(transactor))
                await stack.enter_async_context(
                    Scheduler(
                        transactor,
                        self.performing.faulty(node.name, handlers, app.policies),
                        policies=app.policies,
                        limits=replace(app.limits, slots=options.slots),
                        lease_seconds=options.lease_seconds,
                        grace_seconds=5,
                        random=Random(f"scheduler {options.seed} {node.name}"),
                    )
                )
                await node.stop.wait()
            node.left = True
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            self.problem(f"{node.name} ended: {trace[-3_000:]}")
            self._crash(node)

    def _watch(self, step: int) -> None:
        """Crashes that were asked for."""
        if not self._crashes or step < self._crashes[0].step:
            return
        crash = self._crashes.pop(0)
        living = [node for node in self.nodes if not node.gone]
        if living:
            node = living[crash.node % len(living)]
            node.store.lands = crash.lands
            self.crashed.append(crash)
            self.faults.fired["crash"] += 1
            self._crash(node)

    async def _crash_here(self) -> None:
        node = self.loop.current()
        assert isinstance(node, Node)
        self._crash(node)
        await self.loop.die()

    def _crash(self, node: Node) -> None:
        """The process is gone: no clean-up runs, and its lock is free."""
        node.store.fall()
        self.loop.crash(node)
        for worker in node.store.enlisted:
            self.ground.store.retire(worker)
        for lose in list(node.lost.values()):
            lose()
        if not self._leaving:
            self.loop.spawn(None, self._restart(node))

    async def _restart(self, gone: Node) -> None:
        """Another process in its place, whose clock may be that of an hour ago."""
        await anyio.sleep(self.random.random() * 4)
        if self._leaving or not self._missing():
            return
        now = EPOCH_MS + int(self.loop.time() * 1_000)
        skew_ms = 0
        if self._healed:
            skew_ms = max(0, *(node.clock.latest - now for node in self.nodes))
        elif self.faults.hit("old clock"):
            skew_ms = gone.clock.latest - now - self.random.randint(0, HOUR_MS)
        self._start_node(skew_ms)

    async def _plague(self) -> None:
        """Crashes, pauses and wrong clocks of one place."""
        while True:
            await anyio.sleep(self.random.random())
            living = [node for node in self.nodes if not node.gone]
            if not living:
                continue
            node = self.random.choice(living)
            if self.faults.hit("crash"):
                self._crash(node)
            elif self.faults.hit("pause") and not node.paused:
                self.loop.pause(node)
                self.loop.spawn(None, self._wake(node, 4 + self.random.random() * 10))
            elif self.faults.hit("jump"):
                node.clock.skew_ms += self.random.randint(-HOUR_MS, HOUR_MS)
            elif self.faults.hit("freeze") and node.clock.frozen is None:
                node.clock.frozen = node.clock.now()
                self.loop.spawn(None, self._thaw(node, self.random.random() * 5))
            elif not node.stop.is_set() and self.faults.hit("leave"):
                node.stop.set()
                self.loop.spawn(None, self._replace(node))

    async def _wake(self, node: Node, seconds: float) -> None:
        await anyio.sleep(seconds)
        if node.paused:
            self.loop.resume(node)

    async def _thaw(self, node: Node, seconds: float) -> None:
        await anyio.sleep(seconds)
        node.clock.frozen = None

    async def _replace(self, node: Node) -> None:
        """A deploy: when this one has left in order, another one starts."""
        while not node.gone:
            await anyio.sleep(0.1)
        await self._restart(node)

    # --- what clients and handlers ask of their world

    def unique(self) -> int:
        """A number that nobody else gets."""
        self._numbers += 1
        return self._numbers

    def process(self) -> int:
        """The number of one more process of the history."""
        self._processes += 1
        return self._processes

    def stray(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run it beside everything else; the world does not rest before it has ended."""
        self._strays.append(self.loop.spawn(None, coroutine))

    async def call(self, function: Callable[[Transactor], Awaitable[Any]]) -> Any:
        """Ask some living process; what it answers, or `Lost`."""
        for _ in range(1_000):
            living = [n for n in self.nodes if not n.gone and n.transactor is not None]
            if living:
                break
            await anyio.sleep(0.05)
        else:
            raise Lost
        node = self.random.choice(living)
        assert node.transactor is not None
        self._calls += 1
        number = self._calls
        event, box = anyio.Event(), list[Any]()
        transactor = node.transactor

        async def serve() -> None:
            try:
                box.append(await function(transactor))
            except Exception as error:
                box.append(error)
            event.set()

        node.lost[number] = event.set
        self.loop.spawn(node, serve())
        with anyio.move_on_after(20):
            await event.wait()
        del node.lost[number]
        if not box:
            raise Lost
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]

    def begin(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Write that an operation begins; what its later lines are made of."""
        self._begun += 1
        begun = {**line, "op": self._begun}
        self.write(begun, "invoke")
        return begun

    def write(self, line: Mapping[str, Any], type: str, **more: Any) -> None:
        """One more line of the history."""
        history = self.outcome.history
        now = round(self.loop.time() * 1e9)
        history.append({**line, "type": type, "time": now, "index": len(history), **more})


__all__ = ["Lost", "Node", "Options", "Outcome", "World"]
