"""What differs between two states or revisions, and why a block is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import MalformedBlock
from stmflow.history.ledger import Ledger, Settled, Step
from stmflow.history.revision import (
    Get,
    Revision,
    plain_of,
)


class Change(NamedTuple):
    """One difference: where, `added`, `removed` or `changed`, and the values."""

    path: tuple[str | int, ...]
    kind: str
    before: Any
    after: Any


def diff(before: Any, after: Any) -> list[Change]:
    """The differences of two plain values: maps by key, lists by what they share at both ends."""
    return list(_diff((), before, after))


def _diff(path: tuple[str | int, ...], before: Any, after: Any) -> Iterator[Change]:
    if type(before) is dict and type(after) is dict:
        for key in sorted(before.keys() | after.keys()):
            if key not in after:
                yield Change((*path, key), "removed", before[key], None)
            elif key not in before:
                yield Change((*path, key), "added", None, after[key])
            else:
                yield from _diff((*path, key), before[key], after[key])
    elif type(before) is list and type(after) is list:
        yield from _diff_lists(path, before, after)
    elif codec.encode(before) != codec.encode(after):
        yield Change(path, "changed", before, after)


def _diff_lists(
    path: tuple[str | int, ...], before: list[Any], after: list[Any]
) -> Iterator[Change]:
    old, new = [codec.encode(one) for one in before], [codec.encode(one) for one in after]
    most = min(len(old), len(new))
    start = next((at for at in range(most) if old[at] != new[at]), most)
    end = next((at for at in range(most - start) if old[-1 - at] != new[-1 - at]), most - start)
    for at in range(start, max(len(old), len(new)) - end):
        if at >= len(old) - end:
            yield Change((*path, at), "added", None, after[at])
        elif at >= len(new) - end:
            yield Change((*path, at), "removed", before[at], None)
        else:
            yield from _diff((*path, at), before[at], after[at])


def diff_revisions(before: Revision, after: Revision, get: Get) -> list[Change]:
    """What differs, for each job that both write, in epoch, version and state."""
    return diff(
        *(
            {
                str(line.job): {
                    "epoch": line.epoch,
                    "version": line.version,
                    "state": plain_of(get, line.state),
                }
                for line in one.writes
                if any(line.job == twin.job for twin in other.writes)
            }
            for one, other in ((before, after), (after, before))
        )
    )


def told(value: Any) -> str:
    """A plain value in a line."""
    try:
        text = codec.dag_json(value)
    except MalformedBlock:  # DAG-JSON has no form for a map with the key "/"
        text = repr(value)
    return text if len(text) <= 300 else text[:300] + "…"


class Reason(NamedTuple):
    """Where something stands in a job's history, and what brought it there.

    Attributes:
        role: what it is there: state, event, effect, receipt, task, revision or delivery.
        step: the write that holds it: its events, what was settled and armed, what was committed.
        before: the state that the write started from. events: (CID, decoded) in order.
        cause: the task whose outcome brought the write, or None: a delivery from outside, or a
            transaction of the service itself.
    """

    role: str
    step: Step
    before: CID | None
    events: list[tuple[CID, Any]]
    cause: Settled | None


def why(cid: CID, chain: Sequence[Revision], job: CID, get: Get) -> list[Reason]:
    """Every place in a job's chain (oldest first) that holds `cid`; the first one made it."""
    ledger = Ledger(job, get)
    found: list[Reason] = []
    before: CID | None = None
    for revision in chain:
        step = ledger.apply(revision)
        role = _role(cid, step)
        if role is not None:
            events = [(event, plain_of(get, event)) for event in step.line.events]
            found.append(Reason(role, step, before, events, _settled_by(step)))
        before = step.line.state
    return found


def _role(cid: CID, step: Step) -> str | None:
    line = step.line
    if cid == step.revision.cid:
        return "revision"
    if cid in line.events:
        return "event"
    if cid in line.receipts:
        return "receipt"
    if any(cid == effect for _, effect in line.effects):
        return "effect"
    if any(cid == effect for _, _, effect in line.given()):
        return "given effect"
    if cid == line.state:
        return "state"
    if any(cid == leaf.id for leaf in step.armed) or any(cid == s.task for s in step.settled):
        return "task"
    if step.revision.delivery is not None and step.revision.delivery[1] == cid.bytes:
        return "delivery"
    return None


def _settled_by(step: Step) -> Settled | None:
    delivery = step.revision.delivery
    for settled in step.settled[:1]:
        if delivery == (step.line.job, settled.task.bytes):
            return settled
    return None
