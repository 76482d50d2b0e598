"""Charts shown: the table's cells and the diagram's arrows."""

from __future__ import annotations

from examples.statecharts import AUTH, CHARTS, FETCH, PLAYER, USER
from stmflow.statechart import mermaid, table
from tests.project import ROOT


def row(text: str, state: str) -> list[str]:
    cells = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return next(line[1:] for line in cells if line[0] == state)


def test_a_cell_is_what_the_leaf_or_what_is_around_it_answers() -> None:
    assert row(table(FETCH), "loading") == [
        "R:NothingFailed",
        "→ idle",
        "=",
        "→ success",
        "→ error",
    ]
    assert row(table(USER), "authenticated.form.editing")[:3] == ["=", "R:NotNow", "→ saving"]


def test_guards_stand_before_what_they_guard() -> None:
    assert row(table(AUTH), "authenticating")[2:] == ["[last] → error; → idle"] * 2
    assert row(table(AUTH), "state")[-1] == "after 30 s in authenticating"


def test_regions_are_drawn_side_by_side_and_states_inside_one_another() -> None:
    drawn = mermaid(PLAYER).splitlines()
    assert [line.strip() for line in drawn].count("--") == 2
    assert "            stopped --> playing : Play" in drawn
    assert "        error --> last_form : Dismiss" in mermaid(USER).splitlines()
    assert '            state "H last_form" as last_form' in mermaid(USER).splitlines()


def test_every_brace_is_closed() -> None:
    for chart in CHARTS:
        drawn = mermaid(chart)
        assert drawn.count("{") == drawn.count("}")


def test_the_pictures_in_the_example_s_page_are_those_of_the_charts() -> None:
    page = (ROOT / "examples/statecharts/README.md").read_text()
    for chart in CHARTS:
        assert table(chart) in page, chart.workflow.name
        assert f"```mermaid\n{mermaid(chart)}```" in page, chart.workflow.name
