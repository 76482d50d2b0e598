"""`backup`, `archive`, `gc` and `revive`: copies, and what leaves a database."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, run

if TYPE_CHECKING:
    from stmflow.retention import Over, Totals

_UNITS = {"h": 3_600_000, "d": 24 * 3_600_000}


def _age(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """So many days or hours, in milliseconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([dh])", value)
    if found is None:
        raise click.BadParameter(f"{value!r:.40} is no age: write 30d, or 36h", ctx, param)
    return int(found[1]) * _UNITS[found[2]]


_OLDER = click.option(
    "--older-than", "keep_ms", callback=_age, default="30d", show_default=True, metavar="AGE",
    help="What was written longer ago than this (30d, 36h).",
)  # fmt: skip


# --- backup -------------------------------------------------------------------------------------


@command(short_help="Copy the database while others write to it.")
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace the file where there is one.")
def backup(settings: Settings, file: str, force: bool) -> None:
    """Write a copy of the database, as it is at one moment, to FILE.

    Nobody has to stop. The copy is checked and on the disk before it gets its name; it is a
    database as any other, which `verify --all` can judge and a service can run on.
    """
    from stmflow.cli.output import Screen, emit
    from stmflow.store.sqlite import SQLiteStore

    if "\0" in file:
        raise click.UsageError("a file's name holds no NUL")

    async def work() -> None:
        async with SQLiteStore.open(settings.path(), read_only=True) as store:
            await store.backup(file, replace=force)

    try:
        run(work)
    except FileExistsError as error:
        plain = not force and os.path.lexists(file)
        raise click.UsageError(
            f"{file} exists; --force replaces it" if plain else str(error)
        ) from None
    size = os.path.getsize(file)
    if settings.json:
        emit({"file": file, "bytes": size})
    else:
        Screen().line((file, "bold"), (f"  {size} bytes", ""))


# --- archive and gc -----------------------------------------------------------------------------


@command(short_help="Move old history, and finished jobs with it, to the archive.")
@_OLDER
@click.option(
    "--finished",
    multiple=True,
    metavar="WORKFLOW:STATUS",
    help="Jobs in this status leave whole, if they have been in it that long.",
)
@click.option(
    "--pause",
    "pause_ms",
    type=click.IntRange(min=0),
    default=0,
    metavar="MS",
    help="Rest so long after each step.",
)
def archive(settings: Settings, keep_ms: int, finished: tuple[str, ...], pause_ms: int) -> None:
    """Move old history to --archive PLACE, while the service runs.

    All is written, read back and checked before anything is dropped. Of every job the newest
    revision stays, unless --finished says that jobs in its status may leave whole: these are found
    with --archive, and `revive` brings them back. Cut short anywhere, it has lost nothing.
    """
    over = [_over(one, keep_ms) for one in finished]

    async def work() -> Totals:
        from stmflow.retention import Retention

        async with settings.shelf() as shelf, settings.writing() as store:
            given: Any = {"keep_ms": keep_ms, "finished": over, "pause_ms": pause_ms}
            return await Retention(store, shelf, **given).run()

    _tell(settings, run(work))


def _over(text: str, keep_ms: int) -> Over:
    from stmflow.retention import Over

    workflow, colon, status = text.rpartition(":")
    if not (workflow and colon and status):
        raise click.UsageError(f"--finished takes WORKFLOW:STATUS, not {text!r:.80}")
    return Over(workflow, (status,), keep_ms)


@command(short_help="Free what is not needed any more.")
@_OLDER
@click.option(
    "--discard", is_flag=True, help="Also drop old history that no archive holds, for good."
)
def gc(settings: Settings, keep_ms: int, discard: bool) -> None:
    """Free what is not needed any more: answers to deliveries whose time is over, and revisions
    that an archive holds and that have been replaced since.

    With --discard history goes for good: of every job the newest revision stays, and what was
    before it can never be shown or verified again.
    """

    async def work() -> Totals:
        from stmflow.retention import Retention, Totals

        totals = Totals()
        async with settings.writing() as store:
            retention = Retention(store, None, keep_ms=keep_ms)
            if discard:
                return await retention.run()
            await retention.sweep(totals)
            await retention.release(totals)
            return totals

    _tell(settings, run(work))


def _tell(settings: Settings, totals: Totals) -> None:
    from stmflow.cli.output import Screen, emit

    if settings.json:
        emit(
            {
                "archived": totals.archived,
                "archived_bytes": totals.archived_bytes,
                "dropped": totals.dropped,
                "jobs": totals.jobs,
                "deliveries": totals.deliveries,
                "archives": totals.archives,
            }
        )
        return
    screen = Screen()
    for link in totals.archives:
        screen.line(("archive   ", "dim"), (link, ""))
    screen.line(
        (f"{totals.archived} revisions archived, {totals.archived_bytes} bytes; ", ""),
        (f"{totals.dropped} dropped, with {totals.jobs} jobs; ", ""),
        (f"{totals.deliveries} deliveries forgotten", ""),
    )


# --- revive -------------------------------------------------------------------------------------


@command(short_help="Bring a job back from the archive.")
@click.argument("job")
def revive(settings: Settings, job: str) -> None:
    """Bring JOB, which has left for the archive, back: as it was, to go on from there."""
    from stmflow.archive import Reader
    from stmflow.cli.names import find_job
    from stmflow.cli.output import Screen, emit

    async def work() -> Any:
        async with settings.shelf() as shelf, settings.writing() as store:
            cid = await find_job(store, job)
            await Reader(store, shelf).revive(cid)
            return (await store.heads([cid]))[cid]

    head = run(work)
    if settings.json:
        emit({"job": head.job, "revision": head.revision, "seq": head.seq, "status": head.tag})
    else:
        screen = Screen()
        screen.line((head.job, "bold blue"), (f"  {head.tag}  seq {head.seq}", ""))
