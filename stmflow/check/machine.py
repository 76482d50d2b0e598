"""The engine as a graph: states of a model, and every step out of them.

A state is six small integers and tuples of them, so that millions fit: the time, the world, each
job's *local* (its head up to what may be told apart), the answers under way, the attempts of
workers that lost their lease, and how often each client may still send. What stands behind a number
is kept once, in tables.

A step of a job is the production code: `Tx` and `Draft` on the head that the local stands for. It
is pure, so it is run once for all states that agree on what it reads; what it reads first decides
what it reads next, so its results are kept in a trie over its reads.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.cell import CELL
from stmflow.check.answers import Answer, answered
from stmflow.check.model import Check, timed
from stmflow.cid import CID
from stmflow.effect import Err, Outcome, Sleep, outcome_bytes
from stmflow.errors import InvalidWorkflow, StmflowError
from stmflow.job import Head, Parked
from stmflow.schema import tag_of
from stmflow.transaction import Retry, Tx
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
"""What a step is: its kind, then numbers that only the machine reads; `Machine.said` tells it."""

SEND, BODY, MOVE, PERFORM, SETTLE, FIRE, RUN, LOSE, STALL, WAKE, LATE = range(11)
FAULTS = (LOSE, STALL, WAKE, LATE)
"""Steps that come finitely often in every behaviour of which liveness is asked."""


SOME = 8
"""Events of each type that are kept, to try what no behaviour comes to."""

WAITS = "waits"
"""The kind of a transaction that has retried: it changes nothing before something else does."""


Pairs = Sequence[tuple[int, int]]


class Waiting(NamedTuple):
    """A task that a local waits for. `leaf` is what it is, `due` is set for timers."""

    id: CID
    leaf: int
    due: int | None


class Local(NamedTuple):
    """One job, up to what its future can tell apart: numbers of revisions are no part of it."""

    head: Head
    tasks: tuple[Waiting, ...]


class Result(NamedTuple):
    """What a step of the engine comes to, on what it has read.

    Attributes:
        changes: (job, its new local, old place of a task → new place, or -1) for each write.
        kind: the answer's, for traces. wrong: what may never happen, or None.
        pairs: of an attempt of a handler: (outcome, world) of each result that it may have.
    """

    changes: tuple[tuple[int, int, tuple[int, ...]], ...]
    kind: str
    wrong: str | None = None
    pairs: Pairs = ()


class Told(NamedTuple):
    """A step in words: what happened, to which job, by which event or task, and what came of it."""

    what: str
    job: Job | None
    by: Any
    outcome: Any = None
    answer: str = ""


class Branch:
    """A node of the trie: which job is read next, and what follows for each local of it."""

    __slots__ = ("job", "next")

    def __init__(self, job: int) -> None:
        self.job = job
        self.next: dict[int, Branch | Result] = {}


class Successor(NamedTuple):
    """A step: what it is, where it leads, and what is wrong with it (None: nothing)."""

    action: Action
    state: State
    wrong: str | None = None


class Machine:
    """Everything that can happen in a model.

    Attributes:
        cells: (workflow, state tag, event tag) → what `update` has answered there, counted.
        events: (workflow, event tag) → some of the events that came.
        taken: (kind, number) of every send, transaction and move that has done something.
        runs: how often the engine itself was asked.
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
        self._trie: dict[Any, Branch | Result] = {}
        self.handlers = {kind: timed(model, 4) for kind, model in check.handlers.items()}
        self._moves = [timed(move.worlds, 2) for move in check.moves]
        self._moved: dict[Any, tuple[int, ...]] = {}
        self._sends: list[tuple[int, Any]] = []
        for send in check.sends:
            job = send.job or self.home(send.event).job_of(send.event)
            self._sends.append((self.number(job), send.event))
        self.runs = 0
        self.taken: set[tuple[str, int]] = set()

    def home(self, event: Any) -> Workflow:
        """The first workflow of the check that has the event."""
        for workflow in self.check.workflows:
            if workflow.declares(type(event)):
                return workflow
        raise InvalidWorkflow(f"no workflow of the check has the event {type(event).__name__}")

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

    # --- numbers --------------------------------------------------------------------------------

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
        found = self._world_of.get(value)
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
        for task, (workflow, leaf) in _armed(head).items():
            yield Waiting(task, self._leaf(workflow, leaf), head.rows[task].due)

    # --- the first state ------------------------------------------------------------------------

    def first(self) -> State:
        """Where every behaviour begins. Raises what `start` raises."""
        check = self.check
        left = (
            *(send.times for send in check.sends),
            *(body.times for body in check.transactions),
        )
        empty: State = (check.at, self.world(check.world), (), (), (), left)
        if check.start is None:
            return empty
        result = self._engine(("start",), empty, partial(self._transact, check.start))
        if result.wrong is not None:
            raise InvalidWorkflow(f"the start of the check failed: {result.wrong}")
        return self._after(empty, result)

    # --- steps ----------------------------------------------------------------------------------

    def successors(self, state: State) -> Iterator[Successor]:
        """Every step out of a state."""
        yield from self._by_clients(state)
        yield from self._by_world(state)
        flying = {(job, place) for job, place, _ in state[3]}
        for job, number in enumerate(state[2]):
            local = self.locals[number]
            if local is None:
                continue
            for place, task in enumerate(local.tasks):
                if (job, place) in flying:
                    continue
                if task.due is not None:
                    yield self._fire(state, job, place, task)
                else:
                    yield from self._perform(state, job, place, task)
        for at, flight in enumerate(state[3]):
            if flight[2] != PARKED:
                yield from self._answered(state, at, flight)
        for at, leaf in enumerate(state[4]):
            if leaf not in state[4][:at]:
                yield from self._wake(state, at, leaf)
        if self.check.faults.overdue:
            yield from self._late(state)

    def _by_clients(self, state: State) -> Iterator[Successor]:
        now, left = state[0], state[5]
        for which, times in enumerate(left):
            if times == 0:
                continue
            if which < len(self._sends):
                job, event = self._sends[which]
                result = self._send(state, now, job, event, which)
                action: Action = (SEND, which, result.kind)
            else:
                body = self.check.transactions[which - len(self._sends)].body
                act = partial(self._transact, body)
                result = self._engine((BODY, which, now), state, act)
                action = (BODY, which - len(self._sends), result.kind)
            if result.changes or result.wrong is not None:
                self.taken.add(("send" if which < len(self._sends) else "transact", action[1]))
                after = self._after(state, result)
                if times is not None:
                    after = (*after[:5], (*left[:which], times - 1, *left[which + 1 :]))
                yield Successor(action, after, result.wrong)

    def _send(self, state: State, now: int, job: int, event: Any, which: int) -> Result:
        def send(tx: Tx) -> str:
            verdict = tx.draft(self.jobs[job]).send(event)
            return verdict.code or verdict.kind

        return self._engine((SEND, which, now), state, send)

    def _transact(self, body: Any, tx: Tx) -> str:
        body(tx)
        return "committed"

    def _by_world(self, state: State) -> Iterator[Successor]:
        now, world = state[0], state[1]
        for which, move in enumerate(self._moves):
            key = (which, world, now)
            found = self._moved.get(key)
            if found is None:
                worlds = dict.fromkeys(self.world(one) for one in move(self.worlds[world], now))
                found = self._moved[key] = tuple(one for one in worlds if one != world)
            for choice, after in enumerate(found):
                self.taken.add(("move", which))
                yield Successor((MOVE, which, choice), (now, after, *state[2:]))

    def _perform(self, state: State, job: int, place: int, task: Waiting) -> Iterator[Successor]:
        kind = type(self.leaves[task.leaf].task)
        if kind in self.check.tasks:
            yield from self._run(state, job, place, task, self.check.tasks[kind])
            return
        now, _, locals, flights, late, left = state
        for outcome, world, result in self._attempt(state, task.leaf):
            flown = tuple(sorted((*flights, (job, place, outcome))))
            after = self._after((now, world, locals, flown, late, left), result)
            yield Successor((PERFORM, job, task.leaf, place, outcome), after, result.wrong)
        if len(late) < self.check.faults.late:
            stalled = tuple(sorted((*late, task.leaf)))
            yield Successor((STALL, job, task.leaf, place), (*state[:4], stalled, state[5]))

    def _attempt(self, state: State, leaf: int) -> Iterator[tuple[int, int, Result]]:
        """(outcome, world, what it has written) of everything that one attempt may come to."""
        now, world = state[0], state[1]
        task = self.leaves[leaf].task
        model = self.handlers.get(type(task))
        if model is None:
            raise InvalidWorkflow(f"the check has no handler for {type(task).__name__}")
        pairs: list[tuple[int, int]] = []

        def attempt(tx: Tx) -> str:
            for outcome, after in model(task, self.worlds[world], now, tx):
                pairs.append((self._outcome(outcome), self.world(after)))
            return "performed"

        result = self._engine((PERFORM, leaf, world, now), state, attempt, pairs)
        for outcome, after in result.pairs:
            yield outcome, after, result
        if result.wrong is not None and not result.pairs:
            yield self._outcome(Err("Failed")), world, result

    def _run(
        self, state: State, job: int, place: int, task: Waiting, body: Callable[[Tx, Any], Any]
    ) -> Iterator[Successor]:
        """A task that is a transaction: performed and settled in one commit, or it waits."""
        value = self.leaves[task.leaf].task

        def run(tx: Tx) -> str:
            draft = tx.draft(self.jobs[job])
            return draft.settle(task.id, tx.run(draft, body, value)).kind

        result = self._engine((RUN, job, place, state[0]), state, run)
        if result.kind != WAITS:
            after = self._landed(state, job, place, result)
            yield Successor((RUN, job, task.leaf, place, result.kind), after, result.wrong)

    def _answered(self, state: State, at: int, flight: Flight) -> Iterator[Successor]:
        """An answer arrives, or is lost."""
        now, world, locals, flights, late, left = state
        job, place, outcome = flight
        rest = (*flights[:at], *flights[at + 1 :])
        local = self.locals[locals[job]]
        assert local is not None
        task = local.tasks[place]
        result = self._settle(state, now, job, place, task.id, outcome)
        gone = (now, world, locals, rest, late, left)
        landed = self._landed(gone, job, place, result)
        yield Successor((SETTLE, job, task.leaf, place, outcome, result.kind), landed, result.wrong)
        if self.check.faults.lost:
            yield Successor((LOSE, job, task.leaf, place, outcome), gone)

    def _fire(self, state: State, job: int, place: int, task: Waiting) -> Successor:
        assert task.due is not None
        now = max(state[0], task.due)
        result = self._settle(state, now, job, place, task.id, None)
        after = self._landed((now, *state[1:]), job, place, result)
        return Successor((FIRE, job, task.leaf, place, result.kind), after, result.wrong)

    def _landed(self, state: State, job: int, place: int, result: Result) -> State:
        """The state after an outcome was delivered: accepted, or its task parked."""
        if result.kind != "parked":
            return self._after(state, result)
        parked = tuple(sorted((*state[3], (job, place, PARKED))))
        return (*state[:3], parked, *state[4:])

    def _settle(
        self, state: State, now: int, job: int, place: int, task: CID, outcome: int | None
    ) -> Result:
        def settle(tx: Tx) -> str:
            value = None if outcome is None else self.outcomes[outcome]
            return tx.draft(self.jobs[job]).settle(task, value).kind

        return self._engine((SETTLE, job, place, outcome, now), state, settle)

    def _wake(self, state: State, at: int, leaf: int) -> Iterator[Successor]:
        """A worker that had lost its lease does what it was about to do; nobody hears of it."""
        now, world, locals, flights, late, left = state
        rest = (*late[:at], *late[at + 1 :])
        for _, after, result in self._attempt(state, leaf):
            if after != world or result.changes or result.wrong is not None:
                woken = self._after((now, after, locals, flights, rest, left), result)
                yield Successor((WAKE, leaf, after), woken, result.wrong)

    def _late(self, state: State) -> Iterator[Successor]:
        """Time passes the next deadline, and its timer has not fired yet."""
        now = state[0]
        dues = [
            task.due
            for local in (self.locals[number] for number in state[2])
            if local is not None
            for task in local.tasks
            if task.due is not None and task.due >= now
        ]
        if dues:
            yield Successor((LATE, min(dues) + 1), (min(dues) + 1, *state[1:]))

    def _after(self, state: State, result: Result) -> State:
        """The state with these writes, and answers to closed tasks dropped."""
        if not result.changes:
            return state
        now, world, locals, flights, late, left = state
        grown = list(locals)
        for job, local, places in result.changes:
            if job >= len(grown):
                grown += [0] * (job + 1 - len(grown))
            grown[job] = local
            if flights:
                flights = tuple(
                    sorted(
                        (whose, places[place] if whose == job else place, outcome)
                        for whose, place, outcome in flights
                        if whose != job or places[place] >= 0
                    )
                )
        return now, world, tuple(grown), flights, late, left

    # --- the engine -----------------------------------------------------------------------------

    def _engine(
        self, key: Action, state: State, act: Callable[[Tx], str], pairs: Pairs = ()
    ) -> Result:
        """What the engine makes of a request in this state; `act` may fill `pairs`."""
        locals = state[2]
        node = self._trie.get(key)
        while type(node) is Branch:
            node = node.next.get(locals[node.job] if node.job < len(locals) else 0)
        if type(node) is Result:
            return node
        return self._run_engine(key, state, act, pairs)

    def _run_engine(
        self, key: Action, state: State, act: Callable[[Tx], str], pairs: Pairs
    ) -> Result:
        now, locals = key[-1] if key[0] != "start" else state[0], state[2]

        def read(job: CID) -> Head | None:
            number = self._job_of.get(job)
            if number is None or number >= len(locals):
                return None
            local = self.locals[locals[number]]
            return None if local is None else local.head

        self.runs += 1
        tx = Tx(read, self.registry, now, transactional=self.check.transactional)
        try:
            kind = act(tx)
            result = self._finished(tx, kind)._replace(pairs=tuple(dict.fromkeys(pairs)))
        except Retry:
            result = Result((), WAITS)
        except Parked as parked:
            text = f"parked: {parked.error.name}: {parked.error.detail}"
            result = Result((), "parked", _alarm(tx) or text)
        except StmflowError as error:
            text = f"failed: {type(error).__name__}: {error}"
            result = Result((), "failed", _alarm(tx) or text)
        self._keep(key, state, [self._seen(job) for job in tx.seen], result)
        return result

    def _seen(self, job: CID) -> int:
        found = self._job_of.get(job)
        if found is None:  # absent, and read before anybody has named it
            found = self._job_of[job] = len(self.jobs)
            self.jobs.append(Job("", (), job))
        return found

    def _keep(self, key: Action, state: State, reads: Sequence[int], result: Result) -> None:
        """Put the result where the same reads lead to it."""
        locals = state[2]
        tree: dict[Any, Branch | Result] = self._trie
        at: Any = key
        for job in reads:
            node = tree.get(at)
            if node is None:
                node = tree[at] = Branch(job)
            assert isinstance(node, Branch)
            tree, at = node.next, locals[job] if job < len(locals) else 0
        tree[at] = result

    def _finished(self, tx: Tx, kind: str) -> Result:
        planned = tx.plan(None, lambda job, armed: (armed.kind, "", None))
        changes = []
        for head in planned.heads:
            number = self._named(Job(head.name, head.key, head.job))
            before = tx.seen[head.job]
            places = _places(before, head)
            changes.append((number, self._local(head), places))
        wrong = f"impossible: {planned.alarms[0]}" if planned.alarms else None
        return Result(tuple(changes), kind, wrong)

    def _named(self, job: Job) -> int:
        number = self.number(job)
        if not self.jobs[number].workflow:
            self.jobs[number] = job
        return number

    # --- words ----------------------------------------------------------------------------------

    def told(self, action: Action) -> Told:
        """What a step is, in the workflow's own words."""
        kind, *rest = action
        if kind == SEND:
            send = self.check.sends[rest[0]]
            return Told("send", self.jobs[self._sends[rest[0]][0]], send.event, answer=rest[1])
        if kind == BODY:
            return Told("transact", None, self.check.transactions[rest[0]].label, answer=rest[1])
        if kind == MOVE:
            return Told("world", None, self.check.moves[rest[0]].label)
        if kind == WAKE:
            return Told("late", None, _task(self.leaves[rest[0]]))
        if kind == LATE:
            return Told("time", None, "a timer is overdue")
        job, task = self.jobs[rest[0]], _task(self.leaves[rest[1]])
        if kind == PERFORM:
            return Told("perform", job, task, outcome=self.outcomes[rest[3]])
        if kind == SETTLE:
            return Told("settle", job, task, outcome=self.outcomes[rest[3]], answer=rest[4])
        if kind == LOSE:
            return Told("answer lost", job, task, outcome=self.outcomes[rest[3]])
        if kind == STALL:
            return Told("lease lost", job, task)
        return Told("fire" if kind == FIRE else "run", job, task, answer=str(rest[-1]))

    def performed(self) -> Iterator[Any]:
        """Every task of which an attempt was made."""
        for key in self._trie:
            if key[0] == PERFORM:
                yield _task(self.leaves[key[1]])

    def rests(self, state: State) -> bool:
        """Whether no task, timer or answer is under way; what is parked is not."""
        waiting = sum(len(local.tasks) for one in state[2] if (local := self.locals[one]))
        return waiting == sum(flight[2] == PARKED for flight in state[3])


def _task(leaf: Any) -> Any:
    return leaf if isinstance(leaf, Sleep) else leaf.task


def _alarm(tx: Tx) -> str | None:
    """What answered *impossible* in a transaction that came to nothing."""
    alarms = [alarm for draft in tx.drafts.values() for alarm in draft.alarms]
    return f"impossible: {alarms[0]}" if alarms else None


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


def _armed(head: Head) -> dict[CID, tuple[Workflow, Any]]:
    """The tasks that a head waits for, in the order of its open effects."""
    return {
        task: (one.workflow, one.plan.leaves[leaf])
        for one in head.open
        for leaf, task in sorted(one.armed.items())
    }


def _places(before: Head | None, after: Head) -> tuple[int, ...]:
    """Old place of each task → its new place, or -1."""
    if before is None:
        return ()
    new = {task: place for place, task in enumerate(_armed(after))}
    return tuple(new.get(task, -1) for task in _armed(before))


__all__ = ["FAULTS", "Action", "Machine", "Sleep", "State", "Successor"]
