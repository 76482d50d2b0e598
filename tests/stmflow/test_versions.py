"""Sticky versions: who runs a job, `tx.adopt`, and what its history says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stmflow import CELL, CID, Head, Transactor, Tx, Workflow, cancel, codec, history, same, sleep
from stmflow.clock import Clock
from stmflow.errors import (
    InvalidEvent,
    NotOutside,
    ReducerFailed,
    StmflowError,
    UnknownVersion,
)
from stmflow.limits import LIMITS
from stmflow.store import Beat, Claim, Want
from stmflow.store.memory import MemoryStore
from stmflow.workflow import Job
from tests.stmflow.versions import (
    ONE,
    READ,
    TWO,
    File1,
    File2,
    Grow1,
    Grow2,
    Look,
    Open,
    Rang,
    one,
    stay,
    two,
    up,
    up_event,
)

A = ONE.job("a")


class Now(Clock):
    """A clock that is told what to show."""

    def __init__(self) -> None:
        self.at = 1_000

    def now(self) -> int:
        return self.at

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0.02)


@asynccontextmanager
async def engine(
    store: MemoryStore, *workflows: Workflow, chooser: Any = stay, **rest: Any
) -> AsyncIterator[Transactor]:
    async with Transactor(
        store, workflows or (ONE, TWO), chooser=chooser, pure=True, **rest
    ) as transactor:
        yield transactor


async def head(transactor: Transactor, job: Job = A) -> Head:
    found = await transactor.get(job)
    assert found is not None
    return found


def adopting(version: int, *jobs: Job) -> Callable[[Tx], list[bool]]:
    return lambda tx: [tx.adopt(job, version) for job in jobs or (A,)]


async def verified(store: MemoryStore, *jobs: Job, known: Any = (ONE, TWO)) -> None:
    """Every level of `verify` holds for these jobs, store rows included."""
    for job in jobs:
        stored = (await store.heads([job.id]))[job.id]
        assert stored is not None
        blocks = history.blocks_of(await store.revisions(job.id))
        report = history.verify(
            job.id,
            stored.revision,
            blocks.get,
            workflows=known,
            stored=stored,
            rows=await store.tasks(job=job.id),
        )
        assert (report.status, report.findings) == (history.OK, [])


# --- which version runs a job ---------------------------------------------------------------------


async def test_a_job_stays_on_its_version_and_a_new_one_is_born_at_the_chosen_one() -> None:
    store = MemoryStore()
    async with engine(store) as old:
        await old.send(ONE, Open("a"))
        assert (await head(old)).version == 1
    async with engine(store, chooser=lambda tx, job: 2) as new:
        await new.send(TWO, Open("b"))
        assert isinstance((await head(new, TWO.job("b"))).state, File2)
        await new.send(A, Grow1("a", 5))
        found = await head(new)
        assert (found.version, found.state) == (1, File1("a", 5))
    await verified(store, A, TWO.job("b"))


async def test_without_a_chooser_the_newest_version_takes_every_job_over() -> None:
    store = MemoryStore()
    async with engine(store) as old:
        await old.send(ONE, Open("a"))
    async with engine(store, chooser=None) as new:
        await new.send(A, Grow2("a", 5))
        found = await head(new)
        assert (found.version, found.state) == (2, File2("a", 5))
    await verified(store, A)


async def test_no_choice_is_the_newest_version_known_here() -> None:
    async with engine(MemoryStore(), chooser=lambda tx, job: None) as transactor:
        await transactor.send(TWO, Open("a"))
        assert (await head(transactor)).version == 2


async def test_what_the_chooser_read_is_in_the_read_set_of_the_birth() -> None:
    asked = CELL.job("version")

    def chooser(tx: Tx, job: Job) -> int:
        assert job.workflow == "file"  # a cell has one version: nobody is asked
        cell = tx.read(asked)
        return 1 if cell is None else int(cell.value)

    store = MemoryStore()
    async with engine(store, chooser=chooser) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.transact(lambda tx: tx.write(asked, 2))
        await transactor.send(ONE, Open("b"))
        first, second = await head(transactor), await head(transactor, ONE.job("b"))
        assert (first.version, second.version) == (1, 2)
        set_at = (await head(transactor, asked)).revision
    seen = []
    for job in (A, ONE.job("b")):
        (packed,) = await store.revisions(job.id)
        seen.append(history.read_revision(packed.cid, packed.revision).reads)
    assert seen == [((asked.id, None),), ((asked.id, set_at),)]


async def test_a_choice_that_is_not_registered_here_refuses_the_birth_by_name() -> None:
    store = MemoryStore()
    async with engine(store, ONE, chooser=lambda tx, job: 2) as transactor:
        with pytest.raises(UnknownVersion, match="file version 2 is not registered"):
            await transactor.send(ONE, Open("a"))
        assert await transactor.get(A) is None


async def test_a_chooser_that_raises_writes_nothing() -> None:
    def broken(tx: Tx, job: Job) -> int:
        raise KeyError("which")

    async with engine(MemoryStore(), chooser=broken) as transactor:
        with pytest.raises(ReducerFailed, match="chooser of versions raised KeyError"):
            await transactor.send(ONE, Open("a"))
        assert await transactor.get(A) is None


async def test_a_process_without_the_version_of_a_job_refuses_it_by_name() -> None:
    store = MemoryStore()
    async with engine(store) as both:
        await both.send(ONE, Open("a"))
    for chooser in (stay, None):
        async with engine(store, two(upcasts={}), chooser=chooser) as newer:
            with pytest.raises(UnknownVersion):
                await newer.get(A)
            with pytest.raises(UnknownVersion):
                await newer.send(A, Grow2("a", 1))


# --- events of another version --------------------------------------------------------------------


async def test_an_event_of_another_version_is_cast_to_that_of_the_job() -> None:
    store = MemoryStore()
    async with engine(store) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.send(TWO, Grow2("a", 3))
        await transactor.transact(lambda tx: tx.apply(A, Grow2("a", 4)))
        assert (await head(transactor)).state == File1("a", 7)
        await transactor.transact(adopting(2))
        await transactor.send(ONE, Grow1("a", 5))
        assert (await head(transactor)).state == File2("a", 12)
    await verified(store, A)


async def test_an_event_without_a_way_to_the_version_of_the_job_is_refused() -> None:
    store = MemoryStore()
    async with engine(store, ONE, two(downcasts={})) as transactor:
        await transactor.send(ONE, Open("a"))
        with pytest.raises(UnknownVersion, match="no downcast from version 2"):
            await transactor.send(A, Grow2("a", 1))
        with pytest.raises(InvalidEvent):
            await transactor.send(A, object())
        assert (await head(transactor)).seq == 1


async def test_whether_callers_may_send_an_event_is_the_say_of_the_version_of_the_job() -> None:
    async with engine(MemoryStore(), one(outside=(Open,)), TWO) as transactor:
        await transactor.send(ONE, Open("a"))
        with pytest.raises(NotOutside):
            await transactor.send(A, Grow2("a", 1))
        with pytest.raises(NotOutside):
            await transactor.send(A, Look("a"))
        await transactor.transact(adopting(2))
        await transactor.send(A, Grow2("a", 1))
        assert (await head(transactor)).state == File2("a", 1)


# --- adopt ----------------------------------------------------------------------------------------


async def test_adopt_moves_a_job_and_back_in_revisions_without_events() -> None:
    store = MemoryStore()
    async with engine(store) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.send(A, Grow1("a", 5))
        assert await transactor.transact(adopting(2)) == [True]
        moved = await head(transactor)
        assert (moved.version, moved.seq, moved.epoch) == (2, 3, 1)
        assert moved.state == File2("a", 5)
        assert await transactor.transact(adopting(2)) == [False]
        assert (await head(transactor)).seq == 3
        assert await transactor.transact(adopting(1)) == [True]
        back = await head(transactor)
        assert (back.version, back.seq, back.state) == (1, 4, File1("a", 5))
    await verified(store, A)


async def test_adopt_is_read_by_a_process_that_comes_later() -> None:
    store = MemoryStore()
    async with engine(store) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.transact(adopting(2))
    async with engine(store) as later:
        assert (await head(later)).state == File2("a")
    async with engine(store, ONE) as without:
        with pytest.raises(UnknownVersion):
            await without.get(A)


async def test_several_jobs_adopt_in_one_commit_with_what_counts_them() -> None:
    store, counter = MemoryStore(), CELL.job("moved")
    jobs = [ONE.job(name) for name in "abc"]

    def body(tx: Tx) -> int:
        moved = sum(tx.adopt(job, 2) for job in jobs)
        tx.write(counter, moved)
        return moved

    async with engine(store) as transactor:
        for name in "abc":
            await transactor.send(ONE, Open(name))
        assert await transactor.transact(body) == 3
        revisions = {(await head(transactor, job)).revision for job in (*jobs, counter)}
        assert len(revisions) == 1
    await verified(store, *jobs, counter)


async def test_open_tasks_and_timers_survive_both_moves_and_fire_in_the_form_of_the_version() -> (
    None
):
    store, clock = MemoryStore(), Now()
    async with engine(store, clock=clock) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.send(A, Look("a"))
        rows = await store.tasks(job=A.id)
        assert len(rows) == 2
        await transactor.transact(adopting(2))
        assert [row.id for row in await store.tasks(job=A.id)] == [row.id for row in rows]
        await settle(transactor, 7)
        assert (await head(transactor)).state == File2("a", 7)
        await transactor.send(A, Look("a"))  # asked for by version 2, answered under version 1
        await transactor.transact(adopting(1))
        await settle(transactor, 9)
        assert (await head(transactor)).state == File1("a", 9)
        clock.at += 1_000
        (due,) = await store.timers(clock.at, 9)
        await transactor.fire(due)
        assert (await head(transactor)).state == File1("a", 9, "old")
    await verified(store, A)


async def settle(transactor: Transactor, value: Any) -> None:
    """Answer every task that is due."""
    await transactor.do(lambda: Beat(1, 10**15))
    wants = [Want("file", version, "Stat", 9) for version in (1, 2)]
    for claimed in await transactor.do(lambda: Claim(1, wants, 10**14)):
        await transactor.settle(claimed.ref, value)


REFUSALS: dict[str, tuple[Workflow, type[StmflowError], str]] = {
    "no upcast": (two(upcasts={}), UnknownVersion, "no upcast from version 1"),
    "an upcast that raises": (
        two(upcasts={1: (lambda tag, fields: fields["none"], up_event)}),
        ReducerFailed,
        "cannot take the state: KeyError",
    ),
    "a state of another form": (
        two(upcasts={1: (lambda tag, fields: (tag, fields), up_event)}),
        ReducerFailed,
        "cannot take the state",
    ),
    "another epoch": (
        two(epoch="octets", upcasts={1: (lambda tag, f: up(tag, {**f, "size": 2}), up_event)}),
        ReducerFailed,
        "would move epoch 1 to 2",
    ),
    "a tag in which a sleep ends": (
        two(tag=lambda state: "renamed"),
        ReducerFailed,
        "calls open renamed: a sleep would end",
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_what_cannot_be_moved_is_refused_and_stays_as_it_was(why: str) -> None:
    newer, kind, text = REFUSALS[why]
    store = MemoryStore()
    async with engine(store, ONE, newer) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.send(A, Look("a"))
        before = await head(transactor)
        with pytest.raises(kind, match=text):
            await transactor.transact(adopting(2))
        assert (await head(transactor)).revision == before.revision
        # The body may take the refusal as an answer: the other jobs of the commit go on.
        assert await transactor.transact(lambda tx: refused(tx, kind)) == kind.__name__
        assert (await head(transactor)).revision == before.revision


def refused(tx: Tx, kind: type[Exception]) -> str:
    tx.write(CELL.job("other"), 1)
    with pytest.raises(kind) as caught:
        tx.adopt(A, 2)
    return type(caught.value).__name__


async def test_where_the_newest_runs_every_job_a_move_ends_no_sleep_either() -> None:
    store = MemoryStore()
    async with engine(store) as old:
        await old.send(ONE, Open("a"))
        await old.send(A, Look("a"))
    async with engine(store, ONE, two(tag=lambda state: "renamed"), chooser=None) as newest:
        with pytest.raises(ReducerFailed, match="a sleep would end"):
            await newest.transact(adopting(2))
    async with engine(store, TWO, chooser=None) as without:
        with pytest.raises(UnknownVersion):
            await without.transact(adopting(2))


async def test_a_new_tag_hurts_no_sleep_that_is_over_or_goes_on_in_it() -> None:
    renamed = two(tag=lambda state: "renamed")
    for during in ((), ("open", "renamed")):

        def update(event: Any, state: Any, during: Any = during) -> Any:
            if isinstance(event, Open):
                return File1(event.name), ()
            bell = sleep(for_=timedelta(seconds=1), name="bell", during=during or ("open",)).then(
                Rang
            )
            return same(bell) if isinstance(event, Look) else same(cancel("bell"))

        store = MemoryStore()
        async with engine(store, one(update=update), renamed) as transactor:
            await transactor.send(ONE, Open("a"))
            await transactor.send(A, Look("a"))
            if not during:
                await transactor.send(A, Grow1("a", 1))
            rows = await store.tasks(job=A.id)
            assert await transactor.transact(adopting(2)) == [True]
            assert await store.tasks(job=A.id) == rows


async def test_a_version_may_fall_only_in_a_write_that_does_nothing_else() -> None:
    store = MemoryStore()
    async with engine(store) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.transact(adopting(2))
        await transactor.transact(adopting(1))
    packs = await store.revisions(A.id)
    blocks = history.blocks_of(packs)
    forged = codec.decode(packs[0].revision)
    forged["writes"][0]["events"] = codec.decode(packs[2].revision)["writes"][0]["events"]
    cid, block = codec.block(forged)
    blocks[cid] = block
    report = history.verify(A.id, cid, blocks.get, workflows=(ONE, TWO))
    assert report.level(1) == history.MISMATCH
    assert any("the version falls from 2 to 1" in one.text for one in report.findings)


async def test_a_move_that_its_casts_do_not_make_is_found() -> None:
    store = MemoryStore()
    async with engine(store) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.transact(adopting(2))
    packs = await store.revisions(A.id)
    blocks = history.blocks_of(packs)
    forged = codec.decode(packs[0].revision)
    state = TWO.state_bytes(File2("a", 99))
    forged["writes"][0]["state"] = CID.of(state)
    cid, block = codec.block(forged)
    blocks |= {cid: block, CID.of(state): state}
    report = history.verify(A.id, cid, blocks.get, workflows=(ONE, TWO))
    assert [(one.level, one.seq) for one in report.findings] == [(3, 2)]
    assert history.verify(A.id, cid, blocks.get, workflows=(ONE,)).not_rerun is not None


async def test_a_revert_needs_a_downcast() -> None:
    store = MemoryStore()
    async with engine(store, ONE, two(downcasts={})) as transactor:
        await transactor.send(ONE, Open("a"))
        await transactor.transact(adopting(2))
        with pytest.raises(UnknownVersion, match="no downcast from version 2"):
            await transactor.transact(adopting(1))
        assert (await head(transactor)).version == 2


async def test_adopt_is_a_write_of_its_own_on_a_job_that_exists() -> None:
    def after(tx: Tx) -> None:
        tx.apply(A, Grow1("a", 1))
        tx.adopt(A, 2)

    def before(tx: Tx) -> None:
        tx.adopt(A, 2)
        tx.apply(A, Grow2("a", 1))

    def given(tx: Tx) -> None:
        tx.adopt(A, 2)
        tx.effect(A, cancel("bell"))

    store = MemoryStore()
    async with engine(store) as transactor:
        with pytest.raises(ReducerFailed, match="no job"):
            await transactor.transact(adopting(2))
        await transactor.send(ONE, Open("a"))
        for body in (after, before, given):
            with pytest.raises(ReducerFailed, match="a write of its own"):
                await transactor.transact(body)
        with pytest.raises(UnknownVersion, match="version 3 is not registered"):
            await transactor.transact(adopting(3))
        assert (await head(transactor)).seq == 1


async def test_where_the_newest_runs_every_job_adopt_writes_down_what_loading_would_do() -> None:
    store = MemoryStore()
    async with engine(store) as old:
        await old.send(ONE, Open("a"))
    async with engine(store, chooser=None) as newest:
        assert await newest.transact(adopting(2)) == [True]
        found = await head(newest)
        assert (found.version, found.seq, found.state) == (2, 2, File2("a"))
        with pytest.raises(ReducerFailed, match="run by the newest"):
            await newest.transact(adopting(1))
    await verified(store, A)


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_the_state_that_a_move_makes_is_bounded(more: int) -> None:
    newer = two(upcasts={1: (lambda tag, f: wide(tag, f, more), up_event)}, state=Wide)
    store = MemoryStore()
    async with engine(store, ONE, newer) as transactor:
        await transactor.send(ONE, Open("a"))
        if more > 0:
            with pytest.raises(StmflowError):
                await transactor.transact(adopting(2))
        else:
            assert await transactor.transact(adopting(2)) == [True]
            state = (await head(transactor)).state
            assert len(newer.state_bytes(state)) == LIMITS.state_bytes + more


@dataclass(frozen=True)
class Wide:
    tag: ClassVar[str] = "File"
    name: str
    octets: int
    status: str
    fill: tuple[str, ...]


def wide(tag: str, fields: Any, more: int) -> Any:
    """A state of exactly so many bytes more than are allowed."""
    newer = two(state=Wide)
    texts = ["f" * 60_000] * 4
    length = len(newer.state_bytes(Wide(fields["name"], 0, "open", (*texts, "f" * 10_000))))
    last = 10_000 + LIMITS.state_bytes + more - length
    return tag, {**up(tag, fields)[1], "fill": [*texts, "f" * last]}


# --- a job is never read by a reducer that it does not name --------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 2)),
    st.tuples(st.just("grow"), st.integers(0, 2)),
    st.tuples(st.just("look"), st.integers(0, 2)),
    st.tuples(st.just("settle"), st.integers(0, 2)),
    st.tuples(st.sampled_from(["up", "down"]), st.integers(0, 2)),
    st.tuples(st.sampled_from(["born 1", "born 2"]), st.just(0)),
)


@settings(max_examples=60)
@given(steps=st.lists(st.tuples(st.integers(0, 1), STEPS), max_size=25))
async def test_no_job_is_read_by_a_reducer_that_it_does_not_name(steps: Any) -> None:
    """N5, with two processes on one store that send events of either version."""
    store, asked = MemoryStore(), CELL.job("version")
    jobs = [ONE.job(f"j{n}") for n in range(3)]
    expected: dict[int, int] = {}
    born = 1

    def chooser(tx: Tx, job: Job) -> int:
        cell = tx.read(asked)
        return 1 if cell is None else int(cell.value)

    READ.clear()
    async with engine(store, chooser=chooser) as x, engine(store, chooser=chooser) as y:
        for who, (what, n) in steps:
            transactor, job = (x, y)[who], jobs[n]
            if what == "open":
                await transactor.send(job, Open(f"j{n}"))
                expected.setdefault(n, born)
            elif what.startswith("born"):
                born = int(what[-1])
                await transactor.transact(lambda tx, v=born: tx.write(asked, v))
            elif n not in expected:
                continue
            elif what in ("up", "down"):
                version = 2 if what == "up" else 1
                moved = await transactor.transact(adopting(version, job))
                assert moved == [expected[n] != version]
                expected[n] = version
            elif what == "grow":
                event: Any = Grow1(f"j{n}", 1) if who else Grow2(f"j{n}", 1)
                await transactor.send(job, event)
            elif what == "look":
                await transactor.send(job, Look(f"j{n}"))
            elif await store.tasks(job=job.id):
                await settle(transactor, 5)
        for n, version in expected.items():
            assert (await head(x, jobs[n])).version == version
            assert (await head(y, jobs[n])).version == version
    assert {pair for pair in READ if pair[1] != "NoneType"} <= {(1, "File1"), (2, "File2")}
    await verified(store, *(jobs[n] for n in expected))
