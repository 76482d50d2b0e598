"""What a job's chain comes to: `stmflow.history` over the packs that a store gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stmflow.cid import CID
from stmflow.effect import Outcome
from stmflow.history import Leaf, Step, blocks_of, verify
from stmflow.job import Head
from stmflow.store import Packed, StoredHead
from stmflow.workflow import Registry


@dataclass(slots=True)
class Replayed:
    """What a chain comes to.

    Attributes:
        head: the last one. armed: every task and timer that entered the outbox.
        receipts: the task of each receipt, in order. withdrawn: rows that went without one.
        problems: where the chain is not what its own events and receipts make.
    """

    head: Head | None = None
    armed: dict[CID, Leaf] = field(default_factory=dict)
    receipts: list[CID] = field(default_factory=list)
    outcomes: dict[CID, Outcome] = field(default_factory=dict)
    withdrawn: list[CID] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def replay(
    registry: Registry, job: CID, chain: Sequence[Packed], *, stored: StoredHead | None = None
) -> Replayed:
    """Verify a chain (oldest first) on every level, against `stored` too if it is given."""
    steps: list[Step] = []
    report = verify(
        job,
        chain[-1].cid,
        blocks_of(chain).get,
        workflows=registry.versions.values(),
        stored=stored,
        each=steps.append,
    )
    result = Replayed(head=report.made)
    result.problems += [f"{job} at {one.seq}: {one.text}" for one in report.findings]
    if report.not_rerun is not None:
        result.problems.append(f"{job}: not re-run: {report.not_rerun}")
    if result.problems:
        return result
    for step in steps:
        result.armed |= {leaf.id: leaf for leaf in step.armed}
        result.receipts += [settled.task for settled in step.settled]
        result.outcomes |= {settled.task: settled.outcome for settled in step.settled}
        result.withdrawn += [leaf.id for leaf in step.ended]
    return result
