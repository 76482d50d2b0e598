"""What goes wrong when check and act are two commits: a balance of one, and two clerks who each pay
out one.

    stmflow check examples.bank.two_steps

The balance is a plain cell here: an account's own reducer would refuse to go below zero, and the
mistake would show as a refused withdrawal that had been promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stmflow import CELL, Job, Tx
from stmflow.check import Check, Transact, View, always

BALANCE: Final = CELL.job("balance")
CLERKS: Final = ("A", "B")


def note(clerk: str) -> Job:
    """What a clerk remembers: that he has found enough."""
    return CELL.job(clerk)


def two_commits(clerk: str) -> Sequence[Transact]:
    """Look, and then take: between the two commits anything may happen."""

    def look(tx: Tx) -> None:
        if tx.read(BALANCE).value >= 1:
            tx.write(note(clerk), "enough")

    def take(tx: Tx) -> None:
        if tx.read(note(clerk)) is not None:
            tx.write(BALANCE, tx.read(BALANCE).value - 1)

    return Transact(f"{clerk} checks", look), Transact(f"{clerk} takes 1", take)


def one_commit(clerk: str) -> Sequence[Transact]:
    """The same two lines in one transaction."""

    def withdraw(tx: Tx) -> None:
        balance = tx.read(BALANCE).value
        if balance >= 1:
            tx.write(BALANCE, balance - 1)

    return (Transact(f"{clerk} checks and takes 1", withdraw),)


def covered(view: View) -> bool:
    return bool(view.state(BALANCE).value >= 0)


TWO, ONE = (
    Check(
        [],
        name=name,
        start=lambda tx: tx.write(BALANCE, 1),
        transactions=[step for clerk in CLERKS for step in steps(clerk)],
        properties=[always("the balance is never below zero", covered)],
    )
    for name, steps in (("check, then act", two_commits), ("in one commit", one_commit))
)
CHECKS: Final = (TWO, ONE)
"""The first does not hold."""
