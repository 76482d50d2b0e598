"""What is proved of a session: V1 to V7, on the reducers that run in production.

    stmflow check examples/session

The world is the network: a few wires, each with what is on its way in either direction. A wire may
be cut at any time, and the server may forget everything. Every duration is zero, which makes time
stand still: a timer that is armed may fire at any moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from examples.session.client import CLIENT, UNCONNECTED
from examples.session.model import (
    Client,
    Close,
    Connect,
    Deliver,
    Dial,
    Greet,
    Hang,
    Post,
    Read,
    Server,
    Shake,
    Shaken,
    Terms,
    Welcome,
    Write,
)
from examples.session.server import SERVER
from stmflow import CELL, Err, Sleep, Tx
from stmflow.check import (
    Check,
    Faults,
    Handler,
    Move,
    Property,
    Send,
    Told,
    View,
    always,
    at_rest,
    leads_to,
    sometimes,
    step,
)

PACKETS: Final = 2
"""Of the server on one wire: it beats for ever, and each beat is numbered."""
PROMPT: Final = Faults(lost=False, late=0)
HERE: Final = CLIENT.job("c")
ANY_TIME: Final = Terms(2, 0, 0, dial_ms=0, shake_ms=0, grace_ms=0, beat_ms=None)
NEVER: Final = replace(ANY_TIME, dial_ms=1, shake_ms=1, grace_ms=1)
BEATS: Final = replace(NEVER, beat_ms=0)
RENEWS: Final = replace(NEVER, renew_ms=0)
IMPATIENT: Final = replace(RENEWS, shake_ms=0)
ON_A_WIRE: Final = (Shake, Greet, Welcome, Write, Read)

# --- the world ------------------------------------------------------------------------------------

Packet: TypeAlias = Any
"""An outcome of `Read` or `Greet`, as it lies on the wire."""


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a wire: packets from number `first` on, which nobody has read past."""

    first: int = 0
    packets: tuple[Packet, ...] = ()

    def put(self, number: int, packet: Packet) -> Way:
        """With that packet, which is written once."""
        if number < self.first + len(self.packets):
            return self
        return replace(self, packets=(*self.packets, packet))

    def read(self, number: int) -> Way:
        """From that packet on: whoever asks for it has those before."""
        return Way(number, self.packets[number - self.first :])


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire that holds. `shaken`: the client has introduced itself."""

    up: Way = Way()
    down: Way = Way()
    shaken: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """Wires by number, None where there is none any more; how many there may still be; which server
    it is, and how often it may still be replaced; packets that a stranger may still put on a wire;
    which dial has led to which wire."""

    wires: tuple[Wire | None, ...] = ()
    left: int = 2
    instance: int = 0
    restarts: int = 0
    strange: int = 0
    dialled: tuple[tuple[int, str], ...] = ()

    def wire(self, name: str) -> Wire | None:
        """The client calls a wire by its number, the server by its number and an s."""
        return self.wires[int(name.strip("s"))]

    def changed(self, name: str, wire: Wire | None) -> World:
        at = int(name.strip("s"))
        return replace(self, wires=(*self.wires[:at], wire, *self.wires[at + 1 :]))


Results = Iterator[tuple[Any, World]]
BROKEN: Final = Err("Broken")
MISMATCH: Final = Err("Mismatch")
REJECTED: Final = Err("Rejected")


def dial(task: Dial, world: World) -> Results:
    """Once for each number; asked again, it is the same wire."""
    before = dict(world.dialled).get(task.number)
    if before is not None:
        yield ({"wire": before} if world.wire(before) else Err("Refused")), world
    elif world.left:
        name = str(len(world.wires))
        dialled = (*world.dialled, (task.number, name))
        wires = (*world.wires, Wire())
        yield {"wire": name}, replace(world, wires=wires, left=world.left - 1, dialled=dialled)
    else:
        yield Err("Refused"), world


def shake(task: Shake, world: World, now: int, tx: Tx) -> Results:
    """What the client says of itself reaches the server, which answers now or by a task."""
    wire = world.wire(task.wire)
    if wire is None:
        yield BROKEN, world
        return
    if not wire.shaken:
        hello = (f"s{task.wire}", task.session, task.known, task.sends, task.wants)
        shaken = Shaken(str(world.instance), task.client, *hello, terms=terms_of(tx))
        verdict = tx.apply(SERVER.job(str(world.instance), task.client), shaken)
        down = wire.down.put(0, MISMATCH) if verdict.kind == "rejected" else wire.down
        wire = replace(wire, shaken=True, down=down)
    yield None, world.changed(task.wire, wire)


def reject(world: World) -> Iterator[World]:
    """Who is at the door is not let in, whoever he is."""
    for at, wire in enumerate(world.wires):
        if wire is not None and not wire.shaken:
            down = wire.down.put(0, REJECTED)
            yield world.changed(str(at), replace(wire, shaken=True, down=down))


def terms_of(tx: Tx) -> Terms:
    client: Client = tx.read(HERE)
    return client.terms


def greet(task: Greet, world: World) -> Results:
    wire = world.wire(task.wire)
    if wire is None:
        yield BROKEN, world
    elif wire.down.packets:
        yield _thawed(wire.down.packets[0]), world


def welcome(task: Welcome, world: World) -> Results:
    wire = world.wire(task.wire)
    if wire is None:
        yield BROKEN, world
    else:
        down = wire.down.put(0, _frozen(session=task.session, ack=task.ack))
        yield None, world.changed(task.wire, replace(wire, down=down))


def write(task: Write, world: World) -> Results:
    wire = world.wire(task.wire)
    if wire is None:
        yield BROKEN, world
        return
    packet = _frozen(
        session=task.session,
        seq=task.seq,
        ack=task.ack,
        bodies=task.bodies,
        beat=task.beat,
        renew=task.renew,
    )
    if task.wire.startswith("s"):
        wire = replace(wire, down=wire.down.put(task.number + 1, packet))
    else:
        wire = replace(wire, up=wire.up.put(task.number, packet))
    yield None, world.changed(task.wire, wire)


def read(task: Read, world: World) -> Results:
    """What a client shows in a packet may be good or not."""
    wire = world.wire(task.wire)
    if wire is None:
        yield BROKEN, world
        return
    if task.wire.startswith("s"):
        way = wire.up.read(task.number)
        wire = replace(wire, up=way)
    else:
        way = wire.down.read(task.number + 1)
        wire = replace(wire, down=way)
    if way.packets:
        packet = _thawed(way.packets[0])
        yield packet, world.changed(task.wire, wire)
        if task.wire.startswith("s") and packet["renew"]:
            yield REJECTED, world.changed(task.wire, wire)


def hang(task: Hang, world: World) -> Results:
    yield None, world.changed(task.wire, None)


def cut(world: World) -> Iterator[World]:
    """A wire is cut, and what was on it is lost."""
    for at, wire in enumerate(world.wires):
        if wire is not None:
            yield world.changed(str(at), None)


def restart(world: World) -> Iterator[World]:
    """The server is replaced by one that knows nothing."""
    if world.restarts:
        gone = (None,) * len(world.wires)
        yield replace(world, wires=gone, instance=world.instance + 1, restarts=world.restarts - 1)


def intrude(world: World) -> Iterator[World]:
    """Between packets there is one of another session, in either direction."""
    if not world.strange:
        return
    packet = _frozen(session="x", seq=0, ack=0, bodies=(b"x",), beat=False, renew=False)
    for at, wire in enumerate(world.wires):
        if wire is not None and wire.shaken:
            less = replace(world, strange=world.strange - 1)
            up, down = (
                replace(way, packets=(*way.packets, packet)) for way in (wire.up, wire.down)
            )
            yield less.changed(str(at), replace(wire, up=up))
            if wire.down.first + len(wire.down.packets):  # the answer to a handshake is the first
                yield less.changed(str(at), replace(wire, down=down))


def _frozen(**fields: Any) -> Packet:
    return tuple(fields.items())


def _thawed(packet: Packet) -> Any:
    return packet if isinstance(packet, Err) else dict(packet)


HANDLERS: Final[dict[type, Handler]] = {
    Dial: dial,
    Shake: shake,
    Greet: greet,
    Welcome: welcome,
    Write: write,
    Read: read,
    Hang: hang,
}


def route(tx: Tx, task: Deliver) -> None:
    """What is delivered goes to the end of an inbox."""
    inbox = CELL.job("inbox", task.side, task.session)
    held = tx.read(inbox)
    tx.write(inbox, [*(() if held is None else held.value), *task.bodies])


# --- what must hold -------------------------------------------------------------------------------


def client(view: View) -> Client | None:
    found: Client | None = view.state(HERE)
    return found


def server(view: View) -> Server | None:
    found: Server | None = view.state(SERVER.job(str(view.world.instance), "c"))
    return found


def inbox(view: View, side: str, session: str) -> tuple[bytes, ...]:
    held = view.state(CELL.job("inbox", side, session))
    return () if held is None else tuple(held.value)


def in_order(view: View) -> bool:
    """V1: what was delivered goes on in what the other side may still send, and nothing twice."""
    here, there = client(view), server(view)
    for side, sender, session in (
        ("server", here, here.session if here else ""),
        ("client", there, there.session if there else ""),
    ):
        got = inbox(view, side, session)
        if len(set(got)) < len(got):
            return False
        if sender is None or sender.status == "gone":
            continue
        link = sender.link
        if not link.oldest <= len(got) <= link.seq:
            return False
        if link.buffer[: len(got) - link.oldest] != got[link.oldest :]:
            return False
    return True


def joined(view: View) -> bool:
    """Both are connected, over a wire that holds."""
    here, there = client(view), server(view)
    return (
        here is not None
        and there is not None
        and here.status == there.status == "connected"
        and there.link.wire == f"s{here.link.wire}"
        and view.world.wire(here.link.wire) is not None
    )


def agree(view: View) -> bool:
    """V3: on a wire that they share, neither has forgotten what the other counts on."""
    here, there = client(view), server(view)
    if here is None or there is None or not joined(view):
        return True
    one, other = here.link, there.link
    return (
        here.session == there.session
        and one.oldest <= other.ack <= one.seq
        and other.oldest <= one.ack <= other.seq
    )


NEEDED: Final = {
    "no-connection": {"grace"},
    "backing-off": {"grace", "pause"},
    "connecting": {"grace", "dial"},
    "handshaking": {"grace", "shake-late"},
    "connected": {"watch", "beat", "renew", "renew-late"},
    "gone": set[str](),
}


def timers(view: View) -> bool:
    """V5: no timer is armed that its state has no use for."""
    for job, state in ((HERE, client(view)), *_servers(view)):
        if state is not None and not _timers(view, job) <= NEEDED[state.status]:
            return False
    return True


def _timers(view: View, job: Any) -> set[str | None]:
    return {task.name for task in view.open(job) if isinstance(task, Sleep)}


def _servers(view: View) -> list[tuple[Any, Any]]:
    return [(SERVER.job(*key), state) for key, state in view.states("session/server").items()]


def one_wire(view: View) -> bool:
    """V2: where nothing is under way, there is one wire at most, and both are on it."""
    held = sum(wire is not None for wire in view.world.wires)
    return held == 0 or (held == 1 and joined(view))


def budget(view: View) -> bool:
    here = client(view)
    return here is None or here.tries <= here.terms.retries


def final(before: View, action: Told, after: View) -> bool:
    """V6: a session that has ended is not taken up again."""
    one, other = client(before), client(after)
    ended = one is not None and other is not None and one.status == "gone"
    return not ended or one == other


def fatal(before: View, action: Told, after: View) -> bool:
    """V6: a client that was rejected does not come again, and a server that rejects one goes."""
    rejected = action.what == "settle" and action.outcome == REJECTED
    return not rejected or action.job is None or after.state(action.job).status == "gone"


def left(before: View, action: Told, after: View) -> bool:
    """V4: to who has left a wire, what comes from it is nothing."""
    wire = action.by.wire if isinstance(action.by, ON_A_WIRE) else None
    if action.what != "settle" or action.job is None or wire is None:
        return True
    one, other = before.state(action.job), after.state(action.job)
    return one is None or one.link.wire == wire or one == other


def stranger(before: View, action: Told, after: View) -> bool:
    """V7: a packet of another session ends this one, and nothing of it is delivered."""
    strange = isinstance(action.outcome, Mapping) and action.outcome.get("session") == "x"
    if action.what != "settle" or action.job is None or not strange:
        return True
    one, other = before.state(action.job), after.state(action.job)
    side = "client" if action.job == HERE else "server"
    same = inbox(before, side, one.session) == inbox(after, side, one.session)
    return same and (one.link.wire != action.by.wire or other.status == "gone")


def waiting(view: View) -> bool:
    here = client(view)
    return here is not None and here.status in UNCONNECTED[1:]


def unheard(view: View) -> bool:
    """Something was said on a wire that holds, and is not acknowledged."""
    here, there = client(view), server(view)
    return joined(view) and bool(here and there and (here.link.buffer or there.link.buffer))


def shows(before: View, action: Told, after: View) -> bool:
    """A client that is asked writes it in its next packet; a server that reads it waits no more."""
    renews = isinstance(action.outcome, Mapping) and action.outcome.get("renew")
    read = action.what == "settle" and type(action.by) is Read and renews
    if action.job is None or not read:
        return True
    state = after.state(action.job)
    if state.status != "connected" or state.link.wire != action.by.wire:
        return True
    if action.job == HERE:
        writing = (task for task in after.open(HERE) if isinstance(task, Write))
        return state.link.renew or any(task.renew for task in writing)
    return "renew-late" not in _timers(after, action.job)


def packets(view: View) -> int:
    """How many a server that beats, or asks again and again, has written to its wire."""
    there = server(view)
    if there is None or there.terms.beat_ms is there.terms.renew_ms is None:
        return 0
    return there.link.written


def mismatched(view: View) -> bool:
    here = client(view)
    return here is not None and here.error == MISMATCH and here.status == "connected"


def renewed(view: View) -> bool:
    """A packet has come in which the client shows who it is, and the server has taken it."""
    there = server(view)
    wires = (wire for wire in view.world.wires if wire is not None)
    shown = any(dict(packet)["renew"] for wire in wires for packet in wire.up.packets[:1])
    return shown and there is not None and there.link.read > 0 and joined(view)


def ended(view: View, error: str) -> bool:
    there = server(view)
    return there is not None and there.error == Err(error)


def heard(view: View) -> bool:
    here = client(view)
    both = ("server", "client") if here is not None else ()
    return bool(both) and all(inbox(view, side, here.session) for side in both if here)


PROPERTIES: Final = (
    always("V1 delivered in order, without gap, once", in_order),
    at_rest("V2 one wire is left at most, and both are on it", one_wire),
    always("V3 nothing is resumed that was forgotten", agree),
    step("V4 what comes from a wire that was left is nothing", left),
    always("V5 no timer outlives its state", timers),
    always("V6 the budget is kept", budget),
    step("V6 what has ended is not taken up again", final),
    step("V6 what is fatal is not tried again", fatal),
    step("V7 a packet of another session ends this one", stranger),
    leads_to("who connects comes to an end of it", waiting, lambda view: not waiting(view)),
    leads_to("what is said on a wire that holds is heard", unheard, lambda v: not unheard(v)),
)


def met(status: str) -> Property:
    def is_so(view: View) -> bool:
        here = client(view)
        return here is not None and here.status == status

    return sometimes(f"the client is {status}", is_so)


ONE_WIRE: Final = tuple(map(met, ("backing-off", "connecting", "handshaking", "connected")))
ENDS: Final = tuple(map(met, ("no-connection", "gone")))
BOTH: Final = (sometimes("messages go both ways", heard),)
SHOWN: Final = (
    step("who is asked shows who it is, and is waited for no more", shows),
    sometimes("who was asked has shown it", renewed),
)
LATE: Final = (sometimes("it was not shown in time", lambda view: ended(view, "RenewalLate")),)
ANEW: Final = (sometimes("after a mismatch there is another session", mismatched),)


def model(
    name: str,
    *,
    here: int = 1,
    there: int = 1,
    wires: int = 2,
    restarts: int = 0,
    cuts: bool = True,
    closes: bool = False,
    rejects: bool = False,
    strange: int = 0,
    terms: Terms = NEVER,
    more: tuple[Property, ...] = (),
    faults: Faults = PROMPT,
) -> Check:
    """A client that has so many messages, a server that has so many, and so many wires."""

    def start(tx: Tx) -> None:
        tx.apply(HERE, Connect("c", "peer", "n", terms))
        for at in range(here):
            tx.apply(HERE, Post(b"h%d" % at))

    other = SERVER.job("0", "c")
    return Check(
        [CLIENT, SERVER],
        name=name,
        start=start,
        world=World(left=wires, restarts=restarts, strange=strange),
        transactional={Deliver: route},
        sends=[
            *(Send(Post(b"t%d" % at), job=other) for at in range(there)),
            *(Send(Close(), job=job) for job in (HERE, other) if closes),
        ],
        moves=[
            *([Move("a wire is cut", cut)] if cuts else []),
            *([Move("the server restarts", restart)] if restarts else []),
            *([Move("the server rejects the client", reject)] if rejects else []),
            *([Move("a stranger writes", intrude)] if strange else []),
        ],
        handlers=HANDLERS,
        faults=faults,
        bound=lambda view: view.now < 1 and packets(view) <= PACKETS,
        properties=[*PROPERTIES, *more],
    )


SHORT: Final = (
    model("session, a message over one wire", there=0, wires=1, more=ONE_WIRE),
    model("session, closed by either side", there=0, wires=1, closes=True),
    model("session, rejected", there=0, wires=1, rejects=True),
    model("session, a packet of another", there=0, wires=1, strange=1, cuts=False),
    model("session, answers lost", there=0, wires=1, faults=Faults(late=0)),
)
"""What is proved in a second or two each."""

CHECKS: Final = (
    *SHORT,
    model("session, timers at any time", there=0, wires=1, terms=ANY_TIME, more=ENDS),
    model("session, a server that forgets", there=0, wires=3, restarts=1, cuts=False, more=ANEW),
    model("session, messages both ways", wires=1, more=BOTH),
    model("session, a wire that is cut", there=0),
    model("session, a server that beats", there=0, wires=1, terms=BEATS),
    model("session, a server that asks again", there=0, wires=1, terms=RENEWS, more=SHOWN),
    model("session, and gives up", there=0, wires=1, terms=IMPATIENT, more=LATE),
)
