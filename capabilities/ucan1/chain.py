"""Whether an invocation has authority: the checks of UCAN 1.0 in their order.

1. It is an invocation, well formed, and its issuer signed it.
2. It is addressed to us: its audience, or where it names none its subject, is the service.
3. It has not expired. A token holds in the very second of `exp` and `nbf`; there is no leeway.
4. Its command is provided here.
5. The issuer is the subject, and the proofs do not matter; or the proofs, root first, lead from the
   subject to the issuer. They are one list, so this is one pass:
   - the root is issued by the subject and about it; every subject is the invocation's, or null
     (anybody's) behind the root;
   - the audience of each is the issuer of the next, the last one's the invocation's issuer;
   - each command is the one before or lies under it, and so does the invocation's;
   - the arguments satisfy every policy;
   - each is in its time, signed by its issuer, and not revoked by any issuer up to its own.
6. Subject and arguments are what the command's definition takes.

Where clients depart from the text, the stricter reading counts: commands nest by segment, and the
name of another audience is never outweighed by the subject's. Sources: UCAN 1.0 delegation and
invocation, "Token Validation" and "Proof Chains"; github.com/ucan-wg/revocation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from capabilities.authorization import Authorization, Link
from capabilities.principal import Resolver, unresolved, verifiers
from capabilities.ucan1 import delegation, envelope, fields, invocation
from capabilities.ucan1.delegation import Delegation
from capabilities.ucan1.invocation import Invocation
from capabilities.ucan1.policy import Budget
from capabilities.ucan1.verified import Token, Verified
from stmflow.cid import CID
from stmflow.errors import (
    Expired,
    HashMismatch,
    InvalidAudience,
    InvalidClaim,
    InvalidSubject,
    LimitExceeded,
    MatchError,
    Revoked,
    TooEarly,
    UnavailableProof,
    UnknownCommand,
)
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    from capabilities.did import DID

Revocations: TypeAlias = Callable[[CID], Collection["DID"]]
"""In whose names a token has been revoked: whether one of them may is decided here."""


class Definition(Protocol):
    """What is asked of a command's definition: a `capabilities.definition.Capability`."""

    def about(self, resource: str) -> DID:
        """Return the subject. Raises `InvalidClaim` for one that the command is never about."""
        ...

    def read(self, arguments: Mapping[str, Any], *, text_links: bool) -> Any:
        """Return the arguments as the command's handler wants them. Raises `InvalidClaim`."""
        ...


def authorize(
    invoked: CID | bytes | Invocation,
    blocks: Mapping[CID, bytes],
    *,
    service: DID,
    capabilities: Mapping[str, Definition],
    now: int,
    resolver: Resolver | None = None,
    revoked: Revocations | None = None,
    cache: Verified | None = None,
) -> Authorization:
    """Return what the invocation is allowed to do, or raise why it is not allowed.

    `blocks` holds the proofs, and the invocation where only its CID is given; it may load them when
    asked, and nothing else is asked for. Each is hashed. `capabilities` maps commands without the
    leading slash (`store/add`) to their definitions, `now` is in UNIX seconds. `resolver` finds the
    keys of issuers that are no keys themselves; `revoked` says in whose names a token was revoked;
    `cache` spares a signature that was verified before.

    Raises `InvalidSignature`, `UnknownKey`, `InvalidAudience`, `Expired`, `TooEarly`,
    `UnknownCommand`, `InvalidClaim`, `InvalidSubject`, `MatchError`, `UnavailableProof`, `Revoked`,
    each with the CID of the token at fault; `MalformedBlock`, `InvalidDID`, `WeakKey` and
    `HashMismatch` for tokens that are none; `LimitExceeded` for more than `LIMITS.proof_chain`
    proofs, and for policies that take too many steps.
    """
    check = _Check(blocks, now, resolver or unresolved, revoked, cache)
    token = check.invocation(invoked)
    if token.audience != service:
        message = f"addressed to {token.audience}, not to {service}"
        raise InvalidAudience(message, token=token.cid)
    check.in_time(token)
    definition = capabilities.get(token.command[1:])
    if definition is None:
        raise UnknownCommand(f"nothing is provided as {token.command!a:.80}", token=token.cid)
    proofs = () if token.issuer == token.subject else check.proofs(token)
    check.not_revoked((*proofs, token))
    return Authorization(
        invocation=token.cid,
        issuer=token.issuer,
        audience=token.audience,
        subject=token.subject,
        command=token.command[1:],
        arguments=_read(definition, token),
        delivery=token.delivery_id,
        expires=_refused_from((token, *proofs)),
        renewable=bool(token.nonce),
        chain=(_link(token), *map(_link, reversed(proofs))),
    )


def _read(definition: Definition, token: Invocation) -> Any:
    """The arguments. A link may be text in them: there are clients that can send no other."""
    try:
        definition.about(token.subject.text)
        return definition.read(token.arguments, text_links=True)
    except InvalidClaim as error:
        raise InvalidClaim(str(error), token=token.cid, causes=error.causes) from None


def _link(token: Token) -> Link:
    return Link(token.cid, token.issuer, token.audience)


def _refused_from(tokens: Sequence[Token]) -> int | None:
    """The first second in which one of them has expired."""
    return min((each.expires + 1 for each in tokens if each.expires is not None), default=None)


