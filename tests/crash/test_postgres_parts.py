"""The PostgreSQL parts of the campaign in short form, and all that they can draw in long form."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial
from random import Random
from unittest.mock import patch

import anyio
import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.store import postgres
from tests.crash import postgres_cuts, postgres_kills, postgres_settled, postgres_workers
from tests.crash.postgres_cuts import SHAPES, Shape, bench, cut_everywhere
from tests.crash.postgres_server import victim
from tests.crash.postgres_settled import ACTS, break_everywhere
from tests.crash.postgres_wire import DOWN, UP
from tests.pgservers import PostgresServer

__all__ = ["victim"]

BY_NAME = {shape.name: shape for shape in SHAPES}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Servers that die are much talked of."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
async def test_a_server_that_is_killed_loses_and_doubles_nothing(victim: PostgresServer) -> None:
    counts = await anyio.to_thread.run_sync(partial(postgres_kills.step, victim, 0, kills=2))
    assert counts["kills"] == 2
    assert counts["operations"] > 0


@pytest.mark.slow
async def test_a_line_cut_at_each_message_of_a_commit_is_told_of_truly(
    victim: PostgresServer,
) -> None:
    counts: Counter[str] = Counter()
    async with bench(victim) as made:
        for name, way, how in [
            ("three jobs and a read", DOWN, "before"),
            ("settle", UP, "half"),
            ("one job", UP, "stall"),
        ]:
            counts += await cut_everywhere(made, BY_NAME[name], way, how, Random(1))
    assert counts["untouched"] == 3
    fates = ("told: done", "told: not done", "unknown: committed", "unknown: not committed")
    assert all(counts[fate] for fate in fates), counts


@pytest.mark.slow
async def test_an_engine_settles_what_a_cut_line_leaves_unknown(victim: PostgresServer) -> None:
    async with bench(victim) as made:
        counts = Counter[str]()
        for session, act in ACTS[:1]:
            counts += await break_everywhere(made, session, act, DOWN, "before", Random(1))
    assert counts["untouched"] == 1
    assert counts["cuts"] > 10


@pytest.mark.slow
async def test_a_worker_that_is_killed_paused_or_misled_settles_nothing_late(
    victim: PostgresServer,
) -> None:
    counts = await anyio.to_thread.run_sync(partial(postgres_workers.step, victim, 1, troubles=1))
    assert counts["kills"] > 0


@pytest.mark.acceptance
@pytest.mark.parametrize("shape", SHAPES, ids=BY_NAME)
async def test_every_batch_cut_in_every_way(victim: PostgresServer, shape: Shape) -> None:
    counts: Counter[str] = Counter()
    async with bench(victim) as made:
        for n, (one, way, how) in enumerate(postgres_cuts.COMBINATIONS):
            if one is shape:
                counts += await cut_everywhere(made, one, way, how, Random(n), mark=str(n))
    print(dict(counts))


@pytest.mark.acceptance
@pytest.mark.parametrize("act", [act for _, act in ACTS])
async def test_every_act_cut_in_every_way(
    victim: PostgresServer, act: postgres_settled.Act
) -> None:
    counts: Counter[str] = Counter()
    async with bench(victim) as made:
        with patch.object(postgres, "_neighbours", {}):
            for n, (session, one, way, how) in enumerate(postgres_settled.COMBINATIONS):
                if one is act:
                    mark, chance = str(n), Random(n)
                    counts += await break_everywhere(
                        made, session, act, way, how, chance, mark=mark
                    )
    print(dict(counts))


@pytest.mark.acceptance
@pytest.mark.parametrize("number", range(4))
async def test_sessions_cut_under_work(victim: PostgresServer, number: int) -> None:
    counts = await anyio.to_thread.run_sync(postgres_settled.step, victim, 2 * number)
    assert counts["cuts"] > 0
    print(dict(counts))
