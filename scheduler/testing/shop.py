"""The project's own workload: clients of orders, purses, counters and debts, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import anyio

from scheduler import App, Context, Failure, Performer, Policy, Transaction
from scheduler.testing.checks import Rest
from scheduler.testing.client import Client
from scheduler.testing.orders import (
    ACCOUNT,
    COUNTER,
    DEBT,
    ORDER,
    OVER,
    PAYING,
    PERFORMED,
    PURSE,
    TRANSACTIONAL,
    WORKFLOWS,
    Abort,
    Add,
    Deposit,
    Doom,
    Look,
    Looked,
    OpenAccount,
    Poke,
    Repay,
    Start,
    lend,
    purse,
    repay,
    transfer,
)
from scheduler.testing.workload import Workload
from stmflow import CID
from stmflow.errors import InvalidEvent, LimitExceeded, NotOutside, ReducerFailed, UnknownWorkflow
from stmflow.registered import asked, returning
from stmflow.testing.linear import check_values, moved
from stmflow.workflow import Job
from stmflow.workflow import job as job_of

LIMIT = 40
FUNDS = 100
ACCOUNTS = ("a", "b")
LENDERS = ("left", "right")

POLICIES = {
    kind: Policy(attempts=6, attempt_ms=2_000, base_ms=100, cap_ms=2_000) for kind in PERFORMED
}
REPAYING = Performer(handler=Transaction(returning(repay)))


class Shop(Workload):
    """Everybody works on a handful of jobs at once: that is where the bugs are."""

    def __init__(self, random: Random) -> None:
        self.orders = random.choice((1, 2, 4, 14))
        self.counters = random.randint(1, 3)
        self.purses = random.randint(2, 3)
        self.debts = random.choice((0, 1, 4))
        self.lends = random.choice((0, 2, 4))
        self.wrong: list[str] = []
        self._random = random
        self._keys: dict[tuple[CID, str], CID] = {}
        self.app = App(
            workflows=WORKFLOWS,
            handlers={
                **dict.fromkeys(PERFORMED, self._perform),
                Repay: REPAYING,
            },
            policies=POLICIES,
            transactional=TRANSACTIONAL,
        )

    async def _perform(self, task: Any, context: Context) -> Any:
        """Tasks name their order and its epoch: each is asked for once, under one key."""
        if self._keys.setdefault((context.job, repr(task)), context.key) != context.key:
            self.wrong.append(f"{task} has two keys")
        if isinstance(task, Doom):
            raise Failure("Refused", "Doom")
        return task.epoch * 10 + self._random.randint(1, 9) if isinstance(task, Look) else 1

    # --- what clients do

    async def prepare(self, client: Client) -> None:
        """Accounts and purses."""
        for name in ACCOUNTS:
            opened = OpenAccount(name, LIMIT)
            await client.send(ACCOUNT, opened, delivery=f"open {name}", insist=True)
        for name in (*self._bank(), *(LENDERS if self.lends else ())):
            fund = Deposit(name, client.unique(), FUNDS)
            await client.send(PURSE, fund, delivery=f"fund {name}", insist=True)

    def _bank(self) -> list[str]:
        return [f"p{number}" for number in range(self.purses)]

    async def live(self, client: Client) -> None:
        """As every client; some have debts or lend, too."""
        async with anyio.create_task_group() as group:
            for _ in range(client.number, self.debts, client.clients):
                group.start_soon(self._owe, client.beside())
            for _ in range(client.number, self.lends, client.clients):
                group.start_soon(self._lend, client.beside())
            await super().live(client)

    async def act(self, client: Client) -> None:
        """One of many things."""
        random, kind = client.random, client.random.random()
        if kind < 0.2:
            name = f"c{random.randrange(self.counters)}"
            await client.send(COUNTER, Add(name, client.unique(), random.randint(1, 9)))
        elif kind < 0.65:
            await self._order(client)
        elif kind < 0.78:
            source, target = random.sample(self._bank(), 2)
            op = client.unique()
            body = transfer(source, target, op, random.randint(1, 60))
            await client.transact(body, purse(source), value=op)
        elif kind < 0.9:
            await client.get(self._somebody(random))
        elif kind < 0.94:
            least = random.randint(1, 100)
            counter = job_of("counter", f"c{random.randrange(self.counters)}")
            await client.wait(counter, lambda state: bool(state.total >= least))
        elif kind < 0.97:
            await client.operate()
        else:
            await self._err(client)

    async def _order(self, client: Client) -> None:
        """One thing about an order; or several in a row, each asked of whatever process: what was
        told by one must be known to all."""
        random, name = client.random, f"o{client.random.randrange(self.orders)}"
        for _ in range(random.choice((1, 1, 5))):
            start = Start(name, random.choice(ACCOUNTS), random.randint(1, 15))
            event = random.choices((start, Poke(name), Abort(name)), (6, 2, 1))[0]
            await client.send(ORDER, event)

    def _somebody(self, random: Random) -> Job:
        return random.choice(
            (
                job_of("counter", f"c{random.randrange(self.counters)}"),
                job_of("order", f"o{random.randrange(self.orders)}"),
                purse(f"p{random.randrange(self.purses)}"),
            )
        )

    async def _err(self, client: Client) -> None:
        """A client's own mistake: refused by name, whatever else goes wrong; nothing is written."""
        if client.random.random() < 0.2:
            await client.operate(purse("p0").id)  # no task has that name
            return
        op = client.unique()
        wrong: Any = Add("c0", op, "many")  # type: ignore[arg-type]
        target, event, error, delivery = client.random.choice(
            (
                (COUNTER, wrong, InvalidEvent, f"wrong {op}"),
                (COUNTER, Add("c0", op, -1), ReducerFailed, f"wrong {op}"),
                (COUNTER, Add("c0", op, 1), LimitExceeded, "x" * 257),
                (job_of("order", "o0"), Looked(1, 1), NotOutside, f"wrong {op}"),
                (job_of("nothing", "o0"), Add("c0", op, 1), UnknownWorkflow, f"wrong {op}"),
            )
        )
        await client.send(target, event, delivery=delivery, refused=(error,))

    async def _owe(self, client: Client) -> None:
        """A debt, and what its debtor earns meanwhile: in the end exactly what his debts come to.
        Some have several; who has but one is woken by nobody else's deposits."""
        random, op = client.random, client.unique()
        debtor = random.choice(("debtor", f"debtor {op}"))
        task = Repay(debtor, "creditor", op, random.randint(1, 60))
        earned = [1] * (task.amount % 6) + [task.amount // 6] * 6
        await anyio.sleep(random.random() * 4)
        name = f"debt {op}"
        await client.send(DEBT.job(name), asked(name, task), delivery=name, insist=True)
        for part, amount in enumerate(earned):
            await anyio.sleep(random.random() * random.choice((0.0, 0.02, 0.2, 2.0)))
            event = Deposit(task.debtor, client.unique(), amount)
            await client.send(PURSE, event, delivery=f"{name} {part}", insist=True)

    async def _lend(self, client: Client) -> None:
        """Two purses that together keep their floor, though each is written alone; and looks at
        all purses of the bank, which hold the same together at any moment."""
        random, bank = client.random, [purse(name) for name in self._bank()]
        for _ in range(4):
            await anyio.sleep(random.random() * random.choice((0.0, 0.02, 1.0)))
            if (seen := await client.snapshot(bank)) is not None:
                balances = [each.balance for each in seen.values()]
                if sum(balances) != FUNDS * self.purses:
                    self.wrong.append(f"a snapshot shows {balances}")
            source, other = random.sample(LENDERS, 2)
            op = client.unique()
            body = lend(source, other, op, random.randint(5, 40), FUNDS)
            await client.transact(body, purse(source), value=op)

    # --- what must add up

    def check(self, rest: Rest) -> Iterator[str]:
        """Quotas, purses, counters and debts."""
        yield from self.wrong
        for job, counter in rest.states("counter").items():
            yield from check_values(str(job), counter.ops, rest.history)
        yield from _quotas(rest)
        purses = rest.states("purse")
        balances = [purses[purse(name).id].balance for name in self._bank()]
        if sum(balances) != FUNDS * self.purses or min(balances) < 0:
            yield f"purses hold {balances}"
        lenders = [purses[purse(name).id].balance for name in LENDERS if self.lends]
        if self.lends and (sum(lenders) < FUNDS or min(lenders) < 0):
            yield f"lenders hold {lenders}"
        yield from _debts(rest)
        yield from _transfers(rest)


def _quotas(rest: Rest) -> Iterator[str]:
    """Quotas are exact."""
    orders = rest.states("order").values()
    for account in rest.states("account").values():
        paying = sum(o.size for o in orders if o.account == account.name and o.status in PAYING)
        if not account.used == paying <= LIMIT:
            yield f"account {account.name} says {account.used} of {LIMIT}; orders pay {paying}"
    for order in orders:
        if order.status not in (*PAYING, *OVER):
            yield f"order {order.name} has not ended: {order}"


def _debts(rest: Rest) -> Iterator[str]:
    """Every debt is settled, and what was paid went from one purse to the other, once."""
    debts = rest.states("debt").values()
    yield from (f"debt {debt.name} still waits" for debt in debts if debt.status == "waiting")
    creditor = rest.states("purse").get(purse("creditor").id)
    paid = sum(debt.value for debt in debts if debt.status == "done")
    if paid != (0 if creditor is None else creditor.balance):
        yield f"debts of {paid} were paid; the creditor holds {creditor}"


def _transfers(rest: Rest) -> Iterator[str]:
    """Each transfer is in both purses or in none, as often as its sender was told; what is lent is
    in one."""
    ops = Counter(op for state in rest.states("purse").values() for op in state.ops)
    lenders = {str(purse(name).id) for name in LENDERS}
    for line in rest.history:
        if line["f"] != "transact":
            continue
        count, op = ops[line["value"]], line["value"]
        purses = 1 if line["job"] in lenders else 2
        told = purses if line["type"] == "ok" and moved(line) else 0
        if line["type"] in ("ok", "fail") and count != told:
            yield f"transfer {op} is in {count} purses, its sender was told {told}"
        if count not in (0, purses):
            yield f"transfer {op} is in {count} purses"


__all__ = ["Shop"]