class _Check:
    """One authorization: what all its steps look at."""

    __slots__ = ("blocks", "cache", "now", "resolver", "revoked")

    def __init__(
        self,
        blocks: Mapping[CID, bytes],
        now: int,
        resolver: Resolver,
        revoked: Revocations | None,
        cache: Verified | None,
    ) -> None:
        self.blocks = blocks
        self.now = now
        self.resolver = resolver
        self.revoked = revoked
        self.cache = cache

    def invocation(self, invoked: CID | bytes | Invocation) -> Invocation:
        """The invocation, signed by its issuer."""
        token = invoked if isinstance(invoked, Invocation) else self._invoked(invoked)
        self.signed(token)
        return token

    def _invoked(self, invoked: CID | bytes) -> Invocation:
        cid = CID.of(invoked) if type(invoked) is bytes else CID.parse(invoked)
        data = invoked if type(invoked) is bytes else self.block(cid)
        token = self.cache.get(cid, Invocation) if self.cache is not None else None
        token = token or invocation.decode(data)
        _check_name(token, cid)
        return token

    def block(self, cid: CID) -> bytes:
        data = self.blocks.get(cid)
        if data is None:
            raise UnavailableProof(f"{cid} was not sent and is not known here", token=cid)
        return data

    def proofs(self, token: Invocation) -> tuple[Delegation, ...]:
        """The delegations that give the issuer the subject's authority, root first."""
        if not token.proofs:
            message = f"{token.issuer} asks for {token.subject} and has no proof"
            raise InvalidClaim(message, token=token.cid)
        if len(token.proofs) > LIMITS.proof_chain:
            raise LimitExceeded(f"{len(token.proofs)} proofs; the limit is {LIMITS.proof_chain}")
        proofs = tuple([self.delegation(cid) for cid in token.proofs])
        _check_subjects(proofs, token)
        _check_principals(proofs, token)
        _check_commands(proofs, token)
        _check_policies(proofs, token)
        for each in proofs:
            self.in_time(each)
        for each in proofs:
            self.signed(each)
        return proofs

    def delegation(self, cid: CID) -> Delegation:
        data = self.block(cid)
        token = self.cache.get(cid, Delegation) if self.cache is not None else None
        token = token or delegation.decode(data)
        _check_name(token, cid)
        return token

    def in_time(self, token: Token) -> None:
        now = self.now
        if token.expires is not None and token.expires < now:
            raise Expired(f"expired at {token.expires}; it is {now}", token=token.cid)
        if type(token) is Delegation and token.not_before is not None and token.not_before > now:
            raise TooEarly(f"not valid before {token.not_before}; it is {now}", token=token.cid)

    def signed(self, token: Token) -> None:
        """Check the signature by the issuer's present keys, unless one of them is known to fit."""
        keys = verifiers(token.issuer, self.resolver)
        known = self.cache.key(token.cid) if self.cache is not None else None
        if known not in [each.did for each in keys]:
            key = envelope.verify(token.envelope, keys)
            if self.cache is not None:
                self.cache.add(token, key.did)

    def not_revoked(self, tokens: Sequence[Token]) -> None:
        """Only an issuer of the token itself or of one above it may revoke it."""
        if self.revoked is None:
            return
        entitled: set[DID] = set()
        for token in tokens:
            entitled.add(token.issuer)
            if not entitled.isdisjoint(self.revoked(token.cid)):
                raise Revoked("revoked by one who had issued it, or a proof of it", token=token.cid)


def _check_name(token: Token, cid: CID) -> None:
    if token.cid != cid:
        raise HashMismatch(f"{cid}: the block under it is {token.cid}")


def _check_subjects(proofs: Sequence[Delegation], token: Invocation) -> None:
    root = proofs[0]
    if root.subject is None:
        raise InvalidClaim("the first proof is about nobody: no subject grants it", token=root.cid)
    for each in proofs:
        if each.subject is not None and each.subject != token.subject:
            message = f"about {each.subject}, not {token.subject}"
            raise InvalidSubject(message, token=each.cid)
    if root.issuer != root.subject:
        message = f"the first proof is by {root.issuer}, not by its subject {root.subject}"
        raise InvalidSubject(message, token=root.cid)


def _steps(proofs: Sequence[Delegation], token: Invocation) -> Iterator[tuple[Delegation, Token]]:
    """Each proof and what rests on it."""
    yield from pairwise(proofs)
    yield proofs[-1], token


def _check_principals(proofs: Sequence[Delegation], token: Invocation) -> None:
    for each, following in _steps(proofs, token):
        if each.audience != following.issuer:
            message = f"granted to {each.audience}, used by {following.issuer}"
            raise InvalidAudience(message, token=each.cid)


def _check_commands(proofs: Sequence[Delegation], token: Invocation) -> None:
    for each, following in _steps(proofs, token):
        if not fields.covers(each.command, following.command):
            message = f"{following.command!a:.80} does not lie under {each.command!a:.80}"
            raise InvalidClaim(message, token=following.cid)


def _check_policies(proofs: Sequence[Delegation], token: Invocation) -> None:
    budget = Budget()
    for each in proofs:
        failing = each.policy.failing(token.arguments, budget)
        if failing is not None:
            raise MatchError(f"the arguments do not satisfy {failing!a:.200}", token=each.cid)
