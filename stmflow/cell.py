"""The built-in workflow `cell`: a job whose state is one plain value, set by `tx.write`."""

from __future__ import annotations

from dataclasses import dataclass

from stmflow.schema import Data
from stmflow.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Cell:
    """The state: any plain IPLD value."""

    value: Data


@dataclass(frozen=True, slots=True)
class Set:
    """The one event: the value is now this."""

    value: Data


def _update(event: Set, state: Cell | None) -> tuple[Cell, tuple[()]]:
    return Cell(event.value), ()


CELL = Workflow("cell", state=Cell, events=(Set,), update=_update)
