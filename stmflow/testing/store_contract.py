"""The contract of `stmflow.store.Store`: the one suite that every store passes.

Adopt it in a test module of your own:

    import pytest

    pytest.register_assert_rewrite("stmflow.testing.store_contract")

    from stmflow.testing.store_contract import StoreContract

    class TestMyStore(StoreContract):
        durable = True
        shared = True

        def open_store(self, folder):
            return MyStore.open(folder / "jobs")

`open_store` gives an async context manager. Opened again on the same folder, a `durable` store has
kept what was committed; a `shared` one may be open twice at once. Needs pytest, Hypothesis and the
pytest plugin of anyio.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import Err
from stmflow.errors import DeadlineExceeded, NotFound, ReducerFailed
from stmflow.limits import LIMITS
from stmflow.store import (
    Batch,
    Beat,
    Claim,
    Claimed,
    Closed,
    Commit,
    Conflicted,
    Defer,
    Disown,
    Done,
    DueTimer,
    Duplicate,
    LeaseLost,
    Member,
    Park,
    Reap,
    Redrive,
    Ref,
    Result,
    Store,
    StoredHead,
    Sweep,
    TaskRow,
    Want,
)
from stmflow.testing import builders as make
from stmflow.testing.builders import KIND, STAT, WORKFLOW, commit, head_of, job_id
from stmflow.testing.store_contract_jobs import (
    COUNTER,
    RELAY,
    TRANSACTIONAL,
    Add,
    Begin,
    Passed,
    Total,
    Walk,
    account,
    counter,
    relay,
)
from stmflow.testing.store_contract_retention import RetentionContract
from stmflow.testing.store_contract_watch import WatchContract
from stmflow.testing.store_machine import StoreMachine
from stmflow.transactor import Transactor
from stmflow.vitals import EXAMPLES

SOON = 5.0
"""Seconds after which a wait for something that is certain is a failure."""


async def apply(store: Store, *members: Member) -> list[Result]:
    """Commit these members as one batch; their results."""
    return list(await store.commit(Batch(members)))


async def one(store: Store, member: Member) -> Result:
    """Commit one member alone; its result."""
    (result,) = await apply(store, member)
    return result


async def done(store: Store, member: Member) -> Any:
    """Commit one member that cannot fail; the value of its result."""
    result = await one(store, member)
    assert isinstance(result, Done), result
    return result.value


async def created(store: Store, *names: str, **given: Any) -> Commit:
    """Make these jobs in one commit; that commit."""
    made = commit(dict.fromkeys(names), **given)
    await done(store, made)
    return made


async def head(store: Store, name: str) -> StoredHead | None:
    """The head of that job."""
    return (await store.heads([job_id(name)]))[job_id(name)]


async def seq(store: Store, name: str) -> int:
    """The seq of that job's head, 0 where there is no job."""
    found = await head(store, name)
    return 0 if found is None else found.seq


async def claim(store: Store, worker: int, now: int = 0, limit: int = 10) -> list[Claimed]:
    """Claim tasks of the usual kind."""
    taken: list[Claimed] = await done(store, Claim(worker, [Want(*KIND, limit)], now))
    return taken


async def row(store: Store, id: CID) -> TaskRow:
    """The outbox row of a task that must be there."""
    found = await store.task(id)
    assert found is not None
    return found


def keyed_id(key: Sequence[Any], workflow: str = WORKFLOW) -> CID:
    """The job that `keyed` makes."""
    return job_id(codec.encode(list(key)).hex(), workflow)


async def keyed(store: Store, key: Sequence[Any], **given: Any) -> None:
    """Make a job of that key."""
    made = commit({codec.encode(list(key)).hex(): None}, **given)
    (write,) = made.writes
    made.writes = [write._replace(head=write.head._replace(key=list(key)))]
    await done(store, made)


async def under(store: Store, *prefix: Any, **given: Any) -> list[tuple[Any, ...]]:
    """The keys of the usual workflow's jobs under that prefix."""
    return [tuple(found.key) for found in await store.under(WORKFLOW, *prefix, **given)]


def error(name: str = "Refused") -> bytes:
    """A failure as a parked row keeps it."""
    return codec.encode(Err(name).plain())


