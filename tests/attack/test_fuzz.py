"""Every parser against mutated inputs, for a second each; longer: `python -m tests.attack.fuzz`."""

from __future__ import annotations

import os
import subprocess
import sys
from random import Random

import pytest

from tests.attack.fuzz import (
    GROWTH_BYTES,
    INPUT_SECONDS,
    PARSERS,
    Parser,
    _refusal,
    mutated,
    run,
)
from tests.project import ROOT

SECONDS = float(os.environ.get("STMFLOW_FUZZ_SECONDS", "1"))


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_no_input_crashes_a_parser_or_holds_it_up(parser: Parser, seed: int | None) -> None:
    found = run(parser, seconds=SECONDS, seed=seed or 0)
    assert found.executions > 100
    assert found.slowest < INPUT_SECONDS
    assert found.growth < GROWTH_BYTES


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_what_is_mutated_was_good(parser: Parser) -> None:
    assert None in [_refusal(parser, seed) for seed in parser.seeds()]


def test_the_same_seed_makes_the_same_inputs() -> None:
    seeds = [b"abc" * 20, b"defg" * 9]
    first, second = ([mutated(Random(5), seeds) for _ in range(3)] for _ in range(2))
    assert first == second


def test_a_parser_that_crashes_is_found() -> None:
    def broken(data: bytes) -> None:
        if b"\xff" in data:
            raise IndexError

    with pytest.raises(IndexError):
        run(Parser("broken", "ucanto", broken, lambda: [b"abc" * 20]), seconds=5)


def test_the_campaign_runs_from_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.attack.fuzz", "--plain", "--seconds", "1"]
    ended = subprocess.run(
        [*command, "--parser", "policy"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("policy: ")
