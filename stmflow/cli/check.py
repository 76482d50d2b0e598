"""`check`: every behaviour of a workflow, explored, and what holds of all of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command

if TYPE_CHECKING:
    from stmflow.check import Check, Graph, Report
    from stmflow.check.search import Wrong


@command(short_help="Prove a workflow: explore every behaviour of it, with every fault.")
@click.argument("target", metavar="MODULE[:NAME]")
@click.option("--only", metavar="TEXT", help="Checks whose name holds this text.")
@click.option("--limit", type=click.IntRange(min=1), default=50_000_000, help="States at most.")
@click.option("--late", type=click.IntRange(0, 8), help="Attempts of lost workers at once.")
@click.option("--every", is_flag=True, help="A trace for each property that does not hold.")
@click.option("--mermaid", is_flag=True, help="Traces as sequence diagrams.")
@click.option("--cells", is_flag=True, help="List the cells that nothing has tried.")
def check(
    settings: Settings,
    target: str,
    only: str | None,
    limit: int,
    late: int | None,
    every: bool,
    mermaid: bool,
    cells: bool,
) -> int:
    """Explore every behaviour of the checks of MODULE (its CHECKS, or NAME): a package's own
    module `check` counts as the package's. The reducer is the one of production; answers are lost,
    doubled, late and in every order.

    Exit code 0 only if everything was explored and everything holds.
    """
    from dataclasses import replace

    from stmflow.check import Faults, prove

    found = [one for one in checks_at(target) if only is None or only in one.name]
    if not found:
        raise click.UsageError(f"{target} has no check of that name")
    holds, told = True, []
    for one in found:
        if late is not None:
            one = replace(one, faults=Faults(lost=one.faults.lost, late=late))
        shown = _progress(one.name) if sys.stderr.isatty() else None
        report = prove(one, limit=limit, progress=shown, every=every)
        if shown is not None:
            sys.stderr.write("\r\x1b[K")
        holds = holds and report.holds
        if settings.json:
            told.append(_plain(report))
        else:
            _print(report, mermaid=mermaid, cells=cells)
    if settings.json:
        from stmflow.cli.output import emit

        emit(told)
    return 0 if holds else 1


def checks_at(target: str) -> Sequence[Check]:
    """The checks at MODULE[:NAME]. Raises UsageError."""
    from stmflow.check import Check

    name, _, attribute = target.partition(":")
    name = name.strip("/").replace("/", ".").removesuffix(".py")
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(name)
        if not attribute and not hasattr(module, "CHECKS"):
            module = importlib.import_module(f"{name}.check")
        found = getattr(module, attribute or "CHECKS")
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"no checks in {target}: {error}") from None
    finally:
        sys.path.remove("")
    checks = (found,) if isinstance(found, Check) else tuple(found)
    if not all(isinstance(one, Check) for one in checks):
        raise click.UsageError(f"{target} is no Check, nor several")
    return checks


def _progress(name: str) -> Any:
    def show(graph: Graph, depth: int) -> None:
        rate = graph.steps / max(graph.seconds, 0.001)
        sys.stderr.write(
            f"\r\x1b[K{name}: {len(graph.states):,} states, depth {depth}, {rate:,.0f} steps/s"
        )
        sys.stderr.flush()

    return show


def _print(report: Report, *, mermaid: bool, cells: bool) -> None:
    from stmflow.check.report import untried
    from stmflow.cli.output import clean

    graph, wrong = report.graph, {one.property: one for one in report.wrong}
    whole = "" if graph.whole else ", not all of them"
    cut = f", {len(graph.cut):,} at the bound" if graph.cut else ""
    click.echo(
        f"{clean(report.check.name)}: {len(graph.states):,} states{whole}, {graph.steps:,} steps, "
        f"depth {graph.depth}{cut}, {graph.seconds:.1f} s"
    )
    for name in [*report.names, *(one for one in wrong if one not in report.names)]:
        if name in wrong:
            click.echo(f"  ✗ {clean(name)}: {clean(wrong[name].text)}")
            _trace(graph, wrong[name], mermaid=mermaid)
        elif name in report.unreached:
            click.echo(f"  ✗ {clean(name)}: never")
        elif graph.whole:
            click.echo(f"  ✓ {clean(name)}")
        else:
            click.echo(f"  ? {clean(name)}: not everything was explored")
    for text in report.vacuous:
        click.echo(f"  ! {clean(text)}")
    missing = untried(report.check, graph)
    if missing and not wrong:
        click.echo(f"  {len(missing)} cells were never come to{'' if cells else ' (--cells)'}")
        if cells:
            for workflow, state, event in missing:
                click.echo(f"    {clean(workflow)}: {clean(state or 'no job')} × {clean(event)}")


def _trace(graph: Graph, wrong: Wrong, *, mermaid: bool) -> None:
    from stmflow.check import trace
    from stmflow.cli.output import clean

    if mermaid:
        click.echo(trace.mermaid(graph, wrong))
        return
    for number, what, outcome, moved in trace.table(graph, wrong):
        click.echo(f"    {number:>4}  {clean(what)}{clean(f'  {outcome}') if outcome else ''}")
        if moved:
            click.echo(f"          {clean(moved)}")


def _plain(report: Report) -> dict[str, Any]:
    from stmflow.check import trace

    graph = report.graph
    return {
        "check": report.check.name,
        "holds": report.holds,
        "whole": graph.whole,
        "states": len(graph.states),
        "steps": graph.steps,
        "depth": graph.depth,
        "milliseconds": int(graph.seconds * 1_000),
        "properties": report.names,
        "wrong": [
            {
                "property": one.property,
                "text": one.text,
                "trace": [list(row) for row in trace.table(graph, one)],
            }
            for one in report.wrong
        ],
        "unreached": report.unreached,
        "vacuous": report.vacuous,
    }
