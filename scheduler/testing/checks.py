"""What must hold of every world at rest, whatever it ran."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.testing.faults import at_once
from scheduler.testing.loop import uncollected
from scheduler.testing.options import Outcome
from stmflow import codec
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import DISMISSED, EXHAUSTED, Err
from stmflow.errors import UnknownWorkflow
from stmflow.store import JobRow, Packed, TaskRow
from stmflow.testing.linear import check_chain, check_outbox, check_runs
from stmflow.testing.observed import check_order, links
from stmflow.testing.replay import Replayed, replay
from stmflow.workflow import Registry


@dataclass(frozen=True, slots=True)
class Rest:
    """A world at rest, as a workload's own check reads it.

    Attributes:
        history: what clients saw, line by line. seen: what happened → how often.
        performed: task → (process, attempt) of each run of its handler.
    """

    history: Sequence[Mapping[str, Any]]
    seen: Mapping[str, int]
    performed: Mapping[CID, Sequence[tuple[str, int]]]
    _chains: Mapping[CID, tuple[JobRow, Replayed]]
    _workflows: Collection[str]

    def states(self, workflow: str) -> dict[CID, Any]:
        """The last state of every job of that workflow.

        Raises:
            UnknownWorkflow: no process ran one of that name.
        """
        if workflow not in self._workflows:
            there = ", ".join(sorted(self._workflows))
            raise UnknownWorkflow(f"no process ran {workflow!r}: there are {there}")
        return {
            job: chain.head.state
            for job, (row, chain) in self._chains.items()
            if row.workflow == workflow and chain.head is not None
        }


def check(outcome: Outcome) -> None:
    """Every checker over the history and the store of one world; adds to its problems."""
    with uncollected():
        outcome.problems += at_once(problems_of(outcome))


async def problems_of(outcome: Outcome) -> list[str]:
    """What they find, of any store that is at rest."""
    store = outcome.store
    workflows = _with_cells(outcome)
    registry = Registry(workflows, chooser=_none)
    problems: list[str] = []
    chains: dict[CID, tuple[JobRow, Replayed]] = {}
    for row in await store.jobs(limit=10_000):
        stored = (await store.heads([row.job]))[row.job]
        packs = list(reversed(await store.revisions(row.job)))
        problems += check_chain(str(row.job), links(row.job, packs), outcome.history)
        chain = replay(registry, row.job, packs, stored=stored)
        chains[row.job] = row, chain
        problems += chain.problems
        _branches(outcome, registry, row.job, packs)
    _early(outcome)
    problems += map(str, await check_order(store, outcome.history))
    problems += _tasks(outcome, {job: each[1] for job, each in chains.items()}, await store.tasks())
    if not problems:
        names = {workflow.name for workflow in workflows}
        rest = Rest(outcome.history, outcome.seen, outcome.performed, chains, names)
        try:
            for problem in outcome.workload.check(rest):
                problems.append(problem)
        except Exception:
            name = type(outcome.workload).__name__
            problems.append(f"{name}.check raised {traceback.format_exc()}")
    return problems


def _with_cells(outcome: Outcome) -> list[Any]:
    return [*(one for one in outcome.workflows if one is not CELL), CELL]


def _none(tx: Any, job: Any) -> None:
    return None


# --- the outbox


def _tasks(outcome: Outcome, chains: Mapping[CID, Replayed], rows: Sequence[TaskRow]) -> list[str]:
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
    names = {task: f"{leaf.tag} {leaf.plain['f']} {task}" for task, leaf in armed.items()}

    def name(task: CID) -> str:
        return names.get(task, str(task))

    problems += check_outbox(
        list(names.values()),
        list(map(name, in_outbox)),
        list(map(name, withdrawn)),
        {name(row.id): row.parked for row in rows},
    )
    if len(set(receipts)) != len(receipts):
        problems.append("a task has two receipts")
    by_handler = [
        name(task)
        for chain in chains.values()
        for task in chain.receipts
        if _handled(outcome, chain.armed.get(task)) and not _unrun(chain.outcomes[task])
    ]
    performed = {}
    for task, runs in outcome.performed.items():
        more = str(task) in outcome.redriven  # a person asked for more
        performed[name(task)] = 1 if more else max(1, len(runs) - outcome.failed[task])
    # mixed: who performs a task may not have the version that its job has now
    once = not (outcome.options.rates or outcome.options.crashes or outcome.mixed)
    problems += check_runs(performed, by_handler, once=once)
    strange = set(outcome.performed) - set(armed)
    problems += [f"{task} was performed, and no revision asked for it" for task in sorted(strange)]
    return problems


def _handled(outcome: Outcome, leaf: Any) -> bool:
    """Whether a handler performs it, which writes in the ledger."""
    return leaf is not None and leaf.due is None and leaf.tag in outcome.handled


def _unrun(outcome: Any) -> bool:
    """Settled without a run: by a person, or because every claim's process died before it began."""
    if not isinstance(outcome, Err):
        return False
    last = outcome.detail.get("name") if isinstance(outcome.detail, Mapping) else None
    lost = outcome.name == EXHAUSTED and last == "LeaseLost"
    return lost or outcome.name == DISMISSED


# --- what was seen


def _branches(outcome: Outcome, registry: Registry, job: CID, packs: Sequence[Packed]) -> None:
    """Count each event with the tag of the state that it gave."""
    for packed in packs:
        writes = codec.decode(packed.revision)["writes"]
        write = next(write for write in writes if write["job"] == job)
        if not write["events"]:
            continue
        blocks = {CID.of(block): block for block in packed.blocks}
        name, version = write["workflow"]
        workflow = registry.versions[name, version]
        tag = workflow.tag_of(workflow.state_of(codec.decode(blocks[write["state"]])))
        for event in write["events"]:
            outcome.seen[f"{name}: {codec.decode(blocks[event])['t']} gave {tag}"] += 1


def _early(outcome: Outcome) -> None:
    """Count what was sent to a job before anybody had seen it."""
    begun: dict[str, int] = {}
    for line in outcome.history:
        job = line["job"]
        if line["type"] == "invoke" and line["f"] != "read" and begun.get(job, 0) >= 0:
            outcome.seen["sent to a job not yet visible"] += job in begun
            begun[job] = 1
        elif line["type"] == "ok" and line.get("seq"):
            begun[job] = -1


__all__ = ["Rest", "check", "links", "problems_of"]
