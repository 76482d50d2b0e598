"""Accounts, and the transactions over them. The whole of transfer(from, to, m):

    m <= 0, or from = to            Invalid         before anything is read
    an account closed or unknown    NotFound        no record is made
    balance of `from` < m           Insufficient    judged in the very commit that would move it
    else                            Done            both balances change in one commit

Money enters with `Open` and leaves never; an account is closed when it is empty. So the balances
always add up to what was brought in, and none is negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stmflow import Job, Tx, Workflow, reject, same

# --- one account --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Open an account that holds this much, in the smallest coin."""

    account: str
    balance: int = 0


@dataclass(frozen=True, slots=True)
class Close:
    """Close an empty account."""

    account: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Half of a transfer: never sent, only applied by one."""

    amount: int


@dataclass(frozen=True, slots=True)
class Deposit:
    """The other half."""

    amount: int


@dataclass(frozen=True, slots=True)
class Account:
    """What an account holds. `status`: open or closed."""

    balance: int
    status: str = "open"


def _update(event: Any, account: Account | None) -> Any:
    match event, account:
        case Open(balance=balance), None:
            return reject("Invalid") if balance < 0 else (Account(balance), ())
        case Open(), Account():
            return reject("Exists")
        case Withdraw(amount) | Deposit(amount), _ if amount <= 0:
            return reject("Invalid")
        case _, None:
            return reject("NotFound")
        case Close(), Account(status="closed"):
            return same()
        case Close(), Account(balance=balance):
            return reject("NotEmpty") if balance else (Account(0, "closed"), ())
        case _, Account(status="closed"):
            return reject("NotFound")
        case Withdraw(amount), Account(balance) if balance < amount:
            return reject("Insufficient")
        case Withdraw(amount), Account(balance):
            return replace(account, balance=balance - amount), ()
        case Deposit(amount), Account(balance):
            return replace(account, balance=balance + amount), ()


ACCOUNT = Workflow(
    "bank/account",
    state=Account,
    events=(Open, Close, Withdraw, Deposit),
    outside=(Open, Close),
    update=_update,
    key=("account",),
    tag="status",
)

# --- transactions over several ------------------------------------------------------------------

Body = Callable[[Tx], str]
"""A transaction that answers Done, Insufficient, NotFound or Invalid; for `Transactor.transact`."""


def transfer(source: Job, target: Job, amount: int) -> Body:
    """Move so much from one account to another, or nothing."""

    def body(tx: Tx) -> str:
        if amount <= 0 or source == target:
            return "Invalid"
        into = tx.read(target)
        if into is None or into.status == "closed":
            return "NotFound"
        refused: str | None = tx.apply(source, Withdraw(amount)).code
        if refused is None:
            tx.apply(target, Deposit(amount))
        return refused or "Done"

    return body


def waiting(body: Body) -> Body:
    """The same, but where the money does not suffice it sleeps until it may."""

    def patient(tx: Tx) -> str:
        answer = body(tx)
        if answer == "Insufficient":
            tx.retry()
        return answer

    return patient


def either(first: Body, second: Body) -> Body:
    """The first; where its money does not suffice, the second, with the first undone."""
    return lambda tx: tx.or_else(waiting(first), second)
