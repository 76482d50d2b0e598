"""The tests that a user of stmflow writes: no IO, no clock, no database."""

from __future__ import annotations

import pytest

from examples.store_add.model import (
    MAX_BYTES,
    Add,
    Cancel,
    Expire,
    Extend,
    Lost,
    Put,
    Remove,
    Terms,
)
from examples.store_add.quota import local, remote
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler.handlers.allocate import QUOTA, Allocate, Deallocate, release, reserve
from scheduler.handlers.gc import BLOB
from scheduler.handlers.s3 import Delete, Presign, Stat, Verify, Watch
from stmflow import CID, Err, StmflowError
from stmflow.testing import Timer, Trace

SPACE, OTHER = "did:key:zAlice", "did:key:zBob"
DATA = b"hello"
LINK = CID.of(DATA)
TERMS = Terms(window_ms=3_600_000, skew_ms=60_000, longest_ms=10_800_000)
ADD = Add(SPACE, LINK, len(DATA), terms=TERMS)
PUT = Put(SPACE, LINK)

ABSENT = {"found": False, "size": None, "checksum": None, "mismatch": False}
FOUND = {"found": True, "size": 5, "checksum": LINK.digest, "mismatch": False}


def play(limit: int = 100) -> Trace:
    """A service with a quota of its own."""
    profile = local(limit=limit)
    return Trace(STORE_ADD, others=profile.workflows[1:], transactional=profile.transactional)


def play_with_allocator() -> Trace:
    """A service that asks an allocator."""
    profile = remote(limit=100)
    return Trace(STORE_ADD, others=profile.workflows[1:], transactional=profile.transactional)


def signed(until: int) -> dict[str, object]:
    return {"url": "https://s3.test/blob", "headers": {"content-length": "5"}, "until": until}


def verified(round: int) -> dict[str, object]:
    return {"verified": True, "size": 5, "checksum": LINK.digest, "round": round}


def used(job: Trace, space: str = SPACE) -> int:
    quota = job.job(QUOTA.job(space)).state
    return 0 if quota is None else quota.used


def blob(job: Trace) -> Trace:
    return job.job(BLOB.job(LINK.multihash))


def receiving(limit: int = 100) -> Trace:
    job = play(limit).send(ADD).succeed(Stat, ABSENT)
    return job.succeed(Presign, signed(job.state.window.deadline))


# --- the way through ----------------------------------------------------------------------------


def test_bytes_that_are_there_already_are_stored_without_an_upload() -> None:
    job = play().send(ADD)
    assert (job.tag, used(job)) == ("probing", 5)
    assert job.ready == [Stat(LINK, 5)]
    job.succeed(Stat, FOUND)
    assert (job.tag, used(job)) == ("stored", 5)
    assert (job.ready, job.timers) == ([], [])
    assert [past.tag for past in job.history] == ["probing", "stored"]


def test_bytes_that_are_not_there_are_asked_for_until_one_deadline() -> None:
    job = play().send(ADD).succeed(Stat, ABSENT)
    deadline = 3_600_000
    assert job.tag == "receiving"
    assert job.ready == [Presign(LINK, 5, deadline), Watch(LINK, 5, deadline)]
    assert job.timers == [Timer("deadline", deadline + 60_000)]
    job.succeed(Presign, signed(deadline))
    assert job.state.window.target.headers == {"content-length": "5"}


def test_an_upload_is_stored_when_the_watch_sees_it() -> None:
    job = receiving().succeed(Watch, FOUND)
    assert (job.tag, job.ready, job.timers) == ("stored", [], [])


def test_a_claim_is_checked_and_never_believed() -> None:
    job = receiving().send(PUT)
    assert job.tag == "verifying"
    job.fail(Verify, "Mismatch", {"round": 1, **ABSENT})
    assert job.tag == "receiving"
    job.send(PUT).succeed(Verify, verified(2))
    assert (job.tag, job.state.checksum) == ("stored", LINK.digest)


