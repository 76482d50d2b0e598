"""The part of the store contract that is about leaving: the log, `Drop` and `Revive`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import Archived, Corrupt
from stmflow.store import (
    Batch,
    Claim,
    Commit,
    Conflicted,
    Done,
    Drop,
    Dropped,
    DueTimer,
    Duplicate,
    Finished,
    Logged,
    Member,
    Packed,
    Park,
    Ref,
    Result,
    Revive,
    Store,
    StoredHead,
    Sweep,
    Want,
)
from stmflow.testing import builders as make
from stmflow.testing.builders import KIND, WORKFLOW, commit, head_of, job_id
from stmflow.testing.store_contract_jobs import COUNTER, Add, counter
from stmflow.transactor import Transactor

ARCHIVE = CID.of(b"an archive")
OTHER = CID.of(b"another archive")
OVER = Finished(WORKFLOW, ("Over",), 1_000)
"""Jobs of the usual workflow with the tag `Over`, written before 1,000."""


async def one(store: Store, member: Member) -> Result:
    """Commit one member alone; its result."""
    return next(iter(await store.commit(Batch([member]))))


async def wrote(store: Store, member: Commit) -> Commit:
    """Commit what cannot fail."""
    assert await one(store, member) == Done()
    return member


async def chain(store: Store, name: str, length: int, *, tag: str = "Over") -> list[Commit]:
    """A job with so many revisions, the last of that tag."""
    made: list[Commit] = []
    for n in range(length):
        before = head_of(made[-1], name) if made else None
        made.append(await wrote(store, commit({name: before}, at=n, tag=tag)))
    return made


async def newest(store: Store) -> Commit:
    """One revision more at the end of the log, so that those before it may leave."""
    return await wrote(store, commit({f"end {len(await store.jobs())}": None}))


async def whole_log(store: Store) -> list[Logged]:
    """What no archive holds, oldest first."""
    return list(await store.log(limit=10_000))


async def drop(
    store: Store,
    revisions: Sequence[Logged] | None = None,
    *,
    archive: CID | None = ARCHIVE,
    finished: Sequence[Finished] = (OVER,),
) -> Dropped:
    """Drop these, or all that is there; what it came to."""
    if revisions is None:
        revisions = await whole_log(store)
    named = [(each.place, each.packed.cid) for each in revisions]
    prev = next(iter(await store.archives()), None)
    result = await one(store, Drop(named, archive, finished, prev))
    assert isinstance(result, Done)
    found: Dropped = result.value
    return found


async def is_away(store: Store, name: str) -> bool:
    """Whether that job has left."""
    try:
        assert (await store.heads([job_id(name)]))[job_id(name)] is not None
    except Archived:
        return True
    return False


def packed_of(made: Commit) -> Packed:
    """A commit as an archive gives it back."""
    assert made.revision is not None
    assert made.revision_cid is not None
    states = [write.head.state for write in made.writes]
    return Packed(made.revision_cid, made.revision, [*made.blocks, *states])


class RetentionContract:
    """Part of `StoreContract`."""

    durable: ClassVar[bool]
    shared: ClassVar[bool]
    open_store: ClassVar[Any]

    # --- the log

    async def test_the_log_holds_every_revision_in_order_of_its_place(self, store: Store) -> None:
        made = [*await chain(store, "a", 3), await wrote(store, commit({"b": None, "c": None}))]
        found = await whole_log(store)
        assert [each.packed.cid for each in found] == [each.revision_cid for each in made]
        assert [each.place for each in found] == sorted({each.place for each in found})
        for logged, commit_made in zip(found, made, strict=True):
            expected = packed_of(commit_made)
            assert logged.packed.revision == expected.revision
            assert set(logged.packed.blocks) == set(expected.blocks)

    async def test_the_log_comes_page_by_page(self, store: Store) -> None:
        await chain(store, "a", 5)
        pages: list[Logged] = []
        after = 0
        while page := await store.log(after=after, limit=2):
            assert len(page) <= 2
            pages += page
            after = page[-1].place
        assert pages == await whole_log(store)

    async def test_an_empty_store_has_no_log_and_no_archives(self, store: Store) -> None:
        assert await store.log() == []
        assert await store.log(archived=True) == []
        assert await store.archives() == []
        assert await drop(store) == Dropped()

    # --- history leaves

    async def test_history_leaves_and_the_head_stays(self, store: Store) -> None:
        made = await chain(store, "a", 3, tag="Running")
        end = await newest(store)
        assert await drop(store) == Dropped(revisions=2, kept=2, jobs=0)
        assert (await store.heads([job_id("a")]))[job_id("a")] == head_of(made[-1], "a")
        assert [each.cid for each in await store.revisions(job_id("a"))] == [made[-1].revision_cid]
        assert await whole_log(store) == []
        kept = await store.log(archived=True)
        assert [each.packed.cid for each in kept] == [made[-1].revision_cid, end.revision_cid]
        assert await store.archives() == [ARCHIVE]

    async def test_a_job_whose_history_has_left_goes_on(self, store: Store) -> None:
        made = await chain(store, "a", 3, tag="Running")
        await newest(store)
        await drop(store)
        more = await wrote(store, commit({"a": head_of(made[-1], "a")}))
        found = await store.revisions(job_id("a"))
        assert [each.cid for each in found] == [more.revision_cid, made[-1].revision_cid]

    async def test_what_has_left_is_not_found_and_what_stays_is(self, store: Store) -> None:
        made = await chain(store, "a", 2, tag="Running")
        await newest(store)
        await drop(store)
        for gone, there in zip(_cids(made[0]), _cids(made[1]), strict=True):
            assert await store.block(gone) is None
            assert await store.find(gone.digest, 256) == []
            assert await store.block(there) is not None
            assert await store.find(there.digest, 256) == [there]

    async def test_a_block_that_another_revision_holds_too_is_still_found(
        self, store: Store
    ) -> None:
        first = await wrote(store, commit({"a": None}, value=7))
        second = await wrote(store, commit({"a": head_of(first, "a")}, value=7))
        await newest(store)
        assert (await drop(store)).revisions == 1
        (event,) = second.blocks
        assert first.blocks == [event]
        assert await store.block(CID.of(event)) == event

    async def test_a_revision_of_several_jobs_stays_for_the_one_that_needs_it(
        self, store: Store
    ) -> None:
        both = await wrote(store, commit({"a": None, "b": None}, tag="Over"))
        moved = await wrote(store, commit({"a": head_of(both, "a")}, tag="Running"))
        await newest(store)
        assert await drop(store, finished=()) == Dropped(revisions=0, kept=3)
        await wrote(store, commit({"b": head_of(both, "b")}, tag="Running"))
        assert await drop(store, await store.log(archived=True)) == Dropped(1, 2)
        found = await store.revisions(job_id("a"))
        assert [each.cid for each in found] == [moved.revision_cid]

    async def test_what_was_kept_is_judged_again_when_asked(self, store: Store) -> None:
        made = await chain(store, "a", 1, tag="Running")
        await newest(store)
        assert await drop(store) == Dropped(kept=2)
        assert await drop(store, await store.log(archived=True)) == Dropped(kept=2)
        await wrote(store, commit({"a": head_of(made[0], "a")}))
        assert await drop(store, await store.log(archived=True)) == Dropped(revisions=1, kept=1)

    async def test_the_newest_revision_of_the_log_stays(self, store: Store) -> None:
        (made,) = await chain(store, "a", 1)
        assert await drop(store) == Dropped(kept=1)
        assert (await store.heads([job_id("a")]))[job_id("a")] == head_of(made, "a")

    async def test_a_place_that_holds_another_revision_is_left_alone(self, store: Store) -> None:
        await chain(store, "a", 2)
        await newest(store)
        first, *_ = await whole_log(store)
        wrong = first._replace(packed=first.packed._replace(cid=CID.of(b"another")))
        assert await drop(store, [wrong, Logged(10**9, first.packed)]) == Dropped()
        assert len(await whole_log(store)) == 3

    async def test_dropping_twice_drops_once(self, store: Store) -> None:
        await chain(store, "a", 3, tag="Running")
        await newest(store)
        everything = await whole_log(store)
        assert await drop(store, everything) == Dropped(revisions=2, kept=2)
        assert await drop(store, everything) == Dropped(kept=2)

    async def test_archives_come_newest_first_and_once(self, store: Store) -> None:
        for archive in (ARCHIVE, ARCHIVE, OTHER, None):
            await chain(store, f"job of {archive} {len(await store.jobs())}", 2, tag="Running")
            await drop(store, archive=archive)
        assert await store.archives() == [OTHER, ARCHIVE]

    async def test_a_new_archive_names_the_one_before_it_or_nothing_leaves(
        self, store: Store
    ) -> None:
        """So that from the newest one all are found, however many runs there are at once."""
        third = CID.of(b"a third archive")
        await chain(store, "a", 3)
        await newest(store)
        named = [(each.place, each.packed.cid) for each in await whole_log(store)]
        await one(store, Drop(named[:1], ARCHIVE))
        for prev in (None, third):
            assert await one(store, Drop(named, OTHER, (), prev)) == Conflicted()
            assert await store.archives() == [ARCHIVE]
            assert len(await whole_log(store)) == 3
        assert await one(store, Drop(named, OTHER, (), ARCHIVE)) == Done(Dropped(1, 2))
        assert await store.archives() == [OTHER, ARCHIVE]
        for known in (ARCHIVE, OTHER):  # a run of several steps goes on
            assert isinstance(await one(store, Drop(named, known)), Done)
        assert await store.archives() == [OTHER, ARCHIVE]

    # --- a job leaves

    async def test_a_finished_job_leaves_whole(self, store: Store) -> None:
        made = await chain(store, "a", 3)
        await newest(store)
        assert await drop(store) == Dropped(revisions=3, kept=1, jobs=1)
        with pytest.raises(Archived) as caught:
            await store.heads([job_id("a")])
        assert (caught.value.job, caught.value.revision) == (job_id("a"), made[-1].revision_cid)
        assert await store.revisions(job_id("a")) == []
        assert await store.block(_cids(made[-1])[0]) is None

    async def test_an_archived_job_is_still_listed(self, store: Store) -> None:
        await chain(store, "a", 2)
        end = await newest(store)
        before = await store.jobs(), await store.under(WORKFLOW, "a")
        await drop(store)
        assert (await store.jobs(), await store.under(WORKFLOW, "a")) == before
        assert [row.job for row in await store.jobs(after=job_id("a"))] == [end.writes[0].job]

    @pytest.mark.parametrize("at", [999, 1_000, 1_001])
    async def test_a_job_leaves_when_it_was_last_written_before_the_bound(
        self, store: Store, at: int
    ) -> None:
        await wrote(store, commit({"a": None}, at=at, tag="Over"))
        await newest(store)
        assert (await drop(store)).jobs == int(at < 1_000)

    @pytest.mark.parametrize(
        "finished", [(), (OVER._replace(workflow="w"),), (OVER._replace(tags=("Running",)),)]
    )
    async def test_a_job_of_another_workflow_or_tag_stays(
        self, store: Store, finished: Sequence[Finished]
    ) -> None:
        await chain(store, "a", 1)
        await newest(store)
        assert await drop(store, finished=finished) == Dropped(kept=2)
        assert not await is_away(store, "a")

    async def test_no_job_leaves_for_nowhere(self, store: Store) -> None:
        await chain(store, "a", 2)
        await newest(store)
        assert await drop(store, archive=None) == Dropped(revisions=1, kept=2)
        assert not await is_away(store, "a")
        assert len(await whole_log(store)) == 2
        assert await store.log(archived=True) == []
        assert await store.archives() == []

    async def test_what_an_archive_holds_may_leave_without_naming_it_again(
        self, store: Store
    ) -> None:
        await chain(store, "a", 2)
        await newest(store)
        assert await drop(store, finished=()) == Dropped(revisions=1, kept=2)
        kept = await store.log(archived=True)
        assert await drop(store, kept, archive=None) == Dropped(revisions=1, kept=1, jobs=1)
        assert await is_away(store, "a")
        assert await store.archives() == [ARCHIVE]

    @pytest.mark.parametrize("waits", ["task", "parked", "timer", "delivery"])
    async def test_a_job_of_which_something_waits_stays_until_it_does_not(
        self, store: Store, waits: str
    ) -> None:
        task, timer = make.task("a", 0), make.timer("a", 1, due=50)
        chosen: dict[str, dict[str, Any]] = {
            "task": {"tasks": [task]},
            "parked": {"tasks": [task]},
            "timer": {"timers": [timer]},
            "delivery": {"delivery": make.delivery("a", until=900)},
        }
        made = await wrote(store, commit({"a": None}, tag="Over", **chosen[waits]))
        if waits == "parked":
            await _park(store)
        await newest(store)
        assert (await drop(store)).jobs == 0
        assert not await is_away(store, "a")
        if waits == "delivery":
            assert await one(store, Sweep(901, 10)) == Done(1)
        else:
            gone = [(job_id("a"), 1, True)] if waits == "timer" else [(job_id("a"), 0, False)]
            made = await wrote(store, commit({"a": head_of(made, "a")}, tag="Over", closed=gone))
            await newest(store)
        left = [*await store.log(archived=True), *await whole_log(store)]
        assert (await drop(store, left)).jobs == 1
        assert await is_away(store, "a")

    async def test_jobs_of_one_revision_leave_together_or_not_at_all(self, store: Store) -> None:
        both = await wrote(store, commit({"a": None, "b": None}, tag="Over"))
        await wrote(store, commit({"b": head_of(both, "b")}, tag="Running"))
        three = await wrote(
            store, commit({"c": None, "d": None}, tag="Over", timers=[make.timer("c", 0, due=9)])
        )
        await newest(store)
        assert (await drop(store)).jobs == 1
        assert [await is_away(store, name) for name in "abcd"] == [True, False, False, False]
        fires = DueTimer(job_id("c"), 0, make.timer("c", 0, due=9).id, 9)
        await wrote(store, commit({"c": head_of(three, "c")}, tag="Over", fires=fires))
        await newest(store)
        left = [*await store.log(archived=True), *await whole_log(store)]
        assert (await drop(store, left)).jobs == 2

    # --- it is never born again

    async def test_an_archived_job_is_not_born_again(self, store: Store) -> None:
        await chain(store, "a", 2)
        await newest(store)
        await drop(store)
        again = await one(store, commit({"a": None}))
        assert again == Conflicted([job_id("a")])
        assert await one(store, commit({"b": None}, reads=[(job_id("a"), None)])) == again
        assert await is_away(store, "a")

    async def test_a_commit_upon_the_head_that_left_goes_on_from_it(self, store: Store) -> None:
        made = await chain(store, "a", 2)
        await newest(store)
        await drop(store)
        more = await wrote(store, commit({"a": head_of(made[-1], "a")}, tag="Running"))
        assert (await store.heads([job_id("a")]))[job_id("a")] == head_of(more, "a")
        assert [each.cid for each in await store.revisions(job_id("a"))] == [more.revision_cid]

    async def test_a_late_outcome_for_an_archived_job_is_closed(self, store: Store) -> None:
        worker = store.enlist()
        task = make.task("a", 0, worker=worker)
        made = await wrote(store, commit({"a": None}, tasks=[task]))
        ref = Ref(task.job, 0, task.id, worker, 1)
        ended = await wrote(store, commit({"a": head_of(made, "a")}, tag="Over", settles=ref))
        await newest(store)
        assert (await drop(store)).jobs == 1
        late = await one(store, commit({"a": head_of(ended, "a")}, settles=ref))
        assert type(late).__name__ == "Closed"
        assert await is_away(store, "a")
        store.retire(worker)

    # --- it comes back

    async def test_a_revived_job_is_as_it_was(self, store: Store) -> None:
        made = await chain(store, "a", 3)
        await newest(store)
        await drop(store)
        assert await one(store, Revive(job_id("a"), packed_of(made[-1]))) == Done()
        assert (await store.heads([job_id("a")]))[job_id("a")] == head_of(made[-1], "a")
        for cid in _cids(made[-1]):
            assert await store.block(cid) is not None
        more = await wrote(store, commit({"a": head_of(made[-1], "a")}))
        found = await store.revisions(job_id("a"))
        assert [each.cid for each in found] == [more.revision_cid, made[-1].revision_cid]

    async def test_a_revived_revision_is_in_the_archive_already(self, store: Store) -> None:
        made = await chain(store, "a", 1)
        await newest(store)
        await drop(store)
        await one(store, Revive(job_id("a"), packed_of(made[-1])))
        assert made[-1].revision_cid not in [each.packed.cid for each in await whole_log(store)]
        kept = await store.log(archived=True)
        assert made[-1].revision_cid in [each.packed.cid for each in kept]
        await newest(store)
        assert (await drop(store, kept)).jobs == 1
        assert await is_away(store, "a")

    async def test_what_was_revived_and_has_left_again_is_not_missed(self, store: Store) -> None:
        made = await chain(store, "a", 1)
        await newest(store)
        await drop(store)
        await one(store, Revive(job_id("a"), packed_of(made[-1])))
        more = await wrote(store, commit({"a": head_of(made[-1], "a")}))
        await newest(store)
        kept = await store.log(archived=True)
        dropped = await one(store, Drop([(each.place, each.packed.cid) for each in kept], None))
        assert isinstance(dropped, Done)
        assert dropped.value.revisions == 1
        found = await store.revisions(job_id("a"))
        assert [each.cid for each in found] == [more.revision_cid]

    async def test_jobs_that_left_together_come_back_together(self, store: Store) -> None:
        both = await wrote(store, commit({"a": None, "b": None}, tag="Over"))
        await newest(store)
        assert (await drop(store)).jobs == 2
        assert await one(store, Revive(job_id("b"), packed_of(both))) == Done()
        found = await store.heads([job_id("a"), job_id("b")])
        assert found == {job_id(name): head_of(both, name) for name in "ab"}

    async def test_only_the_head_that_left_is_revived_and_once(self, store: Store) -> None:
        made = await chain(store, "a", 2)
        other = await newest(store)
        conflict = Conflicted([job_id("a")])
        assert await one(store, Revive(job_id("a"), packed_of(made[-1]))) == conflict
        await drop(store)
        for wrong in (made[0], other):
            assert await one(store, Revive(job_id("a"), packed_of(wrong))) == conflict
        assert await one(store, Revive(job_id("a"), packed_of(made[-1]))) == Done()
        assert await one(store, Revive(job_id("a"), packed_of(made[-1]))) == conflict
        unknown = Revive(job_id("nobody"), packed_of(made[-1]))
        assert await one(store, unknown) == Conflicted([job_id("nobody")])

    async def test_what_does_not_hash_or_lacks_a_state_is_not_revived(self, store: Store) -> None:
        (made,) = await chain(store, "a", 1)
        await newest(store)
        await drop(store)
        packed = packed_of(made)
        for wrong in (packed._replace(revision=b"x"), packed._replace(blocks=made.blocks)):
            with pytest.raises(Corrupt):
                await one(store, Revive(job_id("a"), wrong))
            assert await is_away(store, "a")

    # --- with others at work

    async def test_a_drop_that_races_with_a_commit_loses_no_head(self, store: Store) -> None:
        """Whoever comes first: the job has its newer head, or left with the one it had."""
        for n in range(4):
            name = f"job {n}"
            made = await chain(store, name, 2)
            await newest(store)
            everything = await whole_log(store)
            results: list[Result] = []

            async def write(name: str, head: StoredHead, results: list[Result] = results) -> None:
                results.append(await one(store, commit({name: head}, tag="Running")))

            async with anyio.create_task_group() as group:
                if n % 2:
                    group.start_soon(write, name, head_of(made[-1], name))
                group.start_soon(drop, store, everything)
                if not n % 2:
                    group.start_soon(write, name, head_of(made[-1], name))
            assert results == [Done()]
            found = (await store.heads([job_id(name)]))[job_id(name)]
            assert found is not None
            assert found.seq == 3

    async def test_a_job_made_by_a_transactor_leaves_and_comes_back(self, store: Store) -> None:
        over = Finished(COUNTER.name, ("Total",), 2**62)
        async with Transactor(store, [COUNTER]) as transactor:
            for n in range(3):
                await transactor.send(COUNTER, Add("a", n))
            await transactor.send(COUNTER, Add("b", 1))
            last = (await store.revisions(counter("a").id))[0]
            assert (await drop(store, finished=[over])).jobs == 1
        async with Transactor(store, [COUNTER]) as transactor:
            with pytest.raises(Archived):
                await transactor.send(COUNTER, Add("a", 4), delivery="4")
            with pytest.raises(Archived):
                await transactor.get(counter("a"))
            with pytest.raises(Archived):
                await transactor.transact(lambda tx: tx.read(counter("a")))
            assert await one(store, Revive(counter("a").id, last)) == Done()
            answer = await transactor.send(COUNTER, Add("a", 4), delivery="4")
            assert (answer.kind, answer.seq) == ("committed", 4)
            head = await transactor.get(counter("a"))
            assert head is not None
            assert head.state.total == 7
            repeat = await transactor.send(COUNTER, Add("a", 4), delivery="4")
            assert repeat == answer._replace(repeated=True)

    async def test_a_repeat_is_answered_after_history_has_left(self, store: Store) -> None:
        delivery = make.delivery("a", until=10**15)
        made = await wrote(store, commit({"a": None}, tag="Over", delivery=delivery))
        await wrote(store, commit({"a": head_of(made, "a")}, tag="Over"))
        await newest(store)
        assert await drop(store) == Dropped(revisions=1, kept=2)
        again = await one(store, commit({"a": None}, delivery=delivery))
        assert again == Duplicate(delivery.answer)

    async def test_what_has_left_stays_away_when_opened_again(self, tmp_path: Path) -> None:
        if not self.durable:
            pytest.skip("this store keeps nothing")
        async with self.open_store(tmp_path) as store:
            made = await chain(store, "a", 3)
            await chain(store, "b", 2, tag="Running")
            await newest(store)
            await drop(store)
        async with self.open_store(tmp_path) as store:
            assert await is_away(store, "a")
            assert len(await store.revisions(job_id("b"))) == 1
            assert await store.archives() == [ARCHIVE]
            assert await one(store, Revive(job_id("a"), packed_of(made[-1]))) == Done()
        async with self.open_store(tmp_path) as store:
            assert (await store.heads([job_id("a")]))[job_id("a")] == head_of(made[-1], "a")

    async def test_another_process_sees_what_has_left(self, tmp_path: Path) -> None:
        if not self.shared:
            pytest.skip("this store has one process")
        async with self.open_store(tmp_path) as first, self.open_store(tmp_path) as second:
            made = await chain(first, "a", 2)
            await newest(second)
            assert (await drop(second)).jobs == 1
            assert await is_away(first, "a")
            assert await one(first, commit({"a": None})) == Conflicted([job_id("a")])
            more = await wrote(first, commit({"a": head_of(made[-1], "a")}))
            assert not await is_away(second, "a")
            assert len(await second.revisions(job_id("a"))) == 1
            assert (await second.revisions(job_id("a")))[0].cid == more.revision_cid

    async def test_claims_go_on_beside(self, store: Store) -> None:
        worker = store.enlist()
        tasks = [make.task("a", 0)]
        await wrote(store, commit({"a": None}, tag="Over", tasks=tasks))
        await newest(store)
        await drop(store)
        result = await one(store, Claim(worker, [Want(*KIND, 5)], 10))
        assert isinstance(result, Done)
        assert [claimed.ref.id for claimed in result.value] == [tasks[0].id]
        store.retire(worker)


def _cids(made: Commit) -> list[CID]:
    """The revision, event and state of a commit on one job."""
    packed = packed_of(made)
    return [packed.cid, *(CID.of(block) for block in packed.blocks)]


async def _park(store: Store) -> None:
    """Park the one task that is due."""
    worker = store.enlist()
    result = await one(store, Claim(worker, [Want(*KIND, 1)], 10))
    assert isinstance(result, Done)
    (claimed,) = result.value
    assert (
        await one(store, Park(claimed.ref, codec.encode({"name": "E", "detail": None}))) == Done()
    )
    store.retire(worker)
