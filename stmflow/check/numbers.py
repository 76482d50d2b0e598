"""What the numbers in a state stand for: jobs, worlds, tasks and outcomes, each kept once."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.cell import CELL
from stmflow.check.answers import Answer, answered
from stmflow.check.model import Check, WrongModel
from stmflow.cid import CID
from stmflow.effect import Outcome, outcome_bytes
from stmflow.errors import InvalidWorkflow
from stmflow.job import Head
from stmflow.schema import tag_of
from stmflow.workflow import Job, Registry, Workflow

State = tuple[
    int, int, tuple[int, ...], tuple["Flight", ...], tuple[int, ...], tuple[int | None, ...]
]
"""(now, world, locals by job, answers under way, late attempts by leaf, sends that are left)."""

Flight = tuple[int, int, int]
"""An answer under way: (job, place among the local's tasks, outcome). `PARKED` in the place of an
outcome: the task waits for a person, who does not come."""

PARKED = -1

Action = tuple[Any, ...]
"""What a step is: its kind, then numbers that only the machine reads; `Machine.told` tells it."""

SEND, BODY, MOVE, PERFORM, SETTLE, FIRE, RUN, LOSE, STALL, WAKE, LATE = range(11)
FAULTS = (LOSE, STALL, WAKE, LATE)
"""Steps that come finitely often in every behaviour of which liveness is asked."""

SOME = 8
"""Events of each type that are kept, to try what no behaviour comes to."""


class Waiting(NamedTuple):
    """A task that a local waits for. `leaf` is what it is, `due` is set for timers."""

    id: CID
    leaf: int
    due: int | None


class Local(NamedTuple):
    """One job, up to what its future can tell apart: numbers of revisions are no part of it."""

    head: Head
    tasks: tuple[Waiting, ...]


class Numbers:
    """The tables behind the states of one check.

    Attributes:
        cells: (workflow, state tag, event tag) → what `update` has answered there, counted.
        events: (workflow, event tag) → some of the events that came.
    """

    def __init__(self, check: Check) -> None:
        self.check = check
        self.cells: dict[tuple[str, str, str], Counter[Answer]] = {}
        self.events: dict[tuple[str, str], list[Any]] = {}
        watched = [*(self._watched(one) for one in check.workflows), CELL]
        self.registry = Registry(watched, chooser=check.chooser)
        if check.timeless:
            _timeless(check)
        self.jobs: list[Job] = []
        self._job_of: dict[CID, int] = {}
        self._asked: dict[int, tuple[int, Job]] = {}
        self.locals: list[Local | None] = [None]
        self._local_of: dict[bytes, int] = {}
        self.worlds: list[Any] = []
        self._world_of: dict[Any, int] = {}
        self.leaves: list[Any] = []
        self._leaf_of: dict[tuple[str, bytes], int] = {}
        self.outcomes: list[Outcome] = []
        self._outcome_of: dict[bytes, int] = {}

    def home(self, event: Any) -> Workflow:
        """The first workflow of the check that has the event."""
        for workflow in self.check.workflows:
            if workflow.declares(type(event)):
                return workflow
        raise InvalidWorkflow(f"no workflow of the check has the event {type(event).__name__}")

    def digest(self) -> str:
        """The same for two machines whose numbers stand for the same, as far as names tell."""
        told = hashlib.sha256()
        for job in self._job_of:
            told.update(bytes(job))
        for one in (*self._local_of, *self._outcome_of):
            told.update(len(one).to_bytes(4))
            told.update(one)
        told.update(repr([*self._leaf_of, len(self.worlds)]).encode())
        return told.hexdigest()

    def _watched(self, workflow: Workflow) -> Workflow:
        """The workflow, with every answer of its reducer counted in its cell."""
        update = workflow.update

        def watched(event: Any, state: Any) -> Any:
            answer = update(event, state)
            here = "" if state is None else workflow.tag_of(state)
            tag = tag_of(type(event))
            told = answered(workflow, state, answer)
            self.cells.setdefault((workflow.name, here, tag), Counter())[told] += 1
            some = self.events.setdefault((workflow.name, tag), [])
            if len(some) < SOME and event not in some:
                some.append(event)
            return answer

        twin = copy.copy(workflow)
        twin.update = watched
        return twin

    def number(self, job: Job) -> int:
        """The job's place in every state."""
        found = self._job_of.get(job.id)
        if found is None:
            found = self._job_of[job.id] = len(self.jobs)
            self.jobs.append(job)
        return found

    def known(self, job: Job) -> int | None:
        """The job's place, if it has one."""
        found = self._asked.get(id(job))  # properties ask for the same few again and again
        if found is None:
            number = self._job_of.get(job.id)
            if number is None:
                return None
            found = self._asked[id(job)] = (number, job)
        return found[0]

    def world(self, value: Any) -> int:
        """The number of a world."""
        try:
            found = self._world_of.get(value)
        except TypeError as error:
            raise WrongModel(f"a world must be a frozen value: {error}") from None
        if found is None:
            found = self._world_of[value] = len(self.worlds)
            self.worlds.append(value)
        return found

    def _leaf(self, workflow: Workflow, leaf: Any) -> int:
        key = (workflow.name, workflow.task_bytes(leaf))
        found = self._leaf_of.get(key)
        if found is None:
            found = self._leaf_of[key] = len(self.leaves)
            self.leaves.append(leaf)
        return found

    def _outcome(self, outcome: Outcome) -> int:
        key = outcome_bytes(outcome)
        found = self._outcome_of.get(key)
        if found is None:
            found = self._outcome_of[key] = len(self.outcomes)
            self.outcomes.append(outcome)
        return found

    def _local(self, head: Head) -> int:
        """The local that this head comes to."""
        if self.check.timeless:
            head = _at_once(head, self.check.at)
        ranks: dict[int, int] = {}
        opened = [
            [
                ranks.setdefault(one.seq, len(ranks)),
                one.epoch,
                one.workflow.version,
                one.block,
                [[leaf, outcome_bytes(entry.outcome)] for leaf, entry in one.log.items()],
                sorted(one.withdrawn),
                [[leaf, head.rows[task].due] for leaf, task in sorted(one.armed.items())],
            ]
            for one in head.open
        ]
        key = codec.encode([head.job, head.version, head.state_block, head.epoch, opened])
        found = self._local_of.get(key)
        if found is None:
            found = self._local_of[key] = len(self.locals)
            self.locals.append(Local(head._replace(at=0), tuple(self._waiting(head))))
        return found

    def _waiting(self, head: Head) -> Iterator[Waiting]:
        for task, (workflow, leaf) in armed(head).items():
            yield Waiting(task, self._leaf(workflow, leaf), head.rows[task].due)


def _timeless(check: Check) -> None:
    """Raises InvalidWorkflow: something tells the time."""
    tags = [(one, tag) for one in check.workflows for tag in one.event_tags]
    told = [tag for one, tag in tags if one.event_schema(tag).at is not None]
    if told or check.faults.overdue:
        raise InvalidWorkflow(f"no check without time: {', '.join(told) or 'timers overdue'}")


def _at_once(head: Head, now: int) -> Head:
    """The head, whose timers are due now."""
    rows = {
        task: row if row.due is None else row._replace(due=now) for task, row in head.rows.items()
    }
    return head._replace(rows=rows)


def armed(head: Head) -> dict[CID, tuple[Workflow, Any]]:
    """The tasks that a head waits for, in the order of its open effects."""
    return {
        task: (one.workflow, one.plan.leaves[leaf])
        for one in head.open
        for leaf, task in sorted(one.armed.items())
    }
