"""A job's history: walk it, verify it, export it, compare its states and say why they are. Pure.

A head commits to its whole chain, so everything here works on blocks alone, from a store or from a
CAR. `verify` judges on three levels, reported separately:

    1 links      every block hashes to its CID; seq, at, epoch and version run on without a break
    2 progress   receipts name tasks that were open; events are those that their outcomes fire;
                 no timer fires early; what the store derived (open effects, rows) is what follows
    3 reducer    `update` run again over the events of each write gives its state and effects

Levels 1 and 2 need no code of the application: effects are read as plain data (`Ledger`). Level 3
runs the production `Draft` again, with receipts for transactional tasks, and compares the line it
would write. Where a workflow or a version is missing it is *not re-run*, which is no mismatch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

from stmflow import car, codec
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import (
    ANY,
    DISMISSED,
    Cancel,
    Effect,
    Entry,
    Err,
    Outcome,
    Plan,
    Sleep,
    outcome_of,
    outcome_plain,
)
from stmflow.errors import (
    CodecError,
    Corrupt,
    MalformedBlock,
    NotFound,
    StmflowError,
    UnknownVersion,
)
from stmflow.job import COMMITTED, Draft, Head, Parked, identify
from stmflow.schema import freeze
from stmflow.store import Packed, StoredHead, TaskRow
from stmflow.workflow import Job, Registry, Workflow

Get = Callable[[CID], bytes | None]
"""Where blocks come from: CID → bytes, or None. A dict's `get` will do."""

# --- revisions ----------------------------------------------------------------------------------


class Line(NamedTuple):
    """One job's part in a revision. `extra`: (by, effects) that no reducer returned."""

    job: CID
    workflow: str
    version: int
    key: list[Any] | None
    seq: int
    prev: CID | None
    epoch: int
    receipts: tuple[CID, ...]
    events: tuple[CID, ...]
    state: CID
    effects: tuple[tuple[int, CID], ...]
    extra: tuple[tuple[str, tuple[tuple[int, CID], ...]], ...]
    plain: dict[str, Any]

    def given(self) -> Iterator[tuple[str, int, CID]]:
        """(by, epoch, effect) of what `extra` holds."""
        for by, effects in self.extra:
            for epoch, effect in effects:
                yield by, epoch, effect

    def blocks(self) -> Iterator[CID]:
        """Every block that this write made, its state first."""
        yield self.state
        yield from self.events
        yield from self.receipts
        yield from (cid for _, cid in self.effects)
        yield from (cid for _, _, cid in self.given())


class Revision(NamedTuple):
    """A revision, read. `delivery`: (job, id) of what caused it, or None."""

    cid: CID
    delivery: tuple[CID, bytes] | None
    at: int
    reads: tuple[tuple[CID, CID | None], ...]
    writes: tuple[Line, ...]

    def line(self, job: CID) -> Line:
        """That job's part. Raises NotFound."""
        for line in self.writes:
            if line.job == job:
                return line
        raise NotFound(f"revision {self.cid} does not write job {job}")


def read_revision(cid: CID, block: bytes) -> Revision:
    """The revision in a block.

    Raises:
        HashMismatch: the block is not what the CID names.
        MalformedBlock: it is no revision.
    """
    cid.verify(block)
    plain = codec.decode(block)
    try:
        return _revision(cid, plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, MalformedBlock):
            raise
        raise MalformedBlock(f"{cid} is no revision: {error}") from None


def is_revision(plain: Any) -> bool:
    """Whether a decoded block has the form of a revision."""
    return isinstance(plain, dict) and plain.keys() == _REVISION


_REVISION: Final = {"v", "delivery", "at", "reads", "writes"}
_LINE: Final = {
    *("job", "workflow", "seq", "prev", "epoch", "receipts"),
    *("events", "state", "effects", "extra"),
}


def _revision(cid: CID, plain: Any) -> Revision:
    _shape(is_revision(plain) and plain["v"] == 1 and type(plain["v"]) is int, "a revision")
    delivery, reads, writes = plain["delivery"], plain["reads"], plain["writes"]
    if delivery is not None:
        _shape(type(delivery) is list and len(delivery) == 2, "a delivery")
        delivery = (_is(delivery[0], CID), _is(delivery[1], bytes))
    found = Revision(
        cid,
        delivery,
        _is(plain["at"], int),
        tuple((_is(job, CID), _link(read)) for job, read in reads),
        tuple(_line(line) for line in writes),
    )
    wrote, read = [line.job for line in found.writes], [job for job, _ in found.reads]
    _shape(bool(wrote), "a revision that writes something")
    for order in (wrote, read):
        _shape(all(a < b for a, b in pairwise(order)), "sorted by job")
    _shape(not set(wrote) & set(read), "a revision that reads only what it does not write")
    return found


