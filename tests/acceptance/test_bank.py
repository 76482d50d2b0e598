"""Random transfers from several workers and processes: the sum is exact in every snapshot."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest

from examples.bank.load import OPENING, Load, accounts, opened, run
from stmflow import CID, Job, codec
from stmflow.store import Store
from stmflow.testing.observed import check_order

SHORT = {"memory": Load(8, 60, 100), "sqlite": Load(8, 40, 100, 2), "postgres": Load(8, 40, 100, 2)}
LONG = {
    "memory": Load(8, 10_000, 100),
    "sqlite": Load(8, 10_000, 100, 4),
    "postgres": Load(8, 10_000, 100, 4),
}


@pytest.mark.parametrize("kind", SHORT)
async def test_transfers_keep_the_sum(kind: str, name: str) -> None:
    await transfers_keep_the_sum(name, SHORT[kind])


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", LONG)
async def test_80_000_transfers_keep_the_sum(kind: str, name: str) -> None:
    await transfers_keep_the_sum(name, LONG[kind])


async def transfers_keep_the_sum(name: str, load: Load) -> None:
    async with opened(name) as store:
        found = await run(store, name, load)
        print(f"\n{found.text()}")
        assert found.wrong == []
        assert found.snapshots > 1
        assert set(found.answers) == {"Done", "Insufficient"}
        assert found.answers.total() == load.workers * load.transfers
        made = await folded(store, accounts(load.accounts))
        assert made == load.accounts + found.answers["Done"]
        assert await check_order(store) == []


class Move:
    """A revision, as far as the bank is concerned: what it replaced, and what was left then."""

    def __init__(self, revision: bytes, blocks: Iterable[bytes]) -> None:
        plain = codec.decode(revision)
        states = {CID.of(block): block for block in blocks}
        assert plain["reads"] == []
        self.prev: dict[CID, CID | None] = {w["job"]: w["prev"] for w in plain["writes"]}
        self.left: dict[CID, int] = {
            write["job"]: codec.decode(states[write["state"]])["f"]["balance"]
            for write in plain["writes"]
        }


async def folded(store: Store, jobs: list[Job]) -> int:
    """Apply every revision of these accounts in an order in which they were committed, and add up
    after each; how many there were.

    A revision comes when all that it replaced is there. Two that may change places touch no
    account together, so each prefix is a state that the bank was in.
    """
    moves: dict[CID, Move] = {}
    after: dict[tuple[CID, CID | None], CID] = {}
    for job in jobs:
        for packed in await store.revisions(job.id):
            if packed.cid not in moves:
                moves[packed.cid] = Move(packed.revision, packed.blocks)
            assert after.setdefault((job.id, moves[packed.cid].prev[job.id]), packed.cid) == (
                packed.cid
            ), "two revisions replaced one"
    heads: dict[CID, CID | None] = dict.fromkeys((job.id for job in jobs), None)
    balance: dict[CID, int] = {}
    moved = deque(heads)
    applied = total = 0
    while moved:
        job = moved.popleft()
        cid = after.get((job, heads[job]))
        if cid is None or any(heads[each] != prev for each, prev in moves[cid].prev.items()):
            continue
        move = moves[cid]
        total += sum(left - balance.get(each, 0) for each, left in move.left.items())
        balance |= move.left
        heads |= dict.fromkeys(move.prev, cid)
        moved.extend(move.prev)
        applied += 1
        assert total == OPENING * len(balance)
        assert min(move.left.values()) >= 0
    assert applied == len(moves), "revisions are left that nothing leads to"
    return applied
