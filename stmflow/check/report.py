"""What came out of a check: what holds, what does not and how, and what was never tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from stmflow.check.exploring import explore
from stmflow.check.liveness import unfair
from stmflow.check.model import Check
from stmflow.check.quotient import Quotient
from stmflow.check.search import (
    NO_FAILURE,
    NO_IMPOSSIBLE,
    Graph,
    Progress,
    Wrong,
    keeping,
    wander,
)


@dataclass(slots=True)
class Report:
    """A check that has been run.

    Attributes:
        graph: everything explored. wrong: what does not hold, with its trace.
        unreached: names of `sometimes` that never came. vacuous: what was never put to the test.
    """

    check: Check
    graph: Graph
    wrong: list[Wrong] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    vacuous: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything was explored and everything holds."""
        return self.graph.whole and not self.wrong and not self.unreached

    @property
    def names(self) -> list[str]:
        """Every property that was asked, the two that always are first."""
        return [NO_IMPOSSIBLE, NO_FAILURE, *(one.name for one in self.check.properties)]


def prove(
    check: Check,
    *,
    limit: int = 50_000_000,
    progress: Progress | None = None,
    every: bool = False,
    cores: int = 1,
    resume: Path | None = None,
) -> Report:
    """Explore the model and say what holds.

    Args:
        limit: states; beyond it the search ends, and what was not met is not proved.
        progress: told each second. every: a trace for each property that does not hold, and not for
            the first alone. cores: processes to explore in, where the platform forks.
        resume: a file in which progress is kept. A check that was killed goes on from there; one
            that comes to its end removes it.

    Raises:
        InvalidWorkflow: the model lacks a handler, its start fails, or what is declared to be alike
            is not, or the file is of another check.
        OSError: the file cannot be read or written.
    """
    graph = explore(check, limit=limit, progress=progress, every=every, cores=cores, resume=resume)
    report = Report(check, graph, list(graph.wrong))
    if graph.whole and (every or not graph.wrong):
        with keeping():
            report.wrong += _unfair(graph, check)
        report.unreached = [
            one.name
            for one in check.properties
            if one.kind == "sometimes" and not graph.reached[one.name]
        ]
        report.vacuous = list(_vacuous(check, graph))
    if resume is not None and (graph.whole or graph.wrong):
        resume.unlink()
    return report


def _unfair(graph: Graph, check: Check) -> list[Wrong]:
    """The liveness properties that do not hold."""
    if not isinstance(graph, Quotient) or not graph.edges:
        return unfair(graph, check)
    whole = graph.unfolded()
    return [one._replace(way=whole.way(one)) for one in unfair(whole, check)]


def walk(
    check: Check,
    *,
    runs: int = 1_000,
    length: int = 1_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Look for what is wrong along behaviours drawn at random, where there are too many states.

    A walk finds; it proves nothing, so its report never holds. What should come at last is not
    asked. The same seed takes the same steps.

    Args:
        runs: behaviours at most. length: steps of each, at most.

    Raises:
        InvalidWorkflow: as `prove`.
    """
    graph = wander(check, runs=runs, length=length, random=Random(seed), progress=progress)
    return Report(check, graph, list(graph.wrong))


def _vacuous(check: Check, graph: Graph) -> Sequence[str]:
    """Properties, steps and cells that no behaviour has put to the test."""
    found = []
    for one in check.properties:
        if one.kind == "leads to" and one.when is not None:
            if not graph.comes(one.when):
                found.append(f"{one.name}: what it begins with is never met")
        elif one.kind == "at rest" and not graph.reached["(rest)"]:
            found.append(f"{one.name}: nothing ever rests")
    taken = graph.machine.taken
    found += [
        f"{send.label} is never accepted"
        for at, send in enumerate(check.sends)
        if ("send", at) not in taken
    ]
    found += [
        f"{one.label} never commits"
        for at, one in enumerate(check.transactions)
        if ("transact", at) not in taken
    ]
    found += [
        f"the world never does {one.label}"
        for at, one in enumerate(check.moves)
        if ("move", at) not in taken
    ]
    performed = {type(leaf) for leaf in graph.machine.performed()}
    found += [
        f"{kind.__name__} is never performed"
        for kind in check.handlers
        if kind not in performed and kind not in check.transactional
    ]
    return found


def cells(graph: Graph) -> dict[str, dict[tuple[str, str], dict[str, int]]]:
    """Workflow → (state tag, event tag) → what `update` answered there, and how often it ran."""
    found: dict[str, dict[tuple[str, str], dict[str, int]]] = {}
    for (workflow, state, event), answers in graph.machine.cells.items():
        told = {str(answer): times for answer, times in answers.items()}
        found.setdefault(workflow, {})[(state, event)] = told
    return found


def untried(check: Check, graph: Graph) -> list[tuple[str, str, str]]:
    """(workflow, state tag, event tag) of cells that no behaviour comes to."""
    found = []
    for workflow in check.workflows:
        known = {state for name, state, _ in graph.machine.cells if name == workflow.name}
        for state in sorted({*known, *workflow.state_tags, ""}):
            for event in workflow.event_tags:
                if (workflow.name, state, event) not in graph.machine.cells:
                    found.append((workflow.name, state, event))
    return found
