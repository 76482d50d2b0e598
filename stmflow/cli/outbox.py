"""`outbox`: what is still to be done, and what waits for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, run

if TYPE_CHECKING:
    from stmflow.cli.output import Screen, Span
    from stmflow.store import TaskRow


@command(short_help="List tasks and timers that are not settled.")
@click.option("--faulted", is_flag=True, help="Only parked ones: they wait for a person.")
@click.option("--due", is_flag=True, help="Only what is due now and not parked.")
@click.option("--job", metavar="JOB", help="Only those of one job.")
def outbox(settings: Settings, faulted: bool, due: bool, job: str | None) -> None:
    """List tasks and timers that are not settled: when due, who holds them, why they wait."""
    from stmflow.cli.names import find_job
    from stmflow.cli.output import now_ms

    async def ask() -> Any:
        async with settings.reading() as store:
            cid = None if job is None else await find_job(store, job)
            return await store.tasks(job=cid, parked=faulted)

    rows: list[TaskRow] = list(run(ask))
    if due:
        now = now_ms()
        rows = [row for row in rows if row.due <= now and not row.parked]
    show_rows(settings, rows)


def show_rows(settings: Settings, rows: Sequence[TaskRow]) -> None:
    """Rows of the outbox as a table, or as JSON."""
    from stmflow.cli.output import Screen, emit

    if settings.json:
        for row in rows:
            emit(task_json(row))
        return
    screen = Screen()
    screen.table(
        ("task", "job", "type", "due", "attempt", "standing", "error"),
        (_cells(row, screen) for row in rows),
    )


def _cells(row: TaskRow, screen: Screen) -> Iterator[Span]:
    from stmflow.cli.output import value_text

    yield row.id, ""
    yield row.job, ""
    yield f"{row.workflow}:{row.tag}", "bold"
    yield _due(row, screen), "dim"
    yield str(row.attempt), ""
    yield (screen.plain(_standing(row)), "bold red" if row.parked else "")
    error = error_of(row)
    yield ("" if error is None else f"{error['name']} {value_text(error['detail'], 60)}"), "red"


def _standing(row: TaskRow) -> list[Span]:
    if row.parked:
        return [("parked", "bold red")]
    if row.timer:
        return [("timer", "magenta")]
    if row.worker is not None:
        return [(f"claimed by {row.worker}", "green")]
    return [("waiting", "yellow")]


def _for_a_change(row: TaskRow) -> bool:
    """Whether it is due at no time, but once something that it has read changes."""
    from stmflow.limits import LIMITS

    return row.due >= LIMITS.int_max


def _due(row: TaskRow, screen: Screen) -> str:
    return "on a change" if _for_a_change(row) else screen.when(row.due)


def standing(row: TaskRow, screen: Screen) -> list[Span]:
    """How a task stands, in a few words."""
    from stmflow.cli.output import value_text

    spans = [*_standing(row), (f", due {_due(row, screen)}", "dim")]
    if row.attempt > 1:
        spans.append((f", attempt {row.attempt}", "yellow"))
    error = error_of(row)
    if error is not None:
        spans.append((f", {error['name']} {value_text(error['detail'], 60)}", "red"))
    return spans


def error_of(row: TaskRow) -> dict[str, Any] | None:
    """The last error of a task: name and detail."""
    from stmflow import codec

    if row.error is None:
        return None
    error: Any = codec.decode(row.error)
    known = isinstance(error, dict) and isinstance(error.get("name"), str)
    return (
        {"name": error["name"], "detail": error.get("detail")}
        if known
        else {"name": "", "detail": error}
    )


def task_json(row: TaskRow) -> dict[str, Any]:
    """A row of the outbox as JSON."""
    from stmflow import codec

    block: Any = None if row.block is None else codec.decode(row.block)
    tag, _, needs = row.tag.partition(" {")
    return {
        "task": row.id,
        "job": row.job,
        "workflow": row.workflow,
        "version": None if block is None else block["v"],
        "type": tag,
        "needs": f"{{{needs}" if needs else None,
        "fields": None if block is None else block["f"],
        "timer": row.timer,
        "due": None if _for_a_change(row) else row.due,
        "attempt": row.attempt,
        "token": row.token,
        "worker": row.worker,
        "tenant": row.tenant,
        "parked": row.parked,
        "error": error_of(row),
        "outcome": None if row.outcome is None else codec.decode(row.outcome),
    }
