"""`verify` and `export`: whether histories hold, and histories in a file of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.files import archived, sink
from stmflow.cli.settings import Settings, command, run

if TYPE_CHECKING:
    from stmflow.cid import CID
    from stmflow.cli.output import Screen
    from stmflow.history import Finding, Report, Revision
    from stmflow.store import Packed, Store
    from stmflow.workflow import Workflow

_TRIES = 10
_LEVELS = ((1, "links"), (2, "progress"), (3, "reducer"))


# --- verify -------------------------------------------------------------------------------------


@command(short_help="Check hashes, progress and reducers of histories.")
@click.argument("what", nargs=-1, metavar="[JOB | FILE.car]...")
@click.option("--all", "everything", is_flag=True, help="Every job of the database.")
@click.option(
    "--level",
    type=click.IntRange(1, 3),
    default=3,
    show_default=True,
    help="1 hashes and links, 2 also progress and receipts, 3 also the reducers.",
)
def verify(settings: Settings, what: tuple[str, ...], everything: bool, level: int) -> int:
    """Check histories on three levels, reported separately.

    \b
    1 links     every block hashes to its CID; seq, time and epoch run on
    2 progress  receipts name open tasks, events are those that they fire
    3 reducer   update, run again, gives the same states and effects

    Level 3 runs code of --app; what it does not have is "not re-run", never a mismatch. Of several
    jobs, how they go together is checked as well: that one serial order explains them all. CAR
    files are verified without the database; several are merged.
    """
    if bool(what) == everything:
        raise click.UsageError("give jobs or CAR files to verify, or --all")
    workflows = settings.workflows()
    files = [one for one in what if one.endswith(".car") or os.path.isfile(one)]
    if files and len(files) != len(what):
        raise click.UsageError("give either jobs or CAR files, not both")
    audit = _Audit(settings)
    if files:
        _verify_files(audit, files, workflows, level)
    else:
        run(lambda: _verify_jobs(audit, settings, what, workflows, level))
    return audit.end()


class _Audit:
    """Prints reports as they come, and remembers what they come to."""

    def __init__(self, settings: Settings) -> None:
        from stmflow.cli.output import Screen

        self.json = settings.json
        self.screen: Screen = Screen()
        self.counts = {"ok": 0, "mismatch": 0, "not re-run": 0}
        self.revisions = 0
        self.findings: list[Finding] = []
        self.together = False

    def take(self, report: Report) -> None:
        """One job's report."""
        status = report.status
        self.counts[status if status in self.counts else "mismatch"] += 1
        self.revisions += report.revisions
        if self.json:
            from stmflow.cli.output import emit

            emit(_report_json(report))
        else:
            _print_report(self.screen, report)

    def refuse(self, finding: Finding) -> None:
        """Something that is of no single job."""
        self.findings.append(finding)

    def end(self) -> int:
        """The summary, and the exit code."""
        from stmflow.cli import exits

        bad = bool(self.counts["mismatch"] or self.findings)
        if self.json:
            from stmflow.cli.output import emit

            emit(
                {
                    "jobs": sum(self.counts.values()),
                    "revisions": self.revisions,
                    "ok": self.counts["ok"],
                    "mismatch": self.counts["mismatch"],
                    "not_rerun": self.counts["not re-run"],
                    "together": "mismatch" if self.findings else "ok" if self.together else None,
                    "findings": [_finding_json(one) for one in self.findings],
                }
            )
        else:
            self._print_end()
        if bad:
            return exits.MISMATCH
        return exits.NOT_RERUN if self.counts["not re-run"] else exits.OK

    def _print_end(self) -> None:
        for one in self.findings:
            where = (one.revision, "") if one.revision is not None else ("", "")
            self.screen.line(("mismatch  ", "bold red"), (f"{one.text}  ", ""), where)
        jobs = sum(self.counts.values())
        told = f"{jobs} job{'s' if jobs != 1 else ''}, {self.revisions} revisions: "
        parts = [f"{count} {name}" for name, count in self.counts.items() if count]
        if self.together and not self.findings:
            parts.append("one serial order explains them all")
        self.screen.line((told, ""), (", ".join(parts) or "nothing", "bold"))


