"""A story in the simulated world, with crashes before the loop steps that are named.

A crash discards all that a process had still to run. The commit that was on its way is lost, or
lands all the same: both are tried. Nothing else is left to chance, so a crash is told in three
numbers, and the same numbers show it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import anyio

from scheduler import App, Transaction
from scheduler.testing import Client, Crash, Options, Outcome, Shop, World
from scheduler.testing.faults import at_once
from scheduler.testing.loop import EPOCH_MS
from scheduler.testing.orders import TRANSACTIONAL
from scheduler.testing.shop import POLICIES
from scheduler.testing.world import Lost, Node
from stmflow import CID, Transactor
from stmflow.archive import whole
from stmflow.cell import CELL
from stmflow.effect import Err
from stmflow.errors import NotFound, StmflowError
from stmflow.schema import tag_of
from stmflow.store import Store
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing.linear import check_chain, check_outbox, check_runs
from stmflow.testing.observed import links
from stmflow.testing.replay import Replayed, replay
from stmflow.workflow import Job, Registry
from tests.exhaustive.scenarios import Story

AGAIN_S = 0.02
"""When a process that has crashed is started again, where there was but one."""
LATER_S = 30.0
"""And where there is another, which has to take over."""


class Shelf:
    """An archive that survives every crash."""

    def __init__(self) -> None:
        self.objects: dict[CID, bytes] = {}

    async def put(self, link: CID, data: bytes) -> None:
        """Keep an object; on its way here the process may crash."""
        await anyio.sleep(0.001)
        self.objects[link] = data
        await anyio.sleep(0.001)

    async def get(self, link: CID, *, start: int = 0, size: int | None = None) -> bytes:
        """Its bytes."""
        if link not in self.objects:
            raise NotFound(str(link))
        return self.objects[link][start:][: len(self.objects[link]) if size is None else size]


class Telling(Shop):
    """What runs in a story; its tasks are performed as the shop's are."""

    def __init__(self, story: Story, random: Random) -> None:
        super().__init__(random)
        handlers: dict[type, Any] = dict.fromkeys(story.performed, self._perform)
        handlers |= {kind: Transaction(body) for kind, body in (story.transactions or {}).items()}
        self.app = App(
            workflows=story.workflows,
            handlers=handlers,
            policies={kind: POLICIES[kind] for kind in handlers if kind in POLICIES},
            transactional=TRANSACTIONAL,
            chooser=story.chooser,
        )


class StoryWorld(World):
    """One story, told with these crashes, in order of their steps."""

    def __init__(self, story: Story, store: Store, crashes: Sequence[Crash] = ()) -> None:
        options = Options.calm(1, nodes=story.nodes)
        options.crashes = tuple(crashes)
        self.telling = Telling(story, Random("telling"))
        super().__init__(options, store, lambda random: self.telling)
        self.story = story
        self.shelf = Shelf()
        self.client = Client(self, 0)
        self._healed = True  # who starts anew shows the latest time that any clock has shown

    async def _live(self) -> None:
        for _ in range(self.options.nodes):
            self._start_node()
        if self.story.begin is not None:
            await self.story.begin(self)
            await self._rest([])
        self.outcome.began = self.loop.steps
        await self._rest([self.loop.spawn(None, self.story.play(self))])
        await self._leave()

    async def _restart(self, gone: Node) -> None:
        alone = all(node.dead for node in self.nodes)
        await anyio.sleep(AGAIN_S if alone else LATER_S)
        if not self._leaving:
            ahead = max(node.clock.latest for node in self.nodes)
            now = EPOCH_MS + int(self.loop.time() * 1_000)
            self._start_node(max(0, ahead - now))

    # --- what a story may do

    async def send(self, job: Job, event: Any, id: str) -> None:
        """Send an event under this id until its answer is known."""
        await self.client.send(job, event, delivery=id, insist=True)

    async def transact(self, at: Job, body: Callable[[Any], Any], id: str, value: int) -> None:
        """The same with a transaction; `value` is what it leaves in the job."""
        await self.client.transact(body, at, delivery=id, value=value, insist=True)

    async def ask(self, function: Callable[[Transactor], Awaitable[Any]]) -> Any:
        """What some process answers in the end, however often it must be asked."""
        while True:
            try:
                return await self.call(function)
            except (Lost, StmflowError):
                await anyio.sleep(0.01)

    def leap(self, ms: int) -> None:
        """Time passes everywhere."""
        for node in self.nodes:
            node.clock.skew_ms += ms


def tell(story: Story, crashes: Sequence[Crash] = (), kind: str = "memory") -> StoryWorld:
    """Tell a story with these crashes to its end, and check everything; `outcome` has it all."""
    with _opened(kind) as store:
        world = StoryWorld(story, store, crashes)
        outcome = world.run()
        if not outcome.problems:
            outcome.problems += at_once(_check(world, outcome))
    return world


@contextmanager
def _opened(kind: str) -> Iterator[Store]:
    if kind == "memory":
        yield MemoryStore()
        return
    opening = SQLiteStore.open(":memory:", inline=True)
    store = at_once(opening.__aenter__())
    try:
        yield store
    finally:
        at_once(opening.__aexit__(None, None, None))


# --- what must be true at the end -----------------------------------------------------------------


async def _check(world: StoryWorld, outcome: Outcome) -> list[str]:
    """The chains are whole and what clients saw, tasks add up, and the story has its end."""
    story, store = world.story, whole(outcome.store, world.shelf)
    registry = Registry([*story.workflows, CELL], chooser=story.chooser)
    problems, chains, states = list(world.telling.wrong), dict[CID, Replayed](), dict[CID, Any]()
    for row in await store.jobs(limit=1_000):
        stored = (await store.heads([row.job]))[row.job]
        packs = list(reversed(await store.revisions(row.job)))
        problems += check_chain(str(row.job), links(row.job, packs), outcome.history)
        known = stored if stored.open else None  # beside an archived job there is nothing
        chain = chains[row.job] = replay(registry, row.job, packs, stored=known)
        problems += chain.problems
        states[row.job] = None if chain.head is None else chain.head.state
    problems += _tasks(outcome, chains, await store.tasks(), once=not world.crashed)
    problems += story.end({job: states.get(job.id) for job in story.ends})
    return problems


def _tasks(outcome: Outcome, chains: dict[CID, Replayed], rows: Any, *, once: bool) -> list[str]:
    """Outbox, receipts and what handlers were asked for tell one story."""
    armed = {task: leaf for chain in chains.values() for task, leaf in chain.armed.items()}
    receipts = [task for chain in chains.values() for task in chain.receipts if task in armed]
    withdrawn = [str(task) for chain in chains.values() for task in chain.withdrawn]
    performed = {str(task): len(runs) for task, runs in outcome.performed.items()}
    handled = {
        str(task)
        for chain in chains.values()
        for task, result in chain.outcomes.items()
        if (leaf := armed.get(task)) is not None and leaf.due is None
        if not isinstance(result, Err) and leaf.tag not in UNHANDLED
    }
    strange = set(performed) - set(map(str, armed))
    return [
        *check_outbox(
            [str(task) for task in armed],
            [str(task) for task in receipts],
            withdrawn,
            {str(row.id): row.parked for row in rows},
        ),
        *check_runs(performed, handled, once=once),
        *(f"{task} was performed, and no revision asked for it" for task in sorted(strange)),
    ]


UNHANDLED = {tag_of(kind) for kind in TRANSACTIONAL} | {"Repay"}
"""Tasks that no handler performs, but the commit that settles them."""