def _line(plain: Any) -> Line:
    keys = plain.keys() - {"key"}
    _shape(keys == _LINE and ("key" in plain) == (plain["prev"] is None), "a write")
    name, version = plain["workflow"]
    return Line(
        _is(plain["job"], CID),
        _is(name, str),
        _is(version, int),
        _is(plain["key"], list) if "key" in plain else None,
        _is(plain["seq"], int),
        _link(plain["prev"]),
        _is(plain["epoch"], int),
        tuple(_is(cid, CID) for cid in plain["receipts"]),
        tuple(_is(cid, CID) for cid in plain["events"]),
        _is(plain["state"], CID),
        tuple((_is(epoch, int), _is(cid, CID)) for epoch, cid in plain["effects"]),
        tuple(_extra(one) for one in plain["extra"]),
        plain,
    )


def _extra(plain: Any) -> tuple[str, tuple[tuple[int, CID], ...]]:
    _shape(plain.keys() == {"by", "effects"}, "an extra")
    effects = tuple((_is(epoch, int), _is(cid, CID)) for epoch, cid in plain["effects"])
    return _is(plain["by"], str), effects


def _shape(holds: bool, what: str) -> None:
    if not holds:
        raise MalformedBlock(f"not {what}")


def _is(value: Any, kind: type) -> Any:
    _shape(type(value) is kind, f"of type {kind.__name__}: {value!r:.60}")
    return value


def _link(value: Any) -> Any:
    return None if value is None else _is(value, CID)


def walk(job: CID, head: CID, get: Get) -> Iterator[Revision]:
    """A job's revisions, newest first, each hashed and read.

    Raises:
        NotFound: a block is missing, or a revision does not write the job.
        HashMismatch, MalformedBlock: a block is not what its CID says.
    """
    cid: CID | None = head
    while cid is not None:
        block = get(cid)
        if block is None:
            raise NotFound(f"revision {cid} is missing")
        revision = read_revision(cid, block)
        cid = revision.line(job).prev
        yield revision


def blocks_of(packs: Iterable[Packed]) -> dict[CID, bytes]:
    """The blocks that a store gave, each under the CID that it hashes to."""
    found: dict[CID, bytes] = {}
    for packed in packs:
        found |= {CID.of(block): block for block in (packed.revision, *packed.blocks)}
    return found


def _plain(get: Get, cid: CID) -> Any:
    block = get(cid)
    if block is None:
        raise NotFound(f"block {cid} is missing")
    cid.verify(block)
    return codec.decode(block)


# --- findings -----------------------------------------------------------------------------------

OK: Final = "ok"
MISMATCH: Final = "mismatch"
NOT_RERUN: Final = "not re-run"
SKIPPED: Final = "not reached"


class Finding(NamedTuple):
    """Something that does not hold: on which level, where, and what."""

    level: int
    seq: int | None
    revision: CID | None
    text: str


@dataclass(slots=True)
class Report:
    """What `verify` says of one job.

    Attributes:
        revisions: how many were walked. given: effects that no reducer returned, taken as they are.
        rerun: how many revisions level 3 ran again. not_rerun: why it ran no more, or None.
        unseen: other jobs in these revisions, of which only CIDs are known here.
    """

    job: CID
    head: CID | None
    depth: int = 3
    workflow: str | None = None
    key: list[Any] | None = None
    revisions: int = 0
    rerun: int = 0
    given: int = 0
    not_rerun: str | None = None
    unseen: set[CID] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def level(self, number: int) -> str:
        """`ok`, `mismatch`, `not re-run` or `not reached`."""
        if any(finding.level == number for finding in self.findings):
            return MISMATCH
        if number > self.depth or (number > 1 and self.level(1) == MISMATCH):
            return SKIPPED
        if number == 3 and self.not_rerun is not None:
            return NOT_RERUN
        return SKIPPED if number == 3 and self.rerun < self.revisions else OK

    @property
    def status(self) -> str:
        """Of all levels that were asked for together."""
        levels = [self.level(number) for number in range(1, self.depth + 1)]
        return next((s for s in (MISMATCH, NOT_RERUN, SKIPPED) if s in levels), OK)


def verify(
    job: CID,
    head: CID,
    get: Get,
    *,
    workflows: Iterable[Workflow] = (),
    depth: int = 3,
    stored: StoredHead | None = None,
    rows: Sequence[TaskRow] | None = None,
) -> Report:
    """Judge one job's history by its blocks.

    Args:
        workflows: every version that can be had; what is missing is not re-run.
        depth: the deepest level wanted.
        stored: the store's row of the head, whose derived data is rebuilt and compared.
        rows: the job's rows in the outbox, compared likewise.
    """
    report = Report(job, head, depth)
    chain = _links(report, get)
    if report.findings or depth < 2:
        return report
    registry = _Versions(workflows)
    ledger = Ledger(job, get, registry.tag)
    for revision in chain:
        _progress(report, revision, ledger)
    if stored is not None:
        _head_row(report, chain[-1], stored)
    head_made = _rerun(report, chain, get, registry) if depth >= 3 else None
    if stored is not None and not report.findings:
        _derived(report, ledger, head_made, stored, registry)
    if rows is not None and not report.findings:
        _outbox(report, ledger, head_made, rows)
    return report


