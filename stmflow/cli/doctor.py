"""`doctor`: what is wrong with a database of jobs, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, run, seconds

if TYPE_CHECKING:
    from stmflow.cli.output import Screen, Span
    from stmflow.observe.doctor import Finding, Report
    from stmflow.store import Vitals

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@command(short_help="Say what is wrong, and what to do about it.")
@click.option(
    "--late",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    callback=seconds,
    help="How long a task or timer may be due before somebody should have taken it.",
)
def doctor(settings: Settings, late: float) -> int:
    """Look for parked tasks, work that nobody takes, workers that are gone or silent, late timers,
    clocks that disagree, and a store that lacks room or safety. Only reads.

    With --app it also looks for jobs that no worker of that application can read. The exit code is
    0 for healthy, 10 for warnings alone, 1 for errors.
    """
    from stmflow.cell import CELL
    from stmflow.cli import exits
    from stmflow.clock import SystemClock
    from stmflow.observe.doctor import ERROR, WARNING, examine
    from stmflow.workflow import Registry

    workflows = settings.workflows()
    registry = Registry([*workflows, CELL]) if workflows else None

    async def ask() -> Any:
        async with settings.reading() as store:
            clock = getattr(store, "clock", SystemClock())  # that of the server, if it has one
            late_ms = int(late * 1_000)
            return await examine(store, clock.now(), registry=registry, late_ms=late_ms)

    report: Report = run(ask)
    if settings.json:
        from stmflow.cli.output import emit

        emit(_json(report))
    else:
        _show(report)
    return {None: exits.OK, WARNING: exits.WARNINGS, ERROR: exits.MISMATCH}[report.worst]


def _json(report: Report) -> dict[str, Any]:
    vitals = report.vitals
    return {
        "health": report.worst or "healthy",
        "findings": [
            {
                "severity": one.severity,
                "name": one.name,
                "what": one.what,
                "do": one.do,
                "count": one.count,
                "jobs": list(one.jobs),
                "tasks": list(one.tasks),
            }
            for one in report.findings
        ],
        "schema": vitals.schema,
        "codec": vitals.codec,
        "settings": dict(vitals.settings),
        "sizes": dict(vitals.sizes),
        "jobs": sum(group.size for group in vitals.jobs),
        "tasks": sum(group.size for group in vitals.tasks if not group.timer),
        "timers": sum(group.size for group in vitals.tasks if group.timer),
        "parked": report.parked,
        "deliveries": vitals.deliveries,
        "unindexed": vitals.unindexed,
        "workers": [
            {"worker": one.worker, "until": one.until, "alive": one.alive} for one in vitals.workers
        ],
    }


def _show(report: Report) -> None:
    from stmflow.cli.output import Screen

    screen = Screen()
    for label, text in _facts(report.vitals, report.parked, screen):
        screen.line((f"{label:<10}", "dim"), (text, ""))
    for finding in report.findings:
        _show_finding(finding, screen)
    if report.worst is None:
        screen.line(("healthy", "bold green"))


def _facts(vitals: Vitals, parked: int, screen: Screen) -> Iterator[tuple[str, str]]:
    tasks = sum(group.size for group in vitals.tasks if not group.timer)
    timers = sum(group.size for group in vitals.tasks if group.timer)
    settings = ", ".join([f"{name} {value}" for name, value in vitals.settings.items()])
    sizes = ", ".join([f"{name} {_size(size)}" for name, size in vitals.sizes.items()])
    yield "schema", f"{vitals.schema}, codec {vitals.codec}{f', {settings}' if settings else ''}"
    if sizes:
        yield "size", sizes
    for group in vitals.jobs:
        yield "jobs", f"{group.size} of {group.workflow}@{group.version}"
    yield "work", f"{tasks} tasks, {timers} timers, {parked} parked"
    yield "kept", f"{vitals.deliveries} answers; {vitals.unindexed} blocks are not indexed yet"
    for row in vitals.workers:
        alive = {True: "lives", False: "is gone", None: ""}[row.alive]
        ends = "ends" if row.until >= screen.now else "ended"
        yield "worker", f"{row.worker} {alive}, lease {ends} {screen.when(row.until)}"


def _show_finding(finding: Finding, screen: Screen) -> None:
    style = _STYLES[finding.severity]
    screen.line(
        (f"{finding.severity:<10}", style), (f"{finding.name}: ", "bold"), (finding.what, "")
    )
    named: list[Span] = []
    for label, cids in (("job", finding.jobs), ("task", finding.tasks)):
        for cid in cids:
            named = [(f"{'':<10}  {label:<5}", "dim"), (cid, "")]
            screen.line(*named)
    more = finding.count - max(len(finding.jobs), len(finding.tasks))
    if named and more > 0:
        screen.line((f"{'':<12}… and {more} more", "dim"))
    screen.line((f"{'':<10}→ ", "dim"), (finding.do, "green"))


def _size(size: int) -> str:
    for bound, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= bound:
            return f"{size / bound:.1f} {unit}"
    return f"{size} B"
