"""The jugs: what a turn does, the six steps, and what cannot be measured."""

from __future__ import annotations

import re
import subprocess
import sys
from math import gcd
from pathlib import Path

import pytest

from examples.jugs import (
    JUGS,
    Bring,
    EmptyBig,
    EmptySmall,
    FillBig,
    FillSmall,
    Jugs,
    PourIntoBig,
    PourIntoSmall,
)
from examples.jugs.check import CHECKS, never
from stmflow.check import explore, prove
from stmflow.testing import Trace

HERE = Path(__file__).parent


def test_six_turns_measure_four() -> None:
    pair = Trace(JUGS).send(Bring())
    for turn, after in [
        (FillBig(), (0, 5)),
        (PourIntoSmall(), (3, 2)),
        (EmptySmall(), (0, 2)),
        (PourIntoSmall(), (2, 0)),
        (FillBig(), (2, 5)),
        (PourIntoSmall(), (3, 4)),
    ]:
        pair.send(turn)
        assert (pair.state.small, pair.state.big) == after


def test_pouring_ends_when_one_is_empty_or_the_other_full() -> None:
    pair = Trace(JUGS).send(Bring())
    pair.send(FillSmall()).send(PourIntoBig())
    assert pair.state == Jugs(0, 3)
    pair.send(FillSmall()).send(PourIntoBig())
    assert pair.state == Jugs(1, 5)
    assert pair.send(EmptyBig()).state == Jugs(1, 0)


def test_what_changes_nothing_makes_no_revision() -> None:
    pair = Trace(JUGS).send(Bring())
    before = pair.head
    for turn in (EmptySmall(), EmptyBig(), PourIntoSmall(), PourIntoBig(), Bring()):
        assert pair.send(turn).answer.kind == "no change"
        assert pair.head == before


def test_there_is_one_pair_and_it_must_be_there() -> None:
    assert Trace(JUGS).send(FillBig()).refused == "NotFound"
    assert Trace(JUGS).send(Bring((0, 5))).refused == "Invalid"
    assert Trace(JUGS).send(Bring((1, 1))).answer.committed
    assert Trace(JUGS).send(Bring()).send(Bring((3, 6))).refused == "Others"


# --- proved -------------------------------------------------------------------------------------


def test_the_command_line_prints_the_six_steps_as_the_readme_has_them() -> None:
    command = [sys.executable, "-m", "stmflow", "check", "examples/jugs"]
    shown = subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    told = re.sub(r"\d+\.\d s$", "0.0 s", shown.stdout, flags=re.MULTILINE)
    assert told in (HERE / "README.md").read_text()


def test_sixteen_states_are_all() -> None:
    graph = explore(CHECKS[0], every=True)
    assert len(graph.states) == 16
    assert (graph.whole, graph.depth) == (True, 7)


@pytest.mark.parametrize("sizes", [(3, 5), (3, 6), (4, 6), (2, 7)])
def test_what_can_be_measured_is_what_their_greatest_common_divisor_divides(
    sizes: tuple[int, int],
) -> None:
    for amount in range(1, sizes[1] + 1):
        assert prove(never(amount, sizes)).holds == (amount % gcd(*sizes) != 0)