# --- level 1 ------------------------------------------------------------------------------------


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
    if line.version < version:
        yield f"the version falls from {version} to {line.version}"
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
            plain = _plain(get, cid)
            if what == "receipt":
                _shape(plain.keys() == {"task", "outcome"}, "a receipt")
                _shape(type(plain["task"]) is CID, "a receipt")
                _is_outcome(plain["outcome"])
            else:
                _shape(plain.keys() == {"w", "v", "t", "f"}, f"a block of a workflow: {cid}")
                _shape(type(plain["t"]) is str and type(plain["f"]) is dict, f"tagged: {cid}")
                own = (plain["w"], plain["v"]) == (line.workflow, line.version)
                _shape(own and type(plain["v"]) is int, f"of {line.workflow}@{line.version}: {cid}")
                _shape(what != "effect" or plain["t"] == "effect", f"an effect: {cid}")
        except (NotFound, CodecError, AttributeError) as error:
            yield f"{what}: {error}"


def _is_outcome(plain: Any) -> None:
    _shape(plain.keys() in ({"ok"}, {"err"}), "an outcome")
    if "err" in plain:
        _shape(plain["err"].keys() == {"name", "detail"}, "a failure")
        _is(plain["err"]["name"], str)


# --- level 2: effects as plain data ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Opaque:
    """A task of a type that need not be known here."""

    tag: str
    fields: bytes


class _OpaqueSchema(NamedTuple):
    tag: str

    def decode(self, fields: Any) -> _Opaque:
        return _Opaque(self.tag, codec.encode(fields))

    def write(self, task: _Opaque) -> bytes:
        return task.fields


class _Anything(dict[str, Any]):
    """Every tag is known."""

    def __contains__(self, tag: object) -> bool:
        return True

    def __missing__(self, tag: str) -> _OpaqueSchema:
        return _OpaqueSchema(tag)


class _Plain(Workflow):
    """A version of a workflow of which nothing is known but its blocks: effects and task ids."""

    def __init__(self, name: str, version: int) -> None:
        super().__init__(name, state=(), events=(), update=_unknown, version=version)
        self._tasks = _Anything()

    def _task_schema(self, task: Any) -> Any:
        return _OpaqueSchema(task.tag)


def _unknown(event: Any, state: Any) -> Any:
    raise AssertionError("nothing is known of this workflow but its blocks")


class Leaf(NamedTuple):
    """A task as the blocks tell of it: which effect asked for it, at which seq."""

    id: CID
    tag: str
    plain: dict[str, Any]
    effect: CID
    seq: int
    due: int | None = None


class Settled(NamedTuple):
    """A receipt: of which task (`leaf` None: it was not open), its outcome, what it fired."""

    receipt: CID
    task: CID
    leaf: Leaf | None
    outcome: Outcome
    fired: tuple[str, ...]


class Step(NamedTuple):
    """What one write did to its job's tasks. `problems`: what does not follow."""

    revision: Revision
    line: Line
    settled: list[Settled]
    armed: list[Leaf]
    ended: list[Leaf]
    problems: list[str]


@dataclass(slots=True)
class _Shadow:
    """An effect that still has something to do."""

    seq: int
    epoch: int
    version: int
    cid: CID
    plan: Plan
    leaves: list[Leaf]
    log: dict[int, Entry] = field(default_factory=dict)
    withdrawn: frozenset[int] = frozenset()

    def ready(self) -> tuple[int, ...]:
        return self.plan.progress(self.log, self.withdrawn).ready


class _Fired(NamedTuple):
    """An event that an outcome fires: what its type is called, unless the version has changed, and
    whether a new epoch may have made it stale."""

    tag: str | None
    perhaps_stale: bool


