"""What is wrong with a store, and what to do about it. Reads only.

    report = await examine(store, now, registry=Registry(workflows))
    for finding in report.findings: ...

Each check is a function of what was read and the time, and knows one kind of trouble.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import UnknownVersion
from stmflow.limits import LIMITS
from stmflow.placement import plain
from stmflow.store import Store, TaskRow
from stmflow.vitals import EXAMPLES, JobGroup, TaskGroup, Vitals, WorkerState
from stmflow.workflow import Registry

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"
SEVERITIES: Final = (ERROR, WARNING, NOTE)

SKEW_MS: Final = 1_000
"""A clock that is wrong by more than this is worth a word; by ten times this, more than a word."""
UNSWEPT: Final = 10_000
"""So many answers past their time are more than what a sweep has not come to yet."""
GROUPS: Final = 20
"""So many errors of parked tasks are told one by one."""
FREE_BYTES: Final = 1 << 30
LEAST_FREE_BYTES: Final = 100 << 20
WAL_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One trouble.

    Attributes:
        severity: error: work is stuck or in danger; warning: it will be, or is late; note: could
            not be checked. name: what kind of trouble, for programs. what: in words.
        count: how many there are. jobs, tasks: some of them, at most `EXAMPLES`.
        do: what to do about it.
    """

    severity: str
    name: str
    what: str
    do: str
    count: int = 0
    jobs: Sequence[CID] = ()
    tasks: Sequence[CID] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Findings, the worst first, and what was looked at."""

    findings: Sequence[Finding]
    vitals: Vitals
    parked: int

    @property
    def worst(self) -> str | None:
        """The severity of the worst finding but for notes; None: healthy."""
        found = {finding.severity for finding in self.findings}
        return next((one for one in (ERROR, WARNING) if one in found), None)


@dataclass(frozen=True, slots=True)
class Patient:
    """What the checks look at."""

    vitals: Vitals
    parked: Sequence[TaskRow]
    registry: Registry | None
    now: int
    late_ms: int

    @property
    def live(self) -> list[WorkerState]:
        """Workers whose lease runs and whose lock, as far as can be told, is held."""
        return [row for row in self.vitals.workers if self._lives(row)]

    def _lives(self, row: WorkerState) -> bool:
        return row.until >= self.now and row.alive is not False

    def held_by(self, worker: int) -> list[TaskGroup]:
        """What that worker has claimed."""
        return [group for group in self.vitals.tasks if group.worker == worker]

    def overdue(self, *, timers: bool) -> list[TaskGroup]:
        """What has been due for long, and is nobody's."""
        return [
            group
            for group in self.vitals.tasks
            if group.timer is timers
            and group.worker is None
            and group.due
            and group.oldest <= self.now - self.late_ms
        ]


async def examine(
    store: Store, now: int, *, registry: Registry | None = None, late_ms: int = 60_000
) -> Report:
    """Look at everything.

    Args:
        now: the time by which the store's work is due, in milliseconds.
        registry: what workers know; without it, what they cannot read is not found.
        late_ms: how long a task or timer may be due before somebody should have taken it.
    """
    vitals = await store.vitals(now)
    parked = await store.tasks(parked=True)
    patient = Patient(vitals, parked, registry, now, late_ms)
    found = [finding for check in CHECKS for finding in check(patient)]
    return Report(sorted(found, key=_rank), vitals, len(parked))


def _rank(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)


# --- what waits for a person ----------------------------------------------------------------------


def dead_letters(patient: Patient) -> Iterator[Finding]:
    """Parked tasks and timers, by workflow and error."""
    groups: dict[tuple[str, str], list[TaskRow]] = {}
    for row in patient.parked:
        groups.setdefault((row.workflow, error_name(row)), []).append(row)
    largest = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (workflow, error), rows in largest[:GROUPS]:
        kept = sum(row.outcome is not None for row in rows)
        performed = f"; {kept} were performed and kept their outcome" if kept else ""
        told = f"{error:.80}" or "an unnamed error"
        yield Finding(
            ERROR,
            "parked",
            f"{len(rows)} of {workflow:.80} are parked with {told}{performed}",
            f"mend what raised it, then: stmflow redrive --all --workflow {_word(workflow)}"
            f" --error {_word(error)}; or give them up: stmflow dismiss TASK",
            len(rows),
            *_split((row.job, row.id) for row in rows),
        )
    if others := [row for _, rows in largest[GROUPS:] for row in rows]:
        yield Finding(
            ERROR,
            "parked",
            f"{len(others)} more are parked, with {len(largest) - GROUPS} other errors",
            "see them: stmflow outbox --faulted",
            len(others),
            *_split((row.job, row.id) for row in others),
        )


