"""`why` of a delivery that is in no history, because it was refused."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from examples.spaceship import (
    AIRLOCK,
    DECK,
    TRANSACTIONAL,
    WORKFLOWS,
    ActiveRequested,
    AskOuter,
    build,
)
from stmflow import CID, Transactor
from stmflow.cli import cli
from stmflow.store.sqlite import SQLiteStore

PRESS = CID.of(b"button 2, for the second time")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A ship on red alert, in which a press was vetoed."""
    found = str(tmp_path / "ship.db")
    anyio.run(alert, found)
    return found


async def alert(path: str) -> None:
    async with (
        SQLiteStore.open(path) as store,
        Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL) as db,
    ):
        await db.transact(lambda tx: build(tx, "s", ("B",)))
        await db.send(DECK, ActiveRequested("s"))
        answer = await db.send(AIRLOCK, AskOuter("s", "B"), delivery=PRESS.bytes)
        assert answer.code == "DeckNotCalm"


def test_why_names_the_rule_that_vetoed_a_press(path: str) -> None:
    call = ["--database", path, "--json", "why", str(PRESS)]
    (told,) = map(json.loads, CliRunner().invoke(cli, call).stdout.splitlines())
    assert (told["answer"], told["code"], told["detail"]) == (
        "rejected",
        "DeckNotCalm",
        {"guard": "calm"},
    )
    assert told["job"] == {"/": str(AIRLOCK.job("s", "B").id)}


def test_why_says_it_to_people_too(path: str) -> None:
    job = str(AIRLOCK.job("s", "B").id)
    told = CliRunner().invoke(cli, ["--database", path, "why", str(PRESS), "--job", job]).stdout
    assert "rejected  DeckNotCalm" in told
    assert "calm" in told
