"""The replay gate as a task: a rollout asks for it before a live job sees the new version.

    Scheduler(transactor, {Replay: replaying(transactor), …})

The histories are those of the transactor's own store; the version must be registered here, so the
task goes to a worker that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import anyio.lowlevel

from scheduler.handlers import Context, Failure, Handler, Retry
from stmflow.errors import UnknownVersion
from stmflow.history import Divergence, ReplayCheck, draw, recorded
from stmflow.history.gate import Allow, check_one
from stmflow.transactor import Transactor

__all__ = ["Allow", "Divergence", "Replay", "replaying"]


@dataclass(frozen=True, slots=True)
class Replay:
    """Run a version over recorded histories of its workflow.

    `sample`: of so many jobs, drawn by `seed`; 0: of all. Outcome: `{histories, revisions}`. Fails
    as `Diverged`, with job, seq, revision, event and both states of the first divergence, or as
    `NotRerun`, with the job whose history could not be run again and why.
    """

    tag: ClassVar[str] = "rollout/replay"

    workflow: str
    version: int
    sample: int = 0
    seed: int = 0


def replaying(transactor: Transactor, *, allow: Allow = lambda divergence: False) -> Handler:
    """The handler of `Replay`. `allow`: which divergences are meant."""

    async def replay(task: Replay, context: Context) -> dict[str, int]:
        store, registry = transactor.store, transactor.registry
        try:
            registry.version(task.workflow, task.version)
        except UnknownVersion as error:  # another worker may have it
            raise Failure("NotRerun", {"why": str(error)}, retry=Retry.SAFE) from None
        jobs = await draw(store, task.workflow, most=task.sample or None, seed=task.seed)
        check = ReplayCheck()
        for job in jobs:
            await anyio.lowlevel.checkpoint()
            history = await recorded(store, job)
            if not check_one(check, registry, history, version=task.version, allow=allow):
                break
        if check.divergence is not None:
            raise Failure("Diverged", _plain(check.divergence))
        if check.not_rerun is not None:
            raise Failure("NotRerun", {"job": check.not_rerun[0], "why": check.not_rerun[1]})
        return {"histories": check.histories, "revisions": check.revisions}

    return replay


def _plain(found: Divergence) -> dict[str, Any]:
    return {
        "job": found.job,
        "seq": found.seq,
        "revision": found.revision,
        "event": found.event,
        "recorded": found.recorded,
        "made": found.made,
        "why": list(found.why[:_TOLD]),
    }


_TOLD = 8
"""So many differences are named; the first one is what matters."""
