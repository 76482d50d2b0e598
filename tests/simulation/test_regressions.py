"""Bugs that seeds have found, each as a named test. Seeds change meaning when the workload does;
so each also has a test of its own shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import anyio
import pytest

from scheduler import Scheduler
from scheduler.testing import VirtualClock, VirtualLoop
from scheduler.testing.workload import COUNTER, ORDER, TRANSACTIONAL, WORKFLOWS, Abort, Add
from stmflow import Transactor, Workflow, perform
from stmflow.errors import Indeterminate, Unavailable
from stmflow.store import Batch, Commit
from stmflow.store.memory import MemoryStore
from stmflow.workflow import job as job_of
from tests.simulation.test_planted_bugs import Patch
from tests.simulation.worlds import first_bad
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Begin:
    """Ask for one task."""

    name: str


@dataclass(frozen=True, slots=True)
class Ended:
    """It is done."""


@dataclass(frozen=True, slots=True)
class State:
    """Whether it is."""

    done: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """The one task."""

    name: str


def _update(event: Any, state: State | None) -> Any:
    if isinstance(event, Begin):
        return State(), [perform(Task(event.name)).then(Ended)]
    return State(done=True), []


ONE_TASK = Workflow(
    "one task",
    state=State,
    events=(Begin, Ended),
    outside=(Begin,),
    tasks=(Task,),
    update=_update,
    key=("name",),
)


class Troubled(MemoryStore):
    """A memory store that the test can make refuse, or leave in doubt."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf = 0
        self.plan: list[Callable[[Batch], Awaitable[Any]]] = []

    async def commit(self, batch: Batch) -> Sequence[Any]:
        if self.plan and any(isinstance(member, Commit) for member in batch.members):
            return await self.plan.pop(0)(batch)  # type: ignore[no-any-return]
        return await super().commit(batch)

    async def next_task(self, kinds: Any) -> int | None:
        if self.deaf:
            self.deaf -= 1
            raise Unavailable("deaf")
        return await super().next_task(kinds)

    async def heads(self, jobs: Any) -> Any:
        await anyio.sleep(0.001)
        return await super().heads(jobs)


def virtual(body: Callable[[VirtualLoop], Awaitable[None]]) -> None:
    loop = VirtualLoop(Random(1))
    try:
        loop.run_until_complete(body(loop))
    finally:
        loop.close()


def test_a_store_that_refuses_a_read_does_not_end_the_scheduler() -> None:
    async def world(loop: VirtualLoop) -> None:
        store, clock = Troubled(), VirtualClock(loop)
        async with Transactor(store, [ONE_TASK], clock=clock) as transactor:
            job = (await transactor.send(ONE_TASK, Begin("a"))).job
            store.deaf = 3

            async def handler(task: Task, context: Any) -> None:
                return None

            async with Scheduler(transactor, {Task: handler}):
                await transactor.wait(job, lambda state: state.done, timeout=60)

    virtual(world)


def test_a_handler_that_raises_a_cancellation_of_its_own_costs_no_worker() -> None:
    async def world(loop: VirtualLoop) -> None:
        calls = 0

        async def handler(task: Task, context: Any) -> None:
            nonlocal calls
            calls += 1
            if calls <= 100:
                raise anyio.get_cancelled_exc_class()

        from scheduler import Limits, Policy

        async with Transactor(MemoryStore(), [ONE_TASK], clock=VirtualClock(loop)) as transactor:
            policies = {Task: Policy(attempts=1_000)}
            limits = Limits(slots=1)
            async with Scheduler(transactor, {Task: handler}, policies=policies, limits=limits):
                job = (await transactor.send(ONE_TASK, Begin("a"))).job
                await transactor.wait(job, lambda state: state.done, timeout=36_000)

    virtual(world)


def test_an_event_is_never_refused_for_a_job_that_a_stale_look_did_not_find() -> None:
    """Another process has made the job since this one looked; its cache says that there is none."""

    async def world(loop: VirtualLoop) -> None:
        store, clock = MemoryStore(), VirtualClock(loop)
        async with Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL, clock=clock) as here:
            assert (await here.send(ORDER, Abort("o"))).code == "Unknown"

    virtual(world)


def _stale_answers(patch: pytest.MonkeyPatch) -> None:
    import stmflow.committer as module

    patch.setattr(module, "_judged", lambda job, head: None)


def _scan_before_fetch(patch: pytest.MonkeyPatch) -> None:
    from stmflow.committer import Committer

    whole = Committer._fetch

    async def fetch(self: Committer, jobs: Any) -> None:
        await anyio.sleep(0.2)
        await whole(self, jobs)

    patch.setattr(Committer, "_fetch", fetch)


def _base_of_an_overlay(patch: pytest.MonkeyPatch) -> None:
    from stmflow.committer import Send

    whole = Send.plan

    def plan(self: Send, view: Any) -> Any:
        before = self.base
        try:
            return whole(self, view)
        finally:
            if before is not None:
                self.base = before

    patch.setattr(Send, "plan", plan)


def test_an_answer_judged_on_a_stale_head_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds 76, 110, 317: *closed* or *rejected* was answered from a cache that another process
    had outdated; the task's row then stayed claimed for ever."""
    plant: Patch = _stale_answers
    plant(monkeypatch)
    assert first_bad(range(150)) is not None


def test_a_nonce_send_in_doubt_is_looked_for_from_the_lowest_head_it_was_planned_on() -> None:
    """Seed 284: the look began above a head that had only been planned, and never came true."""
    from stmflow.committer import Send, View
    from stmflow.job import Draft

    assert Draft is not None and View is not None
    send = Send(job_of("counter", "c").id, job_of("counter", "c"), None, b"x", None, 0, _no, _no)
    send.base = 7

    class Overlay:
        def read(self, job: Any) -> Any:
            raise _Stop(job)

    with pytest.raises(_Stop):
        send.plan(Overlay())  # type: ignore[arg-type]
    assert send.base == 7


class _Stop(Exception):
    pass


def _no(_: Any) -> None:
    pass


def test_an_earlier_attempt_in_doubt_is_never_called_not_done() -> None:
    """A commit of unknown fate, then a store that refuses: the caller must be told *unknown*."""

    async def unknown(batch: Batch) -> Any:
        raise Indeterminate("unknown")

    async def refuse(batch: Batch) -> Any:
        raise Unavailable("down")

    async def world(loop: VirtualLoop) -> None:
        store = Troubled()
        async with Transactor(store, [COUNTER], clock=VirtualClock(loop)) as transactor:
            store.plan = [unknown, refuse]
            with pytest.raises(Indeterminate) as told:
                await transactor.send(COUNTER, Add("c", 1, 1), delivery="mine")
            assert told.value.delivery is not None
            assert told.value.delivery[1] == b"mine"

    virtual(world)


def test_a_nonce_that_the_store_does_not_remember_is_not_offered_for_a_repeat() -> None:
    async def unknown(batch: Batch) -> Any:
        raise Indeterminate("unknown")

    async def world(loop: VirtualLoop) -> None:
        store = Troubled()
        async with Transactor(store, [COUNTER], clock=VirtualClock(loop)) as transactor:
            store.plan = [unknown] * 20
            with pytest.raises(Indeterminate) as told:
                await transactor.send(COUNTER, Add("c", 1, 1))
            assert told.value.delivery is None

    virtual(world)
