"""Leader election, after Raft: a job for each node, a vote for each term, a leader for most votes.

One function per role, one case per cell of the table in README.md:

    same()    accepted, nothing changes      ignore()      from a term that is over, or a no
    reject()  refused                        impossible()  no legal run leads here

What holds in between: a node votes once in each term, and its vote is in the commit that asks for
it to be told; who has the votes of most leads, and nobody else in that term; terms never fall. A
message may be lost, doubled and late: it is a task where it is sent, and an event where it arrives.

Source: D. Ongaro and J. Ousterhout, *In Search of an Understandable Consensus Algorithm*, 2014,
section 5.2. A no is not told: who gets no votes stands again when its patience ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar, Final, Literal, TypeAlias, assert_never

from stmflow import CID, Effect, Workflow, ignore, impossible, perform, reject, same, sleep

Role: TypeAlias = Literal["follower", "candidate", "leader"]

# --- messages: tasks of who sends them, events of who gets them ----------------------------------


@dataclass(frozen=True, slots=True)
class VoteAsked:
    """A candidate asks the node for its vote."""

    tag: ClassVar[str] = "election/vote-asked"

    node: str
    term: int
    sender: str


@dataclass(frozen=True, slots=True)
class Voted:
    """A voter has given the node its vote."""

    tag: ClassVar[str] = "election/voted"

    node: str
    term: int
    sender: str


@dataclass(frozen=True, slots=True)
class Led:
    """A leader tells the node that it is there."""

    tag: ClassVar[str] = "election/led"

    node: str
    term: int
    sender: str


MESSAGES: Final = (VoteAsked, Voted, Led)
"""A handler sends each to the node that it names, or does not: nobody waits for an answer."""

BEATS: Final = 3
"""How often a leader lets itself be heard in the shortest patience."""

# --- other events -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """The node begins. `peers`: all the others. `patience_ms`: how long it waits for a leader
    before it stands itself, twice that at most; None: for ever."""

    tag: ClassVar[str] = "election/joined"

    node: str
    peers: tuple[str, ...]
    patience_ms: int | None


@dataclass(frozen=True, slots=True)
class Stand:
    """Let the node stand now, as an operator or a leader that leaves may wish."""

    tag: ClassVar[str] = "election/stand"

    node: str


@dataclass(frozen=True, slots=True)
class PatienceEnded:
    """Nothing was heard of a leader for too long."""

    tag: ClassVar[str] = "election/patience-ended"


@dataclass(frozen=True, slots=True)
class BeatDue:
    """A leader lets itself be heard again."""

    tag: ClassVar[str] = "election/beat-due"


Event: TypeAlias = Joined | Stand | PatienceEnded | BeatDue | VoteAsked | Voted | Led

# --- the state ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """What a node must not forget.

    Attributes:
        voted: for whom, in this term. votes: who voted for it, while it is a candidate.
    """

    name: str
    peers: tuple[str, ...]
    patience_ms: int | None
    role: Role = "follower"
    term: int = 0
    voted: str | None = None
    votes: tuple[str, ...] = ()


# --- the table ----------------------------------------------------------------------------------


def update(event: Event, state: Node | None) -> object:
    if isinstance(event, Joined):
        return _joined(event, state)
    if state is None:
        return reject("NotFound")
    if isinstance(event, MESSAGES) and event.sender not in state.peers:
        return reject("NotAPeer")
    match state.role:
        case "follower":
            return _follower(event, state)
        case "candidate":
            return _candidate(event, state)
        case "leader":
            return _leader(event, state)
    assert_never(state.role)


Heard: TypeAlias = Stand | PatienceEnded | BeatDue | VoteAsked | Voted | Led


def _joined(event: Joined, state: Node | None) -> object:
    if state is not None:
        return reject("Exists")
    if event.node in event.peers:
        return reject("Invalid")
    if event.patience_ms is not None and event.patience_ms < BEATS:
        return reject("Invalid")
    node = Node(event.node, tuple(sorted(event.peers)), event.patience_ms)
    return node, patience(node)


def _follower(event: Heard, state: Node) -> object:
    match event:
        case PatienceEnded() | Stand():
            return stand(state)
        case VoteAsked() if event.term > state.term:
            return decide(event, state)
        case VoteAsked() if event.term == state.term and state.voted in (None, event.sender):
            return vote(event, state)
        case VoteAsked():
            return ignore()
        case Voted() if event.term > state.term:
            return impossible()
        case Voted():
            return ignore()
        case Led() if event.term >= state.term:
            return follow(event, state)
        case Led():
            return ignore()
        case BeatDue():
            return impossible()
    assert_never(event)


def _candidate(event: Heard, state: Node) -> object:
    match event:
        case PatienceEnded() | Stand():
            return stand(state)
        case VoteAsked() if event.term > state.term:
            return decide(event, state)
        case VoteAsked():
            return ignore()
        case Voted() if event.term > state.term:
            return impossible()
        case Voted() if event.term == state.term:
            return count(event, state)
        case Voted():
            return ignore()
        case Led() if event.term >= state.term:
            return follow(event, state)
        case Led():
            return ignore()
        case BeatDue():
            return impossible()
    assert_never(event)


def _leader(event: Heard, state: Node) -> object:
    match event:
        case Stand():
            return same()
        case BeatDue():
            return same(*beat(state))
        case VoteAsked() if event.term > state.term:
            return decide(event, state)
        case VoteAsked():
            return ignore()
        case Voted() if event.term > state.term:
            return impossible()
        case Voted():
            return ignore()
        case Led() if event.term > state.term:
            return follow(event, state)
        case Led() if event.term == state.term:
            return impossible()  # there is one leader in a term
        case Led():
            return ignore()
        case PatienceEnded():
            return impossible()
    assert_never(event)


# --- what cells have in common ------------------------------------------------------------------


def stand(state: Node) -> object:
    """A new term, in which the node votes for itself and asks the others."""
    term = state.term + 1
    node = replace(state, role="candidate", term=term, voted=state.name, votes=(state.name,))
    if most(node):
        return lead(node)
    asks = (VoteAsked(peer, term, state.name) for peer in state.peers)
    return node, [*tell(asks), *patience(node)]


def decide(event: VoteAsked, state: Node) -> object:
    """A newer term, in which nothing is decided yet."""
    return vote(event, replace(state, role="follower", term=event.term, voted=None, votes=()))


def vote(event: VoteAsked, state: Node) -> object:
    """A yes. Asked again, it is told again."""
    node = replace(state, voted=event.sender)
    return node, [*tell([Voted(event.sender, event.term, state.name)]), *patience(node)]


def count(event: Voted, state: Node) -> object:
    """A set of voters, not their number: a vote may come twice."""
    node = replace(state, votes=tuple(sorted({*state.votes, event.sender})))
    return lead(node) if most(node) else (node, ())


def most(state: Node) -> bool:
    return 2 * len(state.votes) > len(state.peers) + 1


def lead(state: Node) -> object:
    node = replace(state, role="leader", votes=())
    return node, beat(node)


def follow(event: Led, state: Node) -> object:
    """A leader of this term or of a newer one. A vote is kept as long as its term."""
    voted = state.voted if event.term == state.term else None
    node = replace(state, role="follower", term=event.term, voted=voted, votes=())
    return node, patience(node)


# --- effects. A name that is used again withdraws what had it before. ----------------------------


def tell(messages: Iterable[VoteAsked | Voted | Led]) -> Iterable[Effect]:
    for message in messages:
        yield perform(message, name=f"{message.tag} {message.node}")


def beat(state: Node) -> list[Effect]:
    """As often as `BEATS` says."""
    told = list(tell(Led(peer, state.term, state.name) for peer in state.peers))
    if state.patience_ms is None:
        return told
    pause = sleep(for_=timedelta(milliseconds=state.patience_ms // BEATS), name="beat")
    return [*told, pause.then(BeatDue)]


def patience(state: Node) -> list[Effect]:
    """Other nodes, and other terms, are patient for other times, so that two that stood at once do
    not do it again; drawn from name and term, so that `update` stays pure."""
    if state.patience_ms is None:
        return []
    drawn = CID.of(f"{state.name} {state.term}".encode()).digest[0]
    span = timedelta(milliseconds=state.patience_ms + state.patience_ms * drawn // 256)
    return [sleep(for_=span, name="patience").then(PatienceEnded)]


NODE: Final = Workflow(
    "election/node",
    state=Node,
    events=(Joined, Stand, PatienceEnded, BeatDue, *MESSAGES),
    outside=(Joined, Stand, *MESSAGES),
    tasks=MESSAGES,
    update=update,
    key=("node",),
    tag="role",
)
