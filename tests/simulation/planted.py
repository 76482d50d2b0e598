"""Bugs to be planted in the engine, and the seed by which the simulation must have found each.

    python -m tests.simulation.planted                 looks for all of them and prints the table
    python -m tests.simulation.planted --first 1000    the same among other seeds

A harness that finds nothing proves nothing. The bar beside a bug is about three times the number of
seeds that it took, at least 16 and at most 64; where it is passed, the workload has lost sight of
something.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from scheduler import Scheduler
from scheduler.testing.faults import FaultyStore
from stmflow import request
from stmflow.committer import Committer
from stmflow.effect import Plan
from stmflow.errors import Indeterminate, Unavailable
from stmflow.job import Draft
from stmflow.request import Send
from stmflow.store import (
    Batch,
    Claim,
    Commit,
    Defer,
    Done,
    NewTask,
    Reap,
    Redrive,
    Sweep,
    Watch,
)
from stmflow.store.memory import MemoryStore, _Task
from stmflow.transaction import Tx
from stmflow.transactor import Transactor
from tests.simulation.worlds import first_bad

SEEDS = 64
"""The highest bar there is."""

Patch = Callable[[pytest.MonkeyPatch], None]


def _apply() -> dict[type, Any]:
    import stmflow.store.memory as module

    return module._APPLY


def compare_and_swap_dropped(patch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore._refuse

    def refuse(self: MemoryStore, commit: Commit) -> Any:
        return whole(
            self, Commit(delivery=commit.delivery, settles=commit.settles, fires=commit.fires)
        )

    patch.setattr(MemoryStore, "_refuse", refuse)


def repeated_delivery_not_refused(patch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore._refuse

    def refuse(self: MemoryStore, commit: Commit) -> Any:
        kept, commit.delivery = commit.delivery, None
        try:
            return whole(self, commit)
        finally:
            commit.delivery = kept

    async def landed(self: Committer, request: Any) -> bool:
        return False

    patch.setattr(MemoryStore, "_refuse", refuse)
    patch.setattr(Committer, "_landed", landed)


def outbox_row_outside_the_transaction(patch: pytest.MonkeyPatch) -> None:
    whole = FaultyStore.commit

    async def commit(self: FaultyStore, batch: Batch) -> Any:
        rows: list[NewTask] = []
        for member in batch.members:
            if isinstance(member, Commit):
                rows += member.tasks
                member.tasks = ()
        results = await whole(self, Batch(batch.members))
        await anyio.sleep(0.001)
        store: Any = self.ground.store
        for row in rows:
            store._tasks[(row.job, row.n)] = _Task(row, row.at)
        return results

    patch.setattr(FaultyStore, "commit", commit)


def acknowledged_before_durable(patch: pytest.MonkeyPatch) -> None:
    whole = Committer._join

    def join(self: Committer, request: Any, step: Any) -> None:
        whole(self, request, step)
        if isinstance(request, Send):
            request.done(step.answer)
            request.done = request.failed = lambda answer: None

    patch.setattr(Committer, "_join", join)


def outbox_row_never_removed(patch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore._commit

    def commit(self: MemoryStore, member: Commit) -> Any:
        member.closed = ()
        return whole(self, member)

    patch.setitem(_apply(), Commit, commit)


def unknown_taken_for_success(patch: pytest.MonkeyPatch) -> None:
    whole = Committer._failed

    def failed(self: Committer, flight: Any, error: Any) -> None:
        if isinstance(error, Indeterminate):
            self._landed_batch(flight, flight, [Done([]) for _ in flight.requests])
        else:
            whole(self, flight, error)

    patch.setattr(Committer, "_failed", failed)


def unknown_taken_for_failure(patch: pytest.MonkeyPatch) -> None:
    whole = Committer._failed

    def failed(self: Committer, flight: Any, error: Any) -> None:
        unknown = isinstance(error, Indeterminate)
        whole(self, flight, Unavailable("not written") if unknown else error)

    patch.setattr(Committer, "_failed", failed)


def stale_cached_read(patch: pytest.MonkeyPatch) -> None:
    whole, drop = Transactor.get, Committer.forget

    async def get(self: Transactor, job: Any) -> Any:
        return self._committer.cached(getattr(job, "id", job)) or await whole(self, job)

    def forget(self: Committer, jobs: Any = None) -> None:
        if jobs is not None:  # what others have written is not noticed before a conflict
            drop(self, jobs)

    patch.setattr(Transactor, "get", get)
    patch.setattr(Committer, "forget", forget)


def lease_ignored(patch: pytest.MonkeyPatch) -> None:
    """Whoever knows the newest token may settle, be the claim his or not."""
    whole = MemoryStore._lost

    def lost(self: MemoryStore, ref: Any, *, timer: bool = False) -> Any:
        task = None if timer else self._tasks.get((ref.job, ref.n))
        if task is not None and (task.row.id, task.token) == (ref.id, ref.token):
            return None
        return whole(self, ref, timer=timer)

    patch.setattr(MemoryStore, "_lost", lost)


def fencing_ignored(patch: pytest.MonkeyPatch) -> None:
    """A claim that was lost settles all the same, with its old token."""
    whole = MemoryStore._lost

    def lost(self: MemoryStore, ref: Any, *, timer: bool = False) -> Any:
        task = None if timer else self._tasks.get((ref.job, ref.n))
        if task is not None and ref.worker is not None and not task.parked:
            ref = ref._replace(worker=task.worker, token=task.token)
        return whole(self, ref, timer=timer)

    patch.setattr(MemoryStore, "_lost", lost)


def epoch_ignored(patch: pytest.MonkeyPatch) -> None:
    whole = Draft._deliver

    def deliver(self: Draft, fired: Any) -> Any:
        return whole(self, [(self.epoch, event) for _, event in fired])

    patch.setattr(Draft, "_deliver", deliver)


def replaced_timer_not_withdrawn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Draft, "_withdraw_name", lambda self, name: None)


def wake_up_lost(patch: pytest.MonkeyPatch) -> None:
    """A task waits for what had changed already when it went to sleep."""
    whole = MemoryStore._watch

    def watch(self: MemoryStore, member: Watch) -> Any:
        reads = [(job, self._revision(job)) for job, _ in member.reads]
        return whole(self, replace(member, reads=reads))

    patch.setitem(_apply(), Watch, watch)


def waiting_task_woken_by_its_own_process_only(patch: pytest.MonkeyPatch) -> None:
    """The commit that changes what is waited for leaves the row as it is."""
    patch.setattr(MemoryStore, "_wake", lambda self, moved: False)


def outcome_without_its_writes(patch: pytest.MonkeyPatch) -> None:
    """A task that is a transaction is settled, and what it wrote is dropped."""
    whole = Tx.run

    def run(self: Tx, draft: Any, body: Any, task: Any) -> Any:
        before = dict(self.drafts)
        outcome = whole(self, draft, body, task)
        self.drafts = {job: each for job, each in self.drafts.items() if job in before}
        return outcome

    patch.setattr(Tx, "run", run)


def read_set_not_validated(patch: pytest.MonkeyPatch) -> None:
    """Only what is written is compared: write skew."""
    whole = MemoryStore._refuse

    def refuse(self: MemoryStore, commit: Commit) -> Any:
        return whole(self, replace(commit, reads=()) if commit.writes else commit)

    patch.setattr(MemoryStore, "_refuse", refuse)


def snapshot_of_two_moments(patch: pytest.MonkeyPatch) -> None:
    whole = Transactor.snapshot

    async def snapshot(self: Transactor, jobs: Any) -> Any:
        asked, found = list(jobs), dict[Any, Any]()
        for job in asked:
            found |= await whole(self, [job])
            await anyio.sleep(0.01)
        return found

    patch.setattr(Transactor, "snapshot", snapshot)


def attempts_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A task that is tried again starts from its first attempt."""
    whole = MemoryStore._defer

    def defer(self: MemoryStore, member: Defer) -> Any:
        result = whole(self, member)
        if isinstance(result, Done):
            self._tasks[(member.ref.job, member.ref.n)].attempt = 0
        return result

    patch.setitem(_apply(), Defer, defer)


