"""The tests that a user of stmflow writes: no IO, no clock, no database; and the proof in short."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.transport import TRANSPORT, Cancel, Start, Terms
from examples.transport.check import CHECKS, REACHED, model
from examples.transport.model import BODY_BYTES, Close, Dial, Read, Reconcile, Write
from stmflow.check import prove
from stmflow.testing import Trace

TERMS = Terms(attempts=3, lookups=2, attempt_ms=1_000, deadline_ms=10_000, base_ms=1, cap_ms=1)
PAUSE = timedelta(milliseconds=1).total_seconds()


def start(*, idempotent: bool = False, terms: Terms = TERMS) -> Trace:
    return Trace(TRANSPORT).send(Start("k", "peer:1", b"body", idempotent, terms))


def sent(*, idempotent: bool = False) -> Trace:
    return start(idempotent=idempotent).succeed(Dial, {"wire": "w"}).succeed(Write)


def test_a_request_that_is_answered() -> None:
    job = sent().succeed(Read, {"body": b"answer"})
    assert (job.tag, job.state.answer, job.state.happened) == ("done", b"answer", True)
    assert job.ready == [Close("k", 1, 10_000)]
    assert job.timers == []


def test_an_answer_may_come_before_all_is_sent() -> None:
    job = start().succeed(Dial, {"wire": "w"}).succeed(Read, {"body": b""})
    assert (job.tag, job.ready) == ("done", [Close("k", 1, 10_000)])


def test_what_was_not_sent_is_tried_again_without_a_question() -> None:
    job = start().fail(Dial, "Refused")
    assert job.tag == "backoff"
    job.pass_time(seconds=PAUSE)
    assert (job.tag, job.epoch, Dial in map(type, job.ready)) == ("connecting", 2, True)


def test_what_was_sent_is_asked_for_before_it_is_sent_again() -> None:
    job = sent().fail(Read, "Reset").pass_time(seconds=PAUSE)
    assert (job.tag, job.ready) == ("unknown", [Reconcile("k", 1, "peer:1", 10_000)])
    job.succeed(Reconcile, {"body": None}).pass_time(seconds=PAUSE)
    assert (job.tag, job.epoch) == ("connecting", 2)


def test_what_may_be_carried_out_twice_is_sent_again_at_once() -> None:
    job = sent(idempotent=True).fail(Read, "Reset").pass_time(seconds=PAUSE)
    assert (job.tag, job.epoch, job.state.maybe) == ("connecting", 2, True)


def test_a_late_answer_is_an_answer() -> None:
    job = sent().pass_time(seconds=1)
    assert job.tag == "unknown"
    assert job.succeed(Read, {"body": b"late"}).tag == "done"


def test_the_peer_says_how_long_to_wait() -> None:
    job = sent().fail(Read, "Throttled", 500)
    assert [timer.due for timer in job.timers if timer.name == "resume"] == [500]


def test_a_pause_that_would_pass_the_deadline_is_not_made() -> None:
    job = sent().fail(Read, "Throttled", 10_000)
    assert (job.tag, job.state.error.name, job.state.happened) == ("failed", "Exhausted", False)


def test_credentials_are_refreshed_once() -> None:
    job = sent().fail(Read, "Auth").succeed(Dial, {"wire": "w2"})
    assert Write("k", 2, "w2", b"body", True, 10_000) in job.ready
    job.succeed(Write).fail(Read, "Auth")
    assert (job.tag, job.state.error.name, job.state.happened) == ("failed", "Auth", False)


def test_what_is_cancelled_once_it_was_sent_is_asked_for() -> None:
    job = sent().send(Cancel("k")).pass_time(seconds=PAUSE)
    assert job.tag == "unknown"
    job.succeed(Reconcile, {"body": None})
    assert (job.tag, job.state.happened) == ("cancelled", False)


def test_who_cannot_ask_says_so_in_the_end() -> None:
    job = sent().fail(Read, "Reset")
    while not job.state.ended:
        job.pass_time(seconds=PAUSE)
        for task in [task for task in job.ready if type(task) is Reconcile]:
            job.fail(task, "Unreachable")
        if not job.ready:
            job.pass_time(seconds=1)
    assert (job.tag, job.state.error.name, job.state.happened) == ("failed", "Deadline", None)


def test_a_cancel_may_come_first() -> None:
    job = Trace(TRANSPORT).send(Cancel("k"))
    assert job.send(Start("k", "peer:1", b"", True)).tag == "cancelled"
    assert job.ready == []


@pytest.mark.parametrize(("bytes_", "code"), [(-1, None), (0, None), (1, "TooLarge")])
def test_a_body_has_a_bound(bytes_: int, code: str | None) -> None:
    job = Trace(TRANSPORT).send(Start("k", "peer:1", bytes(BODY_BYTES + bytes_), True))
    assert job.refused == code


@pytest.mark.parametrize(("lookups", "tag"), [(1, "failed"), (2, "backoff"), (3, "backoff")])
def test_a_peer_without_address_is_tried_a_few_times(lookups: int, tag: str) -> None:
    terms = Terms(lookups=lookups, base_ms=1, cap_ms=1)
    assert start(terms=terms).fail(Dial, "Unresolved").tag == tag


# --- proved ---------------------------------------------------------------------------------------


def test_it_holds() -> None:
    report = prove(model("short", idempotent=False, breaks=False, more=REACHED[3:5]))
    assert (report.holds, report.vacuous) == (True, [])


@pytest.mark.acceptance
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_holds_whatever_the_peer_says(check: object) -> None:
    report = prove(check)  # type: ignore[arg-type]
    assert (report.holds, report.vacuous) == (True, [])
