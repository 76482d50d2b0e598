"""`doctor` and `redrive --all`: what they print, what they change, and their exit codes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import anyio
import pytest

from stmflow import Err
from stmflow.cli import exits
from stmflow.store.sqlite import SCHEMA, SQLiteStore
from tests.stmflow.cli import sample
from tests.stmflow.cli.conftest import APP, HOSTILE, Call, Names, link
from tests.stmflow.cli.sample import UPLOAD, Added, world

SAMPLE = "tests.stmflow.cli.sample"


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    """A database in which nothing waits."""
    path = tmp_path / "healthy.db"

    async def fill() -> None:
        async with SQLiteStore.open(path) as store, world(store) as found:
            await sample.orders(found, count=1)

    anyio.run(fill)
    return path


# --- doctor ---------------------------------------------------------------------------------------


def test_a_healthy_database_is_said_to_be_healthy(call: Call, healthy: Path) -> None:
    told = call("doctor", "--app", APP, database=healthy).stdout
    assert told.splitlines()[-1] == "healthy"
    (found,) = call.json("doctor", "--app", APP, database=healthy)
    assert (found["health"], found["findings"], found["schema"]) == ("healthy", [], SCHEMA)
    assert (found["jobs"], found["parked"]) == (2, 0)
    assert [(one["worker"], one["alive"]) for one in found["workers"]] == [(1, False)]
    assert found["sizes"]["database"] > 0
    assert found["settings"]["journal_mode"] == "wal"


def test_what_could_not_be_checked_is_a_note_and_no_trouble(call: Call, healthy: Path) -> None:
    (found,) = call.json("doctor", database=healthy)
    assert [one["severity"] for one in found["findings"]] == ["note"]
    assert found["health"] == "healthy"


def test_trouble_is_told_with_tasks_and_what_to_do(call: Call, names: Names) -> None:
    (found,) = call.json("doctor", "--app", APP, code=exits.MISMATCH)
    told = {one["name"]: one for one in found["findings"]}
    assert {"parked", "no-worker", "late-timers"} <= set(told)
    parked = [one for one in found["findings"] if one["name"] == "parked"]
    tasks = [task for one in parked for task in one["tasks"]]
    assert sorted(task["/"] for task in tasks) == sorted([str(names.parked), str(names.kept)])
    assert all(one["do"].startswith("mend") for one in parked)
    text = call("doctor", "--app", APP, code=exits.MISMATCH).stdout
    assert f"task {names.parked}" in text
    assert "healthy" not in text


def test_jobs_that_the_application_cannot_read_are_found(call: Call, names: Names) -> None:
    (found,) = call.json("doctor", "--app", f"{SAMPLE}:only_orders", code=exits.MISMATCH)
    unreadable = [one for one in found["findings"] if one["name"] == "unreadable"]
    assert [one["count"] for one in unreadable] == [5]
    assert link(names.upload) in unreadable[0]["jobs"]
    (found,) = call.json("doctor", "--app", f"{SAMPLE}:newer", code=exits.MISMATCH)
    assert "unreadable" not in {one["name"] for one in found["findings"]}  # it has an upcast


def test_what_is_late_is_the_reader_s_to_say(call: Call, names: Names) -> None:
    for late, expected in (("60", True), ("1e12", False)):
        (found,) = call.json("doctor", "--late", late, code=exits.MISMATCH)
        assert ("late-timers" in {one["name"] for one in found["findings"]}) == expected


def test_warnings_have_a_code_of_their_own(call: Call, healthy: Path) -> None:
    os.utime(healthy, (4_000_000_000, 4_000_000_000))  # far in the future: an error
    call("doctor", database=healthy, code=exits.MISMATCH)
    times = anyio.run(partial(_ahead, healthy, 5_000))
    os.utime(healthy, (times, times))
    (found,) = call.json("doctor", database=healthy, code=exits.WARNINGS)
    assert found["health"] == "warning"


async def _ahead(path: Path, ms: int) -> float:
    from stmflow import SystemClock

    return (SystemClock().now() + ms) / 1_000


def test_the_doctor_writes_nothing(call: Call, names: Names) -> None:
    names.path.chmod(0o400)
    before = names.path.read_bytes(), sorted(os.listdir(names.path.parent))
    call("doctor", "--app", APP, code=exits.MISMATCH)
    after = names.path.read_bytes(), sorted(os.listdir(names.path.parent))
    assert before[0] == after[0]
    assert set(after[1]) - set(before[1]) <= {"jobs.db-wal", "jobs.db-shm"}


def test_a_database_that_is_none_is_no_patient(call: Call, tmp_path: Path) -> None:
    call("doctor", database=tmp_path / "nothing.db", code=exits.NOT_FOUND)
    (tmp_path / "rubbish.db").write_bytes(b"rubbish" * 1_000)
    call("doctor", database=tmp_path / "rubbish.db", code=exits.UNUSABLE)


# --- redrive --all --------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A database with thirty parked tasks."""
    path = tmp_path / "many.db"

    async def fill() -> None:
        async with SQLiteStore.open(path) as store, world(store) as found:
            for number in range(30):
                await found.send(UPLOAD, Added("audited", str(number), 1))
            await found.perform(Allocate=None)
            await found.perform(Stat=False)
            await found.perform(Mark=Err("Odd"))
            assert len(await store.tasks(parked=True)) == 30

    anyio.run(fill)
    return path


