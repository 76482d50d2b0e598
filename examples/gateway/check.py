"""What is proved of the push service, on the reducers that run in production.

    stmflow check examples/gateway

The managed gateway and its client are jobs of the model: a `Socket` for each connection, which
the handlers' models ask, and which moves by transactions of its own. It tells the service of what
it does, or does so late, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from examples.gateway import callback, command, connection
from examples.gateway.model import Do, Terms
from examples.gateway.workflow import (
    CONNECTION,
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
"""Three probes fit into the grace: at once, and 100 and 200 ms later."""

NAME: Final = "c"
PAIR: Final = ("c", "d")
SUBSCRIBE, PUBLISH = Do("subscribe", "foo"), Do("publish", "foo", "hi")
UNSUBSCRIBE, DESCRIBE = Do("unsubscribe", "foo"), Do("describe", text="a client")
SAY: Final = Do("send", text="hello")

ENDED: Final = (connection.Rejected, connection.Closed)

# --- the world: a gateway, and a client behind it -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Socket:
    """One connection as the gateway has it.

    `label`: *asking* the service, *answered* yes, *open*, *gone*. `opened`: whether it ever was.
    `got`: the numbers of the commands whose texts have come to the client. `busy`: the client goes
    on speaking although the service has ended it.
    """

    label: Literal["asking", "answered", "open", "gone"] = "asking"
    opened: bool = False
    got: tuple[int, ...] = ()
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Dialled: ...


@dataclass(frozen=True, slots=True)
class Busy: ...


@dataclass(frozen=True, slots=True)
class Moved:
    label: Literal["answered", "open", "gone"]


@dataclass(frozen=True, slots=True)
class Got:
    n: int


def moves(event: Dialled | Busy | Moved | Got, state: Socket | None) -> object:
    match event:
        case Dialled():
            return (Socket(), []) if state is None else ignore()
        case Busy() if state is not None:
            return replace(state, busy=True), []
        case Moved(label) if state is not None and state.label != label:
            opened = state.opened or label == "open"
            return replace(state, label=label, opened=opened), []
        case Got(n) if state is not None and n > max(state.got, default=0):
            return replace(state, got=(*state.got, n)), []  # none twice, and none that is overtaken
    return ignore()


SOCKET: Final = Workflow("socket", state=Socket, events=(Dialled, Busy, Moved, Got), update=moves)


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
    """The gateway ends a connection that nobody uses: of those, one that the service has ended."""
    socket = tx.read(SOCKET.job(name))
    if isinstance(tx.read(CONNECTION.job(name)), ENDED) and socket is not None and not socket.busy:
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
        if isinstance(tx.read(CONNECTION.job(name)), ENDED):
            tx.apply(SOCKET.job(name), Busy())


def actions(name: str, *left_out: str) -> list[Transact]:
    """What the gateway and the client of one connection may do."""

    def by(
        label: str, body: Callable[[Tx, str], None], times: int | None = 1, *, fair: bool = False
    ) -> Transact:
        return Transact(f"{label} ({name})", lambda tx: body(tx, name), times, fair)

    found = {
        "connects": by("a client connects", connects, 2),
        "hears": by("the gateway hears the answer", hears, None, fair=True),
        "opens": by("the gateway opens it", opens, None, fair=True),
        "leaves": by("it ends", leaves),
        "idles": by("the gateway ends what is not used", idles, None, fair=True),
        "tells": by("the gateway tells of the end", tells),
        "speaks": by("the client says something", speaks),
    }
    return [one for label, one in found.items() if label not in left_out]


# --- the handlers, as far as one can tell from here -----------------------------------------------

Results: TypeAlias = Iterator[tuple[Any, None]]

NO: Final = callback.Replied(accept=False).outcome()


def yes(task: callback.Ask, *commands: Do, close: bool = False) -> dict[str, Any]:
    """With these commands, if it is asked whether a connection may open."""
    opens = task.call.kind == "open"
    said = callback.Replied(commands=commands, close=close) if opens else callback.Replied()
    return said.outcome()


def asking(*commands: Do, close: bool = False) -> Handler:
    """An app that accepts with these commands, or does not, or cannot be asked."""

    def ask(task: callback.Ask, world: None) -> Results:
        yield yes(task, *commands, close=close), None
        if task.call.kind == "open":
            yield NO, None
        yield Err("TimedOut"), None

    return ask


def silent(task: callback.Ask, world: None) -> Results:
    """An app that never says anything."""
    yield from ()


def willing(*commands: Do, close: bool = False) -> Handler:
    """An app that always accepts, with these commands."""

    def ask(task: callback.Ask, world: None) -> Results:
        yield yes(task, *commands, close=close), None

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

REASONS: Final = ("Refused", "Timeout", "Left", "Gone", "Unknown")


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

    def reasoned(view: View) -> bool:
        return all(c.why in REASONS for c in commands(view, name) if c.label == "dropped")

    def counted(view: View) -> bool:
        """What has ended is what the connection has counted, and one at most is under way."""
        here = state(view)
        for c in commands(view, name):
            line = here.line
            over = c.label in ("delivered", "dropped")
            if over != (c.n <= line.done) or (c.label == "sending" and c.n != line.done + 1):
                return False
        return True

    def by_a_probe(before: View, told: Told, after: View) -> bool:
        """A probe that has missed ends nothing, and changes nothing that is open."""
        if not isinstance(told.by, connection.Probe) or told.outcome != Err("Gone"):
            return True
        was, now = state(before), state(after)
        return was == now or not isinstance(was, (connection.Accepted, connection.Open))

    def known_gone(view: View) -> bool:
        """What a post has missed has ended."""
        return ended(view) or not any(c.why == "Gone" for c in commands(view, name))

    def stays(before: View, told: Told, after: View) -> bool:
        return not ended(before) or type(state(before)) is type(state(after))

    def indexed(view: View) -> bool:
        index, mine = view.states("gateway/channel"), state(view)
        channels = () if mine is None or ended(view) else mine.line.channels
        return {key[0] for key, one in index.items() if name in one.members} == set(channels)

    def told_of_messages(view: View) -> bool:
        messages = [one for one in callbacks(view, name) if one.call.kind == "message"]
        return not messages or not isinstance(
            state(view), (connection.Opening, connection.Accepted, connection.Rejected)
        )

    def run_when_open(view: View) -> bool:
        """Before that, and where it never comes to it, commands wait or are dropped."""
        here = state(view)
        unopened = isinstance(here, (connection.Opening, connection.Accepted, connection.Rejected))
        ran = any(c.label in ("sending", "delivered") for c in commands(view, name))
        return not (unopened and ran)

    return [
        step("W1 nothing is posted before it is open", posted_when_open),
        always(
            "W2 texts come in the order of their commands, none twice",
            lambda v: v.state(socket) is None or is_ordered(v.state(socket).got),
        ),
        always("W2 one command at most is under way", counted),
        step("W3 delivered and dropped are final", final),
        always("W3 what counts as delivered has come", received),
        always("W3 nothing is dropped but for one of these reasons", reasoned),
        at_rest("W3 at rest every command has ended", lambda view: over(view, name)),
        step("W4 what a probe has missed ends nothing", by_a_probe),
        always("W4 what a post has missed has ended", known_gone),
        always("W5 channels have whom the connection says, and nobody after its end", indexed),
        always(
            "W6 nothing of the client comes to the app before it has accepted", told_of_messages
        ),
        always("W7 no command runs before it is accepted and open", run_when_open),
        step("what has ended stays so", stays),
    ]


def life(name: str, *kinds: type) -> list[Property]:
    """What ends at last, and that a connection comes to all of these states."""
    job, socket = CONNECTION.job(name), SOCKET.job(name)

    def ends(kind: type) -> Property:
        return leads_to(
            f"{kind.__name__.lower()} ends",
            lambda view: isinstance(view.state(job), kind),
            lambda view: not isinstance(view.state(job), kind),
        )

    def waits(view: View) -> bool:
        return not over(view, name)

    def told(view: View) -> bool:
        """Of its end as often as the app has said yes, then or since."""
        calls = callbacks(view, name)
        asked = [one for one in calls if one.call.kind == "open"]
        yes = any(isinstance(one, callback.Answered) and one.accept for one in asked)
        ended = isinstance(view.state(job), ENDED)
        return sum(one.call.kind == "close" for one in calls) == (yes and ended)

    def zombie(view: View) -> bool:
        there = view.state(socket)
        gone = there is None or there.label == "gone"
        return isinstance(view.state(job), ENDED) and not gone

    ending = (connection.Opening, connection.Accepted, connection.Closing)
    found = [
        *(ends(kind) for kind in kinds if kind in ending),
        leads_to("every command ends", waits, lambda view: over(view, name)),
        *(reached(name, kind) for kind in kinds),
    ]
    if connection.Opening in kinds:
        found += [
            always("the app hears once of each end of what it has accepted", told),
            leads_to("what has ended here ends there", zombie, lambda view: not zombie(view)),
        ]
    return found


def over(view: View, name: str) -> bool:
    """Whether every command has ended."""
    return all(one.label in ("delivered", "dropped") for one in commands(view, name))


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


def model(name: str, *kinds: type, names: Sequence[str] = (NAME,), **how: Any) -> Check:
    """Connections of these names, each with a client that does all it may; each comes to all of
    these states."""
    return Check(
        (*WORKFLOWS, SOCKET),
        name=name,
        at=100,
        transactional=TRANSACTIONAL,
        tasks=TASKS,
        **{
            "transactions": actions(NAME),
            "faults": Faults(late=0),
            "properties": [
                replace(rule, name=f"{rule.name} ({each})")
                for each in names
                for rule in (*rules(each), *life(each, *kinds))
            ],
            **how,
        },
    )


def both_open(tx: Tx) -> None:
    """Two connections that are known to be open, while the app is yet to say what it wants."""
    for name in PAIR:
        connects(tx, name)
        tx.apply(SOCKET.job(name), Moved("open"))
        tx.apply(CONNECTION.job(name), connection.Accept())
        tx.apply(CONNECTION.job(name), connection.Confirmed())


OVERDUE: Final = Faults(late=0, overdue=True)
STATES: Final = get_args(connection.State)
FIRST: Final = ("connects", "hears", "opens")
NOT_ASKED_TO_CLOSE: Final = tuple(kind for kind in STATES if kind is not connection.Closing)

CHECKS: Final = (
    model(
        "gateway, subscribe and publish",
        *NOT_ASKED_TO_CLOSE,
        handlers=handlers(asking(SUBSCRIBE, PUBLISH)),
    ),
    model(
        "gateway, called while the app is asked",
        *STATES,
        handlers=handlers(asking(SAY)),
        transactions=actions(NAME, "speaks"),
        sends=[Send(connection.Control(NAME, (SAY,))), Send(connection.Close(NAME))],
    ),
    model(
        "gateway, the app closes",
        connection.Opening,
        connection.Accepted,
        connection.Open,
        connection.Closing,
        connection.Closed,
        handlers=handlers(willing(SUBSCRIBE, UNSUBSCRIBE, DESCRIBE, SAY, close=True)),
    ),
    model(
        "gateway, the app is silent",
        connection.Opening,
        connection.Rejected,
        connection.Closed,
        handlers={callback.Ask: silent},
        transactions=actions(NAME, "opens", "speaks"),
        sends=[Send(connection.Control(NAME, (SAY,))), Send(connection.Close(NAME))],
        faults=OVERDUE,
    ),
    model(
        "gateway, workers that come late",
        connection.Opening,
        connection.Accepted,
        connection.Open,
        connection.Closed,
        handlers=handlers(willing(SAY, SAY), post=unsure),
        transactions=actions(NAME, "speaks"),
        faults=Faults(late=1),
    ),
    model(
        "gateway, a channel of two",
        connection.Open,
        connection.Closed,
        names=PAIR,
        start=both_open,
        handlers=handlers(willing(SUBSCRIBE, PUBLISH)),
        transactions=[
            one for each in PAIR for one in actions(each, *FIRST, "idles", "tells", "speaks")
        ],
        faults=Faults(late=0, lost=False),
    ),
)