def test_space_is_released_when_the_client_never_uploads() -> None:
    job = receiving().pass_time(hours=1, minutes=1)
    assert job.ready == [Watch(LINK, 5, 3_600_000), Verify(LINK, 5, 1)]
    assert used(job) == 5
    job.fail(Verify, "Mismatch", {"round": 1, **ABSENT})
    assert (job.tag, used(job)) == ("expired", 0)
    assert job.ready == []
    assert blob(job).ready == [Delete(LINK)]


def test_bytes_that_came_in_the_last_second_are_found_by_the_last_look() -> None:
    job = receiving().pass_time(hours=24).succeed(Verify, verified(1))
    assert job.tag == "stored"


def test_a_failure_that_is_final_gives_the_space_back() -> None:
    job = play().send(ADD).fail(Stat, "Denied")
    assert (job.tag, job.state.error, used(job)) == ("failed", Err("Denied"), 0)


# --- repeating, cancelling, extending, removing ---------------------------------------------------


def test_a_repeat_changes_nothing_while_running_and_when_done() -> None:
    job = receiving()
    before = job.head
    assert (job.send(ADD).answer.kind, job.head) == ("no change", before)
    job.succeed(Watch, FOUND).send(ADD)
    assert (job.answer.kind, job.tag) == ("no change", "stored")


def test_another_codec_over_the_same_bytes_is_the_same_job() -> None:
    job = receiving()
    assert job.send(Add(SPACE, CID.of(DATA, 0x55), 5)).answer.kind == "no change"


def test_another_size_is_refused() -> None:
    assert receiving().send(Add(SPACE, LINK, 6)).refused == "SizeConflict"


def test_a_full_space_refuses_and_takes_the_job_when_there_is_room() -> None:
    job = play(limit=7).send(ADD).succeed(Stat, FOUND)
    other = Add(SPACE, CID.of(b"other"), 5)
    late = job.job(STORE_ADD.job_of(other)).send(other)
    assert (late.tag, late.state.error.detail) == ("exceeded", {"limit": 7, "used": 5})
    job.send(Remove(SPACE, LINK))
    assert (job.tag, used(job)) == ("idle", 0)
    late.send(other)
    assert (late.tag, late.epoch) == ("probing", 2)


def test_cancelling_keeps_the_space_until_the_url_is_dead() -> None:
    job = receiving().send(Cancel(SPACE, LINK))
    assert (job.tag, job.ready, used(job)) == ("failed", [], 5)
    assert job.timers == [Timer(None, 3_660_000)]
    job.pass_time(hours=2)
    assert (used(job), blob(job).tag) == (0, "deleting")


def test_a_new_try_after_cancelling_pays_for_itself() -> None:
    job = receiving().send(Cancel(SPACE, LINK)).send(ADD)
    assert (job.tag, job.epoch, used(job)) == ("probing", 2, 10)
    job.pass_time(hours=2)
    assert (used(job), blob(job).tag) == (5, "live")


def test_an_extension_signs_again_and_moves_deadline_and_watch() -> None:
    job = receiving().pass_time(minutes=30).send(Extend(SPACE, LINK))
    later = 5_400_000
    assert job.ready == [Presign(LINK, 5, later), Watch(LINK, 5, later)]
    assert job.timers == [Timer("deadline", later + 60_000)]


def test_extensions_have_an_end() -> None:
    job = receiving()
    for _ in range(5):
        job.pass_time(minutes=30).send(Extend(SPACE, LINK))
    assert job.refused == "Capped"
    assert job.state.window.deadline == TERMS.longest_ms


def test_removing_gives_back_space_and_bytes() -> None:
    job = receiving().succeed(Watch, FOUND).send(Remove(SPACE, LINK))
    assert (job.tag, used(job)) == ("removing", 5)
    assert job.send(ADD).refused == "Busy"
    job.pass_time(hours=2)
    assert (job.tag, used(job)) == ("idle", 0)
    blob(job).succeed(Delete, {"deleted": True})
    assert blob(job).tag == "gone"


