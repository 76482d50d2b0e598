"""Promises: arguments that are the outcome of another task.

A map with one key that is a link to a task stands for that task's outcome:

    {"await/ok": task}       the value of its success
    {"await/error": task}    the value of its failure
    {"await/*": task}        either, as {"ok": value} or {"error": value}

A map with any other key beside is plain data. What is put in a promise's place is not looked into:
promises inside an outcome are the business of who made it.

Source: github.com/ucan-wg/promise, branch v1-rc1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from stmflow.cid import CID
from stmflow.errors import LimitExceeded, MalformedBlock, NotFound
from stmflow.limits import LIMITS

Branch: TypeAlias = Literal["ok", "error", "*"]
_TAGS: Final[dict[str, Branch]] = {"await/ok": "ok", "await/error": "error", "await/*": "*"}


class Promise(NamedTuple):
    """Waits for the outcome of `task`, on one branch or on any."""

    branch: Branch
    task: CID


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome of a task: the CID of its receipt, and `{"ok": value}` or `{"error": value}`."""

    receipt: CID
    out: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A promise that will never be kept: its task ended on the other branch."""

    expected: Branch
    got: Branch
    receipt: CID

    def error(self) -> dict[str, Any]:
        """The outcome of the task that waited, as plain data."""
        reason = {"reason": "branch mismatch", "expected": self.expected, "got": self.got}
        return {"error": {**reason, "from": self.receipt}}


def promise(value: Any) -> Promise | None:
    """Return the promise that `value` is, or None for plain data."""
    if type(value) is dict and len(value) == 1:
        ((key, task),) = value.items()
        if type(task) is CID and key in _TAGS:
            return Promise(_TAGS[key], task)
    return None


def promises(arguments: Mapping[str, Any]) -> tuple[Promise, ...]:
    """Return the promises in `arguments`, each once, in their order.

    Raises `LimitExceeded` for arguments nested deeper than `LIMITS.depth`.
    """
    found: dict[Promise, None] = {}

    def note(each: Promise) -> None:
        found[each] = None

    _replace(dict(arguments), note, 0)
    return tuple(found)


def resolve(
    arguments: Mapping[str, Any], settled: Mapping[CID, Settled]
) -> dict[str, Any] | Mismatch:
    """Return `arguments` with each promise replaced, or the first that cannot be kept.

    `settled` maps tasks to their outcomes. Raises `NotFound` for a task that it does not have,
    `MalformedBlock` for an outcome that is none or arguments that become no map, and
    `LimitExceeded` as `promises` does.
    """
    try:
        resolved = _replace(dict(arguments), lambda waiting: _kept(waiting, settled), 0)
    except _Unkept as unkept:
        return unkept.mismatch
    if type(resolved) is not dict:
        raise MalformedBlock("arguments that a promise stands for, and that are no map")
    return resolved


class _Unkept(Exception):
    def __init__(self, mismatch: Mismatch) -> None:
        self.mismatch = mismatch


def _kept(waiting: Promise, settled: Mapping[CID, Settled]) -> Any:
    outcome = settled.get(waiting.task)
    if outcome is None:
        raise NotFound(f"the task {waiting.task} has no outcome yet")
    if len(outcome.out) != 1 or not outcome.out.keys() <= {"ok", "error"}:
        raise MalformedBlock(f"{outcome.receipt}: an outcome that is neither ok nor error")
    ((branch, value),) = outcome.out.items()
    if waiting.branch == "*":
        return {branch: value}
    if waiting.branch != branch:
        raise _Unkept(Mismatch(waiting.branch, cast("Branch", branch), outcome.receipt))
    return value


def _replace(value: Any, become: Callable[[Promise], Any], depth: int) -> Any:
    if type(value) is not dict and type(value) is not list:
        return value
    if depth >= LIMITS.depth:
        raise LimitExceeded(f"arguments nested deeper than {LIMITS.depth}")
    if (waiting := promise(value)) is not None:
        return become(waiting)
    if type(value) is dict:
        return {key: _replace(each, become, depth + 1) for key, each in value.items()}
    return [_replace(each, become, depth + 1) for each in value]
