"""Workflows that try the whole engine: orders, accounts, purses, counters and debts.

`order` uses most of the effect algebra: side by side, one after the other, caught and uncaught
failures, named sleeps that are replaced and cancelled, a compensation that outlives its state, a
transactional task over a second job, epochs, a guard and a post hook. `account` holds a quota that
orders draw on, `purse` is the bank whose sum never changes, `counter` a hot key that remembers
every operation applied to it. A `debt` is a registered transaction that waits for a purse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from stmflow import (
    ANY,
    At,
    Err,
    Guard,
    Hook,
    Tx,
    Workflow,
    cancel,
    ignore,
    impossible,
    perform,
    reject,
    same,
    sleep,
    together,
)
from stmflow.registered import registered
from stmflow.workflow import Job
from stmflow.workflow import job as job_of

# --- counter ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Add:
    """Add `amount`; `op` is unique in the world. A negative amount is a bug: `update` raises."""

    name: str
    op: int
    amount: int


@dataclass(frozen=True, slots=True)
class Counter:
    """A sum, and the operations that made it, in order."""

    name: str
    total: int = 0
    ops: tuple[int, ...] = ()


def _count(event: Add, state: Counter | None) -> Any:
    if event.amount < 0:
        raise ValueError("a counter only counts up")
    state = state or Counter(event.name)
    return Counter(state.name, state.total + event.amount, (*state.ops, event.op)), []


COUNTER = Workflow(
    "counter", state=Counter, events=(Add,), outside=(Add,), update=_count, key=("name",)
)

# --- purse --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deposit:
    """Money comes in."""

    name: str
    op: int
    amount: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Money goes out, if there is enough."""

    name: str
    op: int
    amount: int


@dataclass(frozen=True, slots=True)
class Purse:
    """A balance, never negative, and the operations that made it, in order."""

    name: str
    balance: int = 0
    ops: tuple[int, ...] = ()


def _pay(event: Deposit | Withdraw, state: Purse | None) -> Any:
    state = state or Purse(event.name)
    amount = event.amount if isinstance(event, Deposit) else -event.amount
    if state.balance + amount < 0:
        return reject("Poor")
    return Purse(state.name, state.balance + amount, (*state.ops, event.op)), []


PURSE = Workflow(
    "purse",
    state=Purse,
    events=(Deposit, Withdraw),
    outside=(Deposit,),
    update=_pay,
    key=("name",),
)


def purse(name: str) -> Job:
    """The purse of that name."""
    return job_of("purse", name)


def transfer(source: str, target: str, op: int, amount: int) -> Callable[[Tx], dict[str, Any]]:
    """A transaction over two purses."""

    def body(tx: Tx) -> dict[str, Any]:
        if tx.apply(purse(source), Withdraw(source, op, amount)).kind != "committed":
            return {"moved": 0}
        tx.apply(purse(target), Deposit(target, op, amount))
        return {"moved": amount}

    return body


def lend(source: str, other: str, op: int, amount: int, floor: int) -> Callable[[Tx], Any]:
    """A transaction that writes one purse and reads another: together they keep `floor`."""

    def body(tx: Tx) -> dict[str, Any]:
        held = [tx.read(purse(name)) for name in (source, other)]
        if sum(each.balance for each in held if each is not None) - amount < floor:
            return {"moved": 0}
        lent = tx.apply(purse(source), Withdraw(source, op, amount)).kind == "committed"
        return {"moved": amount if lent else 0}

    return body


@dataclass(frozen=True, slots=True)
class Repay:
    """Pay a debt as soon as the debtor has the money."""

    debtor: str
    creditor: str
    op: int
    amount: int


def repay(tx: Tx, task: Repay) -> int:
    """The transaction of `Repay`: it waits for the debtor's purse."""
    held = tx.read(purse(task.debtor))
    if held is None or held.balance < task.amount:
        tx.retry()
    tx.apply(purse(task.debtor), Withdraw(task.debtor, task.op, task.amount))
    tx.apply(purse(task.creditor), Deposit(task.creditor, task.op, task.amount))
    return task.amount


DEBT = registered(Repay, name="debt")

# --- account ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Begin with a limit."""

    name: str
    limit: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Take from what is free."""

    amount: int


@dataclass(frozen=True, slots=True)
class Free:
    """Give back."""

    amount: int


@dataclass(frozen=True, slots=True)
class Account:
    """A quota: `used` is the sum of the sizes of the orders that pay."""

    name: str
    limit: int
    used: int = 0


def _quota(event: Any, state: Account | None) -> Any:
    match event, state:
        case OpenAccount(name, limit), None:
            return Account(name, limit), []
        case Reserve(amount), Account():
            if state.used + amount > state.limit:
                return reject("NoSpace")
            return replace(state, used=state.used + amount), []
        case Free(amount), Account():
            return replace(state, used=state.used - amount), []
        case OpenAccount(), Account():
            return same()
    return reject("NoAccount")


ACCOUNT = Workflow(
    "account",
    state=Account,
    events=(OpenAccount, Reserve, Free),
    outside=(OpenAccount,),
    update=_quota,
    key=lambda event: (event.name,),
)

# --- order --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin, or begin again."""

    name: str
    account: str
    size: int


@dataclass(frozen=True, slots=True)
class Poke:
    """Ask for more time."""

    name: str
    at: At = 0


