"""Numbers, acknowledgements and what is not acknowledged yet: the part that both sides share. Pure.

One packet is written at a time, so packets keep their order, and what is posted meanwhile goes
together into the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeVar

from examples.session.model import (
    BATCH,
    BODY_BYTES,
    BUFFER,
    Broken,
    Client,
    Deliver,
    Hang,
    Link,
    Post,
    Read,
    Received,
    Server,
    Write,
    Written,
)
from stmflow import Effect, cancel, perform, reject

Side = TypeVar("Side", bound=Client | Server)


class Gap(Exception):
    """The other side is ahead of us: something was lost on this wire."""


class Invalid(Exception):
    """The other side acknowledges what was never sent."""


class Taken(NamedTuple):
    """What a packet comes to: the link after it, and the messages that are new."""

    link: Link
    seq: int
    bodies: tuple[bytes, ...]


def post(event: Post, state: Side) -> Any:
    """Into the buffer, and on its way if there is a wire."""
    link = state.link
    if state.status == "gone":
        return reject("Ended")
    if len(event.body) > BODY_BYTES:
        return reject("TooLarge", {"most": BODY_BYTES})
    if len(link.buffer) >= BUFFER:
        return reject("BufferFull", {"most": BUFFER})
    after = replace(state, link=replace(link, seq=link.seq + 1, buffer=(*link.buffer, event.body)))
    return say(after) if state.status == "connected" else (after, [])


def say(state: Side, *before: Effect) -> tuple[Side, list[Effect]]:
    """What there is to say is said at once, if nothing is being said."""
    link, packet = written(state.link, state.session)
    return replace(state, link=link), [*before, *packet]


def joined(link: Link, wire: str) -> Link:
    """On a new wire: everything that is not acknowledged is sent again, in order."""
    kept = Link(link.seq, link.ack, link.buffer)
    return replace(kept, wire=wire, told=link.oldest)


def parted(link: Link) -> tuple[Link, list[Effect]]:
    """Without its wire: what was under way on it is withdrawn, and it is closed."""
    if not link.wire:
        return link, []
    withdrawn = [cancel(name) for name in ("shake", "greet", "read", "write")]
    return joined(link, ""), [*withdrawn, perform(Hang(link.wire))]


def acknowledged(link: Link, ack: int) -> Link:
    """The other side has all before `ack`. Raises Invalid."""
    if ack > link.seq:
        raise Invalid
    if ack <= link.oldest:
        return link
    return replace(link, buffer=link.buffer[ack - link.oldest :], told=max(link.told, ack))


def taken(link: Link, packet: Received) -> Taken:
    """A packet is taken: what is old in it is dropped. Raises Gap or Invalid."""
    link = acknowledged(link, packet.ack)
    if packet.seq > link.ack:
        raise Gap
    bodies, seq = packet.bodies[link.ack - packet.seq :], link.ack
    owed = link.owed or bool(packet.bodies) or packet.beat
    read = link.read + 1
    return Taken(replace(link, ack=seq + len(bodies), owed=owed, read=read), seq, bodies)


def written(link: Link, session: str) -> tuple[Link, list[Effect]]:
    """The next packet, if there is something to say and none is being written."""
    if link.busy or not (link.told < link.seq or link.owed or link.beat or link.renew):
        return link, []
    start = link.told - link.oldest
    bodies = link.buffer[start : start + BATCH]
    asks = (link.beat, link.renew)
    packet = Write(link.wire, link.written, session, link.told, link.ack, bodies, *asks)
    after = replace(
        link,
        told=link.told + len(bodies),
        busy=True,
        owed=False,
        beat=False,
        renew=False,
        written=link.written + 1,
    )
    return after, [perform(packet, name="write").then(Written).catch(Broken)]


def read(link: Link) -> Effect:
    """The next packet of the other side; each side says itself what a failure is to it."""
    return perform(Read(link.wire, link.read), name="read").then(Received)


def delivered(
    side: Literal["client", "server"], client: str, session: str, got: Taken
) -> list[Effect]:
    if not got.bodies:
        return []
    return [perform(Deliver(side, client, session, got.seq, got.bodies))]
