"""Whatever the command line is told: a documented code, one line, nothing harmed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import anyio
import pytest

from stmflow.cli import cli
from stmflow.store.sqlite import SQLiteStore
from tests.attack.command_line import (
    HOSTILE,
    Place,
    Target,
    arguments,
    called,
    commands,
    failures,
    places,
)
from tests.capabilities.ucanto.tokens import ALICE
from tests.stmflow.cli.conftest import APP, Names, fill

EACH = 5
"""So many hostile values of all for each parameter; all of them are an acceptance test."""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Names:
    path = tmp_path_factory.mktemp("command-line") / "jobs.db"

    async def make() -> Names:
        async with SQLiteStore.open(path) as store:
            return await fill(store, path)

    return anyio.run(make)


@pytest.fixture(scope="module")
def target(names: Names, tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(tmp_path_factory.mktemp("target") / "top", Path(names.path), names.upload)


def test_the_matrix_covers_every_command_and_each_of_its_words() -> None:
    listed = {place.command for place in places()}
    assert listed == {path for path, _ in commands()}
    assert {path[0] for path in listed} == set(cli.list_commands(None))  # type: ignore[arg-type]
    assert len(places()) > 150


@pytest.mark.parametrize("command", [path for path, _ in commands()], ids=" ".join)
def test_a_command_survives_some_of_everything(command: tuple[str, ...], target: Target) -> None:
    chosen = [place for place in places() if place.command == command]
    told = [
        target.call(*arguments(place, hostile, target.job))
        for place in chosen
        for hostile in Random(str(place)).sample(HOSTILE, EACH)
    ]
    assert not failures(told), failures(told)


@pytest.mark.acceptance
@pytest.mark.parametrize("place", places(), ids=str)
def test_a_parameter_survives_everything(place: Place, target: Target) -> None:
    told = [target.call(*arguments(place, hostile, target.job)) for hostile in HOSTILE]
    assert not failures(told), failures(told)


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[None]:
    """None: only the mode that is asked for counts."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_whatever_is_written_is_for_its_owner_alone(names: Names, tmp_path: Path) -> None:
    shutil.copy(names.path, tmp_path / "jobs.db")
    (tmp_path / "jobs.db").chmod(0o600)
    job = str(names.stored)
    for given in (
        ("key", "new", "a.key"),
        ("export", job, "-o", "job.car"),
        ("export", job, "-o", "job.car", "--force"),
        ("backup", "copy.db"),
        ("backup", "copy.db", "--force"),
        ("archive", "--older-than=1h", "--archive=shelf"),
        ("delegate", "--key=a.key", f"--to={ALICE.did.text}", "--can=store/add", "--out=grant"),
    ):
        found = called(tmp_path, *given)
        assert found.exit_code == 0, (given, found.stderr)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in made} >= {".key", ".car", ".db"}
    assert len(list((tmp_path / "shelf").iterdir())) > 0
    assert [path for path in made if path.stat().st_mode & 0o077] == []
    assert [path for path in made if path.suffix in (".part", ".new")] == []


@pytest.mark.usefixtures("umask")
async def test_a_database_and_its_neighbours_are_for_its_owner_alone(tmp_path: Path) -> None:
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        await fill(store, tmp_path / "jobs.db")
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) >= 4
    assert set(modes.values()) == {0o600}, modes


READING = (
    ("ls",),
    ("head", "{job}"),
    ("log", "{job}"),
    ("show", "{job}", "--tree"),
    ("diff", "{job}", "{other}"),
    ("why", "{job}"),
    ("outbox",),
    ("doctor",),
    ("verify", "--all", f"--app={APP}"),
    ("replay", "--all", f"--app={APP}"),
    ("workers",),
    ("export", "{job}", "-o", "{out}"),
    ("backup", "{out}"),
    ("redrive", "--all", "--dry-run"),
)


@pytest.mark.parametrize("given", READING, ids=lambda given: given[0])
def test_reading_leaves_a_database_as_it_was(
    given: tuple[str, ...], names: Names, tmp_path: Path
) -> None:
    """Of mode 0400, to the last bit and second, and with nothing of value beside it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "jobs.db"
    shutil.copy(names.path, path)
    path.chmod(0o400)
    os.utime(path, (1, 1))
    before = path.read_bytes()
    words = {"job": names.upload, "other": names.stored, "out": tmp_path / "out"}
    told = [word.format(**words) for word in given]
    found = called(folder, *told)
    assert found.exit_code in (0, 1, 10), found.output
    assert (path.read_bytes(), path.stat().st_mtime) == (before, 1)
    left = {each.name: each.stat().st_size for each in folder.iterdir()} - {"jobs.db": 0}.keys()
    assert left <= {"jobs.db-wal", "jobs.db-shm"}
    assert not (folder / "jobs.db-wal").exists() or (folder / "jobs.db-wal").stat().st_size == 0


def test_a_fifo_is_no_database_and_nobody_waits_for_it(names: Names, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for given in (["ls"], ["gc"], ["dismiss", str(names.parked), f"--app={APP}"]):
        found = called(tmp_path, *given, "--database=pipe")
        assert (found.exit_code, found.stderr.count("\n")) == (6, 1), found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe"]


def test_an_output_follows_no_link_and_replaces_none_unasked(names: Names, tmp_path: Path) -> None:
    shutil.copy(names.path, tmp_path / "jobs.db")
    theirs = tmp_path / "theirs"
    theirs.write_text("not yours")
    job = str(names.stored)
    for link, to in (("there", "theirs"), ("nowhere", "not-there")):
        (tmp_path / link).symlink_to(to)
        for given in (("export", job, "-o", link), ("backup", link), ("key", "new", link)):
            found = called(tmp_path, *given)
            assert (found.exit_code, found.stderr.count("\n")) == (2, 1), (given, found.stderr)
            assert (tmp_path / link).is_symlink()
    for given in (("export", job, "-o", "there"), ("backup", "nowhere")):
        found = called(tmp_path, *given, "--force")
        assert found.exit_code == 0, found.stderr
    assert theirs.read_text() == "not yours"
    assert not (tmp_path / "not-there").exists()
    assert (tmp_path / "there").lstat().st_mode & 0o7777 == 0o600


async def test_a_link_planted_where_a_part_is_written_is_not_followed(
    names: Names, tmp_path: Path
) -> None:
    """Could the name of a part be guessed, whoever may write the folder might plant a link."""
    theirs = tmp_path / "theirs"
    theirs.write_text("not yours")
    (tmp_path / f"copy.db.{os.getpid()}.part").symlink_to(theirs)
    async with SQLiteStore.open(names.path, read_only=True) as store:
        await store.backup(tmp_path / "copy.db")
    assert theirs.read_text() == "not yours"
    assert (tmp_path / "copy.db").lstat().st_size > 0
    assert not (tmp_path / "copy.db").is_symlink()


async def test_nor_is_one_planted_on_a_shelf(tmp_path: Path) -> None:
    from scheduler.handlers.archive import FolderShelf
    from scheduler.handlers.s3.proof import object_key
    from stmflow import CID

    theirs = tmp_path / "theirs"
    theirs.write_text("not yours")
    data = b"an object"
    link = CID.of(data, 0x55)
    (tmp_path / f"{object_key(link)}.{os.getpid()}.part").symlink_to(theirs)
    shelf = FolderShelf(tmp_path)
    await shelf.put(link, data)
    assert theirs.read_text() == "not yours"
    assert await shelf.get(link) == data
