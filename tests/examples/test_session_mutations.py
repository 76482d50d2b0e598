"""Sessions with one thing broken: the checker finds each, and the engine does what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from examples.session import check as proofs
from examples.session import client, link, server
from examples.session.check import World, model
from examples.session.model import (
    Accepted,
    Broken,
    Deliver,
    Dial,
    Link,
    Opened,
    Read,
    Received,
    Rejected,
    Shaken,
    Write,
)
from stmflow import Effect, Err, Tx, ignore
from stmflow.check import Check, Faults, Handler, prove
from tests.examples import planted
from tests.project import ROOT

V1 = "V1 delivered in order, without gap, once"
V2 = "V2 one wire is left at most, and both are on it"
V3 = "V3 nothing is resumed that was forgotten"
V4 = "V4 what comes from a wire that was left is nothing"
V5 = "V5 no timer outlives its state"
BUDGET = "V6 the budget is kept"
FATAL = "V6 what is fatal is not tried again"
V7 = "V7 a packet of another session ends this one"
SHOWS = "who is asked shows who it is, and is waited for no more"
HEARD = "what is said on a wire that holds is heard"
IMPOSSIBLE = "no impossible cell is reached"

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Mutation:
    """What is broken, the property that shows it, and the length of the shortest trace.

    `patch`: (module, name, function) of the tables. `world`: other models of handlers. `route`:
    another delivery. `how`: what the model is like. `slow`: it takes seconds.
    """

    name: str
    breaks: str
    steps: int
    patch: tuple[Patch, ...] = ()
    world: Mapping[type, Handler] = field(default_factory=dict)
    route: Callable[[Tx, Any], None] | None = None
    how: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False

    def check(self) -> Check:
        """The model with this broken; only that property is asked."""
        check = model(self.name, **{"there": 0, "wires": 1, **self.how})
        found = []
        for one in check.workflows:
            twin = copy(one)
            module = {"session/client": client, "session/server": server}[one.name]
            twin.update = lambda event, state, module=module: module.update(event, state)
            found.append(twin)
        return replace(
            check,
            workflows=found,
            handlers={**check.handlers, **self.world},
            transactional={Deliver: self.route or proofs.route},
            properties=[one for one in check.properties if one.name == self.breaks],
        )


# --- what is broken in the tables -----------------------------------------------------------------

TAKEN = link.taken
JOINED = link.joined
PARTED = link.parted
SHAKEN = server.shaken
UNKNOWN = server._unknown
CLIENT = client.update
CONNECTED = server._connected
RECEIVED = client.received
RENEWAL = server.renewal
JOINS = client.joined


def unchecked(event: Shaken, state: Any) -> Any:
    """Whoever comes with the session's name is led to it, or to one that is as good as new."""
    if event.session == state.session and state.status != "gone":
        return server.joined(state, replace(event, wants=min(event.wants, state.link.seq)))
    return server.fresh(event, state.number + 1, 0)


def unchecked_stranger(event: Any, state: Any = None) -> Any:
    return server.fresh(event, 1, 0) if isinstance(event, Shaken) else UNKNOWN(event)


def zero_is_new(event: Any) -> Any:
    """Who has received nothing, and of whom nothing was acknowledged, is taken for new."""
    if isinstance(event, Shaken) and event.sends == event.wants == 0:
        return server.fresh(event, 1, 0)
    return UNKNOWN(event)


def takes_twice(one: Link, packet: Received) -> Any:
    """What is old in a packet is taken again."""
    got = TAKEN(one, packet)
    return got._replace(bodies=packet.bodies)


def deaf(event: Accepted, state: Any) -> Any:
    """What the server has is said again."""
    return JOINS(replace(event, ack=0), state)


def no_answer(one: Link, packet: Received) -> Any:
    got = TAKEN(one, packet)
    return got._replace(link=replace(got.link, owed=False))


def goes_on(one: Link, wire: str) -> Link:
    """On a new wire only what was never written is sent."""
    return replace(JOINED(one, wire), told=max(one.told, one.oldest))


def forgets(one: Link, wire: str) -> Link:
    """On a new wire what was written counts as received."""
    told = max(one.told, one.oldest)
    return replace(JOINED(one, wire), buffer=one.buffer[told - one.oldest :], told=told)


