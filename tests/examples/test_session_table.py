"""The README of the session has the tables as the code gives them."""

from __future__ import annotations

import pytest

from examples.session.check import CHECKS
from examples.session.client import CLIENT
from examples.session.server import SERVER
from stmflow import Workflow
from stmflow.check import explore
from stmflow.check.table import Table, table
from tests.project import ROOT

STATES = {
    CLIENT: ("", "no-connection", "backing-off", "connecting", "handshaking", "connected", "gone"),
    SERVER: ("", "connected", "no-connection", "gone"),
}
MODELS = CHECKS[:3]
"""Those of one wire: cells that nothing comes to in them stand in brackets."""

WORDS = {
    "cancel shake, cancel greet, cancel read, cancel write, session/hang": "part",
    "session/": "",
}


@pytest.fixture(scope="module")
def tables() -> dict[Workflow, str]:
    graphs = [explore(one) for one in MODELS]
    return {each: markdown(each, table(each, graphs)) for each in STATES}


@pytest.mark.parametrize("workflow", STATES, ids=lambda each: each.name)
def test_the_readme_has_the_table(workflow: Workflow, tables: dict[Workflow, str]) -> None:
    assert tables[workflow] in (ROOT / "examples/session/README.md").read_text()


def markdown(workflow: Workflow, found: Table) -> str:
    """A row for each event, a column for each state."""
    states = STATES[workflow]
    rows = [["event", *(state or "*none*" for state in states)], ["---"] * (len(states) + 1)]
    for event in found.events:
        rows.append([event, *(str(found.cells[state, event]) for state in states)])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    for words, short in WORDS.items():
        lines = lines.replace(words, short)
    return lines
