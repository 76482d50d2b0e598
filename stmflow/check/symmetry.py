"""A machine that knows what may trade places, and makes sure that it may.

Two rows that trade places are a *swap*: it takes sends to sends, jobs to jobs, worlds to worlds, so
states to states. Which head becomes which is nowhere declared: it is found, by making each request
once more as it is after the swap. If the engine answers the same, but for the names, both requests
tell which jobs, heads, tasks and outcomes correspond; if it does not, the rows are not alike, and
that is an error. So every swap is known to take steps to steps, wherever the search comes.

All orders of all rows are the group that the swaps generate. Of the states that it takes into each
other, the least is explored for all (Clarke, Enders, Filkorn and Jha, *Exploiting symmetry in
temporal logic model checking*, 1996; Ip and Dill, *Better verification through symmetry*, 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from math import factorial, prod
from operator import itemgetter
from typing import Any, NamedTuple

from stmflow.check.engine import START, Branch, Result
from stmflow.check.machine import Machine
from stmflow.check.model import Alike, Check
from stmflow.check.numbers import (
    BODY,
    LATE,
    LOSE,
    MOVE,
    PERFORM,
    RUN,
    SEND,
    SETTLE,
    WAKE,
    Action,
    State,
)
from stmflow.errors import InvalidWorkflow
from stmflow.workflow import Job

MOST = 5_040
"""Orders of all rows: a state is compared with so many others."""

Order = tuple[int, ...]
"""Where each send and each transaction goes: what an order of the rows is."""


class Turn(NamedTuple):
    """An order of the rows, as it takes numbers to numbers; `back` does so with the whole row of
    what each send has left."""

    sends: Order
    back: Callable[[tuple[int | None, ...]], tuple[int | None, ...]]
    jobs: dict[int, int]
    locals: dict[int, int]
    worlds: dict[int, int]
    leaves: dict[int, int]
    outcomes: dict[int, int]

    def state(self, state: State) -> State:
        """That state, with the rows in this order."""
        now, world, locals, flights, late, left = state
        jobs, heads = self.jobs, self.locals
        placed = [0] * len(locals)
        for job, local in enumerate(locals):
            if local:
                to = jobs[job]
                if to >= len(placed):
                    placed += [0] * (to + 1 - len(placed))
                placed[to] = heads[local]
        while placed and not placed[-1]:
            placed.pop()
        if flights:
            outcomes = self.outcomes
            flights = tuple(sorted([(jobs[job], at, outcomes[one]) for job, at, one in flights]))
        if late:
            late = tuple(sorted([self.leaves[leaf] for leaf in late]))
        return now, self.worlds[world], tuple(placed), flights, late, self.back(left)

    def action(self, action: Action, sends: int) -> Action:
        """That step, with the rows in this order; `sends`: how many are no transactions."""
        kind, *rest = action
        if kind == SEND:
            return (SEND, self.sends[rest[0]], *rest[1:])
        if kind == BODY:
            return (BODY, self.sends[rest[0] + sends] - sends, *rest[1:])
        if kind in (MOVE, LATE):
            return action
        if kind == WAKE:
            return (WAKE, self.leaves[rest[0]], self.worlds[rest[1]])
        job, leaf, *more = rest
        if kind in (PERFORM, SETTLE, LOSE):
            more[1] = self.outcomes[more[1]]
        return (kind, self.jobs[job], self.leaves[leaf], *more)

    def request(self, request: Action) -> Action:
        """What is asked of the engine, with the rows in this order."""
        kind, *rest = request
        if kind in (SEND, BODY):
            rest[0] = self.sends[rest[0]]
        elif kind == PERFORM:
            rest[:2] = self.leaves[rest[0]], self.worlds[rest[1]]
        elif kind in (RUN, SETTLE):
            rest[0] = self.jobs[rest[0]]
        if kind == SETTLE and rest[2] is not None:
            rest[2] = self.outcomes[rest[2]]
        return (kind, *rest)


class _Itself(dict[int, int]):
    """What nothing was related to stays what it is."""

    def __missing__(self, number: int) -> int:
        return self.setdefault(number, number)


class _After(dict[int, int]):
    """One table after another, as far as it was asked."""

    def __init__(self, first: Mapping[int, int], then: Mapping[int, int]) -> None:
        super().__init__()
        self._first = first
        self._then = then

    def __missing__(self, number: int) -> int:
        found = self[number] = self._then[self._first[number]]
        return found


class Swap(NamedTuple):
    """Two rows of an `Alike` that trade places: what generates all orders."""

    alike: Alike
    one: int
    other: int
    turn: Turn


class Mirrored(Machine):
    """A machine whose requests are all made again with rows traded.

    Attributes:
        turns: every order of the rows, the one as declared first.
    """

    def __init__(self, check: Check) -> None:
        super().__init__(check)
        self._closed = 0
        self.swaps = [
            self._swap(alike, one, other)
            for alike in check.symmetric
            for one, other in pairwise(range(len(alike.rows)))
        ]
        self.turns = self._orders()
        self._number = {turn.sends: number for number, turn in enumerate(self.turns)}

    def first(self) -> State:
        """Where every behaviour begins, whatever the order of the rows."""
        self.world(self.check.world)
        self._close()
        first = super().first()
        for swap in self.swaps:
            if swap.turn.state(first) != first:
                raise self._unlike(swap, "the first state", "is another")
        return first

    # --- orders ---------------------------------------------------------------------------------

    def least(self, state: State) -> tuple[State, int]:
        """The least of what all orders make of a state, and the order that makes it."""
        best, by, world = state, 0, state[1]
        for number, turn in enumerate(self.turns):
            if number and turn.worlds[world] <= best[1]:
                other = turn.state(state)
                if other < best:
                    best, by = other, number
        return best, by

    def after(self, one: int, other: int) -> int:
        """The order that does what `other` does, and then what `one` does."""
        return self._number[_chain(self.turns[other].sends, self.turns[one].sends)]

    def back(self, one: int) -> int:
        """The order that undoes that one."""
        return self._number[_inverse(self.turns[one].sends)]

    def acted(self, turn: int, action: Action) -> Action:
        """A step as it is in that order."""
        return self.turns[turn].action(action, len(self._sends))

    def _orders(self) -> list[Turn]:
        """The group: the swaps, one after another, in every way."""
        size = len(self._sends) + len(self.check.transactions)
        itself = tuple(range(size))
        same = _Itself()
        found = {itself: Turn(itself, tuple, same, same, same, same, same)}
        wanted = prod(factorial(len(alike.rows)) for alike in self.check.symmetric)
        if wanted > MOST:
            raise InvalidWorkflow(f"{wanted:,} orders of what is alike; {MOST:,} at most")
        queue = list(found.values())
        for one in queue:
            for swap in self.swaps:
                sends = _chain(one.sends, swap.turn.sends)
                if sends not in found:
                    found[sends] = _then(one, swap.turn)
                    queue.append(found[sends])
        if len(found) != wanted:
            raise InvalidWorkflow(
                f"the rows that are alike have {wanted} orders together, but {len(found)} of what "
                f"is sent: every row needs a send or transaction that is its own"
            )
        return queue

    def _swap(self, alike: Alike, one: int, other: int) -> Swap:
        """The swap of two rows, as far as it is declared."""
        offered: list[Any] = [*self.check.sends, *self.check.transactions]
        sends = list(range(len(offered)))
        swap = Swap(alike, one, other, Turn((), tuple, {}, {0: 0}, {}, {}, _Itself()))
        if len(alike.rows[one]) != len(alike.rows[other]):
            raise self._unlike(swap, "one row", "is longer")
        for mine, its in zip(alike.rows[one], alike.rows[other], strict=True):
            if isinstance(mine, Job) and isinstance(its, Job):
                self._relate(swap, "jobs", self.number(mine), self.number(its))
                continue
            if isinstance(mine, Job) or isinstance(its, Job) or type(mine) is not type(its):
                raise self._unlike(swap, f"{mine} and {its}", "are of two kinds")
            if mine not in offered or its not in offered:
                raise self._unlike(swap, f"{mine} or {its}", "is not of the check")
            if (mine.times, mine.fair) != (its.times, its.fair):
                raise self._unlike(swap, f"{mine} and {its}", "do not come as often")
            at, to = offered.index(mine), offered.index(its)
            sends[at], sends[to] = to, at
        swap = swap._replace(turn=swap.turn._replace(sends=tuple(sends), back=_row(sends)))
        for at, (job, _) in enumerate(self._sends):
            self._relate(swap, "jobs", job, self._sends[sends[at]][0])
        return swap

    # --- what the engine says to it -------------------------------------------------------------

    def _missed(self, request: Action, state: State) -> Result:
        """The request, and all that it is in other orders: together they are made only once."""
        found, reads = self.run(request, state)
        self._close()
        asked = [(request, state, found, reads)]
        for one, at, result, read in asked:
            for swap in self.swaps:
                other, there = swap.turn.request(one), swap.turn.state(at)
                known = self._known(other, there)
                answer, seen = known or self.run(other, there)
                self._close()
                self._compare(swap, one, (result, read), (answer, seen))
                if known is None:
                    asked.append((other, there, answer, seen))
        return found

    def _known(self, request: Action, state: State) -> tuple[Result, list[int]] | None:
        """What was answered to it, and what it has read."""
        node, reads, locals = self._trie.get(request), list[int](), state[2]
        while isinstance(node, Branch):
            reads.append(node.job)
            node = node.next.get(locals[node.job] if node.job < len(locals) else 0)
        return None if node is None else (node, reads)

    def _compare(
        self,
        swap: Swap,
        request: Action,
        mine: tuple[Result, Sequence[int]],
        its: tuple[Result, Sequence[int]],
    ) -> None:
        """Both answers are the same, up to names; which stands for which is written down."""
        one, other = mine[0], its[0]
        what = f"the answer to {self._words(request)}"
        if (one.kind, one.wrong is None) != (other.kind, other.wrong is None):
            raise self._unlike(swap, what, f"is {one.kind} for one, {other.kind} for the other")
        known = [job for job in mine[1] if job in swap.turn.jobs]
        met = {swap.turn.jobs[job] for job in known}
        new = [job for job in mine[1] if job not in swap.turn.jobs]
        rest = [job for job in its[1] if job not in met]
        if len(rest) != len(new) or not met <= set(its[1]):
            raise self._unlike(swap, what, "is about other jobs")
        for job, to in zip(new, rest, strict=True):
            self._relate(swap, "jobs", job, to)
        changes = {job: (local, places) for job, local, places in other.changes}
        if {swap.turn.jobs[job] for job, _, _ in one.changes} != set(changes):
            raise self._unlike(swap, what, "changes other jobs")
        for job, local, places in one.changes:
            to, moved = changes[swap.turn.jobs[job]]
            self._same_local(swap, what, local, to)
            if places != moved:
                raise self._unlike(swap, what, "leaves other tasks")
        if len(one.pairs) != len(other.pairs):
            raise self._unlike(swap, what, "has other outcomes")
        pairs = sorted(one.pairs, key=lambda pair: swap.turn.worlds[pair[1]])
        for (outcome, world), (told, there) in zip(
            pairs, sorted(other.pairs, key=lambda pair: pair[1]), strict=True
        ):
            self._relate(swap, "worlds", world, there)
            self._relate(swap, "outcomes", outcome, told)

    def _same_local(self, swap: Swap, what: str, one: int, other: int) -> None:
        """Two heads become each other: they wait for the same, in the same order."""
        self._relate(swap, "locals", one, other)
        mine, its = self.locals[one], self.locals[other]
        assert mine is not None
        assert its is not None
        if [task.due for task in mine.tasks] != [task.due for task in its.tasks]:
            raise self._unlike(swap, what, "asks for other tasks")
        for task, to in zip(mine.tasks, its.tasks, strict=True):
            leaf, twin = self.leaves[task.leaf], self.leaves[to.leaf]
            if task.due is None and type(leaf.task) is not type(twin.task):
                raise self._unlike(swap, what, "asks for other tasks")
            self._relate(swap, "leaves", task.leaf, to.leaf)

    def moved(self, which: int, world: int, now: int) -> tuple[int, ...]:
        """A move of the world, and its twins."""
        asked, found = [world], super().moved(which, world, now)
        self._close()
        for one in asked:
            mine = self._moved[(which, one, now)]
            for swap in self.swaps:
                there = swap.turn.worlds[one]
                if (which, there, now) not in self._moved:
                    super().moved(which, there, now)
                    self._close()
                    asked.append(there)
                if {swap.turn.worlds[to] for to in mine} != {*self._moved[(which, there, now)]}:
                    move = self.check.moves[which].label
                    raise self._unlike(swap, f"what {move} does", "is another thing for each")
        return found

    def _close(self) -> None:
        """Every world has its twins; and what is back at its place for sends is so for worlds."""
        began = self._closed
        while self._closed < len(self.worlds):
            number, value = self._closed, self.worlds[self._closed]
            for swap in self.swaps:
                twin = self.world(swap.alike.world(value, swap.one, swap.other))
                self._relate(swap, "worlds", number, twin)
            self._closed += 1
        for one, other in combinations(self.swaps, 2):
            times = _order(_chain(one.turn.sends, other.turn.sends))
            for number in range(began, self._closed):
                at = number
                for _ in range(times):
                    at = other.turn.worlds[one.turn.worlds[at]]
                if at != number:
                    raise self._unlike(other, "a world", "depends on what traded places before")

    # --- what corresponds -----------------------------------------------------------------------

    def _relate(self, swap: Swap, kind: str, one: int, other: int) -> None:
        """These two trade places; each has one twin."""
        table: dict[int, int] = getattr(swap.turn, kind)
        if table.setdefault(one, other) != other or table.setdefault(other, one) != one:
            raise self._unlike(swap, f"one of the {kind}", "would have to become two things")

    def _words(self, request: Action) -> str:
        kind, *rest = request
        if kind == SEND:
            return str(self._sends[rest[0]][1])
        if kind == BODY:
            return str(self.check.transactions[rest[0] - len(self._sends)].label)
        if kind == PERFORM:
            return repr(self.leaves[rest[0]].task)
        return "the start" if kind == START else f"an outcome of {self.jobs[rest[0]].workflow}"

    def _unlike(self, swap: Swap, what: str, how: str) -> InvalidWorkflow:
        return InvalidWorkflow(
            f"rows {swap.one} and {swap.other} are not alike: when they trade places, {what} {how}"
        )


def _chain(first: Order, then: Order) -> Order:
    return tuple(then[at] for at in first)


def _then(one: Turn, other: Turn) -> Turn:
    sends = _chain(one.sends, other.sends)
    return Turn(
        sends,
        _row(sends),
        _After(one.jobs, other.jobs),
        _After(one.locals, other.locals),
        _After(one.worlds, other.worlds),
        _After(one.leaves, other.leaves),
        _After(one.outcomes, other.outcomes),
    )


def _order(sends: Order) -> int:
    """How often it must come for everything to be where it was."""
    times, at = 1, sends
    while at != tuple(range(len(sends))):
        times, at = times + 1, _chain(at, sends)
    return times


def _row(order: Sequence[int]) -> Any:
    """Takes what stands at each place to where it goes."""
    return itemgetter(*_inverse(order)) if len(order) > 1 else tuple


def _inverse(order: Sequence[int]) -> Order:
    return tuple(at for _, at in sorted((to, at) for at, to in enumerate(order)))
