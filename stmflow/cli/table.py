"""`table`: what a workflow answers to every event in every state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command

if TYPE_CHECKING:
    from stmflow.check import Check, Graph
    from stmflow.check.table import Table
    from stmflow.workflow import Workflow

LIMIT = 20_000


@command(short_help="Show what a workflow answers to every event in every state.")
@click.argument("target", metavar="MODULE[:NAME]")
@click.option("--workflow", metavar="NAME", help="Only the workflow of that name.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=LIMIT, help="States to explore, of each check."
)
def table(settings: Settings, target: str, workflow: str | None, limit: int) -> None:
    """Print, in Markdown, the table of each workflow that the checks of MODULE explore (its CHECKS,
    or NAME, which may also be a workflow): a row for each event, a column for each state. Cells in
    brackets are those where no behaviour that was explored comes: there `update` was asked.
    """
    from stmflow.check.table import LEGEND
    from stmflow.cli.output import clean, emit

    found = tables(target, workflow, limit)
    if settings.json:
        emit([_plain(one) for one in found])
        return
    for one in found:
        rows = (clean(row).replace("\\\\", "\\") for row in one.markdown().splitlines())
        click.echo(f"## {clean(one.workflow)}\n")
        click.echo("\n".join([*rows, ""]))
    click.echo(LEGEND)


def tables(target: str, name: str | None = None, limit: int = LIMIT) -> list[Table]:
    """The tables of what stands there. Raises UsageError."""
    from stmflow.check.table import table as table_of

    workflows, graphs = explored(target, name, limit)
    return [table_of(one, graphs) for one in workflows]


def explored(target: str, name: str | None, limit: int) -> tuple[list[Workflow], list[Graph]]:
    """The workflows at MODULE[:NAME], and so many states of each of their checks.

    Raises:
        UsageError: nothing is there, or no workflow of that name.
    """
    from stmflow.check import explore

    _, checks = _at(target)
    workflows = workflows_at(target)
    wanted = [one for one in workflows if name in (None, one.name)]
    if not wanted:
        known = ", ".join(sorted(one.name for one in workflows)) or "none"
        raise click.UsageError(f"{target} has no workflow {name!r:.80} (known: {known:.300})")
    graphs = [
        explore(replace(one, properties=()), limit=limit, every=True)
        for one in checks
        if any(each is other for each in one.workflows for other in wanted)
    ]
    return wanted, graphs


def workflows_at(target: str) -> list[Workflow]:
    """The workflows at MODULE[:NAME], or of its checks, one of each name. Raises UsageError."""
    found, checks = _at(target)
    known = {one.name: one for check in checks for one in check.workflows}
    return list((known | {one.name: one for one in found}).values())


def _at(target: str) -> tuple[list[Workflow], list[Check]]:
    from stmflow.cli.check import checks_at
    from stmflow.cli.settings import named
    from stmflow.workflow import Workflow

    module, _, attribute = target.partition(":")
    if attribute:
        found = named(f"{module.strip('/').replace('/', '.')}:{attribute}")
        if isinstance(found, Workflow):
            return [found], []
    return [], list(checks_at(target)[2])


def _plain(one: Table) -> dict[str, Any]:
    return {
        "workflow": one.workflow,
        "cells": [
            {
                "state": state,
                "event": event,
                "met": cell.met,
                "answers": [
                    {
                        "said": answer.said,
                        "to": answer.to,
                        "epoch": answer.again,
                        "effects": list(answer.effects),
                    }
                    for answer in cell.answers
                ],
            }
            for (state, event), cell in one.cells.items()
        ],
    }
