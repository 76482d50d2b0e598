"""Power loss: stmflow's two modes lose nothing; modes known to lose commits are found out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest import mock

import anyio
import apsw
import pytest

from stmflow.store import sqlite_backup
from tests.crash.disk import (
    Disk,
    Entry,
    Found,
    Link,
    Sync,
    SyncFolder,
    Truncate,
    Unlink,
    Write,
    everything,
    nothing,
    some,
)
from tests.crash.power_loss import Cuts, lost_power
from tests.crash.service import live
from tests.crash.watched import DELETE_EXTRA, UNSAFE, WAL_FULL, Day, Modes


def cut(
    memory: Path,
    modes: Modes = WAL_FULL,
    *,
    seed: int = 0,
    steps: int = 12,
    skip: Callable[[Entry], bool] = lambda entry: False,
    most: int = 1_500,
) -> Cuts:
    """A short day, cut until something is found."""
    day = Day(seed)
    day.log.skip = skip
    for name in ("lived", "found"):
        (memory / name).mkdir()
    anyio.run(partial(live, day, memory / "lived", steps, modes))
    cuts = Cuts(day, memory / "found", Random(seed), fully=150)
    cuts.run(most=most)
    return cuts


@pytest.mark.parametrize("modes", [WAL_FULL, DELETE_EXTRA], ids=str)
def test_the_modes_of_the_store_lose_nothing(memory: Path, modes: Modes) -> None:
    cuts = cut(memory, modes, most=700)
    assert cuts.problems == []
    assert cuts.counts["images"] > 500
    assert cuts.counts["verified as a whole"] >= 3
    assert cuts.counts["lost twice"] > 10


@pytest.mark.parametrize("modes", UNSAFE, ids=str)
def test_a_mode_that_loses_commits_is_found_out(memory: Path, modes: Modes) -> None:
    cuts = cut(memory, modes)
    assert any("was acknowledged" in text for text in cuts.problems), cuts.counts


def test_a_store_whose_syncs_are_lost_on_the_way_is_found_out(memory: Path) -> None:
    assert cut(memory, skip=lambda entry: isinstance(entry, Sync)).problems


@pytest.mark.parametrize("synced", [True, False])
def test_a_backup_that_is_not_synced_is_found_out(memory: Path, synced: bool) -> None:
    sync = sqlite_backup._sync if synced else lambda path: None
    for seed in range(20):
        day = Day(seed)
        with mock.patch.object(sqlite_backup, "_sync", sync), TemporaryDirectory(dir=memory) as at:
            anyio.run(partial(live, day, Path(at), 40))
        if day.done["copy"]:
            break
    entries = day.log.entries
    made = (n for n, e in enumerate(entries) if isinstance(e, Link) and "copy" in e.name)
    cuts = Cuts(day, memory, Random(seed))
    cuts.run(first=next(made), most=100)
    assert any("backup" in text for text in cuts.problems) != synced, cuts.problems


def test_what_two_failed_syncs_left_in_the_wal_is_written_again(memory: Path) -> None:
    """The commit's sync fails, and that of the close that follows. Recovery finds the commit in the
    system's memory; without writing it again, every later one would be lost with it."""
    day = Day(1)

    def trouble(kind: str, path: str) -> None:
        if kind == "sync" and len(day.states) > 2 and not day.watching:
            day.done["failed"] += 1
            if day.done["failed"] <= 2:
                raise apsw.IOError("planted")

    day.log.trouble = trouble
    with TemporaryDirectory(dir=memory) as lived:
        anyio.run(partial(live, day, Path(lived), 4))
    assert day.done["unknown"] == 1
    cuts = Cuts(day, memory, Random(1))
    cuts.run()
    assert cuts.problems == []


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", range(12))
def test_a_day_in_each_mode(memory: Path, seed: int) -> None:
    assert lost_power(seed, memory, (WAL_FULL, DELETE_EXTRA)[seed % 2], fully=20).problems == []


# --- the model of the disk ------------------------------------------------------------------------


def played(*entries: Entry) -> Disk:
    disk = Disk()
    for entry in entries:
        disk.play(entry)
    return disk


def test_what_was_synced_stays_and_what_was_not_may_be_gone() -> None:
    disk = played(Link("a", 1), Write(1, 0, b"old"), Sync(1), Write(1, 1, b"EW"))
    assert disk.image(nothing()) == {"a": b"old"}
    assert disk.image(everything()) == {"a": b"oEW"}


def test_a_gap_before_a_kept_write_is_zeroes_and_a_cut_cuts() -> None:
    disk = played(Link("a", 1), Sync(1), Write(1, 4, b"x"), Truncate(1, 2))
    assert disk.image(everything()) == {"a": b"\0\0"}
    images = {disk.image(some(Random(seed)))["a"] for seed in range(100)}
    assert images == {b"", b"\0\0", b"\0\0\0\0x"}


def test_a_write_is_torn_at_sectors_and_nowhere_else() -> None:
    disk = played(Link("a", 1), Sync(1), Write(1, 100, b"x" * 1_000))
    images = {disk.image(some(Random(seed)))["a"] for seed in range(300)}
    pieces = [range(100, 512), range(512, 1_024), range(1_024, 1_100)]
    for data in images:
        for piece in pieces:
            assert len({data[at : at + 1] for at in piece}) == 1
    assert len(images) == 8


def test_a_file_is_known_by_its_inode_not_by_its_name() -> None:
    disk = played(Link("a", 1), Write(1, 0, b"one"), Sync(1), SyncFolder())
    for entry in (Unlink("a"), Link("a", 2), Write(2, 0, b"two")):
        disk.play(entry)
    assert disk.image(nothing()) == {"a": b"one"}
    disk.play(Sync(2))  # its entry, and what came before it
    assert disk.image(nothing()) == {"a": b"two"}


def test_a_name_that_went_may_come_back_until_its_folder_is_synced() -> None:
    disk = played(Found("a", 1, b"x"), Unlink("a"))
    assert disk.image(nothing()) == {"a": b"x"}
    assert disk.image(everything()) == {}
    disk.play(SyncFolder())
    assert disk.image(nothing()) == {}
