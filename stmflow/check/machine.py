"""The engine as a graph: states of a model, and every step out of them.

A state is six small integers and tuples of them, so that millions fit: the time, the world, each
job's *local* (its head up to what may be told apart), the answers under way, the attempts of
workers that lost their lease, and how often each client may still send. What stands behind a number
is kept once, in tables (`numbers.py`); what a job makes of a request is production code, run once
for all states that agree on what it reads (`engine.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from stmflow.check.engine import FAILED, START, WAITS, Branch, Engine, Result
from stmflow.check.model import Check, blaming, timed
from stmflow.check.numbers import (
    BODY,
    FAULTS,
    FIRE,
    LATE,
    LOSE,
    MOVE,
    PARKED,
    PERFORM,
    RUN,
    SEND,
    SETTLE,
    SOME,
    STALL,
    WAKE,
    Action,
    Flight,
    State,
    Waiting,
)
from stmflow.effect import Sleep
from stmflow.errors import InvalidWorkflow
from stmflow.workflow import Job


class Told(NamedTuple):
    """A step in words: what happened, to which job, by which event or task, and what came of it."""

    what: str
    job: Job | None
    by: Any
    outcome: Any = None
    answer: str = ""


class Successor(NamedTuple):
    """A step: what it is, where it leads, and what is wrong with it (None: nothing)."""

    action: Action
    state: State
    wrong: str | None = None


class Machine(Engine):
    """Everything that can happen in a model."""

    def __init__(self, check: Check) -> None:
        super().__init__(check)
        self._moves = [timed(move.worlds, 2) for move in check.moves]
        self._moved: dict[Any, tuple[int, ...]] = {}

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
        result = self.ask((START, check.at), empty)
        if result.wrong is not None:
            raise InvalidWorkflow(f"the start of the check failed: {result.wrong}")
        return self._after(empty, result)

    def again(self, request: Action, state: State) -> None:
        """Something that was asked before, by a machine of which this one is the twin."""
        if request[0] == MOVE:
            self.moved(*request[1:])
            self.asked.append((request, state))
        else:
            self.ask(request, state)

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
                result = self.ask((SEND, which, now), state)
                action: Action = (SEND, which, result.kind)
            else:
                result = self.ask((BODY, which, now), state)
                action = (BODY, which - len(self._sends), result.kind)
            if result.changes or result.wrong is not None:
                self.taken.add(("send" if which < len(self._sends) else "transact", action[1]))
                after = self._after(state, result)
                if times is not None:
                    after = (*after[:5], (*left[:which], times - 1, *left[which + 1 :]))
                yield Successor(action, after, result.wrong)

    def _by_world(self, state: State) -> Iterator[Successor]:
        now, world = state[0], state[1]
        for which in range(len(self._moves)):
            found = self._moved.get((which, world, now))
            if found is None:
                found = self.moved(which, world, now)
                self.asked.append(((MOVE, which, world, now), state))
            for choice, after in enumerate(found):
                self.taken.add(("move", which))
                yield Successor((MOVE, which, choice), (now, after, *state[2:]))

    def moved(self, which: int, world: int, now: int) -> tuple[int, ...]:
        """The worlds that a move makes of this one."""
        with blaming(f"the move {self.check.moves[which].label!r}"):
            worlds = dict.fromkeys(map(self.world, self._moves[which](self.worlds[world], now)))
        found = tuple(one for one in worlds if one != world)
        self._moved[(which, world, now)] = found
        return found

    def _perform(self, state: State, job: int, place: int, task: Waiting) -> Iterator[Successor]:
        if type(self.leaves[task.leaf].task) in self.check.tasks:
            yield from self._run(state, job, place, task)
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
        kind = type(self.leaves[leaf].task)
        if kind not in self.handlers:
            raise InvalidWorkflow(f"the check has no handler for {kind.__name__}")
        result = self.ask((PERFORM, leaf, world, now), state)
        for outcome, after in result.pairs:
            yield outcome, after, result
        if result.wrong is not None and not result.pairs:
            yield self._outcome(FAILED), world, result

    def _run(self, state: State, job: int, place: int, task: Waiting) -> Iterator[Successor]:
        """A task that is a transaction: performed and settled in one commit, or it waits."""
        result = self.ask((RUN, job, place, state[0]), state)
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
        result = self.ask((SETTLE, job, place, outcome, now), state)
        gone = (now, world, locals, rest, late, left)
        landed = self._landed(gone, job, place, result)
        yield Successor((SETTLE, job, task.leaf, place, outcome, result.kind), landed, result.wrong)
        if self.check.faults.lost:
            yield Successor((LOSE, job, task.leaf, place, outcome), gone)

    def _fire(self, state: State, job: int, place: int, task: Waiting) -> Successor:
        assert task.due is not None
        now = max(state[0], task.due)
        result = self.ask((SETTLE, job, place, None, now), state)
        after = self._landed((now, *state[1:]), job, place, result)
        return Successor((FIRE, job, task.leaf, place, result.kind), after, result.wrong)

    def _landed(self, state: State, job: int, place: int, result: Result) -> State:
        """The state after an outcome was delivered: accepted, or its task parked."""
        if result.kind != "parked":
            return self._after(state, result)
        parked = tuple(sorted((*state[3], (job, place, PARKED))))
        return (*state[:3], parked, *state[4:])

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


__all__ = [
    "BODY",
    "FAULTS",
    "FIRE",
    "LATE",
    "LOSE",
    "MOVE",
    "PARKED",
    "PERFORM",
    "RUN",
    "SEND",
    "SETTLE",
    "SOME",
    "STALL",
    "WAITS",
    "WAKE",
    "Action",
    "Branch",
    "Flight",
    "Machine",
    "Result",
    "Sleep",
    "State",
    "Successor",
    "Told",
]
