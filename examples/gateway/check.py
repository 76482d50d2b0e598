"""What is proved of the push service, on the reducers that run in production.

    stmflow check examples/gateway

The managed gateway and its client are jobs of the model: a `Socket` for each connection, which
the handlers' models ask, and which moves by transactions of its own. It tells the service of what
it does, or does so late, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from examples.gateway import callback, command, connection
from examples.gateway.model import Do, Terms
from examples.gateway.workflow import (
    CALLBACK,
    CHANNEL,
    COMMAND,
    CONNECTION,
    LATE,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
)
from stmflow import Err, Tx, Workflow, ignore
from stmflow.check import (
    Check,
    Faults,
    Handler,
    Property,
    Send,
    Told,
    Transact,
    View,
    always,
    at_rest,
    leads_to,
    sometimes,
    step,
)

TERMS: Final = Terms(
    callback_ms=1_000, grace_ms=250, first_ms=100, probe_ms=100, tries=2, retry_ms=1
)
"""Two probes fit into the grace: at once, and 100 ms later."""

NAME: Final = "c"
LINE, FOO = CONNECTION.job(NAME), CHANNEL.job("foo")
SUBSCRIBE, PUBLISH = Do("subscribe", "foo"), Do("publish", "foo", "hi")
SAY: Final = Do("send", text="hello")

# --- the world: a gateway, and a client behind it -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Socket:
    """One connection as the gateway has it.

    `label`: *asking* the service, *answered* yes, *open*, *gone*. `opened`: whether it ever was.
    `got`: the numbers of the commands whose texts have come to the client.
    """

    label: Literal["asking", "answered", "open", "gone"] = "asking"
    opened: bool = False
    got: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialled: ...


@dataclass(frozen=True, slots=True)
class Moved:
    label: Literal["answered", "open", "gone"]


@dataclass(frozen=True, slots=True)
class Got:
    n: int


def moves(event: Dialled | Moved | Got, state: Socket | None) -> object:
    match event:
        case Dialled():
            return (Socket(), []) if state is None else ignore()
        case Moved(label) if state is not None and state.label != label:
            opened = state.opened or label == "open"
            return replace(state, label=label, opened=opened), []
        case Got(n) if state is not None and n > max(state.got, default=0):
            return replace(state, got=(*state.got, n)), []  # none twice, and none that is overtaken
    return ignore()


SOCKET: Final = Workflow("socket", state=Socket, events=(Dialled, Moved, Got), update=moves)


def at_gateway(tx: Tx, name: str) -> str | None:
    socket = tx.read(SOCKET.job(name))
    return None if socket is None else socket.label


def connects(tx: Tx, name: str) -> None:
    """A client connects; or the gateway, unsure whether it was heard, asks again."""
    tx.apply(SOCKET.job(name), Dialled())
    tx.apply(CONNECTION.job(name), connection.Connect(name, TERMS))


def hears(tx: Tx, name: str) -> None:
    """The answer comes to the gateway: what the connection's state was, or is, when it is read."""
    state = tx.read(CONNECTION.job(name))
    if at_gateway(tx, name) != "asking" or isinstance(state, connection.Opening):
        return
    refused = isinstance(state, connection.Rejected)
    tx.apply(SOCKET.job(name), Moved("gone" if refused else "answered"))


def opens(tx: Tx, name: str) -> None:
    if at_gateway(tx, name) == "answered":
        tx.apply(SOCKET.job(name), Moved("open"))


def leaves(tx: Tx, name: str) -> None:
    """The client goes, or the gateway gives up, at any moment."""
    tx.apply(SOCKET.job(name), Moved("gone"))


def idles(tx: Tx, name: str) -> None:
    """The gateway ends a connection that nobody uses: here, of one that the service has ended."""
    if isinstance(tx.read(CONNECTION.job(name)), (connection.Closed, connection.Rejected)):
        leaves(tx, name)


def tells(tx: Tx, name: str) -> None:
    """The gateway says that it has ended. It need not."""
    if at_gateway(tx, name) == "gone":
        tx.apply(CONNECTION.job(name), connection.Disconnect(name))


def speaks(tx: Tx, name: str) -> None:
    """A message of the client comes, perhaps after its end."""
    socket = tx.read(SOCKET.job(name))
    if socket is not None and socket.opened:
        tx.apply(CONNECTION.job(name), connection.Frame(name, "hey"))


