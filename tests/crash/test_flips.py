"""Flipped bytes are refused by name or reported, wherever they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

from stmflow import CID, codec
from stmflow.store import StoredHead, sqlite
from stmflow.store.packing import unpack
from tests.campaign.part import Violation
from tests.crash import flips
from tests.crash.power_loss import SHM


@pytest.fixture(scope="module")
def found() -> Iterator[flips.Lived]:
    with TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
        yield anyio.run(flips.lived, Path(folder), 2)


@pytest.mark.parametrize("stride", [97, pytest.param(1, marks=pytest.mark.acceptance)])
def test_in_the_blocks_of_a_database(found: flips.Lived, stride: int) -> None:
    counts: Counter[str] = Counter()
    anyio.run(flips.in_the_store, found, flips.of_the_log(found, Random(1), stride), counts)
    assert counts["flips"] > 20
    assert counts["Corrupt"] > 0
    assert counts["reported by verify"] > 0


def test_no_event_is_decided_on_a_head_with_a_flipped_byte(found: flips.Lived) -> None:
    """Each byte of its revision, of its state, and of how they are packed."""
    counts: Counter[str] = Counter()
    anyio.run(flips.decided_on, found, flips.MASKS, counts)
    assert counts["not decided on"] == counts["flips"] > 300


def test_of_a_day_whose_counters_are_in_the_archive(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    found = anyio.run(flips.lived, tmp_path, 72_484_534)
    anyio.run(flips.decided_on, found, [0x80], counts)
    assert counts["not decided on"] == counts["flips"] > 300


def test_of_a_day_that_is_in_the_archive_whole(tmp_path: Path) -> None:
    counts = flips.step(tmp_path, 26_533_888)
    assert counts["not decided on"] > 300
    assert counts["in a CAR"] == 0


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.acceptance)])
def test_in_a_car_and_in_an_archive(found: flips.Lived, stride: int) -> None:
    counts: Counter[str] = Counter()
    flips.in_a_car(found, Random(1), stride, counts)
    flips.in_a_segment(found, Random(1), stride, counts)
    assert counts["HashMismatch"] > 0
    assert min(counts[name] for name in ("in a CAR", "segment", "index")) > 10


@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=pytest.mark.acceptance)])
def test_in_what_clients_post(stride: int) -> None:
    counts: Counter[str] = Counter()
    requests = flips.requests()
    assert len(requests) > 10
    for data in requests:
        flips.in_a_request(data, Random(1), stride, counts)
    assert counts["HashMismatch"] > counts["the same tokens"]


def test_a_store_that_does_not_look_at_hashes_is_found_out(
    found: flips.Lived, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: whatever lies in a head's row is taken for what its CID says."""
    monkeypatch.setattr(sqlite, "head_row", _trusting)
    with pytest.raises(Violation, match="was decided on it"):
        anyio.run(flips.decided_on, found, [0x01], Counter())


def _trusting(row: Any) -> StoredHead:
    id, workflow, version, key, revision, seq, epoch, at, tag, place, opens, data = row
    count = int.from_bytes(data[:4], "little")
    first = 4 + 4 * count + int.from_bytes(data[4:8], "little")
    state = data[first : first + int.from_bytes(data[8:12], "little")]
    return StoredHead(
        CID.parse(id), workflow, version, codec.decode(key), CID.parse(revision), seq, epoch, at,
        tag, state, CID.of(state), unpack(opens)[place],
    )  # fmt: skip
