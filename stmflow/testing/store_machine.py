"""A rule-based machine: the store under test and `MemoryStore` side by side, step by step equal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio.from_thread
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import Err
from stmflow.store import (
    Batch,
    Beat,
    Claim,
    Claimed,
    Commit,
    Defer,
    Disown,
    Done,
    DueTimer,
    Member,
    Park,
    Reap,
    Redrive,
    Ref,
    Result,
    Store,
    StoredHead,
    Sweep,
    Want,
    Watch,
)
from stmflow.store.memory import MemoryStore
from stmflow.testing import builders as make
from stmflow.testing.builders import STAT, WORKFLOW, commit, head_of, job_id

T = TypeVar("T")

NAMES = "abcd"
TAGS = (STAT, "Sign")
TENANTS = ("", "t", "u")
DELIVERIES = (b"1", b"2")

names = st.sampled_from(NAMES)
picks = st.integers(0, 10**6)
"""A draw that chooses among whatever there is."""


class StoreMachine(RuleBasedStateMachine):
    """Every batch is given to both stores; results and everything that can be read must agree."""

    def __init__(
        self,
        portal: anyio.from_thread.BlockingPortal,
        opened: AbstractAsyncContextManager[Store],
    ) -> None:
        super().__init__()
        self._portal = portal
        self._opened = portal.wrap_async_context_manager(opened)
        self.store = self._opened.__enter__()
        self.memory = MemoryStore()
        self.heads: dict[str, list[StoredHead | None]] = {name: [None] for name in NAMES}
        self.places = dict.fromkeys(NAMES, 0)
        self.held: list[Claimed] = []
        self.workers: dict[int, int] = {}
        self.now = 100
        self.unique = 0

    def teardown(self) -> None:
        self._opened.__exit__(None, None, None)

    # --- running both -----------------------------------------------------------------------------

    def _ask(self, question: Callable[[Store], Awaitable[T]]) -> tuple[T, T]:
        async def both() -> tuple[T, T]:
            return await question(self.memory), await question(self.store)

        return self._portal.call(both)

    def _apply(self, *pairs: tuple[Member, Member]) -> list[Result]:
        """Commit (the member for memory, the member for the store) as one batch in each."""

        async def both() -> tuple[Sequence[Result], Sequence[Result]]:
            expected = await self.memory.commit(Batch([left for left, _ in pairs]))
            return expected, await self.store.commit(Batch([right for _, right in pairs]))

        expected, found = self._portal.call(both)
        assert [self._named(result) for result in found] == [
            self._named(result) for result in expected
        ]
        return list(expected)

    def _same(self, *members: Member) -> list[Result]:
        return self._apply(*[(member, member) for member in members])

    def _named(self, result: Result) -> Any:
        """A result as both can be held to: workers by their place in our list."""
        if isinstance(result, Done) and isinstance(result.value, list):
            return [claimed._replace(ref=self._anonymous(claimed.ref)) for claimed in result.value]
        if hasattr(result, "jobs"):
            return type(result), set(result.jobs)
        return result

    def _anonymous(self, ref: Ref) -> Ref:
        return ref._replace(worker=None if ref.worker is None else self._place_of(ref.worker))

    def _place_of(self, worker: int) -> int:
        """The number of a worker in memory, whichever store's number is given."""
        return next((m for m, s in self.workers.items() if worker in (m, s)), -1)

    def _theirs(self, ref: Ref) -> Ref:
        """The same claim, by the number that its worker has in the store under test."""
        return ref._replace(worker=None if ref.worker is None else self.workers[ref.worker])

    def _fresh(self) -> int:
        """Grows: no two rows are due at the same time, since among equals order is free."""
        self.unique += 1
        return self.unique

    # --- commits ----------------------------------------------------------------------------------

    def _built(self, draw: st.DataObject, overlay: dict[str, StoredHead | None]) -> Commit:
        writes: dict[str, StoredHead | None] = {}
        for name in draw.draw(st.sets(names, min_size=1, max_size=3)):
            known = self.heads[name]
            stale = draw.draw(picks) % 6 == 0
            writes[name] = known[draw.draw(picks) % len(known)] if stale else overlay[name]
        tasks, timers = [], []
        for name in draw.draw(st.lists(st.sampled_from(sorted(writes)), max_size=3)):
            n, self.places[name] = self.places[name], self.places[name] + 1
            due = self.now + draw.draw(st.sampled_from((-50, 0, 50))) + self._fresh() * 1_000
            if draw.draw(st.booleans()):
                timers.append(make.timer(name, n, due=due))
            else:
                tag, tenant = draw.draw(st.sampled_from(TAGS)), draw.draw(st.sampled_from(TENANTS))
                tasks.append(make.task(name, n, at=due, tag=tag, tenant=tenant))
        reads = [
            (job_id(name), None if overlay[name] is None else overlay[name].revision)  # type: ignore[union-attr]
            for name in draw.draw(st.sets(names, max_size=2))
            if name not in writes
        ]
        delivery = None
        if draw.draw(st.booleans()):
            name, id = (
                draw.draw(st.sampled_from(sorted(writes))),
                draw.draw(st.sampled_from(DELIVERIES)),
            )
            answer = codec.encode(self._fresh())
            delivery = make.delivery(name, id, answer=answer, until=self.now + self._fresh())
        made = commit(writes, reads=reads, tasks=tasks, timers=timers, delivery=delivery)
        for name in writes:
            overlay[name] = head_of(made, name)
        return made

    @rule(draw=st.data(), size=st.integers(1, 3))
    def write(self, draw: st.DataObject, size: int) -> None:
        overlay = {name: known[-1] for name, known in self.heads.items()}
        members = [self._built(draw, overlay) for _ in range(size)]
        for made, result in zip(members, self._same(*members), strict=True):
            if isinstance(result, Done):
                self._landed(made)

    def _landed(self, made: Commit) -> None:
        for write in made.writes:
            self.heads[str(write.head.key[0])].append(write.head)

    def _name(self, job: CID) -> str:
        return next(name for name in NAMES if job_id(name) == job)

    @precondition(lambda self: self.held)
    @rule(pick=picks, wrong=st.sampled_from(("", "", "", "token", "id")))
    def settle(self, pick: int, wrong: str) -> None:
        ref = self.held[pick % len(self.held)].ref
        if wrong == "token":
            ref = ref._replace(token=ref.token + 1)
        elif wrong == "id":
            ref = ref._replace(id=CID.of(b"another"))
        name = self._name(ref.job)
        value = self._fresh()
        ours, theirs = (
            commit({name: self.heads[name][-1]}, settles=each, value=10**6 + value)
            for each in (ref, self._theirs(ref))
        )
        (result,) = self._apply((ours, theirs))
        if isinstance(result, Done):
            self._landed(ours)

    @precondition(lambda self: self.held)
    @rule(pick=picks, back=st.booleans(), later=st.sampled_from((0, 10_000)))
    def defer(self, pick: int, back: bool, later: int) -> None:
        ref = self.held[pick % len(self.held)].ref
        due = self.now + later + self._fresh() * 1_000
        error = None if back else codec.encode(Err("Busy").plain())
        ours, theirs = (Defer(each, due, error, back) for each in (ref, self._theirs(ref)))
        self._apply((ours, theirs))

    @precondition(lambda self: self.held)
    @rule(pick=picks, kept=st.booleans())
    def park(self, pick: int, kept: bool) -> None:
        ref = self.held[pick % len(self.held)].ref
        error, outcome = codec.encode(Err("Bad").plain()), codec.encode({"ok": 1})
        ours, theirs = (
            Park(each, error, outcome if kept else None) for each in (ref, self._theirs(ref))
        )
        self._apply((ours, theirs))

    @precondition(lambda self: self.held)
    @rule(pick=picks, read=st.sets(names, min_size=1, max_size=2), stale=st.booleans())
    def watch(self, pick: int, read: set[str], stale: bool) -> None:
        ref = self.held[pick % len(self.held)].ref
        reads = []
        for name in sorted(read):
            known = self.heads[name]
            head = known[0 if stale else -1]
            reads.append((job_id(name), None if head is None else head.revision))
        until = self.now + self._fresh() * 1_000
        ours, theirs = (Watch(each, reads, until) for each in (ref, self._theirs(ref)))
        self._apply((ours, theirs))

    @rule(pick=picks, again=st.booleans())
    def redrive(self, pick: int, again: bool) -> None:
        rows, _ = self._ask(lambda store: store.tasks(parked=not again))
        if rows:
            row = rows[pick % len(rows)]
            self._same(Redrive(row.job, row.n, row.id, self.now + self._fresh() * 1_000))

    @rule(pick=picks)
    def settle_what_is_parked(self, pick: int) -> None:
        rows, _ = self._ask(lambda store: store.tasks(parked=True))
        rows = [row for row in rows if not row.timer]
        if rows:
            row = rows[pick % len(rows)]
            name = self._name(row.job)
            ref = Ref(row.job, row.n, row.id, None, row.token)
            made = commit({name: self.heads[name][-1]}, settles=ref)
            (result,) = self._same(made)
            assert isinstance(result, Done)
            self._landed(made)

    @rule(pick=picks, how=st.sampled_from(("fire", "park", "close", "wrong")))
    def timer(self, pick: int, how: str) -> None:
        rows, _ = self._ask(lambda store: store.tasks())
        rows = [row for row in rows if row.timer]
        if not rows:
            return
        row = rows[pick % len(rows)]
        name = self._name(row.job)
        if how == "park":
            ref = Ref(row.job, row.n, row.id, None, 0)
            self._same(Park(ref, codec.encode(Err("Bad").plain()), timer=True))
            return
        id = CID.of(b"another") if how == "wrong" else row.id
        upon = {name: self.heads[name][-1]}
        if how == "close":
            made = commit(upon, closed=[(row.job, row.n, True)])
        else:
            made = commit(upon, fires=DueTimer(row.job, row.n, id, row.due))
        (result,) = self._same(made)
        if isinstance(result, Done):
            self._landed(made)

    # --- claims and workers -----------------------------------------------------------------------

    @rule()
    def enlist(self) -> None:
        if len(self.workers) < 4:
            self.workers[self.memory.enlist()] = self.store.enlist()

    @precondition(lambda self: self.workers)
    @rule(
        pick=picks,
        limits=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        tenant=st.sampled_from((None, *TENANTS)),
        ahead=st.sampled_from((0, 5_000, 10**6)),
    )
    def claim(self, pick: int, limits: tuple[int, int], tenant: str | None, ahead: int) -> None:
        ours, theirs = sorted(self.workers.items())[pick % len(self.workers)]
        wants = [
            Want(WORKFLOW, 1, tag, limit, tenant) for tag, limit in zip(TAGS, limits, strict=True)
        ]
        now = self.now + ahead
        left, right = (Claim(worker, wants, now) for worker in (ours, theirs))
        (result,) = self._apply((left, right))
        assert isinstance(result, Done)
        self.held = [*self.held, *result.value][-12:]

    @precondition(lambda self: self.workers)
    @rule(pick=picks, lease=st.sampled_from((0, 100, 10_000)))
    def beat(self, pick: int, lease: int) -> None:
        ours, theirs = sorted(self.workers.items())[pick % len(self.workers)]
        until = self.now + lease
        self._apply((Beat(ours, until), Beat(theirs, until)))

    @rule(ahead=st.sampled_from((0, 50, 1_000)))
    def reap(self, ahead: int) -> None:
        self.now += ahead
        self._same(Reap(self.now))

    @precondition(lambda self: self.workers)
    @rule(pick=picks)
    def retire(self, pick: int) -> None:
        ours, theirs = sorted(self.workers.items())[pick % len(self.workers)]
        self._apply((Beat(ours, self.now), Beat(theirs, self.now)))
        self.memory.retire(ours)
        self.store.retire(theirs)
        self._same(Reap(self.now))
        del self.workers[ours]
        self.held = [claimed for claimed in self.held if claimed.ref.worker != ours]

    @precondition(lambda self: self.workers)
    @rule(pick=picks, kept=st.integers(0, 3))
    def disown(self, pick: int, kept: int) -> None:
        ours, theirs = sorted(self.workers.items())[pick % len(self.workers)]
        keep = [claimed.ref[:2] for claimed in self.held[:kept]]
        self._apply((Disown(ours, keep), Disown(theirs, keep)))

    @rule(ahead=st.sampled_from((0, 3, 100)))
    def sweep(self, ahead: int) -> None:
        self._same(Sweep(self.now + ahead, 1_000))

    # --- what must agree --------------------------------------------------------------------------

    @invariant()
    def heads_agree(self) -> None:
        jobs = [job_id(name) for name in NAMES]
        expected, found = self._ask(lambda store: store.heads(jobs))
        assert dict(found) == dict(expected)
        assert dict(expected) == {job_id(name): known[-1] for name, known in self.heads.items()}

    @invariant()
    def outboxes_agree(self) -> None:
        expected, found = self._ask(lambda store: store.tasks())

        def plain(rows: Sequence[Any]) -> list[Any]:
            return sorted(
                (
                    row._replace(
                        worker=row.worker and self._place_of(row.worker), job=None, id=None
                    )
                    for row in rows
                ),
                key=repr,
            )

        assert plain(found) == plain(expected)
        assert {row.id for row in found} == {row.id for row in expected}

    @invariant()
    def times_agree(self) -> None:
        kinds = [(WORKFLOW, 1, tag) for tag in TAGS]
        expected, found = self._ask(lambda store: store.next_task(kinds))
        assert found == expected
        queues, their_queues = self._ask(lambda store: store.queues(dict.fromkeys(kinds), 9))
        assert list(their_queues) == list(queues)
        due, their_due = self._ask(lambda store: store.next_timer())
        assert their_due == due
        timers, their_timers = self._ask(lambda store: store.timers(self.now + 9_000, 5))
        assert list(their_timers) == list(timers)

    @invariant()
    def listings_agree(self) -> None:
        jobs, their_jobs = self._ask(lambda store: store.jobs())
        assert list(their_jobs) == list(jobs)
        for options in (
            {},
            {"reverse": True, "limit": 3},
            {"after": jobs[0].job, "tag": jobs[0].tag} if jobs else {},
        ):
            under, their_under = self._ask(
                lambda store, options=options: store.under(WORKFLOW, **options)  # type: ignore[misc]
            )
            assert list(their_under) == list(under)
        for name in NAMES:
            chain, their_chain = self._ask(lambda store, name=name: store.revisions(job_id(name)))  # type: ignore[misc]
            assert [packed.cid for packed in their_chain] == [packed.cid for packed in chain]
            for id in DELIVERIES:
                answer, their_answer = self._ask(
                    lambda store, name=name, id=id: store.delivery(job_id(name), id)  # type: ignore[misc]
                )
                assert their_answer == answer


__all__ = ["StoreMachine"]
