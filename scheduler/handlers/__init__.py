"""What a handler is: the async function that performs one type of task.

    async def stat(task: Stat, context: Context) -> dict[str, Any]:
        return {"found": await bucket.exists(task.link, timeout=context.remaining_seconds)}

A handler returns plain IPLD data (None, bool, int, str, bytes, CID, list, dict), which becomes the
task's ok outcome, or raises `Failure`. Any other exception counts as a `Failure` of that type's
name and of unknown outcome (`Retry.IDEMPOTENT`). It may run again after it has succeeded, and on
two machines at once: it has to bear both, or to ask the other side by `context.key`.

A task that only reads and writes jobs needs no handler but a `Transaction`: it runs in the commit
that settles it, so exactly once, and it may wait for other jobs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from scheduler.retry import Failure, Policy, Retry
from stmflow.cid import CID
from stmflow.clock import Clock
from stmflow.placement import Needs
from stmflow.request import TaskBody

__all__ = ["Context", "Failure", "Handler", "Performer", "Probe", "Retry", "Transaction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a handler is told beside its task.

    `key` is the task's id: the same on every attempt, so it is the idempotency key for the outside
    world. `job` is the job that asked. `attempt` counts from 1; `token` is the fencing number of
    this attempt's claim and rises from attempt to attempt. `deadline` is when this attempt must
    have ended, in milliseconds of `clock`: nothing may be sent after it.
    """

    key: CID
    job: CID
    attempt: int
    token: int
    deadline: int
    clock: Clock

    @property
    def remaining_seconds(self) -> float:
        """The time that is left to this attempt, never negative."""
        return max(self.deadline - self.clock.now(), 0) / 1_000


Handler: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
"""`async def perform(task, context) -> plain IPLD data`."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """How a task is performed that is itself a transaction: `body(tx, task) -> outcome`, pure.

    What the body writes, its outcome and the events that this fires are one commit. Plain data that
    it returns is the ok outcome; an `Err` undoes what it wrote and is a failure to be caught; an
    exception parks the task. `tx.retry()` puts the task to sleep, as a row, until a job that the
    body has read changes: over restarts, and whoever changes it. The policy's deadline still holds.
    """

    body: TaskBody


Probe: TypeAlias = Callable[[], Awaitable[object]]
"""Whether a handler could work now: returns if so, raises if not. Can the bucket be reached?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performer:
    """A handler, and what is to be known of it.

    Attributes:
        handler: performs the tasks of one type, or is the `Transaction` that they are.
        policy: how failures are retried. Default: what the scheduler's `policies` say, or
            `Policy()`.
        needs: what it needs of the worker (`stmflow.placement`). A worker whose labels do not meet
            them claims no task of the type. What a single task needs is said to the transactor.
        probe: whether it could work now; part of a worker's readiness.
    """

    handler: Handler | Transaction
    policy: Policy | None = None
    needs: Needs = field(default_factory=dict)
    probe: Probe | None = None
