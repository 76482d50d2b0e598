"""The tests that a user of stmflow writes: no IO, no clock, no database; and the proof in short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples.session import CLIENT, SERVER, Close, Connect, Deliver, Post, Shaken, Terms
from examples.session.check import CHECKS, SHORT, route
from examples.session.model import (
    BODY_BYTES,
    BUFFER,
    Dial,
    Greet,
    Hang,
    Read,
    Shake,
    Welcome,
    Write,
)
from stmflow import Job
from stmflow.check import Check, prove
from stmflow.testing import Trace

TERMS = Terms(retries=2, beat_ms=1_000)
HELLO = Shaken("i", "c", "w", "n.1", known=False, sends=0, wants=0, terms=TERMS)


def client() -> Trace:
    trace = Trace(CLIENT, transactional={Deliver: route})
    return trace.send(Connect("c", "host:1", "n", TERMS)).pass_time(seconds=0)


def connected() -> Trace:
    job = client().succeed(Dial, {"wire": "w"}).succeed(Shake)
    return job.succeed(Greet, welcome())


def server() -> Trace:
    return Trace(SERVER, transactional={Deliver: route}).send(HELLO)


def packet(
    seq: int, ack: int, *bodies: bytes, beat: bool = False, renew: bool = False
) -> dict[str, object]:
    said = {"session": "n.1", "seq": seq, "ack": ack, "bodies": list(bodies)}
    return {**said, "beat": beat, "renew": renew}


def post(job: Trace, *bodies: bytes) -> Trace:
    for body in bodies:
        job.send(Post(body))
    return job


def welcome(ack: int = 0) -> dict[str, object]:
    return {"session": "n.1", "ack": ack}


# --- a client -------------------------------------------------------------------------------------


def test_a_client_connects() -> None:
    job = client()
    assert job.tag == "connecting"
    job.succeed(Dial, {"wire": "w"})
    assert Shake("w", "c", "n.1", False, 0, 0) in job.ready
    job.succeed(Shake).succeed(Greet, welcome())
    assert (job.tag, job.ready) == ("connected", [Read("w", 0)])
    assert [timer.name for timer in job.timers] == ["watch"]


def test_what_is_posted_before_goes_out_in_one_packet() -> None:
    job = post(client(), b"a", b"b").succeed(Dial, {"wire": "w"})
    job.succeed(Shake).succeed(Greet, welcome())
    assert Write("w", 0, "n.1", 0, 0, (b"a", b"b"), False, False) in job.ready


def test_one_packet_is_written_at_a_time() -> None:
    job = post(connected(), b"a", b"b", b"c")
    assert [task for task in job.ready if type(task) is Write] == [
        Write("w", 0, "n.1", 0, 0, (b"a",), False, False)
    ]
    job.succeed(Write)
    assert Write("w", 1, "n.1", 1, 0, (b"b", b"c"), False, False) in job.ready


def test_what_was_not_acknowledged_is_sent_again_on_the_next_wire() -> None:
    job = post(connected(), b"a", b"b").succeed(Write)
    job.succeed(Read, packet(0, 1)).fail(Read, "Broken")
    assert (job.tag, job.state.link.buffer) == ("backing-off", (b"b",))
    assert Hang("w") in job.ready
    job.pass_time(seconds=0).succeed(Dial, {"wire": "v"})
    assert Shake("v", "c", "n.1", True, 1, 0) in job.ready
    job.succeed(Shake).succeed(Greet, welcome())
    assert Write("v", 0, "n.1", 1, 0, (b"b",), False, False) in job.ready


def test_what_the_server_has_is_not_sent_again() -> None:
    job = post(connected(), b"a", b"b").succeed(Write).fail(Read, "Broken").pass_time(seconds=0)
    job.succeed(Dial, {"wire": "v"}).succeed(Shake).succeed(Greet, welcome(1))
    assert Write("v", 0, "n.1", 1, 0, (b"b",), False, False) in job.ready


@pytest.mark.parametrize(("ack", "tag"), [(0, "connected"), (1, "connected"), (2, "gone")])
def test_a_server_cannot_have_what_was_never_posted(ack: int, tag: str) -> None:
    job = post(client(), b"a").succeed(Dial, {"wire": "w"}).succeed(Shake)
    assert job.succeed(Greet, welcome(ack)).tag == tag


def test_a_late_wire_is_closed() -> None:
    job = client().pass_time(seconds=2)
    assert job.tag == "backing-off"
    job.succeed(Dial, {"wire": "late"})
    assert Hang("late") in job.ready


def test_the_budget_of_retries_is_kept() -> None:
    job = client().fail(Dial, "Unopened").pass_time(seconds=1).fail(Dial, "Unopened")
    assert (job.tag, job.state.error.name) == ("no-connection", "RetriesExceeded")
    assert job.send(Connect("c", "host:1", "n", TERMS)).refused == "RetriesExceeded"
    assert job.pass_time(seconds=10).tag == "gone"


def test_a_mismatch_begins_another_session() -> None:
    job = post(client(), b"a").succeed(Dial, {"wire": "w"}).succeed(Shake).fail(Greet, "Mismatch")
    assert (job.tag, job.state.session, job.state.lost) == ("backing-off", "n.2", 1)


@pytest.mark.parametrize("error", ["Rejected"])
def test_what_is_fatal_is_not_tried_again(error: str) -> None:
    job = client().succeed(Dial, {"wire": "w"}).succeed(Shake).fail(Greet, error)
    assert (job.tag, job.timers) == ("gone", [])


def test_a_silent_server_is_left() -> None:
    job = connected().pass_time(seconds=3)
    assert job.tag in ("backing-off", "connecting")


def test_a_beat_is_answered_at_once() -> None:
    job = connected().succeed(Read, packet(0, 0, beat=True))
    assert Write("w", 0, "n.1", 0, 0, (), False, False) in job.ready


def test_a_client_shows_again_who_it_is() -> None:
    job = connected().succeed(Read, packet(0, 0, renew=True))
    assert Write("w", 0, "n.1", 0, 0, (), False, True) in job.ready
    assert not job.state.link.renew


def test_nothing_is_left_after_close() -> None:
    job = connected().send(Close())
    assert (job.tag, job.ready, job.timers) == ("gone", [Hang("w")], [])
    assert post(job, b"a").refused == "Ended"


# --- a server -------------------------------------------------------------------------------------


def test_a_server_welcomes_before_it_speaks() -> None:
    job = post(server(), b"x")
    assert [type(task) for task in job.ready] == [Welcome, Read]
    job.succeed(Welcome)
    assert Write("w", 0, "n.1", 0, 0, (b"x",), False, False) in job.ready


@pytest.mark.parametrize(
    ("sends", "wants", "code"),
    [(1, 0, None), (2, 0, "Mismatch"), (1, 1, None), (1, 2, "Mismatch"), (0, 0, None)],
)
def test_what_neither_has_forgotten_is_resumed(sends: int, wants: int, code: str | None) -> None:
    """The server has one message, and has sent one, which is not acknowledged."""
    job = post(server(), b"x").succeed(Read, packet(0, 0, b"a"))
    again = Shaken("i", "c", "v", "n.1", True, sends, wants, terms=TERMS)
    assert job.send(again).refused == code
    assert job.state.link.wire == ("w" if code else "v")


def test_what_the_client_has_is_not_asked_of_the_server_again() -> None:
    job = post(server(), b"x", b"y").succeed(Read, packet(0, 1))
    assert job.send(Shaken("i", "c", "v", "n.1", True, 0, 0, terms=TERMS)).refused == "Mismatch"


def test_a_stranger_who_says_that_he_is_known_is_not() -> None:
    job = Trace(SERVER).send(Shaken("i", "c", "w", "n.1", True, 0, 0, terms=TERMS))
    assert job.refused == "Mismatch"


def test_another_session_takes_the_place_of_the_one_before() -> None:
    job = post(server(), b"x").send(Shaken("i", "c", "v", "n.2", False, 0, 0, terms=TERMS))
    assert (job.state.session, job.state.number, job.state.lost) == ("n.2", 2, 1)
    assert Hang("w") in job.ready


def test_messages_that_came_before_are_dropped() -> None:
    job = server().succeed(Read, packet(0, 0, b"a")).succeed(Read, packet(0, 0, b"a", b"b"))
    assert (job.tag, job.state.link.ack) == ("connected", 2)


def test_a_gap_costs_the_wire_not_the_session() -> None:
    job = server().succeed(Read, packet(1, 0, b"b"))
    assert (job.tag, [timer.name for timer in job.timers]) == ("no-connection", ["grace"])
    assert job.pass_time(seconds=10).tag == "gone"


@pytest.mark.parametrize("wrong", [packet(0, 1), {**packet(0, 0), "session": "another"}])
def test_what_cannot_be_ends_the_session(wrong: dict[str, object]) -> None:
    assert server().succeed(Read, wrong).tag == "gone"


# --- a server that asks again ---------------------------------------------------------------------


def renewing() -> Trace:
    """A server that asks each minute, and has just asked."""
    terms = replace(TERMS, beat_ms=None, renew_ms=60_000)
    job = Trace(SERVER, transactional={Deliver: route}).send(replace(HELLO, terms=terms))
    assert [timer.name for timer in job.succeed(Welcome).timers] == ["renew"]
    return job.pass_time(seconds=60)


def test_a_server_asks_its_client_to_show_again_who_it_is() -> None:
    job = renewing()
    assert Write("w", 0, "n.1", 0, 0, (), False, True) in job.ready
    assert [timer.name for timer in job.timers] == ["renew-late"]


def test_who_shows_it_is_asked_again_a_minute_later() -> None:
    job = renewing().succeed(Write).succeed(Read, packet(0, 0, renew=True))
    assert (job.tag, [timer.name for timer in job.timers]) == ("connected", ["renew"])
    assert Write in map(type, job.pass_time(seconds=60).ready)


@pytest.mark.parametrize(("ms", "tag"), [(1_999, "connected"), (2_000, "gone")])
def test_who_does_not_show_it_in_time_is_left(ms: int, tag: str) -> None:
    job = renewing().succeed(Write).succeed(Read, packet(0, 0, b"x"))
    assert job.pass_time(seconds=ms / 1_000).tag == tag


def test_what_is_not_good_any_more_ends_the_session() -> None:
    job = renewing().succeed(Write).fail(Read, "Rejected")
    assert (job.tag, job.state.error.name, job.timers) == ("gone", "Rejected", [])


def test_on_another_wire_it_has_been_shown_already() -> None:
    job = renewing().send(Shaken("i", "c", "v", "n.1", True, 0, 0, terms=renewing().state.terms))
    assert [timer.name for timer in job.timers] == ["renew"]
    job.succeed(Welcome)
    assert not any(type(task) is Write for task in job.ready)


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [client, server])
@pytest.mark.parametrize(("bytes_", "code"), [(-1, None), (0, None), (1, "TooLarge")])
def test_a_message_has_a_bound(make: object, bytes_: int, code: str | None) -> None:
    job: Trace = make()  # type: ignore[operator]
    assert post(job, bytes(BODY_BYTES + bytes_)).refused == code


@pytest.mark.parametrize("make", [client, server])
def test_a_buffer_has_a_bound(make: object) -> None:
    job: Trace = make()  # type: ignore[operator]
    assert job.head is not None
    whose = Job(job.head.name, job.head.key, job.head.job)
    verdicts = job.transact(lambda tx: [tx.apply(whose, Post(b"")) for _ in range(BUFFER + 1)])
    assert [verdict.code for verdict in verdicts] == [*[None] * BUFFER, "BufferFull"]
    assert len(job.state.link.buffer) == BUFFER


# --- proved ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", SHORT, ids=lambda check: check.name)
def test_it_holds(check: Check) -> None:
    report = prove(check)
    assert (report.holds, report.vacuous) == (True, [])


@pytest.mark.acceptance
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_holds_with_more_of_it(check: Check) -> None:
    report = prove(check)
    assert (report.holds, report.vacuous) == (True, [])
