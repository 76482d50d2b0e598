"""The soak in short, and that it sees what it is there to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT
from tests.soak.gauges import Series
from tests.soak.judge import expected
from tests.soak.load import Order, Transfer, operation
from tests.soak.places import File
from tests.soak.records import Book, Spread, Tail
from tests.soak.service import Sum
from tests.soak.settings import Settings


@pytest.mark.slow
def test_some_seconds_on_sqlite(tmp_path: Path) -> None:
    figures = soaked(tmp_path, "sqlite", 7, "--no-s3", "--rate", "20", "--workers", "2")
    assert figures["answers"]["placed"] > 0
    assert figures["facts"]["chains verified"] > 0
    assert sum(figures["faults"].values()) > 0


@pytest.mark.acceptance
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_minute_of_everything(tmp_path: Path, store: str) -> None:
    figures = soaked(tmp_path, store, 60, "--rate", "12", "--verify", "20")
    assert set(figures["answers"]) >= {"placed", "Done", "called", "uploaded"}
    assert figures["tasks packed again"] > 0
    assert figures["faults"]["worker killed"] > 0
    assert store == "sqlite" or figures["faults"]["server crashed"] > 0


def soaked(folder: Path, store: str, seconds: float, *more: str) -> dict[str, Any]:
    """The figures of a run in which all held."""
    command = [sys.executable, "-m", "tests.soak", "--store", store, "--minutes", f"{seconds / 60}"]
    command += ["--seed", "5", "--json", str(folder / "figures.json"), "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return figures


def test_a_record_that_a_kill_has_torn_is_left_out_and_one_half_written_is_waited_for(
    tmp_path: Path,
) -> None:
    file, tail = tmp_path / "ledger", Tail(tmp_path / "ledger")
    assert list(tail.fresh()) == []
    file.write_bytes(b"\n1 a;\n2 b;\n3")
    assert list(tail.fresh()) == ["1 a", "2 b"]
    file.write_bytes(b"\n1 a;\n2 b;\n3 c;\n4 d;")
    assert list(tail.fresh()) == ["3 c", "4 d"]
    file.write_bytes(b"\n1 a;\n2 b;\n3 c;\n4 d;\n5\n6 e;")
    assert list(tail.fresh()) == ["6 e"]
    assert (list(tail.fresh()), tail.torn) == ([], 1)


def test_what_a_client_did_not_hear_of_is_asked_again(tmp_path: Path) -> None:
    ledger, spreads = tmp_path / "ledger", (Spread(), Spread(), Spread())
    book = Book(ledger, client=1, clients=2)
    ledger.write_bytes(b"\n+4;\n1 placed 3.0;\n=1 rested 9.0;\n~Unavailable 2;\n5 Busy 1")
    book.read(*spreads)
    assert (book.begun, set(book.open)) == (4, {3, 5, 7})
    assert (dict(book.answers), dict(book.remarks)) == ({"placed": 1}, {"Unavailable": 2})
    ledger.write_bytes(ledger.read_bytes() + b"\n3 Done 1.0;\n5 Done 1.0;\n+3;")
    book.read(*spreads)
    assert (book.begun, book.open) == (3, {})


def test_ledgers_lead_to_sums_and_balances(tmp_path: Path) -> None:
    settings = Settings(File(tmp_path).where, tmp_path, seed=1, rate=1, clients=1)
    drawn = {n: operation(settings, n) for n in range(100)}
    first = next(n for n, one in drawn.items() if isinstance(one, Order))
    moved = next(n for n, one in drawn.items() if isinstance(one, Transfer))
    order, transfer = drawn[first], drawn[moved]
    assert isinstance(order, Order)
    assert isinstance(transfer, Transfer)
    lines = [f"{first} placed 1.0", f"{moved} Done 1.0", f"{moved} Done 1.0"]
    settings.ledger(0).write_text("".join(f"\n{line};" for line in lines))
    found = expected(settings, Tail(settings.performed))
    assert found.placed == found.unpacked == {order.place.order: Sum(1, first)}
    assert found.balances[transfer.source] == -transfer.amount
    assert found.wrong == []
    settings.performed.write_text(f"\n{first};\n{first};")
    settings.ledger(0).write_text("".join(f"\n{line};" for line in [*lines, f"{moved} called 1"]))
    found = expected(settings, Tail(settings.performed))
    assert (found.unpacked, found.packed, found.again) == ({}, 2, 1)
    assert found.wrong == [f"operation {moved} was answered Done, later called"]


def test_growth_is_that_of_the_fitted_line() -> None:
    series = Series()
    for minute in range(61):
        series.add(minute * 60.0, 100 + minute / 6 + minute % 2)
    assert series.growth == pytest.approx(10, abs=0.1)
    assert series.after(1_800).growth == pytest.approx(5, abs=0.1)
    assert Series().growth == 0
