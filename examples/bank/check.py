"""What is proved of the bank: no coin is made or lost, nobody owes, and who waits for money is paid
where it comes and stays.

    stmflow check examples/bank

There is no world: a bank is its accounts. What may happen is every transfer, in every order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Final

from examples.bank.accounts import ACCOUNT, Body, Close, Open, either, transfer, waiting
from stmflow import Tx
from stmflow.check import (
    Check,
    Property,
    Send,
    Told,
    Transact,
    View,
    always,
    eventually,
    sometimes,
    step,
)

ALICE, BOB, SHOP, NOBODY = (ACCOUNT.job(name) for name in ("alice", "bob", "shop", "nobody"))


def balances(view: View) -> dict[str, int]:
    return {key[0]: account.balance for key, account in view.states(ACCOUNT.name).items()}


def rules(money: int) -> list[Property]:
    """What holds of every bank into which so much was brought."""

    def moved(before: View, action: Told, after: View) -> bool:
        """A transfer is one step of two accounts: there is no moment between its halves."""
        one, other = balances(before), balances(after)
        changes = [now - one.get(name, now) for name, now in other.items() if now != one.get(name)]
        if action.what == "transact":
            return len(changes) == 2 and sum(changes) == 0
        return not any(changes)

    def final(before: View, action: Told, after: View) -> bool:
        was, now = before.states(ACCOUNT.name), after.states(ACCOUNT.name)
        return all(now[key] == each for key, each in was.items() if each.status == "closed")

    return [
        always("money is neither made nor lost", lambda v: sum(balances(v).values()) == money),
        always("nobody owes", lambda v: min(balances(v).values()) >= 0),
        always("no record is made of who has no account", lambda v: v.state(NOBODY) is None),
        step("both change, or neither", moved),
        step("a closed account stays as it is", final),
    ]


def bank(
    name: str,
    transactions: Sequence[Transact],
    *more: Property,
    sends: Sequence[Send] = (),
    **holding: int,
) -> Check:
    """A bank of these accounts, and what may happen in it."""

    def start(tx: Tx) -> None:
        for account, balance in holding.items():
            tx.apply(ACCOUNT.job(account), Open(account, balance))

    return Check(
        [ACCOUNT],
        name=name,
        start=start,
        sends=sends,
        transactions=transactions,
        properties=[*rules(sum(holding.values())), *more],
    )


def table(alice: int = 100, bob: int = 50) -> Check:
    """Every transfer from one to the other, of whatever amount."""
    amounts = range(1, alice + 1)
    every = [Transact(f"alice pays {m}", transfer(ALICE, BOB, m), None) for m in amounts]
    return bank("bank, every amount", every, alice=alice, bob=bob)


def lives() -> Check:
    """Accounts are opened and closed while others pay into them and out of them."""
    jobs = (ALICE, BOB, SHOP)
    every = [
        Transact(f"{one.key[0]} pays {other.key[0]}", transfer(one, other, 1), None)
        for one, other in permutations(jobs, 2)
    ]
    return bank(
        "bank, accounts that come and go",
        every,
        sometimes("everybody has left but one", lambda v: _closed(v) == 2),
        sends=[Send(Open("shop"), None), *(Send(Close(job.key[0]), None) for job in jobs)],
        alice=2,
        bob=1,
    )


def _closed(view: View) -> int:
    return sum(account.status == "closed" for account in view.states(ACCOUNT.name).values())


def paid(name: str, payment: Body, *, kept: bool = True, come: bool = True) -> Check:
    """A payment of 2 to the shop, while Bob brings Alice the money, a coin at a time.

    Args:
        kept: Alice does not give it back meanwhile. come: it is sure that Bob brings it.
    """
    brings = Transact("bob pays alice", transfer(BOB, ALICE, 1), None, fair=come)
    returns = Transact("alice pays bob", transfer(ALICE, BOB, 1), None)
    return bank(
        name,
        [brings, Transact("the payment", payment, fair=True), *([] if kept else [returns])],
        eventually("the shop is paid", lambda view: view.state(SHOP).balance == 2),
        alice=0,
        bob=3,
        shop=0,
    )


PATIENT: Final = waiting(transfer(ALICE, SHOP, 2))
"""Alice pays as soon as she can."""
SHARED: Final = waiting(either(transfer(ALICE, SHOP, 2), transfer(BOB, SHOP, 2)))
"""Whoever can pays: of three coins, one of two always has two."""

CHECKS: Final = (
    table(),
    lives(),
    paid("bank, a payment that waits for the money", PATIENT),
    paid("bank, a payment from either", SHARED, kept=False, come=False),
)
