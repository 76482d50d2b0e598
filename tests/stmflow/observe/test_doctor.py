"""The doctor: each trouble is found and told with what to do; where all is well, none is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from stmflow import CELL, CID, codec
from stmflow.limits import LIMITS
from stmflow.observe.doctor import (
    ERROR,
    FREE_BYTES,
    GROUPS,
    LEAST_FREE_BYTES,
    NOTE,
    SKEW_MS,
    UNSWEPT,
    WAL_BYTES,
    WARNING,
    Finding,
    Patient,
    clocks,
    deliveries,
    examine,
    storage,
)
from stmflow.store import Batch, Beat, Claim, Park, Store, Want
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing import builders as make
from stmflow.testing.builders import KIND, STAT, WORKFLOW, job_id
from stmflow.vitals import EXAMPLES, Vitals
from stmflow.workflow import Registry
from tests.stmflow.observe.work import FILE, file, running

if TYPE_CHECKING:
    from tests.pgservers import PostgresServer

NOW = 1_000_000
LATE = 60_000
KNOWN = Registry([FILE, CELL])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with SQLiteStore.open(tmp_path / "jobs.db") as opened:
        yield opened


async def done(store: Store, *members: Any) -> Any:
    results = await store.commit(Batch(members))
    return [result.value for result in results]


async def task(store: Store, name: str = "a", **given: Any) -> CID:
    """A job with a task; the task's id."""
    row = make.task(name, 0, **given)
    await done(store, make.commit({name: None}, tasks=[row]))
    return row.id


async def worker(store: Store, until: int = NOW + 10_000) -> int:
    number = store.enlist()
    await done(store, Beat(number, until))
    return number


async def claim(store: Store, number: int, limit: int = 10) -> list[Any]:
    (taken,) = await done(store, Claim(number, [Want(*KIND, limit)], NOW))
    return list(taken)


async def found(store: Store, **given: Any) -> dict[str, Finding]:
    """What the doctor finds, by name, without what it could not check, and without the time of the
    store's files, which are not of 1970."""
    report = await examine(store, NOW, late_ms=LATE, **given)
    ranks = [(ERROR, WARNING, NOTE).index(one.severity) for one in report.findings]
    assert ranks == sorted(ranks)
    assert all(one.what and one.do for one in report.findings)
    assert all(max(len(one.jobs), len(one.tasks)) <= EXAMPLES for one in report.findings)
    return {
        one.name: one for one in report.findings if one.severity != NOTE and one.name != "clock"
    }


# --- health ---------------------------------------------------------------------------------------


async def test_a_store_at_work_is_healthy() -> None:
    store = MemoryStore()
    async with running(store=store) as transactor:
        for name in ("a", "b"):
            await file(transactor, name)
        report = await examine(store, transactor.clock.now(), registry=KNOWN)
    assert (report.findings, report.worst) == ([], None)


async def test_an_empty_store_is_healthy_and_what_was_not_checked_is_said(store: Store) -> None:
    report = await examine(store, NOW)
    assert [one.severity for one in report.findings if one.name != "clock"] == [NOTE]
    assert await found(MemoryStore()) == {}


# --- what waits for a person ----------------------------------------------------------------------


async def test_parked_tasks_are_told_by_workflow_and_error(store: Store) -> None:
    number = await worker(store)
    for name in ("a", "b", "c"):
        await task(store, name)
    refs = [one.ref for one in await claim(store, number)]
    errors = {refs[0]: "Odd", refs[1]: "Odd", refs[2]: "Boom; rm -rf /"}
    for ref, error in errors.items():
        kept = b"\x01" if ref == refs[1] else None
        await done(store, Park(ref, codec.encode({"name": error}), kept))
    report = await examine(store, NOW, registry=None)
    odd, boom = [one for one in report.findings if one.name == "parked"]
    assert (odd.severity, odd.count, set(odd.tasks)) == (ERROR, 2, {ref.id for ref in refs[:2]})
    assert "1 were performed and kept their outcome" in odd.what
    assert f"--workflow {WORKFLOW} --error Odd" in odd.do
    assert "rm -rf" in boom.what
    assert "rm -rf" not in boom.do
    assert "--error NAME" in boom.do
    assert report.parked == 3


@pytest.mark.parametrize("more", [-1, 0, 1, 5])
async def test_errors_without_end_are_told_in_bounded_words(store: Store, more: int) -> None:
    number = await worker(store)
    count = GROUPS + more
    for n in range(count):
        await task(store, f"job {n}")
    for n, one in enumerate(await claim(store, number, limit=count)):
        await done(store, Park(one.ref, codec.encode({"name": f"{n}" + "x" * 1_000})))
    told = [one for one in (await examine(store, NOW)).findings if one.name == "parked"]
    assert len(told) == GROUPS + (more > 0) + min(more, 0)
    assert sum(one.count for one in told) == count
    assert all(len(one.what) < 200 and len(one.do) < 200 for one in told)


