"""What the command line says of a job that was moved, and that it does not move one itself."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from stmflow import Transactor
from stmflow.store.sqlite import SQLiteStore
from tests.stmflow.cli.conftest import Call, Names
from tests.stmflow.test_versions import settle
from tests.stmflow.versions import ONE, TWO, Look, Open, stay

APP = "tests.stmflow.cli.test_moved:app"
A = ONE.job("a")


class App:
    """A service with sticky versions."""

    workflows = (ONE, TWO)
    chooser = staticmethod(stay)


app = App()


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A job that was moved up and back, with a task that is parked."""
    path = tmp_path / "moved.db"

    async def fill() -> None:
        async with (
            SQLiteStore.open(path) as store,
            Transactor(store, App.workflows, chooser=stay) as transactor,
        ):
            await transactor.send(ONE, Open("a"))
            for version in (2, 1):
                await transactor.transact(lambda tx, v=version: tx.adopt(A, v))
            await transactor.send(A, Look("a"))
            await settle(transactor, "no size")  # caught by nobody: it is parked

    anyio.run(fill)
    return path


def test_the_log_has_the_versions_and_why_tells_of_a_move(call: Call, moved: Path) -> None:
    entries = call.json("log", A.id, "--reverse", database=moved)
    assert [entry["version"] for entry in entries] == [1, 2, 1, 1]
    assert [len(entry["events"]) for entry in entries] == [1, 0, 0, 1]
    told = call("why", entries[1]["revision"]["/"], "--app", APP, database=moved).stdout
    assert "1 → 2" in told
    assert "→" not in call("why", entries[0]["revision"]["/"], database=moved).stdout


def test_it_verifies_and_replays(call: Call, moved: Path) -> None:
    call("verify", A.id, "--app", APP, database=moved)
    call("replay", A.id, "--app", APP, database=moved)


def test_a_person_who_settles_a_task_does_not_move_its_job(
    call: Call, moved: Path, names: Names
) -> None:
    (row,) = call.json("outbox", "--faulted", database=moved)
    call("dismiss", row["task"]["/"], "--app", APP, database=moved)
    (head,) = call.json("head", A.id, database=moved)
    assert head["version"] == 1
