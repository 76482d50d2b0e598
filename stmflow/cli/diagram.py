"""`diagram`: a workflow's states as a picture, and a job's way through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from stmflow.cli.settings import Settings, command, run
from stmflow.cli.table import LIMIT, tables, workflows_at

if TYPE_CHECKING:
    from stmflow.check.diagram import Taken
    from stmflow.cid import CID
    from stmflow.cli.chains import Chain, Statuses
    from stmflow.store import Store


@command(short_help="Draw a workflow's states, and a job's way through them.")
@click.argument("target", metavar="MODULE[:NAME]")
@click.option("--workflow", metavar="NAME", help="The workflow, where MODULE has several.")
@click.option("--job", metavar="KEY|CID", help="Mark where this job is, and how it came there.")
@click.option("--svg", is_flag=True, help="An SVG picture instead of Mermaid.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=LIMIT, help="States to explore, of each check."
)
def diagram(
    settings: Settings, target: str, workflow: str | None, job: str | None, svg: bool, limit: int
) -> None:
    """Draw the states of a workflow of MODULE (its CHECKS, or NAME, which may also be a workflow)
    and what leads from one to another, as Mermaid or SVG.

    With --job, what the database knows of a job is marked: where it stands, where it has been, and
    on each line the numbers of the revisions that took it. The job is named by its CID, or by its
    key as `stmflow ls` shows it.
    """
    from stmflow.check.diagram import Diagram
    from stmflow.cli.output import clean

    found = tables(target, workflow, limit)
    if job is None and len(found) > 1:
        known = ", ".join(one.workflow for one in found)
        raise click.UsageError(f"which of them? Give --workflow NAME ({known:.300})")
    taken = None
    if job is not None:
        name, taken = run(lambda: _path(settings, job, [one.workflow for one in found], target))
        found = [one for one in found if one.workflow == name]
    drawn = Diagram.of(found[0], taken)
    text = drawn.svg() if svg else drawn.mermaid()
    click.echo("\n".join(clean(line) for line in text.rstrip().splitlines()))


async def _path(
    settings: Settings, job: str, names: list[str], target: str
) -> tuple[str, list[Taken]]:
    """The workflow of a job, and its steps from the beginning.

    Raises:
        UsageError: it is a job of another workflow. NotFound: there is none.
    """
    from stmflow.cli import chains

    async with settings.reading() as store:
        chain = await chains.load(store, await _find(store, job, names))
    if chain.head.workflow not in names:
        raise click.UsageError(f"{job:.80} is a job of {chain.head.workflow}")
    statuses = chains.Statuses(chain.head, [*settings.workflows(), *workflows_at(target)])
    return chain.head.workflow, list(_taken(chain, statuses))


def _taken(chain: Chain, statuses: Statuses) -> Iterator[Taken]:
    from stmflow.check.diagram import START, Taken

    before = START
    for revision in chain.revisions:
        line = next(one for one in revision.writes if one.job == chain.job)
        after = statuses.of(chain.plain(line.state))
        yield Taken(before, tuple(chain.plain(event)["t"] for event in line.events), after)
        before = after


async def _find(store: Store, job: str, names: list[str]) -> CID:
    """The job of that key, or else of that CID."""
    from stmflow.cli.names import every_job, find_job
    from stmflow.cli.output import key_text
    from stmflow.errors import Ambiguous, NotFound

    found = [
        row.job
        for name in names
        async for row in every_job(store, workflow=name)
        if key_text(row.key) == job
    ]
    if len(found) > 1:
        raise Ambiguous(f"{len(found)} jobs have the key {job:.80}", found)
    if found:
        return found[0]
    try:
        return await find_job(store, job)
    except click.UsageError:
        raise NotFound(f"no job of {', '.join(names):.300} has the key {job:.80}") from None
