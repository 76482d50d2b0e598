"""The tests that a user would write: nodes that vote, and a lease."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples.election.check import NAMES, arriving, election, outlived, timed
from examples.election.lease import LEASE, LOST, Lease, Take, fenced, release, renew, take
from examples.election.lease_check import KEY, LEASES, REGISTER
from examples.election.workflow import (
    NODE,
    Joined,
    Led,
    Node,
    Stand,
    VoteAsked,
    Voted,
)
from stmflow.check import Check, prove
from stmflow.testing import Trace

PEERS = ("b", "c")


def node(name: str = "a", peers: tuple[str, ...] = PEERS, patience_ms: int | None = 100) -> Trace:
    return Trace(NODE).send(Joined(name, peers, patience_ms))


def later(trace: Trace) -> Trace:
    """Until its next timer has fired."""
    return trace.pass_time(until=trace.timers[0].due)


# --- nodes --------------------------------------------------------------------------------------


def test_who_hears_of_no_leader_stands_and_asks_everybody() -> None:
    a = later(node())
    assert (a.tag, a.state.term, a.state.voted) == ("candidate", 1, "a")
    assert a.ready == [VoteAsked("b", 1, "a"), VoteAsked("c", 1, "a")]
    assert later(a).state.term == 2  # and again, and what it has asked before is off
    assert a.ready == [
        VoteAsked("b", 2, "a"),
        VoteAsked("c", 2, "a"),
    ]


def test_a_node_votes_once_in_a_term() -> None:
    b = node("b", ("a", "c")).send(VoteAsked("b", 1, "a"))
    assert (b.state.voted, b.ready) == ("a", [Voted("a", 1, "b")])
    assert b.send(VoteAsked("b", 1, "c")).answer.kind == "ignored"
    assert b.send(VoteAsked("b", 1, "a")).answer.committed  # asked again, told again
    assert b.send(VoteAsked("b", 2, "c")).state.voted == "c"


def test_the_votes_of_most_make_a_leader() -> None:
    a = node().send(Stand("a")).send(Voted("a", 1, "b"))
    assert (a.tag, a.ready[-2:]) == ("leader", [Led("b", 1, "a"), Led("c", 1, "a")])
    assert a.send(Voted("a", 1, "c")).answer.kind == "ignored"
    assert [timer.name for timer in later(a).timers] == ["beat"]
    assert a.tag == "leader"


@pytest.mark.parametrize(
    ("peers", "needed"), [((), 0), (("b",), 1), (PEERS, 1), (("b", "c", "d"), 2)]
)
def test_most_is_more_than_half(peers: tuple[str, ...], needed: int) -> None:
    a = node(peers=tuple(peers)).send(Stand("a"))
    for voter in peers[:needed]:
        assert a.tag == "candidate"
        a.send(Voted("a", 1, voter)).send(Voted("a", 1, voter))  # a vote may come twice
    assert a.tag == "leader"


def test_a_newer_term_ends_every_claim() -> None:
    for message in (VoteAsked("a", 2, "b"), Led("a", 2, "b")):
        a = node().send(Stand("a")).send(Voted("a", 1, "b")).send(message)
        assert (a.tag, a.state.term) == ("follower", 2)
    assert node().send(Stand("a")).send(Led("a", 1, "b")).tag == "follower"


def test_what_comes_from_a_term_that_is_over_changes_nothing() -> None:
    a = node().send(Stand("a")).send(Stand("a"))
    for message in (VoteAsked("a", 1, "b"), Voted("a", 1, "b"), Led("a", 1, "b")):
        assert a.send(message).answer.kind == "ignored"
    assert a.state == replace(a.state, role="candidate", term=2, votes=("a",))


def test_only_peers_are_heard() -> None:
    a = node().send(Stand("a"))
    for message in (VoteAsked("a", 9, "x"), Voted("a", 1, "x"), Led("a", 9, "x")):
        assert a.send(message).refused == "NotAPeer"
    assert (a.tag, a.state.term) == ("candidate", 1)


def test_patience_is_drawn_from_name_and_term() -> None:
    def span(trace: Trace) -> int:
        return trace.timers[0].due - trace.now

    spans = [span(node()), span(node("b", ("a", "c"))), span(later(node()))]
    assert span(node()) == spans[0]
    assert len(set(spans)) == 3
    assert all(100 <= each < 200 for each in spans)


def test_a_node_joins_once_and_is_none_of_its_peers() -> None:
    assert node().send(Joined("a", PEERS, 100)).refused == "Exists"
    assert Trace(NODE).send(Joined("a", ("a",), 100)).refused == "Invalid"
    assert Trace(NODE).send(Stand("a")).refused == "NotFound"


@pytest.mark.parametrize(
    ("patience_ms", "allowed"), [(2, False), (3, True), (4, True), (None, True)]
)
def test_three_beats_fit_into_a_patience(patience_ms: int | None, allowed: bool) -> None:
    a = Trace(NODE).send(Joined("a", PEERS, patience_ms))
    assert a.state == (Node("a", PEERS, patience_ms) if allowed else None)


# --- the lease ----------------------------------------------------------------------------------


def test_a_lease_has_one_holder_and_each_a_token_of_its_own() -> None:
    world = Trace(LEASE)
    assert world.transact(take(KEY, "a", 100)) == 1
    assert world.transact(take(KEY, "b", 100)) is None
    assert world.transact(release(KEY, 2)) == LOST
    assert world.transact(release(KEY, 1)) is None
    assert world.transact(release(KEY, 1)) == LOST
    assert world.transact(take(KEY, "b", 100)) == 2
    assert world.job(KEY).state == Lease("held", 2, "b")


def test_who_was_away_for_too_long_changes_nothing() -> None:
    world = Trace(LEASE)
    token = world.transact(take(KEY, "a", 100))
    assert token == 1
    write = fenced(KEY, token, lambda tx: tx.write(REGISTER, "a was here").kind)
    assert world.transact(write) == "committed"
    later(world.job(KEY))
    assert world.transact(write) == LOST  # nobody else has it yet
    assert world.transact(take(KEY, "b", 100)) == 2
    assert world.transact(write) == LOST
    assert world.transact(renew(KEY, token, 100)) == LOST


def test_a_renewed_lease_lapses_later_and_once() -> None:
    world = Trace(LEASE)
    world.transact(take(KEY, "a", 100))
    end = world.job(KEY).timers[0].due
    world.pass_time(until=end - 1)
    assert world.transact(renew(KEY, 1, 100)) is None
    assert [timer.due for timer in world.job(KEY).timers] == [end + 99]
    assert world.transact(renew(KEY, 1, 0)) == "Invalid"
    assert world.transact(renew(KEY, 1, 1)) is None
    assert Trace(LEASE).transact(lambda tx: tx.apply(KEY, Take("a", 0)).code) == "Invalid"
    assert Trace(LEASE).transact(take(KEY, "a", 1)) == 1


# --- proved -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check",
    [
        election("two terms", 2, timed(NAMES)),
        pytest.param(
            election("three terms", 3, timed(NAMES), outlived(NAMES)), marks=pytest.mark.acceptance
        ),
        election("workers", 1, timed(NAMES[:2]), names=NAMES[:2], handled=True, late=1),
        pytest.param(
            election("workers, two terms", 2, timed(NAMES[:2]), names=NAMES[:2], handled=True),
            marks=pytest.mark.acceptance,
        ),
        arriving("what is told arrives", 2),
        *LEASES,
    ],
    ids=lambda check: check.name,
)
def test_what_is_proved(check: Check) -> None:
    report = prove(check)
    assert (report.holds, report.vacuous) == (True, [])
