"""What a rollout asks for, and who chooses the version at which a job is born.

stable = {"upload": 1}
async with Transactor(store, [UPLOAD1, UPLOAD2, ROLLOUT], chooser=chooser(stable),
                      transactional=moving([UPLOAD1])) as transactor:
    async with Scheduler(transactor, handlers(transactor), policies=POLICIES):
        await transactor.send(ROLLOUT, Start("upload", spec))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from examples.rollout.model import Move, Pick, Sample
from examples.rollout.workflow import ROLLOUT
from scheduler import Context, Handler, Policy
from scheduler.handlers.replay import Allow, Replay, replaying
from stmflow import Job, StmflowError, Transactor, Tx, Workflow

PAGE: Final = 500

POLICIES: Final = {Replay: Policy(attempt_ms=600_000)}

Probe = Callable[[str, int], Awaitable[int]]
"""(workflow, version) → how many things are wrong with it, as the service itself can tell."""


def chooser(stable: Mapping[str, int]) -> Callable[[Tx, Job], int | None]:
    """The chooser of a transactor: the rollout's own job decides, or `stable` before the first.

    The rollout is in the read-set of every birth, so the choice is exact: a job is born before a
    promotion or a revert, or after it, and never on its other side.
    """

    def choose(tx: Tx, job: Job) -> int | None:
        if job.workflow not in stable:
            return None
        rollout = tx.read(ROLLOUT.job(job.workflow))
        return stable[job.workflow] if rollout is None else int(rollout.born)

    return choose


def moving(workflows: Iterable[Workflow]) -> Mapping[type, Callable[[Tx, Any], Any]]:
    """The transactional task of a rollout: jobs of these workflows move where they are counted."""
    known = {workflow.name: workflow for workflow in workflows}

    def move(tx: Tx, task: Move) -> dict[str, int]:
        moved = stuck = 0
        jobs = [known[task.workflow].job(*key) for key in task.keys]
        for job in jobs:  # first, because a job not read yet runs this again from its beginning
            tx.read(job)
        for job in jobs:
            try:
                moved += tx.adopt(job, task.version)
            except StmflowError:  # it was read, not written; the next pass looks at it again
                stuck += 1
        return {"moved": moved, "stuck": stuck}

    return {Move: move}


def handlers(
    transactor: Transactor,
    *,
    probe: Probe | None = None,
    allow: Allow = lambda divergence: False,
) -> dict[type, Handler]:
    """The handlers of a rollout.

    Args:
        probe: asked in every sample, beside the count of faulted jobs.
        allow: which divergences of the replay check are meant.
    """

    async def pick(task: Pick, context: Context) -> dict[str, Any]:
        keys: list[Any] = []
        after = task.after
        async for row in _rows(transactor, task.workflow, task.after):
            if len(keys) == task.most:
                return {"keys": keys, "after": after, "done": False}
            if row.version == task.version:
                keys.append(list(row.key))
            after = row.job
        return {"keys": keys, "after": after, "done": True}

    async def sample(task: Sample, context: Context) -> dict[str, int]:
        jobs = bad = 0
        async for row in _rows(transactor, task.workflow, None):
            if row.version == task.version:
                jobs, bad = jobs + 1, bad + bool(row.faulted)
        if probe is not None:
            bad += await probe(task.workflow, task.version)
        return {"jobs": jobs, "bad": bad}

    return {Replay: replaying(transactor, allow=allow), Pick: pick, Sample: sample}


async def _rows(transactor: Transactor, workflow: str, after: Any) -> AsyncIterator[Any]:
    """The jobs of a workflow, in order of creation, from the one after `after`."""
    while True:
        page = await transactor.store.jobs(workflow=workflow, after=after, limit=PAGE)
        for row in page:
            yield row
        if len(page) < PAGE:
            return
        after = page[-1].job
