"""What is PostgreSQL's own about leaving: the CID index stays right and grows thinner."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.cid import CID
from stmflow.errors import Archived
from stmflow.limits import LIMITS
from stmflow.store import Batch, Commit, Done, Drop, Finished, StoredHead
from stmflow.store.postgres import PostgresStore
from stmflow.testing.builders import WORKFLOW, commit, head_of, job_id
from tests.pgservers import PostgresServer, admin

SIZES = "SELECT coalesce(sum(size), 0) FROM stmflow.segment"
WRONG = "SELECT count(*) FROM stmflow.segment WHERE length(entries) <> size * 16"


async def test_the_index_of_blocks_stays_right_and_grows_thinner(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    small = dataclasses.replace(LIMITS, index_segment_blocks=60)
    monkeypatch.setattr("stmflow.store.postgres.LIMITS", small)
    url = await postgres.new_database()
    async with PostgresStore.open(url) as store:
        head: StoredHead | None = None
        made = []
        for _ in range(80):
            made.append(commit({"a": head}))
            head = head_of(made[-1], "a")
            await store.commit(Batch([made[-1]]))
        while store._work:
            await anyio.sleep(0.01)
        full = await admin(url, SIZES)
        assert full > 120
        cids = [each.revision_cid for each in made if each.revision_cid is not None]
        gone = 0
        while log := await store.log(limit=10):
            named = [(each.place, each.packed.cid) for each in log]
            await store.commit(Batch([Drop(named, CID.of(b"an archive"))]))
            gone = min(gone + 10, 79)
            for at in (0, gone - 1, gone, 79):
                there = at >= gone
                assert (await store.block(cids[at]) is not None) == there
                assert await store.find(cids[at].digest, 256) == ([cids[at]] if there else [])
        assert len(await store.revisions(job_id("a"))) == 1
        assert await admin(url, SIZES) < full / 3
        assert await admin(url, WRONG) == 0
    await postgres.give_back(url)


async def test_who_seldom_writes_does_not_hold_up_what_leaves(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    """A run ends at the first revision that is too young. A store that kept the low numbers that it
    had once taken would put one there again and again."""
    monkeypatch.setattr("stmflow.store.postgres.NUMBERS_MS", 0)
    url = await postgres.new_database()
    async with PostgresStore.open(url) as idle, PostgresStore.open(url) as busy:
        made: list[Commit] = []
        for at, store in enumerate((idle, busy, busy, idle)):
            before = head_of(made[-1], "a") if made else None
            made.append(commit({"a": before}, at=at))
            await store.commit(Batch([made[-1]]))
            await anyio.sleep(0.002)
        assert [each.packed.cid for each in await idle.log()] == [m.revision_cid for m in made]
    await postgres.give_back(url)


async def test_one_job_that_has_left_does_not_stop_a_batch_that_is_planned_again(
    postgres: PostgresServer, anyio_backend: str
) -> None:
    """Who needs it is told; the others of the batch are planned on the heads that are there."""
    url = await postgres.new_database()
    async with PostgresStore.open(url) as store:
        gone, first = commit({"gone": None}), commit({"a": None})
        await store.commit(Batch([gone]))
        await store.commit(Batch([first]))
        second = commit({"a": head_of(first, "a")})
        await store.commit(Batch([second]))
        ((place, packed), *_) = await store.log()
        tag = head_of(gone, "gone").tag
        drop = Drop([(place, packed.cid)], CID.of(b"x"), [Finished(WORKFLOW, [tag], 2**62)])
        (result,) = await store.commit(Batch([drop]))
        assert isinstance(result, Done)
        assert result.value.jobs == 1

        def replan(read: Any) -> list[Any]:
            with pytest.raises(Archived):
                read(job_id("gone"))
            assert read(job_id("a")).revision == second.revision_cid
            return [Commit(), commit({"a": head_of(second, "a")})]

        members = [Commit(reads=[(job_id("gone"), gone.revision_cid)]), second]
        assert await store.commit(Batch(members, replan)) == [Done(), Done()]
    await postgres.give_back(url)
