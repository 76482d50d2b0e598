"""Tasks that somebody may ask the receipt of: one job for each token, found by its CID."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from capabilities.did import DID
from capabilities.service.body import is_envelope
from capabilities.ucan1 import invocation
from capabilities.ucanto import token
from stmflow.cid import CID
from stmflow.limits import LIMITS
from stmflow.workflow import Workflow, same


@dataclass(frozen=True, slots=True)
class Remember:
    """A token was invoked, or named in an answer (`cause`: the invocation that it answered)."""

    task: CID
    block: bytes
    cause: CID | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """The token's block, and the invocation that led to it."""

    block: bytes
    cause: CID | None

    def subject(self) -> DID:
        """Whom the token is about, in either family."""
        if is_envelope(self.block):
            return invocation.decode(self.block).subject
        (claim,) = token.decode(None, self.block).capabilities
        return DID.parse(claim.with_)


def _update(event: Remember, state: Task | None) -> Any:
    return (Task(event.block, event.cause), []) if state is None else same()


TASK: Final = Workflow("ucan/task", state=Task, events=(Remember,), update=_update, key=("task",))


def remember(tx: Any, task: CID, block: bytes, *, cause: CID | None = None) -> None:
    """Remember a token in a transaction, unless it is larger than any that asks for something."""
    if len(block) <= LIMITS.task_block_bytes:
        tx.apply(TASK.job(task), Remember(task, block, cause))
