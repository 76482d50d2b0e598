"""`replay`: whether a new version would have done what histories say was done."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, run

if TYPE_CHECKING:
    from stmflow.cid import CID
    from stmflow.history import Divergence, Recorded, ReplayCheck


@command(short_help="Run a new version over recorded histories: would it do the same?")
@click.argument("what", nargs=-1, metavar="[JOB | FILE.car]...")
@click.option("--all", "everything", is_flag=True, help="Every job, or the --sample of them.")
@click.option("--workflow", metavar="NAME", help="With --all: jobs of this workflow only.")
@click.option("--version", type=click.IntRange(min=1), help="Default: the newest that --app has.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="With --all: N jobs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the sample.")
def replay(
    settings: Settings,
    what: tuple[str, ...],
    everything: bool,
    workflow: str | None,
    version: int | None,
    sample: int | None,
    seed: int,
) -> int:
    """Run the newest version of --app over recorded histories, and stop at the first divergence.

    Each write is judged by itself: its state before and its events are cast to the new version,
    whose states and effects must be those recorded. Nothing is written, and no job is touched.
    The same seed over the same jobs draws the same sample. CAR files need no database.
    """
    if bool(what) == everything:
        raise click.UsageError("give jobs or CAR files to replay, or --all")
    if not everything and (sample is not None or workflow is not None):
        raise click.UsageError("--sample and --workflow go with --all")
    files = [one for one in what if one.endswith(".car") or os.path.isfile(one)]
    if files and len(files) != len(what):
        raise click.UsageError("give either jobs or CAR files, not both")
    check = run(lambda: _check(settings, what, files, workflow, version, sample, seed))
    return _tell(settings, check)


async def _check(
    settings: Settings,
    what: Sequence[str],
    files: Sequence[str],
    workflow: str | None,
    version: int | None,
    sample: int | None,
    seed: int,
) -> ReplayCheck:
    from stmflow.cell import CELL
    from stmflow.history import ReplayCheck
    from stmflow.history.gate import check_one
    from stmflow.workflow import Registry

    workflows, _ = settings.application()
    registry = Registry([*workflows, CELL])
    check = ReplayCheck()
    if files:
        found = _of_files(files)
    else:
        found = _of_store(settings, what, workflow, sample, seed)
    async for history in found:
        if not check_one(check, registry, history, version=version):
            break
    return check


async def _of_files(files: Sequence[str]) -> AsyncIterator[Recorded]:
    from stmflow.cli.files import archived
    from stmflow.errors import MalformedBlock
    from stmflow.history import Recorded

    archive = archived(files)
    heads, findings = archive.jobs()
    if findings:
        raise MalformedBlock(findings[0].text)
    for job, head in heads.items():
        yield Recorded(job, head, archive.blocks.get)


async def _of_store(
    settings: Settings, what: Sequence[str], workflow: str | None, sample: int | None, seed: int
) -> AsyncIterator[Recorded]:
    from stmflow.cli.names import find_job
    from stmflow.history import draw, recorded

    async with settings.reading() as store:
        if what:
            jobs: list[CID] = [await find_job(store, one) for one in what]
        else:
            jobs = await draw(store, workflow, most=sample, seed=seed)
        for job in dict.fromkeys(jobs):
            yield await recorded(store, job)


def _tell(settings: Settings, check: ReplayCheck) -> int:
    from stmflow.cli import exits
    from stmflow.cli.output import Screen, emit

    if settings.json:
        emit(_json(check))
    else:
        screen = Screen()
        if check.divergence is not None:
            _print(screen, check.divergence)
        if check.not_rerun is not None:
            job, why = check.not_rerun
            screen.line(("not re-run  ", "bold yellow"), (job, ""), (f"  {why}", ""))
        jobs = f"{check.histories} histor{'y' if check.histories == 1 else 'ies'}"
        told = "the same" if check.passed else "and no further"
        screen.line((f"{jobs}, {check.revisions} revisions: ", ""), (told, "bold"))
    if check.divergence is not None:
        return exits.MISMATCH
    return exits.OK if check.passed else exits.NOT_RERUN


def _json(check: ReplayCheck) -> dict[str, Any]:
    found = check.divergence
    return {
        "passed": check.passed,
        "histories": check.histories,
        "revisions": check.revisions,
        "divergence": found
        and {
            "job": found.job,
            "seq": found.seq,
            "revision": found.revision,
            "event": found.event,
            "events": list(found.events),
            "recorded": found.recorded,
            "made": found.made,
            "why": list(found.why),
        },
        "not_rerun": check.not_rerun and {"job": check.not_rerun[0], "why": check.not_rerun[1]},
    }


def _print(screen: Any, found: Divergence) -> None:
    screen.line(("diverges  ", "bold red"), (found.job, ""), (f"  seq {found.seq}", ""))
    screen.line(("revision  ", "dim"), (found.revision, ""))
    for event in found.events:
        screen.line(("event     ", "dim"), (event, ""))
    screen.line(("recorded  ", "dim"), (found.recorded, ""))
    screen.line(("made      ", "dim"), (found.made or "nothing", ""))
    for line in found.why:
        screen.line(("          ", ""), (line, "red"))
