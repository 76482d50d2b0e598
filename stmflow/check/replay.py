"""A behaviour played on the engine itself: a transactor, a store in memory, claims and a set clock.

    played = await replay(CHECK, STEPS)
    assert not played.breaks("every order ends"), played

The steps are the lines of a trace, in the workflow's own words. Each is looked up among what may
happen next in the model and done by the engine; then the two are compared: the CID of every state
and every task that waits. So no trace shows what production would not do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import anyio

from stmflow.check import machine as steps
from stmflow.check.liveness import Classes
from stmflow.check.machine import Machine, State, Successor, Told
from stmflow.check.model import Check
from stmflow.check.search import Graph, Seen, Wrong
from stmflow.check.trace import line
from stmflow.check.trace import steps as steps_of
from stmflow.cid import CID
from stmflow.effect import Err
from stmflow.errors import InvalidWorkflow, StmflowError
from stmflow.job import Head
from stmflow.store import Beat, Claim, Disown, DueTimer, Ref, Want
from stmflow.store.memory import MemoryStore
from stmflow.transaction import Tx
from stmflow.transactor import Transactor
from stmflow.workflow import Job

LEASE_MS = 2**40
ALL = 2**20
"""More than any check has tasks."""


class Diverged(StmflowError):
    """The engine did not do what the model says: one of them is wrong."""


@dataclass(slots=True)
class Played:
    """How far a trace could be followed.

    Attributes:
        done: the steps that were made. missing: the first that is not possible, or None.
        states: job → the CID of its state after the last step, as the engine has it.
        views: what properties see, at first and after each step.
    """

    check: Check
    done: list[str] = field(default_factory=list)
    missing: str | None = None
    states: dict[Job, CID] = field(default_factory=dict)
    views: list[Seen] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    wrong: str | None = None
    endless: bool = False
    """Whether nothing has to happen at its end, or its end is where it has been before."""

    def breaks(self, name: str) -> bool:
        """Whether the whole trace is possible and shows that this property does not hold."""
        if self.missing is not None:
            return False
        for one in self.check.properties:
            if one.name != name or one.kind == "sometimes":
                continue
            if one.kind == "step":
                return not one.test(self.views[-2], self.told[-1], self.views[-1])
            if one.kind != "leads to":
                return not one.test(self.views[-1])
            came = [one.test(view) for view in self.views]
            begun = [one.when is None or one.when(view) for view in self.views]
            return self.endless and any(
                each and not any(came[at:]) for at, each in enumerate(begun)
            )
        return self.wrong is not None

    def __str__(self) -> str:
        missing = [] if self.missing is None else [f"not possible: {self.missing}"]
        return "\n".join([*self.done, *missing])


def find(checks: Check | Iterable[Check], name: str) -> Check:
    """The check of that name. Raises InvalidWorkflow where there is none."""
    for one in (checks,) if isinstance(checks, Check) else checks:
        if one.name == name:
            return one
    raise InvalidWorkflow(f"no check is called {name!r}")


def words(graph: Graph, wrong: Wrong) -> list[str]:
    """The trace that shows what is wrong, as lines for `replay`.

    Raises:
        InvalidWorkflow: the check is not pure: asked again, it does not take these steps.
    """
    machine = Machine(graph.machine.check)
    state, found = machine.first(), []
    for step in steps_of(graph, wrong):
        wanted = _sight(graph.machine, step.told, step.after)
        for text, each in _lines(machine, state):
            if _sight(machine, machine.told(each.action), each.state) == wanted:
                found.append(text)
                state = each.state
                break
        else:
            raise InvalidWorkflow(f"the check gives another answer each time: {line(step.told)}")
    return found


def regression(graph: Graph, wrong: Wrong, module: str, attribute: str) -> str:
    """A pytest file that fails as long as this trace is possible and breaks what it breaks.

    Args:
        module, attribute: where the check is found: by itself, or by its name among others.
    """
    name = graph.machine.check.name
    title = re.sub(r"\W+", "_", f"{name} {wrong.property}").strip("_").lower()
    texts = [json.dumps(text, ensure_ascii=False) for text in words(graph, wrong)]
    return REGRESSION.format(
        about=f"{name}: {wrong.property}".replace('"', "'").replace("\\", "/"),
        module=module,
        attribute=attribute,
        name=name,
        steps="".join(f"    {text},\n" for text in texts),
        title=title,
        property=wrong.property,
    )


REGRESSION = '''"""A behaviour that was wrong. {about}."""

import anyio

import {module} as checked
from stmflow.check import find, replay

CHECK = find(checked.{attribute}, {name!r})
STEPS = [
{steps}]


def test_{title}() -> None:
    played = anyio.run(replay, CHECK, STEPS)
    assert not played.breaks({property!r}), played
'''


def _sight(machine: Machine, told: Told, after: State) -> Any:
    """What two machines with numbers of their own agree on: the step, and what it leads to."""
    seen = Seen(machine, after)
    jobs = {
        job.id: (local.head.state_cid, [_leaf(machine, task.leaf) for task in local.tasks])
        for job, number in zip(machine.jobs, after[2], strict=False)
        if (local := machine.locals[number]) is not None
    }
    return told, seen.world, seen.now, jobs, len(after[3]), len(after[4]), after[5]


def _leaf(machine: Machine, leaf: int) -> Any:
    return machine.leaves[leaf]


def _lines(machine: Machine, state: State) -> Iterator[tuple[str, Successor]]:
    """Every step out of a state by its line; those that read alike are numbered."""
    seen: dict[str, int] = {}
    for each in machine.successors(state):
        text = line(machine.told(each.action))
        seen[text] = seen.get(text, 0) + 1
        yield (text if seen[text] == 1 else f"{text} #{seen[text]}"), each


async def replay(check: Check, lines: Sequence[str]) -> Played:
    """Follow a trace, in the model and on the engine, as far as it is possible. In development
    mode: every `update` runs twice, and must agree.

    Raises:
        Diverged: the engine came to another state than the model.
    """
    machine, played = Machine(check), Played(check)
    state = machine.first()
    met = [state]
    played.views.append(Seen(machine, state))
    clock = _Clock(check.at)
    transactor = Transactor(
        MemoryStore(),
        check.workflows,
        transactional=check.transactional,
        clock=clock,
        random=Random(0),
        pure=True,
        chooser=check.chooser,
    )
    async with transactor:
        engine = _Engine(machine, transactor, clock)
        if check.start is not None:
            await transactor.transact(check.start)
        for text in lines:
            found = next((one for known, one in _lines(machine, state) if known == text), None)
            if found is None:
                played.missing = text
                break
            await _done(engine, state, found)
            state = found.state
            await engine.compare(state, text)
            played.done.append(text)
            played.views.append(Seen(machine, state))
            played.told.append(machine.told(found.action))
            played.wrong = found.wrong
            met.append(state)
        played.states = await engine.states()
    classes = Classes(check)
    moves = any(classes.of(one.action) is not None for one in machine.successors(state))
    played.endless = not moves or state in met[:-1]
    return played


async def _done(engine: _Engine, state: State, step: Successor) -> None:
    """One step; it fails where, and only where, the model says that it does."""
    error = None
    try:
        await engine.do(state, step)
    except Diverged:
        raise
    except StmflowError as raised:
        error = raised
    failed = step.wrong is not None and step.wrong.startswith("failed")
    if (failed and error is None) or (error is not None and step.wrong is None):
        raise Diverged(f"the model says {step.wrong or 'nothing is wrong'}, the engine {error!r}")


class _Clock:
    """Shows the time that it is set to."""

    def __init__(self, at: int) -> None:
        self.at = at

    def now(self) -> int:
        return self.at

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep_forever()


class _Engine:
    """The production engine, made to do one step of the model at a time."""

    def __init__(self, machine: Machine, transactor: Transactor, clock: _Clock) -> None:
        self.machine = machine
        self.transactor = transactor
        self.clock = clock
        self.claims: dict[tuple[int, CID], Ref] = {}
        self.lost: list[tuple[int, Ref]] = []
        self.workers = 0

    async def do(self, state: State, step: Successor) -> None:
        """One step, from the state that model and engine are in."""
        kind, *rest = step.action
        self.clock.at = max(self.clock.at, step.state[0])
        match kind:
            case steps.SEND:
                await self._send(rest[0])
            case steps.BODY:
                await self.transactor.transact(self.machine.check.transactions[rest[0]].body)
            case steps.PERFORM:
                job, leaf, place, _ = rest
                ref = await self._claim(state, job, place)
                self.claims[(job, ref.id)] = ref
                await self._attempt(state, leaf)
            case steps.SETTLE:
                job, _, place, outcome, answer = rest
                ref = self.claims.pop((job, (await self._task(job, place)).id))
                got = await self.transactor.settle(ref, self.machine.outcomes[outcome])
                self._answered(answer, got.kind)
            case steps.LOSE:
                job, _, place, _ = rest
                await self._disown(self.claims.pop((job, (await self._task(job, place)).id)))
            case steps.STALL:
                job, leaf, place = rest
                ref = await self._claim(state, job, place)
                self.lost.append((leaf, ref))
                await self._disown(ref)
            case steps.WAKE:
                await self._wake(state, rest[0])
            case steps.FIRE:
                job, _, place, answer = rest
                timer = await self._task(job, place)
                self.clock.at = max(
                    self.clock.at, timer.due
                )  # without time, the model's stands still
                got = await self.transactor.fire(timer)
                self._answered(answer, got.kind)
            case steps.RUN:
                job, leaf, place, answer = rest
                await self._run(await self._claim(state, job, place), leaf, answer)

    async def _send(self, which: int) -> None:
        send = self.machine.check.sends[which]
        workflow = self.machine.home(send.event)
        job = send.job or workflow.job_of(send.event)
        if type(send.event) in workflow.outside:
            await self.transactor.send(job, send.event)
        else:  # what the service's own code applies
            await self.transactor.transact(lambda tx: tx.apply(job, send.event).kind)

    async def _attempt(self, state: State, leaf: int) -> None:
        """What an attempt writes in commits of its own."""
        task = self.machine.leaves[leaf].task
        model = self.machine.handlers[type(task)]
        world = self.machine.worlds[state[1]]

        def attempt(tx: Tx) -> None:
            for _ in model(task, world, state[0], tx):
                pass

        await self.transactor.transact(attempt)

    async def _wake(self, state: State, leaf: int) -> None:
        """The late attempt; its answer, with a token of old, changes nothing."""
        await self._attempt(state, leaf)
        at = next(at for at, (late, _) in enumerate(self.lost) if late == leaf)
        _, ref = self.lost.pop(at)
        got = await self.transactor.settle(ref, Err("Late"))
        self._answered("closed", "closed" if got.kind == "fenced" else got.kind)

    async def _run(self, ref: Ref, leaf: int, answer: str) -> None:
        task, done = self.machine.leaves[leaf].task, anyio.Event()
        got: list[Any] = []

        def ended(value: Any) -> None:
            got.append(value)
            done.set()

        body = self.machine.check.tasks[type(task)]
        self.transactor.running(ref, task, body, self.clock.at + LEASE_MS, ended, ended)
        await done.wait()
        if isinstance(got[0], BaseException):
            raise Diverged(f"a transaction that ran in the model failed: {got[0]}") from got[0]
        self._answered(answer, got[0].kind)

    def _answered(self, said: str, got: str) -> None:
        alike = {"committed", "no change", "ignored"}  # an outcome that counts makes a revision
        if said != got and not {said, got} <= alike:
            raise Diverged(f"the model says {said}, the engine {got}")

    # --- rows -----------------------------------------------------------------------------------

    async def _task(self, job: int, place: int) -> DueTimer:
        """The row of a task, by its place among those that its job waits for."""
        head = await self.transactor.get(self.machine.jobs[job])
        if head is None:
            raise Diverged(f"the engine has no {self.machine.jobs[job].workflow}")
        id = [task for one in head.open for _, task in sorted(one.armed.items())][place]
        row = head.rows[id]
        return DueTimer(head.job, row.n, id, row.due or 0)

    async def _claim(self, state: State, job: int, place: int) -> Ref:
        """A claim of that very task, by a worker of its own."""
        task = await self._task(job, place)
        row = await self.transactor.store.task(task.id)
        if row is None:
            raise Diverged("a task of the model is no row of the engine")
        head = await self.transactor.get(row.job)
        assert head is not None
        version = next(one.workflow.version for one in head.open if task.id in one.armed.values())
        self.workers += 1
        worker, now = self.workers, self.clock.at
        await self.transactor.do(lambda: Beat(worker, now + LEASE_MS))
        want = Want(row.workflow, version, row.tag, ALL)
        claimed = await self.transactor.do(lambda: Claim(worker, [want], now))
        await self.transactor.do(lambda: Disown(worker, [(task.job, task.n)]))
        for one in claimed:
            if one.ref.id == task.id and one.ref.job == task.job:
                ref: Ref = one.ref
                return ref
        raise Diverged(f"the engine has no free {row.tag}, as the model has")

    async def _disown(self, ref: Ref) -> None:
        assert ref.worker is not None
        worker = ref.worker
        await self.transactor.do(lambda: Disown(worker, []))

    # --- what there is --------------------------------------------------------------------------

    async def states(self) -> dict[Job, CID]:
        """Job → the CID of its state."""
        heads = {job: await self.transactor.get(job) for job in self.machine.jobs}
        return {job: head.state_cid for job, head in heads.items() if head is not None}

    async def compare(self, state: State, text: str) -> None:
        """The same states by CID, and the same tasks, or Diverged."""
        for number, job in enumerate(self.machine.jobs):
            known = self.machine.locals[state[2][number]] if number < len(state[2]) else None
            head = await self.transactor.get(job)
            timed = not self.machine.check.timeless
            if (known is None) != (head is None) or (
                known is not None
                and head is not None
                and _told(known.head, timed) != _told(head, timed)
            ):
                raise Diverged(f"after {text!r} the engine has another {job.workflow}")


def _told(head: Head, timed: bool) -> Any:
    """A head without the numbers of its revisions; not `timed`, without deadlines."""
    waits = [
        (
            one.epoch,
            one.block,
            [(leaf, timed and head.rows[task].due) for leaf, task in sorted(one.armed.items())],
        )
        for one in head.open
    ]
    return head.name, head.version, head.state_cid, head.epoch, waits


__all__ = ["Diverged", "Played", "find", "regression", "replay", "words"]
