"""Tables and diagrams: what they say of small workflows, and that documents hold what is made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from stmflow import Err, Workflow, cancel, ignore, impossible, perform, reject, same, sleep
from stmflow.check import Check, Send, explore
from stmflow.check.diagram import Diagram, Taken
from stmflow.check.layout import layered
from stmflow.check.table import Table, table
from tools import tables as tool


@dataclass(frozen=True, slots=True)
class Door:
    status: str
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Knock:
    door: str


@dataclass(frozen=True, slots=True)
class Close:
    door: str
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    pass


@dataclass(frozen=True, slots=True)
class Jammed:
    error: Err


@dataclass(frozen=True, slots=True)
class Turn:
    pass


def update(event: Any, door: Door | None) -> Any:
    match event, door:
        case Knock(), None:
            turn = perform(Turn()).then(Opened).catch(Jammed)
            return Door("shut"), [turn, sleep(for_=timedelta(seconds=5), name="bored").then(Opened)]
        case Knock(), Door("open"):
            return same()
        case Knock(), Door("shut", tries):
            return Door("shut", tries + 1), ()
        case Opened(), Door("shut"):
            return Door("open"), cancel("bored")
        case Close(hard=True), Door():
            return reject("Softly")
        case _, None:
            return impossible()
    return ignore()


DOOR = Workflow(
    "door",
    state=Door,
    events=(Knock, Close, Opened, Jammed),
    outside=(Knock, Close),
    tasks=(Turn,),
    update=update,
    key=("door",),
    tag="status",
    epoch="tries",
)
CHECK = Check(
    [DOOR],
    sends=[Send(Knock("front"), 2)],
    handlers={Turn: lambda task, world: [(None, world), (Err("Stuck"), world)]},
)


@pytest.fixture(scope="module")
def doors() -> Table:
    return table(DOOR, [explore(CHECK)])


def test_cells_hold_what_was_answered_and_in_brackets_what_would_be(doors: Table) -> None:
    said = {place: str(cell) for place, cell in doors.cells.items()}
    assert doors.states == ("", "shut", "open")
    assert said["", "Knock"] == "→shut [Turn, timer bored]"
    assert said["shut", "Knock"] == "→shut, epoch+1"
    assert said["shut", "Opened"] == "→open [cancel bored]"
    assert said["open", "Knock"] == "="
    assert said["shut", "Jammed"] == "~"
    assert said["", "Opened"] == "(‼)"
    assert said["open", "Close"] == "(R:Softly or ~)"


def test_every_cell_has_an_answer_and_every_row_every_column(doors: Table) -> None:
    assert all(cell.answers for cell in doors.cells.values())
    assert len(doors.cells) == len(doors.states) * len(doors.events)
    rows = doors.markdown().splitlines()
    assert len(rows) == 2 + len(doors.events)
    assert {row.count("|") for row in rows} == {len(doors.states) + 2}


def test_a_workflow_that_nothing_explores_is_asked() -> None:
    asked = table(DOOR)
    assert str(asked.cells["", "Knock"]) == "(→shut [Turn, timer bored])"


def test_mermaid_shows_moves_and_marks_a_path(doors: Table) -> None:
    drawn = Diagram.of(doors, [Taken("", ("Knock",), "shut"), Taken("shut", ("Opened",), "open")])
    text = drawn.mermaid()
    assert "    [*] --> shut: (1), Knock" in text
    assert "    shut --> open: (2), Opened" in text
    assert "    class open here" in text
    assert "    class shut been" in text


def test_a_step_that_no_behaviour_takes_is_drawn_all_the_same(doors: Table) -> None:
    drawn = Diagram.of(doors, [Taken("", ("Odd",), "ajar")])
    assert "[*] --> ajar: (1), Odd" in drawn.mermaid()


def test_svg_is_xml_and_shows_every_state(doors: Table) -> None:
    drawn = Diagram.of(doors, [Taken("", ("Knock",), "shut")])
    root = ElementTree.fromstring(drawn.svg())
    shown = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"shut", "open", "↻ Knock", "(1)"} <= set(shown)
    boxes = [each.get("class") for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert boxes.count("here") == 1


def test_nothing_of_a_picture_lies_on_another() -> None:
    sizes = [(80.0, 30.0)] * 5
    edges = [(0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 1), (2, 4), (0, 4)]
    texts = [(60.0, 20.0)] * len(edges)
    found = layered(sizes, edges, texts)
    boxes = [*zip(found.nodes, sizes, strict=True), *zip(found.labels, texts, strict=True)]
    for ((x, y), (w, h)), ((u, v), (a, b)) in combinations(boxes, 2):
        assert abs(x - u) >= (w + a) / 2 or abs(y - v) >= (h + b) / 2


@pytest.mark.parametrize("path", list(tool.documents()), ids=lambda path: path.parent.name)
def test_documents_hold_what_is_made(path: Path) -> None:
    text = path.read_text()
    assert tool.renewed(text) == text, "python -m tools.tables --write"
