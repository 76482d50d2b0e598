"""`tla`: a check as a TLA+ module."""

from __future__ import annotations

from pathlib import Path

import click

from stmflow.cli.settings import Settings, command


@command(short_help="Write a check as a TLA+ module that TLC can confirm.")
@click.argument("target", metavar="MODULE[:NAME]")
@click.option("--only", metavar="TEXT", help="Checks whose name holds this text.")
@click.option("--limit", type=click.IntRange(min=1), default=1_000_000, help="States at most.")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where the files go. Default: here.",
)
def tla(settings: Settings, target: str, only: str | None, limit: int, folder: Path) -> None:
    """Explore the checks of MODULE (its CHECKS, or NAME) and write each as NAME.tla and NAME.cfg.

    TLC then finds the same number of distinct states and the same verdict:

    \b
        java -cp tla2tools.jar tlc2.TLC -deadlock NAME
    """
    from stmflow.check import explore
    from stmflow.check.tla import module
    from stmflow.cli.check import checks_at
    from stmflow.cli.output import clean, emit
    from stmflow.errors import InvalidWorkflow

    _, _, checks = checks_at(target)
    found = [one for one in checks if only is None or only in one.name]
    if not found:
        raise click.UsageError(f"{target} has no check of that name")
    for one in found:
        graph = explore(one, limit=limit, every=True)
        try:
            made = module(one, graph)
        except InvalidWorkflow as error:
            raise click.UsageError(f"{one.name}: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{made.name}.tla").write_text(made.text)
        (folder / f"{made.name}.cfg").write_text(made.cfg)
        told = {"check": one.name, "module": made.name, "states": len(graph.states)}
        if settings.json:
            emit({**told, "steps": graph.steps})
        else:
            click.echo(f"{clean(made.name)}.tla: {len(graph.states):,} states, {clean(one.name)}")