# --- what nobody can read -------------------------------------------------------------------------


async def test_jobs_of_versions_that_nobody_has_are_named(store: Store) -> None:
    await done(store, make.commit({"a": None}))
    await done(store, make.commit({"b": None}, workflow="file", version=2))
    await done(store, make.commit({"c": None}, workflow="file"))
    report = await examine(store, NOW, registry=KNOWN)
    told = {one.what.split(" cannot")[0]: one for one in report.findings}
    unknown, newer = told["1 jobs of contract version 1"], told["1 jobs of file version 2"]
    assert (unknown.severity, unknown.jobs) == (ERROR, [job_id("a")])
    assert "no workflow of that name" in unknown.what
    assert newer.jobs == [job_id("b", "file")]
    assert "known are 1" in newer.what
    assert not any("file version 1 " in one.what for one in report.findings)


# --- who works ------------------------------------------------------------------------------------


async def test_a_worker_that_is_gone_with_claims_is_told(store: Store) -> None:
    number = await worker(store)
    id = await task(store)
    await claim(store, number)
    assert await found(store) == {}
    store.retire(number)
    gone = (await found(store))["gone"]
    assert (gone.severity, gone.count, gone.tasks) == (ERROR, 1, [id])
    await worker(store)
    again = (await found(store))["gone"]
    assert again.severity == WARNING
    assert "nothing" in again.do


@pytest.mark.parametrize(("until", "silent"), [(NOW - 1, True), (NOW, False), (NOW + 1, False)])
async def test_a_worker_whose_lease_is_over_is_silent(
    store: Store, until: int, silent: bool
) -> None:
    number = await worker(store, until)
    await task(store)
    await claim(store, number)
    assert ("silent" in await found(store)) == silent


async def test_work_and_nobody_there_is_an_error(store: Store) -> None:
    await task(store)
    assert (await found(store))["no-worker"].severity == ERROR
    await worker(store)
    assert "no-worker" not in await found(store)


@pytest.mark.parametrize(
    ("age", "late"), [(LATE - 1, False), (LATE, True), (LATE + 1, True), (-1, False)]
)
async def test_a_task_that_nobody_takes_is_late_from_then_on(
    store: Store, age: int, late: bool
) -> None:
    await worker(store)
    id = await task(store, at=NOW - age)
    told = await found(store)
    assert ("unclaimed" in told) == late
    if late:
        assert told["unclaimed"].tasks == [id]


@pytest.mark.parametrize(
    ("registry", "live", "claims", "tag", "why"),
    [
        (None, True, False, STAT, "no running worker has a handler"),
        (None, False, False, STAT, "no worker runs"),
        (None, True, True, STAT, "workers are at 1 others of the kind and behind"),
        (KNOWN, True, False, STAT, "no worker has that version"),
    ],
)
async def test_why_nobody_takes_a_task(
    store: Store, registry: Registry | None, live: bool, claims: bool, tag: str, why: str
) -> None:
    await task(store, "a")
    if live:
        number = await worker(store)
        if claims:
            await claim(store, number, limit=1)
    await task(store, "b")
    assert why in (await found(store, registry=registry))["unclaimed"].what


async def test_a_task_that_its_version_does_not_have_is_told_as_such(store: Store) -> None:
    row = make.task("a", 0, tag="Nothing")._replace(workflow="file")
    await done(store, make.commit({"a": None}, tasks=[row]))
    assert "no such task" in (await found(store, registry=KNOWN))["unclaimed"].what


@pytest.mark.parametrize("age", [LATE - 1, LATE, LATE + 1])
async def test_timers_that_should_have_fired_are_told(store: Store, age: int) -> None:
    await worker(store)
    timer = make.timer("a", 0, due=NOW - age)
    await done(store, make.commit({"a": None}, timers=[timer]))
    told = await found(store)
    assert ("late-timers" in told) == (age >= LATE)
    if age >= LATE:
        assert told["late-timers"].tasks == [timer.id]
        unread = (await found(store, registry=KNOWN))["late-timers"]
        assert "no worker can read it" in unread.what


# --- the store itself, by its figures -------------------------------------------------------------


def seen(check: Callable[[Patient], Any], **figures: Any) -> list[tuple[str, str]]:
    vitals = Vitals(1, 1, [], [], [])._replace(**figures)
    return [(one.name, one.severity) for one in check(Patient(vitals, [], None, NOW, LATE))]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("skew", "severity"),
    [
        (SKEW_MS, None),
        (SKEW_MS + 1, WARNING),
        (10 * SKEW_MS, WARNING),
        (10 * SKEW_MS + 1, ERROR),
    ],
)
def test_clocks_that_disagree(sign: int, skew: int, severity: str | None) -> None:
    expected = [] if severity is None else [("clock", severity)]
    assert seen(clocks, clock_ms=sign * skew) == expected


