"""What goes wrong when check and act are two commits, found by trying every order of steps.

The balance is a plain cell here: an account's own reducer would refuse to go below zero, and the
mistake would show as a refused withdrawal that had been promised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from examples.bank.accounts import ACCOUNT
from stmflow import CELL, Tx
from stmflow.testing import Trace

BALANCE = CELL.job("balance")

Step = tuple[str, Callable[[Tx], Any]]
Clerk = Callable[[str], Generator[Step, Any, None]]
"""A clerk of that name: yields one transaction after the other, and gets the value of each."""


def two_commits(name: str) -> Generator[Step, Any, None]:
    """Look, and then take: between the two commits anything may happen."""
    if (yield f"{name} checks", lambda tx: tx.read(BALANCE).value >= 1):
        yield f"{name} takes 1", lambda tx: tx.write(BALANCE, tx.read(BALANCE).value - 1)


def one_commit(name: str) -> Generator[Step, Any, None]:
    """The same two lines in one transaction."""

    def withdraw(tx: Tx) -> None:
        balance = tx.read(BALANCE).value
        if balance >= 1:
            tx.write(BALANCE, balance - 1)

    yield f"{name} checks and takes 1", withdraw


class Explored(NamedTuple):
    """How many orders of steps were tried; the shortest that ends below zero, or None."""

    orders: int
    trace: tuple[str, ...] | None


def explore(clerk: Clerk, *, clerks: Sequence[str] = "AB", balance: int = 1) -> Explored:
    """Try every interleaving of these clerks' steps, the shortest first."""
    waiting: deque[tuple[str, ...]] = deque([()])
    tried = 0
    while waiting:
        order = waiting.popleft()
        tried += 1
        lines, left, busy = _play(clerk, order, clerks, balance)
        if left < 0:
            return Explored(tried, lines)
        waiting.extend((*order, name) for name in busy)
    return Explored(tried, None)


def _play(
    clerk: Clerk, order: Sequence[str], clerks: Sequence[str], balance: int
) -> tuple[tuple[str, ...], int, list[str]]:
    """Run the engine's own transactions in that order: the trace, the balance, who goes on."""
    world = Trace(ACCOUNT)
    world.transact(lambda tx: tx.write(BALANCE, balance))
    at_work = {name: clerk(name) for name in clerks}
    next_step = {name: next(steps) for name, steps in at_work.items()}
    lines = []
    for name in order:
        what, body = next_step.pop(name)
        value = world.transact(body)
        balance = world.transact(lambda tx: int(tx.read(BALANCE).value))
        said = f": {'yes' if value else 'no'}" if isinstance(value, bool) else ""
        lines.append(f"{what + said:<22} balance {balance}")
        try:
            next_step[name] = at_work[name].send(value)
        except StopIteration:
            continue
    return tuple(lines), balance, list(next_step)
