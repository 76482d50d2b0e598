"""store/add over an S3 server that fails and lies: what must hold does; planted bugs are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from examples.store_add import quota, workflow
from examples.store_add.model import Verified
from scheduler import Failure
from scheduler.handlers import allocate, gc
from scheduler.handlers.s3 import Bucket, bucket
from scheduler.testing.s3 import S3_FAULTS
from tests.simulation.uploads import WAYS, UploadWorld, checked, uploaded
from tests.simulation.worlds import held

SEEDS = 64
FEW = 16

SEEN_FAULTS = [fault for fault in S3_FAULTS if fault != "s3 stale list"]
"""Nobody asks for a listing here."""

Patch = Callable[[pytest.MonkeyPatch], None]


def test_uploads_hold_whatever_the_bucket_does(seed: int | None) -> None:
    seen: Counter[str] = Counter()
    for each in range(FEW) if seed is None else [seed]:
        seen.update(held(uploaded(each)).seen)
    if seed is None:  # the worlds are not vacuous: what can happen did
        for tag in ("stored", "expired", "failed", "exceeded", "idle"):
            assert seen[f"end {tag}"] >= 3, tag
        for what in (*(f"way {way}" for way in WAYS), "honest: 200", "twice: 412", "late: 403"):
            assert seen[what] >= 3, what


@pytest.mark.acceptance
def test_many_uploads_hold() -> None:
    seen: Counter[str] = Counter()
    for each in range(1_000, 1_400):
        seen.update(held(uploaded(each)).seen)
    for fault in SEEN_FAULTS:
        assert seen[fault] >= 10, fault


def test_a_seed_means_the_same_twice() -> None:
    assert uploaded(3).digest == uploaded(3).digest


@pytest.mark.parametrize("fault", SEEN_FAULTS)
def test_each_fault_comes_and_nothing_breaks(fault: str) -> None:
    """One fault alone, often: it happens, and the promises hold."""
    for seed in range(9):
        world = UploadWorld(seed, rates={"s3 no checksum": 0.3, fault: 0.3})
        if held(checked(world)).seen[fault]:
            return
    raise AssertionError(f"{fault} has not come")


# --- a harness that finds nothing proves nothing --------------------------------------------------


def put_trusted(patch: pytest.MonkeyPatch) -> None:
    """A claim makes it stored."""
    whole = workflow.check

    def check(state: Any, *, final: bool) -> Any:
        if final:
            return whole(state, final=True)
        upload = state.upload
        return workflow.proved(Verified(True, upload.size, upload.link.digest, 0), upload)

    patch.setattr(workflow, "check", check)


def presence_taken_for_proof(patch: pytest.MonkeyPatch) -> None:
    """Whatever lies under the key is what was asked for."""

    async def look(self: Bucket, link: Any, size: int, clock: Any, hashed: Any) -> Any:
        head = await self._head(bucket.object_key(link, self.prefix), clock)
        there = (
            {"size": size, "checksum": link.digest} if head else {"size": None, "checksum": None}
        )
        return {"found": head is not None, "mismatch": False, **there}

    patch.setattr(Bucket, "_look", look)


def no_answer_taken_for_absent(patch: pytest.MonkeyPatch) -> None:
    whole = Bucket._head

    async def head(self: Bucket, key: str, clock: Any) -> Any:
        try:
            return await whole(self, key, clock)
        except Failure:
            return None

    patch.setattr(Bucket, "_head", head)


def no_last_look(patch: pytest.MonkeyPatch) -> None:
    whole = workflow.check

    def check(state: Any, *, final: bool) -> Any:
        if not final:
            return whole(state, final=False)
        expired = workflow.Expired(
            workflow.released(state.upload), state.epoch, state.window.deadline
        )
        return expired, workflow.leave(state, state.upload.closes)

    patch.setattr(workflow, "check", check)


def space_released_while_the_url_lives(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(workflow, "closed", lambda upload, at, effect: effect)


def url_outlives_its_deadline(patch: pytest.MonkeyPatch) -> None:
    whole = bucket._seconds_until
    patch.setattr(bucket, "_seconds_until", lambda until, clock: whole(until, clock) + 10)


def upload_without_its_conditions(patch: pytest.MonkeyPatch) -> None:
    """Neither length nor checksum is signed."""

    def conditions(self: Bucket, size: int, digest: bytes) -> dict[str, Any]:
        return {"IfNoneMatch": "*", "ContentType": self._content_type}

    patch.setattr(Bucket, "_conditions", conditions)
    patch.setattr(bucket, "_check_signed", lambda url, headers: None)


def quota_outside_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Read, decide, and write what was decided on in another transaction."""

    def allocator(transactor: Any, *, limit: int, least: int) -> Any:
        async def in_two_steps(task: Any, context: Any) -> Any:
            head = await transactor.get(allocate.QUOTA.job(task.space))
            used = 0 if head is None else head.state.used
            if used + task.size > limit:
                raise Failure("NoSpace", {"limit": limit, "used": used})
            await anyio.sleep(0.5)
            return await whole(transactor, limit=limit * 9)[type(task)](task, context)

        return {**whole(transactor, limit=limit, least=least), allocate.Allocate: in_two_steps}

    whole = allocate.allocator
    patch.setattr(quota, "allocator", allocator)


def space_never_given_back_on_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        workflow,
        "dealloc",
        lambda upload, at=0, *more: workflow.perform(
            workflow.Deallocate(upload.space, upload.reservation, 0)
        ),
    )


def references_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Bytes are deleted when one of those who store them lets go."""
    whole = gc._swept
    patch.setattr(gc, "_swept", lambda blob: whole(replace(blob, references=0)))


def holds_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Bytes are deleted under the eyes of who has seen them."""
    whole = gc._swept
    patch.setattr(gc, "_swept", lambda blob: gc.Deleting(blob.link) if blob.held else whole(blob))


def late_bytes_not_marked(patch: pytest.MonkeyPatch) -> None:
    """Who leaves the window does not ask for the bytes to be swept."""
    patch.setattr(
        workflow,
        "leave",
        lambda state, at: [workflow.cancel("watch"), workflow.give_back(state, at)],
    )


PLANTED: list[Patch] = [
    put_trusted,
    presence_taken_for_proof,
    no_answer_taken_for_absent,
    no_last_look,
    space_released_while_the_url_lives,
    url_outlives_its_deadline,
    upload_without_its_conditions,
    quota_outside_the_commit,
    space_never_given_back_on_failure,
    references_not_counted,
    holds_not_counted,
    late_bytes_not_marked,
]


HARD = {no_answer_taken_for_absent: 256}


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(plant, marks=[pytest.mark.acceptance] if plant in HARD else [])
        for plant in PLANTED
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_is_found(plant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 64 seeds, but for one."""
    plant(monkeypatch)
    for seed in range(HARD.get(plant, SEEDS)):
        problems = uploaded(seed).problems
        if problems:
            print(f"{plant.__name__}: seed {seed}: {problems[0][:200]}")
            assert "TypeError" not in problems[0]
            return
    raise AssertionError(f"{plant.__name__} was not found")