def error_name(row: TaskRow) -> str:
    """The name of the error that a row keeps, or nothing."""
    error: Any = None if row.error is None else codec.decode(row.error)
    name = error.get("name") if isinstance(error, dict) else None
    return name if isinstance(name, str) else ""


# --- what nobody can read -------------------------------------------------------------------------


def unreadable(patient: Patient) -> Iterator[Finding]:
    """Jobs and tasks of versions that no known process has."""
    registry = patient.registry
    if registry is None:
        yield Finding(
            NOTE,
            "not-checked",
            "whether every job can be read was not looked at",
            "give --app MODULE:NAME, with the workflows that the workers have",
        )
        return
    for jobs in patient.vitals.jobs:
        if not _readable(registry, jobs):
            yield Finding(
                ERROR,
                "unreadable",
                f"{jobs.size} jobs of {jobs.workflow} version {jobs.version} cannot be read:"
                f" {_known(registry, jobs.workflow)}",
                "run workers that have this version; or register an upcast from it",
                jobs.size,
                jobs.examples,
            )


def _readable(registry: Registry, jobs: JobGroup) -> bool:
    """Whether a state of that version can be raised to the newest."""
    try:
        newest = registry.newest(jobs.workflow)
    except UnknownVersion:
        return False
    steps = range(jobs.version, newest.version)
    return jobs.version <= newest.version and all(step in newest.upcasts for step in steps)


def _known(registry: Registry, workflow: str) -> str:
    versions = ", ".join(str(v) for name, v in sorted(registry.versions) if name == workflow)
    return f"known are {versions}" if versions else "no workflow of that name is known"


# --- who works ------------------------------------------------------------------------------------


def workers(patient: Patient) -> Iterator[Finding]:
    """Workers that are gone or silent; work, and nobody there."""
    for row in patient.vitals.workers:
        held = patient.held_by(row.worker)
        count = sum(group.size for group in held)
        named = _split(example for group in held for example in group.examples)
        if row.alive is False and count:
            yield Finding(
                WARNING if patient.live else ERROR,
                "gone",
                f"worker {row.worker} is gone and holds {count} claims",
                "nothing, where another worker runs: it frees them at its next beat"
                if patient.live
                else "start a worker: it frees them at once",
                count,
                *named,
            )
        elif row.alive is not False and row.until < patient.now:
            yield Finding(
                ERROR if count else WARNING,
                "silent",
                f"worker {row.worker} has not renewed its lease for"
                f" {_ago(patient.now - row.until)} and holds {count} claims",
                "look at its process: paused, starved of CPU, or its host cut off; others take"
                " over what it holds, and its late answers are refused",
                count,
                *named,
            )
    if not patient.live and any(group.due for group in patient.vitals.tasks):
        count = sum(group.size for group in patient.vitals.tasks if group.due)
        yield Finding(
            ERROR, "no-worker", f"{count} tasks and timers are due and no worker runs",
            "start a worker", count,
        )  # fmt: skip


def unclaimed(patient: Patient) -> Iterator[Finding]:
    """Tasks that are due for long and that nobody takes: and why."""
    for group in patient.overdue(timers=False):
        why, do = _why(patient, group)
        jobs, tasks = _split(group.examples)
        yield Finding(
            WARNING,
            "unclaimed",
            f"{group.size} tasks {group.workflow}@{group.version}:{group.tag} are due, the first"
            f" since {_ago(patient.now - group.oldest)}: {why}",
            do,
            group.size,
            jobs,
            tasks,
        )


def _why(patient: Patient, group: TaskGroup) -> tuple[str, str]:
    kind = group[:3]
    if patient.registry is not None:
        workflow = patient.registry.versions.get((group.workflow, group.version))
        if workflow is None:
            return "no worker has that version", "run workers that have it until they are done"
        if plain(group.tag) not in workflow.task_tags:
            return "that version has no such task", "run workers of the release that wrote them"
    if not patient.live:
        return "no worker runs", "start a worker"
    held = sum(one.size for one in patient.vitals.tasks if one[:3] == kind and one.worker)
    if held:
        return (
            f"workers are at {held} others of the kind and behind",
            "more workers or slots, or look for what makes this handler slow (attempt_seconds)",
        )
    if group.tag != plain(group.tag):
        return (
            "no running worker has these labels and a handler for it, or all their slots are taken",
            "start a worker with such labels; those that run, and theirs: stmflow workers",
        )
    return (
        "no running worker has a handler for it, or all their slots are taken",
        "start a worker with a handler for this type; see its metrics slots and running_tasks",
    )


