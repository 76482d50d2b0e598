"""The replay gate: a new version over recorded histories, before any live job sees it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from stmflow import CID, Transactor, Workflow, car, codec, history, ignore, perform, reject, same
from stmflow.limits import LIMITS
from stmflow.store import Beat, Claim, Want
from stmflow.store.memory import MemoryStore
from stmflow.workflow import Registry
from tests.stmflow.versions import (
    ONE,
    TWO,
    File2,
    Grow1,
    Grow2,
    Look,
    Open,
    Stat,
    down,
    one,
    stay,
    two,
    up,
    update2,
)

A, B = ONE.job("a"), ONE.job("b")


@asynccontextmanager
async def lived(*jobs: str) -> AsyncIterator[tuple[MemoryStore, Transactor]]:
    """A store in which each of these jobs was opened, grew, looked and got its answer."""
    store = MemoryStore()
    async with Transactor(store, (ONE, TWO), chooser=stay) as transactor:
        for name in jobs or ("a",):
            await transactor.send(ONE, Open(name))
            await transactor.send(ONE, Grow1(name, 2))
            await transactor.send(ONE, Look(name))
        await transactor.do(lambda: Beat(1, 10**15))
        wants = [Want("file", 1, "Stat", 99)]
        for claimed in await transactor.do(lambda: Claim(1, wants, 10**14)):
            await transactor.settle(claimed.ref, 9)
        yield store, transactor


async def gate(store: MemoryStore, *workflows: Workflow, **options: Any) -> history.ReplayCheck:
    found = [await history.recorded(store, job) for job in await history.draw(store)]
    return history.replay_check(Registry(workflows), found, **options)


def differing(update: Any) -> Workflow:
    """Version 2 with another reducer."""
    return two(update=update)


async def test_a_version_that_does_the_same_passes() -> None:
    async with lived("a", "b") as (store, _):
        check = await gate(store, ONE, TWO)
        assert (check.passed, check.histories, check.revisions) == (True, 2, 8)


async def test_neither_code_of_the_old_version_nor_a_live_job_is_touched() -> None:
    async with lived() as (store, transactor):
        before = await transactor.get(A)
        assert (await gate(store, TWO)).passed
        assert await transactor.get(A) == before


async def test_the_first_divergence_names_job_revision_event_and_both_states() -> None:
    def update(event: Any, state: Any) -> Any:
        if isinstance(event, Grow2):
            return replace(state, octets=state.octets + event.by + 1), ()
        answer = update2(event, state)
        return (answer, ()) if isinstance(answer, File2) else answer

    async with lived() as (store, _):
        check = await gate(store, ONE, differing(update))
        found = check.divergence
        assert found is not None
        assert not check.passed
        packs = list(reversed(await store.revisions(A.id)))
        revision = history.read_revision(packs[1].cid, packs[1].revision)
        line = revision.line(A.id)
        assert (found.job, found.seq, found.revision) == (A.id, 2, revision.cid)
        assert (found.event, found.events) == (line.events[0], line.events)
        assert found.recorded == line.state
        assert found.made == CID.of(TWO.state_bytes(File2("a", 3)))
        assert found.why == ("f.octets: recorded 2, now 3",)
        assert (check.histories, check.revisions) == (0, 1)  # nothing was run after it


def raising(event: Any, state: Any) -> Any:
    raise KeyError("new")


def silent(event: Any, state: Any) -> Any:
    return ignore() if isinstance(event, Grow2) else two_of(event, state)


def refusing(event: Any, state: Any) -> Any:
    return reject("No") if isinstance(event, Grow2) else two_of(event, state)


def another_task(event: Any, state: Any) -> Any:
    if isinstance(event, Look):
        return same(perform(Stat(event.name + "!")).then("Seen"))
    return two_of(event, state)


def no_task(event: Any, state: Any) -> Any:
    return same() if isinstance(event, Look) else two_of(event, state)


def fickle(event: Any, state: Any) -> Any:
    fickle.count += 1  # type: ignore[attr-defined]
    return File2("a", fickle.count), ()  # type: ignore[attr-defined]


fickle.count = 0  # type: ignore[attr-defined]


def endless(event: Any, state: Any) -> Any:
    return File2("a", 0, "x" * (LIMITS.text_bytes + 1)), ()


def nothing(event: Any, state: Any) -> Any:
    return None, ()


def two_of(event: Any, state: Any) -> Any:
    answer = update2(event, state)
    return (answer, ()) if isinstance(answer, File2) else answer


@pytest.mark.parametrize(
    ("update", "seq", "why"),
    [
        (raising, 1, "raised KeyError"),
        (nothing, 1, "state"),
        (fickle, 1, "gave two answers"),
        (endless, 1, "bytes"),
        (silent, 2, "f.octets: recorded 2, now 0"),
        (refusing, 2, "f.octets: recorded 2, now 0"),
        (another_task, 3, "effects 0.1.of.f.name"),
        (no_task, 3, "effects 0"),
    ],
)
async def test_what_a_new_version_does_otherwise_is_found(update: Any, seq: int, why: str) -> None:
    async with lived() as (store, _):
        found = (await gate(store, ONE, differing(update))).divergence
        assert found is not None
        assert found.seq == seq
        assert any(why in line for line in found.why), found.why


async def test_a_version_in_which_the_epoch_is_another_one_diverges() -> None:
    async with lived() as (store, _):
        found = (await gate(store, ONE, two(epoch="octets"))).divergence
        assert found is not None


async def test_a_divergence_that_is_meant_hides_no_other() -> None:
    def meant(divergence: history.Divergence) -> bool:
        return all(line.startswith("effects") for line in divergence.why)

    async with lived() as (store, _):
        check = await gate(store, ONE, differing(no_task), allow=meant)
        assert (check.passed, check.allowed, check.revisions) == (True, 1, 4)
        check = await gate(store, ONE, differing(silent), allow=meant)
        assert not check.passed


async def test_one_allowed_difference_is_not_carried_into_the_next_write() -> None:
    async with lived() as (store, transactor):
        await transactor.send(A, Grow1("a", 1))
        check = await gate(store, ONE, differing(silent), allow=lambda found: found.seq == 2)
        assert check.divergence is not None
        assert check.divergence.why == ("f.octets: recorded 10, now 9",)


@pytest.mark.parametrize(
    ("newer", "why"),
    [
        (two(upcasts={}), "no upcast from version 1"),
        (two(upcasts={1: (lambda tag, fields: fields["none"], up)}), "raised KeyError"),
        (two(upcasts={1: (lambda tag, fields: (tag, fields), up)}), ""),
    ],
)
async def test_a_history_that_cannot_be_cast_is_no_pass(newer: Workflow, why: str) -> None:
    async with lived() as (store, _):
        check = await gate(store, ONE, newer)
        assert not check.passed
        assert check.divergence is None
        assert check.not_rerun is not None
        assert check.not_rerun[0] == A.id
        assert why in check.not_rerun[1]


async def test_a_torn_history_is_no_pass() -> None:
    async with lived() as (store, _):
        whole = await history.recorded(store, A.id)
        for missing, block in history.blocks_of(await store.revisions(A.id)).items():
            if codec.decode(block).keys() == {"task", "outcome"}:
                continue  # a receipt: what it fired stands in the events
            torn = whole._replace(get=lambda cid, gone=missing: _without(whole, cid, gone))
            check = history.replay_check(Registry([ONE, TWO]), [torn])
            assert not check.passed


def _without(whole: history.Recorded, cid: CID, gone: CID) -> bytes | None:
    return None if cid == gone else whole.get(cid)


async def test_moves_between_versions_are_no_news_to_the_gate() -> None:
    lossy = two(
        downcasts={
            2: (lambda tag, f: (tag, {"name": f["name"], "size": 0, "status": "open"}), down)
        }
    )
    store = MemoryStore()
    async with Transactor(store, (ONE, lossy), chooser=stay) as transactor:
        await transactor.send(ONE, Open("a"))
        for version in (2, 1, 2):
            await transactor.transact(lambda tx, v=version: tx.adopt(A, v))
            await transactor.send(A, Grow2("a", 4))
    check = await gate(store, one(), lossy)
    assert check.passed, (check.divergence, check.not_rerun)


async def test_an_old_version_can_be_gated_for_a_revert() -> None:
    async with lived() as (store, transactor):
        await transactor.transact(lambda tx: tx.adopt(A, 2))
        await transactor.send(A, Grow2("a", 4))
        assert (await gate(store, ONE, TWO, version=1)).passed
        without = two(downcasts={})
        assert (await gate(store, ONE, without, version=1)).not_rerun is not None


async def test_histories_from_a_car_are_gated_without_a_store() -> None:
    async with lived("a", "b") as (store, _):
        roots, blocks = history.export({job.id: await store.revisions(job.id) for job in (A, B)})
        file = io.BytesIO()
        writer = car.Writer(file, roots)
        for cid, block in blocks:
            writer.write(cid, block)
    archive = history.Archive()
    archive.add(io.BytesIO(file.getvalue()))
    heads, _ = archive.jobs()
    found = [history.Recorded(job, head, archive.blocks.get) for job, head in heads.items()]
    assert history.replay_check(Registry([TWO]), found).histories == 2
    check = history.replay_check(Registry([differing(raising)]), found)
    assert check.divergence is not None


@pytest.mark.parametrize("most", [0, 1, 4, 5, 6, None])
async def test_a_sample_is_bounded_and_the_seed_draws_it(most: int | None) -> None:
    async with lived(*"abcde") as (store, _):
        drawn = await history.draw(store, "file", most=most, seed=7)
        assert len(set(drawn)) == len(drawn) == (5 if most is None else min(most, 5))
        assert await history.draw(store, "file", most=most, seed=7) == drawn
        every = await history.draw(store, "file", seed=7)
        assert drawn == every[: len(drawn)]  # a larger sample holds the smaller one
        assert await history.draw(store, "nothing", most=most) == []


async def test_another_seed_draws_others_and_each_job_is_drawn_by_some() -> None:
    async with lived(*"abcde") as (store, _):
        drawn = [(await history.draw(store, most=1, seed=seed))[0] for seed in range(40)]
        assert set(drawn) == set(await history.draw(store))


async def test_effects_are_compared_by_what_they_ask_for_not_by_their_version() -> None:
    async with lived() as (store, _):
        packs = await store.revisions(A.id)
        effects = [
            block
            for packed in packs
            for block in packed.blocks
            if codec.decode(block).get("t") == "effect"
        ]
        assert {codec.decode(block)["v"] for block in effects} == {1}
        assert (await gate(store, TWO)).passed