def keeps(one: Link) -> tuple[Link, list[Effect]]:
    """A wire that is left is not closed."""
    after, effects = PARTED(one)
    return after, effects[:-1]


def leaves_tasks(one: Link) -> tuple[Link, list[Effect]]:
    """What was under way on a wire is not withdrawn."""
    after, effects = PARTED(one)
    return after, effects[-1:]


def late_wire(event: Any, state: Any) -> Any:
    """A wire that comes late is left alone."""
    if isinstance(event, Opened) and state is not None and state.status != "connecting":
        return ignore()
    return CLIENT(event, state)


def tries_again(event: Any, state: Any) -> Any:
    """Whatever the server says, it is tried again."""
    if isinstance(event, Rejected):
        return client.connect(state, 0)
    return CLIENT(event, state)


CONNECT = client.connect


def for_ever(state: Any, at: int, *before: Effect) -> Any:
    """The budget is not looked at."""
    after, effects = CONNECT(replace(state, tries=0), at, *before)  # type: ignore[misc]
    return replace(after, tries=state.tries + 1), effects


def grace_anywhere(state: Any) -> Effect:
    return client.sleep(
        until=state.grace, name="grace", during=(*client.UNCONNECTED, "connected")
    ).then(client.GraceOver)


def leaves_reading(one: Link) -> tuple[Link, list[Effect]]:
    """What is being read from a wire is not withdrawn."""
    after, effects = PARTED(one)
    return after, [effect for effect in effects if effect != client.links.cancel("read")]


def hears(update: Any, *statuses: str) -> Any:
    """What comes from a wire is of interest to whoever is on one."""

    def heard(event: Any, state: Any) -> Any:
        late = isinstance(event, Broken | Received) and state.status not in statuses
        return ignore() if late else update(event, state)

    return heard


def takes_any(event: Any, state: Any) -> Any:
    """Whose packet it is is not looked at."""
    if isinstance(event, Received):
        return CONNECTED(replace(event, session=state.session), state)
    return CONNECTED(event, state)


def shows_nothing(event: Received, state: Any) -> Any:
    return RECEIVED(replace(event, renew=False), state)


def still_waits(state: Any) -> list[Effect]:
    """What is shown is not taken for an answer."""
    return RENEWAL(state)[1:]


def believes_all(event: Any, state: Any) -> Any:
    """Who is not believed any more may go on."""
    return server.lost_wire(state, 0) if isinstance(event, Rejected) else CONNECTED(event, state)


# --- what is broken around them -------------------------------------------------------------------

Results = Iterator[tuple[Any, World]]


def dials_anew(task: Dial, world: World) -> Results:
    """Asked again, it opens another wire."""
    yield from proofs.dial(replace(task, number=len(world.dialled)), world)


def writes_again(task: Write, world: World) -> Results:
    """Asked again, it writes again."""
    wire = world.wire(task.wire)
    if wire is None:
        yield proofs.BROKEN, world
        return
    way = wire.down if task.wire.startswith("s") else wire.up
    number = way.first + len(way.packets) - (1 if task.wire.startswith("s") else 0)
    yield from proofs.write(replace(task, number=number), world)


def reads_on(task: Read, world: World) -> Results:
    """What was read once is gone from the wire."""
    for outcome, after in proofs.read(task, world):
        wire = after.wire(task.wire)
        if wire is not None and not isinstance(outcome, Err):
            up = task.wire.startswith("s")
            way = wire.up if up else wire.down
            rest = proofs.Way(way.first, way.packets[1:])
            wire = replace(wire, up=rest) if up else replace(wire, down=rest)
            after = after.changed(task.wire, wire)
        yield outcome, after


def delivers_first(tx: Tx, task: Deliver) -> None:
    """Only the first message of what comes."""
    proofs.route(tx, replace(task, bodies=task.bodies[:1]))


LOST = {"faults": Faults(late=0)}
ASKS = {"terms": proofs.RENEWS, "more": proofs.SHOWN}
TWO = {"here": 2}

