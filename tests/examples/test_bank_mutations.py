"""The bank with one thing broken: the checker finds each, by its shortest trace, and so does the
engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
from click.testing import CliRunner

from examples.bank import accounts
from examples.bank.accounts import (
    ACCOUNT,
    Account,
    Body,
    Close,
    Deposit,
    Open,
    Withdraw,
    transfer,
)
from examples.bank.check import ALICE, BOB, NOBODY, PATIENT, SHOP, lives, paid
from stmflow import Tx, reject
from stmflow.check import Check, Transact
from stmflow.cli import cli
from tests.examples import planted
from tests.project import ROOT

Update = Callable[[Any, Any], Any]

MONEY = "money is neither made nor lost"
OWES = "nobody owes"
FINAL = "a closed account stays as it is"
RECORD = "no record is made of who has no account"
PAID = "the shop is paid"


@dataclass(frozen=True)
class Mutation:
    """What is broken, the property that shows it, and the length of the shortest trace."""

    name: str
    breaks: str
    steps: int
    check: Check
    update: Callable[[Update], Update] = lambda update: update

    def of(self) -> Check:
        twin = copy(ACCOUNT)
        twin.update = self.update(ACCOUNT.update)
        asked = [one for one in self.check.properties if one.name == self.breaks]
        return replace(self.check, workflows=[twin], properties=asked)


# --- accounts -----------------------------------------------------------------------------------


def answered(kind: type, how: Callable[[Any, Account], Any]) -> Callable[[Update], Update]:
    """One event of an account that is there, answered otherwise."""

    def broken(update: Update) -> Update:
        def answer(event: Any, account: Account | None) -> Any:
            if isinstance(event, kind) and account is not None:
                return how(event, account)
            return update(event, account)

        return answer

    return broken


def less(event: Withdraw, account: Account) -> Any:
    return replace(account, balance=account.balance - event.amount), ()


def unless(refused: Callable[[Withdraw, Account], bool]) -> Callable[[Update], Update]:
    def withdraw(event: Withdraw, account: Account) -> Any:
        return reject("Insufficient") if refused(event, account) else less(event, account)

    return answered(Withdraw, withdraw)


def more(event: Deposit, account: Account) -> Any:
    return replace(account, balance=account.balance + event.amount), ()


def one_less(event: Deposit, account: Account) -> Any:
    return replace(account, balance=account.balance + event.amount - 1), ()


def closed(event: Close, account: Account) -> Any:
    return Account(0, "closed"), ()


def opened(event: Open, account: Account) -> Any:
    return Account(event.balance), ()


def any_amount(update: Update) -> Update:
    return answered(Deposit, more)(unless(lambda event, one: one.balance < event.amount)(update))


# --- transfers ----------------------------------------------------------------------------------


def one_sided(tx: Tx) -> None:
    tx.apply(ALICE, Withdraw(1))


def careless(tx: Tx) -> None:
    """Pays in, whatever became of paying out."""
    tx.apply(ALICE, Withdraw(1))
    tx.apply(BOB, Deposit(1))


def to_nobody(tx: Tx) -> None:
    if tx.apply(ALICE, Withdraw(1)).code is None:
        tx.apply(NOBODY, Deposit(1))


def welcoming(tx: Tx) -> None:
    """Makes an account of whoever is paid."""
    if tx.apply(ALICE, Withdraw(1)).code is None:
        tx.apply(NOBODY, Open("nobody", 1))


def unseen(tx: Tx) -> None:
    """Does not look who is paid."""
    if tx.apply(ALICE, Withdraw(1)).code is None:
        tx.apply(BOB, Deposit(1))


def negative(tx: Tx) -> None:
    tx.apply(ALICE, Withdraw(-1))
    tx.apply(BOB, Deposit(-1))


def broken(*bodies: Callable[[Tx], Any]) -> Check:
    """A bank with these transactions besides."""
    one = lives()
    added = [Transact(body.__name__, body, None) for body in bodies]
    return replace(one, transactions=[*one.transactions, *added])


def half(number: int) -> Callable[[Tx], None]:
    """The halves of a transfer, in a commit each."""
    event, job = ((Withdraw(1), ALICE), (Deposit(1), BOB))[number]

    def applied(tx: Tx) -> None:
        tx.apply(job, event)

    return applied


def never_content(body: Body) -> Body:
    """Waits whatever the answer is."""

    def patient(tx: Tx) -> str:
        body(tx)
        return tx.retry()

    return patient


def only_the_first(tx: Tx) -> str:
    return accounts.waiting(transfer(ALICE, SHOP, 2))(tx)


MUTATIONS: Sequence[Mutation] = [
    Mutation("an account may be overdrawn", OWES, 2, lives(), unless(lambda event, one: False)),
    Mutation(
        "an account may be overdrawn by one",
        OWES,
        2,
        lives(),
        unless(lambda event, one: one.balance + 1 < event.amount),
    ),
    Mutation(
        "the last coin is not paid out",
        PAID,
        2,
        paid("", PATIENT),
        unless(lambda event, one: one.balance <= event.amount),
    ),
    Mutation("a deposit costs one", MONEY, 1, lives(), answered(Deposit, one_less)),
    Mutation("an account is closed with money in it", MONEY, 1, lives(), answered(Close, closed)),
    Mutation("opening an account again empties it", MONEY, 3, lives(), answered(Open, opened)),
    Mutation("a closed account is opened again", FINAL, 3, lives(), answered(Open, opened)),
    Mutation(
        "not even the account that is closed looks",
        FINAL,
        3,
        broken(unseen),
        answered(Deposit, more),
    ),
    Mutation("less than nothing is paid", OWES, 2, broken(negative), any_amount),
    Mutation("the other half is forgotten", MONEY, 1, broken(one_sided)),
    Mutation("paid in although it was not paid out", MONEY, 3, broken(careless)),
    Mutation("nobody looks whether there is somebody to pay", MONEY, 1, broken(to_nobody)),
    Mutation("nobody looks whether he has left", MONEY, 3, broken(unseen)),
    Mutation("whoever is paid has an account", RECORD, 1, broken(welcoming)),
    Mutation("two halves, two commits", MONEY, 1, broken(half(0), half(1))),
    Mutation("a payment waits although it was made", PAID, 3, paid("", never_content(PATIENT))),
    Mutation(
        "the second of either is not tried",
        PAID,
        0,
        paid("", only_the_first, kept=False, come=False),
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_what_is_broken_is_found(mutation: Mutation) -> None:
    await planted.alone(mutation.of(), mutation)


def test_the_command_line_shows_the_race_as_the_readme_has_it() -> None:
    """Each cell by its key: there are three of them."""
    shown = CliRunner().invoke(cli, ["check", "examples.bank.two_steps"])
    assert shown.exit_code == 1
    told = re.sub(r"\d+\.\d s$", "0.0 s", shown.output, flags=re.MULTILINE)
    assert told in (ROOT / "examples/bank/README.md").read_text()
