"""Histories drawn from a store: all, or a bounded sample that a seed decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from heapq import heappush, heappushpop

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import Archived, NotFound
from stmflow.history.gate import Recorded
from stmflow.history.revision import blocks_of
from stmflow.store import Store

_PAGE = 1_000


async def draw(
    store: Store, workflow: str | None = None, *, most: int | None = None, seed: int = 0
) -> list[CID]:
    """The jobs of that workflow (None: of all), or `most` of them.

    They are those whose CID hashed with the seed is smallest: each job is as likely as any other,
    the order in which the store lists them does not matter, and the same seed over the same jobs
    draws the same ones.
    """
    found: list[tuple[int, CID]] = []
    async for job in _jobs(store, workflow):
        rank = -int.from_bytes(CID.of(codec.encode([seed, job])).digest)
        if most is None or len(found) < most:
            heappush(found, (rank, job))
        elif most:
            heappushpop(found, (rank, job))
    return [job for _, job in sorted(found, reverse=True)]


async def recorded(store: Store, job: CID) -> Recorded:
    """A job's history as it is now; of one that has left, its head without a block.

    Raises:
        NotFound: no such job. Corrupt: it is damaged.
    """
    while not (packs := await store.revisions(job)):  # it left while it was read, or has left
        try:
            if (await store.heads([job]))[job] is None:
                raise NotFound(f"no job {job}")
        except Archived as error:
            return Recorded(job, error.revision, lambda cid: None)
    return Recorded(job, packs[0].cid, blocks_of(packs).get)


async def _jobs(store: Store, workflow: str | None) -> AsyncIterator[CID]:
    after: CID | None = None
    while True:
        page = await store.jobs(workflow=workflow, after=after, limit=_PAGE)
        for row in page:
            yield row.job
        if len(page) < _PAGE:
            return
        after = page[-1].job