def actions(name: str, *, frames: int = 1, tells_end: int = 1) -> list[Transact]:
    """What the gateway and the client of one connection may do."""

    def by(
        label: str, body: Callable[[Tx, str], None], times: int | None = 1, fair: bool = False
    ) -> Transact:
        return Transact(f"{label} ({name})", lambda tx: body(tx, name), times, fair)

    return [
        by("a client connects", connects, 2),
        by("the gateway hears the answer", hears, None, fair=True),
        by("the gateway opens it", opens, None, fair=True),
        by("it ends", leaves),
        by("the gateway ends what is not used", idles, None, fair=True),
        by("the gateway tells of the end", tells, tells_end),
        by("the client says something", speaks, frames),
    ]


# --- the handlers, as far as one can tell from here -----------------------------------------------

Results: TypeAlias = Iterator[tuple[Any, None]]


def asking(commands: Sequence[Do], *, close: bool = False) -> Handler:
    """An app that accepts, with these commands, or does not, or cannot be asked."""
    yes = {
        "accept": True,
        "about": "",
        "commands": [{"verb": one.verb, "channel": one.channel, "text": one.text} for one in commands],
        "close": close,
    }

    def ask(task: callback.Ask, world: None) -> Results:
        if task.call.kind == "open":
            yield yes, None
            yield {**yes, "accept": False}, None
        else:
            yield {"accept": True, "about": "", "commands": [], "close": False}, None
        yield Err("TimedOut"), None

    return ask


def probe(task: connection.Probe, world: None, now: int, tx: Tx) -> Results:
    """Where it is open, a 410 is possible all the same: not every part of a gateway knows."""
    if at_gateway(tx, task.connection) == "open":
        yield None, None
    yield Err("Gone"), None


def post(task: command.Post, world: None, now: int, tx: Tx) -> Results:
    if at_gateway(tx, task.connection) == "open":
        tx.apply(SOCKET.job(task.connection), Got(task.n))
        yield None, None
    else:
        yield Err("Gone"), None


def unsure(task: command.Post, world: None, now: int, tx: Tx) -> Results:
    """Whatever has come of it, it may be that nobody hears."""
    yield from post(task, world, now, tx)
    yield Err("Exhausted"), None


def delete(task: connection.Delete, world: None, now: int, tx: Tx) -> Results:
    if at_gateway(tx, task.connection) == "open":
        tx.apply(SOCKET.job(task.connection), Moved("gone"))
        yield None, None
    else:
        yield Err("Gone"), None


# --- what must hold -------------------------------------------------------------------------------

ENDED: Final = (connection.Rejected, connection.Closed)


def commands(view: View, name: str) -> list[command.Command]:
    states = view.states("gateway/command")
    return [state for key, state in sorted(states.items()) if key[0] == name]


def callbacks(view: View, name: str) -> list[callback.State]:
    states = view.states("gateway/callback")
    return [state for key, state in sorted(states.items()) if key[0] == name]


