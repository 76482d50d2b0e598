"""The election and the lease with one thing broken: the checker finds each, and so does the
engine."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest

from examples.election import workflow
from examples.election.check import NAMES, arriving, election, timed
from examples.election.lease import Lapsed, Lease, Take, lapse
from examples.election.lease_check import (
    HOLDER,
    LAPSES,
    believing,
    guarded,
    lease,
    outside,
)
from examples.election.workflow import (
    BeatDue,
    Led,
    Node,
    PatienceEnded,
    VoteAsked,
    Voted,
    beat,
    count,
    decide,
    lead,
    most,
    patience,
    stand,
    tell,
    vote,
)
from stmflow import ANY, ignore, same, sleep
from stmflow.check import Check, prove
from tests.examples import planted

Update = Callable[[Any, Any], Any]
Answer = Callable[[Any, Any], Any]

LEADER = "there is one leader in a term"
VOTE = "a node votes once in a term"
MOST = "a leader has the votes of most"
KNOWN = "a vote that was told is remembered"
TERMS = "terms never fall, and votes last as long"
TIMED = "who leads is heard, and who does not is patient"
IMPOSSIBLE = "no impossible cell is reached"
ALONE = "if a stands alone, it leads, or another stands"
WRITES = "only who has the lease writes"
TOKENS = "no two have the same token"
BACK = "what is written never goes back to a holder before"
ENDS = "a lease that nobody renews ends"


@dataclass(frozen=True)
class Mutation:
    """What is broken, the property that shows it, and the length of the shortest trace."""

    name: str
    breaks: str
    steps: int
    check: Check
    update: Callable[[Update], Update] = lambda update: update

    def of(self) -> Check:
        (one,) = self.check.workflows
        twin = copy(one)
        twin.update = self.update(one.update)
        asked = [one for one in self.check.properties if one.name == self.breaks]
        return replace(self.check, workflows=[twin], properties=asked)


def given(event: type, role: str | None, answer: Answer) -> Callable[[Update], Update]:
    """One event, in one role or in all, answered otherwise; None: as it was."""

    def broken(update: Update) -> Update:
        def answered(one: Any, state: Any) -> Any:
            meant = isinstance(one, event) and state is not None
            if meant and role in (None, getattr(state, "role", None) or state.status):
                found = answer(one, state)
                if found is not None:
                    return found
            return update(one, state)

        return answered

    return broken


# --- nodes --------------------------------------------------------------------------------------


def any_vote(event: VoteAsked, state: Node) -> Any:
    """Votes for whoever asks in its term."""
    return vote(event, state) if event.term == state.term else None


def forgetful(event: VoteAsked, state: Node) -> Any:
    """Tells of a vote that it has not written down."""
    if event.term < state.term:
        return None
    node = replace(state, term=event.term, voted=None)
    return node, [*tell([Voted(event.sender, event.term, state.name)]), *patience(node)]


def before_its_time(event: VoteAsked, state: Node) -> Any:
    """Votes in a newer term, and stays in its own."""
    return vote(event, state) if event.term > state.term else None


def any_term(event: VoteAsked, state: Node) -> Any:
    """Votes in terms that are over."""
    return decide(event, state) if event.term < state.term else None


def counts_the_old(event: Voted, state: Node) -> Any:
    """Counts votes of terms that are over."""
    return count(event, state)


def half(event: Voted, state: Node) -> Any:
    """Thinks that half is enough."""
    node = replace(state, votes=tuple(sorted({*state.votes, event.sender})))
    if event.term != state.term:
        return None
    return lead(node) if 2 * len(node.votes) >= len(node.peers) + 1 else (node, ())


def tally(event: Voted, state: Node) -> Any:
    """Counts how many votes came, and not whose."""
    node = replace(state, votes=(*state.votes, event.sender))
    if event.term != state.term:
        return None
    return lead(node) if most(node) else (node, ())


def same_term(event: Any, state: Node) -> Any:
    """Stands again without a new term."""
    return stand(replace(state, term=state.term - 1)) if state.term else None


def ready_to_vote(event: Any, state: Node) -> Any:
    """Stands, and does not vote for itself."""
    node, effects = stand(state)  # type: ignore[misc]
    return replace(node, voted=None), effects


def gives_up(event: Any, state: Node) -> Any:
    """Stands once, and waits for ever."""
    node, _ = stand(state)  # type: ignore[misc]
    return node, [*tell(VoteAsked(peer, node.term, node.name) for peer in node.peers)]


def new_leaf(event: Led, state: Node) -> Any:
    """Forgets its vote when it hears of a leader."""
    node = replace(state, role="follower", term=event.term, voted=None, votes=())
    return (node, patience(node)) if event.term >= state.term else None


def humble(event: Led, state: Node) -> Any:
    """Follows leaders of terms that are over."""
    return workflow.follow(event, state)


def restless(event: Voted, state: Node) -> Any:
    """Its heart beats on when it leads no more."""
    found = count(event, state) if event.term == state.term else None
    if not (isinstance(found, tuple) and found[0].role == "leader"):
        return found
    pause = sleep(for_=workflow.timedelta(0), name="beat", during=ANY).then(BeatDue)
    return found[0], [*beat(found[0])[:-1], pause]


def deaf(event: Any, state: Any) -> Any:
    return ignore()


def loud() -> Check:
    return arriving("broken", 1)


def nodes(terms: int = 2, names: Any = NAMES) -> Check:
    return election("broken", terms, timed(names), names=names)


# --- the lease ----------------------------------------------------------------------------------


def stolen(event: Take, state: Lease) -> Any:
    """Gives it to whoever asks."""
    return replace(state, token=state.token + 1, holder=event.holder), [lapse(event.for_ms)]


def shared(event: Take, state: Lease) -> Any:
    """Gives it to whoever asks, under the token of who has it."""
    return replace(state, holder=event.holder), ()


def again(event: Take, state: Lease) -> Any:
    """Begins to count anew."""
    return Lease("held", 1, event.holder), [lapse(event.for_ms)]


def endless(event: Take, state: Lease) -> Any:
    return Lease("held", state.token + 1, event.holder), ()


def ending() -> Check:
    return lease("", guarded, LAPSES, renews=False)


def outlasting(event: Lapsed, state: Lease) -> Any:
    return same()


MUTATIONS = [
    Mutation("votes for whoever asks", VOTE, 3, nodes(), given(VoteAsked, None, any_vote)),
    Mutation("two lead, by such votes", LEADER, 6, nodes(), given(VoteAsked, None, any_vote)),
    Mutation("a vote is not written down", KNOWN, 2, nodes(), given(VoteAsked, None, forgetful)),
    Mutation("two lead, by such votes too", LEADER, 6, nodes(), given(VoteAsked, None, forgetful)),
    Mutation("votes ahead of its term", KNOWN, 2, nodes(), given(VoteAsked, None, before_its_time)),
    Mutation("votes in terms that are over", TERMS, 4, nodes(), given(VoteAsked, None, any_term)),
    Mutation("counts old votes", MOST, 4, nodes(), given(Voted, "candidate", counts_the_old)),
    Mutation("half is most", MOST, 3, nodes(1, "abcd"), given(Voted, "candidate", half)),
    Mutation("a vote counts twice", MOST, 4, nodes(1, "abcd"), given(Voted, "candidate", tally)),
    Mutation(
        "stands again in the same term", VOTE, 3, nodes(), given(PatienceEnded, None, same_term)
    ),
    Mutation(
        "does not vote for itself", VOTE, 6, nodes(), given(PatienceEnded, None, ready_to_vote)
    ),
    Mutation("stands but once", TIMED, 1, nodes(), given(PatienceEnded, None, gives_up)),
    Mutation("forgets its vote for a leader", TERMS, 4, nodes(), given(Led, None, new_leaf)),
    Mutation("follows who led once", TERMS, 5, nodes(), given(Led, None, humble)),
    Mutation("beats on", IMPOSSIBLE, 6, nodes(), given(Voted, "candidate", restless)),
    Mutation("votes are not counted", ALONE, 5, loud(), given(Voted, "candidate", deaf)),
    Mutation("asks are not heard", ALONE, 1, loud(), given(VoteAsked, None, deaf)),
    Mutation("writes without a look", WRITES, 3, lease("", believing, HOLDER)),
    Mutation("writes without a look, over the next", BACK, 5, lease("", believing, HOLDER)),
    Mutation("looks at the token only", WRITES, 3, lease("", outside, HOLDER)),
    Mutation(
        "the lease is stolen", WRITES, 3, lease("", believing, HOLDER), given(Take, "held", stolen)
    ),
    Mutation("two share a lease", TOKENS, 2, lease("", guarded), given(Take, "held", shared)),
    Mutation("tokens begin anew", TOKENS, 3, lease("", guarded), given(Take, "free", again)),
    Mutation(
        "a lease without an end",
        ENDS,
        3,
        lease("", guarded, LAPSES, renews=False),
        given(Take, "free", endless),
    ),
    Mutation(
        "a lease does not lapse",
        ENDS,
        2,
        lease("", guarded, LAPSES, renews=False),
        given(Lapsed, "held", outlasting),
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_what_is_broken_is_found(mutation: Mutation) -> None:
    await planted.alone(mutation.of(), mutation)


def test_the_fence_holds_even_where_the_lease_is_stolen() -> None:
    """Who may have the lease is a courtesy; what is safe rests on the token."""
    stealing = Mutation("", WRITES, 0, lease("", guarded, HOLDER), given(Take, "held", stolen))
    assert prove(stealing.of()).holds