class Ledger:
    """The open tasks of one job, kept by its blocks alone, write after write.

    Args:
        job: whose. get: its blocks.
        tag: a write → the tag of its state, or None where only the application could tell. Then a
            sleep that the state may have ended is kept as open: nothing else hangs on it.
    """

    def __init__(
        self, job: CID, get: Get, tag: Callable[[Line, Any], str | None] = lambda line, state: None
    ) -> None:
        self.job = job
        self.open: list[_Shadow] = []
        self.rows: dict[CID, Leaf] = {}
        self.unsure: set[CID] = set()
        """Sleeps that may have ended."""
        self._get = get
        self._tag = tag
        self._epoch = 0
        self._settled: dict[CID, Outcome] = {}
        self._fired: list[_Fired] = []
        self._workflows: dict[int, Workflow] = {}

    def apply(self, revision: Revision) -> Step:
        """Take one write. Raises CodecError or StmflowError for an effect that is none."""
        line = revision.line(self.job)
        step = Step(revision, line, [], [], [], [])
        pending = deque(line.effects)
        fired = self._fired = []
        tasks = []
        self._settled = {}
        for cid in line.receipts:
            plain = _plain(self._get, cid)
            task, outcome = plain["task"], outcome_of(plain["outcome"])
            while pending and not self._holders(task):
                self._add(line, *pending.popleft())
            tasks.append(task)
            step.settled.append(self._settle(step, cid, task, outcome, fired))
        inside = bool(tasks) and tasks[0] in self.rows
        self._cause(step, tasks, inside=inside)
        for epoch, cid in pending:
            self._add(line, epoch, cid)
        for _, epoch, cid in line.given():
            self._add(line, epoch, cid)
        found = [str(_plain(self._get, cid)["t"]) for cid in line.events]
        if not _explains(fired, found, outside=not inside):
            told = ", ".join(str(one.tag) for one in fired) or "none"
            step.problems.append(f"events {', '.join(found) or 'none'}; the outcomes fire {told}")
        self._arm(step)
        self._epoch = line.epoch
        return step

    def _holders(self, task: CID) -> list[tuple[_Shadow, int]]:
        return [
            (shadow, number)
            for shadow in self.open
            for number, leaf in enumerate(shadow.leaves)
            if leaf.id == task and number not in shadow.log and number in shadow.ready()
        ]

    def _settle(
        self, step: Step, cid: CID, task: CID, outcome: Outcome, fired: list[_Fired]
    ) -> Settled:
        holders = self._holders(task)
        if not holders:
            step.problems.append(f"receipt {cid} settles {task}, which was not open")
            return Settled(cid, task, None, outcome, ())
        events: list[str] = []
        for shadow, number in holders:
            at = len(shadow.log)
            shadow.log[number] = Entry(at, outcome)
            seen = shadow.plan.progress(shadow.log, shadow.withdrawn)
            if seen.uncaught:
                step.problems.append(
                    f"receipt {cid}: no node catches {seen.uncaught[-1].name}; it would be parked"
                )
            for one in seen.fired:
                if one.at == at:
                    renamed = shadow.version != step.line.version
                    stale = {self._epoch, step.line.epoch} != {shadow.epoch}
                    fired.append(_Fired(None if renamed else one.event, stale))
                    events.append(one.event)
        self._settled[task] = outcome
        leaf = self.rows.get(task) or holders[0][0].leaves[holders[0][1]]
        self._in_time(step, leaf, outcome)
        return Settled(cid, task, leaf, outcome, tuple(events))

    @staticmethod
    def _in_time(step: Step, leaf: Leaf, outcome: Outcome) -> None:
        if leaf.tag != "sleep":
            return
        if isinstance(outcome, Err):
            if outcome.name != DISMISSED:
                step.problems.append(f"timer {leaf.id} failed with {outcome.name}")
        elif leaf.due is None or step.revision.at < leaf.due:
            step.problems.append(f"timer {leaf.id} fired at {step.revision.at}, due {leaf.due}")

    def _cause(self, step: Step, tasks: Sequence[CID], *, inside: bool) -> None:
        """The delivery of a settle is the task itself."""
        delivery = step.revision.delivery
        if inside and delivery != (self.job, tasks[0].bytes):
            step.problems.append(f"task {tasks[0]} was settled by another delivery")
        if delivery is None or delivery[0] != self.job:
            return
        named = next((task for task in self.rows if task.bytes == delivery[1]), None)
        if named is not None and named not in tasks[:1]:
            step.problems.append(f"the delivery is task {named}, which has no receipt here")

    def _add(self, line: Line, epoch: int, cid: CID) -> None:
        workflow = self._workflow(line)
        effect = workflow.effect_of(_plain(self._get, cid))
        if isinstance(effect, Cancel):
            self._withdraw_name(effect.name)
            return
        plan = Plan(effect)
        leaves = []
        for one in plan.leaves:
            block = workflow.task_bytes(one)
            plain: Any = codec.decode(block)
            task = identify(self.job, line.seq, block)
            leaves.append(Leaf(task, plain["t"], plain, cid, line.seq))
        for name in plan.names:
            self._withdraw_name(name)
        shadow = _Shadow(line.seq, epoch, line.version, cid, plan, leaves)
        self.open.append(shadow)
        for number, leaf in enumerate(leaves):
            if leaf.id in self._settled:
                shadow.log[number] = Entry(len(shadow.log), self._settled[leaf.id])
        if shadow.log:  # asked again in the write that settled it: whether it fires is level 3's
            seen = plan.progress(shadow.log, shadow.withdrawn).fired
            self._fired += [_Fired(one.event, perhaps_stale=True) for one in seen]

    def _workflow(self, line: Line) -> Workflow:
        known = self._workflows.get(line.version)
        if known is None:
            known = self._workflows[line.version] = _Plain(line.workflow, line.version)
        return known

    def _withdraw_name(self, name: str) -> None:
        for shadow in self.open:
            number = shadow.plan.names.get(name)
            if number is not None and number not in shadow.log:
                shadow.withdrawn |= {number}

    def _arm(self, step: Step) -> None:
        tag = self._tag(step.line, lambda: _plain(self._get, step.line.state))
        rows: dict[CID, Leaf] = {}
        for shadow in self.open:
            for number in shadow.ready():
                leaf, node = shadow.leaves[number], shadow.plan.leaves[number]
                if isinstance(node, Sleep) and node.during is not ANY:
                    if shadow.epoch != step.line.epoch or tag not in (None, *node.during):
                        shadow.withdrawn |= {number}
                        continue
                    if tag is None:
                        self.unsure.add(leaf.id)
                if isinstance(node, Sleep):
                    due = node.until
                    leaf = leaf._replace(
                        due=step.revision.at + (node.for_ms or 0) if due is None else due
                    )
                rows.setdefault(leaf.id, self.rows.get(leaf.id, leaf))
        self.open = [shadow for shadow in self.open if shadow.ready()]
        step.armed.extend(leaf for task, leaf in rows.items() if task not in self.rows)
        gone = self.rows.keys() - rows.keys() - self._settled.keys()
        step.ended.extend(self.rows[task] for task in self.rows if task in gone)
        self.unsure &= rows.keys()
        self.rows = rows


