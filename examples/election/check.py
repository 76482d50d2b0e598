"""What is proved of the election: one leader in a term, one vote of each node, and who stands alone
comes to lead; and of the lease (`lease_check.py`).

    stmflow check examples/election

The nodes speak over a channel that may lose, double, delay and reorder: what was told stays there,
and may arrive at any time, again and again, or never. So may every patience end at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations
from typing import Any, Final, NamedTuple, TypeAlias

from examples.election.lease_check import LEASES
from examples.election.workflow import MESSAGES, NODE, Joined, Led, Node, Stand, VoteAsked, Voted
from stmflow import CELL, Job, Sleep, Tx
from stmflow.check import (
    Check,
    Faults,
    Property,
    Send,
    Told,
    Transact,
    View,
    always,
    leads_to,
    sometimes,
    step,
)

Message: TypeAlias = VoteAsked | Voted | Led

NAMES: Final = ("a", "b", "c")

# --- the channel --------------------------------------------------------------------------------


def outgoing(sender: str, term: int) -> Job:
    """All that a node has told in a term, as (what, to whom)."""
    return CELL.job(sender, term)


def tell(tx: Tx, message: Message) -> None:
    sent = outgoing(message.sender, message.term)
    known = set(getattr(tx.read(sent), "value", ()))
    if (message.tag, message.node) not in known:
        tx.write(sent, sorted({*known, (message.tag, message.node)}))


def told(message: Message, world: None, now: int, tx: Tx) -> Iterator[tuple[None, None]]:
    """As a handler tells it: perhaps twice, or when its worker has lost its lease."""
    tell(tx, message)
    yield None, None


def arrives(message: Message, *, fair: bool) -> Transact:
    """Whoever it is for hears it, if it was told."""
    sent, node = outgoing(message.sender, message.term), NODE.job(message.node)

    def body(tx: Tx) -> None:
        known = tx.read(sent)
        if known is not None and (message.tag, message.node) in known.value:
            tx.apply(node, message)

    label = f"{message.sender} → {message.node}: {type(message).__name__}({message.term})"
    return Transact(label, body, None, fair=fair)


# --- what must hold -----------------------------------------------------------------------------


class Past(NamedTuple):
    """What was ever told. `votes`: (term, voter, for whom); who asks for votes has its own.
    `leaders`: (term, leader); who becomes one tells so in the same commit."""

    votes: frozenset[tuple[int, str, str]]
    leaders: frozenset[tuple[int, str]]


def rules(names: Sequence[str], terms: int) -> list[Property]:
    """Leader safety and what it stands on, of all that ever was and not only of one moment."""
    jobs = [NODE.job(name) for name in names]
    channel = {outgoing(name, term): (name, term) for name in names for term in range(1, terms + 2)}

    def nodes(view: View) -> list[Node]:
        return [view.state(job) for job in jobs]

    def past(view: View) -> Past:
        return remember(tuple(view.state(one) for one in channel))

    @cache
    def remember(cells: tuple[Any, ...]) -> Past:
        sent = [
            (what, sender, node, term)
            for (sender, term), cell in zip(channel.values(), cells, strict=True)
            if cell is not None
            for what, node in cell.value
        ]
        own = {(term, one, one) for what, one, _, term in sent if what == VoteAsked.tag}
        given = {(term, one, node) for what, one, node, term in sent if what == Voted.tag}
        leaders = {(term, one) for what, one, _, term in sent if what == Led.tag}
        return Past(frozenset(own | given), frozenset(leaders))

    def one_leader(view: View) -> bool:
        leaders = past(view).leaders
        return len({term for term, _ in leaders}) == len(leaders)

    def one_vote(view: View) -> bool:
        votes = past(view).votes
        return len({(term, voter) for term, voter, _ in votes}) == len(votes)

    def most_votes(view: View) -> bool:
        votes, leaders = past(view)
        return all(
            2 * sum((vote[0], vote[2]) == leader for vote in votes) > len(names)
            for leader in leaders
        )

    def remembered(view: View) -> bool:
        known = {node.name: node for node in nodes(view)}
        return all(
            known[voter].term > term or (known[voter].term, known[voter].voted) == (term, node)
            for term, voter, node in past(view).votes
        )

    def lasting(before: View, action: Told, after: View) -> bool:
        return all(
            now.term > was.term or (now.term == was.term and was.voted in (None, now.voted))
            for was, now in zip(nodes(before), nodes(after), strict=True)
        )

    def led(view: View) -> bool:
        return any(node.role == "leader" for node in nodes(view))

    return [
        always("there is one leader in a term", one_leader),
        always("a node votes once in a term", one_vote),
        always("a leader has the votes of most", most_votes),
        always("a vote that was told is remembered", remembered),
        step("terms never fall, and votes last as long", lasting),
        sometimes("a node leads", led),
    ]


def outlived(names: Sequence[str]) -> Property:
    """Two lead at once, in terms of their own: leader safety does not say that this is not so."""
    jobs = [NODE.job(name) for name in names]

    def two(view: View) -> bool:
        return [view.state(job).role for job in jobs].count("leader") > 1

    return sometimes("a leader does not know of the next", two)


def timed(names: Sequence[str]) -> Property:
    """Nobody waits without a timer, and none is left of what one was."""
    jobs = [NODE.job(name) for name in names]

    def heard(view: View) -> bool:
        return all(
            [task.name for task in view.open(job) if isinstance(task, Sleep)]
            == ["beat" if view.state(job).role == "leader" else "patience"]
            for job in jobs
        )

    return always("who leads is heard, and who does not is patient", heard)


def in_the_end(name: str, names: Sequence[str]) -> Property:
    """Who stands alone, in a term that is the newest and in which nobody votes for another."""
    me, others = NODE.job(name), [NODE.job(other) for other in names if other != name]

    def alone(view: View) -> bool:
        mine: Node = view.state(me)
        return mine.role == "candidate" and all(
            node.term < mine.term or (node.term, node.voted) == (mine.term, name)
            for node in map(view.state, others)
        )

    def not_alone(view: View) -> bool:
        return not alone(view)

    return leads_to(f"if {name} stands alone, it leads, or another stands", alone, not_alone)


# --- models -------------------------------------------------------------------------------------


def election(
    name: str,
    terms: int,
    *more: Property,
    names: Sequence[str] = NAMES,
    patience_ms: int | None = 100,
    sends: Sequence[Send] = (),
    fair: bool = False,
    handled: bool = False,
    late: int = 0,
) -> Check:
    """So many nodes and terms.

    Args:
        fair: what is told arrives in the end. handled: it is told by workers, and not in the
            commit that asks for it; there is nothing else to perform.
    """
    jobs = [NODE.job(name) for name in names]

    def start(tx: Tx) -> None:
        for job in jobs:
            peers = tuple(peer for peer in names if peer not in job.key)
            tx.apply(job, Joined(job.key[0], peers, patience_ms))

    messages = (
        kind(receiver, term, sender)
        for kind in MESSAGES
        for term in range(1, terms + 1)
        for sender, receiver in permutations(names, 2)
    )
    return Check(
        [NODE],
        name=name,
        start=start,
        sends=sends,
        transactions=[arrives(message, fair=fair) for message in messages],
        bound=lambda view: all(view.state(job).term <= terms for job in jobs),
        properties=[*rules(names, terms), *more],
        handlers=dict.fromkeys(MESSAGES, told) if handled else {},
        transactional={} if handled else dict.fromkeys(MESSAGES, tell),
        faults=Faults(late=late),
        timeless=True,
    )


def arriving(name: str, terms: int) -> Check:
    """Nodes that stand when they are told to, and messages that arrive in the end. (A patience that
    may end at any time may end before every answer, in every term.)"""
    return election(
        name,
        terms,
        *(in_the_end(each, NAMES) for each in NAMES),
        patience_ms=None,
        sends=[Send(Stand(each), None) for each in NAMES],
        fair=True,
    )


CHECKS: Final = (
    election("election, three nodes, three terms", 3, timed(NAMES), outlived(NAMES)),
    election(
        "election, told by workers whose answers are lost",
        2,
        timed(NAMES[:2]),
        names=NAMES[:2],
        handled=True,
    ),
    arriving("election, and what is told arrives", 2),
    *LEASES,
)
