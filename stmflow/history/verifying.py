"""`verify`: whether a chain holds, on three levels, reported separately."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import outcome_plain
from stmflow.errors import CodecError, NotFound, StmflowError
from stmflow.history.ledger import Ledger, Step
from stmflow.history.replay import Versions, rerun
from stmflow.history.report import Finding, Report
from stmflow.history.revision import Get, Line, Revision, expect, plain_of, require, walk
from stmflow.job import Head
from stmflow.store import StoredHead, TaskRow
from stmflow.workflow import Workflow


def verify(
    job: CID,
    head: CID,
    get: Get,
    *,
    workflows: Iterable[Workflow] = (),
    depth: int = 3,
    stored: StoredHead | None = None,
    rows: Sequence[TaskRow] | None = None,
    each: Callable[[Step], None] | None = None,
) -> Report:
    """Judge one job's history by its blocks.

    Args:
        workflows: every version that can be had; what is missing is not re-run.
        depth: the deepest level wanted.
        stored: the store's row of the head, whose derived data is rebuilt and compared.
        rows: the job's rows in the outbox, compared likewise.
        each: is told what each write did to the job's tasks, oldest first.
    """
    report = Report(job, head, depth)
    chain = _links(report, get)
    if report.findings or depth < 2:
        return report
    registry = Versions(workflows)
    ledger = Ledger(job, get, registry.tag)
    for revision in chain:
        _progress(report, revision, ledger, each)
    if stored is not None:
        _head_row(report, chain[-1], stored)
    report.made = rerun(report, chain, get, registry) if depth >= 3 else None
    if stored is not None and not report.findings:
        _derived(report, ledger, report.made, stored, registry)
    if rows is not None and not report.findings:
        _outbox(report, ledger, report.made, rows)
    return report


def _links(report: Report, get: Get) -> list[Revision]:
    """The chain, oldest first. What is wrong with it goes to the report."""
    chain: list[Revision] = []

    def wrong(text: str, revision: Revision | None = None) -> None:
        seq = None if revision is None else revision.line(report.job).seq
        report.findings.append(Finding(1, seq, revision and revision.cid, text))

    try:
        if report.head is None:
            raise NotFound(f"job {report.job} has no head")
        for revision in walk(report.job, report.head, get):
            chain.append(revision)
    except (NotFound, CodecError) as error:
        wrong(str(error), chain[-1] if chain else None)
    chain.reverse()
    report.revisions = len(chain)
    for before, revision in zip([None, *chain], chain, strict=False):
        line = revision.line(report.job)
        if before is not None or line.prev is None:
            for text in _steps(before, revision, line):
                wrong(text, revision)
        for text in _contents(line, get):
            wrong(text, revision)
        report.unseen |= {other.job for other in revision.writes} | {j for j, _ in revision.reads}
        report.given += sum(1 for _ in line.given())
    report.unseen.discard(report.job)
    if chain and (first := chain[0].line(report.job)).prev is None:
        report.workflow, report.key = first.workflow, first.key
        if CID.of(codec.encode([first.workflow, first.key])) != report.job:
            wrong("the job's id is not the CID of its workflow and key", chain[0])
    return chain


def _steps(before: Revision | None, revision: Revision, line: Line) -> Iterator[str]:
    """What may not break from one revision to the next."""
    last = None if before is None else before.line(line.job)
    seq, epoch, version, at = (0, 1, 1, 0)
    if before is not None and last is not None:
        seq, epoch, version, at = last.seq, last.epoch, last.version, before.at
        if line.workflow != last.workflow:
            yield f"the workflow turns from {last.workflow!r} into {line.workflow!r}"
    if line.seq != seq + 1:
        yield f"seq {line.seq} follows seq {seq}"
    if line.epoch < epoch:
        yield f"the epoch falls from {epoch} to {line.epoch}"
    if line.version < version and not line.bare:
        yield f"the version falls from {version} to {line.version} in a write that has events"
    if revision.at < at:
        yield f"the time falls from {at} to {revision.at}"
    for asked, _ in line.effects:
        if not epoch <= asked <= line.epoch:
            yield f"an effect of epoch {asked} between epochs {epoch} and {line.epoch}"
        epoch = max(epoch, asked)
    if any(asked != line.epoch for _, asked, _ in line.given()):
        yield "a given effect of another epoch"


def _contents(line: Line, get: Get) -> Iterator[str]:
    """Every block of a write: there, hashed, and of the form that its place asks for."""
    places = [("state", line.state)]
    places += [("event", cid) for cid in line.events]
    places += [("receipt", cid) for cid in line.receipts]
    places += [("effect", cid) for _, cid in line.effects]
    places += [("effect", cid) for _, _, cid in line.given()]
    for what, cid in places:
        try:
            plain = plain_of(get, cid)
            if what == "receipt":
                require(plain.keys() == {"task", "outcome"}, "a receipt")
                require(type(plain["task"]) is CID, "a receipt")
                _is_outcome(plain["outcome"])
            elif (missed := _missed(what, plain, line)) is not None:
                yield f"{what}: not {missed}: {cid}"
        except (NotFound, CodecError, AttributeError) as error:
            yield f"{what}: {error}"


def _missed(what: str, plain: Any, line: Line) -> str | None:
    """What a block of a workflow should be, and is not."""
    if plain.keys() != {"w", "v", "t", "f"}:
        return "a block of a workflow"
    if type(plain["t"]) is not str or type(plain["f"]) is not dict:
        return "tagged"
    own = (plain["w"], plain["v"]) == (line.workflow, line.version)
    if not own or type(plain["v"]) is not int:
        return f"of {line.workflow}@{line.version}"
    return "an effect" if what == "effect" and plain["t"] != "effect" else None


def _is_outcome(plain: Any) -> None:
    require(plain.keys() in ({"ok"}, {"err"}), "an outcome")
    if "err" in plain:
        require(plain["err"].keys() == {"name", "detail"}, "a failure")
        expect(plain["err"]["name"], str)


def _progress(
    report: Report, revision: Revision, ledger: Ledger, each: Callable[[Step], None] | None
) -> None:
    try:
        step = ledger.apply(revision)
    except (StmflowError, KeyError, TypeError) as error:
        problems = [f"an effect that cannot be read: {error}"]
    else:
        problems = step.problems
        if each is not None:
            each(step)
    seq = revision.line(report.job).seq
    report.findings += [Finding(2, seq, revision.cid, text) for text in problems]


def _head_row(report: Report, newest: Revision, stored: StoredHead) -> None:
    line = newest.line(report.job)
    told: list[tuple[str, Any, Any]] = [
        ("workflow", stored.workflow, line.workflow),
        ("version", stored.version, line.version),
        ("key", codec.encode(stored.key), codec.encode(report.key)),
        ("revision", stored.revision, newest.cid),
        ("seq", stored.seq, line.seq),
        ("epoch", stored.epoch, line.epoch),
        ("at", stored.at, newest.at),
        ("state", stored.state_cid, line.state),
        ("state block", CID.of(stored.state), line.state),
    ]
    for what, found, expected in told:
        if found != expected:
            text = f"the store's head says {what} {found!r:.80}; its chain says {expected!r:.80}"
            report.findings.append(Finding(2, line.seq, newest.cid, text))


def _derived(
    report: Report, ledger: Ledger, head: Head | None, stored: StoredHead, registry: Versions
) -> None:
    """The open effects beside the head are what its chain leads to."""

    def wrong(text: str) -> None:
        report.findings.append(Finding(2, stored.seq, stored.revision, text))

    if head is not None:
        if head.open_bytes() != stored.open:
            wrong("the open effects that the store keeps are not those that its chain leads to")
        tag = registry.version(head.name, head.version).tag_of(head.state)
        if tag != stored.tag:
            wrong(f"the store's head has the tag {stored.tag!r}; its state's is {tag!r}")
        return
    try:
        decoded: Any = codec.decode(stored.open)
        _, effects, rows = decoded
        kept = {task for task, _, _ in rows}
        opened = [(e[0], e[1], e[2], CID.of(e[3]), e[4]) for e in effects]
    except (CodecError, TypeError, ValueError, IndexError) as error:
        wrong(f"the open effects that the store keeps cannot be read: {error}")
        return
    expected = ledger.rows.keys()
    if not (expected - ledger.unsure <= kept <= expected):
        wrong("the open tasks that the store keeps are not those that its chain leads to")
    logs = [
        (
            s.seq,
            s.epoch,
            s.version,
            s.cid,
            [[n, outcome_plain(e.outcome)] for n, e in s.log.items()],
        )
        for s in ledger.open
    ]
    if any(one not in logs for one in opened):
        wrong("the open effects that the store keeps are not those that its chain leads to")


def _outbox(report: Report, ledger: Ledger, head: Head | None, rows: Sequence[TaskRow]) -> None:
    found = {row.id: row for row in rows}
    expected = ledger.rows.keys()
    sure = expected if head is not None else expected - ledger.unsure
    for task in sorted(sure - found.keys()):
        report.findings.append(
            Finding(2, None, report.head, f"task {task} has no row in the outbox")
        )
    for task in sorted(found.keys() - expected):
        report.findings.append(
            Finding(2, None, report.head, f"the outbox has task {task}, not open")
        )
    for task in sorted(expected & found.keys()):
        row, due = found[task], ledger.rows[task].due
        if row.timer != (due is not None):
            text = f"the outbox has task {task} in the wrong table"
            report.findings.append(Finding(2, None, report.head, text))
        elif due is not None and not row.parked and row.due != due:
            text = f"timer {task} is due {row.due} in the outbox; its chain says {due}"
            report.findings.append(Finding(2, None, report.head, text))
