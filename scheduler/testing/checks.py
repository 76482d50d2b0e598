"""What must hold when a world is at rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.testing.faults import at_once
from scheduler.testing.workload import PAYING, PERFORMED, WORKFLOWS, Repay, purse
from scheduler.testing.world import FUNDS, LENDERS, LIMIT, Outcome
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import DISMISSED, EXHAUSTED, Err
from stmflow.history.ledger import Leaf
from stmflow.schema import tag_of
from stmflow.store import StoredHead
from stmflow.testing.linear import (
    check_chain,
    check_outbox,
    check_runs,
    check_values,
    moved,
)
from stmflow.testing.observed import check_order, links
from stmflow.testing.replay import Replayed, replay
from stmflow.workflow import Registry
from stmflow.workflow import job as job_of


def check(outcome: Outcome) -> None:
    """Every checker over the history and the store of one world; adds to its problems."""
    outcome.problems += at_once(problems_of(outcome))


async def problems_of(outcome: Outcome) -> list[str]:
    """What they find, of any store that is at rest."""
    store = outcome.store
    registry = Registry([*WORKFLOWS, CELL])
    problems: list[str] = []
    chains: dict[CID, Replayed] = {}
    states: dict[CID, Any] = {}
    for row in await store.jobs(limit=10_000):
        stored: StoredHead = (await store.heads([row.job]))[row.job]
        packs = list(reversed(await store.revisions(row.job)))
        problems += check_chain(str(row.job), links(row.job, packs), outcome.history)
        chain = chains[row.job] = replay(registry, row.job, packs, stored=stored)
        problems += chain.problems
        states[row.job] = None if chain.head is None else chain.head.state
        if hasattr(states[row.job], "ops") and row.workflow == "counter":
            problems += check_values(str(row.job), states[row.job].ops, outcome.history)
    problems += map(str, await check_order(store, outcome.history))
    problems += _tasks(outcome, chains, await store.tasks())
    problems += _sums(outcome, states)
    return problems


def _tasks(outcome: Outcome, chains: dict[CID, Replayed], rows: Any) -> list[str]:
    """The outbox, the receipts and the outside world's ledger tell one story."""
    armed: dict[CID, Any] = {}
    receipts: list[CID] = []
    withdrawn: list[CID] = []
    problems = []
    for job, chain in chains.items():
        armed |= chain.armed
        receipts += chain.receipts
        withdrawn += chain.withdrawn
        here = {(row.id, row.n) for row in rows if row.job == job}
        kept = {} if chain.head is None else chain.head.rows
        if here != {(task, row.n) for task, row in kept.items()}:
            problems.append(f"{job}: the outbox is not what the chain leaves open")
    in_outbox = [task for task in receipts if task in armed]
    problems += check_outbox(
        [str(task) for task in armed],
        [str(task) for task in in_outbox],
        [str(task) for task in withdrawn],
        {str(row.id): row.parked for row in rows},
    )
    if len(set(receipts)) != len(receipts):
        problems.append("a task has two receipts")
    by_handler = [
        str(task)
        for chain in chains.values()
        for task in chain.receipts
        if _handled(chain.armed.get(task)) and not _unrun(chain.outcomes[task])
    ]
    performed = {str(task): len(runs) for task, runs in outcome.performed.items()}
    for task in outcome.redriven & set(performed):
        performed[task] = 1  # a person asked for more
    problems += check_runs(performed, by_handler, once=not outcome.options.rates)
    for id, runs in outcome.performed.items():
        attempts = [attempt for _, attempt in runs]
        if str(id) not in outcome.redriven and attempts != sorted(set(attempts)):
            problems.append(f"{id}: attempts are counted as {attempts}")
    strange = set(performed) - {str(task) for task in armed}
    problems += [f"{task} was performed, and no revision asked for it" for task in sorted(strange)]
    return problems


def _handled(leaf: Leaf | None) -> bool:
    """Whether a handler performs it, which writes in the ledger."""
    return leaf is not None and leaf.due is None and leaf.tag != tag_of(Repay)


def _unrun(outcome: Any) -> bool:
    """Settled without a run: by a person, or because every claim's process died before it began."""
    if not isinstance(outcome, Err):
        return False
    last = outcome.detail.get("name") if isinstance(outcome.detail, Mapping) else None
    lost = outcome.name == EXHAUSTED and last == "LeaseLost"
    return lost or outcome.name == DISMISSED


def _sums(outcome: Outcome, states: dict[CID, Any]) -> list[str]:
    """Quotas are exact, and no money was made or lost."""
    problems = []
    orders = [state for state in states.values() if type(state).__name__ == "Order"]
    for name in ("a", "b"):
        account = states[job_of("account", name).id]
        paying = sum(o.size for o in orders if o.account == name and o.status in PAYING)
        if not account.used == paying <= LIMIT:
            problems.append(f"account {name} says {account.used} of {LIMIT}; orders pay {paying}")
    purses = [states[purse(f"p{n}").id] for n in range(outcome.options.purses)]
    total = sum(purse.balance for purse in purses)
    if total != FUNDS * len(purses) or min(purse.balance for purse in purses) < 0:
        problems.append(f"purses hold {[purse.balance for purse in purses]}")
    lenders = [states[purse(name).id] for name in LENDERS if purse(name).id in states]
    if lenders and sum(each.balance for each in lenders) < FUNDS:
        problems.append(f"lenders hold {[each.balance for each in lenders]}")
    return problems + _debts(states) + _transfers(outcome, purses)


def _debts(states: dict[CID, Any]) -> list[str]:
    """Every debt is settled, and what was paid went from one purse to the other, once."""
    debts = [state for state in states.values() if type(state).__name__ == "Call"]
    problems = [f"debt {debt.name} still waits" for debt in debts if debt.status == "waiting"]
    creditor = states.get(purse("creditor").id)
    paid = sum(debt.value for debt in debts if debt.status == "done")
    if paid != (0 if creditor is None else creditor.balance):
        problems.append(f"debts of {paid} were paid; the creditor holds {creditor}")
    return problems


def _transfers(outcome: Outcome, purses: list[Any]) -> list[str]:
    """Each transfer is in both purses or in none, as often as its sender was told."""
    problems = []
    ops = [op for purse in purses for op in purse.ops]
    moves = [line for line in outcome.history if line["f"] == "transact"]
    for line in moves:
        count, op = ops.count(line["value"]), line["value"]
        told = 2 if line["type"] == "ok" and moved(line) else 0
        if line["type"] in ("ok", "fail") and count != told:
            problems.append(f"transfer {op} is in {count} purses, its sender was told {told}")
        if count not in (0, 2):
            problems.append(f"transfer {op} is in {count} purses")
    return problems


__all__ = ["PERFORMED", "check", "links", "problems_of"]
