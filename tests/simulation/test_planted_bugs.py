"""A harness that finds nothing proves nothing: each planted bug is found within 64 seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from scheduler.testing.faults import FaultyStore
from stmflow.committer import Committer
from stmflow.errors import Indeterminate
from stmflow.job import Draft
from stmflow.request import Send
from stmflow.store import Batch, Closed, Commit, Done, NewTask, Watch
from stmflow.store.memory import MemoryStore, _Task
from stmflow.transaction import Tx
from stmflow.transactor import Transactor
from tests.simulation.worlds import first_bad

SEEDS = 64

Patch = Callable[[pytest.MonkeyPatch], None]


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


def stale_cached_read(patch: pytest.MonkeyPatch) -> None:
    whole, drop = Transactor.get, Committer.forget

    async def get(self: Transactor, job: Any) -> Any:
        return self._committer.cached(getattr(job, "id", job)) or await whole(self, job)

    def forget(self: Committer, jobs: Any = None) -> None:
        if jobs is not None:  # what others have written is not noticed before a conflict
            drop(self, jobs)

    patch.setattr(Transactor, "get", get)
    patch.setattr(Committer, "forget", forget)


def lease_and_fencing_ignored(patch: pytest.MonkeyPatch) -> None:
    def lost(self: MemoryStore, ref: Any, *, timer: bool = False) -> Any:
        task = (self._timers if timer else self._tasks).get((ref.job, ref.n))
        return Closed() if task is None or task.row.id != ref.id else None

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


PLANTED: list[Patch] = [
    compare_and_swap_dropped,
    repeated_delivery_not_refused,
    outbox_row_outside_the_transaction,
    acknowledged_before_durable,
    outbox_row_never_removed,
    unknown_taken_for_success,
    stale_cached_read,
    lease_and_fencing_ignored,
    epoch_ignored,
    replaced_timer_not_withdrawn,
    wake_up_lost,
    waiting_task_woken_by_its_own_process_only,
    outcome_without_its_writes,
]


def _apply() -> dict[type, Any]:
    import stmflow.store.memory as module

    return module._APPLY


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_within_64_seeds(
    plant: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = first_bad(range(SEEDS))
    assert found is not None, f"{plant.__name__} was not found in {SEEDS} seeds"
    seed, problem = found
    print(f"{plant.__name__}: seed {seed}: {problem[:200]}")


def test_the_unpatched_engine_passes_the_same_seeds() -> None:
    assert first_bad(range(SEEDS)) is None
