"""Each fault of the fake S3 server, and what the handlers make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from scheduler.handlers import Context
from scheduler.handlers.s3 import Bucket, Delete, Put, Stat, Verify, object_key
from scheduler.retry import Failure, Retry
from scheduler.testing.loop import VirtualClock, VirtualLoop
from scheduler.testing.s3 import CUT_MS, S3_FAULTS, SKEW_MS, UNSEEN_MS, FakeClient, FakeS3
from stmflow.cid import CID, RAW

BODY = b"some bytes of an object"
LINK = CID.of(BODY, RAW)
KEY = object_key(LINK)
FOUND = {"found": True, "size": len(BODY), "checksum": LINK.digest, "mismatch": False}
ABSENT = {"found": False, "size": None, "checksum": None, "mismatch": False}


class Setting:
    """A bucket in virtual time. `faults` are those that come, each as often as it is in there."""

    made: ClassVar[list[Setting]] = []

    def __init__(self, *faults: str, skew_ms: int = 0) -> None:
        self.made.append(self)
        self.loop = VirtualLoop(Random(1))
        self.clock = VirtualClock(self.loop)
        self.faults = list(faults)
        self.server = FakeS3("blobs", self.clock, hit=self._hit, random=Random(2))
        self._mine = VirtualClock(self.loop, skew_ms)

    def _hit(self, fault: str) -> bool:
        if fault not in self.faults:
            return False
        self.faults.remove(fault)
        return True

    def run(self, ask: Callable[[Bucket, Context], Any]) -> Any:
        """What a handler answers, or the failure that it ends with."""

        async def one() -> Any:
            async def source(link: CID) -> bytes:
                return BODY

            client = self.server.client(self._mine)
            async with Bucket("blobs", client=client, source=source) as bucket:
                deadline = self._mine.now() + 20_000
                try:
                    return await ask(
                        bucket,
                        Context(key=LINK, job=LINK, attempt=1, token=1, deadline=deadline,
                            clock=self._mine),
                    )  # fmt: skip
                except Failure as failure:
                    return failure.name, failure.retry

        return self.loop.run_until_complete(one())


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while Setting.made:
        Setting.made.pop().loop.close()


def stat(bucket: Bucket, context: Context) -> Any:
    return bucket.stat(Stat(LINK, len(BODY)), context)


def verify(bucket: Bucket, context: Context) -> Any:
    return bucket.verify(Verify(LINK, len(BODY), 1), context)


def put(bucket: Bucket, context: Context) -> Any:
    return bucket.put(Put(LINK, len(BODY)), context)


def delete(bucket: Bucket, context: Context) -> Any:
    return bucket.delete(Delete(LINK), context)


UNKNOWN = ("Unavailable", Retry.IDEMPOTENT)
LOOKS: list[tuple[str, Any]] = [
    ("s3 500", UNKNOWN),
    ("s3 503", ("Throttled", Retry.THROTTLED)),
    ("s3 timeout done", UNKNOWN),
    ("s3 timeout lost", UNKNOWN),
    ("s3 redirect", ("Refused", Retry.FATAL)),
    ("s3 slow", FOUND),
    ("s3 wrong size", FOUND | {"found": False, "size": len(BODY) + 1, "mismatch": True}),
    ("s3 no checksum", FOUND),
]


@pytest.mark.parametrize(("fault", "answer"), LOOKS)
def test_what_a_look_comes_to(fault: str, answer: Any) -> None:
    setting = Setting()
    setting.run(put)
    setting.faults = [fault]
    seen = setting.run(stat)
    if fault == "s3 wrong size":  # one more, or one less
        seen = seen | {"size": max(seen["size"], len(BODY) + 1)}
    assert (seen, setting.faults) == (answer, [])


def test_a_wrong_checksum_is_no_proof() -> None:
    setting = Setting()
    setting.run(put)
    setting.faults = ["s3 wrong checksum"]
    assert setting.run(verify) == ("Mismatch", Retry.FATAL)
    assert setting.run(verify)["verified"]


def test_bytes_that_are_wrong_on_the_way_are_no_proof() -> None:
    setting = Setting()
    setting.run(put)
    setting.faults = ["s3 no checksum", "s3 wrong bytes"]
    seen = setting.run(stat)
    assert (seen["found"], seen["size"], seen["mismatch"]) == (False, len(BODY), True)


@pytest.mark.parametrize("seed", range(4))
def test_a_body_that_ends_early_is_read_again(seed: int) -> None:
    setting = Setting()
    setting.run(put)
    setting.server.random = Random(seed)
    setting.faults = ["s3 no checksum", "s3 cut"]
    assert setting.run(stat) == UNKNOWN
    assert setting.run(stat) == FOUND


def test_a_clock_that_is_wrong_is_told_and_nothing_was_done() -> None:
    assert Setting("s3 skewed", "s3 skewed").run(stat) == ("Skewed", Retry.SAFE)
    for ask in (stat, put, delete):
        setting = Setting(skew_ms=SKEW_MS + 1)
        assert setting.run(ask) == ("Skewed", Retry.SAFE)
        assert setting.server.done.total() == 0
    assert Setting(skew_ms=SKEW_MS).run(stat) == ABSENT


@pytest.mark.parametrize(("fault", "lies"), [("s3 timeout done", True), ("s3 timeout lost", False)])
def test_a_put_without_an_answer_was_done_or_was_not(fault: str, lies: bool) -> None:
    setting = Setting(fault)
    assert setting.run(put) == UNKNOWN
    assert (KEY in setting.server.objects) == lies
    assert setting.run(put) == {"existed": lies}


@pytest.mark.parametrize(("fault", "left"), [("s3 timeout done", False), ("s3 timeout lost", True)])
def test_a_delete_without_an_answer_was_done_or_was_not(fault: str, left: bool) -> None:
    setting = Setting()
    setting.run(put)
    setting.faults = [fault]
    assert setting.run(delete) == UNKNOWN
    assert (KEY in setting.server.objects) == left
    assert setting.run(delete) == {"deleted": True}


def test_a_put_or_a_delete_that_meets_another_writer_waits() -> None:
    setting = Setting("s3 409")
    assert setting.run(put) == ("Busy", Retry.THROTTLED)
    setting.run(put)
    setting.faults = ["s3 409"]
    assert setting.run(delete) == ("Busy", Retry.THROTTLED)
    assert KEY in setting.server.objects


def test_a_put_refused_for_what_is_not_there_is_tried_again() -> None:
    setting = Setting("s3 412")
    assert setting.run(put) == ("Changed", Retry.SAFE)
    assert setting.run(put) == {"existed": False}


def test_what_is_not_seen_at_first_is_seen_later() -> None:
    setting = Setting("s3 unseen")
    setting.run(put)
    assert setting.run(stat) == ABSENT
    setting.loop.run_until_complete(setting.clock.sleep_until(setting.clock.now() + UNSEEN_MS))
    assert setting.run(stat) == FOUND


def test_a_listing_is_of_before() -> None:
    setting = Setting("s3 stale list")
    setting.run(put)
    client = setting.server.client(setting.clock)

    async def keys() -> list[str]:
        answer = await client.list_objects_v2(Bucket="blobs")
        return [one["Key"] for one in answer["Contents"]]

    assert setting.loop.run_until_complete(keys()) == []
    assert setting.loop.run_until_complete(keys()) == [KEY]


@pytest.mark.parametrize(("late_ms", "arrives"), [(CUT_MS - 1, 1), (CUT_MS, 1), (CUT_MS + 1, 0)])
def test_a_request_that_is_held_up_for_too_long_does_not_arrive(
    late_ms: int, arrives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting()

    async def way(self: FakeClient) -> None:
        await setting.clock.sleep_until(setting.clock.now() + late_ms)

    monkeypatch.setattr(FakeClient, "_way", way)
    assert setting.run(delete) == ({"deleted": True} if arrives else UNKNOWN)
    assert setting.server.done["delete"] == arrives


def test_every_fault_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    assert [fault for fault in S3_FAULTS if f'"{fault}"' not in text] == []