class StoreContract(RetentionContract, WatchContract):
    """Inherit, give `open_store`, and pytest runs it all against your store."""

    durable: ClassVar[bool] = False
    """Whether a folder opened again has kept what was committed."""

    shared: ClassVar[bool] = False
    """Whether a folder may be open twice at once, as by two processes."""

    pytestmark: ClassVar[Any] = pytest.mark.anyio

    def open_store(self, folder: Path) -> AbstractAsyncContextManager[Store]:
        """A store in that folder, empty where the folder is new."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Store]:
        async with self.open_store(tmp_path) as store:
            yield store

    # --- a commit is one atomic write -------------------------------------------------------------

    async def test_an_empty_store_knows_nothing(self, store: Store) -> None:
        absent = CID.of(b"absent")
        assert await store.heads([absent]) == {absent: None}
        assert await store.heads([]) == {}
        assert await store.delivery(absent, b"d") is None
        assert await store.timers(10**12, 10) == []
        assert await store.next_timer() is None
        assert await store.next_task([KIND]) is None
        assert await store.task(absent) is None
        assert await store.tasks() == []
        assert await store.tasks(job=absent) == []
        assert await store.revisions(absent) == []
        assert await store.block(absent) is None
        assert await store.find(absent.digest[:2], 16) == []
        assert await store.jobs() == []
        assert await store.under(WORKFLOW) == []

    async def test_an_empty_batch_is_done(self, store: Store) -> None:
        assert await apply(store) == []

    async def test_a_commit_of_nothing_is_done(self, store: Store) -> None:
        assert await one(store, Commit()) == Done()

    async def test_a_commit_makes_head_blocks_tasks_timers_and_delivery_at_once(
        self, store: Store
    ) -> None:
        task, timer = make.task("a", 0), make.timer("a", 1, due=50)
        answer = make.delivery("a")
        made = await created(store, "a", tasks=[task], timers=[timer], delivery=answer)
        assert await head(store, "a") == head_of(made, "a")
        assert made.revision_cid is not None
        for block in (made.revision, *made.blocks, head_of(made, "a").state):
            assert block is not None
            assert await store.block(CID.of(block)) == block
        assert {found.id for found in await store.tasks()} == {task.id, timer.id}
        assert await store.delivery(answer.job, answer.id) == answer.answer

    @pytest.mark.parametrize("refused", ["read", "prev", "lease", "timer", "delivery"])
    async def test_a_refused_commit_leaves_no_trace(self, store: Store, refused: str) -> None:
        known = await created(store, "known", delivery=make.delivery("known"))
        before = await store.tasks(), await store.jobs()
        chosen: dict[str, dict[str, Any]] = {
            "read": {"reads": [(job_id("known"), None)]},
            "prev": {},
            "lease": {"settles": Ref(job_id("known"), 7, CID.of(b"gone"), 1, 1)},
            "timer": {"fires": DueTimer(job_id("known"), 7, CID.of(b"gone"), 0)},
            "delivery": {"delivery": make.delivery("known")},
        }
        given = chosen[refused]
        writes: dict[str, StoredHead | None] = {"new": None}
        if refused == "prev":
            writes["known"] = None
        if refused != "delivery":
            given["delivery"] = make.delivery("known", b"another")
        lost = commit(
            writes, tasks=[make.task("new", 0)], timers=[make.timer("new", 1, due=0)], **given
        )
        assert not isinstance(await one(store, lost), Done)
        assert await head(store, "new") is None
        assert await head(store, "known") == head_of(known, "known")
        assert (await store.tasks(), await store.jobs()) == before
        assert await store.delivery(job_id("known"), b"another") is None
        assert lost.revision_cid is not None
        assert await store.block(lost.revision_cid) is None
        assert await store.timers(10**12, 10) == []

    async def test_a_commit_over_several_jobs_moves_all_heads(self, store: Store) -> None:
        made = await created(store, "a", "b", "c")
        found = await store.heads([job_id(name) for name in "abc"])
        assert found == {job_id(name): head_of(made, name) for name in "abc"}
        assert {h.revision for h in found.values() if h is not None} == {made.revision_cid}

    async def test_heads_come_for_absent_and_present_jobs_alike(self, store: Store) -> None:
        made = await created(store, "a")
        asked = [job_id("b"), job_id("a")]
        assert await store.heads(asked) == {asked[0]: None, asked[1]: head_of(made, "a")}

    async def test_a_key_of_every_plain_type_comes_back(self, store: Store) -> None:
        made = commit({"a": None})
        key = ["did:key:z", b"\x00\xff", 7, -1, CID.of(b"link")]
        write = made.writes[0]
        made.writes = [write._replace(head=write.head._replace(key=key))]
        await done(store, made)
        found = await head(store, "a")
        assert found is not None
        assert found.key == key
        (listed,) = await store.jobs()
        assert listed.key == key

    # --- conflicts --------------------------------------------------------------------------------

    async def test_a_job_is_created_once(self, store: Store) -> None:
        await created(store, "a")
        assert await one(store, commit({"a": None})) == Conflicted([job_id("a")])
        assert await seq(store, "a") == 1

    async def test_a_write_on_an_absent_job_with_a_prev_is_a_conflict(self, store: Store) -> None:
        elsewhere = head_of(commit({"a": None}), "a")
        assert await one(store, commit({"a": elsewhere})) == Conflicted([job_id("a")])
        assert await head(store, "a") is None

    async def test_a_write_on_an_older_head_is_a_conflict(self, store: Store) -> None:
        first = head_of(await created(store, "a"), "a")
        second = commit({"a": first})
        await done(store, second)
        assert await one(store, commit({"a": first})) == Conflicted([job_id("a")])
        assert await head(store, "a") == head_of(second, "a")

    async def test_a_read_that_has_moved_is_a_conflict(self, store: Store) -> None:
        first = head_of(await created(store, "a"), "a")
        await done(store, commit({"a": first}))
        late = commit({"b": None}, reads=[(job_id("a"), first.revision)])
        assert await one(store, late) == Conflicted([job_id("a")])
        assert await head(store, "b") is None

    async def test_a_read_that_stands_is_none(self, store: Store) -> None:
        first = head_of(await created(store, "a"), "a")
        await created(store, "b", reads=[(job_id("a"), first.revision)])
        assert await head(store, "a") == first

    async def test_an_absence_that_was_read_and_has_ended_is_a_conflict(self, store: Store) -> None:
        await created(store, "a")
        late = commit({"b": None}, reads=[(job_id("a"), None)])
        assert await one(store, late) == Conflicted([job_id("a")])

    async def test_an_absence_that_stands_is_none(self, store: Store) -> None:
        await created(store, "b", reads=[(job_id("a"), None)])
        assert await seq(store, "b") == 1

    async def test_a_read_of_an_absent_job_as_present_is_a_conflict(self, store: Store) -> None:
        late = commit({"b": None}, reads=[(job_id("a"), CID.of(b"no such revision"))])
        assert await one(store, late) == Conflicted([job_id("a")])

    async def test_a_commit_that_only_reads_is_judged_all_the_same(self, store: Store) -> None:
        first = head_of(await created(store, "a"), "a")
        assert await one(store, Commit(reads=[(job_id("a"), first.revision)])) == Done()
        assert await one(store, Commit(reads=[(job_id("a"), None)])) == Conflicted([job_id("a")])

    async def test_every_job_that_moved_is_named(self, store: Store) -> None:
        await created(store, "a", "b")
        late = commit({"a": None, "c": None}, reads=[(job_id("b"), None), (job_id("d"), None)])
        result = await one(store, late)
        assert isinstance(result, Conflicted)
        assert set(result.jobs) == {job_id("a"), job_id("b")}
        assert await head(store, "c") is None

    @pytest.mark.parametrize("together", [True, False])
    async def test_there_is_no_write_skew_on_present_jobs(
        self, store: Store, together: bool
    ) -> None:
        a = head_of(await created(store, "a"), "a")
        b = head_of(await created(store, "b"), "b")
        left = commit({"a": a}, reads=[(b.job, b.revision)])
        right = commit({"b": b}, reads=[(a.job, a.revision)])
        results = await self._two(store, left, right, together)
        assert results == [Done(), Conflicted([a.job])]

    @pytest.mark.parametrize("together", [True, False])
    async def test_there_is_no_write_skew_on_absent_jobs(
        self, store: Store, together: bool
    ) -> None:
        left = commit({"a": None}, reads=[(job_id("b"), None)])
        right = commit({"b": None}, reads=[(job_id("a"), None)])
        results = await self._two(store, left, right, together)
        assert results == [Done(), Conflicted([job_id("a")])]
        assert await head(store, "b") is None

    async def test_write_skew_is_refused_among_concurrent_batches(self, store: Store) -> None:
        """Each of eight creates its own job and has read that the others are absent."""
        names = [str(n) for n in range(8)]
        results: list[Result] = []

        async def create(name: str) -> None:
            others = [(job_id(other), None) for other in names if other != name]
            results.append(await one(store, commit({name: None}, reads=others)))

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(create, name)
        assert sum(isinstance(result, Done) for result in results) == 1
        assert len(await store.jobs()) == 1

    async def test_a_state_that_comes_back_does_not_bring_its_head_back(self, store: Store) -> None:
        """A → B → A: the head is another one, so who read the first A has lost."""
        first = head_of(await created(store, "a", value=1), "a")
        second = commit({"a": first}, value=2)
        third = commit({"a": head_of(second, "a")}, value=1)
        await apply(store, second, third)
        assert head_of(third, "a").state == first.state
        assert await one(store, commit({"a": first})) == Conflicted([job_id("a")])

    @staticmethod
    async def _two(store: Store, left: Commit, right: Commit, together: bool) -> list[Result]:
        if together:
            return await apply(store, left, right)
        return [await one(store, left), await one(store, right)]

    @pytest.mark.parametrize("order", sorted(set(itertools.permutations("AABB"))), ids="".join)
    async def test_every_interleaving_of_two_commits_on_one_head(
        self, store: Store, order: Sequence[str]
    ) -> None:
        """Each client reads, then commits: the second commit on one reading always loses."""
        await created(store, "a")
        read: dict[str, StoredHead | None] = {}
        results: list[bool] = []
        last = ""
        for client in order:
            if client not in read:
                read[client] = await head(store, "a")
            else:
                result = await one(store, commit({"a": read[client]}))
                results.append(isinstance(result, Done))
                last = client
        apart = order[0] == order[1]
        assert results == [True, apart]
        assert last
        assert await seq(store, "a") == 1 + sum(results)

    @pytest.mark.parametrize("order", sorted(set(itertools.permutations("AABB"))), ids="".join)
    async def test_every_interleaving_of_two_creations_of_one_job(
        self, store: Store, order: Sequence[str]
    ) -> None:
        read: dict[str, StoredHead | None] = {}
        results = []
        for client in order:
            if client not in read:
                read[client] = await head(store, "a")
            else:
                results.append(await one(store, commit({"a": read[client]})))
        assert isinstance(results[0], Done)
        assert isinstance(results[1], Done if order[0] == order[1] else Conflicted)

    async def test_of_many_concurrent_commits_on_one_head_one_is_done(self, store: Store) -> None:
        first = head_of(await created(store, "a"), "a")
        rivals = [commit({"a": first}) for _ in range(20)]
        results: list[Result] = []

        async def run(rival: Commit) -> None:
            results.append(await one(store, rival))

        async with anyio.create_task_group() as group:
            for rival in rivals:
                group.start_soon(run, rival)
        assert sum(isinstance(result, Done) for result in results) == 1
        assert await seq(store, "a") == 2

    # --- batches ----------------------------------------------------------------------------------

    async def test_members_apply_in_order(self, store: Store) -> None:
        first = commit({"a": None})
        second = commit({"a": head_of(first, "a")})
        third = commit({"a": head_of(second, "a")})
        assert await apply(store, first, second, third) == [Done(), Done(), Done()]
        assert await head(store, "a") == head_of(third, "a")
        chain = [packed.cid for packed in await store.revisions(job_id("a"))]
        assert chain == [third.revision_cid, second.revision_cid, first.revision_cid]

    async def test_members_in_the_wrong_order_conflict(self, store: Store) -> None:
        first = commit({"a": None})
        second = commit({"a": head_of(first, "a")})
        assert await apply(store, second, first) == [Conflicted([job_id("a")]), Done()]
        assert await head(store, "a") == head_of(first, "a")

    async def test_a_member_that_fails_fails_no_other(self, store: Store) -> None:
        await created(store, "a")
        lost = commit({"a": None})
        before, after = commit({"b": None}), commit({"c": None})
        results = await apply(store, before, lost, after)
        assert results == [Done(), Conflicted([job_id("a")]), Done()]
        assert (await seq(store, "b"), await seq(store, "c")) == (1, 1)

    async def test_a_member_built_on_a_failed_one_fails_too(self, store: Store) -> None:
        known = await created(store, "a")
        lost = commit({"a": None, "b": None})
        upon = commit({"b": head_of(lost, "b")})
        upon_that = commit({"b": head_of(upon, "b")})
        results = await apply(store, lost, upon, upon_that)
        assert [type(result) for result in results] == [Conflicted] * 3
        assert await head(store, "b") is None
        assert await head(store, "a") == head_of(known, "a")

    async def test_a_member_that_read_what_a_failed_one_would_write_fails_too(
        self, store: Store
    ) -> None:
        await created(store, "a")
        lost = commit({"a": None, "b": None})
        assert lost.revision_cid is not None
        upon = commit({"c": None}, reads=[(job_id("b"), lost.revision_cid)])
        results = await apply(store, lost, upon)
        assert [type(result) for result in results] == [Conflicted, Conflicted]

    async def test_a_member_may_read_what_an_earlier_one_wrote(self, store: Store) -> None:
        first = commit({"a": None})
        second = commit({"b": None}, reads=[(job_id("a"), first.revision_cid)])
        assert await apply(store, first, second) == [Done(), Done()]

    async def test_a_task_may_be_made_and_closed_in_one_batch(self, store: Store) -> None:
        task = make.task("a", 0)
        first = commit({"a": None}, tasks=[task])
        second = commit({"a": head_of(first, "a")}, closed=[(task.job, 0, False)])
        assert await apply(store, first, second) == [Done(), Done()]
        assert await store.tasks() == []
        assert await store.next_task([KIND]) is None

    async def test_a_timer_may_be_made_and_fired_in_one_batch(self, store: Store) -> None:
        timer = make.timer("a", 0, due=5)
        first = commit({"a": None}, timers=[timer])
        second = commit({"a": head_of(first, "a")}, fires=timer)
        again = commit({"a": head_of(second, "a")}, fires=timer)
        assert await apply(store, first, second, again) == [Done(), Done(), Closed()]
        assert await store.next_timer() is None

    async def test_a_task_made_claimed_may_be_settled_in_one_batch(self, store: Store) -> None:
        worker = store.enlist()
        task = make.task("a", 0, worker=worker)
        ref = Ref(task.job, 0, task.id, worker, 1)
        first = commit({"a": None}, tasks=[task])
        second = commit({"a": head_of(first, "a")}, settles=ref)
        again = commit({"a": head_of(second, "a")}, settles=ref)
        assert await apply(store, first, second, again) == [Done(), Done(), Closed()]

    async def test_a_task_made_in_a_batch_may_be_claimed_in_it(self, store: Store) -> None:
        worker = store.enlist()
        task = make.task("a", 0)
        made = commit({"a": None}, tasks=[task])
        results = await apply(store, made, Claim(worker, [Want(*KIND, 1)], 0))
        assert isinstance(results[1], Done)
        assert [claimed.ref.id for claimed in results[1].value] == [task.id]

    async def test_a_row_closed_and_its_place_taken_anew_is_another_row(self, store: Store) -> None:
        """Places are not used twice by the engine; a store that confuses them would lose a task."""
        worker = store.enlist()
        first = make.task("a", 0, worker=worker)
        made = await created(store, "a", tasks=[first])
        anew = make.task("a", 0, seq=2)
        second = commit({"a": head_of(made, "a")}, closed=[(first.job, 0, False)], tasks=[anew])
        await done(store, second)
        assert [found.id for found in await store.tasks()] == [anew.id]
        late = commit(
            {"a": head_of(second, "a")}, settles=Ref(first.job, 0, first.id, worker, 1), closed=[]
        )
        assert await one(store, late) == Closed()
        assert [found.id for found in await store.tasks()] == [anew.id]

    async def test_a_large_batch_is_applied_whole(self, store: Store) -> None:
        chain = [commit({"a": None})]
        for _ in range(255):
            chain.append(commit({"a": head_of(chain[-1], "a")}))
        assert await apply(store, *chain) == [Done()] * 256
        assert await seq(store, "a") == 256

    async def test_a_store_may_ask_for_a_new_plan_only_for_the_same_requests(
        self, store: Store
    ) -> None:
        """`replan` reads heads as they are; whether or not it is called, the answers fit."""
        await created(store, "a")
        seen: list[StoredHead | None] = []

        def replan(read: Callable[[CID], StoredHead | None]) -> Sequence[Member]:
            seen.append(read(job_id("a")))
            return [commit({"a": seen[-1]}), commit({"b": None})]

        batch = Batch([commit({"a": await head(store, "a")}), commit({"b": None})], replan)
        results = await store.commit(batch)
        assert list(results) == [Done(), Done()]
        assert (await seq(store, "a"), await seq(store, "b")) == (2, 1)
        assert [found.seq for found in seen if found is not None] in ([], [1])

    # --- deliveries -------------------------------------------------------------------------------

    async def test_a_repeat_gets_the_first_answer(self, store: Store) -> None:
        first = await created(store, "a", delivery=make.delivery("a", answer=b"first"))
        again = commit({"a": head_of(first, "a")}, delivery=make.delivery("a", answer=b"second"))
        assert await one(store, again) == Duplicate(b"first")
        assert await seq(store, "a") == 1
        assert await store.delivery(job_id("a"), b"d") == b"first"

    async def test_a_repeat_in_the_same_batch_gets_the_first_answer(self, store: Store) -> None:
        first = commit({"a": None}, delivery=make.delivery("a", answer=b"first"))
        again = commit({"a": head_of(first, "a")}, delivery=make.delivery("a", answer=b"second"))
        assert await apply(store, first, again) == [Done(), Duplicate(b"first")]

    async def test_a_repeat_on_an_old_head_is_a_duplicate_before_it_is_a_conflict(
        self, store: Store
    ) -> None:
        made = commit({"a": None}, delivery=make.delivery("a", answer=b"first"))
        await done(store, made)
        assert await one(store, made) == Duplicate(b"first")

    async def test_a_delivery_of_a_refused_commit_is_not_remembered(self, store: Store) -> None:
        await created(store, "a")
        lost = commit({"a": None}, delivery=make.delivery("a"))
        assert await one(store, lost) == Conflicted([job_id("a")])
        assert await store.delivery(job_id("a"), b"d") is None
        late = commit({"a": await head(store, "a")}, delivery=make.delivery("a"))
        assert await one(store, late) == Done()

    async def test_a_delivery_is_unique_within_its_job_only(self, store: Store) -> None:
        await created(store, "a", delivery=make.delivery("a", answer=b"to a"))
        await created(store, "b", delivery=make.delivery("b", answer=b"to b"))
        assert await store.delivery(job_id("a"), b"d") == b"to a"
        assert await store.delivery(job_id("b"), b"d") == b"to b"

    async def test_an_answer_without_a_revision_is_remembered(self, store: Store) -> None:
        made = await created(store, "a")
        reads = [(job_id("a"), made.revision_cid)]
        ignored = Commit(reads=reads, delivery=make.delivery("a", answer=b"ignored"))
        assert await one(store, ignored) == Done()
        assert await store.delivery(job_id("a"), b"d") == b"ignored"
        assert await seq(store, "a") == 1

    async def test_a_delivery_to_a_job_that_does_not_exist_is_remembered(
        self, store: Store
    ) -> None:
        """A transaction may be remembered under a job that it did not write: that makes no job."""
        await created(store, "b", delivery=make.delivery("a", answer=b"first"))
        assert await store.delivery(job_id("a"), b"d") == b"first"
        assert await head(store, "a") is None
        assert [listed.job for listed in await store.jobs()] == [job_id("b")]
        again = commit({"c": None}, delivery=make.delivery("a", answer=b"second"))
        assert await one(store, again) == Duplicate(b"first")
        late = await created(store, "a")
        assert await head(store, "a") == head_of(late, "a")
        assert await store.delivery(job_id("a"), b"d") == b"first"

    @pytest.mark.parametrize("id", [b"\x00", b"x" * 256, b"a\x00b", "ä".encode()])
    async def test_delivery_ids_are_any_bytes(self, store: Store, id: bytes) -> None:
        await created(store, "a", delivery=make.delivery("a", id))
        assert await store.delivery(job_id("a"), id) is not None
        assert await store.delivery(job_id("a"), id + b"\x00") is None

    async def test_a_sweep_forgets_what_is_over_and_nothing_else(self, store: Store) -> None:
        made = await created(store, "a", delivery=make.delivery("a", b"old", until=9))
        for id, until in ((b"edge", 10), (b"young", 11)):
            made = commit({"a": head_of(made, "a")}, delivery=make.delivery("a", id, until=until))
            await done(store, made)
        assert await done(store, Sweep(10, 100)) == 1
        assert await store.delivery(job_id("a"), b"old") is None
        assert await store.delivery(job_id("a"), b"edge") is not None
        assert await store.delivery(job_id("a"), b"young") is not None

    async def test_a_sweep_is_bounded_and_says_how_many_it_forgot(self, store: Store) -> None:
        for n in range(5):
            await created(store, str(n), delivery=make.delivery(str(n), until=n))
        assert [await done(store, Sweep(100, 2)) for _ in range(4)] == [2, 2, 1, 0]

    async def test_a_swept_delivery_is_a_new_one(self, store: Store) -> None:
        made = await created(store, "a", delivery=make.delivery("a", until=1))
        await done(store, Sweep(2, 10))
        again = commit({"a": head_of(made, "a")}, delivery=make.delivery("a", answer=b"second"))
        assert await one(store, again) == Done()
        assert await store.delivery(job_id("a"), b"d") == b"second"

    # --- claims -----------------------------------------------------------------------------------

    async def test_a_due_task_is_claimed_once(self, store: Store) -> None:
        task = make.task("a", 0, at=5, tenant="t")
        await created(store, "a", tasks=[task])
        first, second = store.enlist(), store.enlist()
        assert first != second
        (claimed,) = await claim(store, first, now=5)
        assert claimed == Claimed(Ref(task.job, 0, task.id, first, 1), task.block, *KIND, "t", 5, 1)
        assert await claim(store, second, now=5) == []
        assert await claim(store, first, now=5) == []

    async def test_the_token_and_the_attempt_rise_at_the_claim(self, store: Store) -> None:
        task = make.task("a", 0)
        await created(store, "a", tasks=[task])
        worker = store.enlist()
        (claimed,) = await claim(store, worker)
        found = await row(store, task.id)
        assert (found.attempt, found.token, found.worker) == (1, 1, worker)
        await done(store, Defer(claimed.ref, 0))
        (again,) = await claim(store, worker)
        assert (again.attempt, again.ref.token) == (2, 2)

    async def test_a_task_not_yet_due_is_left_alone(self, store: Store) -> None:
        await created(store, "a", tasks=[make.task("a", 0, at=10)])
        worker = store.enlist()
        assert await claim(store, worker, now=9) == []
        assert len(await claim(store, worker, now=10)) == 1

    async def test_the_task_due_first_is_claimed_first(self, store: Store) -> None:
        tasks = [make.task("a", n, at=at) for n, at in enumerate((30, 10, 20))]
        await created(store, "a", tasks=tasks)
        worker = store.enlist()
        taken = [(await claim(store, worker, now=50, limit=1))[0].ref.n for _ in range(3)]
        assert taken == [1, 2, 0]

    async def test_the_task_due_last_is_claimed_first_where_the_youngest_are_asked_for(
        self, store: Store
    ) -> None:
        tasks = [make.task("a", n, at=at) for n, at in enumerate((30, 10, 60, 20))]
        await created(store, "a", tasks=tasks)
        worker = store.enlist()
        youngest = Claim(worker, [Want(*KIND, 2)], 50, youngest=True)
        taken = await done(store, youngest)
        assert [claimed.ref.n for claimed in taken] == [0, 3]
        assert [claimed.ref.n for claimed in await claim(store, worker, now=50)] == [1]

    async def test_a_claim_takes_no_more_than_each_want_asks(self, store: Store) -> None:
        stats = [make.task("a", n) for n in range(5)]
        signs = [make.task("a", 5 + n, tag="Sign") for n in range(5)]
        await created(store, "a", tasks=[*stats, *signs])
        wants = [Want(*KIND, 2), Want(WORKFLOW, 1, "Sign", 3)]
        taken = await done(store, Claim(store.enlist(), wants, 0))
        assert sorted(claimed.tag for claimed in taken) == ["Sign"] * 3 + [STAT] * 2

    async def test_a_claim_takes_only_the_kinds_it_wants(self, store: Store) -> None:
        others = [
            make.task("a", 0, tag="Sign"),
            make.task("a", 1, version=2),
            make.task("a", 2)._replace(workflow="another"),
        ]
        await created(store, "a", tasks=[*others, make.task("a", 3)])
        assert [claimed.ref.n for claimed in await claim(store, store.enlist())] == [3]
        assert await done(store, Claim(store.enlist(), [], 0)) == []
        assert await claim(store, store.enlist(), limit=0) == []

    async def test_a_want_may_name_the_tenant(self, store: Store) -> None:
        long = "long" * 200
        tenants = ["big", "big", "big", "", "small'", long + "1", long + "2"]
        tasks = [make.task("a", n, tenant=tenant, at=n) for n, tenant in enumerate(tenants)]
        await created(store, "a", tasks=tasks)
        wants = [Want(*KIND, 1, "small'"), Want(*KIND, 2, "big"), Want(*KIND, 9, "nobody")]
        taken = await done(store, Claim(store.enlist(), wants, 10))
        assert sorted(claimed.ref.n for claimed in taken) == [0, 1, 4]
        taken = await done(store, Claim(store.enlist(), [Want(*KIND, 9, long + "2")], 10))
        assert [claimed.ref.n for claimed in taken] == [6]
        wants = [Want(*KIND, 9, ""), Want(*KIND, 1, "big")]
        taken = await done(store, Claim(store.enlist(), wants, 2))
        assert [claimed.ref.n for claimed in taken] == [2]
        taken = await done(store, Claim(store.enlist(), [Want(*KIND, 9)], 10))
        assert [claimed.ref.n for claimed in taken] == [3, 5]

    async def test_queues_name_each_tenant_that_waits_and_when_its_first_task_is_due(
        self, store: Store
    ) -> None:
        waiting = [("b", 7), ("b", 3), ("", 4), ("c", 5), ("d", 6), ("d", 2), ("\u20ac", 8)]
        tasks = [make.task("a", n, tenant=t, at=at) for n, (t, at) in enumerate(waiting)]
        sign = (WORKFLOW, 1, "Sign")
        others = [make.task("a", 8, tag="Sign", tenant="b"), make.task("a", 9, worker=1, at=1)]
        await created(store, "a", tasks=[*tasks, *others])
        (claimed,) = await claim(store, store.enlist(), now=2, limit=1)
        await done(store, Park(claimed.ref, error()))

        async def queues(after: Any, limit: int) -> list[Any]:
            return [row[2:] for row in await store.queues(after, limit)]

        everyone = [(STAT, "", 4), (STAT, "b", 3), (STAT, "c", 5), (STAT, "d", 6)]
        assert await queues({KIND: None}, 9) == [*everyone, (STAT, "\u20ac", 8)]
        assert await queues({KIND: None}, 2) == everyone[:2]
        assert await queues({KIND: ""}, 2) == everyone[1:3]
        assert await queues({KIND: "bb"}, 2) == everyone[2:]
        assert await queues({KIND: "\u20ac"}, 2) == []
        assert await queues({sign: None, KIND: "c"}, 1) == [("Sign", "b", 0), everyone[3]]
        assert await queues({(WORKFLOW, 2, STAT): None}, 9) == []
        assert await queues({}, 9) == await queues({KIND: None}, 0) == []

    async def test_kinds_with_needs_are_found_by_the_kind_that_has_none(self, store: Store) -> None:
        tags = [STAT, f'{STAT} {{"a":"1"}}', f'{STAT} {{"b":"2"}}', f'{STAT}s {{"c":"3"}}', "Sta"]
        tasks = [make.task("a", n, tag=tag) for n, tag in enumerate([*tags, tags[1]])]
        held = make.task("a", 8, tag=STAT + ' {"d":"4"}', worker=1)
        await created(store, "a", tasks=[*tasks, held, make.task("a", 9, tag=tags[1], version=2)])
        first, second = ((WORKFLOW, 1, tag) for tag in tags[1:3])
        assert list(await store.placed([KIND])) == [first, second]
        assert list(await store.placed([(WORKFLOW, 1, "Sta"), (WORKFLOW, 3, STAT)])) == []
        assert list(await store.placed([])) == []
        assert [one.ref.n for one in await claim(store, store.enlist())] == [0]
        taken = await done(store, Claim(store.enlist(), [Want(*first, 9)], 0))
        assert [one.ref.n for one in taken] == [1, 5]
        assert list(await store.placed([KIND])) == [second]

    async def test_workers_are_listed_until_they_are_reaped(self, store: Store) -> None:
        assert list(await store.workers()) == []
        first, second = store.enlist(), store.enlist()
        await apply(store, Beat(second, 20), Beat(first, 10), Beat(first, 5))
        assert list(await store.workers()) == [(first, 10), (second, 20)]
        await done(store, Reap(15))
        assert list(await store.workers()) == [(first, 10), (second, 20)]
        store.retire(first)
        await done(store, Reap(15))
        assert list(await store.workers()) == [(second, 20)]

    async def test_a_task_made_with_a_worker_is_claimed_by_the_commit(self, store: Store) -> None:
        worker = store.enlist()
        task = make.task("a", 0, worker=worker)
        made = await created(store, "a", tasks=[task])
        found = await row(store, task.id)
        assert (found.worker, found.token, found.attempt) == (worker, 1, 1)
        assert await claim(store, store.enlist()) == []
        settle = commit({"a": head_of(made, "a")}, settles=Ref(task.job, 0, task.id, worker, 1))
        assert await one(store, settle) == Done()

    async def test_next_task_is_the_earliest_unclaimed_of_these_kinds(self, store: Store) -> None:
        tasks = [make.task("a", 0, at=30), make.task("a", 1, at=10), make.task("a", 2, at=20)]
        other = make.task("a", 3, at=5, tag="Sign")
        await created(store, "a", tasks=[*tasks, other])
        assert await store.next_task([KIND]) == 10
        assert await store.next_task([KIND, (WORKFLOW, 1, "Sign")]) == 5
        assert await store.next_task([(WORKFLOW, 2, STAT)]) is None
        assert await store.next_task([]) is None
        worker = store.enlist()
        (claimed,) = await claim(store, worker, now=10)
        assert await store.next_task([KIND]) == 20
        await done(store, Park(claimed.ref, error()))
        assert await store.next_task([KIND]) == 20

    # --- settling ---------------------------------------------------------------------------------

    async def _claimed(self, store: Store) -> tuple[Commit, Claimed]:
        """A job with one task, and that task in a worker's hands."""
        made = await created(store, "a", tasks=[make.task("a", 0)])
        (claimed,) = await claim(store, store.enlist())
        return made, claimed

    async def test_a_settled_task_is_gone(self, store: Store) -> None:
        made, claimed = await self._claimed(store)
        assert await one(store, commit({"a": head_of(made, "a")}, settles=claimed.ref)) == Done()
        assert await store.task(claimed.ref.id) is None
        assert await store.tasks() == []

    async def test_a_second_outcome_is_closed(self, store: Store) -> None:
        made, claimed = await self._claimed(store)
        first = commit({"a": head_of(made, "a")}, settles=claimed.ref)
        await done(store, first)
        again = commit({"a": head_of(first, "a")}, settles=claimed.ref)
        assert await one(store, again) == Closed()
        assert await seq(store, "a") == 2

    async def test_an_outcome_of_a_cancelled_task_is_closed(self, store: Store) -> None:
        made, claimed = await self._claimed(store)
        cancels = commit({"a": head_of(made, "a")}, closed=[(job_id("a"), 0, False)])
        await done(store, cancels)
        late = commit({"a": head_of(cancels, "a")}, settles=claimed.ref)
        assert await one(store, late) == Closed()

    async def test_closed_is_said_before_conflict(self, store: Store) -> None:
        made, claimed = await self._claimed(store)
        upon = commit({"a": head_of(made, "a")}, settles=claimed.ref)
        await done(store, upon)
        assert await one(store, upon) == Closed()

    async def test_an_outcome_for_another_task_in_that_place_is_closed(self, store: Store) -> None:
        made, claimed = await self._claimed(store)
        wrong = claimed.ref._replace(id=CID.of(b"another task"))
        assert await one(store, commit({"a": head_of(made, "a")}, settles=wrong)) == Closed()

    @pytest.mark.parametrize("how", ["token", "worker", "freed", "parked", "not parked"])
    async def test_who_does_not_hold_the_row_has_lost_the_lease(
        self, store: Store, how: str
    ) -> None:
        made, claimed = await self._claimed(store)
        ref = claimed.ref
        if how == "token":
            ref = ref._replace(token=ref.token + 1)
        elif how == "worker":
            ref = ref._replace(worker=store.enlist())
        elif how == "freed":
            await done(store, Defer(claimed.ref, 0))
        elif how == "parked":
            await done(store, Park(claimed.ref, error()))
        else:
            ref = ref._replace(worker=None)
        late = commit({"a": head_of(made, "a")}, settles=ref)
        assert await one(store, late) == LeaseLost()
        assert await one(store, Defer(ref, 0)) == LeaseLost()
        assert await one(store, Park(ref, error())) == LeaseLost()
        assert await seq(store, "a") == 1

    async def test_a_late_outcome_is_fenced_by_the_newer_token(self, store: Store) -> None:
        made, old = await self._claimed(store)
        await done(store, Defer(old.ref, 0))
        (new,) = await claim(store, store.enlist())
        assert await one(store, commit({"a": head_of(made, "a")}, settles=old.ref)) == LeaseLost()
        assert await one(store, commit({"a": head_of(made, "a")}, settles=new.ref)) == Done()

    async def test_a_parked_task_is_settled_without_a_worker(self, store: Store) -> None:
        made, claimed = await self._claimed(store)
        await done(store, Park(claimed.ref, error()))
        ref = claimed.ref._replace(worker=None)
        assert await one(store, commit({"a": head_of(made, "a")}, settles=ref)) == Done()
        assert await store.tasks() == []

    async def test_a_task_parked_anew_is_not_settled_with_what_was_kept_before(
        self, store: Store
    ) -> None:
        made, claimed = await self._claimed(store)
        await done(store, Park(claimed.ref, error(), codec.encode({"ok": 1})))
        await done(store, Redrive(claimed.ref.job, claimed.ref.n, claimed.ref.id, 0))
        (again,) = await claim(store, store.enlist())
        await done(store, Park(again.ref, error(), codec.encode({"ok": 2})))
        late = commit({"a": head_of(made, "a")}, settles=claimed.ref._replace(worker=None))
        assert await one(store, late) == LeaseLost()
        now = commit({"a": head_of(made, "a")}, settles=again.ref._replace(worker=None))
        assert await one(store, now) == Done()

    async def test_a_settle_that_conflicts_keeps_the_claim(self, store: Store) -> None:
        made, claimed = await self._claimed(store)
        moved = commit({"a": head_of(made, "a")})
        await done(store, moved)
        late = commit({"a": head_of(made, "a")}, settles=claimed.ref)
        assert await one(store, late) == Conflicted([job_id("a")])
        again = commit({"a": head_of(moved, "a")}, settles=claimed.ref)
        assert await one(store, again) == Done()

    # --- giving back, parking, workers ------------------------------------------------------------

    async def test_a_deferred_task_is_due_again_later(self, store: Store) -> None:
        _, claimed = await self._claimed(store)
        assert await one(store, Defer(claimed.ref, 20, error("Busy"))) == Done()
        found = await row(store, claimed.ref.id)
        assert (found.due, found.worker, found.attempt) == (20, None, 1)
        assert found.error == error("Busy")
        assert await store.next_task([KIND]) == 20
        worker = store.enlist()
        assert await claim(store, worker, now=19) == []
        (again,) = await claim(store, worker, now=20)
        assert (again.attempt, again.at) == (2, claimed.at)

    async def test_a_graceful_release_gives_the_attempt_back_and_not_the_token(
        self, store: Store
    ) -> None:
        _, claimed = await self._claimed(store)
        await done(store, Defer(claimed.ref, 0, back=True))
        found = await row(store, claimed.ref.id)
        assert (found.attempt, found.token) == (0, 1)
        (again,) = await claim(store, store.enlist())
        assert (again.attempt, again.ref.token) == (1, 2)

    async def test_an_error_is_kept_until_the_next_one(self, store: Store) -> None:
        _, claimed = await self._claimed(store)
        await done(store, Defer(claimed.ref, 0, error("Busy")))
        (again,) = await claim(store, store.enlist())
        await done(store, Defer(again.ref, 0))
        assert (await row(store, claimed.ref.id)).error == error("Busy")

    async def test_deferring_what_is_gone_is_closed(self, store: Store) -> None:
        gone = Ref(job_id("a"), 0, CID.of(b"gone"), store.enlist(), 1)
        assert await one(store, Defer(gone, 0)) == Closed()
        assert await one(store, Park(gone, error())) == Closed()

    async def test_a_parked_task_waits_with_its_error_and_outcome(self, store: Store) -> None:
        _, claimed = await self._claimed(store)
        outcome = codec.encode({"ok": 5})
        assert await one(store, Park(claimed.ref, error("Bad"), outcome)) == Done()
        found = await row(store, claimed.ref.id)
        assert found.parked
        assert (found.error, found.outcome) == (error("Bad"), outcome)
        assert (found.worker, found.attempt) == (None, 1)
        assert await store.tasks(parked=True) == [found]
        (listed,) = await store.jobs()
        assert listed.faulted == 1
        assert await claim(store, store.enlist(), now=10**9) == []
        assert await store.next_task([KIND]) is None

    async def test_a_redriven_task_is_due_under_the_same_id_and_starts_over(
        self, store: Store
    ) -> None:
        _, claimed = await self._claimed(store)
        ref = claimed.ref
        await done(store, Park(ref, error("Bad"), codec.encode({"ok": 5})))
        assert await one(store, Redrive(ref.job, ref.n, ref.id, 30)) == Done()
        found = await row(store, ref.id)
        assert not found.parked
        assert (found.attempt, found.due, found.outcome) == (0, 30, None)
        assert await store.tasks(parked=True) == []
        assert (await store.jobs())[0].faulted == 0
        (again,) = await claim(store, store.enlist(), now=30)
        assert (again.ref.id, again.attempt, again.ref.token) == (ref.id, 1, 2)

    async def test_the_time_of_a_redriven_task_starts_over(self, store: Store) -> None:
        _, claimed = await self._claimed(store)
        await done(store, Park(claimed.ref, error()))
        await done(store, Redrive(claimed.ref.job, claimed.ref.n, claimed.ref.id, 50))
        (again,) = await claim(store, store.enlist(), now=50)
        assert (again.at, again.attempt) == (50, 1)

    async def test_redriving_what_is_not_parked_is_closed(self, store: Store) -> None:
        _, claimed = await self._claimed(store)
        ref = claimed.ref
        assert await one(store, Redrive(ref.job, ref.n, ref.id, 0)) == Closed()
        assert await one(store, Redrive(ref.job, 9, ref.id, 0)) == Closed()
        assert await one(store, Redrive(CID.of(b"no job"), 0, ref.id, 0)) == Closed()
        await done(store, Park(ref, error()))
        assert await one(store, Redrive(ref.job, ref.n, CID.of(b"no task"), 0)) == Closed()
        assert (await row(store, ref.id)).parked

    async def test_a_parked_row_may_be_parked_anew(self, store: Store) -> None:
        """A redriven outcome that is refused again: the newer error is kept."""
        _, claimed = await self._claimed(store)
        await done(store, Park(claimed.ref, error("First"), codec.encode({"ok": 5})))
        ref = claimed.ref._replace(worker=None)
        await done(store, Park(ref, error("Second"), codec.encode({"ok": 5})))
        assert (await row(store, ref.id)).error == error("Second")

    async def test_a_retired_worker_is_reaped_and_its_claims_are_free(self, store: Store) -> None:
        made = await created(store, "a", tasks=[make.task("a", 0), make.task("a", 1)])
        worker, other = store.enlist(), store.enlist()
        await apply(store, Beat(worker, 1_000), Beat(other, 1_000))
        (dead,) = await claim(store, worker, limit=1)
        (alive,) = await claim(store, other, limit=1)
        assert await done(store, Reap(10)) == 0
        store.retire(worker)
        assert await done(store, Reap(10)) == 1
        late = commit({"a": head_of(made, "a")}, settles=dead.ref)
        assert await one(store, late) == LeaseLost()
        (again,) = await claim(store, other)
        assert (again.ref.id, again.attempt) == (dead.ref.id, 2)
        assert again.ref.token > dead.ref.token
        assert await one(store, commit({"a": head_of(made, "a")}, settles=alive.ref)) == Done()

    async def test_a_worker_that_died_before_its_first_beat_is_reaped(self, store: Store) -> None:
        """Its claims may be durable before anything else is heard of it."""
        worker, other = store.enlist(), store.enlist()
        claimed = make.task("a", 0)._replace(worker=worker)
        await created(store, "a", tasks=[claimed, make.task("a", 1)])
        await claim(store, worker)
        assert await done(store, Reap(10)) == 0
        store.retire(worker)
        assert await done(store, Reap(10)) == 2
        assert len(await claim(store, other)) == 2

    async def test_a_silent_worker_is_reaped_when_its_lease_is_over(self, store: Store) -> None:
        await created(store, "a", tasks=[make.task("a", 0)])
        worker = store.enlist()
        await done(store, Beat(worker, 100))
        (claimed,) = await claim(store, worker)
        assert await done(store, Reap(100)) == 0
        assert await done(store, Reap(101)) == 1
        assert (await row(store, claimed.ref.id)).worker is None

    async def test_a_beat_never_shortens_a_lease(self, store: Store) -> None:
        await created(store, "a", tasks=[make.task("a", 0)])
        worker = store.enlist()
        await apply(store, Beat(worker, 100), Beat(worker, 50))
        await claim(store, worker)
        assert await done(store, Reap(100)) == 0
        await done(store, Beat(worker, 200))
        assert await done(store, Reap(150)) == 0

    async def test_reaping_twice_frees_once(self, store: Store) -> None:
        await created(store, "a", tasks=[make.task("a", 0)])
        worker = store.enlist()
        await done(store, Beat(worker, 100))
        await claim(store, worker)
        store.retire(worker)
        assert [await done(store, Reap(0)) for _ in range(2)] == [1, 0]

    async def test_a_worker_reaped_while_it_lives_can_claim_again(self, store: Store) -> None:
        await created(store, "a", tasks=[make.task("a", 0)])
        worker = store.enlist()
        await done(store, Beat(worker, 10))
        (old,) = await claim(store, worker)
        await done(store, Reap(20))
        await done(store, Beat(worker, 100))
        (new,) = await claim(store, worker)
        assert await done(store, Reap(50)) == 0
        assert new.ref.token == old.ref.token + 1
        assert await one(store, Defer(old.ref, 0)) == LeaseLost()
        assert await one(store, Defer(new.ref, 0)) == Done()

    async def test_disowning_frees_what_is_not_kept_and_nobody_elses(self, store: Store) -> None:
        tasks = [make.task("a", n, at=n) for n in range(4)]
        await created(store, "a", tasks=tasks)
        worker, other = store.enlist(), store.enlist()
        await claim(store, worker, now=2)
        await claim(store, other, now=3)
        keep = [(job_id("a"), 1), (job_id("no job"), 0)]
        assert await done(store, Disown(worker, keep)) == 2
        holders = {found.n: found.worker for found in await store.tasks()}
        assert holders == {0: None, 1: worker, 2: None, 3: other}

    async def test_disowning_leaves_the_attempt_and_the_error(self, store: Store) -> None:
        _, claimed = await self._claimed(store)
        assert claimed.ref.worker is not None
        await done(store, Disown(claimed.ref.worker, []))
        found = await row(store, claimed.ref.id)
        assert (found.attempt, found.token) == (1, 1)

    async def test_workers_get_numbers_of_their_own(self, store: Store) -> None:
        numbers = [store.enlist() for _ in range(5)]
        store.retire(numbers[0])
        assert len({*numbers, store.enlist()}) == 6

    # --- vitals -----------------------------------------------------------------------------------

    async def test_vitals_of_an_empty_store(self, store: Store) -> None:
        found = await store.vitals(0)
        assert (found.jobs, found.tasks, found.workers) == ([], [], [])
        assert (found.ahead, found.deliveries, found.unindexed) == ((0, []), 0, 0)
        assert found.schema >= 1
        assert found.codec >= 1

    async def test_vitals_group_jobs_by_version_and_name_some(self, store: Store) -> None:
        names = [f"job {number}" for number in range(EXAMPLES + 2)]
        for name in names:
            await created(store, name)
        await created(store, "newer", version=2)
        groups = {(one.workflow, one.version): one for one in (await store.vitals(10)).jobs}
        old, new = groups[(WORKFLOW, 1)], groups[(WORKFLOW, 2)]
        assert (old.size, new.size) == (len(names), 1)
        assert len(old.examples) == EXAMPLES
        assert set(old.examples) < {job_id(name) for name in names}
        assert new.examples == [job_id("newer")]

    async def test_vitals_group_tasks_by_kind_holder_and_whether_they_are_due(
        self, store: Store
    ) -> None:
        tasks = [make.task("a", n, at=n) for n in range(4)] + [make.task("a", 4, tag="Other")]
        await created(store, "a", tasks=tasks, timers=[make.timer("a", 9, due=7)])
        worker = store.enlist()
        await done(store, Beat(worker, 100))
        (claimed,) = await claim(store, worker, now=2, limit=1)
        found = await store.vitals(2)
        groups = {(one.tag, one.worker, one.due): one for one in found.tasks}
        assert {group: one.size for group, one in groups.items()} == {
            (STAT, worker, True): 1,
            (STAT, None, True): 2,
            (STAT, None, False): 1,
            ("Other", None, True): 1,
            ("sleep", None, False): 1,
        }
        assert groups[(STAT, worker, True)].examples == [(job_id("a"), claimed.ref.id)]
        waiting = groups[(STAT, None, True)]
        assert (waiting.oldest, waiting.version, waiting.timer) == (1, 1, False)
        assert waiting.examples == [(job_id("a"), tasks[1].id), (job_id("a"), tasks[2].id)]
        timer = groups[("sleep", None, False)]
        assert (timer.timer, timer.workflow, timer.oldest) == (True, WORKFLOW, 7)
        assert [one.due for one in (await store.vitals(7)).tasks if one.timer] == [True]

    async def test_vitals_leave_parked_tasks_out(self, store: Store) -> None:
        _, claimed = await self._claimed(store)
        await done(store, Park(claimed.ref, codec.encode({"name": "Odd"})))
        assert (await store.vitals(10)).tasks == []

    async def test_vitals_tell_which_workers_live(self, store: Store) -> None:
        worker, gone = store.enlist(), store.enlist()
        await apply(store, Beat(worker, 100), Beat(gone, 50))
        store.retire(gone)
        rows = {row.worker: row for row in (await store.vitals(10)).workers}
        assert (rows[worker].until, rows[gone].until) == (100, 50)
        assert (rows[worker].alive, rows[gone].alive) == (True, False)

    async def test_vitals_count_deliveries_past_their_time(self, store: Store) -> None:
        for number, until in enumerate((10, 20, 30)):
            await created(store, f"job {number}", delivery=make.delivery(f"{until}", until=until))
        for now, stale in ((10, 0), (11, 1), (30, 2), (31, 3)):
            found = await store.vitals(now)
            assert (found.deliveries, found.stale_deliveries) == (3, stale)

    async def test_vitals_name_heads_of_a_later_time_the_farthest_first(self, store: Store) -> None:
        for name, at in (("a", 5), ("b", 15), ("c", 25)):
            await created(store, name, at=at)
        found = await store.vitals(5)
        assert found.ahead == (2, [(job_id("c"), 25), (job_id("b"), 15)])
        assert (await store.vitals(25)).ahead == (0, [])

    # --- timers -----------------------------------------------------------------------------------

    async def test_timers_come_when_due_and_earliest_first(self, store: Store) -> None:
        timers = [make.timer("a", n, due=due) for n, due in enumerate((30, 10, 20, 40))]
        await created(store, "a", timers=timers)
        assert await store.next_timer() == 10
        assert await store.timers(9, 10) == []
        assert [found.due for found in await store.timers(30, 10)] == [10, 20, 30]
        assert [found.due for found in await store.timers(30, 2)] == [10, 20]
        assert await store.timers(10, 10) == [DueTimer(*timers[1])]

    async def test_firing_removes_the_timer(self, store: Store) -> None:
        timer = make.timer("a", 0, due=10)
        made = await created(store, "a", timers=[timer])
        assert await one(store, commit({"a": head_of(made, "a")}, fires=timer)) == Done()
        assert await store.timers(10**9, 10) == []
        assert await store.next_timer() is None
        assert await store.tasks() == []

    async def test_a_timer_fires_once(self, store: Store) -> None:
        timer = make.timer("a", 0, due=10)
        made = await created(store, "a", timers=[timer])
        fired = commit({"a": head_of(made, "a")}, fires=timer)
        await done(store, fired)
        assert await one(store, commit({"a": head_of(fired, "a")}, fires=timer)) == Closed()
        assert await seq(store, "a") == 2

    async def test_firing_a_removed_timer_is_closed(self, store: Store) -> None:
        timer = make.timer("a", 0, due=10)
        made = await created(store, "a", timers=[timer])
        gone = commit({"a": head_of(made, "a")}, closed=[(timer.job, 0, True)])
        await done(store, gone)
        assert await one(store, commit({"a": head_of(gone, "a")}, fires=timer)) == Closed()

    async def test_firing_another_timer_in_that_place_is_closed(self, store: Store) -> None:
        timer = make.timer("a", 0, due=10)
        made = await created(store, "a", timers=[timer])
        wrong = timer._replace(id=CID.of(b"another timer"))
        assert await one(store, commit({"a": head_of(made, "a")}, fires=wrong)) == Closed()
        assert await store.next_timer() == 10

    async def test_a_firing_that_conflicts_keeps_the_timer(self, store: Store) -> None:
        timer = make.timer("a", 0, due=10)
        made = await created(store, "a", timers=[timer])
        await done(store, commit({"a": head_of(made, "a")}))
        late = commit({"a": head_of(made, "a")}, fires=timer)
        assert await one(store, late) == Conflicted([job_id("a")])
        assert await store.timers(10, 10) == [DueTimer(*timer)]

    async def test_closing_a_task_leaves_the_timer_of_that_place_number(self, store: Store) -> None:
        """Tasks and timers share one count of places; a store may keep them apart or not."""
        task, timer = make.task("a", 0), make.timer("a", 1, due=10)
        made = await created(store, "a", tasks=[task], timers=[timer])
        await done(store, commit({"a": head_of(made, "a")}, closed=[(task.job, 0, False)]))
        assert [found.id for found in await store.tasks()] == [timer.id]

    async def test_a_parked_timer_is_left_alone(self, store: Store) -> None:
        timer, next_one = make.timer("a", 0, due=10), make.timer("a", 1, due=20)
        await created(store, "a", timers=[timer, next_one])
        ref = Ref(timer.job, 0, timer.id, None, 0)
        assert await one(store, Park(ref, error("Bad"), timer=True)) == Done()
        assert await store.timers(30, 10) == [DueTimer(*next_one)]
        assert await store.next_timer() == 20
        (found,) = await store.tasks(parked=True)
        assert (found.timer, found.error, found.workflow) == (True, error("Bad"), WORKFLOW)
        assert (await store.jobs())[0].faulted == 1

    async def test_a_parked_timer_may_be_fired_or_redriven(self, store: Store) -> None:
        timer, other = make.timer("a", 0, due=10), make.timer("a", 1, due=20)
        made = await created(store, "a", timers=[timer, other])
        for parked in (timer, other):
            await done(
                store, Park(Ref(parked.job, parked.n, parked.id, None, 0), error(), timer=True)
            )
        assert await one(store, Redrive(other.job, other.n, other.id, 40)) == Done()
        assert await store.next_timer() == 40
        assert await store.timers(39, 10) == []
        assert await store.timers(40, 10) == [DueTimer(other.job, other.n, other.id, 40)]
        assert await one(store, commit({"a": head_of(made, "a")}, fires=timer)) == Done()
        assert await store.tasks(parked=True) == []

    async def test_parking_a_timer_that_is_gone_is_closed(self, store: Store) -> None:
        gone = Ref(job_id("a"), 0, CID.of(b"gone"), None, 0)
        assert await one(store, Park(gone, error(), timer=True)) == Closed()

    # --- reading ----------------------------------------------------------------------------------

    async def test_the_outbox_lists_tasks_and_timers_of_one_job_or_all(self, store: Store) -> None:
        await created(store, "a", tasks=[make.task("a", 0, tenant="t", at=3)])
        await created(store, "b", timers=[make.timer("b", 0, due=7)])
        (task,), (timer,) = [await store.tasks(job=job_id(name)) for name in "ab"]
        assert task == TaskRow(
            job_id("a"), 0, make.task("a", 0).id, False, make.task("a", 0).block, WORKFLOW, STAT,
            "t", 3, 0, 0, None, False, None, None,
        )  # fmt: skip
        assert (timer.timer, timer.block, timer.workflow, timer.due) == (True, None, WORKFLOW, 7)
        assert {found.id for found in await store.tasks()} == {task.id, timer.id}
        assert await store.task(timer.id) == timer
        assert await store.task(task.id) == task

    async def test_revisions_come_newest_first_within_bounds(self, store: Store) -> None:
        chain = [commit({"a": None})]
        for _ in range(4):
            chain.append(commit({"a": head_of(chain[-1], "a")}))
        await apply(store, *chain)
        cids = [made.revision_cid for made in reversed(chain)]
        a = job_id("a")
        assert [packed.cid for packed in await store.revisions(a)] == cids
        assert [packed.cid for packed in await store.revisions(a, down_to=3)] == cids[:2]
        assert [packed.cid for packed in await store.revisions(a, limit=2)] == cids[:2]
        both = await store.revisions(a, down_to=1, limit=3)
        assert [packed.cid for packed in both] == cids[:3]
        assert await store.revisions(a, down_to=5) == []
        assert await store.revisions(a, limit=0) == []

    async def test_a_revision_comes_with_every_block_of_its_commit(self, store: Store) -> None:
        made = await created(store, "a", "b")
        for name in "ab":
            (packed,) = await store.revisions(job_id(name))
            assert (packed.cid, packed.revision) == (made.revision_cid, made.revision)
            written = {*made.blocks, *(head_of(made, each).state for each in "ab")}
            assert written <= set(packed.blocks)

    async def test_a_chain_goes_through_revisions_of_several_jobs(self, store: Store) -> None:
        first = commit({"a": None, "b": None})
        second = commit({"b": head_of(first, "b")})
        third = commit({"a": head_of(first, "a"), "b": head_of(second, "b")})
        await apply(store, first, second, third)
        chains = [[packed.cid for packed in await store.revisions(job_id(name))] for name in "ab"]
        assert chains[0] == [third.revision_cid, first.revision_cid]
        assert chains[1] == [third.revision_cid, second.revision_cid, first.revision_cid]

    async def test_a_state_written_twice_is_found_in_both_revisions(self, store: Store) -> None:
        first = commit({"a": None}, value=1)
        second = commit({"a": head_of(first, "a")}, value=2)
        third = commit({"a": head_of(second, "a")}, value=1)
        await apply(store, first, second, third)
        for packed in await store.revisions(job_id("a")):
            revision = codec.decode(packed.revision)
            assert isinstance(revision, dict)
            state = revision["writes"][0]["state"]
            assert state in {CID.of(block) for block in packed.blocks}

    async def test_a_block_comes_by_its_cid_and_hashes_to_it(self, store: Store) -> None:
        made = await created(store, "a")
        state = head_of(made, "a")
        assert await store.block(state.state_cid) == state.state
        same_digest = CID.parse(b"\x01\x55" + state.state_cid.multihash)
        assert await store.block(same_digest) in (None, state.state)

    @pytest.mark.parametrize("bits", [1, 7, 8, 9, 16, 20, 63, 64, 65, 256])
    async def test_find_gives_exactly_the_blocks_that_begin_so(
        self, store: Store, bits: int
    ) -> None:
        chain = [commit({"a": None})]
        for _ in range(30):
            chain.append(commit({"a": head_of(chain[-1], "a")}))
        await apply(store, *chain)
        blocks = {made.revision for made in chain} | {block for m in chain for block in m.blocks}
        blocks |= {head_of(made, "a").state for made in chain}
        cids = {CID.of(block) for block in blocks if block is not None}
        wanted = chain[7].revision_cid
        assert wanted is not None
        whole = int.from_bytes(wanted.digest, "big")
        prefix = wanted.digest[: (bits + 7) // 8]

        def begins(cid: CID) -> bool:
            return int.from_bytes(cid.digest, "big") >> (256 - bits) == whole >> (256 - bits)

        found = await store.find(prefix, bits)
        assert len(found) == len(set(found))
        assert set(found) == {cid for cid in cids if begins(cid)}

    async def test_find_takes_a_prefix_whose_last_byte_is_used_in_part(self, store: Store) -> None:
        made = await created(store, "a")
        assert made.revision_cid is not None
        digest = made.revision_cid.digest
        ragged = digest[:1] + bytes([digest[1] ^ 0x01])
        assert made.revision_cid in await store.find(ragged, 12)
        assert made.revision_cid not in await store.find(ragged, 16)

    async def test_jobs_are_listed_in_order_of_creation_and_page_by_page(
        self, store: Store
    ) -> None:
        names = ["c", "a", "e", "b", "d"]
        made = {name: await created(store, name) for name in names}
        await done(store, commit({"c": head_of(made["c"], "c")}, tag="Moved"))
        listed = await store.jobs()
        assert [found.job for found in listed] == [job_id(name) for name in names]
        assert [found.seq for found in listed] == [2, 1, 1, 1, 1]
        pages = []
        after: CID | None = None
        while page := await store.jobs(after=after, limit=2):
            pages.append([found.key[0] for found in page])
            after = page[-1].job
        assert pages == [["c", "a"], ["e", "b"], ["d"]]
        assert await store.jobs(limit=0) == []

    async def test_jobs_of_one_batch_are_listed_in_order_of_its_members(self, store: Store) -> None:
        names = [str(n) for n in range(12)]
        assert sorted(map(job_id, names), key=lambda job: job.bytes) != [*map(job_id, names)]
        await apply(store, *(commit({name: None}) for name in names))
        assert [listed.job for listed in await store.jobs()] == [*map(job_id, names)]

    async def test_jobs_are_listed_by_workflow_and_tag(self, store: Store) -> None:
        await created(store, "a", tag="Waiting")
        await created(store, "b", tag="Stored")
        await done(store, commit({"c": None}, workflow="another", tag="Stored"))
        assert [found.key for found in await store.jobs(tag="Stored")] == [["b"], ["c"]]
        assert [found.key for found in await store.jobs(workflow=WORKFLOW)] == [["a"], ["b"]]
        both = await store.jobs(workflow=WORKFLOW, tag="Stored")
        assert [found.key for found in both] == [["b"]]
        assert await store.jobs(workflow="none") == []
        after = await store.jobs(tag="Stored", after=job_id("b"))
        assert [found.key for found in after] == [["c"]]

    async def test_jobs_under_a_prefix_have_it_as_their_first_parts(self, store: Store) -> None:
        keys: list[tuple[Any, ...]] = [
            ("a",),
            ("ab", "x"),
            ("a", "y"),
            ("a", "xy"),
            ("a", "x", 1),
            ("b", "a"),
            (),
            ("a", "x"),
        ]
        for key in keys:
            await keyed(store, key)
        for prefix in (*keys, ("a", "x", 1, 2), ("c",), ("",)):
            wanted = sorted((k for k in keys if k[: len(prefix)] == prefix), key=codec.encode)
            assert await under(store, *prefix) == wanted
            assert await under(store, *prefix, reverse=True) == wanted[::-1]
        assert await under(store, "a") == [
            ("a",),
            ("a", "x"),
            ("a", "y"),
            ("a", "xy"),
            ("a", "x", 1),
        ]

    async def test_jobs_under_a_prefix_of_every_plain_type(self, store: Store) -> None:
        link, near = CID.of(b"link"), CID.of(b"another")
        parts = ["7", b"7", 7, -7, 255, 2**62, b"", b"\xff", b"\xff\xff", link, near, str(link)]
        for part in parts:
            for last in (0, b"\xff", "\U0010ffff"):
                await keyed(store, (part, last))
        for part in parts:
            assert await under(store, part) == [(part, 0), (part, b"\xff"), (part, "\U0010ffff")]
            assert await under(store, part, b"\xff") == [(part, b"\xff")]
        assert await under(store, True) == []

    @pytest.mark.parametrize("size", [23, 24, 255, 256, 4_096])
    async def test_jobs_under_a_prefix_have_keys_of_any_size(self, store: Store, size: int) -> None:
        short, long = ("a", *[0] * (size - 2)), ("a", *[0] * (size - 1))
        for key in (long, ("b",), ("a",), short, ("b", *short)):
            await keyed(store, key)
        assert await under(store, "a") == [("a",), short, long]
        assert await under(store, *short) == [short, long]
        assert await under(store, *long) == [long]

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_jobs_under_a_prefix_come_page_by_page(self, store: Store, reverse: bool) -> None:
        keys: list[tuple[Any, ...]] = [("a", n) for n in (300, 2, 70, -1)]
        keys += [("a",), ("a", 1, 1), ("a", 70, 0)]
        for key in (*keys, ("b",), ("b", 0), ("A", 7), ("b", 0, 0)):
            await keyed(store, key)
        pages = []
        after: CID | None = None
        while page := await store.under(WORKFLOW, "a", after=after, reverse=reverse, limit=2):
            pages.append([tuple(found.key) for found in page])
            after = page[-1].job
        assert [len(page) for page in pages] == [2, 2, 2, 1]
        wanted = sorted(keys, key=codec.encode, reverse=reverse)
        assert [key for page in pages for key in page] == wanted
        assert await store.under(WORKFLOW, "a", limit=0) == []

    async def test_a_page_may_begin_after_any_job_of_the_workflow(self, store: Store) -> None:
        for key in [("a", 1), ("b", 1), ("b", 2), ("c",)]:
            await keyed(store, key)
        assert await under(store, "b", after=keyed_id(("a", 1))) == [("b", 1), ("b", 2)]
        assert await under(store, "b", after=keyed_id(("c",))) == [("b", 1), ("b", 2)]
        assert await under(store, "a", after=keyed_id(("b", 1))) == []
        assert await under(store, "a", after=keyed_id(("b", 1)), reverse=True) == [("a", 1)]
        await keyed(store, ("b", 1, 1), workflow="another")
        for stranger in (CID.of(b"stranger"), keyed_id(("b", 1, 1), "another")):
            with pytest.raises(NotFound):
                await under(store, "b", after=stranger)

    async def test_jobs_under_a_prefix_are_of_one_workflow_and_tag(self, store: Store) -> None:
        for n in range(6):
            await keyed(store, ("a", n), tag="Stored" if n % 2 else "Waiting")
            await keyed(store, ("a", n, n), workflow=WORKFLOW + "s", tag="Stored")
            await keyed(store, ("b", n), tag="Stored")
        assert await under(store, "a", tag="Stored") == [("a", 1), ("a", 3), ("a", 5)]
        assert await under(store, "a", tag="Stored", limit=2) == [("a", 1), ("a", 3)]
        after = keyed_id(("a", 2))
        assert await under(store, "a", tag="Stored", after=after) == [("a", 3), ("a", 5)]
        assert await under(store, "a", tag="Stored", reverse=True, limit=1) == [("a", 5)]
        assert await under(store, "a", tag="Lost") == []
        assert await store.under("none", "a") == []
        assert len(await store.under(WORKFLOW + "s")) == 6

    async def test_a_job_under_a_prefix_says_what_its_head_says_now(self, store: Store) -> None:
        made = await created(store, "a", tasks=[make.task("a", 0)], tag="Waiting")
        (held,) = await claim(store, store.enlist())
        await done(store, commit({"a": head_of(made, "a")}, tag="Stored", at=9))
        await done(store, Park(held.ref, error()))
        assert await store.under(WORKFLOW, "a", tag="Waiting") == []
        (listed,) = await store.under(WORKFLOW, "a", tag="Stored")
        assert [listed] == await store.jobs()
        assert (listed.seq, listed.at, listed.faulted) == (2, 9, 1)

    async def test_a_listed_job_says_what_its_head_says(self, store: Store) -> None:
        made = await created(store, "a", version=3, epoch=2, at=77)
        (listed,) = await store.jobs()
        head = head_of(made, "a")
        assert listed[:9] == head[:9]
        assert (listed.version, listed.epoch, listed.at, listed.faulted) == (3, 2, 77, 0)

    async def test_reading_sees_a_commit_as_soon_as_it_is_done(self, store: Store) -> None:
        for n in range(20):
            name = str(n)
            made = await created(store, name, tasks=[make.task(name, 0)])
            assert await head(store, name) == head_of(made, name)
            assert await store.task(make.task(name, 0).id) is not None

    async def test_heads_are_as_of_one_moment(self, store: Store, tmp_path: Path) -> None:
        """Every commit moves all the jobs, so at any moment they have one revision."""
        names = [f"job {n}" for n in range(32)]
        jobs = [job_id(name) for name in names]
        made = await created(store, *names)
        reading = True

        async def move() -> None:
            last, moves = made, 0
            while reading or moves < 3:
                last = commit({name: head_of(last, name) for name in names})
                assert await one(store, last) == Done()
                await anyio.lowlevel.checkpoint()
                moves += 1

        other = self.open_store(tmp_path) if self.shared else nullcontext(store)
        seen: list[CID] = []
        async with other as reader, anyio.create_task_group() as group:
            group.start_soon(move)
            with anyio.fail_after(12 * SOON):
                while len(seen) < 20 or seen[0] == seen[-1]:
                    found = await reader.heads(jobs)
                    (revision,) = {one.revision for one in found.values() if one is not None}
                    seen.append(revision)
                    await anyio.lowlevel.checkpoint()
            reading = False

    async def test_the_version_is_a_number_that_reading_does_not_change(self, store: Store) -> None:
        await created(store, "a")
        before = store.version()
        await store.heads([job_id("a")])
        await store.tasks()
        assert store.version() == before

    # --- opened again -----------------------------------------------------------------------------

    async def test_what_was_committed_is_there_when_opened_again(self, tmp_path: Path) -> None:
        if not self.durable:
            pytest.skip("this store does not outlive its process")
        task, timer = make.task("a", 0, at=3, tenant="t"), make.timer("a", 1, due=9)
        parked = make.task("a", 2)
        async with self.open_store(tmp_path) as store:
            made = await created(
                store, "a", tasks=[task, parked], timers=[timer], delivery=make.delivery("a")
            )
            worker = store.enlist()
            (claimed,) = [one for one in await claim(store, worker) if one.ref.n == 2]
            await done(store, Park(claimed.ref, error(), codec.encode({"ok": 1})))
            before = await store.tasks(), await store.jobs(), await store.revisions(job_id("a"))
        async with self.open_store(tmp_path) as store:
            after = await store.tasks(), await store.jobs(), await store.revisions(job_id("a"))
            assert after == before
            assert await head(store, "a") == head_of(made, "a")
            assert await store.delivery(job_id("a"), b"d") is not None
            again = commit({"a": head_of(made, "a")}, delivery=make.delivery("a"))
            assert isinstance(await one(store, again), Duplicate)
            assert await one(store, commit({"a": None})) == Conflicted([job_id("a")])
            assert await one(store, commit({"a": head_of(made, "a")})) == Done()

    async def test_a_worker_of_an_earlier_process_is_reaped(self, tmp_path: Path) -> None:
        if not self.durable:
            pytest.skip("this store does not outlive its process")
        async with self.open_store(tmp_path) as store:
            await created(store, "a", tasks=[make.task("a", 0)])
            worker = store.enlist()
            await done(store, Beat(worker, 10**12))
            (dead,) = await claim(store, worker)
        async with self.open_store(tmp_path) as store:
            assert store.enlist() != worker
            assert await done(store, Reap(0)) == 1
            assert await one(store, Defer(dead.ref, 0)) == LeaseLost()
            (again,) = await claim(store, store.enlist())
            assert (again.ref.token, again.attempt) == (2, 2)

    async def test_two_at_once_see_each_other(self, tmp_path: Path) -> None:
        if not self.shared:
            pytest.skip("this store cannot be open twice")
        async with self.open_store(tmp_path) as left, self.open_store(tmp_path) as right:
            seen = left.version(), right.version()
            made = await created(left, "a", tasks=[make.task("a", 0)])
            assert await head(right, "a") == head_of(made, "a")
            assert right.version() != seen[1]
            assert await one(right, commit({"a": None})) == Conflicted([job_id("a")])
            moved = commit({"a": head_of(made, "a")})
            assert await one(right, moved) == Done()
            assert left.version() != seen[0]
            await keyed(right, ("a", 1))
            assert await under(left, "a") == [("a",), ("a", 1)]
            await keyed(left, ("a", 0))
            assert await under(right, "a") == [("a",), ("a", 0), ("a", 1)]
            assert await one(left, commit({"a": head_of(made, "a")})) == Conflicted([job_id("a")])
            assert await head(left, "a") == head_of(moved, "a")
            (claimed,) = await claim(left, left.enlist())
            assert await claim(right, right.enlist()) == []
            assert claimed.ref.token == 1

    async def test_a_worker_of_the_other_is_alive_until_it_retires(self, tmp_path: Path) -> None:
        if not self.shared:
            pytest.skip("this store cannot be open twice")
        async with self.open_store(tmp_path) as left, self.open_store(tmp_path) as right:
            await created(left, "a", tasks=[make.task("a", 0)])
            worker = left.enlist()
            assert right.enlist() != worker
            await done(left, Beat(worker, 1_000))
            await claim(left, worker)
            assert await done(right, Reap(10)) == 0
            left.retire(worker)
            assert await done(right, Reap(10)) == 1

    async def test_the_other_asks_for_a_new_plan_or_says_conflict(self, tmp_path: Path) -> None:
        if not self.shared:
            pytest.skip("this store cannot be open twice")
        async with self.open_store(tmp_path) as left, self.open_store(tmp_path) as right:
            first = head_of(await created(left, "a"), "a")
            assert await head(right, "a") == first
            await done(right, commit({"b": None}))
            await done(left, commit({"a": first}))
            calls = []

            def replan(read: Callable[[CID], StoredHead | None]) -> Sequence[Member]:
                calls.append(1)
                return [commit({"a": read(job_id("a"))})]

            (result,) = await right.commit(Batch([commit({"a": first})], replan))
            assert isinstance(result, Done if calls else Conflicted)
            assert await seq(left, "a") == (3 if calls else 2)

    async def test_there_is_no_write_skew_on_absent_jobs_between_two(self, tmp_path: Path) -> None:
        """Each creates its own job and has read that the other's is absent: one of them loses."""
        if not self.shared:
            pytest.skip("this store cannot be open twice")
        async with self.open_store(tmp_path) as left, self.open_store(tmp_path) as right:
            for n in range(20):
                a, b = f"{n}a", f"{n}b"
                results: list[Result] = []

                async def run(store: Store, mine: str, other: str, into: list[Result]) -> None:
                    made = commit({mine: None}, reads=[(job_id(other), None)])
                    into.append(await one(store, made))

                async with anyio.create_task_group() as group:
                    group.start_soon(run, left, a, b, results)
                    group.start_soon(run, right, b, a, results)
                assert sum(isinstance(result, Done) for result in results) == 1, results
            assert len(await left.jobs()) == 20

    async def test_the_other_hears_what_has_changed_or_that_anything_may_have(
        self, tmp_path: Path
    ) -> None:
        if not self.shared:
            pytest.skip("this store cannot be open twice")
        async with self.open_store(tmp_path) as left, self.open_store(tmp_path) as right:
            for name in "ab":
                seen = right.version()
                await created(left, name)
                with anyio.fail_after(SOON):
                    while right.version() == seen:
                        await anyio.sleep(0.001)
                heard = right.changed(seen)
                assert heard is None or job_id(name) in heard
            quiet = right.version()
            assert not right.changed(quiet)

    # --- side by side with the specification ------------------------------------------------------

    @pytest.fixture
    def portal(self) -> Iterator[anyio.from_thread.BlockingPortal]:
        with anyio.from_thread.start_blocking_portal() as portal:
            yield portal

    def test_it_does_what_the_specification_does(
        self, portal: anyio.from_thread.BlockingPortal, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        def machine() -> Any:
            return StoreMachine(portal, self.open_store(tmp_path_factory.mktemp("machine")))

        bounds = settings(max_examples=40, stateful_step_count=30, deadline=None)
        run: Callable[..., Any] = run_state_machine_as_test
        run(machine, settings=bounds)

    # --- the transactor on this store -------------------------------------------------------------

    @pytest.fixture
    async def transactor(self, store: Store) -> AsyncIterator[Transactor]:
        made = Transactor(store, [COUNTER, RELAY], transactional=TRANSACTIONAL, pure=True)
        async with made as transactor:
            yield transactor

    async def test_a_sent_event_is_durable_when_answered(
        self, transactor: Transactor, store: Store
    ) -> None:
        answer = await transactor.send(COUNTER, Add("a", 5))
        assert (answer.kind, answer.seq) == ("committed", 1)
        stored = (await store.heads([counter("a").id]))[counter("a").id]
        assert stored is not None
        assert (stored.revision, stored.state_cid) == (answer.revision, answer.state)
        head = await transactor.get(counter("a"))
        assert head is not None
        assert (head.state.total, head.revision) == (5, answer.revision)

    async def test_two_hundred_concurrent_sends_to_one_job_are_all_counted(
        self, transactor: Transactor
    ) -> None:
        kinds = []

        async def send(by: int) -> None:
            kinds.append((await transactor.send(COUNTER, Add("hot", by))).kind)

        async with anyio.create_task_group() as group:
            for by in range(1, 201):
                group.start_soon(send, by)
        head = await transactor.get(counter("hot"))
        assert head is not None
        assert kinds == ["committed"] * 200
        assert (head.state.total, head.seq) == (200 * 201 // 2, 200)

    async def test_two_transactors_lose_no_event_of_one_job(self, store: Store) -> None:
        async with Transactor(store, [COUNTER]) as left, Transactor(store, [COUNTER]) as right:

            async def send(transactor: Transactor) -> None:
                for _ in range(10):
                    await transactor.send(COUNTER, Add("hot", 1))

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(send, left)
                    group.start_soon(send, right)
            head = await left.get(counter("hot"))
            assert head is not None
            assert (head.state.total, head.seq) == (100, 100)

    async def test_a_repeat_is_not_applied_and_gets_its_first_answer(
        self, transactor: Transactor
    ) -> None:
        first = await transactor.send(COUNTER, Add("a", 5), delivery="once")
        await transactor.send(COUNTER, Add("a", 1))
        again = await transactor.send(COUNTER, Add("a", 5), delivery="once")
        assert again.repeated
        assert (again.revision, again.seq, again.kind) == (first.revision, 1, "committed")
        head = await transactor.get(counter("a"))
        assert head is not None
        assert head.state.total == 6

    async def test_concurrent_repeats_are_applied_once(self, transactor: Transactor) -> None:
        answers = []

        async def send() -> None:
            answers.append(await transactor.send(COUNTER, Add("a", 5), delivery="once"))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(send)
        assert len({answer.revision for answer in answers}) == 1
        head = await transactor.get(counter("a"))
        assert head is not None
        assert head.state.total == 5

    async def test_wait_sees_a_state_that_was_passed_through(self, transactor: Transactor) -> None:
        """All in one batch, or not: a waiter is shown every revision, in order."""
        job = relay("a")
        await transactor.send(RELAY, Begin("a"))
        seen: list[int] = []

        def until(state: Any) -> bool:
            seen.append(state.step)
            return bool(state.step == 3)

        async with anyio.create_task_group() as group:

            async def wait() -> None:
                head = await transactor.wait(job, until, timeout=SOON)
                assert head.state.step == 3

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            for _ in range(6):
                group.start_soon(transactor.send, job, Walk())
        assert seen == [0, 1, 2, 3]

    async def test_wait_sees_what_another_transactor_passed_through(self, store: Store) -> None:
        async with Transactor(store, [RELAY]) as left, Transactor(store, [RELAY]) as right:
            job = relay("a")
            await left.send(RELAY, Begin("a"))
            async with anyio.create_task_group() as group:

                async def wait() -> None:
                    head = await left.wait(job, lambda state: state.step == 1, timeout=SOON)
                    assert head.state.step == 1

                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await right.send(job, Walk())
                await left.send(job, Walk())

    async def test_wait_gives_up_after_its_time(self, transactor: Transactor) -> None:
        await transactor.send(RELAY, Begin("a"))
        with pytest.raises(DeadlineExceeded):
            await transactor.wait(relay("a"), lambda state: False, timeout=0.01)

    async def test_a_transaction_moves_all_its_jobs_or_none(self, transactor: Transactor) -> None:
        def move(tx: Any) -> int:
            tx.apply(counter("a"), Add("a", -3))
            tx.apply(counter("b"), Add("b", 3))
            return int(tx.read(counter("a")).total)

        assert await transactor.transact(move) == -3
        a, b = await transactor.get(counter("a")), await transactor.get(counter("b"))
        assert a is not None
        assert b is not None
        assert a.revision == b.revision

        def fail(tx: Any) -> None:
            tx.apply(counter("a"), Add("a", 1))
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await transactor.transact(fail)
        assert await transactor.get(counter("a")) == a

    async def test_concurrent_transactions_keep_the_sum(self, transactor: Transactor) -> None:
        names = "abc"
        for name in names:
            await transactor.send(COUNTER, Add(name, 100))

        def moving(source: str, target: str, amount: int) -> Callable[[Any], None]:
            def body(tx: Any) -> None:
                if tx.read(counter(source)).total >= amount:
                    tx.apply(counter(source), Add(source, -amount))
                    tx.apply(counter(target), Add(target, amount))

            return body

        async with anyio.create_task_group() as group:
            for n in range(60):
                source, target = names[n % 3], names[(n * 2 + 1) % 3]
                group.start_soon(transactor.transact, moving(source, target, n % 7 * 10))
        totals = await transactor.transact(
            lambda tx: [tx.read(counter(name)).total for name in names]
        )
        assert sum(totals) == 300
        assert min(totals) >= 0

    async def test_a_snapshot_during_transfers_has_the_sum(
        self, store: Store, tmp_path: Path
    ) -> None:
        """More counters than one transaction may read, moved two at a time by another process."""
        names = [f"account {n}" for n in range(LIMITS.jobs_per_transaction + 44)]
        jobs = [counter(name) for name in names]
        other = self.open_store(tmp_path) if self.shared else nullcontext(store)
        async with other as far, Transactor(store, [COUNTER]) as here:
            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(here.send, COUNTER, Add(name, 1))

            def moving(source: str, target: str) -> Callable[[Any], None]:
                def body(tx: Any) -> None:
                    tx.apply(counter(source), Add(source, -1))
                    tx.apply(counter(target), Add(target, 1))

                return body

            async with Transactor(far, [COUNTER]) as there, anyio.create_task_group() as group:
                for at in range(len(names)):
                    group.start_soon(there.transact, moving(names[at], names[at - 7]))
                for _ in range(12):
                    found = await here.snapshot(jobs)
                    assert list(found) == jobs
                    assert sum(state.total for state in found.values()) == len(names)
                    await anyio.sleep(0.002)
            absent = counter("nobody's")
            assert await here.snapshot([absent, jobs[0]]) == {absent: None, jobs[0]: Total(1)}
            assert await here.snapshot([]) == {}

    async def test_a_transaction_with_an_id_is_made_once(self, transactor: Transactor) -> None:
        def body(tx: Any) -> int:
            tx.apply(counter("a"), Add("a", 1))
            return int(tx.read(counter("a")).total)

        for at in (counter("a"), counter("elsewhere")):
            first = await transactor.transact(body, at=at, delivery="once")
            assert await transactor.transact(body, at=at, delivery="once") == first
        head = await transactor.get(counter("a"))
        assert head is not None
        assert head.state.total == 2

    async def test_a_transactional_task_is_run_in_its_commit(self, transactor: Transactor) -> None:
        """The account is charged in the revision that asks for it; a refusal charges nothing."""
        await transactor.transact(lambda tx: tx.write(account("a"), 1))
        first = await transactor.send(RELAY, Begin("a"))
        await transactor.send(relay("a"), Passed())
        head, charged = await transactor.get(relay("a")), await transactor.get(account("a"))
        assert head is not None
        assert charged is not None
        assert (head.state.paid, charged.state.value) == (1, 0)
        assert first.seq == 1
        await transactor.send(relay("a"), Passed())
        head = await transactor.get(relay("a"))
        assert head is not None
        assert (head.state.paid, head.state.refused) == (1, 1)
        assert await transactor.store.tasks() == []

    async def test_a_reducer_that_raises_writes_nothing(
        self, transactor: Transactor, store: Store
    ) -> None:
        with pytest.raises(ReducerFailed):
            await transactor.send(COUNTER, Add("a", 666))
        assert await store.jobs() == []
        await transactor.send(COUNTER, Add("a", 1))
        assert [listed.seq for listed in await store.jobs()] == [1]
