"""The README of the transport has the table as the code gives it."""

from __future__ import annotations

from examples.transport.check import CHECKS
from examples.transport.model import ENDED
from examples.transport.workflow import TRANSPORT
from stmflow.check import explore
from stmflow.check.table import Table, table
from tests.project import ROOT

STATES = ("", "connecting", "sending", "waiting", "unknown", "backoff", *ENDED)
ENOUGH = 3_000
"""States of each model: cells that nothing comes to so soon stand in brackets."""

WORDS = {
    "cancel dial, cancel write, cancel read, cancel ask, transport/close": "leave",
    "transport/": "",
}


def test_the_readme_has_the_table() -> None:
    graphs = [explore(one, limit=ENOUGH) for one in CHECKS[:2]]
    text = (ROOT / "examples/transport/README.md").read_text()
    assert markdown(table(TRANSPORT, graphs)) in text


def markdown(found: Table) -> str:
    """A row for each event; of the three ends one column, since they say the same."""
    shown = STATES[:-2]
    rows = [["event", *(state or "*idle*" for state in shown[:-1]), "ended"], ["---"] * 8]
    for event in found.events:
        cells = [str(found.cells[state, event]) for state in shown]
        rows.append([event, *cells])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    for words, short in WORDS.items():
        lines = lines.replace(words, short)
    return lines


def test_ends_say_the_same() -> None:
    found = table(TRANSPORT, [explore(CHECKS[0], limit=ENOUGH)])
    for event in found.events:
        told = {str(answer) for end in ENDED for answer in found.cells[end, event].answers}
        assert told == {"~"}
