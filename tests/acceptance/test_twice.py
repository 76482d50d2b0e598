"""Rule 5: every effect runs twice, every event is delivered twice and shuffled.

The clock is set by hand, so that a state's times are those of the clean run as well: whole state
CIDs are compared, of every job there is (uploads, quotas, reservations, blobs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from examples.store_add.model import Add
from scheduler import Context, Handler
from scheduler.handlers import Failure
from scheduler.handlers.gc import sweeping
from scheduler.handlers.s3 import Delete
from stmflow import CID, Answer, Transactor
from stmflow.effect import Outcome
from stmflow.store import DueTimer, Ref
from tests.acceptance.fakes import FolderBucket, Machine, SetClock, balanced, machine, verified
from tests.acceptance.story import ENDINGS, PROFILES, TOO_BIG, link, once, tell

AGAIN = {"closed", "fenced"}
Done = Callable[[Answer], None]
Failed = Callable[[BaseException], None]


class Twice(Transactor):
    """Every outcome and every timer is delivered twice; both are kept, to come once more."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.settles: list[tuple[Ref, Outcome]] = []
        self.timers: list[DueTimer] = []
        self.seconds: list[Answer] = []

    def settling(self, ref: Ref, outcome: Outcome, done: Done, failed: Failed) -> None:
        self.settles.append((ref, outcome))
        super().settling(ref, outcome, done, failed)
        super().settling(ref, outcome, self.seconds.append, failed)

    def firing(self, timer: DueTimer, done: Done, failed: Failed) -> None:
        self.timers.append(timer)
        super().firing(timer, done, failed)
        super().firing(timer, self.seconds.append, failed)

    async def everything_again(self, chance: Random) -> None:
        late: list[Callable[[], Any]] = [
            *(lambda one=one: self.settle(*one) for one in self.settles),
            *(lambda one=one: self.fire(one) for one in self.timers),
        ]
        chance.shuffle(late)
        async with anyio.create_task_group() as group:
            for deliver in late:
                group.start_soon(self._again, deliver)

    async def _again(self, deliver: Callable[[], Any]) -> None:
        self.seconds.append(await deliver())


class Chaos:
    """Runs handlers twice and delivers twice, in an order that the seed shuffles."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.sent: list[tuple[Any, str]] = []
        self.performed = 0

    def around(self, handler: Handler) -> Handler:
        async def perform(task: Any, context: Context) -> Any:
            outcomes: list[Any] = []
            again = replace(context, key=CID.of(context.key.bytes + b"again"))

            async def run(context: Context) -> None:
                await anyio.sleep(self.chance.random() * 0.004)
                self.performed += 1
                try:
                    outcomes.append(await handler(task, context))
                except Failure as failure:
                    outcomes.append(failure)

            async with anyio.create_task_group() as group:
                group.start_soon(run, context)
                # At least once by the engine's promise: under the same key. What must be done only
                # once is told apart by what the task itself says: so also under another.
                group.start_soon(run, self.chance.choice([context, again]))
            outcome = outcomes[0] if isinstance(task, Delete) else self.chance.choice(outcomes)
            await anyio.sleep(self.chance.random() * 0.004)
            if isinstance(outcome, Failure):
                raise outcome
            return outcome

        return perform

    async def send(self, world: Machine, event: Any, delivery: str) -> None:
        self.sent.append((event, delivery))
        copies = [delivery, delivery]
        # An add that has failed may be tried again: there, and only there, another delivery of the
        # same event rightly has another outcome.
        if not (isinstance(event, Add) and event.link == link(TOO_BIG)):
            copies += [f"{delivery}, copied {n}" for n in range(2)]
        self.chance.shuffle(copies)
        async with anyio.create_task_group() as group:
            for copy in copies:
                group.start_soon(once, world, event, copy)

    async def everything_again(self, world: Machine) -> None:
        late = self.sent * 2
        self.chance.shuffle(late)
        async with anyio.create_task_group() as group:
            for event, delivery in late:
                group.start_soon(once, world, event, delivery)


async def all_twice(folder: Path, profile: str, seed: int) -> None:
    chaos = Chaos(seed)
    wanted = await clean(folder / "clean", profile)
    (folder / "twice").mkdir()
    bucket = FolderBucket(folder / "twice" / "bucket", SetClock())
    async with machine(
        folder / "twice" / "jobs.db",
        PROFILES[profile](),
        bucket,
        transactor_type=Twice,
        around=chaos.around,
    ) as world:
        twice = world.transactor
        assert isinstance(twice, Twice)
        await tell(world, send=chaos.send, order=chaos.chance)
        assert await world.states() == wanted
        moved = [row.revision for row in await world.store.jobs(limit=10_000)]

        await chaos.everything_again(world)
        await twice.everything_again(chaos.chance)
        await world.rest()
        assert [row.revision for row in await world.store.jobs(limit=10_000)] == moved
        assert {answer.kind for answer in twice.seconds} <= AGAIN
        assert chaos.performed >= 2 * len({ref.id for ref, _ in twice.settles})
        await balanced(world)
        await verified(world.store, world.profile)


async def clean(folder: Path, profile: str) -> dict[CID, tuple[str, CID]]:
    folder.mkdir(parents=True)
    bucket = FolderBucket(folder / "bucket", SetClock())
    async with machine(folder / "jobs.db", PROFILES[profile](), bucket) as world:
        await tell(world)
        for (space, data), ending in ENDINGS.items():
            assert await world.tag(space, data) == ending
        return await world.states()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("profile", PROFILES)
async def test_all_twice_and_shuffled(tmp_path: Path, profile: str, number: int) -> None:
    await all_twice(tmp_path, profile, number)


@pytest.mark.acceptance
@pytest.mark.parametrize("profile", PROFILES)
async def test_all_twice_and_shuffled_many_times(tmp_path: Path, profile: str) -> None:
    for number in range(100, 200):
        await all_twice(tmp_path / str(number), profile, number)


async def test_a_delete_that_comes_late_does_not_meet_the_next_bytes(tmp_path: Path) -> None:
    """The one effect that destroys asks whether it still may, however often it runs."""
    bucket = FolderBucket(tmp_path / "bucket", SetClock())
    async with machine(tmp_path / "jobs.db", PROFILES["local"](), bucket) as world:
        await tell(world)
        (stored,) = [
            head for head in await world.jobs("blob") if getattr(head.state, "references", 0) == 2
        ]
        late = sweeping(world.transactor, bucket.delete)
        with pytest.raises(Failure, match="NotDeleting"):
            await late(Delete(stored.state.link), context(world, stored.job))
        assert stored.state.link.digest in bucket.objects()


def context(world: Machine, job: CID) -> Context:
    now = world.clock.now()
    return Context(key=job, job=job, attempt=1, token=1, deadline=now + 1_000, clock=world.clock)
