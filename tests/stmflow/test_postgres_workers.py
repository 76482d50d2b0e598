"""Workers on PostgreSQL: labels, tenants and a pool that two stores share."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from scheduler import App, Limits, Performer, Policy, Shared, by_need, working
from scheduler.roster import workers
from stmflow.store import Batch, Claim, Done, Want, Watch
from stmflow.store.postgres import PostgresStore
from stmflow.testing import builders as make
from stmflow.testing.builders import KIND, commit, head_of, job_id
from tests.pgservers import PostgresServer
from tests.scheduler.test_placing import bucket
from tests.scheduler.test_scheduler import WORK, Ask, Stat, until


async def test_two_stores_share_a_pool_and_each_claims_what_it_is_placed_for(
    postgres: PostgresServer, anyio_backend: str
) -> None:
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    async def handler(task: Stat, context: Any) -> int:
        running[task.name] = running.get(task.name, 0) + 1
        most[task.name] = max(most.get(task.name, 0), running[task.name])
        await anyio.sleep(0.005)
        running[task.name] -= 1
        return task.n

    app = App(
        workflows=[WORK],
        handlers={Stat: Performer(handler=handler, policy=Policy(attempt_ms=1_000))},
        tenant=lambda job: str(job.key[0]),
        needs={Stat: bucket},
        limits=Limits(shared=[Shared("bucket", slots=2, of=by_need("bucket"))]),
    )
    url = await postgres.new_database()
    async with (
        PostgresStore.open(url) as one,
        PostgresStore.open(url) as other,
        working(one, app, labels={"bucket": "a"}) as left,
        working(other, app, labels={"bucket": "a"}),
    ):
        assert [row.labels for row in await workers(one)] == [{"bucket": "a"}] * 2
        for name in ("a", "b", "any"):
            await left.transactor.send(WORK, Ask(name, 12))
        for name in ("a", "any"):
            await until(left.transactor, name, lambda state: len(state.got) == 12)
        assert most["a"] <= 2
        assert "b" not in most
        ready, checks = await left.health.ready()
        assert ready, checks
        async with working(other, app, labels={"bucket": "b"}):
            await until(left.transactor, "b", lambda state: len(state.got) == 12)
    await postgres.give_back(url)


async def test_a_task_that_waits_on_what_has_moved_is_planned_again_while_that_is_held(
    postgres: PostgresServer, anyio_backend: str
) -> None:
    url = await postgres.new_database()
    async with PostgresStore.open(url) as store:
        made = commit(dict.fromkeys("ab"), tasks=[make.task("a", 0)])
        moved = commit({"b": head_of(made, "b")})
        await store.commit(Batch([made]))
        await store.commit(Batch([moved]))
        claim = Claim(store.enlist(), [Want(*KIND, 1)], 10)
        (result,) = await store.commit(Batch([claim]))
        assert isinstance(result, Done)
        (held,) = result.value

        def watch(revision: Any) -> Watch:
            return Watch(held.ref, [(job_id("b"), revision)], 2**62)

        def replan(read: Any) -> list[Watch]:
            return [watch(read(job_id("b")).revision)]

        assert await store.commit(Batch([watch(made.revision_cid)], replan)) == [Done()]
        (row,) = await store.tasks()
        assert (row.worker, row.due) == (None, 2**62)
    await postgres.give_back(url)