def _explains(fired: Sequence[_Fired], found: Sequence[str], *, outside: bool) -> bool:
    """Whether these events are those fired, in order; a stale one may lack, and what came from
    outside may stand between."""
    places = {0}
    for one in fired:
        if outside:
            places = set(range(min(places), len(found) + 1))
        taken = {at + 1 for at in places if at < len(found) and one.tag in (None, found[at])}
        places = taken | (places if one.perhaps_stale else set())
        if not places:
            return False
    return outside or len(found) in places


def _progress(report: Report, revision: Revision, ledger: Ledger) -> None:
    try:
        problems = ledger.apply(revision).problems
    except (StmflowError, KeyError, TypeError) as error:
        problems = [f"an effect that cannot be read: {error}"]
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
    report: Report, ledger: Ledger, head: Head | None, stored: StoredHead, registry: _Versions
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


# --- level 3: the production code, run again ----------------------------------------------------


class _Versions:
    """The workflows at hand, and for each write the registry of the process that made it."""

    def __init__(self, workflows: Iterable[Workflow]) -> None:
        given = list(workflows)
        self._all = given if any(one is CELL for one in given) else [*given, CELL]
        self._whole = Registry(self._all)
        self._as_of: dict[tuple[str, int], Registry] = {}

    def version(self, name: str, version: int) -> Workflow:
        return self._whole.version(name, version)

    def as_of(self, name: str, version: int) -> Registry:
        """Where that version is the newest. Raises UnknownVersion where it is missing."""
        self._whole.version(name, version)
        if (name, version) not in self._as_of:
            known = [one for one in self._all if one.name != name or one.version <= version]
            self._as_of[(name, version)] = Registry(known)
        return self._as_of[(name, version)]

    def tag(self, line: Line, state: Any) -> str | None:
        """The tag of a write's state, where its workflow is known."""
        try:
            workflow = self._whole.version(line.workflow, line.version)
            return workflow.tag_of(workflow.state_of(state()))
        except Exception:
            return None


class _Replay(Draft):
    """A draft whose transactional tasks answer what the history recorded."""

    __slots__ = ("_expected", "_recorded")

    def __init__(
        self, registry: Registry, job: Job, head: Head | None, at: int, recorded: dict[CID, Outcome]
    ) -> None:
        super().__init__(
            registry, job, head, at, transactional=frozenset({object}), perform=self._answer
        )
        self._recorded = recorded
        self._expected: CID | None = None

    def replay(self, event: Any) -> None:
        """An event from outside. Guards are not asked: they are the service's, not the job's."""
        if self._step(self.workflow.dated(event, self.at), inside=False) is COMMITTED:
            self._quiesce()

    def keep(self, event: Any) -> None:
        """An event that changed nothing, and stands in the history because a hook gave effects."""
        self._log(event)

    def _transactional_ready(self) -> tuple[int, int, Any] | None:
        """A task that is ready and has its receipt in this very write was run in it."""
        for index, number, task in self._unarmed():
            value = getattr(self.open[index].plan.leaves[number], "task", None)
            if task in self._recorded and value is not None:
                self._expected = task
                return index, number, value
        return None

    def _answer(self, draft: Draft, task: Any) -> Outcome:
        assert self._expected is not None
        return self._recorded.pop(self._expected)

    def _hooks(self, event: Any, before: Any, after: Any) -> list[tuple[str, Effect]]:
        """What hooks gave is taken from the record, once, at the end."""
        return []


