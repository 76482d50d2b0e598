"""`stmflow check`: what it prints, what it writes, and the exit code for each answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stmflow.check import always
from tests.check.parcel import Pack, may_break, model, packs, parcel
from tests.project import ROOT
from tests.stmflow.cli.conftest import Call

HERE = "tests.stmflow.cli.test_check"


def _never_lost(view: object) -> bool:
    return getattr(view.state(parcel("a")), "status", None) != "lost"  # type: ignore[attr-defined]


GOOD = model(name="good", handlers={Pack: packs}, properties=[always("never lost", _never_lost)])
BAD = model(name="bad", handlers={Pack: may_break}, properties=[always("never lost", _never_lost)])
CHECKS = (GOOD, BAD)


def test_what_holds_ends_with_0(call: Call) -> None:
    got = call("check", f"{HERE}:GOOD")
    assert "good: 4 states, 3 steps, depth 3" in got.output
    assert "✓ never lost" in got.output


def test_what_does_not_hold_is_shown_by_its_trace_and_so_does_the_engine(call: Call) -> None:
    got = call("check", HERE, "--only", "bad", code=1)
    assert "✗ never lost: does not hold (so does the engine)" in got.output
    assert "settle parcel: Pack(name='a')  Err(Broken) → committed" in got.output
    assert "good" not in got.output


def test_a_trace_is_written_as_a_test_that_fails_until_it_is_mended(
    call: Call, tmp_path: Path
) -> None:
    file = tmp_path / "test_found.py"
    call("check", HERE, "--pytest", str(file), code=1)
    text = file.read_text()
    assert "settle parcel: Pack(name='a')  Err(Broken) → committed" in text
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    file.write_text(text.replace("'bad'", "'good'"))  # the same steps, of a world that never breaks
    namespace: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)  # noqa: S102
    namespace["test_bad_never_lost"]()  # type: ignore[operator]


def test_a_walk_says_that_it_proves_nothing(call: Call) -> None:
    got = call("check", HERE, "--only", "good", "--walk", "3")
    assert "? never lost: not everything was explored" in got.output
    call("check", HERE, "--only", "bad", "--walk", "20", code=1)


def test_diagrams_json_and_cells(call: Call) -> None:
    assert "sequenceDiagram" in call("check", HERE, "--only", "bad", "--mermaid", code=1).output
    (told,) = json.loads(call("check", f"{HERE}:BAD", "--json", code=1).output)
    assert [one["property"] for one in told["wrong"]] == ["never lost"]
    assert "cells were never come to" in call("check", f"{HERE}:GOOD", "--cells").output


def test_cores_change_nothing_and_progress_is_removed_at_the_end(
    call: Call, tmp_path: Path
) -> None:
    folder = tmp_path / "progress"
    one = call("check", HERE, "--resume", str(folder), "--json", code=1)
    two = call("check", HERE, "--cores", "2", "--json", code=1)
    assert [{**each, "milliseconds": 0} for each in json.loads(one.output)] == [
        {**each, "milliseconds": 0} for each in json.loads(two.output)
    ]
    assert list(folder.iterdir()) == []


def test_a_check_that_was_ended_goes_on(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "progress"
    given = ("check", f"{HERE}:GOOD", "--resume", str(folder))
    assert "not all of them" in call(*given, "--limit", "1", code=1).output
    assert [file.name for file in folder.iterdir()] == ["good.jsonl"]
    assert "good: 4 states, 3 steps, depth 3" in call(*given).output


def test_progress_of_another_check_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_text('[1,"good","another"]\n')
    got = call("check", f"{HERE}:GOOD", "--resume", str(tmp_path), code=2)
    assert "is of another check" in got.output


@pytest.mark.parametrize("target", ["no.such.module", f"{HERE}:NONE", f"{HERE}:HERE"])
def test_what_is_no_check_is_refused(call: Call, target: str) -> None:
    call("check", target, code=2)
