"""A model of both validators: it judges the description of a chain, and knows no bytes.

A description says what each token claims and who really signed it. `faults` names all that is wrong
with it; a service has to refuse it for one of these reasons, and to accept it where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

NOW: Final = 1_700_000_000
SERVICE: Final = "service"
PROVIDED: Final = ("add", "list")
_ABOVE: Final = {"all": "", "store": "all", "upload": "all", "add": "store", "list": "store"}


@dataclass(frozen=True, slots=True)
class Hop:
    """One token. `signer`: whose key made the signature. `subject` None: anybody's.

    `parent`: the place of the proof that it lists (ucanto only). `limit`: the largest size.
    """

    issuer: str
    audience: str
    command: str = "store"
    subject: str | None = "space"
    expires: int | None = None
    not_before: int | None = None
    limit: int | None = None
    signer: str = ""
    parent: int | None = None

    @property
    def forged(self) -> bool:
        """Whether somebody else has signed it."""
        return self.signer not in ("", self.issuer)


@dataclass(frozen=True, slots=True)
class Described:
    """A chain, root first, and who asks for what by it.

    `listed`: the places of the proofs that the invocation lists. `sent`: those that come along.
    `revoked`: (place, by whom).
    """

    hops: tuple[Hop, ...]
    asked: Hop
    size: int
    listed: tuple[int, ...]
    sent: frozenset[int]
    revoked: tuple[tuple[int, str], ...] = field(default=())


def covers(outer: str, inner: str) -> bool:
    """Whether one command is another, or lies under it."""
    return outer == inner or (inner != "" and covers(outer, _ABOVE[inner]))


def faults(family: str, told: Described) -> set[str]:
    """The names of all that may be given as the reason of a refusal; none: it is accepted."""
    first = set(_first(told.asked, inclusive=family == "ucan1"))
    if first:
        return first
    if told.asked.issuer == told.asked.subject:
        return set()
    return set(_nested(told) if family == "ucanto" else _linear(told))


def _first(asked: Hop, *, inclusive: bool) -> Iterator[str]:
    """What is wrong with the invocation itself."""
    if asked.audience != SERVICE:
        yield "InvalidAudience"
    if asked.command not in PROVIDED:
        yield "HandlerNotFound"
    yield from _time(asked, inclusive=inclusive)
    if asked.forged:
        yield "InvalidSignature"


def _time(hop: Hop, *, inclusive: bool) -> Iterator[str]:
    """In UCAN 1.0 a token holds in the very seconds of its bounds, in ucanto in neither."""
    edge = 0 if inclusive else 1
    if hop.expires is not None and hop.expires - edge < NOW:
        yield "Expired"
    if hop.not_before is not None and hop.not_before + edge > NOW:
        yield "NotValidBefore"


def _nested(told: Described) -> Iterator[str]:
    """ucanto: from proof to proof, until one is issued by the subject. Each has to allow it all."""
    below, size, path = told.asked, told.size, []
    places = told.listed
    while below.issuer != told.asked.subject:
        if not places:
            yield "InvalidClaim"
            return
        place = places[0]
        if place not in told.sent:
            yield "UnavailableProof"
            return
        hop = told.hops[place]
        path.append(place)
        if hop.audience != below.issuer:
            yield "InvalidAudience"
            return
        yield from _time(hop, inclusive=False)
        if hop.forged:
            yield "InvalidSignature"
        if not covers(hop.command, told.asked.command):
            yield "InvalidClaim"
        if hop.subject not in (None, told.asked.subject):
            yield "InvalidClaim"
        if hop.limit is not None and told.asked.command == "add":
            if size > hop.limit:
                yield "InvalidClaim"
            size = hop.limit
        below, places = hop, () if hop.parent is None else (hop.parent,)
    for place, by in told.revoked:
        if place in path:
            upstream = [told.hops[each] for each in path[path.index(place) :]]
            if any(by in (hop.issuer, hop.audience) for hop in upstream):
                yield "Revoked"


def _linear(told: Described) -> Iterator[str]:
    """UCAN 1.0: one list, the root first."""
    if not told.listed:
        yield "InvalidClaim"
        return
    if not told.sent.issuperset(told.listed):
        yield "UnavailableProof"
        return
    chain = [told.hops[place] for place in told.listed]
    root = chain[0]
    if root.subject is None:
        yield "InvalidClaim"
    if root.issuer != root.subject:
        yield "InvalidSubject"
    for hop, following in zip(chain, [*chain[1:], told.asked], strict=True):
        if hop.subject not in (None, told.asked.subject):
            yield "InvalidSubject"
        if hop.audience != following.issuer:
            yield "InvalidAudience"
        if not covers(hop.command, following.command):
            yield "InvalidClaim"
        if hop.limit is not None and told.size > hop.limit:
            yield "MatchError"
        yield from _time(hop, inclusive=True)
        if hop.forged:
            yield "InvalidSignature"
    for place, by in told.revoked:
        if place in told.listed:
            upto = chain[: told.listed.index(place) + 1]
            if any(by == hop.issuer for hop in upto):
                yield "Revoked"
