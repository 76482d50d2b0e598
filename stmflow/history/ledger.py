"""A job's open tasks, rebuilt from blocks alone: effects as plain data, no code needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import ANY, DISMISSED, Cancel, Entry, Err, Outcome, Plan, Sleep, outcome_of
from stmflow.history.revision import Get, Line, Revision, plain_of
from stmflow.job import identify
from stmflow.workflow import Workflow


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
            plain = plain_of(self._get, cid)
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
        found = [str(plain_of(self._get, cid)["t"]) for cid in line.events]
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
        effect = workflow.effect_of(plain_of(self._get, cid))
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
        tag = self._tag(step.line, lambda: plain_of(self._get, step.line.state))
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
