"""`redrive` and `dismiss`: what a person does about a task that waits for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, run

if TYPE_CHECKING:
    from stmflow.cid import CID
    from stmflow.cli.output import Span
    from stmflow.store import Store, TaskRow
    from stmflow.transaction import Answer
    from stmflow.transactor import Transactor

_AT_ONCE = 64
"""So many are settled side by side, to share commits."""


@command(short_help="Make a parked task due again, or deliver the outcome it kept.")
@click.argument("task", required=False)
@click.option("--all", "everything", is_flag=True, help="Every parked task, or those that match:")
@click.option("--error", metavar="NAME", help="parked with this error,")
@click.option("--workflow", metavar="NAME", help="of this workflow,")
@click.option("--type", "tag", metavar="TYPE", help="of this type of task (timers: sleep),")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="at most so many.")
@click.option("--dry-run", is_flag=True, help="List them and do nothing.")
@click.option("--perform", is_flag=True, help="Perform it again even if its outcome was kept.")
def redrive(
    settings: Settings,
    task: str | None,
    everything: bool,
    error: str | None,
    workflow: str | None,
    tag: str | None,
    limit: int | None,
    dry_run: bool,
    perform: bool,
) -> int:
    """Make the parked TASK due again under the same id; with --all, all that match.

    Where it was performed and its outcome kept, that outcome is delivered instead, and nothing is
    performed again, unless --perform says so. Needs --app; running workers notice by themselves.
    """
    chosen = any(option is not None for option in (error, workflow, tag, limit)) or dry_run
    if everything == (task is not None) or (chosen and not everything):
        raise click.UsageError("give one TASK; or --all, and with it what chooses among them")
    if task is not None:
        return _settle(settings, task, lambda engine, cid: engine.redrive(cid, perform=perform))
    wanted = _Wanted(error, workflow, tag, limit)
    if dry_run:
        return _list(settings, wanted)
    return _redrive_all(settings, wanted, perform=perform)


@command(short_help="Settle a parked task without an event.")
@click.argument("task")
def dismiss(settings: Settings, task: str) -> int:
    """Settle the parked TASK as dismissed: its branch ends, and no event fires.

    Needs --app; running workers notice by themselves.
    """
    return _settle(settings, task, lambda engine, cid: engine.dismiss(cid))


# --- one ------------------------------------------------------------------------------------------


def _settle(
    settings: Settings, name: str, act: Callable[[Transactor, CID], Awaitable[Answer]]
) -> int:
    from stmflow.cli import exits
    from stmflow.cli.names import TASK, find
    from stmflow.errors import StmflowError, UnknownTask
    from stmflow.transactor import Transactor

    workflows, shared = settings.application()

    async def ask() -> Any:
        async with settings.writing() as store:
            cid = (await find(store, name, (TASK,))).cid
            row = await store.task(cid)
            if row is None or not row.parked:
                raise UnknownTask(f"task {cid} is not parked")
            failed: StmflowError | None = None
            answer: Any = None
            async with Transactor(store, workflows, **shared) as transactor:
                try:
                    answer = await act(transactor, cid)
                except StmflowError as error:
                    failed = error
            if failed is not None:
                raise failed
            return cid, answer

    cid, answer = run(ask)
    found: Answer = answer
    _tell(settings, cid, found)
    return exits.MISMATCH if found.kind == "parked" else exits.OK


def _tell(settings: Settings, task: CID, found: Answer) -> None:
    from stmflow.cli.output import Screen, emit, hue

    if settings.json:
        emit(
            {
                "task": task,
                "answer": found.kind,
                "job": found.job,
                "revision": found.revision,
                "seq": found.seq,
                "code": found.code,
            }
        )
        return
    spans: list[Span] = [(task, ""), ("  ", ""), (found.kind, f"bold {hue(found.kind)}")]
    if found.code is not None:
        spans.append((f" {found.code}", "red"))
    if found.revision is not None:
        spans += [("  ", ""), (found.revision, "")]
    Screen().line(*spans)


# --- all that match -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wanted:
    error: str | None
    workflow: str | None
    tag: str | None
    limit: int | None

    async def rows(self, store: Store) -> list[TaskRow]:
        """The parked rows that match, in order of their jobs."""
        from stmflow.observe.doctor import error_name
        from stmflow.placement import plain

        return [
            row
            for row in await store.tasks(parked=True)
            if self.error in (None, error_name(row))
            and self.workflow in (None, row.workflow)
            and self.tag in (None, plain(row.tag))
        ][: self.limit]


def _list(settings: Settings, wanted: _Wanted) -> int:
    from stmflow.cli import exits
    from stmflow.cli.outbox import show_rows

    async def ask() -> list[TaskRow]:
        async with settings.reading() as store:
            return await wanted.rows(store)

    show_rows(settings, run(ask))
    return exits.OK


def _redrive_all(settings: Settings, wanted: _Wanted, *, perform: bool) -> int:
    """Each by itself: what one of them comes to does not keep the others."""
    from stmflow.cli import exits
    from stmflow.errors import StmflowError
    from stmflow.transactor import Transactor

    workflows, shared = settings.application()
    counts: dict[str, int] = {}
    codes: list[int] = []

    async def one(transactor: Transactor, row: TaskRow) -> None:
        try:
            answer = await transactor.redrive(row.id, perform=perform)
        except StmflowError as error:
            codes.append(exits.code_of(error))
            _tell_error(settings, row.id, error)
            kind = "failed"
        else:
            _tell(settings, row.id, answer)
            kind = answer.kind
        counts[kind] = counts.get(kind, 0) + 1

    async def act() -> None:
        import anyio

        async with settings.writing() as store:
            rows = deque(await wanted.rows(store))

            async def work(transactor: Transactor) -> None:
                while rows:
                    await one(transactor, rows.popleft())

            with _plain():
                async with (
                    Transactor(store, workflows, **shared) as transactor,
                    anyio.create_task_group() as group,
                ):
                    for _ in range(_AT_ONCE):
                        group.start_soon(work, transactor)

    run(act)
    _tell_counts(settings, counts)
    if codes:
        return exits.UNKNOWN if exits.UNKNOWN in codes else max(codes)
    return exits.MISMATCH if counts.get("parked") else exits.OK


@contextmanager
def _plain() -> Iterator[None]:
    """What ends a task group comes out as it is, not in a group of one."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def _tell_error(settings: Settings, task: CID, error: Exception) -> None:
    from stmflow.cli.output import Screen, emit

    name = type(error).__name__
    if settings.json:
        emit({"task": task, "answer": "failed", "error": name, "message": str(error)})
    else:
        Screen().line((task, ""), ("  ", ""), (f"failed {name}: {error}", "red"))


def _tell_counts(settings: Settings, counts: dict[str, int]) -> None:
    from stmflow.cli.output import Screen

    if not settings.json:
        told = ", ".join([f"{count} {kind}" for kind, count in sorted(counts.items())])
        Screen().line((told or "nothing that matches is parked", "bold"))