def _rerun(report: Report, chain: Sequence[Revision], get: Get, registry: _Versions) -> Head | None:
    """The head that the production code makes of the same events, or None where it did not get
    there. It stops at the first write that differs: what follows would differ by that alone."""
    head: Head | None = None
    for revision in chain:
        line = revision.line(report.job)
        try:
            head = _again(report, revision, line, head, get, registry)
        except UnknownVersion as error:
            report.not_rerun = str(error)
            return None
        except Parked as parked:
            own = parked.__cause__ is None
            text = f"the outcome would be parked: {parked.error.name} {parked.error.detail!r:.200}"
            report.findings.append(Finding(2 if own else 3, line.seq, revision.cid, text))
            return None
        except Exception as error:  # reducers, upcasts and tag functions are the application's
            text = f"run again, it raises {type(error).__name__}: {error}"
            report.findings.append(Finding(3, line.seq, revision.cid, text))
            return None
        if head is None:
            return None
        report.rerun += 1
    return head


def _again(
    report: Report, revision: Revision, line: Line, head: Head | None, get: Get, versions: _Versions
) -> Head | None:
    registry = versions.as_of(line.workflow, line.version)
    workflow = registry.version(line.workflow, line.version)
    key: tuple[Any, ...] = freeze(report.key)
    if head is not None:
        _, lifted = registry.lift(codec.decode(head.state_block), event=False)
        head = head._replace(state=workflow.state_of(lifted))
    receipts = [_plain(get, cid) for cid in line.receipts]
    outcomes = {one["task"]: outcome_of(one["outcome"]) for one in receipts}
    draft = _Replay(registry, Job(line.workflow, key, line.job), head, revision.at, outcomes)
    if receipts and head is not None and receipts[0]["task"] in head.rows:
        draft.settle(receipts[0]["task"], outcomes.pop(receipts[0]["task"]))
    while (done := len(draft.events)) < len(line.events):
        event = workflow.event_of(_plain(get, line.events[done]))
        draft.replay(event)
        if len(draft.events) == done:
            if not line.extra:
                break
            draft.keep(event)
    for by, _, cid in line.given():
        draft.give(by, workflow.effect_of(_plain(get, cid)))
    finished = draft.finish()
    found = list(_differences(draft, line, get))
    report.findings += [Finding(level, line.seq, revision.cid, text) for level, text in found]
    return None if found else draft.next_head(revision.cid, finished)


_LEVEL: Final = {"receipts": 2, "events": 2}


def _differences(draft: Draft, line: Line, get: Get) -> Iterator[tuple[int, str]]:
    """How the write that the code would make differs from the one in the history."""
    made: Any = codec.decode(draft.entry())
    for name in sorted(made.keys() | line.plain.keys()):
        if codec.encode(made.get(name)) == codec.encode(line.plain.get(name)):
            continue
        if name == "state" and draft.state_block is not None:
            for one in diff(_plain(get, line.state), codec.decode(draft.state_block)):
                path = ".".join(map(str, one.path))
                before, after = _told(one.before), _told(one.after)
                yield 3, f"state {path}: the history has {before}, run again it is {after}"
        else:
            wanted, found = _told(line.plain.get(name)), _told(made.get(name))
            yield _LEVEL.get(name, 3), f"{name}: the history has {wanted}, run again it is {found}"


def _told(value: Any) -> str:
    try:
        text = codec.dag_json(value)
    except MalformedBlock:  # DAG-JSON has no form for a map with the key "/"
        text = repr(value)
    return text if len(text) <= 300 else text[:300] + "…"


# --- several jobs -------------------------------------------------------------------------------


def between(chains: Mapping[CID, Sequence[Revision]]) -> list[Finding]:
    """What keeps these whole chains (oldest first) from being one serial history.

    Each revision is a transaction: it saw what its `reads` and `prev` name. It comes after the
    writers of these and before whoever replaced them; where that goes in a circle, no serial order
    gives the same history. Jobs whose chain is not given are not looked at.
    """
    findings: list[Finding] = []
    revisions = {one.cid: one for chain in chains.values() for one in chain}
    places = {job: {one.cid: at for at, one in enumerate(chain)} for job, chain in chains.items()}
    after: dict[CID, set[CID]] = {cid: set() for cid in revisions}

    def wrong(revision: Revision, text: str) -> None:
        findings.append(Finding(1, None, revision.cid, text))

    for revision in revisions.values():
        seen = [(job, read, False) for job, read in revision.reads]
        seen += [(line.job, line.prev, True) for line in revision.writes]
        for job, read, wrote in seen:
            if job not in chains:
                continue
            if wrote and revision.cid not in places[job]:
                wrong(revision, f"it writes job {job}, whose chain does not hold it")
            elif read is not None and read not in places[job]:
                wrong(revision, f"it read {read}, which is not in the chain of job {job}")
            else:
                at = -1 if read is None else places[job][read]
                chain = chains[job]
                if at >= 0:
                    after[chain[at].cid].add(revision.cid)
                    if chain[at].at > revision.at:
                        wrong(revision, f"it read {read}, which is younger than itself")
                if at + 1 < len(chain) and chain[at + 1].cid != revision.cid:
                    after[revision.cid].add(chain[at + 1].cid)
    for cid in _circle(after):
        wrong(revisions[cid], "it has no place in any serial order: it saw what others replaced")
    return findings


