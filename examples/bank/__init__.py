"""A bank: accounts, and transfers between two of them in one commit.

`app` is what the command line asks for: `stmflow --app examples.bank:app`.
"""

from __future__ import annotations

from examples.bank.accounts import (
    ACCOUNT,
    Account,
    Close,
    Deposit,
    Open,
    Withdraw,
    either,
    transfer,
    waiting,
)

app = (ACCOUNT,)

__all__ = [
    "ACCOUNT",
    "Account",
    "Close",
    "Deposit",
    "Open",
    "Withdraw",
    "app",
    "either",
    "transfer",
    "waiting",
]
