"""`check`: every behaviour of a workflow, explored, and what holds of all of them."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
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
@click.option("--cores", type=click.IntRange(1, 64), default=1, help="Processes to explore in.")
@click.option(
    "--resume",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep progress in this folder, and go on from it.",
)
@click.option("--walk", type=click.IntRange(min=1), help="So many behaviours, drawn at random.")
@click.option("--seed", type=int, default=0, help="Of the walk.")
@click.option("--every", is_flag=True, help="A trace for each property that does not hold.")
@click.option("--mermaid", is_flag=True, help="Traces as sequence diagrams.")
@click.option("--pytest", "file", type=click.Path(dir_okay=False), help="Write traces as tests.")
@click.option("--cells", is_flag=True, help="List the cells that nothing has tried.")
def check(
    settings: Settings,
    target: str,
    only: str | None,
    limit: int,
    late: int | None,
    cores: int,
    resume: Path | None,
    walk: int | None,
    seed: int,
    every: bool,
    mermaid: bool,
    file: str | None,
    cells: bool,
) -> int:
    """Explore every behaviour of the checks of MODULE (its CHECKS, or NAME): a package's own
    module `check` counts as the package's. The reducer is the one of production; answers are lost,
    doubled, late and in every order.

    Every trace is played on the engine itself before it is shown.

    Exit code 0 only if everything was explored and everything holds; of a walk, which proves
    nothing, if it has found nothing.
    """
    from dataclasses import replace

    from stmflow.check import prove
    from stmflow.check import walk as wander
    from stmflow.errors import InvalidWorkflow

    module, attribute, checks = checks_at(target)
    found = [one for one in checks if only is None or only in one.name]
    if not found:
        raise click.UsageError(f"{target} has no check of that name")
    holds, told, tests = True, [], list[str]()
    for one in found:
        if late is not None:
            one = replace(one, faults=replace(one.faults, late=late))
        shown = _progress(one.name) if sys.stderr.isatty() else None
        try:
            if walk is None:
                kept = None if resume is None else _kept(resume, one.name)
                report = prove(
                    one, limit=limit, progress=shown, every=every, cores=cores, resume=kept
                )
            else:
                report = wander(one, runs=walk, seed=seed, progress=shown)
        except InvalidWorkflow as error:
            raise click.UsageError(f"{one.name}: {error}") from None
        if shown is not None:
            sys.stderr.write("\r\x1b[K")
        holds = holds and (report.holds if walk is None else not report.wrong)
        tests += _tests(report, module, attribute) if file else []
        if settings.json:
            told.append(_plain(report))
        else:
            _print(report, mermaid=mermaid, cells=cells)
    if file:
        _write(file, tests, quiet=bool(settings.json))
    if settings.json:
        from stmflow.cli.output import emit

        emit(told)
    return 0 if holds else 1


def _kept(folder: Path, name: str) -> Path:
    """Where the progress of a check is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.jsonl"


def _tests(report: Report, module: str, attribute: str) -> list[str]:
    from stmflow.check import regression

    return [regression(report.graph, one, module, attribute) for one in report.wrong]


def _write(file: str, tests: Sequence[str], *, quiet: bool) -> None:
    """One file for each trace: the second is FILE with a 2 before its ending, and so on."""
    path = Path(file)
    for number, text in enumerate(tests, 1):
        name = path if number == 1 else path.with_stem(f"{path.stem}_{number}")
        name.write_text(text)
        if not quiet:
            click.echo(f"{name} holds the trace as a test")


def checks_at(target: str) -> tuple[str, str, Sequence[Check]]:
    """Where the checks of MODULE[:NAME] stand, module and attribute, and they themselves.

    Raises:
        UsageError: there are none.
    """
    from stmflow.check import Check

    name, _, attribute = target.partition(":")
    name = name.strip("/").replace("/", ".").removesuffix(".py")
    sys.path.insert(0, "")
    try:
        module, attribute = importlib.import_module(name), attribute or "CHECKS"
        if not hasattr(module, attribute):
            module = importlib.import_module(f"{name}.check")
        found = getattr(module, attribute)
    except Exception as error:  # whatever the module, or its name, comes to
        raise click.UsageError(f"no checks in {target}: {error}") from None
    finally:
        sys.path.remove("")
    checks = (found,) if isinstance(found, Check) else tuple(found)
    if not all(isinstance(one, Check) for one in checks):
        raise click.UsageError(f"{target} is no Check, nor several")
    return module.__name__, attribute, checks


def _progress(name: str) -> Any:
    def show(graph: Graph, depth: int) -> None:
        rate = len(graph.states) / max(graph.seconds, 0.001)
        sys.stderr.write(
            f"\r\x1b[K{name}: {len(graph.states):,} states, depth {depth}, {rate:,.0f} states/s"
        )
        sys.stderr.flush()

    return show


def _print(report: Report, *, mermaid: bool, cells: bool) -> None:
    from stmflow.check.report import untried
    from stmflow.cli.output import clean

    graph, wrong = report.graph, {one.property: one for one in report.wrong}
    whole = "" if graph.whole else ", not all of them"
    cut = f", {len(graph.cut):,} at the bound" if graph.cut else ""
    alike = " up to what is alike" if report.check.symmetric else ""
    click.echo(
        f"{clean(report.check.name)}: {len(graph.states):,} states{alike}{whole},"
        f" {graph.steps:,} steps, depth {graph.depth}{cut}, {graph.seconds:.1f} s"
    )
    for name in [*report.names, *(one for one in wrong if one not in report.names)]:
        if name in wrong:
            click.echo(f"  ✗ {clean(name)}: {clean(wrong[name].text)}{_played(report, name)}")
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


def _played(report: Report, name: str) -> str:
    """Whether the engine does the same."""
    import anyio

    from stmflow.check import Diverged, replay, words

    wrong = next(one for one in report.wrong if one.property == name)
    try:
        played = anyio.run(replay, report.check, words(report.graph, wrong))
    except Diverged as error:
        return f" (but not so on the engine: {error})"
    return " (so does the engine)" if played.breaks(name) else " (but not so on the engine)"


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
