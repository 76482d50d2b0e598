"""A search that was killed goes on where it was, and comes to the same end."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lease import Commit, Lease, update, workflow
from benchmarks.lease import model as lease
from stmflow.check import Check, always, explore, journal, prove, search
from stmflow.errors import InvalidWorkflow
from tests.check.test_cores import SMALL, same
from tests.project import ROOT


class Killed(Exception): ...


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is written every few states."""
    monkeypatch.setattr(search, "STRIDE", 5)
    begins = journal.Journal.__init__

    def begin(self: Any, path: Path, every_ms: int = 0) -> None:
        begins(self, path, -1)

    monkeypatch.setattr(journal.Journal, "__init__", begin)


def killed(check: Check, file: Path, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that ends after so many lines."""
    save, written = journal.Journal.save, [0]

    def saves(self: Any, one: Any, *, now: bool = False) -> None:
        save(self, one, now=now)
        written[0] += 1
        if written[0] == lines:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "save", saves)
        with pytest.raises(Killed):
            explore(check, resume=file, every=True)


@pytest.mark.parametrize("lines", [1, 2, 5])
@pytest.mark.parametrize("name", SMALL)
def test_it_comes_to_the_same_end(
    name: str, lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, file = SMALL[name], tmp_path / "progress"
    killed(check, file, lines, monkeypatch)
    killed(check, file, 1, monkeypatch)  # and once more, right after
    with file.open("ab") as torn:
        torn.write(b'{"at":[')
    found, whole = explore(check, resume=file, every=True), explore(check, every=True)
    same(found, whole)
    assert found.machine.cells == whole.machine.cells
    assert found.machine.taken == whole.machine.taken
    same(explore(check, resume=file, every=True), whole)  # its end is kept as well


def test_a_check_that_ends_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "progress"
    assert not prove(lease("ab"), limit=50, resume=file).holds
    assert file.exists()
    assert prove(lease("ab"), resume=file).holds
    assert not file.exists()


KILL = """
import os, signal, sys
from pathlib import Path
from benchmarks.lease import model
from stmflow.check import explore, journal, search
search.STRIDE = 100
begins, save = journal.Journal.__init__, journal.Journal.save
journal.Journal.__init__ = lambda self, path, every_ms=0: begins(self, path, -1)
def saves(self, one, **how):
    save(self, one, **how)
    if one.at >= 900:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.save = saves
explore(model("ab"), resume=Path(sys.argv[1]))
"""


def test_a_process_that_was_killed_has_left_what_it_had(tmp_path: Path) -> None:
    file = tmp_path / "progress"
    dead = subprocess.run([sys.executable, "-c", KILL, str(file)], cwd=ROOT, check=False)
    assert dead.returncode == -9
    lines = file.read_text().splitlines()
    assert len(lines) == 10  # what it is of, and 100 to 900
    same(explore(lease("ab"), resume=file), explore(lease("ab")))


def test_a_check_that_has_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress"
    killed(lease("ab"), file, 3, monkeypatch)
    other = replace(lease("ab"), properties=[always("no job is committed twice", lambda v: True)])
    for check in (other, lease("a"), replace(lease("ab"), name="another")):
        with pytest.raises(InvalidWorkflow, match="is of another check"):
            explore(check, resume=file)


def unfenced(event: Any, held: Lease | None) -> Any:
    if isinstance(event, Commit) and held is not None and held.status == "leased":
        return replace(held, status="done", commits=2), []
    return update(event, held)


def test_a_reducer_that_has_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress"
    killed(lease("ab"), file, 30, monkeypatch)
    changed = replace(lease("ab"), workflows=[workflow(unfenced)])
    with pytest.raises(InvalidWorkflow, match="answers otherwise now"):
        explore(changed, resume=file)