@dataclass(frozen=True, slots=True)
class Abort:
    """Give up."""

    name: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The account has the room."""

    at: At = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """The account has no room."""

    error: Err


@dataclass(frozen=True, slots=True)
class Looked:
    """Both looks are done."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Worked:
    """The work is done and checked."""

    value: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A look or the work failed for good."""

    error: Err


@dataclass(frozen=True, slots=True)
class Expired:
    """The deadline has passed."""

    at: At = 0


@dataclass(frozen=True, slots=True)
class Take:
    """Transactional: reserve in the account."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Give:
    """Transactional: free in the account."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Look:
    """One of two looks."""

    name: str
    epoch: int
    part: int


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one try."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Check:
    """Only after the work."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Publish:
    """After the end; nobody catches its failure."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Remind:
    """Behind a sleep that neither state nor epoch ends."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Doom:
    """Fails for good, always: its row parks."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Audit:
    """Given by the post hook when an order is done."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Order:
    """One order. It pays while its status is one of `PAYING`.

    `deadline` repeats what the sleep of that name knows, so that a sleep which fires early, or
    after it was replaced, is seen.
    """

    name: str
    account: str
    size: int
    epoch: int = 1
    status: str = "taking"
    value: int = 0
    deadline: int = 0


PAYING = ("looking", "working", "done")
OVER = ("refused", "broken", "expired", "aborted")
DEADLINE_MS = 8_000
REMINDER_MS = 20_000


def _deadline() -> Any:
    limit = timedelta(milliseconds=DEADLINE_MS)
    return sleep(for_=limit, name="deadline", during=("looking", "working")).then(Expired)


def _stop(order: Order, status: str) -> Any:
    back = perform(Give(order.account, order.size))
    return replace(order, status=status), [cancel("deadline"), back]


def _order(event: Any, order: Order | None) -> Any:
    if isinstance(event, Start) and (order is None or order.status in OVER):
        epoch = order.epoch + 1 if order else 1
        take = perform(Take(event.account, event.size)).catch(Refused, "NoSpace").then(Taken)
        return Order(event.name, event.account, event.size, epoch), [take]
    if order is None:
        return reject("Unknown")
    match event, order.status:
        case Start(), _:
            return same()
        case Poke(), "looking" | "working":
            return replace(order, deadline=event.at + DEADLINE_MS), [_deadline()]
        case Taken(), "taking":
            looks = together(
                perform(Look(order.name, order.epoch, 1)), perform(Look(order.name, order.epoch, 2))
            )
            return replace(order, status="looking", deadline=event.at + DEADLINE_MS), [
                looks.then(Looked).catch(Broken),
                _deadline(),
            ]
        case Refused(), "taking":
            return replace(order, status="refused"), []
        case Looked(first, second), _ if {first // 10, second // 10} != {order.epoch}:
            return impossible()  # an outcome of another try
        case Expired(), "looking" | "working" if event.at < order.deadline:
            return impossible()  # a sleep that was replaced, or fired too early
        case Looked(first, second), "looking":
            work = perform(Work(order.name, order.epoch), name=f"work {order.epoch}")
            check = perform(Check(order.name, order.epoch))
            later = timedelta(milliseconds=REMINDER_MS)
            return replace(order, status="working", value=first + second), [
                work.and_(check).then(Worked).catch(Broken),
                sleep(for_=later, during=ANY).and_(perform(Remind(order.name, order.epoch))),
            ]
        case Worked(value), "working":
            after = [cancel("deadline"), perform(Publish(order.name, order.epoch))]
            if order.size % 5 == 0:
                after.append(perform(Doom(order.name, order.epoch)))
            return replace(order, status="done", value=order.value + value), after
        case Broken(), "looking" | "working":
            return _stop(order, "broken")
        case Expired(), "looking" | "working":
            return _stop(order, "expired")
        case Abort(), "looking" | "working":
            state, effects = _stop(order, "aborted")
            return state, [cancel(f"work {order.epoch}"), *effects]
    return ignore()


def _veto(event: Any, order: Order | None) -> str | None:
    return "Done" if isinstance(event, Abort) and order and order.status == "done" else None


def _audit(event: Any, before: Order | None, after: Order) -> list[Any]:
    if isinstance(event, Worked) and after.status == "done":
        return [perform(Audit(after.name, after.epoch))]
    return []


ORDER = Workflow(
    "order",
    state=Order,
    events=(Start, Poke, Abort, Taken, Refused, Looked, Worked, Broken, Expired),
    outside=(Start, Poke, Abort),
    tasks=(Take, Give, Look, Work, Check, Publish, Remind, Doom, Audit),
    update=_order,
    key=("name",),
    tag="status",
    epoch="epoch",
    pre=(Guard("open", _veto),),
    post=(Hook("audit", 1, _audit),),
)


def _take(tx: Tx, task: Take) -> Any:
    verdict = tx.apply(job_of("account", task.account), Reserve(task.amount))
    return None if verdict.kind == "committed" else Err("NoSpace", task.account)


def _give(tx: Tx, task: Give) -> Any:
    tx.apply(job_of("account", task.account), Free(task.amount))


WORKFLOWS = (ORDER, ACCOUNT, PURSE, COUNTER, DEBT)
TRANSACTIONAL: dict[type[Any], Callable[[Tx, Any], Any]] = {Take: _take, Give: _give}
PERFORMED = (Look, Work, Check, Publish, Remind, Doom, Audit)
