"""An outcome that meets an impossible cell: its task is parked, and the checker names the cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from stmflow import Workflow, impossible, perform
from stmflow.check import Check, Send, prove
from stmflow.check.search import NO_IMPOSSIBLE


@dataclass(frozen=True)
class Go:
    pass


@dataclass(frozen=True)
class Done:
    pass


@dataclass(frozen=True)
class Work:
    pass


@dataclass(frozen=True)
class Busy:
    pass


def update(event: Any, state: Any) -> Any:
    if isinstance(event, Go):
        return Busy(), [perform(Work()).then(Done)]
    return impossible()


JOB = Workflow("job", state=Busy, events=(Go, Done), outside=(Go,), tasks=(Work,), update=update)


@pytest.mark.parametrize("parks", [False, True])
def test_it_is_an_impossible_cell_and_not_only_a_parked_task(parks: bool) -> None:
    handlers: Any = {Work: lambda task, world: [(None, world)]}
    report = prove(Check([JOB], sends=[Send(Go())], handlers=handlers, parks=parks))
    (wrong,) = report.wrong
    assert (wrong.property, wrong.text) == (NO_IMPOSSIBLE, "impossible: job: Done in Busy")