def rules(name: str) -> list[Property]:
    """W1 to W7 of one connection; and that nobody is forgotten at its end."""
    job, socket = CONNECTION.job(name), SOCKET.job(name)

    def state(view: View) -> Any:
        return view.state(job)

    def ended(view: View) -> bool:
        return isinstance(state(view), ENDED)

    def posted_when_open(before: View, told: Told, after: View) -> bool:
        posts = isinstance(told.by, command.Post) and told.by.connection == name
        made = posts and told.what in ("perform", "late")
        return not made or bool(before.state(socket).opened)

    def final(before: View, told: Told, after: View) -> bool:
        over = {c.n: c for c in commands(before, name) if c.label in ("delivered", "dropped")}
        return all(over.get(c.n, c) == c for c in commands(after, name))

    def received(view: View) -> bool:
        there = view.state(socket)
        return all(
            c.n in there.got
            for c in commands(view, name)
            if c.do.verb == "send" and c.label == "delivered"
        )

    def counted(view: View) -> bool:
        """What has ended is what the connection has counted, and one at most is under way."""
        line = None if state(view) is None else state(view).line
        for c in commands(view, name):
            over = c.label in ("delivered", "dropped")
            if over != (c.n <= line.done) or (c.label == "sending" and c.n != line.done + 1):
                return False
        return True

    def by_a_probe(before: View, told: Told, after: View) -> bool:
        """What a probe of an open connection finds changes nothing."""
        probed = isinstance(told.by, connection.Probe) and told.outcome == Err("Gone")
        return not (probed and isinstance(state(before), connection.Open)) or (
            state(before) == state(after)
        )

    def indexed(view: View) -> bool:
        index, mine = view.states("gateway/channel"), state(view)
        channels = () if mine is None or ended(view) else mine.line.channels
        return {key[0] for key, one in index.items() if name in one.members} == set(channels)

    def told_of_messages(view: View) -> bool:
        messages = [one for one in callbacks(view, name) if one.call.kind == "message"]
        return not messages or not isinstance(
            state(view), (connection.Opening, connection.Accepted, connection.Rejected)
        )

    def ran_unaccepted(view: View) -> bool:
        """Before the app has accepted, and where it never has, commands wait or are dropped."""
        here = state(view)
        never = isinstance(here, (connection.Opening, connection.Accepted, connection.Rejected))
        return never and any(c.label in ("sending", "delivered") for c in commands(view, name))

    def ends_told(view: View) -> bool:
        """As often as the app has said yes to what has ended since, or had already."""
        calls = callbacks(view, name)
        yes = any(isinstance(one, callback.Answered) and one.accept for one in calls if opens(one))
        told = sum(one.call.kind == "close" for one in calls)
        return told == (yes and ended(view))

    def opens(one: callback.State) -> bool:
        return one.call.kind == "open"

    def fate(view: View) -> bool:
        return all(c.label in ("delivered", "dropped") for c in commands(view, name))

    def zombie(view: View) -> bool:
        there = view.state(socket)
        return ended(view) and there is not None and there.label != "gone"

    def is_in(*kinds: type) -> Callable[[View], bool]:
        return lambda view: isinstance(state(view), kinds)

    return [
        step("W1 nothing is posted before it is open", posted_when_open),
        always(
            "W2 texts come in the order of their commands, none twice",
            lambda v: v.state(socket) is None or is_ordered(v.state(socket).got),
        ),
        always("W2 one command at most is under way", counted),
        step("W3 delivered and dropped are final", final),
        always("W3 what counts as delivered has come", received),
        at_rest("W3 at rest every command has ended", fate),
        step("W4 what a probe has missed closes nothing that is open", by_a_probe),
        always("W5 channels have whom the connection says, and nobody after its end", indexed),
        always("W6 nothing of the client comes to the app before it has accepted", told_of_messages),
        always("W7 no command runs before it is accepted and open", lambda v: not ran_unaccepted(v)),
        always("the app hears once of each end of what it has accepted", ends_told),
        leads_to("opening ends", is_in(connection.Opening), lambda v: not is_in(connection.Opening)(v)),
        leads_to("accepted ends", is_in(connection.Accepted), lambda v: not is_in(connection.Accepted)(v)),
        leads_to("closing ends", is_in(connection.Closing), ended),
        leads_to("every command ends", lambda v: not fate(v), fate),
        leads_to("what has ended here ends at the gateway", zombie, lambda v: not zombie(v)),
        *(reached(name, kind) for kind in connection.State.__args__),
    ]


def is_ordered(numbers: tuple[int, ...]) -> bool:
    return list(numbers) == sorted(set(numbers))


def reached(name: str, kind: type) -> Property:
    job = CONNECTION.job(name)
    tag = kind.__name__.lower()
    return sometimes(f"a connection is {tag}", lambda view: isinstance(view.state(job), kind))


def handlers(ask: Handler, **others: Handler) -> dict[type, Handler]:
    return {
        callback.Ask: ask,
        connection.Probe: probe,
        connection.Delete: delete,
        command.Post: others.get("post", post),
    }


def model(name: str, names: Sequence[str] = (NAME,), **how: Any) -> Check:
    """Connections of these names, each with a client that does all it may."""
    return Check(
        (*WORKFLOWS, SOCKET),
        name=name,
        at=100,
        transactional=TRANSACTIONAL,
        tasks=TASKS,
        **{
            "transactions": [one for each in names for one in actions(each)],
            "faults": Faults(late=0),
            "properties": [rule for each in names for rule in rules(each)],
            **how,
        },
    )


CHECKS: Final = (
    model("gateway, subscribe and publish", handlers=handlers(asking([SUBSCRIBE, PUBLISH]))),
    model(
        "gateway, called while the app is asked",
        handlers=handlers(asking([]), post=unsure),
        sends=[Send(connection.Control(NAME, (SAY, SAY))), Send(connection.Close(NAME))],
    ),
    model(
        "gateway, late",
        handlers=handlers(asking([SAY]), post=unsure),
        transactions=actions(NAME, frames=0),
        sends=[Send(connection.Control(NAME, (SAY,)))],
        faults=Faults(late=1),
    ),
    model(
        "gateway, two",
        ["c", "d"],
        handlers=handlers(asking([SUBSCRIBE, PUBLISH])),
        transactions=[one for each in "cd" for one in actions(each, frames=0, tells_end=0)],
    ),
)