def attempt_without_an_end(patch: pytest.MonkeyPatch) -> None:
    """A handler may take as long as it likes."""
    whole = Scheduler._attempt

    async def attempt(self: Scheduler, performs: Any, *rest: Any) -> Any:
        patient = replace(performs.policy, attempt_ms=10**9)
        return await whole(self, replace(performs, policy=patient), *rest)

    patch.setattr(Scheduler, "_attempt", attempt)


def timer_fired_early(patch: pytest.MonkeyPatch) -> None:
    """Timers that are due within three seconds count as due."""
    timers, following = MemoryStore.timers, MemoryStore.next_timer

    async def early(self: MemoryStore, now: int, limit: int) -> Any:
        return await timers(self, now + 3_000, limit)

    async def earlier(self: MemoryStore) -> int | None:
        due = await following(self)
        return None if due is None else due - 3_000

    patch.setattr(MemoryStore, "timers", early)
    patch.setattr(MemoryStore, "next_timer", earlier)


def redrive_doubles_a_task(patch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore._redrive

    def redrive(self: MemoryStore, member: Redrive) -> Any:
        result = whole(self, member)
        task = self._tasks.get((member.job, member.n))
        if isinstance(result, Done) and task is not None:
            self._tasks[(member.job, member.n + 500)] = replace(task)
        return result

    patch.setitem(_apply(), Redrive, redrive)


def living_worker_reaped(patch: pytest.MonkeyPatch) -> None:
    """Whoever looks for the dead frees the claims of all."""

    def reap(self: MemoryStore, member: Reap) -> Any:
        return Done(self._free(lambda task: True))

    patch.setitem(_apply(), Reap, reap)


def dead_worker_not_reaped(patch: pytest.MonkeyPatch) -> None:
    """A claim is for ever."""
    patch.setitem(_apply(), Reap, lambda self, member: Done(0))


def token_not_raised(patch: pytest.MonkeyPatch) -> None:
    """Every claim of a task has the same token."""
    whole = MemoryStore._claim

    def claim(self: MemoryStore, member: Claim) -> Any:
        result = whole(self, member)
        taken = []
        for claimed in result.value:
            self._tasks[(claimed.ref.job, claimed.ref.n)].token = 1
            taken.append(claimed._replace(ref=claimed.ref._replace(token=1)))
        return Done(taken)

    patch.setitem(_apply(), Claim, claim)


def delivery_forgotten_early(patch: pytest.MonkeyPatch) -> None:
    """A sweep forgets deliveries that may still be repeated."""
    whole = MemoryStore._sweep

    def sweep(self: MemoryStore, member: Sweep) -> Any:
        return whole(self, Sweep(2**62, member.limit))

    patch.setitem(_apply(), Sweep, sweep)


def half_an_outbox(patch: pytest.MonkeyPatch) -> None:
    """Of two tasks that a commit makes, one is written."""
    whole = MemoryStore._commit

    def commit(self: MemoryStore, member: Commit) -> Any:
        if len(member.tasks) > 1:
            member = replace(member, tasks=member.tasks[:1])
        return whole(self, member)

    patch.setitem(_apply(), Commit, commit)


def receipts_in_tree_order(patch: pytest.MonkeyPatch) -> None:
    """Of several failures the first of the tree counts, not the first that was committed."""
    whole = Plan.progress

    def progress(self: Plan, log: Any, withdrawn: Any) -> Any:
        return whole(self, {n: (outcome, n) for n, (outcome, _) in log.items()}, withdrawn)

    patch.setattr(Plan, "progress", progress)


def absence_judged_by_the_cache(patch: pytest.MonkeyPatch) -> None:
    """What is answered of a job that is not there, or of a row that is closed, is not confirmed."""
    patch.setattr(request, "_judged", lambda job, head: Commit())


PLANTED: dict[Patch, int] = {
    compare_and_swap_dropped: 16,
    repeated_delivery_not_refused: 16,
    outbox_row_outside_the_transaction: 16,
    acknowledged_before_durable: 16,
    outbox_row_never_removed: 16,
    unknown_taken_for_success: 16,
    unknown_taken_for_failure: 64,
    stale_cached_read: 16,
    lease_ignored: 64,
    fencing_ignored: 64,
    epoch_ignored: 16,
    replaced_timer_not_withdrawn: 33,
    wake_up_lost: 64,
    waiting_task_woken_by_its_own_process_only: 16,
    outcome_without_its_writes: 16,
    read_set_not_validated: 51,
    snapshot_of_two_moments: 24,
    attempts_forgotten: 16,
    attempt_without_an_end: 21,
    timer_fired_early: 16,
    redrive_doubles_a_task: 16,
    living_worker_reaped: 57,
    dead_worker_not_reaped: 16,
    token_not_raised: 16,
    delivery_forgotten_early: 16,
    half_an_outbox: 16,
    receipts_in_tree_order: 16,
    absence_judged_by_the_cache: 400,
}
"""Bug → how many seeds it may take."""


def main(arguments: list[str]) -> int:
    """Exit code 0: each was found within its bar."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planted")
    parser.add_argument("names", nargs="*", help="only these bugs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    missed = 0
    print(f"{'bug':44} {'bar':>3}  found at seed")
    for plant, bar in PLANTED.items():
        if options.names and plant.__name__ not in options.names:
            continue
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            found = first_bad(range(options.first, options.first + bar))
        missed += found is None
        text = plant.__name__.replace("_", " ")
        print(f"{text:44} {bar:3}  {'-' if found is None else found[0]}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
