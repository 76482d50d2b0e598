"""The tests that a user would write: every cell of the table, without a database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from examples.bank import (
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
from examples.bank.__main__ import main
from examples.bank.check import CHECKS, PATIENT, lives, paid, table
from examples.bank.two_steps import ONE, TWO
from stmflow import LIMITS, Job, StmflowError, Transactor
from stmflow.check import Check, Transact, prove, words
from stmflow.store.memory import MemoryStore
from stmflow.testing import Trace

ALICE, BOB, CAROL, NOBODY = (ACCOUNT.job(name) for name in ("alice", "bob", "carol", "nobody"))
SOON = 5.0


def bank(**balances: int) -> Trace:
    """Accounts of these names that hold so much."""
    world = Trace(ACCOUNT)
    for name, balance in balances.items():
        world.job(ACCOUNT.job(name)).send(Open(name, balance))
    return world


def balances(world: Trace, *jobs: Job) -> list[int | None]:
    states = [world.job(job).state for job in jobs]
    return [None if state is None else state.balance for state in states]


@pytest.mark.parametrize(
    ("amount", "answer", "after"),
    [
        (1, "Done", [9, 6]),
        (9, "Done", [1, 14]),
        (10, "Done", [0, 15]),
        (11, "Insufficient", [10, 5]),
        (0, "Invalid", [10, 5]),
        (-1, "Invalid", [10, 5]),
    ],
)
def test_a_transfer_moves_all_or_nothing(amount: int, answer: str, after: list[int]) -> None:
    world = bank(alice=10, bob=5)
    seen = world.job(ALICE).head, world.job(BOB).head
    assert world.transact(transfer(ALICE, BOB, amount)) == answer
    assert balances(world, ALICE, BOB) == after
    now = world.job(ALICE).head, world.job(BOB).head
    if answer == "Done":
        assert now[0] is not None
        assert now[1] is not None
        assert now[0].revision == now[1].revision
    else:
        assert now == seen


def test_what_is_invalid_is_refused_before_anything_is_read() -> None:
    nothing: Any = None  # a look at it would raise
    assert transfer(ALICE, BOB, 0)(nothing) == "Invalid"
    assert transfer(ALICE, ALICE, 1)(nothing) == "Invalid"


@pytest.mark.parametrize(("source", "target"), [(NOBODY, ALICE), (ALICE, NOBODY)])
def test_an_unknown_account_is_not_found_and_no_record_is_made(source: Job, target: Job) -> None:
    world = bank(alice=10)
    assert world.transact(transfer(source, target, 3)) == "NotFound"
    assert balances(world, ALICE, NOBODY) == [10, None]


@pytest.mark.parametrize(("source", "target"), [(BOB, ALICE), (ALICE, BOB)])
def test_a_closed_account_is_not_found(source: Job, target: Job) -> None:
    world = bank(alice=10, bob=0)
    world.job(BOB).send(Close("bob"))
    assert world.transact(transfer(source, target, 3)) == "NotFound"
    assert balances(world, ALICE, BOB) == [10, 0]


def test_an_account_is_opened_once_and_closed_empty() -> None:
    world = bank(alice=10)
    alice = world.job(ALICE)
    assert alice.send(Open("alice", 5)).refused == "Exists"
    assert alice.send(Close("alice")).refused == "NotEmpty"
    assert bank(bob=-1).job(BOB).state is None
    bob = bank(bob=0).job(BOB)
    assert bob.send(Close("bob")).tag == "closed"
    assert bob.send(Close("bob")).answer.kind == "no change"
    assert bob.send(Open("bob", 5)).refused == "Exists"


def test_nobody_can_send_one_half_of_a_transfer() -> None:
    alice = bank(alice=10).job(ALICE)
    for half in (Withdraw(1), Deposit(1)):
        with pytest.raises(StmflowError):
            alice.send(half)


def test_more_than_an_account_can_hold_moves_nothing() -> None:
    world = bank(alice=1, bob=LIMITS.int_max)
    with pytest.raises(StmflowError):
        world.transact(transfer(ALICE, BOB, 1))
    assert balances(world, ALICE, BOB) == [1, LIMITS.int_max]


def test_either_takes_the_second_where_the_first_has_too_little() -> None:
    world = bank(alice=3, bob=10, carol=0)
    pay = either(transfer(ALICE, CAROL, 5), transfer(BOB, CAROL, 5))
    assert [world.transact(pay) for _ in range(3)] == ["Done", "Done", "Insufficient"]
    assert balances(world, ALICE, BOB, CAROL) == [3, 0, 10]


@pytest.mark.parametrize("payer", [ALICE, BOB])
async def test_a_waiting_transfer_waits_for_either_account(payer: Job) -> None:
    async with Transactor(MemoryStore(), [ACCOUNT]) as transactor:
        for name, balance in {"alice": 3, "bob": 0, "carol": 0, "nobody": 100}.items():
            await transactor.send(ACCOUNT, Open(name, balance))
        pay = waiting(either(transfer(ALICE, CAROL, 5), transfer(BOB, CAROL, 5)))
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await transactor.transact(pay, timeout=SOON))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            await transactor.transact(transfer(NOBODY, payer, 1))  # not enough yet
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            await transactor.transact(transfer(NOBODY, payer, 10))
        assert answers == ["Done"]
        found = await transactor.snapshot([ALICE, BOB, CAROL, NOBODY])
        assert found[CAROL] == Account(5)
        assert sum(account.balance for account in found.values()) == 103


def test_the_command_line_transfers_at_random() -> None:
    loaded = CliRunner().invoke(main, ["load", "memory", "--transfers", "5", "--accounts", "5"])
    assert loaded.exit_code == 0, loaded.output
    assert "0 of them wrong" in loaded.output
    assert CliRunner().invoke(main, ["load", "memory", "--processes", "3"]).exit_code == 2


# --- proved -------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [table(12, 6), *CHECKS[1:]], ids=lambda check: check.name)
def test_what_is_proved_of_the_bank(check: Check) -> None:
    report = prove(check)
    assert (report.holds, report.vacuous) == (True, [])


@pytest.mark.parametrize("alice", [10, pytest.param(100, marks=pytest.mark.acceptance)])
def test_every_amount_leads_to_every_state_with_less(alice: int) -> None:
    graph = prove(table(alice, 5)).graph
    assert (len(graph.states), graph.steps) == (alice + 1, alice * (alice + 1) // 2)


def test_what_is_refused_never_commits() -> None:
    refused = {
        "nothing": transfer(ALICE, BOB, 0),
        "less than nothing": transfer(ALICE, BOB, -1),
        "to oneself": transfer(ALICE, ALICE, 1),
        "to nobody": transfer(ALICE, NOBODY, 1),
        "from nobody": transfer(NOBODY, ALICE, 1),
    }
    asked = [Transact(name, body, None) for name, body in refused.items()]
    check = lives()
    report = prove(replace(check, transactions=[*check.transactions, *asked]))
    assert report.holds
    assert report.vacuous == [f"{name} never commits" for name in refused]


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("the money may never come", paid("", PATIENT, come=False)),
        ("it may go before it is enough", paid("", PATIENT, kept=False)),
    ],
)
def test_who_waits_is_paid_only_where_the_money_comes_and_stays(name: str, check: Check) -> None:
    report = prove(check)
    assert [wrong.property for wrong in report.wrong] == ["the shop is paid"], name


def test_check_and_act_in_two_commits_goes_below_zero_in_four_steps() -> None:
    report = prove(TWO)
    (wrong,) = report.wrong
    lines = words(report.graph, wrong)
    assert [line.removesuffix("  committed") for line in lines] == [
        "transact: A checks",
        "transact: B checks",
        "transact: A takes 1",
        "transact: B takes 1",
    ]
    assert prove(ONE).holds