async def _parked(path: Path) -> int:
    async with SQLiteStore.open(path, read_only=True) as store:
        return len(await store.tasks(parked=True))


def parked(path: Path) -> int:
    return anyio.run(_parked, path)


def test_a_dry_run_lists_and_changes_nothing(call: Call, names: Names) -> None:
    rows = call.json("redrive", "--all", "--dry-run")
    assert {row["task"]["/"] for row in rows} == {str(names.parked), str(names.kept)}
    assert len(call("redrive", "--all", "--dry-run").stdout.splitlines()) == 3
    assert parked(names.path) == 2


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 2),
        (("--error", "ReducerFailed"), 1),
        (("--error", HOSTILE), 0),
        (("--workflow", "upload"), 2),
        (("--workflow", "order"), 0),
        (("--type", "Mark"), 2),
        (("--type", "sleep"), 0),
        (("--limit", "1"), 1),
    ],
)
def test_filters_choose(call: Call, options: tuple[str, ...], count: int) -> None:
    assert len(call.json("redrive", "--all", "--dry-run", *options)) == count


@pytest.mark.parametrize("limit", [29, 30, 31])
def test_all_that_match_are_made_due_again_up_to_the_limit(
    call: Call, many: Path, limit: int
) -> None:
    told = call.json(
        *("redrive", "--all", "--error", "Odd", "--limit", limit, "--app", APP), database=many
    )
    assert [one["answer"] for one in told] == ["redriven"] * min(limit, 30)
    assert len({one["task"]["/"] for one in told}) == len(told)
    assert parked(many) == max(30 - limit, 0)


def test_one_that_is_parked_again_keeps_no_other(call: Call, names: Names) -> None:
    lines = call("redrive", "--all", "--app", APP, code=exits.MISMATCH).stdout.splitlines()
    assert sorted(line.split("  ")[1].split()[0] for line in lines[:-1]) == ["parked", "redriven"]
    assert lines[-1] == "1 parked, 1 redriven"
    assert parked(names.path) == 1


def test_jobs_of_another_version_fail_by_themselves(call: Call, names: Names) -> None:
    told = call.json("redrive", "--all", "--app", f"{SAMPLE}:only_orders", code=exits.NOT_RERUN)
    answers = {one["task"]["/"]: one for one in told}
    assert answers[str(names.parked)]["answer"] == "redriven"  # it needs no reducer
    assert answers[str(names.kept)]["error"] == "UnknownWorkflow"
    assert parked(names.path) == 1


def test_nothing_to_redrive_is_said(call: Call, healthy: Path) -> None:
    told = call("redrive", "--all", "--app", APP, database=healthy).stdout
    assert told == "nothing that matches is parked\n"


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("bafyreigbvthnhs3", "--all"),
        ("bafyreigbvthnhs3", "--error", "Odd"),
        ("bafyreigbvthnhs3", "--limit", "1"),
        ("bafyreigbvthnhs3", "--dry-run"),
        ("--error", "Odd"),
        ("--all", "--limit", "0"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Call, args: tuple[str, ...]) -> None:
    call("redrive", *args, "--app", APP, code=exits.USAGE)