def _verify_files(
    audit: _Audit, files: Sequence[str], workflows: Sequence[Workflow], level: int
) -> None:
    from stmflow import history
    from stmflow.errors import CodecError

    try:
        archive = archived(files)
    except CodecError as error:
        audit.refuse(history.Finding(1, None, None, str(error)))
        return
    found = history.verify_archive(archive, workflows=workflows, depth=level)
    audit.together = len(found.reports) > 1
    for report in found.reports:
        audit.take(report)
    for finding in found.between:
        audit.refuse(finding)
    if not found.reports and not found.between:
        audit.refuse(history.Finding(1, None, None, "there is no job in it"))


async def _verify_jobs(
    audit: _Audit,
    settings: Settings,
    what: Sequence[str],
    workflows: Sequence[Workflow],
    level: int,
) -> None:
    from stmflow import history
    from stmflow.cli.names import every_job, find_job

    chains: dict[CID, list[Revision]] = {}
    async with settings.reading() as store:
        if what:
            jobs = [await find_job(store, one) for one in what]
        else:
            jobs = [row.job async for row in every_job(store)]
        for job in dict.fromkeys(jobs):
            report, chain = await _verify_job(store, job, workflows, level)
            audit.take(report)
            if report.level(1) == history.OK:
                chains[job] = chain
        await _catch_up(store, chains)
    if len(chains) > 1:
        audit.together = True
        for finding in history.between(chains):
            audit.refuse(finding)


async def _verify_job(
    store: Store, job: CID, workflows: Sequence[Workflow], level: int
) -> tuple[Report, list[Revision]]:
    from stmflow import history
    from stmflow.cli.chains import GONE
    from stmflow.errors import Archived, CodecError, Corrupt, NotFound
    from stmflow.history.segment import before

    report = history.Report(job, None, level)
    try:
        head, packs, rows = await _one_moment(store, job)
        if before(packs[-1], job) is not None:
            raise Archived(job, head.revision)
    except Archived as error:
        report.head = error.revision
        report.not_rerun = GONE
        return report, []
    except NotFound as error:  # what has left is not in this archive
        report.not_rerun = str(error)
        return report, []
    except (Corrupt, CodecError) as error:
        report.findings.append(history.Finding(1, None, None, str(error)))
        return report, []
    blocks = history.blocks_of(packs)
    report = history.verify(
        job,
        head.revision,
        blocks.get,
        workflows=workflows,
        depth=level,
        stored=head if head.open else None,  # of an archived job they are not known
        rows=rows,
    )
    if report.level(1) != history.OK:
        return report, []
    return report, list(history.walk(job, head.revision, blocks.get))[::-1]


async def _one_moment(store: Store, job: CID) -> Any:
    """Head, revisions and outbox rows of one moment, although others may be writing."""
    from stmflow.cli.chains import since
    from stmflow.errors import NotFound, Unavailable

    for _ in range(_TRIES):
        head = (await store.heads([job]))[job]
        if head is None:
            raise NotFound(f"no job {job}")
        rows = await store.tasks(job=job)
        if (await store.heads([job]))[job] != head:
            continue
        if packs := await since(store, job, head.revision):
            return head, packs, rows
    raise Unavailable(f"job {job} moves too fast to be read")


async def _catch_up(store: Store, chains: dict[CID, list[Revision]]) -> None:
    """Others may have written while one chain after the other was read: extend those that were
    read early by what revisions of later ones name. What is not there then is really missing. A
    chain that has left meanwhile is not looked at."""
    from stmflow.cli import chains as stored
    from stmflow.errors import Archived, NotFound

    tried: set[tuple[CID, CID]] = set()
    while True:
        held = {job: {one.cid for one in chain} for job, chain in chains.items()}
        missing: dict[CID, set[CID]] = {}
        for revision in [one for chain in chains.values() for one in chain]:
            named = [*revision.reads, *((line.job, revision.cid) for line in revision.writes)]
            for job, cid in named:
                if cid is not None and cid not in held.get(job, (cid,)):
                    missing.setdefault(job, set()).add(cid)
        new = {(job, cid) for job, cids in missing.items() for cid in cids} - tried
        if not new:
            return
        tried |= new
        for job in {job for job, _ in new}:
            try:
                fresh = (await stored.load(store, job)).revisions
            except (Archived, NotFound):
                del chains[job]
                continue
            last = max((at for at, one in enumerate(fresh) if one.cid in missing[job]), default=-1)
            if last >= len(chains[job]):
                chains[job] = fresh[: last + 1]


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "job": report.job,
        "workflow": report.workflow,
        "key": report.key,
        "head": report.head,
        "status": report.status,
        "revisions": report.revisions,
        "levels": {name: report.level(number) for number, name in _LEVELS},
        "not_rerun": report.not_rerun,
        "given": report.given,
        "unseen": sorted(report.unseen),
        "findings": [_finding_json(one) for one in report.findings],
    }