MUTATIONS = [
    Mutation(
        "a handshake is not checked",
        V3,
        24,
        patch=((server, "shaken", unchecked), (server, "_unknown", unchecked_stranger)),
        how={"wires": 2, "restarts": 1, "cuts": False},
    ),
    Mutation(
        "who starts at nought is taken for new",
        V1,
        23,
        patch=((server, "_unknown", zero_is_new),),
        how={"wires": 2, "restarts": 1, "cuts": False},
    ),
    Mutation(
        "what is old in a packet is taken again",
        V1,
        23,
        patch=((link, "taken", takes_twice), (client, "joined", deaf)),
        how={"wires": 2},
        slow=True,
    ),
    Mutation(
        "what was written counts as received",
        V1,
        10,
        patch=((link, "joined", forgets),),
        how={"wires": 2},
    ),
    Mutation(
        "only what was never written is sent again",
        HEARD,
        23,
        patch=((link, "joined", goes_on),),
        how={"wires": 2},
        slow=True,
    ),
    Mutation("nothing is acknowledged", HEARD, 13, patch=((link, "taken", no_answer),)),
    Mutation(
        "a wire that is left is not closed",
        V2,
        4,
        patch=((link, "parted", keeps),),
        how={"closes": True},
    ),
    Mutation(
        "what is under way on a wire is not withdrawn",
        IMPOSSIBLE,
        8,
        patch=((link, "parted", leaves_tasks),),
    ),
    Mutation(
        "a wire that comes late is left open",
        V2,
        4,
        patch=((client, "update", late_wire),),
        how={"closes": True},
    ),
    Mutation("the budget is not looked at", BUDGET, 8, patch=((client, "connect", for_ever),)),
    Mutation(
        "what is fatal is tried again",
        FATAL,
        6,
        patch=((client, "update", tries_again),),
        how={"rejects": True},
    ),
    Mutation(
        "the grace of a session outlives its need",
        V5,
        7,
        patch=((client, "grace", grace_anywhere),),
    ),
    Mutation(
        "what comes from a wire that was left counts",
        V4,
        15,
        patch=(
            (link, "parted", leaves_reading),
            (client, "update", hears(CLIENT, "handshaking", "connected")),
            (server, "update", hears(server.update, "connected")),
        ),
        how={"wires": 2},
    ),
    Mutation(
        "whose packet it is is not looked at",
        V7,
        7,
        patch=((server, "_connected", takes_any),),
        how={"strange": 1, "cuts": False},
    ),
    Mutation(
        "who is asked shows nothing",
        SHOWS,
        12,
        patch=((client, "received", shows_nothing),),
        how=ASKS,
    ),
    Mutation(
        "what is shown is not taken for an answer",
        SHOWS,
        19,
        patch=((server, "renewal", still_waits),),
        how=ASKS,
    ),
    Mutation(
        "who is not believed any more may go on",
        FATAL,
        19,
        patch=((server, "_connected", believes_all),),
        how=ASKS,
    ),
    Mutation("a wire is dialled twice", V2, 8, world={Dial: dials_anew}, how={**LOST, "wires": 2}),
    Mutation("a packet is read but once", HEARD, 13, world={Read: reads_on}, how=LOST),
    Mutation("a part of a packet is delivered", V1, 14, route=delivers_first, how=TWO),
]


COURTESIES = [
    Mutation(
        "what the server has is said again",
        V1,
        0,
        patch=((client, "joined", deaf),),
        how={"wires": 2},
    ),
    Mutation(
        "what is old is taken again, but is not said", V1, 0, patch=((link, "taken", takes_twice),)
    ),
]


@pytest.mark.parametrize("mutation", COURTESIES, ids=lambda mutation: mutation.name)
def test_either_side_is_enough_to_drop_what_is_old(mutation: Mutation, broken: Check) -> None:
    assert prove(broken, limit=4_000).wrong == []


@pytest.fixture
def broken(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> Check:
    for module, name, function in mutation.patch:
        monkeypatch.setattr(module, name, function)
    return mutation.check()


PARAMETERS = [
    pytest.param(one, id=one.name, marks=[pytest.mark.acceptance] if one.slow else [])
    for one in MUTATIONS
]


@pytest.mark.parametrize("mutation", PARAMETERS)
async def test_what_is_broken_is_found(mutation: Mutation, broken: Check) -> None:
    await planted.first(prove(broken), mutation)


def test_the_readme_has_every_mutation() -> None:
    assert planted.listed(ROOT / "examples/session/README.md", MUTATIONS)