def late_timers(patient: Patient) -> Iterator[Finding]:
    """Timers that should have fired."""
    for group in patient.overdue(timers=True):
        known = patient.registry is None or _readable(
            patient.registry, JobGroup(group.workflow, group.version, 0, ())
        )
        why = "no worker runs" if not patient.live else "workers are behind, or cannot read it"
        yield Finding(
            WARNING,
            "late-timers",
            f"{group.size} timers of {group.workflow} are due, the first since"
            f" {_ago(patient.now - group.oldest)}: {why if known else 'no worker can read it'}",
            "start a worker that has this workflow; if one runs, look at commit_seconds and"
            " queue_requests",
            group.size,
            *_split(group.examples),
        )


# --- time -----------------------------------------------------------------------------------------


def clocks(patient: Patient) -> Iterator[Finding]:
    """Clocks that disagree: this host's, the store's, and the time of the newest heads."""
    skew = patient.vitals.clock_ms
    if abs(skew) > SKEW_MS:
        side = "ahead of" if skew > 0 else "behind"
        yield Finding(
            ERROR if abs(skew) > 10 * SKEW_MS else WARNING,
            "clock",
            f"the store's clock or files are {_ago(abs(skew))} {side} this host's clock",
            "synchronise the clocks (NTP). Timers fire late and never early; leases run by the"
            " store's clock on PostgreSQL, by the host's on SQLite",
        )
    count, heads = patient.vitals.ahead
    if heads and heads[0][1] - patient.now > SKEW_MS:
        yield Finding(
            WARNING,
            "future",
            f"{count} jobs are of a later time than now, by up to"
            f" {_ago(heads[0][1] - patient.now)}: a clock has leapt ahead",
            "nothing is lost, and time never falls along a job; what these jobs arm until then"
            " comes late",
            count,
            [job for job, _ in heads],
        )


# --- the store itself -----------------------------------------------------------------------------


def storage(patient: Patient) -> Iterator[Finding]:
    """Settings, room, and what should have been tidied up."""
    vitals = patient.vitals
    unsafe = [name for name in _DURABLE if vitals.settings.get(name) == "off"]
    if unsafe:
        yield Finding(
            ERROR, "unsafe", f"{', '.join(unsafe)} is off: acknowledged commits can be lost",
            "switch it on; no worker starts without it",
        )  # fmt: skip
    mode = vitals.settings.get("journal_mode")
    if mode not in (None, "wal", "delete", "memory"):
        yield Finding(
            ERROR, "unsafe", f"journal_mode is {mode}: acknowledged commits can be lost",
            "open it once with stmflow, which sets it",
        )  # fmt: skip
    free = vitals.sizes.get("free")
    if free is not None and free < FREE_BYTES:
        yield Finding(
            ERROR if free < LEAST_FREE_BYTES else WARNING,
            "disk",
            f"{free >> 20} MiB are free on the disk of the database",
            "make room: a full disk refuses commits, and loses none",
        )
    if vitals.sizes.get("wal", 0) > WAL_BYTES:
        yield Finding(
            WARNING,
            "wal",
            f"the write-ahead log has {vitals.sizes['wal'] >> 20} MiB: somebody reads for long",
            "end the long reader (a backup, an export, a shell); the next commits shorten it",
        )
    if vitals.unindexed > 4 * LIMITS.index_segment_blocks:
        yield Finding(
            WARNING,
            "index",
            f"{vitals.unindexed} blocks are in no index: finding one by CID is slow",
            "any worker's commits will index them",
        )


_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@:-]{0,79}", re.ASCII)
_DURABLE: Final = ("fsync", "full_page_writes", "synchronous_commit")


def deliveries(patient: Patient) -> Iterator[Finding]:
    """Answers kept past their time."""
    stale = patient.vitals.stale_deliveries
    if stale > UNSWEPT:
        yield Finding(
            WARNING,
            "unswept",
            f"{stale} answers are kept past their time",
            "look at what workers do: each sweeps every minute"
            if patient.live
            else "start a worker: it sweeps every minute",
            stale,
        )


CHECKS: Final = (
    dead_letters,
    unreadable,
    workers,
    unclaimed,
    late_timers,
    clocks,
    storage,
    deliveries,
)


# --- words ----------------------------------------------------------------------------------------


def _split(pairs: Iterable[tuple[CID, CID]]) -> tuple[list[CID], list[CID]]:
    """The jobs and the tasks of some of these."""
    found = list(pairs)[:EXAMPLES]
    return list(dict.fromkeys(job for job, _ in found)), [task for _, task in found]


def _word(name: str) -> str:
    """A name as it may stand in a command that somebody will paste."""
    return name if _PLAIN.fullmatch(name) else "NAME"


def _ago(ms: int) -> str:
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if ms >= size:
            return f"{ms / size:.0f} {unit}"
    return f"{ms} ms"


__all__ = ["CHECKS", "ERROR", "NOTE", "WARNING", "Finding", "Report", "error_name", "examine"]