def _circle(after: Mapping[CID, set[CID]]) -> list[CID]:
    """What is left when everything with nothing before it has been taken away, both ways."""
    left = _peel({cid: set(others) for cid, others in after.items()})
    back: dict[CID, set[CID]] = {cid: set() for cid in left}
    for cid in left:
        for other in after[cid] & left:
            back[other].add(cid)
    return sorted(_peel(back))


def _peel(after: dict[CID, set[CID]]) -> set[CID]:
    waits = dict.fromkeys(after, 0)
    for others in after.values():
        for other in others:
            waits[other] += 1
    free = [cid for cid, count in waits.items() if not count]
    while free:
        cid = free.pop()
        del waits[cid]
        for other in after[cid]:
            waits[other] -= 1
            if not waits[other]:
                free.append(other)
    return set(waits)


# --- export -------------------------------------------------------------------------------------


def export(chains: Mapping[CID, Sequence[Packed]]) -> tuple[list[CID], Iterator[tuple[CID, bytes]]]:
    """Roots and blocks of a CAR that holds these jobs' whole chains (as a store gives them).

    One root for each job, its head; of other jobs in the same revisions only their CIDs.
    """
    return [chain[0].cid for chain in chains.values()], _exported(chains)


def _exported(chains: Mapping[CID, Sequence[Packed]]) -> Iterator[tuple[CID, bytes]]:
    sent: set[CID] = set()
    for job, chain in chains.items():
        for packed in chain:
            have = blocks_of([packed])
            for cid in (packed.cid, *read_revision(packed.cid, packed.revision).line(job).blocks()):
                if cid not in sent:
                    sent.add(cid)
                    if cid not in have:
                        raise Corrupt(f"block {cid} of job {job} is missing")
                    yield cid, have[cid]


@dataclass(slots=True)
class Archive:
    """What one or several CARs hold: a root for each job, and blocks, all hashed."""

    roots: list[CID] = field(default_factory=list)
    blocks: dict[CID, bytes] = field(default_factory=dict)

    def add(self, source: car.Source) -> None:
        """Read a CAR into this one. Raises CodecError."""
        found = car.read(source)
        self.roots += found.roots
        self.blocks |= dict(found)

    def jobs(self) -> tuple[dict[CID, CID], list[Finding]]:
        """Job → head, and what is wrong with the roots."""
        heads: dict[CID, CID] = {}
        findings: list[Finding] = []
        for root in dict.fromkeys(self.roots):
            try:
                lines = read_revision(root, self.blocks[root]).writes
            except (KeyError, CodecError) as error:
                text = str(error) if isinstance(error, CodecError) else "this root is missing"
                findings.append(Finding(1, None, root, text))
                continue
            here = [line.job for line in lines if line.state in self.blocks]
            whole = [job for job in here if self._whole(job, root)]
            if len(whole) < self.roots.count(root):
                whole = here
            if not whole:
                findings.append(Finding(1, None, root, "no job of this root has its blocks here"))
            for job in whole:
                self._head(heads, findings, job, root)
        return heads, findings

    def _whole(self, job: CID, head: CID) -> bool:
        try:
            return all(
                cid in self.blocks
                for revision in walk(job, head, self.blocks.get)
                for cid in revision.line(job).blocks()
            )
        except (NotFound, CodecError):
            return False

    def _head(self, heads: dict[CID, CID], findings: list[Finding], job: CID, root: CID) -> None:
        """The longer of two chains of one job, of which the other must be a part."""
        other = heads.setdefault(job, root)
        if other == root:
            return
        chains: dict[CID, list[CID]] = {}
        for head in (other, root):
            chains[head] = []
            try:
                chains[head] += [revision.cid for revision in walk(job, head, self.blocks.get)]
            except (NotFound, CodecError) as error:
                findings.append(Finding(1, None, head, str(error)))
        longer, shorter = sorted((other, root), key=lambda head: -len(chains[head]))
        heads[job] = longer
        if shorter not in chains[longer]:
            text = f"job {job} has two heads, and neither is in the other's chain: {longer}"
            findings.append(Finding(1, None, shorter, text))


class Audit(NamedTuple):
    """What `verify_archive` says. `between`: of several chains, and of the roots."""

    reports: list[Report]
    between: list[Finding]


def verify_archive(
    archive: Archive, *, workflows: Iterable[Workflow] = (), depth: int = 3
) -> Audit:
    """Judge every job of an archive, and how they go together. No store is asked."""
    heads, findings = archive.jobs()
    get = archive.blocks.get
    known = list(workflows)
    reports = [verify(job, head, get, workflows=known, depth=depth) for job, head in heads.items()]
    sound = [report.job for report in reports if report.level(1) == OK]
    if len(sound) > 1:
        findings += between({job: list(walk(job, heads[job], get))[::-1] for job in sound})
    return Audit(reports, findings)