def test_bytes_that_another_space_stores_outlive_their_removal() -> None:
    job = play().send(ADD).succeed(Stat, FOUND)
    theirs = Add(OTHER, LINK, 5)
    other = job.job(STORE_ADD.job_of(theirs)).send(theirs).succeed(Stat, FOUND)
    job.send(Remove(SPACE, LINK))
    assert (job.tag, other.tag, used(job, OTHER)) == ("idle", "stored", 5)
    assert (blob(job).tag, blob(job).state.references) == ("live", 1)


def test_bytes_on_their_way_out_are_waited_for() -> None:
    job = play().send(ADD).succeed(Stat, FOUND).send(Remove(SPACE, LINK)).send(ADD)
    assert (job.tag, job.ready, job.timers) == ("probing", [], [Timer("look", 5_000)])
    job.pass_time(seconds=5)
    assert job.timers == [Timer("look", 10_000)]
    blob(job).succeed(Delete, {"deleted": True})
    job.pass_time(seconds=5)
    assert job.ready == [Stat(LINK, 5)]


def test_each_try_has_a_reservation_of_its_own() -> None:
    job = play().send(ADD).fail(Stat, "Denied")
    first = job.state.upload.reservation
    assert job.send(ADD).state.upload.reservation != first


def test_bytes_that_an_audit_misses_are_asked_for_again_at_no_new_charge() -> None:
    job = play(limit=5).send(ADD).succeed(Stat, FOUND)
    job.transact(lambda tx: tx.apply(STORE_ADD.job_of(ADD), Lost()))
    assert (job.tag, job.epoch, used(job)) == ("probing", 2, 5)
    assert job.ready == [Alert("store/lost", SPACE, LINK)]
    blob(job).succeed(Delete, {"deleted": True})
    job.pass_time(seconds=5).succeed(Stat, ABSENT)
    assert job.tag == "receiving"


# --- what may not happen ------------------------------------------------------------------------


def test_nobody_outside_can_expire_a_job() -> None:
    with pytest.raises(StmflowError, match="Expire is not an outside event"):
        receiving().send(Expire())


@pytest.mark.parametrize("size", [-1, 0, MAX_BYTES + 1])
def test_a_size_that_no_put_takes_is_refused(size: int) -> None:
    with pytest.raises(StmflowError, match="size"):
        play().send(Add(SPACE, LINK, size))


def test_an_event_for_a_job_that_does_not_exist_writes_nothing() -> None:
    job = play().send(PUT)
    assert (job.refused, job.head) == ("NotFound", None)


def test_an_outcome_of_an_old_try_does_not_hit_the_new_one() -> None:
    job = play().send(ADD).succeed(Stat, ABSENT).send(Cancel(SPACE, LINK)).send(ADD)
    before = job.state
    assert job.succeed(Presign, signed(3_600_000)).answer.kind == "stale"
    assert job.state == before


def test_an_outcome_that_comes_twice_counts_once() -> None:
    job = receiving()
    before = job.head
    assert (job.repeat().answer.kind, job.head) == ("closed", before)


# --- with an allocator --------------------------------------------------------------------------


def test_an_allocator_grants_once_however_often_it_is_asked() -> None:
    job = play_with_allocator().send(ADD)
    (task,) = job.ready
    for _ in range(2):
        granted = job.transact(lambda tx: reserve(tx, task, limit=100))
        assert used(job) == 5
    job.succeed(Allocate, granted)
    assert job.tag == "probing"


def test_an_allocator_never_grants_what_was_released() -> None:
    job = play_with_allocator().send(ADD)
    (asked,) = job.ready
    job.send(Cancel(SPACE, LINK))
    (_, back) = job.ready
    job.succeed(Deallocate, job.transact(lambda tx: release(tx, back)))
    late = job.transact(lambda tx: reserve(tx, asked, limit=100))
    assert isinstance(late, Err)
    job.fail(Allocate, late.name, late.detail)
    assert (late.name, job.tag, used(job)) == ("Released", "failed", 0)
