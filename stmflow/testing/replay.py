"""Runs a job's chain again from its blocks alone, and compares everything with what was stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import Outcome, outcome_of
from stmflow.job import Draft, Head, Parked
from stmflow.schema import freeze
from stmflow.store import Packed, StoredHead
from stmflow.workflow import Job, Registry


@dataclass(slots=True)
class Replayed:
    """What a chain comes to.

    Attributes:
        head: the last one. armed: every task that entered the outbox.
        receipts: the task of each receipt, in order. withdrawn: rows that went without one.
        problems: where the chain is not what its own events and receipts make.
    """

    head: Head | None = None
    armed: dict[CID, Any] = field(default_factory=dict)
    receipts: list[CID] = field(default_factory=list)
    outcomes: dict[CID, Outcome] = field(default_factory=dict)
    withdrawn: list[CID] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def replay(
    registry: Registry,
    job: CID,
    chain: Sequence[Packed],
    *,
    stored: StoredHead | None = None,
    transactional: frozenset[type] = frozenset(),
) -> Replayed:
    """Fold a chain (oldest first) through its reducer; compare with `stored` if it is given."""
    result = Replayed()
    for packed in chain:
        _revision(registry, job, packed, transactional, result)
    head = result.head
    if stored is not None and (head is None or head.revision != stored.revision):
        result.problems.append(f"{job}: the head is not the end of its chain")
    elif stored is not None and head is not None:
        if head.open_bytes() != stored.open:
            result.problems.append(f"{job}: the open effects beside the head are not its chain's")
        if (head.state_block, head.seq, head.epoch, head.at) != (
            stored.state,
            stored.seq,
            stored.epoch,
            stored.at,
        ):
            result.problems.append(f"{job}: the head is not what its chain makes")
    return result


def _revision(
    registry: Registry, job: CID, packed: Packed, transactional: frozenset[type], result: Replayed
) -> None:
    blocks = {CID.of(block): block for block in (packed.revision, *packed.blocks)}
    if packed.cid not in blocks:
        result.problems.append(f"{job}: {packed.cid} does not hash to its name")
        return
    revision = codec.decode(packed.revision)
    write = next(write for write in revision["writes"] if write["job"] == job)
    head = result.head
    key = head.key if head is not None else freeze(write["key"])
    receipts = [codec.decode(blocks[cid]) for cid in write["receipts"]]

    def perform(draft: Draft, task: Any) -> Outcome:
        return outcome_of(receipts[len(draft.receipts)]["outcome"])

    draft = Draft(
        registry,
        Job(write["workflow"][0], key, job),
        head,
        revision["at"],
        transactional=transactional,
        perform=perform,
    )
    try:
        _fold(draft, write, revision["delivery"], receipts, blocks)
        finished = draft.finish()
    except (Exception, Parked) as error:
        result.problems.append(f"{job} at {write['seq']}: {error!r}")
        return
    if (entry := codec.decode(draft.entry())) != write:
        result.problems.append(f"{job} at {write['seq']}: {entry} is not {write}")
    if head is not None and revision["at"] < head.at:
        result.problems.append(f"{job} at {write['seq']}: time fell")
    for armed in finished.armed:
        result.armed[armed.id] = armed.leaf
    for task, _ in finished.timers:
        result.armed[task] = None
    settled = [receipt["task"] for receipt in receipts]
    result.receipts += settled
    result.outcomes |= {r["task"]: outcome_of(r["outcome"]) for r in receipts}
    result.withdrawn += [task for task, _ in finished.closed if task not in settled]
    result.head = draft.next_head(packed.cid, finished)


def _fold(
    draft: Draft,
    write: dict[str, Any],
    cause: Any,
    receipts: Sequence[dict[str, Any]],
    blocks: dict[CID, bytes],
) -> None:
    """What the transaction did to this job: settle a task, apply events, give effects."""
    if receipts and cause == [write["job"], receipts[0]["task"].bytes]:
        draft.settle(receipts[0]["task"], outcome_of(receipts[0]["outcome"]))
    while len(draft.events) < len(write["events"]):
        known = len(draft.events)
        plain = codec.decode(blocks[write["events"][known]])
        draft.send(draft.workflow.event_of(plain), checked=True)
        if len(draft.events) == known:
            raise AssertionError(f"event {known} changes nothing when it is applied again")
    for extra in write["extra"]:
        if extra["by"] == "transaction":
            for _, cid in extra["effects"]:
                draft.give("transaction", draft.workflow.effect_of(codec.decode(blocks[cid])))
