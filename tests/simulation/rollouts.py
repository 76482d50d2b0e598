"""A simulated world in which versions are rolled out while clients, crashes and faults go on.

Some processes know the old version alone, as they do while a deploy is under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import anyio

from examples.rollout import ROLLOUT, Health, Promote, Revert, Spec, Start
from examples.rollout import chooser as choosing
from examples.rollout import handlers as rollout_handlers
from examples.rollout.handlers import moving
from scheduler import Context, Failure, Handler, Policy, Retry, Scheduler
from scheduler.slots import Limits
from scheduler.testing.faults import at_once
from scheduler.testing.world import Lost, Node, Options, Outcome, World
from stmflow import CID, Transactor, codec, history
from stmflow.errors import StmflowError, UnknownVersion
from stmflow.store.memory import MemoryStore
from tests.stmflow.versions import ONE, READ, TWO, Grow1, Grow2, Look, Open, Stat

JOBS = 9
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


class RolloutWorld(World):
    """Clients that open, grow and look at files, and an operator who rolls out and back."""

    def __init__(self, seed: int, chooser: Any = None) -> None:
        options = replace(Options.draw(seed), clients=3, operations=8, debts=0)
        super().__init__(options, MemoryStore())
        self.chooser = chooser or choosing({"file": 1})
        self.rollouts = 0

    async def _prepare(self) -> None:
        for n in range(JOBS - 3):
            await self._try(ONE.job(f"f{n}"), Open(f"f{n}"))

    async def _node(self, node: Node) -> None:
        living = [one for one in self.nodes if not one.dead]
        old = len(living) > 1 and not any(hasattr(one, "old") for one in living)
        if old:
            node.old = True  # type: ignore[attr-defined]
        seed = f"{self.options.seed} {node.name}"
        try:
            async with Transactor(
                node.store,
                [ONE, ROLLOUT] if old else [ONE, TWO, ROLLOUT],
                chooser=self.chooser,
                transactional=moving([ONE]),
                clock=node.clock,
                random=Random(f"transactor {seed}"),
                alarm=lambda text: self.problem(f"alarm: {text}"),
            ) as transactor:
                node.transactor = transactor
                known = {**rollout_handlers(transactor), Stat: _stat}
                async with Scheduler(
                    transactor,
                    {kind: self._faulty(handler) for kind, handler in known.items()},
                    policies={
                        kind: Policy(attempts=6, attempt_ms=2_000, base_ms=100, cap_ms=2_000)
                        for kind in known
                    },
                    limits=Limits(slots=self.options.slots),
                    lease_seconds=self.options.lease_seconds,
                    grace_seconds=5,
                    random=Random(f"scheduler {seed}"),
                ):
                    await node.stop.wait()
            node.left = True
        except Exception as error:
            self.problem(f"{node.name} ended: {error!r}")
            self._crash(node)

    def _faulty(self, handler: Handler) -> Handler:
        async def perform(task: Any, context: Context) -> Any:
            await anyio.sleep(self.random.random() * 0.2)
            if self.faults.hit("raise"):
                raise Failure("NotSent", None, retry=Retry.SAFE)
            if self.faults.hit("hang"):
                await anyio.sleep(60)
            if self.faults.hit("wrong shape"):
                return {"no": "such field"}
            answer = await handler(task, context)
            if self.faults.hit("answer lost"):
                raise Failure("NoAnswer", None, retry=Retry.IDEMPOTENT)
            return answer

        return perform

    async def _client(self, number: int) -> None:
        if number == 0:
            await self._operator()
            return
        for _ in range(self.options.operations * 3):
            await anyio.sleep(self.random.random())
            name = f"f{self.random.randrange(JOBS)}"
            event = self.random.choice((Open(name), Grow1(name, 1), Grow2(name, 1), Look(name)))
            await self._try(ONE.job(name), event)

    async def _operator(self) -> None:
        """Two rollouts, whatever comes of them; a person decides where one is asked."""
        base = 1
        for _ in range(2):
            auto = self.random.random() < 0.5
            spec = replace(SPEC, base=base, version=3 - base, auto_promote=auto, auto_revert=auto)
            await self._try(HOME, Start("file", spec))
            while True:
                await anyio.sleep(0.5)
                state = await self._state()
                if state is None:
                    await self._try(HOME, Start("file", spec))
                elif state.status == "stable":
                    base = state.stable
                    self.rollouts += 1
                    self.outcome.seen[str(state.refused and state.refused.name)] += 1
                    break
                elif state.status in ("waiting", "halted") or self.random.random() < 0.05:
                    act = self.random.choice((Promote, Promote, Revert))
                    await self._try(HOME, act("file"))

    async def _operate(self) -> None:
        with suppress(UnknownVersion):  # asked a process that does not have the job's version
            await super()._operate()

    async def _state(self) -> Any:
        try:
            head = await self._call(lambda transactor: transactor.get(HOME))
        except (Lost, StmflowError):
            return None
        return None if head is None else head.state

    async def _try(self, job: Any, event: Any) -> None:
        """Send it until somebody has taken or refused it."""
        delivery = self._delivery() or "again"
        for _ in range(60):
            try:
                await self._call(lambda t: t.send(job, event, delivery=f"{delivery} {event}"))
                return
            except UnknownVersion:  # a process that does not have the version of the job
                self.outcome.seen["refused by name"] += 1
            except (Lost, StmflowError):
                pass
            await anyio.sleep(self.random.random())


async def _stat(task: Stat, context: Context) -> int:
    return 1


def rolled(seed: int, *, chooser: Any = None) -> Outcome:
    """Run one world to its rest, and check N4, N5 and every history."""
    READ.clear()
    world = RolloutWorld(seed, chooser)
    outcome = world.run()
    if not outcome.problems:
        outcome.problems += at_once(_check(outcome))
        if world.rollouts != 2:
            outcome.problems.append(f"{world.rollouts} rollouts of 2 have ended")
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


__all__ = ["RolloutWorld", "rolled"]