# --- comparing ----------------------------------------------------------------------------------


class Change(NamedTuple):
    """One difference: where, `added`, `removed` or `changed`, and the values."""

    path: tuple[str | int, ...]
    kind: str
    before: Any
    after: Any


def diff(before: Any, after: Any) -> list[Change]:
    """The differences of two plain values: maps by key, lists by what they share at both ends."""
    return list(_diff((), before, after))


def _diff(path: tuple[str | int, ...], before: Any, after: Any) -> Iterator[Change]:
    if type(before) is dict and type(after) is dict:
        for key in sorted(before.keys() | after.keys()):
            if key not in after:
                yield Change((*path, key), "removed", before[key], None)
            elif key not in before:
                yield Change((*path, key), "added", None, after[key])
            else:
                yield from _diff((*path, key), before[key], after[key])
    elif type(before) is list and type(after) is list:
        yield from _diff_lists(path, before, after)
    elif codec.encode(before) != codec.encode(after):
        yield Change(path, "changed", before, after)


def _diff_lists(
    path: tuple[str | int, ...], before: list[Any], after: list[Any]
) -> Iterator[Change]:
    old, new = [codec.encode(one) for one in before], [codec.encode(one) for one in after]
    most = min(len(old), len(new))
    start = next((at for at in range(most) if old[at] != new[at]), most)
    end = next((at for at in range(most - start) if old[-1 - at] != new[-1 - at]), most - start)
    for at in range(start, max(len(old), len(new)) - end):
        if at >= len(old) - end:
            yield Change((*path, at), "added", None, after[at])
        elif at >= len(new) - end:
            yield Change((*path, at), "removed", before[at], None)
        else:
            yield from _diff((*path, at), before[at], after[at])


def diff_revisions(before: Revision, after: Revision, get: Get) -> list[Change]:
    """What differs, for each job that both write, in epoch, version and state."""
    return diff(
        *(
            {
                str(line.job): {
                    "epoch": line.epoch,
                    "version": line.version,
                    "state": _plain(get, line.state),
                }
                for line in one.writes
                if any(line.job == twin.job for twin in other.writes)
            }
            for one, other in ((before, after), (after, before))
        )
    )


# --- explaining ---------------------------------------------------------------------------------


class Reason(NamedTuple):
    """Where something stands in a job's history, and what brought it there.

    Attributes:
        role: what it is there: state, event, effect, receipt, task, revision or delivery.
        step: the write that holds it: its events, what was settled and armed, what was committed.
        before: the state that the write started from. events: (CID, decoded) in order.
        cause: the task whose outcome brought the write, or None: a delivery from outside, or a
            transaction of the service itself.
    """

    role: str
    step: Step
    before: CID | None
    events: list[tuple[CID, Any]]
    cause: Settled | None


def why(cid: CID, chain: Sequence[Revision], job: CID, get: Get) -> list[Reason]:
    """Every place in a job's chain (oldest first) that holds `cid`; the first one made it."""
    ledger = Ledger(job, get)
    found: list[Reason] = []
    before: CID | None = None
    for revision in chain:
        step = ledger.apply(revision)
        role = _role(cid, step)
        if role is not None:
            events = [(event, _plain(get, event)) for event in step.line.events]
            found.append(Reason(role, step, before, events, _settled_by(step)))
        before = step.line.state
    return found


def _role(cid: CID, step: Step) -> str | None:
    line = step.line
    if cid == step.revision.cid:
        return "revision"
    if cid in line.events:
        return "event"
    if cid in line.receipts:
        return "receipt"
    if any(cid == effect for _, effect in line.effects):
        return "effect"
    if any(cid == effect for _, _, effect in line.given()):
        return "given effect"
    if cid == line.state:
        return "state"
    if any(cid == leaf.id for leaf in step.armed) or any(cid == s.task for s in step.settled):
        return "task"
    if step.revision.delivery is not None and step.revision.delivery[1] == cid.bytes:
        return "delivery"
    return None


def _settled_by(step: Step) -> Settled | None:
    delivery = step.revision.delivery
    for settled in step.settled[:1]:
        if delivery == (step.line.job, settled.task.bytes):
            return settled
    return None


__all__ = [
    "MISMATCH",
    "NOT_RERUN",
    "OK",
    "SKIPPED",
    "Archive",
    "Audit",
    "Change",
    "Finding",
    "Leaf",
    "Ledger",
    "Line",
    "Reason",
    "Report",
    "Revision",
    "Settled",
    "Step",
    "between",
    "blocks_of",
    "diff",
    "diff_revisions",
    "export",
    "is_revision",
    "read_revision",
    "verify",
    "verify_archive",
    "walk",
    "why",
]
