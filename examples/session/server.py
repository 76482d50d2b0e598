"""The server's side of a session: it waits to be called, and remembers what it may have to repeat.

One job for each client of a server; who it is, the wire's first packet has said already. The words
are those of `client.py`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeAlias, assert_never

from examples.session import link as links
from examples.session.model import (
    BeatDue,
    Broken,
    Close,
    Deliver,
    GraceOver,
    Hang,
    Link,
    Post,
    Read,
    Received,
    Rejected,
    RenewalDue,
    RenewalLate,
    Server,
    Shaken,
    Silent,
    Welcome,
    Write,
    Written,
)
from stmflow import Effect, Err, Workflow, cancel, ignore, impossible, perform, reject, same, sleep

Next: TypeAlias = object
Moving: TypeAlias = (
    Shaken
    | Broken
    | Rejected
    | Received
    | Written
    | BeatDue
    | RenewalDue
    | RenewalLate
    | Silent
    | GraceOver
)
Event: TypeAlias = Post | Close | Moving


def update(event: Event, state: Server | None) -> Next:
    if state is None:
        return _unknown(event)
    if isinstance(event, Shaken):
        return shaken(event, state)
    if isinstance(event, Post):
        return links.post(event, state)
    if isinstance(event, Close):
        return same() if state.status == "gone" else gone(state, None)
    match state.status:
        case "connected":
            return _connected(event, state)
        case "no-connection":
            return gone(state, Err("GraceOver")) if isinstance(event, GraceOver) else impossible()
        case "gone":
            return ignore()
    assert_never(state.status)


def _unknown(event: Event) -> Next:
    match event:
        case Shaken():
            return reject("Mismatch") if event.known else fresh(event, 1, 0)
        case Post() | Close():
            return reject("NotFound")
        case _:
            return impossible()


# --- the handshake: the row of the table in which everything is decided ---------------------------


def shaken(event: Shaken, state: Server) -> Next:
    link = state.link
    if event.session == state.session and state.status != "gone":
        if event.wire == link.wire:
            return gone(state, Err("ShakenTwice"))
        if event.sends > link.ack or link.oldest > event.wants or event.wants > link.seq:
            return reject("Mismatch")  # one of us has forgotten something
        return joined(state, event)
    if event.known:
        return reject("Mismatch")
    _, effects = links.parted(link)
    return fresh(event, state.number + 1, state.lost + len(link.buffer), *effects)


def fresh(event: Shaken, number: int, lost: int, *before: Effect) -> Next:
    state = Server(
        event.instance, event.client, event.session, event.terms, "connected", Link(), number, lost
    )
    return welcome(replace(state, link=links.joined(state.link, event.wire)), *before)


def joined(state: Server, event: Shaken) -> Next:
    """The session goes on, on another wire; the old one is closed first."""
    link, effects = links.parted(links.acknowledged(state.link, event.wants))
    after = replace(state, status="connected", link=links.joined(link, event.wire))
    return welcome(after, *effects)


def welcome(state: Server, *before: Effect) -> Next:
    """The answer to a handshake is the wire's first packet: nothing is said before it."""
    link = replace(state.link, busy=True)
    known = Welcome(link.wire, state.session, link.ack)
    answer = perform(known, name="write").then(Written).catch(Broken)
    after = replace(state, link=link)
    return after, [*before, answer, read(after), *watch(state), *renewal(state)]


# --- the other rows -------------------------------------------------------------------------------


def _connected(event: Moving, state: Server) -> Next:
    match event:
        case Received() if event.session != state.session:
            return gone(state, Err("WrongPeer"))
        case Received():
            return received(event, state)
        case Written():
            return links.say(replace(state, link=replace(state.link, busy=False)), *beat(state))
        case BeatDue():
            return links.say(replace(state, link=replace(state.link, beat=True)), *beat(state))
        case RenewalDue():
            return links.say(replace(state, link=replace(state.link, renew=True)), late(state))
        case RenewalLate():
            return gone(state, Err("RenewalLate"))
        case Rejected():
            return gone(state, event.error)
        case Broken() | Silent():
            return lost_wire(state, event.at)
        case _:
            return impossible()


def received(event: Received, state: Server) -> Next:
    try:
        got = links.taken(state.link, event)
    except links.Gap:
        return lost_wire(state, event.at)
    except links.Invalid:
        return gone(state, Err("Invalid"))
    delivery = links.delivered("server", state.client, state.session, got)
    after = replace(state, link=got.link)
    renewed = renewal(state) if event.renew else []
    return links.say(after, *delivery, read(after), *watch(state), *renewed)


def read(state: Server) -> Effect:
    """The client's next packet; or what it shows in it is not good."""
    return links.read(state.link).catch(Rejected, "Rejected").catch(Broken)


def beat(state: Server) -> list[Effect]:
    """When next to show that it lives: counted from the last packet."""
    if state.terms.beat_ms is None:
        return []
    return [sleep(for_=timedelta(milliseconds=state.terms.beat_ms), name="beat").then(BeatDue)]


def watch(state: Server) -> list[Effect]:
    """The client answers every beat."""
    if state.terms.beat_ms is None:
        return []
    silence = timedelta(milliseconds=state.terms.beat_ms * state.terms.misses)
    return [sleep(for_=silence, name="watch").then(Silent)]


def renewal(state: Server) -> list[Effect]:
    """The client has just shown who it is: when to ask again, and no more waiting for it."""
    if state.terms.renew_ms is None:
        return []
    due = timedelta(milliseconds=state.terms.renew_ms)
    return [cancel("renew-late"), sleep(for_=due, name="renew").then(RenewalDue)]


def late(state: Server) -> Effect:
    """It has as long to show it as a new one has to introduce itself."""
    patience = timedelta(milliseconds=state.terms.shake_ms)
    return sleep(for_=patience, name="renew-late").then(RenewalLate)


def lost_wire(state: Server, at: int) -> Next:
    link, effects = links.parted(state.link)
    over = sleep(until=at + state.terms.grace_ms, name="grace").then(GraceOver)
    return replace(state, status="no-connection", link=link), [*effects, over]


def gone(state: Server, error: Err | None) -> Next:
    link, effects = links.parted(state.link)
    lost = state.lost + len(link.buffer)
    return replace(state, status="gone", link=Link(), lost=lost, error=error), effects


SERVER: Final = Workflow(
    "session/server",
    state=Server,
    events=(
        Shaken,
        Post,
        Close,
        Broken,
        Rejected,
        Received,
        Written,
        BeatDue,
        RenewalDue,
        RenewalLate,
        Silent,
        GraceOver,
    ),
    outside=(Shaken, Post, Close),
    tasks=(Welcome, Read, Write, Hang, Deliver),
    update=update,
    key=("instance", "client"),
    tag="status",
)
