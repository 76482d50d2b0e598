"""One simulated world: nodes on one store, clients, faults, then peace; and what it left behind."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from random import Random
from typing import Any

import anyio

from scheduler import Context, Failure, Policy, Retry, Scheduler, Transaction
from scheduler.slots import Limits
from scheduler.testing.faults import FAULTS, Faults, FaultyStore, Ground
from scheduler.testing.loop import EPOCH_MS, Process, Stuck, VirtualClock, VirtualLoop
from scheduler.testing.workload import (
    COUNTER,
    DEBT,
    ORDER,
    PERFORMED,
    TRANSACTIONAL,
    WORKFLOWS,
    Abort,
    Add,
    Deposit,
    Doom,
    Look,
    OpenAccount,
    Poke,
    Repay,
    Start,
    lend,
    purse,
    repay,
    transfer,
)
from stmflow import CID, Answer, Transactor
from stmflow.errors import (
    ConflictsExhausted,
    DeadlineExceeded,
    Indeterminate,
    StmflowError,
    Stopped,
    StoreError,
    Unavailable,
    UnknownTask,
)
from stmflow.registered import asked, returning
from stmflow.store import Store
from stmflow.workflow import Job
from stmflow.workflow import job as job_of

HOUR_MS = 3_600_000
REST_SECONDS = 600
LIMIT = 40
FUNDS = 100
LENDERS = ("left", "right")

POLICIES = {
    kind: Policy(attempts=6, attempt_ms=2_000, base_ms=100, cap_ms=2_000) for kind in PERFORMED
}


@dataclass(slots=True)
class Options:
    """What a seed draws. Any field may be set to steer a run."""

    seed: int
    rates: dict[str, float]
    orders: int
    counters: int
    purses: int
    nodes: int
    clients: int
    operations: int
    fault_seconds: float
    grain_ms: int
    slots: int
    lease_seconds: float
    replans: bool
    pure: bool
    debts: int = 0
    lends: int = 0

    @staticmethod
    def draw(seed: int) -> Options:
        """The options of that seed."""
        random = Random(f"options {seed}")
        quiet = random.random() < 0.1
        rates = Faults.draw(random)
        return Options(
            seed=seed,
            rates={} if quiet else rates,
            orders=random.randint(1, 14),
            counters=random.randint(1, 3),
            purses=random.randint(2, 3),
            nodes=random.randint(1, 4),
            clients=random.randint(1, 8),
            operations=random.randint(3, 12),
            fault_seconds=random.uniform(3, 30),
            grain_ms=random.choice((15, 100, 400)),
            slots=random.choice((1, 2, 4, 16)),
            lease_seconds=random.choice((5.0, 10.0)),
            replans=random.random() < 0.5,
            pure=random.random() < 0.2,
            debts=random.choice((0, 0, 1, 4)),
            lends=random.choice((0, 0, 2, 4)),
        )


@dataclass(slots=True)
class Outcome:
    """What a world left behind: the history, the store at rest, and what went wrong."""

    options: Options
    history: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seen: Tally[str] = field(default_factory=Tally)
    performed: dict[CID, list[tuple[str, int]]] = field(default_factory=dict)
    redriven: set[str] = field(default_factory=set)
    store: Any = None
    steps: int = 0
    virtual_seconds: float = 0.0
    digest: str = ""

    def report(self) -> str:
        """Seed and options first, then the problems."""
        lines = [f"seed {self.options.seed}", f"options {json.dumps(asdict(self.options))}"]
        lines.append(f"steps {self.steps}, virtual seconds {self.virtual_seconds:.1f}")
        return "\n".join([*lines, *self.problems])


class Node(Process):
    """One simulated process: a transactor and a scheduler on the shared store."""

    def __init__(self, name: str, store: FaultyStore, clock: VirtualClock) -> None:
        super().__init__(name)
        self.store = store
        self.clock = clock
        self.transactor: Transactor | None = None
        self.stop = anyio.Event()
        self.calls: set[int] = set()
        self.lost: dict[int, Callable[[], None]] = {}
        self.left = False


class Lost(Exception):
    """The process that was asked is gone, or has not answered in time."""


class World:
    """Runs the workload of one seed on a store.

    Args:
        options: what to run. store: an open, empty store whose methods never wait.
    """

    def __init__(self, options: Options, store: Store) -> None:
        self.options = options
        self.random = Random(f"world {options.seed}")
        self.loop = VirtualLoop(Random(f"loop {options.seed}"))
        self.faults = Faults(Random(f"faults {options.seed}"), options.rates)
        self.ground = Ground(store)
        self.outcome = Outcome(options, store=store)
        self.nodes: list[Node] = []
        self.claims: set[tuple[CID, int]] = set()
        self.meaning: dict[tuple[CID, str], CID] = {}
        self._named = 0
        self._calls = 0
        self._ops = 0
        self._busy = 0
        self._healed = False
        self._leaving = False
        self._over = False

    def run(self) -> Outcome:
        """From the first process to the last check of rest."""
        outcome = self.outcome
        try:
            self.loop.run_until_complete(self._live())
        except Stuck as stuck:
            self.problem(f"stuck: {stuck}")
        except Exception as error:
            self.problem("".join(traceback.format_exception(error))[-3_000:])
        outcome.problems += [f"unhandled: {text}" for text in self.loop.errors]
        outcome.steps = self.loop.steps
        outcome.virtual_seconds = self.loop.time()
        for node in self.nodes:
            self._tally(node)
        outcome.seen.update(self.ground.seen)
        outcome.seen.update(self.faults.fired)
        outcome.problems += self.ground.problems
        lines = "\n".join(json.dumps(line, sort_keys=True) for line in outcome.history)
        outcome.digest = hashlib.sha256(f"{self.loop.steps}\n{lines}".encode()).hexdigest()
        self._over = True
        self.loop.close()
        return outcome

    def problem(self, text: str) -> None:
        """Something that must never happen."""
        if not self._over:
            self.outcome.problems.append(text)
        if len(self.outcome.problems) >= 10:
            self.loop.stop()

    # --- the course of things

    async def _live(self) -> None:
        options = self.options
        for _ in range(options.nodes):
            self._start_node()
        await self._prepare()
        self.faults.active = True
        plagues = [self.loop.spawn(None, self._plague(node)) for node in list(self.nodes)]
        clients = [self.loop.spawn(None, self._client(number)) for number in range(options.clients)]
        clients += [self.loop.spawn(None, self._owe(number)) for number in range(options.debts)]
        clients += [self.loop.spawn(None, self._lend(number)) for number in range(options.lends)]
        await anyio.sleep(options.fault_seconds)
        for plague in plagues:
            plague.cancel()
        self._heal()
        await self._rest([*clients])
        for _ in range(3):
            await self._operate()
        await self._rest([])
        await self._leave()

    async def _prepare(self) -> None:
        """Accounts and purses, before any fault."""
        for name in ("a", "b"):
            await self._send(0, job_of("account", name), OpenAccount(name, LIMIT), f"open {name}")
        for number in range(self.options.purses):
            name = f"p{number}"
            await self._send(0, purse(name), Deposit(name, self._op(), FUNDS), f"fund {name}")
        for name in LENDERS if self.options.lends else ():
            await self._send(0, purse(name), Deposit(name, self._op(), FUNDS), f"fund {name}")

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
        while sum(not node.dead for node in self.nodes) < self.options.nodes:
            self._start_node(ahead)

    async def _rest(self, clients: list[Any]) -> None:
        """Everything must end: clients, and every row that is not parked."""
        deadline = self.loop.time() + REST_SECONDS
        while self.loop.time() < deadline:
            await anyio.sleep(1)
            rows = await self.ground.store.tasks()
            if all(client.done() for client in clients) and all(row.parked for row in rows):
                break
        else:
            rows = [row for row in await self.ground.store.tasks() if not row.parked]
            waiting = sum(not client.done() for client in clients)
            self.problem(f"no rest after {REST_SECONDS} s: {waiting} clients wait, rows {rows}")
        for client in clients:
            if client.done() and client.exception() is not None:
                self.problem("".join(traceback.format_exception(client.exception())))

    async def _leave(self) -> None:
        """Leaving loses nothing and takes no longer than its grace."""
        self._leaving = True
        for node in self.nodes:
            node.stop.set()
        with anyio.move_on_after(60):
            while not all(node.left or node.dead for node in self.nodes):
                await anyio.sleep(0.1)
        for node in self.nodes:
            if not node.left and not node.dead:
                self.problem(f"{node.name} could not be left")

    # --- nodes

    def _start_node(self, skew_ms: int = 0) -> Node:
        self._named += 1
        options = self.options
        clock = VirtualClock(self.loop, skew_ms, grain_ms=options.grain_ms)
        random = Random(f"store {options.seed} {self._named}")
        node = Node(f"node{self._named}", None, clock)  # type: ignore[arg-type]
        node.store = FaultyStore(
            self.ground, self.loop, node, self.faults, random, replans=options.replans
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
        handlers: dict[type, Any] = {kind: partial(self._perform, node) for kind in PERFORMED}
        handlers[Repay] = Transaction(returning(repay))
        try:
            async with Transactor(
                node.store,
                WORKFLOWS,
                transactional=TRANSACTIONAL,
                clock=node.clock,
                random=Random(f"transactor {options.seed} {node.name}"),
                pure=options.pure,
                alarm=lambda text: self.problem(f"alarm: {text}"),
            ) as transactor:
                node.transactor = transactor
                async with Scheduler(
                    transactor,
                    handlers,
                    policies=POLICIES,
                    limits=Limits(slots=options.slots),
                    lease_seconds=options.lease_seconds,
                    grace_seconds=5,
                    random=Random(f"scheduler {options.seed} {node.name}"),
                ):
                    await node.stop.wait()
            node.left = True
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            self.problem(f"{node.name} ended: {trace[-3_000:]}")
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
            self.loop.spawn(None, self._restart())

    async def _restart(self) -> None:
        await anyio.sleep(self.random.random() * 4)
        if self._leaving:
            return
        if sum(not node.dead for node in self.nodes) < self.options.nodes:
            ahead = max(node.clock.latest for node in self.nodes)
            now = EPOCH_MS + int(self.loop.time() * 1_000)
            self._start_node(max(0, ahead - now) if self._healed else 0)

    async def _plague(self, node: Node) -> None:
        """Crashes, pauses and wrong clocks of one place."""
        while True:
            await anyio.sleep(self.random.random())
            living = [node for node in self.nodes if not node.dead]
            if not living:
                continue
            node = self.random.choice(living)
            if self.faults.hit("crash"):
                self._crash(node)
            elif self.faults.hit("pause") and not node.paused:
                self.loop.pause(node)
                self.loop.spawn(None, self._wake(node, self.random.random() * 12))
            elif self.faults.hit("jump"):
                node.clock.skew_ms += self.random.randint(-HOUR_MS, HOUR_MS)
            elif self.faults.hit("freeze") and node.clock.frozen is None:
                node.clock.frozen = node.clock.now()
                self.loop.spawn(None, self._thaw(node, self.random.random() * 5))

    async def _wake(self, node: Node, seconds: float) -> None:
        await anyio.sleep(seconds)
        if node.paused:
            self.loop.resume(node)

    async def _thaw(self, node: Node, seconds: float) -> None:
        await anyio.sleep(seconds)
        node.clock.frozen = None

    def _tally(self, node: Node) -> None:
        if node.transactor is not None:
            self.outcome.seen.update(node.transactor.counters)

    # --- handlers

    async def _perform(self, node: Node, task: Any, context: Context) -> Any:
        """Every task type's handler: the ledger of the outside world, and its faults."""
        faults = self.faults
        self._enter_ledger(node, task, context)
        await anyio.sleep(self.random.random() * 0.2)
        if faults.hit("raise"):
            raise self.random.choice(
                (
                    RuntimeError("the seed says: raise"),
                    Failure("Busy", None, retry=Retry.THROTTLED, after_ms=500),
                    Failure("NotSent", None, retry=Retry.SAFE),
                )
            )
        if faults.hit("hang"):
            await anyio.sleep(60)
            self.problem(f"{task} was not stopped at the end of its attempt")
        if isinstance(task, Doom) or faults.hit("fatal"):
            raise Failure("Refused", type(task).__name__)
        if faults.hit("answer lost"):
            raise Failure("NoAnswer", None, retry=Retry.IDEMPOTENT)
        if faults.hit("wrong type"):
            return object()
        if faults.hit("wrong shape"):
            return {"no": "such field"}
        if faults.hit("cancelled"):
            raise anyio.get_cancelled_exc_class()
        if isinstance(task, Look):
            return task.epoch * 10 + self.random.randint(1, 9)
        return 1

    def _enter_ledger(self, node: Node, task: Any, context: Context) -> None:
        """One key for one task, always the same; tokens grow."""
        self.outcome.performed.setdefault(context.key, []).append((node.name, context.attempt))
        meaning = (context.job, repr(task))
        if self.meaning.setdefault(meaning, context.key) != context.key:
            self.problem(f"{task} has two keys")
        claim = (context.key, context.token)
        if claim in self.claims:
            self.problem(f"{task}: two attempts under token {context.token}")
        self.claims.add(claim)

    # --- clients

    def _op(self) -> int:
        self._ops += 1
        return self._ops

    async def _client(self, number: int) -> None:
        for _ in range(self.options.operations):
            await anyio.sleep(self.random.random() * self.random.choice((0.0, 0.1, 2.0)))
            await self._operation(number)

    async def _operation(self, client: int) -> None:
        random, options = self.random, self.options
        kind = random.random()
        if kind < 0.3:
            name = f"c{random.randrange(options.counters)}"
            event = Add(name, self._op(), random.randint(1, 9))
            await self._send(client, COUNTER.job_of(event), event, self._delivery())
        elif kind < 0.65:
            name = f"o{random.randrange(options.orders)}"
            order = random.choices(
                (Start(name, random.choice("ab"), random.randint(1, 15)), Poke(name), Abort(name)),
                (6, 2, 1),
            )[0]
            await self._send(client, ORDER.job_of(order), order, self._delivery())
        elif kind < 0.8:
            names = [f"p{n}" for n in random.sample(range(options.purses), 2)]
            await self._transfer(client, names[0], names[1])
        elif kind < 0.92:
            await self._look(client)
        elif kind < 0.96:
            await self._wait(client)
        else:
            await self._operate()

    def _delivery(self) -> str | None:
        self._named += 1
        return None if self.random.random() < 0.3 else f"delivery {self._named}"

    async def _send(
        self, client: int, job: Job, event: Any, delivery: str | None, *, insist: bool = False
    ) -> None:
        line = {"f": "send", "job": str(job.id), "value": getattr(event, "op", None)}

        def call(delivery: Any) -> Callable[[Transactor], Awaitable[Answer]]:
            return lambda transactor: transactor.send(job, event, delivery=delivery)

        await self._attempts(client, line, call, delivery, insist=insist)

    async def _transfer(self, client: int, source: str, target: str) -> None:
        op, amount = self._op(), self.random.randint(1, 60)
        at = purse(source)
        body = transfer(source, target, op, amount)
        line = {"f": "transact", "job": str(at.id), "value": op}

        def call(delivery: Any) -> Callable[[Transactor], Awaitable[Any]]:
            if delivery is None:
                return lambda transactor: transactor.transact(body)
            return lambda transactor: transactor.transact(body, at=at, delivery=delivery)

        await self._attempts(client, line, call, self._delivery())

    async def _owe(self, number: int) -> None:
        """A debt, and what its debtor earns meanwhile: in the end exactly what debts come to."""
        client, op = self.options.clients + number, self._op()
        task = Repay("debtor", "creditor", op, self.random.randint(1, 60))
        earned = [1] * (task.amount % 6) + [task.amount // 6] * 6
        await anyio.sleep(self.random.random() * 4)
        name = f"debt {op}"
        await self._send(client, DEBT.job(name), asked(name, task), name, insist=True)
        for part, amount in enumerate(earned):
            await anyio.sleep(self.random.random() * self.random.choice((0.0, 0.02, 0.2, 2.0)))
            event = Deposit(task.debtor, self._op(), amount)
            await self._send(client, purse(task.debtor), event, f"{name} {part}", insist=True)

    async def _lend(self, number: int) -> None:
        """Two purses that together keep their floor, though each is written alone; and looks at
        all purses of the bank, which hold the same together at any moment."""
        random, client = self.random, self.options.clients + self.options.debts + number
        purses = [purse(f"p{n}") for n in range(self.options.purses)]
        for part in range(4):
            await anyio.sleep(random.random() * random.choice((0.0, 0.02, 1.0)))
            with suppress(Lost, StoreError):
                seen = await self._call(lambda transactor: transactor.snapshot(purses))
                if sum(each.balance for each in seen.values()) != FUNDS * len(purses):
                    self.problem(f"a snapshot shows {[each.balance for each in seen.values()]}")
            source, other = random.sample(LENDERS, 2)
            op, at = self._op(), purse(source)
            body = lend(source, other, op, random.randint(40, 90), FUNDS)
            line = {"f": "lend", "job": str(at.id), "value": op}
            await self._attempts(client, line, _at(at, body), f"lend {number} {part}")

    async def _look(self, client: int) -> None:
        random, options = self.random, self.options
        job = random.choice(
            (
                job_of("counter", f"c{random.randrange(options.counters)}"),
                job_of("order", f"o{random.randrange(options.orders)}"),
                purse(f"p{random.randrange(options.purses)}"),
            )
        )
        await self._read(client, job, lambda transactor: transactor.get(job))

    async def _wait(self, client: int) -> None:
        """Wait for a counter to move from where it is seen first."""
        job = job_of("counter", f"c{self.random.randrange(self.options.counters)}")
        least = self.random.randint(1, 100)

        def until(state: Any) -> bool:
            return bool(state.total >= least)

        await self._read(client, job, lambda transactor: transactor.wait(job, until, timeout=5))

    async def _read(
        self, client: int, job: Job, function: Callable[[Transactor], Awaitable[Any]]
    ) -> None:
        self._busy += 1
        line = {"f": "read", "job": str(job.id), "process": client, "op": self._busy}
        self._write(line, "invoke")
        try:
            head = await self._call(function)
        except (Lost, StoreError, DeadlineExceeded):
            self._write(line, "fail")
            return
        revision = None if head is None else str(head.revision)
        self._write(line, "ok", revision=revision, seq=0 if head is None else head.seq)

    async def _operate(self) -> None:
        """A person looks at what is parked, and tries it again or dismisses it."""
        parked = await self.ground.store.tasks(parked=True)
        if not parked:
            return
        task = self.random.choice(sorted(parked, key=lambda row: row.id)).id
        act = self.random.choice(("redrive", "dismiss"))
        with suppress(Lost, StoreError, UnknownTask, DeadlineExceeded, Stopped):
            answer = await self._call(lambda transactor: getattr(transactor, act)(task))
            self.outcome.seen[f"{act}: {answer.kind}"] += 1
            self.outcome.redriven.add(str(task))

    async def _attempts(
        self,
        client: int,
        line: dict[str, Any],
        call: Callable[[Any], Callable[[Transactor], Awaitable[Any]]],
        delivery: Any,
        *,
        insist: bool = False,
    ) -> None:
        """One operation, sent again under its id while its fate is unknown; with `insist`, until
        its sender is told the answer."""
        self._busy += 1
        line = {**line, "process": client, "op": self._busy}
        line["delivery"] = None if delivery is None else delivery.encode().hex()
        self._write(line, "invoke")
        if self.faults.hit("duplicate") and delivery is not None:
            self.loop.spawn(None, self._again(line, call(delivery)))
        unknown = False
        for _ in range(10_000 if insist else 40):
            if self.faults.hit("delay"):
                await anyio.sleep(self.random.random() * 5)
            try:
                answer = await self._call(call(delivery))
            except (Unavailable, ConflictsExhausted, DeadlineExceeded):
                pass
            except Indeterminate as error:
                unknown = True
                self.outcome.seen["told unknown"] += 1
                delivery = error.delivery[1] if error.delivery is not None else None
            except (Lost, Stopped):
                unknown = True
            except StmflowError as error:
                self._write(line, "fail", error=repr(error))
                self.problem(f"a client got {error!r}")
                return
            else:
                self._write(line, "ok", **_answer(answer))
                return
            if unknown and not insist and (delivery is None or self.faults.hit("abandon")):
                break
            await anyio.sleep(self.random.random() * 2)
        self._write(line, "info" if unknown else "fail")

    async def _again(self, line: dict[str, Any], call: Any) -> None:
        """The same delivery, sent by somebody else."""
        await anyio.sleep(self.random.random() * 3)
        try:
            answer = await self._call(call)
        except (Lost, StmflowError):
            return
        self._write({**line, "repeat": True}, "ok", **_answer(answer))

    async def _call(self, function: Callable[[Transactor], Awaitable[Any]]) -> Any:
        """Ask some living process; what it answers, or `Lost`."""
        for _ in range(1_000):
            living = [n for n in self.nodes if not n.dead and n.transactor is not None]
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

    def _write(self, line: Mapping[str, Any], type: str, **more: Any) -> None:
        self.outcome.history.append({**line, "type": type, "time": self.loop.time(), **more})


def _at(at: Job, body: Callable[[Any], Any]) -> Callable[[Any], Callable[[Transactor], Any]]:
    """Delivery → how to ask for this transaction under it."""
    return lambda delivery: lambda transactor: transactor.transact(body, at=at, delivery=delivery)


def _answer(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, Answer):
        return {"answer": dict(answer)}
    return {
        "answer": answer.kind,
        "code": answer.code,
        "revision": None if answer.revision is None else str(answer.revision),
        "seq": answer.seq,
        "repeated": answer.repeated,
    }


__all__ = ["FAULTS", "Options", "Outcome", "World"]
