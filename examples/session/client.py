"""The client's side of a session: it dials, introduces itself, and comes back when a wire breaks.

One function per state, one case per cell of the table:

    same()        accepted, nothing changes      ignore()      duplicate or late
    reject(code)  refused                        impossible()  no legal run leads here

What holds in between: `grace` is armed in every state but the two that need it not; who leaves a
wire withdraws what was under way on it and closes it, in the same commit.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeAlias, assert_never

from examples.session import link as links
from examples.session.model import (
    Accepted,
    Broken,
    Client,
    Close,
    Connect,
    Deliver,
    Dial,
    GraceOver,
    Greet,
    Hang,
    Link,
    Mismatched,
    Opened,
    Paused,
    Post,
    Read,
    Received,
    Rejected,
    Shake,
    Silent,
    Unopened,
    Unshaken,
    Write,
    Written,
)
from stmflow import Effect, Err, Workflow, ignore, impossible, perform, reject, same, sleep

Next: TypeAlias = object
"""`(state, effects)`, or one of the four answers above."""
Event: TypeAlias = (
    Connect
    | Post
    | Close
    | Paused
    | Opened
    | Unopened
    | Accepted
    | Mismatched
    | Rejected
    | Unshaken
    | Broken
    | Received
    | Written
    | Silent
    | GraceOver
)

UNCONNECTED: Final = ("no-connection", "backing-off", "connecting", "handshaking")


def update(event: Event, state: Client | None) -> Next:
    if state is None:
        return _unknown(event)
    if isinstance(event, Post):
        return links.post(event, state)
    if isinstance(event, Close):
        return same() if state.status == "gone" else gone(state, None)
    match state.status:
        case "no-connection":
            return _no_connection(event, state)
        case "backing-off":
            return _backing_off(event, state)
        case "connecting":
            return _connecting(event, state)
        case "handshaking":
            return _handshaking(event, state)
        case "connected":
            return _connected(event, state)
        case "gone":
            return _gone(event, state)
    assert_never(state.status)


Moving: TypeAlias = (
    Connect
    | Paused
    | Opened
    | Unopened
    | Accepted
    | Mismatched
    | Rejected
    | Unshaken
    | Broken
    | Received
    | Written
    | Silent
    | GraceOver
)


# --- the table, row by row ------------------------------------------------------------------------


def _unknown(event: Event) -> Next:
    match event:
        case Connect(client, peer, nonce, terms):
            return begin(Client(client, peer, nonce, terms, "no-connection", Link()), event.at)
        case Post() | Close():
            return reject("NotFound")
        case _:
            return impossible()


def _no_connection(event: Moving, state: Client) -> Next:
    match event:
        case Connect():
            return reject("RetriesExceeded")
        case Opened():
            return ignore(perform(Hang(event.wire)))
        case Unopened():
            return ignore()
        case GraceOver():
            return gone(state, Err("GraceOver"))
        case _:
            return impossible()


def _backing_off(event: Moving, state: Client) -> Next:
    match event:
        case Connect():
            return same()
        case Paused():
            return dial(state, event.at)
        case Opened():
            return ignore(perform(Hang(event.wire)))
        case Unopened():
            return ignore()
        case GraceOver():
            return gone(state, Err("GraceOver"))
        case _:
            return impossible()


def _connecting(event: Moving, state: Client) -> Next:
    match event:
        case Connect():
            return same()
        case Opened():
            return shake(state, event)
        case Unopened():
            return connect(state, event.at)
        case GraceOver():
            return gone(state, Err("GraceOver"))
        case _:
            return impossible()


def _handshaking(event: Moving, state: Client) -> Next:
    match event:
        case Connect():
            return same()
        case Opened():
            return ignore(perform(Hang(event.wire)))
        case Unopened():
            return ignore()
        case Accepted() if event.session != state.session:
            return gone(state, Err("OtherSession"))
        case Accepted():
            return joined(event, state)
        case Mismatched():
            return anew(state, event.at)
        case Rejected():
            return gone(state, event.error)
        case Unshaken() | Broken():
            return connect(state, event.at)
        case GraceOver():
            return gone(state, Err("GraceOver"))
        case _:
            return impossible()


def _connected(event: Moving, state: Client) -> Next:
    match event:
        case Connect():
            return same()
        case Opened():
            return ignore(perform(Hang(event.wire)))
        case Unopened():
            return ignore()
        case Received() if event.session != state.session:
            return gone(state, Err("WrongPeer"))
        case Received():
            return received(event, state)
        case Written():
            return links.say(replace(state, link=replace(state.link, busy=False)))
        case Broken() | Silent():
            return lost_wire(state, event.at)
        case _:
            return impossible()


def _gone(event: Moving, state: Client) -> Next:
    match event:
        case Connect():
            return begin(replace(state, number=state.number + 1, tries=0, error=None), event.at)
        case Opened():
            return ignore(perform(Hang(event.wire)))
        case _:
            return ignore()


# --- what cells do --------------------------------------------------------------------------------


def begin(state: Client, at: int, *before: Effect) -> Next:
    """A session begins; it has as long to connect as one that has lost its wire."""
    fresh = replace(state, link=Link(), known=False, grace=at + state.terms.grace_ms)
    return connect(fresh, at, *before)


def connect(state: Client, at: int, *before: Effect) -> Next:
    """Without a wire; and another attempt, if the budget has one."""
    link, parting = links.parted(state.link)
    state = replace(state, link=link)
    effects = [*before, *parting, grace(state)]
    if state.tries >= state.terms.retries:
        return replace(state, status="no-connection", error=Err("RetriesExceeded")), effects
    pause_ms = 0 if state.tries == 0 else state.terms.base_ms << min(state.tries - 1, 20)
    pause = timedelta(milliseconds=min(pause_ms, state.terms.cap_ms))
    after = replace(state, status="backing-off", tries=state.tries + 1)
    return after, [*effects, sleep(for_=pause, name="pause").then(Paused)]


def grace(state: Client) -> Effect:
    """How long the session outlives its wire: counted once, carried over every attempt."""
    return sleep(until=state.grace, name="grace", during=UNCONNECTED).then(GraceOver)


def dial(state: Client, at: int) -> Next:
    until = at + state.terms.dial_ms
    wanted = Dial(state.client, state.dials, state.peer, until)
    late = sleep(until=until, name="dial").then(Unopened)
    after = replace(state, status="connecting", dials=state.dials + 1)
    return after, [perform(wanted).then(Opened).catch(Unopened), late]


def shake(state: Client, event: Opened) -> Next:
    link = links.joined(state.link, event.wire)
    wire = event.wire
    hello = Shake(wire, state.client, state.session, state.known, link.oldest, link.ack)
    answer = perform(Greet(wire), name="greet").then(Accepted).catch(Mismatched, "Mismatch")
    late = timedelta(milliseconds=state.terms.shake_ms)
    return replace(state, status="handshaking", link=link), [
        perform(hello, name="shake").catch(Broken),
        answer.catch(Rejected, "Rejected").catch(Broken),
        sleep(for_=late, name="shake-late").then(Unshaken),
    ]


def joined(event: Accepted, state: Client) -> Next:
    """On a wire, and the budget is whole again. What the server has need not be said again."""
    try:
        link = links.acknowledged(state.link, event.ack)
    except links.Invalid:
        return gone(state, Err("Invalid"))
    after = replace(state, status="connected", known=True, tries=0, link=link)
    return links.say(after, read(link), *watch(state))


def received(event: Received, state: Client) -> Next:
    try:
        got = links.taken(state.link, event)
    except links.Gap:
        return lost_wire(state, event.at)
    except links.Invalid:
        return gone(state, Err("Invalid"))
    delivery = links.delivered("client", state.client, state.session, got)
    link = replace(got.link, renew=got.link.renew or event.renew)
    return links.say(replace(state, link=link), *delivery, read(link), *watch(state))


def read(link: Link) -> Effect:
    return links.read(link).catch(Broken)


def watch(state: Client) -> list[Effect]:
    """The server shows that it lives; it need not, where it has no beat."""
    if state.terms.beat_ms is None:
        return []
    silence = timedelta(milliseconds=state.terms.beat_ms * state.terms.misses)
    return [sleep(for_=silence, name="watch").then(Silent)]


def lost_wire(state: Client, at: int) -> Next:
    """The session goes on; what was lost is sent again on the next wire."""
    return connect(replace(state, grace=at + state.terms.grace_ms), at)


def anew(state: Client, at: int) -> Next:
    """The server has lost the session, so it has ended; another begins."""
    ended, effects = ending(state)
    another = replace(ended, number=state.number + 1, error=Err("Mismatch"))
    return begin(another, at, *effects)


def gone(state: Client, error: Err | None) -> Next:
    ended, effects = ending(state)
    return replace(ended, status="gone", link=Link(), error=error), effects


def ending(state: Client) -> tuple[Client, list[Effect]]:
    """Of what was not acknowledged nobody knows."""
    link, effects = links.parted(state.link)
    return replace(state, lost=state.lost + len(link.buffer), link=link), effects


CLIENT: Final = Workflow(
    "session/client",
    state=Client,
    events=(
        Connect,
        Post,
        Close,
        Paused,
        Opened,
        Unopened,
        Accepted,
        Mismatched,
        Rejected,
        Unshaken,
        Broken,
        Received,
        Written,
        Silent,
        GraceOver,
    ),
    outside=(Connect, Post, Close),
    tasks=(Dial, Shake, Greet, Read, Write, Hang, Deliver),
    update=update,
    key=("client",),
    tag="status",
)