@pytest.mark.parametrize(("ahead", "told"), [(SKEW_MS, False), (SKEW_MS + 1, True)])
def test_heads_of_the_future(ahead: int, told: bool) -> None:
    heads = (1, [(job_id("a"), NOW + ahead)])
    assert seen(clocks, ahead=heads) == ([("future", WARNING)] if told else [])


@pytest.mark.parametrize(
    ("free", "severity"),
    [
        (FREE_BYTES, None),
        (FREE_BYTES - 1, WARNING),
        (LEAST_FREE_BYTES, WARNING),
        (LEAST_FREE_BYTES - 1, ERROR),
        (0, ERROR),
    ],
)
def test_room_on_the_disk(free: int, severity: str | None) -> None:
    expected = [] if severity is None else [("disk", severity)]
    assert seen(storage, sizes={"free": free}) == expected


def test_what_should_be_short_and_is_not() -> None:
    assert seen(storage, sizes={"wal": WAL_BYTES}) == []
    assert seen(storage, sizes={"wal": WAL_BYTES + 1}) == [("wal", WARNING)]
    unindexed = 4 * LIMITS.index_segment_blocks
    assert seen(storage, unindexed=unindexed) == []
    assert seen(storage, unindexed=unindexed + 1) == [("index", WARNING)]
    assert seen(deliveries, stale_deliveries=UNSWEPT) == []
    assert seen(deliveries, stale_deliveries=UNSWEPT + 1) == [("unswept", WARNING)]


@pytest.mark.parametrize(
    ("settings", "unsafe"),
    [
        ({"fsync": "on", "synchronous_commit": "on"}, False),
        ({"fsync": "off"}, True),
        ({"full_page_writes": "off"}, True),
        ({"synchronous_commit": "off"}, True),
        ({"journal_mode": "wal"}, False),
        ({"journal_mode": "delete"}, False),
        ({"journal_mode": "off"}, True),
        ({"journal_mode": "truncate"}, True),
    ],
)
def test_settings_that_would_lose_commits(settings: dict[str, str], unsafe: bool) -> None:
    assert seen(storage, settings=settings) == ([("unsafe", ERROR)] if unsafe else [])


async def test_files_of_the_future_mean_that_this_clock_was_set_back(store: Store) -> None:
    assert (await examine(store, NOW)).findings[0].name == "clock"  # NOW is in 1970
    vitals = await store.vitals(4_000_000_000_000)
    assert vitals.clock_ms == 0


# --- real processes -------------------------------------------------------------------------------

HOLDER = """
import anyio, sys
from stmflow.store import Batch, Beat
from stmflow.store.sqlite import SQLiteStore

async def main():
    async with SQLiteStore.open(sys.argv[1]) as store:
        worker = store.enlist()
        await store.commit(Batch([Beat(worker, 4_000_000_000_000)]))
        print(worker, flush=True)
        sys.stdin.read()

anyio.run(main)
"""


async def test_a_worker_of_another_process_lives_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        number = int(await anyio.to_thread.run_sync(holder.stdout.readline))
        async with SQLiteStore.open(path, read_only=True) as store:
            (row,) = (await store.vitals(NOW)).workers
            assert (row.worker, row.alive) == (number, True)
            holder.kill()
            await anyio.to_thread.run_sync(holder.wait)
            (row,) = (await store.vitals(NOW)).workers
            assert row.alive is False
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


async def test_looking_at_a_lock_does_not_let_go_of_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SQLiteStore.open(path) as store:
        number = await worker(store)
        for _ in range(2):
            async with SQLiteStore.open(path, read_only=True) as looking:
                (row,) = (await looking.vitals(NOW)).workers
                assert (row.worker, row.alive) == (number, True)
        other = "import sys\nfrom stmflow.store.locks import OwnerLocks\n"
        other += "print(OwnerLocks(sys.argv[1]).dead(int(sys.argv[2])))"
        told = await anyio.run_process(
            [sys.executable, "-c", other, f"{path}-workers", f"{number}"]
        )
        assert told.stdout == b"False\n"


async def test_the_doctor_sees_the_same_on_postgresql(postgres: PostgresServer) -> None:
    from stmflow.store.postgres import PostgresStore

    url = await postgres.new_database()
    try:
        async with PostgresStore.open(url) as store:
            now = store.clock.now()
            number = await worker(store, now + 60_000)
            await task(store, "a", at=now - 2 * LATE)
            (taken,) = await done(store, Claim(number, [Want(*KIND, 1)], now))
            async with PostgresStore.open(url, read_only=True) as looking:
                assert (await examine(looking, now)).worst is None
                store.retire(number)
                report = await examine(looking, now)
                (gone,) = [one for one in report.findings if one.name == "gone"]
                assert gone.tasks == [taken[0].ref.id]
                assert report.vitals.settings["fsync"] == "on"
                assert report.vitals.sizes["database"] > 0
                assert abs(report.vitals.clock_ms) < SKEW_MS
    finally:
        await postgres.give_back(url)
