"""Statecharts: reducers written as states inside states, compiled to an ordinary workflow."""

from stmflow.statechart.chart import Active, Chart
from stmflow.statechart.model import (
    Act,
    Did,
    Done,
    Final,
    Go,
    History,
    Invoke,
    Parallel,
    Refuse,
    State,
    Stay,
)
from stmflow.statechart.picture import mermaid, table

__all__ = [
    "Act",
    "Active",
    "Chart",
    "Did",
    "Done",
    "Final",
    "Go",
    "History",
    "Invoke",
    "Parallel",
    "Refuse",
    "State",
    "Stay",
    "mermaid",
    "table",
]
