"""Rich work on one PostgreSQL database, and what must hold of it after any trouble.

The workflows are those of the simulation. Two nodes, each with a store, a transactor and a
scheduler of its own, serve clients that insist: an operation is sent again, under its id, until it
is acknowledged. All that clients were told is the history, which is compared with the chains, the
outbox and the ledger of the handlers once everything rests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random
from time import monotonic
from typing import Any

import anyio

from scheduler import Context
from scheduler.testing.checks import problems_of
from scheduler.testing.options import Options, Outcome
from scheduler.testing.orders import (
    COUNTER,
    DEBT,
    ORDER,
    PERFORMED,
    TRANSACTIONAL,
    WORKFLOWS,
    Abort,
    Add,
    Deposit,
    Look,
    OpenAccount,
    Poke,
    Repay,
    Start,
    purse,
    transfer,
)
from scheduler.testing.shop import FUNDS, LIMIT, Shop
from stmflow import CID, Answer, Transactor, Tx
from stmflow.errors import (
    Archived,
    ConflictsExhausted,
    Indeterminate,
    StoreError,
    Unavailable,
    UnknownTask,
)
from stmflow.registered import asked
from stmflow.schema import tag_of
from stmflow.store import Batch, Done, Drop, Finished, JobRow, Packed, Revive, Store, StoredHead
from stmflow.testing import builders
from stmflow.testing.replay import replay
from stmflow.workflow import Job
from stmflow.workflow import job as job_of
from tests.campaign.part import Violation
from tests.crash.postgres_handlers import perform, quick, scheduling

REST_SECONDS = 60
SHELF = builders.WORKFLOW
ORDERS, COUNTERS, PURSES = 8, 3, 3

NOT_YET = (Unavailable, ConflictsExhausted)


class World:
    """The work of one number on one database.

    Args:
        number: what it draws from. nodes: how many; each opens what `open_store` gives.
        works: whether they perform tasks; else others do, and enter the ledger.
    """

    def __init__(
        self, number: int, open_store: Callable[[], Any], *, nodes: int = 2, works: bool = True
    ) -> None:
        self.random = Random(f"work {number}")
        shop = Shop(Random(number))
        shop.purses, shop.lends = PURSES, 0
        self.outcome = Outcome(
            Options(
                seed=number, rates={"crash": 1.0}, nodes=nodes, clients=0, operations=0,
                fault_seconds=0, grain_ms=0, slots=4, lease_seconds=5, replans=True, pure=False,
            ),
            shop,
            handled={tag_of(kind) for kind in PERFORMED},
            workflows=list(WORKFLOWS),
        )  # fmt: skip
        self.ledger: Callable[[], None] = lambda: None
        """Completes the ledger, before it is compared."""
        self.acknowledged = 0
        self.counts: Counter[str] = Counter()
        self._nodes = nodes
        self._works = works
        self._open = open_store
        self._engines: list[Transactor] = []
        self._tokens: dict[CID, set[int]] = {}
        self._meaning: dict[tuple[CID, str], CID] = {}
        self._shelf: dict[str, tuple[StoredHead, Packed]] = {}
        self.pairs: list[tuple[str, str]] = []
        self._ops = 0
        self._leaving = False

    @asynccontextmanager
    async def run(
        self,
        *,
        clients: int = 6,
        debts: int = 2,
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncIterator[None]:
        """Work while inside; after it, everything rests and has been checked.

        Args:
            then: done when no more is asked for, before everything rests.

        Raises:
            Violation: what must never happen has happened.
        """
        with quick():
            async with self._opened(0):
                await self._prepare()
                async with anyio.create_task_group() as group:
                    for client in range(clients):
                        group.start_soon(self._client, client)
                    for debt in range(debts):
                        group.start_soon(self._owe, clients + debt)
                    group.start_soon(self._rivals, clients + debts)
                    group.start_soon(self._store_away)
                    yield
                    self._leaving = True
                if then is not None:
                    await then()
                await self._rest()
                await self._check()

    @asynccontextmanager
    async def _opened(self, already: int) -> AsyncIterator[None]:
        """So many nodes, one inside the other."""
        if already == self._nodes:
            yield
            return
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(self._open())
            engine = await stack.enter_async_context(
                Transactor(
                    store,
                    WORKFLOWS,
                    transactional=TRANSACTIONAL,
                    clock=store.clock,
                    alarm=lambda text: self._problem(f"alarm: {text}"),
                )
            )
            counted: list[tuple[str, Any]] = [("engine", engine)]
            if self._works:
                work = partial(self._perform, f"node{already}")
                scheduler = await stack.enter_async_context(scheduling(engine, work))
                counted.append(("tasks", scheduler))
            self._engines.append(engine)
            async with self._opened(already + 1):
                yield
            for whose, one in counted:
                self.counts.update({f"{whose}: {name}": n for name, n in one.counters.items()})

    def _problem(self, text: str) -> None:
        self.outcome.problems.append(text)

    # --- rest

    async def _rest(self) -> None:
        """Every row that is not parked must go."""
        began = monotonic()
        while rows := [row for row in await self._tasks() if not row.parked]:
            if monotonic() - began > REST_SECONDS:
                return self._problem(f"no rest after {REST_SECONDS} s: {rows}")
            await anyio.sleep(0.02)

    async def _tasks(self) -> Sequence[Any]:
        try:
            return await self._engines[0].store.tasks()
        except Unavailable:
            await anyio.sleep(0.1)
            return await self._tasks()

    async def _check(self) -> None:
        self.ledger()
        self.outcome.store = store = _Ours(self._engines[0].store)
        self.outcome.problems += await problems_of(self.outcome)
        await self._check_tokens(store)
        await self._check_pairs()
        for name, (head, _) in self._shelf.items():
            try:
                found = (await self._engines[0].store.heads([head.job]))[head.job]
            except Archived:
                self._problem(f"{name} was brought back and is away")
                continue
            if found != head:
                self._problem(f"{name} is {found}, not {head}")
        self.counts["operations"] = self.acknowledged
        self.counts["jobs"] = len(await self._engines[0].store.jobs(limit=10_000))
        if self.outcome.problems:
            raise Violation("\n".join(self.outcome.problems[:20]))

    # --- handlers

    async def _perform(self, node: str, task: Any, context: Context) -> Any:
        self.enter(context.key, context.job, repr(task), node, context.attempt, context.token)
        return await perform(self.random, task, context)

    def enter(self, key: CID, job: CID, task: str, node: str, attempt: int, token: int) -> None:
        """Note in the ledger that a handler has begun. One key for one task, always the same; no
        two attempts under one token."""
        self.outcome.performed.setdefault(key, []).append((node, attempt))
        if self._meaning.setdefault((job, task), key) != key:
            self._problem(f"{task} has two keys")
        tokens = self._tokens.setdefault(key, set())
        if token in tokens:
            self._problem(f"{task}: two attempts under token {token}")
        tokens.add(token)

    async def _check_tokens(self, store: Any) -> None:
        """No outcome was accepted from a worker after another had taken the task over: handlers
        return their token, and a later one than the accepted one would have been too late."""
        registry = self._engines[0].registry
        for row in await store.jobs(limit=10_000):
            packs = list(reversed(await store.revisions(row.job)))
            chain = replay(registry, row.job, packs)
            looks = {task for task, leaf in chain.armed.items() if leaf.tag == tag_of(Look)}
            for task, outcome in chain.outcomes.items():
                tokens = self._tokens.get(task)
                if tokens is None or not isinstance(outcome, int) or task in looks:
                    continue
                if outcome != max(tokens):
                    self._problem(f"{task} was settled by token {outcome} of {sorted(tokens)}")
                self.counts["outcomes by the newest token"] += 1
                self.counts["of these, of a second claim or later"] += len(tokens) > 1

    async def _check_pairs(self) -> None:
        """Never both: that would be write skew."""
        for pair in self.pairs:
            jobs = [COUNTER.job(name) for name in pair]
            states = await self._engines[0].snapshot(jobs)
            if sum(state.total for state in states.values()) > 1:
                self._problem(f"write skew: each of {pair} has counted alone")
        self.counts["pairs of rivals"] = len(self.pairs)

    # --- clients

    async def _prepare(self) -> None:
        for name in "ab":
            await self._send(0, job_of("account", name), OpenAccount(name, LIMIT), f"open {name}")
        for n in range(PURSES):
            name = f"p{n}"
            await self._send(0, purse(name), Deposit(name, self._op(), FUNDS), f"fund {name}")

    def _op(self) -> int:
        self._ops += 1
        return self._ops

    async def _client(self, client: int) -> None:
        while not self._leaving:
            await anyio.sleep(self.random.random() * self.random.choice((0.0, 0.01, 0.05)))
            await self._operation(client)

    async def _operation(self, client: int) -> None:
        random = self.random
        delivery = None if random.random() < 0.2 else f"delivery {self._op()}"
        match random.choices(("count", "order", "transfer", "look", "operate"), (4, 6, 3, 2, 1))[0]:
            case "count":
                add = Add(f"c{random.randrange(COUNTERS)}", self._op(), random.randint(1, 9))
                await self._send(client, COUNTER.job_of(add), add, delivery)
            case "order":
                name = f"o{random.randrange(ORDERS)}"
                start = Start(name, random.choice("ab"), random.randint(1, 15))
                event = random.choices((start, Poke(name), Abort(name)), (6, 2, 1))[0]
                await self._send(client, ORDER.job_of(event), event, delivery)
            case "transfer":
                source, target = random.sample(range(PURSES), 2)
                await self._transfer(client, f"p{source}", f"p{target}", delivery)
            case "look":
                await self._look(client, job_of("counter", f"c{random.randrange(COUNTERS)}"))
            case "operate":
                await self._operate()

    async def _send(self, client: int, job: Job, event: Any, delivery: str | None) -> None:
        line = {"f": "send", "job": str(job.id), "value": getattr(event, "op", None)}
        await self._attempts(
            client,
            line,
            delivery,
            lambda engine: engine.send(job, event, delivery=delivery),
        )

    async def _transfer(self, client: int, source: str, target: str, delivery: str | None) -> None:
        op = self._op()
        at, body = purse(source), transfer(source, target, op, self.random.randint(1, 60))
        line = {"f": "transact", "job": str(at.id), "value": op}
        where: dict[str, Any] = {} if delivery is None else {"at": at, "delivery": delivery}
        await self._attempts(client, line, delivery, lambda engine: engine.transact(body, **where))

    async def _owe(self, client: int) -> None:
        """Debts, one after the other, and what the debtor earns meanwhile: in the end exactly
        what the debts come to."""
        while not self._leaving:
            op, amount = self._op(), self.random.randint(1, 9)
            task, name = Repay("debtor", "creditor", op, amount), f"debt {op}"
            await self._send(client, DEBT.job(name), asked(name, task), name)
            for part in range(amount):
                await anyio.sleep(self.random.random() * 0.04)
                earned = Deposit("debtor", self._op(), 1)
                await self._send(client, purse("debtor"), earned, f"{name} {part}")

    async def _rivals(self, client: int) -> None:
        """Two jobs at a time, each of which may count one only while the other has counted none:
        both transactions read what the other writes."""
        while not self._leaving:
            pair = self._op()
            left, right = f"rival {pair} left", f"rival {pair} right"
            for name in (left, right):
                add = Add(name, self._op(), 0)
                await self._send(client, COUNTER.job_of(add), add, name)
            async with anyio.create_task_group() as group:
                group.start_soon(self._count_alone, client, 0, left, right)
                group.start_soon(self._count_alone, client + 1, 1, right, left)
            self.pairs.append((left, right))
            await anyio.sleep(self.random.random() * 0.05)

    async def _count_alone(self, client: int, node: int, mine: str, other: str) -> None:
        op, job, delivery = self._op(), COUNTER.job(mine), f"{mine} alone"

        def body(tx: Tx) -> dict[str, Any]:
            state = tx.read(COUNTER.job(other))
            if state is None:
                self._problem(f"{other} was acknowledged and is lost")
            if state is None or state.total:
                return {"moved": 0}
            tx.apply(job, Add(mine, op, 1))
            return {"moved": 1}

        engine = self._engines[node % len(self._engines)]
        line = {"f": "send", "job": str(job.id), "value": op}
        await self._attempts(
            client, line, delivery, lambda _: engine.transact(body, at=job, delivery=delivery)
        )

    async def _look(self, client: int, job: Job) -> None:
        line = {"f": "read", "job": str(job.id), "process": client, "op": self._op()}
        self._write(line, "invoke")
        try:
            head = await self.random.choice(self._engines).get(job)
        except StoreError:
            return self._write(line, "fail")
        revision = None if head is None else str(head.revision)
        self._write(line, "ok", revision=revision, seq=0 if head is None else head.seq)

    async def _operate(self) -> None:
        """A person looks at what is parked, and tries it again or dismisses it."""
        engine = self.random.choice(self._engines)
        try:
            parked = await engine.store.tasks(parked=True)
            if parked:
                task = self.random.choice(parked).id
                act = self.random.choice((engine.redrive, engine.dismiss))
                self.outcome.redriven.add(str(task))
                await act(task)
        except (StoreError, UnknownTask):
            pass

    async def _attempts(
        self,
        client: int,
        line: dict[str, Any],
        delivery: str | None,
        call: Callable[[Transactor], Awaitable[Any]],
    ) -> None:
        """One operation, asked again of any node until it is acknowledged; without an id, until
        nobody knows whether it happened."""
        line = {**line, "process": client, "op": self._op()}
        line["delivery"] = None if delivery is None else delivery.encode().hex()
        self._write(line, "invoke")
        while True:
            try:
                answer = await call(self.random.choice(self._engines))
            except NOT_YET:
                self.counts["told: not done"] += 1
            except Indeterminate as error:
                self.counts["told: unknown"] += 1
                if error.delivery is None:
                    return self._write(line, "info")
            else:
                self.acknowledged += 1
                return self._write(line, "ok", **_told(answer))
            await anyio.sleep(0.01 + self.random.random() * 0.05)

    def _write(self, line: Mapping[str, Any], type: str, **more: Any) -> None:
        self.outcome.history.append({**line, "type": type, "time": monotonic(), **more})

    # --- a shelf: jobs that leave for an archive and come back

    async def _store_away(self) -> None:
        n = 0
        while not self._leaving:
            n += 1
            name = f"shelf {n}"
            made = builders.commit({name: None}, tag="Over")
            head = builders.head_of(made, name)
            assert made.revision is not None
            assert made.revision_cid is not None
            packed = Packed(made.revision_cid, made.revision, [*made.blocks, head.state])
            await self._until(made, partial(self._is, head, away=False))
            await self._until(
                builders.commit({f"{name} next": None}),  # the newest of the log stays
                partial(self._exists, f"{name} next"),
            )
            place = await self._place(packed.cid)
            over = Finished(SHELF, ("Over",), 1_000)
            drop = Drop([(place, packed.cid)], CID.of(b"archive"), [over])
            await self._until(drop, partial(self._is, head, away=True))
            revive = Revive(head.job, packed)
            await self._until(revive, partial(self._is, head, away=False))
            self._shelf[name] = (head, packed)
            self.counts["left and came back"] += 1
            await anyio.sleep(0.05)

    async def _until(self, member: Any, happened: Callable[[], Awaitable[bool]]) -> None:
        """Commit a member until it has happened; what a store says of it must be so."""
        while True:
            store = self._engines[0].store
            told: Any = None
            try:
                (told,) = await store.commit(Batch([member]))
            except (Indeterminate, Unavailable) as error:
                told = error
            found = await self._sure(happened)
            if isinstance(told, Done) != found and not isinstance(told, Indeterminate):
                self._problem(f"{type(member).__name__}: told {told!r}, and happened is {found}")
            if found or len(self.outcome.problems) > 20:
                return

    async def _sure(self, look: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await look()
            except (Unavailable, Indeterminate):
                await anyio.sleep(0.02)

    async def _is(self, head: StoredHead, *, away: bool) -> bool:
        try:
            found = (await self._engines[0].store.heads([head.job]))[head.job]
        except Archived:
            return away
        return found is not None and not away

    async def _exists(self, name: str) -> bool:
        job = builders.job_id(name, SHELF)
        return (await self._engines[0].store.heads([job]))[job] is not None

    async def _place(self, revision: CID) -> int:
        """Where that revision stands in the log."""
        after = 0
        while page := await self._sure(
            partial(self._engines[0].store.log, after=after, limit=1_000)
        ):
            for each in page:
                if each.packed.cid == revision:
                    return int(each.place)
            after = page[-1].place
        raise Violation(f"{revision} was acknowledged and is not in the log")


class _Ours:
    """A store without the jobs of the shelf, which belong to no workflow that could be re-run."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def jobs(self, **options: Any) -> list[JobRow]:
        return [row for row in await self._store.jobs(**options) if row.workflow != SHELF]


def _told(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, Answer):
        return {"answer": dict(answer)}
    return {
        "answer": answer.kind,
        "code": answer.code,
        "revision": None if answer.revision is None else str(answer.revision),
        "seq": answer.seq,
        "repeated": answer.repeated,
    }
