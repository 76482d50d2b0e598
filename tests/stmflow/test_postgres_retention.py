"""What is PostgreSQL's own about leaving: the CID index stays right and grows thinner."""

from __future__ import annotations

import dataclasses

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.cid import CID
from stmflow.limits import LIMITS
from stmflow.store import Batch, Drop, StoredHead
from stmflow.store.postgres import PostgresStore
from stmflow.testing.builders import commit, head_of, job_id
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
