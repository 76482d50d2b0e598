"""A simulated world in which versions are rolled out while clients, crashes and faults go on.

Some processes know the old version alone, as they do while a deploy is under way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import anyio

from examples.rollout import ROLLOUT, Health, Promote, Revert, Spec, Start
from examples.rollout import chooser as choosing
from examples.rollout import handlers as rollout_handlers
from examples.rollout.handlers import moving
from scheduler import App, Context, Performer, Policy
from scheduler.testing import Client, Options, Outcome, Rest, Workload, simulate
from scheduler.testing.faults import at_once
from stmflow import CID, Transactor, codec, history
from stmflow.errors import InvalidEvent, UnknownVersion
from stmflow.store.memory import MemoryStore
from tests.stmflow.versions import ONE, READ, TWO, Grow1, Grow2, Look, Open, Stat

JOBS = 9
POLICY = Policy(attempts=6, attempt_ms=2_000, base_ms=100, cap_ms=2_000)
HOME = ROLLOUT.job("file")
SPEC = Spec(
    base=1,
    version=2,
    canary=2,
    max_parallel=2,
    min_healthy_ms=300,
    progress_ms=8_000,
    health=Health(every_ms=100, samples=2, tolerate=1),
    pause_ms=300,
)


class Rollouts(Workload):
    """Clients that open, grow and look at files, and an operator who rolls out and back."""

    again = (UnknownVersion, InvalidEvent)
    """Of a process that does not have the job's version, or not the event's: another one may."""

    def __init__(self, random: Random, chooser: Any = None) -> None:
        self.random = random
        self.ended = 0
        self.new = self._app([ONE, TWO, ROLLOUT], chooser)
        self.old = self._app([ONE, ROLLOUT], chooser)

    def _app(self, workflows: list[Any], chooser: Any) -> App:
        @asynccontextmanager
        async def handlers(transactor: Transactor) -> AsyncIterator[Any]:
            known = {**rollout_handlers(transactor), Stat: _stat}
            yield {
                kind: Performer(handler=handler, policy=POLICY) for kind, handler in known.items()
            }

        return App(
            workflows=workflows,
            handlers=handlers,
            transactional=moving([ONE]),
            chooser=chooser or choosing({"file": 1}),
        )

    def deployed(self, beside: Sequence[App]) -> App:
        return self.old if beside and self.old not in beside else self.new

    async def prepare(self, client: Client) -> None:
        for n in range(JOBS - 3):
            await client.send(ONE, Open(f"f{n}"), insist=True)

    async def live(self, client: Client) -> None:
        if client.number == 0:
            await self._operator(client)
        else:
            await super().live(client)

    async def act(self, client: Client) -> None:
        await anyio.sleep(client.random.random())
        name = f"f{client.random.randrange(JOBS)}"
        event = client.random.choice((Open(name), Grow1(name, 1), Grow2(name, 1), Look(name)))
        await client.send(ONE.job(name), event)

    async def _operator(self, client: Client) -> None:
        """Two rollouts, whatever comes of them; a person decides where one is asked."""
        base = 1
        for _ in range(2):
            auto = client.random.random() < 0.5
            spec = replace(SPEC, base=base, version=3 - base, auto_promote=auto, auto_revert=auto)
            await client.send(ROLLOUT, Start("file", spec), insist=True)
            while True:
                await anyio.sleep(0.5)
                head = await client.get(HOME)
                if head is None:
                    continue
                state = head.state
                if state.status == "stable":
                    base = state.stable
                    self.ended += 1
                    client.seen[str(state.refused and state.refused.name)] += 1
                    break
                if state.status in ("waiting", "halted") or client.random.random() < 0.05:
                    act = client.random.choice((Promote, Promote, Revert))
                    await client.send(ROLLOUT, act("file"))

    def check(self, rest: Rest) -> Iterator[str]:
        if self.ended != 2:
            yield f"{self.ended} rollouts of 2 have ended"


async def _stat(task: Stat, context: Context) -> int:
    return 1


def rolled(seed: int, *, chooser: Any = None) -> Outcome:
    """Run one world to its rest, and check N4, N5 and every history."""
    READ.clear()
    options = replace(Options.draw(seed), clients=3, operations=24)
    workload = partial(Rollouts, chooser=chooser)
    outcome = simulate(options, MemoryStore(), workload=workload)
    if not outcome.problems:
        outcome.problems += at_once(_check(outcome))
    wrong = {pair for pair in READ if pair[1] not in ("NoneType", f"File{pair[0]}")}
    outcome.problems += [f"version {v} was given a {kind}" for v, kind in wrong]
    outcome.seen.update(f"run by {version}" for version, kind in READ if kind != "NoneType")
    return outcome


async def _check(outcome: Outcome) -> list[str]:
    store, problems = outcome.store, list[str]()
    packs = {row.job: await store.revisions(row.job) for row in await store.jobs(limit=1_000)}
    blocks = history.blocks_of([packed for each in packs.values() for packed in each])
    for job in packs:
        stored = (await store.heads([job]))[job]
        report = history.verify(
            job,
            stored.revision,
            blocks.get,
            workflows=(ONE, TWO, ROLLOUT),
            stored=stored,
            rows=await store.tasks(job=job),
        )
        problems += [f"{stored.workflow}: {one.text}" for one in report.findings]
        chain = list(history.walk(job, stored.revision, blocks.get))[::-1]
        if job == HOME.id:
            outcome.seen.update(f"status {_state(one, blocks).status}" for one in chain)
            problems += [text for one in chain for text in _counted(one, blocks)]
        else:
            problems += _placed(job, chain, blocks)
    return problems


def _state(revision: history.Revision, blocks: Mapping[CID, bytes]) -> Any:
    return ROLLOUT.state_of(codec.decode(blocks[revision.line(HOME.id).state]))


def _counted(revision: history.Revision, blocks: Mapping[CID, bytes]) -> Iterator[str]:
    """N4: who moved jobs counted them in the same commit, and kept to what the spec allows."""
    state = _state(revision, blocks)
    moved = len([line for line in revision.writes if line.workflow == "file"])
    if state.status in ("stable", "checking", "waiting", "halted"):
        allowed = 0
    elif state.status == "canary":
        allowed = state.spec.canary
    else:
        allowed = state.spec.max_parallel
    if moved > allowed or state.canaries > state.spec.canary:
        yield f"{moved} jobs moved in {state}"


def _placed(
    job: CID, chain: Sequence[history.Revision], blocks: Mapping[CID, bytes]
) -> Iterator[str]:
    """A job is born where the rollout that it has read says, and moves in the rollout's commits."""
    reads, version = dict(chain[0].reads), chain[0].line(job).version
    if HOME.id not in reads:
        yield f"{job} was born without asking the rollout"
    else:
        read = reads[HOME.id]
        born = 1 if read is None else _state(history.read_revision(read, blocks[read]), blocks).born
        if version != born:
            yield f"{job} was born at {version}, where {born} was chosen"
    for before, revision in pairwise(chain):
        line = revision.line(job)
        moved = line.version != before.line(job).version
        if moved and not (line.bare and any(other.job == HOME.id for other in revision.writes)):
            yield f"{job} was moved at seq {line.seq} by somebody else"


__all__ = ["Rollouts", "rolled"]
