"""What the engine makes of a request, run once for all states that agree on what it reads.

What runs is production code: `Tx` and `Draft` on the heads that a state stands for. It is pure, and
what it reads first decides what it reads next, so results are kept in a trie over reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from stmflow.check.model import Check, WrongModel, blaming, timed
from stmflow.check.numbers import BODY, PERFORM, RUN, SEND, Action, Numbers, State, armed
from stmflow.cid import CID
from stmflow.effect import Err
from stmflow.errors import StmflowError
from stmflow.job import Head, Parked
from stmflow.transaction import Retry, Tx
from stmflow.workflow import Job

FAILED = Err("Failed")
"""The outcome of an attempt whose handler has failed."""

START = "start"
"""The kind of the request that makes the first state."""

WAITS = "waits"
"""The kind of a transaction that has retried: it changes nothing before something else does."""

Pairs = Sequence[tuple[int, int]]


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


class Branch:
    """A node of the trie: which job is read next, and what follows for each local of it."""

    __slots__ = ("job", "next")

    def __init__(self, job: int) -> None:
        self.job = job
        self.next: dict[int, Branch | Result] = {}


class Engine(Numbers):
    """Requests and their results. A request is its kind, numbers, and last the time.

    Attributes:
        asked: what was asked of the engine and of moves, in that order: asked again, everything
            gets the same numbers. runs: how often the engine itself was asked.
        taken: (kind, number) of every send, transaction and move that has done something.
    """

    def __init__(self, check: Check) -> None:
        super().__init__(check)
        self._trie: dict[Any, Branch | Result] = {}
        self.handlers = {kind: timed(model, 4) for kind, model in check.handlers.items()}
        self._sends: list[tuple[int, Any]] = []
        for send in check.sends:
            job = send.job or self.home(send.event).job_of(send.event)
            self._sends.append((self.number(job), send.event))
        self.asked: list[tuple[Action, State]] = []
        self.runs = 0
        self.taken: set[tuple[str, int]] = set()

    def ask(self, request: Action, state: State) -> Result:
        """What the engine makes of a request in this state."""
        locals = state[2]
        node = self._trie.get(request)
        while type(node) is Branch:
            node = node.next.get(locals[node.job] if node.job < len(locals) else 0)
        if type(node) is Result:
            return node
        found = self._missed(request, state)
        self.asked.append((request, state))
        return found

    def _missed(self, request: Action, state: State) -> Result:
        """A request that nobody has made of these heads before."""
        return self.run(request, state)[0]

    def run(self, request: Action, state: State) -> tuple[Result, list[int]]:
        """The same, from the engine itself; and the jobs that it has read, in that order."""
        locals, pairs = state[2], list[tuple[int, int]]()

        def read(job: CID) -> Head | None:
            number = self._job_of.get(job)
            if number is None or number >= len(locals):
                return None
            local = self.locals[locals[number]]
            return None if local is None else local.head

        self.runs += 1
        tx = Tx(read, self.registry, request[-1], transactional=self.check.transactional)
        try:
            kind = self._act(request, state, pairs)(tx)
            result = self._finished(tx, kind)._replace(pairs=tuple(dict.fromkeys(pairs)))
        except Retry:
            result = Result((), WAITS)
        except Parked as parked:
            text = f"parked: {parked.error.name}: {parked.error.detail}"
            result = Result((), "parked", _alarm(tx) or text)
        except WrongModel:
            raise
        except StmflowError as error:
            text = f"failed: {type(error).__name__}: {error}"
            result = Result((), "failed", _alarm(tx) or text)
        if request[0] == PERFORM and result.wrong is not None:
            self._outcome(FAILED)  # nothing gets its number later than here
        reads = [self._seen(job) for job in tx.seen]
        self._keep(request, state, reads, result)
        return result, reads

    # --- requests -------------------------------------------------------------------------------

    def _act(
        self, request: Action, state: State, pairs: list[tuple[int, int]]
    ) -> Callable[[Tx], str]:
        """What a request does in a transaction; an attempt fills `pairs`."""
        kind, *rest = request
        if kind == START:
            assert self.check.start is not None
            return partial(_transact, self.check.start)
        if kind == SEND:
            return partial(self._sent, *self._sends[rest[0]])
        if kind == BODY:
            return partial(_transact, self.check.transactions[rest[0] - len(self._sends)].body)
        if kind == PERFORM:
            return partial(self._attempted, pairs, *rest)
        job, place = rest[0], rest[1]
        local = self.locals[state[2][job]]
        assert local is not None
        waiting = local.tasks[place]
        if kind == RUN:
            return partial(self._ran, self.jobs[job], waiting.id, self.leaves[waiting.leaf].task)
        outcome = None if rest[2] is None else self.outcomes[rest[2]]
        return partial(self._settled, self.jobs[job], waiting.id, outcome)

    def _sent(self, job: int, event: Any, tx: Tx) -> str:
        verdict = tx.draft(self.jobs[job]).send(event)
        return verdict.code or verdict.kind

    def _attempted(
        self, pairs: list[tuple[int, int]], leaf: int, world: int, now: int, tx: Tx
    ) -> str:
        task = self.leaves[leaf].task
        with blaming(f"the model of {type(task).__name__}"):
            for outcome, after in self.handlers[type(task)](task, self.worlds[world], now, tx):
                pairs.append((self._outcome(outcome), self.world(after)))
        return "performed"

    def _ran(self, job: Job, id: CID, task: Any, tx: Tx) -> str:
        draft = tx.draft(job)
        return draft.settle(id, tx.run(draft, self.check.tasks[type(task)], id, task)).kind

    def _settled(self, job: Job, id: CID, outcome: Any, tx: Tx) -> str:
        return tx.draft(job).settle(id, outcome).kind

    # --- results --------------------------------------------------------------------------------

    def _seen(self, job: CID) -> int:
        found = self._job_of.get(job)
        if found is None:  # absent, and read before anybody has named it
            found = self._job_of[job] = len(self.jobs)
            self.jobs.append(Job("", (), job))
        return found

    def _keep(self, request: Action, state: State, reads: Sequence[int], result: Result) -> None:
        """Put the result where the same reads lead to it."""
        locals = state[2]
        tree: dict[Any, Branch | Result] = self._trie
        at: Any = request
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


def _transact(body: Callable[[Tx], Any], tx: Tx) -> str:
    body(tx)
    return "committed"


def _alarm(tx: Tx) -> str | None:
    """What answered *impossible* in a transaction that came to nothing."""
    alarms = [alarm for draft in tx.drafts.values() for alarm in draft.alarms]
    return f"impossible: {alarms[0]}" if alarms else None


def _places(before: Head | None, after: Head) -> tuple[int, ...]:
    """Old place of each task → its new place, or -1."""
    if before is None:
        return ()
    new = {task: place for place, task in enumerate(armed(after))}
    return tuple(new.get(task, -1) for task in armed(before))
