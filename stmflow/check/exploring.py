"""Every state of a model, by the search that fits it."""

from __future__ import annotations

from pathlib import Path

from stmflow.check.cores import spread
from stmflow.check.journal import Journal
from stmflow.check.model import Check
from stmflow.check.quotient import Folded
from stmflow.check.search import Graph, Progress, Search, keeping


def explore(
    check: Check,
    *,
    limit: int = 50_000_000,
    progress: Progress | None = None,
    every: bool = False,
    cores: int = 1,
    resume: Path | None = None,
) -> Graph:
    """Every state of the model, breadth first.

    Args:
        limit: states; beyond it the search ends and says that it is not whole.
        progress: told each second. every: go on after the first property that does not hold, and
            find the shortest trace for each of them. cores: processes to prepare steps in, where
            the platform forks; what comes out is the same. resume: a file in which progress is
            kept, and from which the search goes on if it was killed; its end is kept as well.

    Raises:
        InvalidWorkflow: the model lacks a handler, its start fails, what is declared to be alike is
            not, or the file is of another check.
        OSError: the file cannot be read or written.
    """
    kind = Folded if check.symmetric else Search
    with keeping():
        search = kind(check, limit, progress, every)
        search.spread = spread(cores)
        if resume is None:
            return search.run()
        journal = Journal(resume)
        journal.begin(search)
        search.save = journal.save
        graph = search.run()
        journal.save(search, now=True)
        return graph
