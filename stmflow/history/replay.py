"""Level 3 of `verify`: the production `Draft`, run again on what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from stmflow import codec
from stmflow.cell import CELL
from stmflow.cid import CID
from stmflow.effect import Effect, Outcome, outcome_of
from stmflow.errors import UnknownVersion
from stmflow.history.explain import diff, told
from stmflow.history.report import Finding, Report
from stmflow.history.revision import Get, Line, Revision, plain_of
from stmflow.job import COMMITTED, Draft, Head, Parked
from stmflow.schema import freeze
from stmflow.workflow import Job, Registry, Workflow


class Versions(Registry):
    """The workflows at hand. Each write is run again by the version that it names."""

    def __init__(self, workflows: Iterable[Workflow]) -> None:
        given = list(workflows)
        every = given if any(one is CELL for one in given) else [*given, CELL]
        super().__init__(every, chooser=lambda tx, job: None)

    def tag(self, line: Line, state: Any) -> str | None:
        """The tag of a write's state, where its workflow is known."""
        try:
            workflow = self.version(line.workflow, line.version)
            return workflow.tag_of(workflow.state_of(state()))
        except Exception:
            return None


class _Replay(Draft):
    """A draft whose transactional tasks answer what the history recorded."""

    __slots__ = ("_expected", "_recorded")

    def __init__(
        self,
        registry: Registry,
        job: Job,
        head: Head | None,
        at: int,
        recorded: dict[CID, Outcome],
        *,
        version: int | None,
    ) -> None:
        super().__init__(
            registry,
            job,
            head,
            at,
            version=version,
            transactional=frozenset({object}),
            perform=self._answer,
        )
        self._recorded = recorded

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
                return index, number, value
        return None

    def _answer(self, draft: Draft, id: CID, task: Any) -> Outcome:
        return self._recorded.pop(id)

    def _hooks(self, event: Any, before: Any, after: Any) -> list[tuple[str, Effect]]:
        """What hooks gave is taken from the record, once, at the end."""
        return []


def rerun(report: Report, chain: Sequence[Revision], get: Get, registry: Versions) -> Head | None:
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
    report: Report, revision: Revision, line: Line, head: Head | None, get: Get, versions: Versions
) -> Head | None:
    workflow = versions.version(line.workflow, line.version)
    key: tuple[Any, ...] = freeze(report.key)
    adopts = head is not None and line.bare and line.version != head.version
    if head is not None and not adopts:
        _, lifted = versions.lift(codec.decode(head.state_block), event=False, to=workflow)
        head = head._replace(state=workflow.state_of(lifted))
    receipts = [plain_of(get, cid) for cid in line.receipts]
    outcomes = {one["task"]: outcome_of(one["outcome"]) for one in receipts}
    version = None if adopts else line.version
    job = Job(line.workflow, key, line.job)
    draft = _Replay(versions, job, head, revision.at, outcomes, version=version)
    if adopts:
        draft.adopt(line.version)
    if receipts and head is not None and receipts[0]["task"] in head.rows:
        draft.settle(receipts[0]["task"], outcomes.pop(receipts[0]["task"]))
    while (done := len(draft.events)) < len(line.events):
        event = workflow.event_of(plain_of(get, line.events[done]))
        draft.replay(event)
        if len(draft.events) == done:
            if not line.extra:
                break
            draft.keep(event)
    for by, _, cid in line.given():
        draft.give(by, workflow.effect_of(plain_of(get, cid)))
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
            for one in diff(plain_of(get, line.state), codec.decode(draft.state_block)):
                path = ".".join(map(str, one.path))
                before, after = told(one.before), told(one.after)
                yield 3, f"state {path}: the history has {before}, run again it is {after}"
        else:
            wanted, found = told(line.plain.get(name)), told(made.get(name))
            yield _LEVEL.get(name, 3), f"{name}: the history has {wanted}, run again it is {found}"
