"""The part of the store contract about rows that wait for a job to change (`Watch`)."""

from __future__ import annotations

from typing import Any

import pytest

from stmflow import codec
from stmflow.effect import Err
from stmflow.store import (
    Batch,
    Claim,
    Claimed,
    Closed,
    Commit,
    Conflicted,
    Defer,
    Done,
    LeaseLost,
    Park,
    Store,
    TaskRow,
    Want,
    Watch,
)
from stmflow.testing import builders as make
from stmflow.testing.builders import KIND, commit, head_of, job_id

FAR = 2**62


async def _done(store: Store, member: Any) -> Any:
    (result,) = await store.commit(Batch([member]))
    assert isinstance(result, Done), result
    return result.value


async def _claim(store: Store, now: int = 0) -> list[Claimed]:
    taken: list[Claimed] = await _done(store, Claim(store.enlist(), [Want(*KIND, 10)], now))
    return taken


async def _row(store: Store, claimed: Claimed) -> TaskRow:
    found = await store.task(claimed.ref.id)
    assert found is not None
    return found


class WatchContract:
    """Cases for `StoreContract`: a job `a` with a task, and jobs that it may wait for."""

    async def _held(self, store: Store, *others: str) -> tuple[Commit, Claimed]:
        made = commit(dict.fromkeys(("a", *others)), tasks=[make.task("a", 0, at=3)], at=3)
        await _done(store, made)
        (claimed,) = await _claim(store, now=3)
        return made, claimed

    async def test_a_watching_task_is_nobodys_and_not_due(self, store: Store) -> None:
        made, held = await self._held(store, "b")
        await _done(store, Watch(held.ref, [(job_id("b"), made.revision_cid)], FAR))
        row = await _row(store, held)
        assert (row.worker, row.due, row.attempt, row.parked) == (None, FAR, 0, False)
        assert await _claim(store, now=10**9) == []
        assert await store.next_task([KIND]) == FAR

    async def test_the_commit_that_moves_what_it_watches_makes_it_due(self, store: Store) -> None:
        made, held = await self._held(store, "b", "c")
        reads = [(job_id(name), made.revision_cid) for name in ("b", "c")]
        await _done(store, Watch(held.ref, reads, FAR))
        assert await _done(store, commit({"c": head_of(made, "c")}, at=9)) is True
        assert (await _row(store, held)).due == held.at
        (again,) = await _claim(store, now=held.at)
        assert (again.ref.id, again.attempt, again.ref.token) == (held.ref.id, 1, 2)

    async def test_a_row_may_watch_its_own_job(self, store: Store) -> None:
        made, held = await self._held(store)
        await _done(store, Watch(held.ref, [(job_id("a"), made.revision_cid)], FAR))
        assert (await _row(store, held)).due == FAR
        assert await _done(store, commit({"a": head_of(made, "a")}, at=9)) is True
        assert (await _row(store, held)).due == held.at
        (again,) = await _claim(store, now=held.at)
        assert (again.ref.id, again.attempt) == (held.ref.id, 1)

    async def test_it_is_woken_once(self, store: Store) -> None:
        made, held = await self._held(store, "b", "c")
        reads = [(job_id(name), made.revision_cid) for name in ("b", "c")]
        await _done(store, Watch(held.ref, reads, FAR))
        await _done(store, commit({"b": head_of(made, "b")}))
        (again,) = await _claim(store, now=held.at)
        await _done(store, Defer(again.ref, 50))
        assert not await _done(store, commit({"c": head_of(made, "c")}))
        assert (await _row(store, held)).due == 50

    async def test_a_job_that_comes_to_be_wakes_what_read_its_absence(self, store: Store) -> None:
        _, held = await self._held(store)
        await _done(store, Watch(held.ref, [(job_id("new"), None)], FAR))
        assert await _done(store, commit({"new": None})) is True
        assert (await _row(store, held)).due == held.at

    async def test_a_commit_of_other_jobs_wakes_nothing(self, store: Store) -> None:
        made, held = await self._held(store, "b", "c")
        await _done(store, Watch(held.ref, [(job_id("b"), made.revision_cid)], FAR))
        assert not await _done(store, commit({"c": head_of(made, "c")}))
        assert not await _done(store, Commit(reads=[(job_id("b"), made.revision_cid)]))
        assert (await _row(store, held)).due == FAR

    async def test_what_has_moved_already_is_a_conflict(self, store: Store) -> None:
        made, held = await self._held(store, "b")
        await _done(store, commit({"b": head_of(made, "b")}))
        watch = Watch(held.ref, [(job_id("b"), made.revision_cid)], FAR)
        assert await store.commit(Batch([watch])) == [Conflicted([job_id("b")])]
        assert (await _row(store, held)).worker == held.ref.worker

    @pytest.mark.parametrize("order", ["moves first", "watches first"])
    async def test_in_one_batch_no_change_is_missed(self, store: Store, order: str) -> None:
        made, held = await self._held(store, "b")
        watch = Watch(held.ref, [(job_id("b"), made.revision_cid)], FAR)
        moves = commit({"b": head_of(made, "b")})
        if order == "moves first":
            assert await store.commit(Batch([moves, watch])) == [Done(), Conflicted([job_id("b")])]
        else:
            assert await store.commit(Batch([watch, moves])) == [Done(), Done(True)]
            assert (await _row(store, held)).due == held.at

    async def test_what_it_has_read_in_the_same_batch_does_not_wake_it(self, store: Store) -> None:
        made, held = await self._held(store, "b")
        moves = commit({"b": head_of(made, "b")})
        watch = Watch(held.ref, [(job_id("b"), moves.revision_cid)], FAR)
        assert await store.commit(Batch([moves, watch])) == [Done(), Done()]
        assert (await _row(store, held)).due == FAR

    async def test_of_a_batch_the_commit_that_wakes_it_says_so(self, store: Store) -> None:
        made, held = await self._held(store, "b", "c")
        before = commit({"c": head_of(made, "c")})
        reads = [(job_id("b"), made.revision_cid), (job_id("c"), before.revision_cid)]
        first = commit({"b": head_of(made, "b")})
        others = [commit({"c": head_of(before, "c")}), commit({"b": head_of(first, "b")})]
        batch = Batch([before, Watch(held.ref, reads, FAR), first, *others])
        assert await store.commit(batch) == [Done(), Done(), Done(True), Done(), Done()]
        assert (await _row(store, held)).due == held.at

    @pytest.mark.parametrize("order", ["moves first", "closes first"])
    async def test_what_is_closed_is_woken_no_more(self, store: Store, order: str) -> None:
        made, held = await self._held(store, "b")
        await _done(store, Watch(held.ref, [(job_id("b"), made.revision_cid)], FAR))
        moves = commit({"b": head_of(made, "b")})
        closes = commit({"a": head_of(made, "a")}, closed=[(job_id("a"), held.ref.n, False)])
        if order == "moves first":
            assert await store.commit(Batch([moves, closes])) == [Done(True), Done()]
        else:
            assert await store.commit(Batch([closes, moves])) == [Done(), Done()]
        assert await store.task(held.ref.id) is None

    async def test_several_wait_for_one_job_and_one_for_several(self, store: Store) -> None:
        names = ("a", "b", "c")
        tasks = [make.task(name, 0) for name in names]
        made = commit(dict.fromkeys((*names, "x", "y")), tasks=tasks)
        await _done(store, made)
        for held, watched in zip(await _claim(store), ("x", "xy", "y"), strict=True):
            reads = [(job_id(name), made.revision_cid) for name in watched]
            await _done(store, Watch(held.ref, reads, FAR))
        await _done(store, commit({"x": head_of(made, "x")}))
        woken = await _claim(store)
        assert len(woken) == 2
        await _done(store, commit({"y": head_of(made, "y")}))
        assert len(await _claim(store)) == 1

    async def test_its_own_deadline_makes_it_due_too(self, store: Store) -> None:
        made, held = await self._held(store, "b")
        await _done(store, Watch(held.ref, [(job_id("b"), made.revision_cid)], 70))
        assert await store.next_task([KIND]) == 70
        (again,) = await _claim(store, now=70)
        assert not await _done(store, commit({"b": head_of(made, "b")}))
        settles = commit({"a": head_of(made, "a")}, settles=again.ref)
        assert await _done(store, settles) is None

    async def test_a_closed_row_leaves_nothing_that_could_wake_its_successor(
        self, store: Store
    ) -> None:
        made, held = await self._held(store, "b")
        await _done(store, Watch(held.ref, [(job_id("b"), made.revision_cid)], FAR))
        closes = commit({"a": head_of(made, "a")}, closed=[(job_id("a"), 0, False)])
        await _done(store, closes)
        follows = commit({"a": head_of(closes, "a")}, tasks=[make.task("a", 0, seq=3, at=80)])
        await _done(store, follows)
        assert not await _done(store, commit({"b": head_of(made, "b")}))
        assert await store.next_task([KIND]) == 80

    @pytest.mark.parametrize("lost", ["token", "worker", "id", "parked"])
    async def test_who_does_not_hold_the_row_cannot_let_it_watch(
        self, store: Store, lost: str
    ) -> None:
        made, held = await self._held(store, "b")
        ref = held.ref
        if lost == "token":
            ref = ref._replace(token=7)
        elif lost == "worker":
            ref = ref._replace(worker=store.enlist())
        elif lost == "id":
            ref = ref._replace(id=job_id("another"))
        else:
            await _done(store, Park(ref, codec.encode(Err("Bad").plain())))
        watch = Watch(ref, [(job_id("b"), made.revision_cid)], FAR)
        expected = Closed() if lost == "id" else LeaseLost()
        assert await store.commit(Batch([watch])) == [expected]

    async def test_parking_on_what_has_moved_is_a_conflict(self, store: Store) -> None:
        made, held = await self._held(store, "b")
        park = Park(
            held.ref,
            codec.encode(Err("Bad").plain()),
            reads=[(job_id("b"), made.revision_cid)],
        )
        await _done(store, commit({"b": head_of(made, "b")}))
        assert await store.commit(Batch([park])) == [Conflicted([job_id("b")])]
        assert not (await _row(store, held)).parked
