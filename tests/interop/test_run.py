"""The driver itself, without Node.js: programs that get ready, and the table."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.interop import process
from tests.interop.node import Missing, install
from tests.interop.process import Unready, announced
from tests.interop.table import Line, printed

READY = 'print(\'{"did": "did:key:z"}\', flush=True)'
WAITS = "signal.pause()"
ENDS = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def program(*lines: str) -> list[str]:
    return [sys.executable, "-c", "; ".join(["import signal, sys", *lines])]


def test_a_program_runs_until_it_is_left() -> None:
    with announced(program(ENDS, READY, WAITS)) as ready:
        assert ready == {"did": "did:key:z"}


def test_more_output_than_a_pipe_holds_does_not_stop_a_program(tmp_path: Path) -> None:
    done = tmp_path / "done"
    much = "print('x' * 1_000_000, flush=True)"
    with announced(program(ENDS, READY, much, f"open({str(done)!r}, 'w').close()", WAITS)):
        patience = time.monotonic() + 10
        while not done.exists():
            assert time.monotonic() < patience
            time.sleep(0.01)


def test_a_program_that_ends_at_once_is_named() -> None:
    with pytest.raises(Unready, match="did not get ready"), announced(program()):
        pass


def test_a_program_that_ends_badly_is_named() -> None:
    with pytest.raises(Unready, match="ended with -15"), announced(program(READY, WAITS)):
        pass


def test_a_program_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 0.2)
    with (
        pytest.raises(Unready, match="had to be killed"),
        announced(program(IGNORES, READY, WAITS)),
    ):
        pass


def test_without_node_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match=r"Node\.js"):
        install(tmp_path)


def test_the_table_has_checks_down_and_clients_across() -> None:
    lines = [
        Line("one", "adds", "ok", ms=12),
        Line("two", "adds", "failed", error="Error: 412"),
        Line("two", "lists", "absent"),
    ]
    assert printed(lines).splitlines() == [
        "ms        one     two",
        "adds       12  FAILED",
        "lists          absent",
        "",
        "two: adds",
        "  Error: 412",
        "",
        "1 passed, 1 failed, 3 in all",
    ]


def test_only_the_failures_that_are_known_are_excused() -> None:
    known = {("one", "adds")}
    assert Line("one", "adds", "failed").excused(known).status == "known"
    assert Line("one", "adds", "ok").excused(known).status == "ok"
    assert Line("two", "adds", "failed").excused(known).status == "failed"


def test_what_the_bucket_lacks_fails_a_check() -> None:
    line = Line("one", "adds", "ok")
    assert line.looked_up([]) is line
    assert line.looked_up(["bafy: 3 other bytes"]).status == "failed"
