"""`backup`, `archive`, `gc`, `revive`, and what --archive lets the other commands see."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from stmflow import CID
from stmflow.store.sqlite import SQLiteStore
from tests.stmflow.cli.conftest import APP, Call, Names, link


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


@pytest.fixture
def archived(call: Call, names: Names, place: Path) -> Names:
    """The sample, of which all history is old: it has left, and the failed uploads with it."""
    call("archive", "--archive", place, "--finished", "upload:failed", "--older-than", "2d")
    return names


def heads(path: Path, *jobs: CID) -> Any:
    async def ask() -> Any:
        async with SQLiteStore.open(path, read_only=True) as store:
            return await store.heads(jobs)

    return anyio.run(ask)


# --- backup


def test_backup_makes_a_database_that_verifies(call: Call, names: Names, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    (told,) = call.json("backup", copy)
    assert told == {"file": str(copy), "bytes": copy.stat().st_size}
    (before,) = call.json("verify", "--all", "--app", APP, code=0)[-1:]
    (after,) = call.json("verify", "--all", "--app", APP, database=copy)[-1:]
    assert before == after
    assert copy.stat().st_mode & 0o777 == 0o600


def test_backup_replaces_nothing_unless_told_to(call: Call, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    assert "exists" in call("backup", copy, code=2).stderr
    assert copy.read_text() == "mine"
    call("backup", copy, "--force")
    assert copy.read_bytes().startswith(b"SQLite format 3")
    assert [name for name in os.listdir(tmp_path) if name.startswith("copy")] == ["copy.db"]


def test_backup_replaces_no_database_that_is_in_use(
    call: Call, names: Names, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    call("backup", copy)
    (tmp_path / "copy.db-wal").write_text("of a service that runs on the copy, or crashed")
    before = copy.stat().st_ino
    assert "copy.db-wal exists" in call("backup", copy, "--force", code=2).stderr
    assert "the database itself" in call("backup", names.path, "--force", code=2).stderr
    assert copy.stat().st_ino == before


def test_backup_says_what_is_in_the_way(call: Call, tmp_path: Path) -> None:
    call("backup", tmp_path / "nowhere" / "copy.db", code=6)
    call("backup", "with\0nul", code=2)
    call("backup", tmp_path / "copy.db", code=3, database=tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


# --- archive


def test_archive_moves_history_and_says_how_much(call: Call, names: Names, place: Path) -> None:
    before = call.json("verify", "--all", "--app", APP)[-1]
    args = ("archive", "--archive", place, "--finished", "upload:failed")
    (told,) = call.json(*args)
    assert told["archived"] > told["dropped"] > 0
    assert told["jobs"] == 1
    assert len(told["archives"]) == 1
    assert len(list(place.iterdir())) == 2
    assert call.json(*args)[0]["archived"] == 0
    call("verify", "--all", "--app", APP, code=5)
    after = call.json("verify", "--all", "--app", APP, "--archive", place)[-1]
    assert after == before


def test_archive_prints_what_it_did(call: Call, place: Path) -> None:
    lines = call("archive", "--archive", place).stdout.splitlines()
    assert lines[0].startswith("archive   b")
    assert "revisions archived" in lines[1]


@pytest.mark.parametrize(
    "args",
    [
        ["archive"],
        ["archive", "--archive", "ftp://x/y"],
        ["archive", "--archive", "s3://"],
        ["archive", "--archive", "s3:bucket"],
        ["archive", "--archive", "s3://bucket/x?speed=high"],
        ["archive", "--archive", "s3://bucket/x?endpoint=nowhere"],
        ["archive", "--archive", "x", "--older-than", "30"],
        ["archive", "--archive", "x", "--older-than", "0d"],
        ["archive", "--archive", "x", "--older-than", "-1d"],
        ["archive", "--archive", "x", "--finished", "upload"],
        ["archive", "--archive", "x", "--finished", ":failed"],
        ["archive", "--archive", "x", "--finished", "upload:"],
        ["gc", "--older-than", "soon"],
        ["revive", "bafyreigbvthnhs3"],
    ],
)
def test_wrong_usage_is_one_line(
    call: Call, args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call(*args, code=2)


# --- what has left is seen with --archive


def test_a_job_that_has_left_is_replayed_from_the_archive_or_not_re_run(
    call: Call, archived: Names, place: Path
) -> None:
    replay = ("replay", archived.upload, "--app", APP)
    (told,) = call.json(*replay, code=5)
    assert (told["passed"], told["not_rerun"]["job"]) == (False, link(archived.upload))
    assert call.json(*replay, "--archive", place)[0]["passed"]


def test_an_archived_job_is_said_to_be_so(call: Call, archived: Names, place: Path) -> None:
    for command in ("head", "log", "show", "export"):
        more = ("-o", place / "out.car") if command == "export" else ()
        assert "in the archive" in call(command, archived.upload, *more, code=3).stderr
    rows = {row["job"]["/"]: row for row in call.json("ls")}
    assert rows[str(archived.upload)]["status"] == "failed"
    (report, _) = call.json("verify", archived.upload, code=5)
    assert set(report["levels"].values()) == {"not re-run"}


def test_reading_commands_see_the_archive(
    call: Call, archived: Names, place: Path, original: Names, tmp_path: Path
) -> None:
    for args in (
        ("head", archived.upload),
        ("log", archived.upload),
        ("log", archived.quota),
        ("show", archived.upload),
        ("why", archived.upload),
        ("verify", archived.upload, archived.stored, "--app", APP),
    ):
        now = call.json(*args, "--archive", place)
        assert now == call.json(*args, database=original.path)
    first = call.json("log", archived.upload, "--archive", place)[-1]
    state = first["state"]["/"]
    call("show", state, code=3)
    shown = call.json("show", state[:20], "--archive", place)
    assert shown == call.json("show", state, database=original.path)
    car = tmp_path / "out.car"
    call("export", archived.upload, "-o", car, "--archive", place)
    call("verify", car, "--app", APP)


def test_revive_brings_a_job_back(call: Call, archived: Names, place: Path) -> None:
    (told,) = call.json("revive", archived.upload, "--archive", place)
    assert (told["job"], told["status"], told["seq"]) == (link(archived.upload), "failed", 9)
    assert call.json("head", archived.upload)[0]["seq"] == 9
    assert heads(archived.path, archived.upload)[archived.upload].open != b""
    assert "failed" in call("revive", archived.upload, "--archive", place).stdout
    call("revive", CID.of(b"nobody"), "--archive", place, code=3)


def test_histories_that_lack_an_object_of_the_archive_are_not_re_run_and_the_others_are(
    call: Call, archived: Names, place: Path
) -> None:
    largest = max(place.iterdir(), key=lambda file: file.stat().st_size)
    largest.unlink()
    *reports, end = call.json("verify", "--all", "--app", APP, "--archive", place, code=5)
    jobs = call.json("ls")
    assert len(reports) == end["jobs"] == len(jobs)
    assert 0 < end["not_rerun"] < end["jobs"]
    assert end["ok"] + end["not_rerun"] == end["jobs"]
    (told,) = {one["not_rerun"] for one in reports if one["status"] == "not re-run"}
    assert largest.name in told


def test_a_history_of_which_a_part_has_left_is_not_exported_as_a_whole(
    call: Call, archived: Names, place: Path
) -> None:
    file = place / "out.car"
    assert "give --archive" in call("export", archived.quota, "-o", file, code=3).stderr
    assert not file.exists()
    call("export", archived.quota, "-o", file, "--archive", place)


def test_an_archive_that_is_not_there_is_said(call: Call, archived: Names, tmp_path: Path) -> None:
    call("revive", archived.upload, "--archive", tmp_path / "empty", code=3)
    call("log", archived.upload, "--archive", tmp_path / "empty", code=3)


# --- gc


def test_gc_frees_what_an_archive_holds_and_is_not_needed(
    call: Call, archived: Names, place: Path
) -> None:
    (told,) = call.json("gc")
    assert (told["archived"], told["dropped"], told["jobs"]) == (0, 0, 0)
    assert "0 dropped" in call("gc").stdout


def test_gc_discards_history_only_when_told_to(call: Call, names: Names) -> None:
    revisions = call.json("verify", "--all", "--app", APP)[-1]["revisions"]
    assert call.json("gc")[0]["dropped"] == 0
    assert call.json("verify", "--all", "--app", APP)[-1]["revisions"] == revisions
    (told,) = call.json("gc", "--discard")
    assert told["dropped"] > 0
    assert told["jobs"] == 0
    (found,) = call.json("head", names.upload)
    assert found["seq"] == 9


def test_without_the_archive_log_says_where_history_has_gone(
    call: Call, names: Names, place: Path
) -> None:
    call("archive", "--archive", place, "--older-than", "2d")
    assert "history has gone to an archive" in call("log", names.upload, code=3).stderr
    call("log", names.upload, "--archive", place)


def test_a_wrong_archive_is_named(call: Call, archived: Names, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    told = call("log", archived.upload, "--archive", wrong, code=3).stderr
    assert f"in the archive {wrong}" in told


@pytest.mark.parametrize("command", ["ls", "gc"])
def test_a_folder_is_no_database(call: Call, tmp_path: Path, command: str) -> None:
    assert "is a folder" in call(command, database=tmp_path, code=6).stderr