def _finding_json(one: Finding) -> dict[str, Any]:
    return {"level": one.level, "seq": one.seq, "revision": one.revision, "text": one.text}


def _print_report(screen: Screen, report: Report) -> None:
    from stmflow.cli.output import hue, key_text

    status = report.status
    screen.line(
        (f"{status:<12}", f"bold {hue(status)}"),
        (report.job, ""),
        (f"  {report.workflow}  ", ""),
        (key_text(report.key or []), "bold"),
        (f"  {report.revisions} revisions", "dim"),
    )
    levels = [(name, report.level(number)) for number, name in _LEVELS]
    if status != "ok" or screen.tty:
        spans = [("            ", "")]
        for name, found in levels:
            spans += [(f"{name} ", "dim"), (f"{found}   ", hue(found))]
        screen.line(*spans)
    if report.not_rerun is not None:
        screen.line(("            ", ""), (f"not re-run: {report.not_rerun}", "yellow"))
    for one in report.findings:
        seq = "" if one.seq is None else f"seq {one.seq}: "
        screen.line(("            ", ""), (f"level {one.level}: {seq}{one.text}", "red"))
    if screen.tty and report.given:
        screen.line(("            ", ""), (f"{report.given} effects as given, not derived", "dim"))
    if screen.tty and report.unseen:
        text = f"{len(report.unseen)} other jobs in these revisions, not looked at here"
        screen.line(("            ", ""), (text, "dim"))


# --- export -------------------------------------------------------------------------------------


@command(short_help="Write whole histories to a CAR file.")
@click.argument("job", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FILE", help="The file; - is stdout.")
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="JOB",
    help="The whole history of this job too: what goes on between them can be checked.",
)
@click.option("--force", is_flag=True, help="Replace the file where there is one.")
def export(
    settings: Settings, job: tuple[str, ...], output: str, others: tuple[str, ...], force: bool
) -> None:
    """Write the whole history of each JOB to a CAR file, which `verify` takes without a database.

    The file is readable by its owner alone. Of other jobs in the same revisions it holds CIDs only.
    """
    from stmflow import car, history
    from stmflow.cli.names import find_job
    from stmflow.cli.output import Screen, emit

    async def ask() -> dict[CID, Sequence[Packed]]:
        async with settings.reading() as store:
            return await _whole(store, [await find_job(store, one) for one in (*job, *others)])

    chains = run(ask)
    roots, blocks = history.export(chains)
    count = size = 0
    with sink(output, force=force) as file:
        writer = car.Writer(file, roots)
        for cid, block in blocks:
            writer.write(cid, block)
            count, size = count + 1, size + len(block)
    if output == "-":
        return
    if settings.json:
        emit({"file": output, "roots": roots, "jobs": list(chains), "blocks": count, "bytes": size})
    else:
        told = f"{len(chains)} jobs, {count} blocks, {size} bytes"
        Screen().line((output, "bold"), (f"  {told}", ""))


async def _whole(store: Store, jobs: Sequence[CID]) -> dict[CID, Sequence[Packed]]:
    """The whole chains of these jobs, newest first, of which each has what the others saw of it.

    Raises:
        NotFound: there is no such job, or a part of its history has left.
    """
    from stmflow.cli.chains import GONE, load, since
    from stmflow.errors import NotFound
    from stmflow.history.segment import before

    chains = {job: (await load(store, job)).revisions for job in jobs}
    await _catch_up(store, chains)
    found: dict[CID, Sequence[Packed]] = {}
    for job in dict.fromkeys(jobs):
        found[job] = await since(store, job, chains[job][-1].cid) if job in chains else []
        if not found[job] or before(found[job][-1], job) is not None:
            raise NotFound(GONE)
    return found
