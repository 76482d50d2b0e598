"""May this invocation be run? The rules of ucanto's validator, applied to bytes that came along.

An invocation has authority over `with` if its issuer is `with` itself, or if one of its proofs, a
token addressed to the issuer, grants the same and has authority in its turn, up to one that is
issued by `with` itself. Each proof may narrow what is claimed and none can widen it. One path that
works is enough; bad proofs beside it do no harm.

Order for an invocation: one capability, a known command, our audience, time, signature, arguments,
chain. The order for a proof: there at all, audience, time, signature, each of its capabilities.

No input makes it work for long: depth, tokens and steps are bounded by `LIMITS`, and a proof is
searched once for one claim, in however many places it is listed.

Source: the package `@ucanto/validator`. Stricter than that: tokens have one form (`token.decode`),
and a resource ending in `*` other than `ucan:*` covers nothing (in ucanto it covers a prefix where
a command's schema lets it pass, which only an issuer whose DID ends in `*` could ever prove).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

from capabilities.authorization import Authorization, Chain, Link
from capabilities.definition import Capability
from capabilities.did import DID
from capabilities.principal import Resolver, Verifier, unresolved, verifiers
from capabilities.ucanto.token import Claim, Token, delivery_id
from capabilities.ucanto.verified import Reading, Verified
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import (
    CapabilityError,
    CodecError,
    Expired,
    InvalidAudience,
    InvalidClaim,
    InvalidSignature,
    LimitExceeded,
    Revoked,
    TooEarly,
    UnavailableProof,
    UnknownCommand,
    UnknownKey,
)
from stmflow.limits import LIMITS

Revocations: TypeAlias = Callable[[CID], Collection[DID]]
"""The CID of a token -> in whose names it was revoked. Anybody may revoke anything; it counts if
the one was issuer or audience of that token, or of one above it in the chain."""

_PROOFS: Final = LIMITS.request_blocks  # a request carries no more
_STEPS: Final = LIMITS.items
_DERIVED: Final = LIMITS.request_blocks
_WEIGHED: Final = 1_024  # bytes of caveats that count as one claim more
_DEPTH: Final = LIMITS.proof_chain


@final
@dataclass(frozen=True, slots=True)
class _Attested:
    proof: CID


ATTEST: Final = Capability("ucan/attest", _Attested, subject="did")


class NotOneCapability(InvalidClaim):
    """An invocation with no capability, or with several."""


def authorize(
    invocation: CID | Token,
    blocks: Mapping[CID, bytes],
    *,
    service: DID,
    capabilities: Mapping[str, Capability],
    now: int,
    verifier: Verifier | None = None,
    resolver: Resolver | None = None,
    revoked: Revocations | None = None,
    cache: Verified | Reading | None = None,
    aliases: Collection[DID] = (),
) -> Authorization:
    """Return the authorization of an invocation that may be run now.

    Args:
        invocation: its CID, the block being among `blocks`, or the token itself.
        blocks: what came along, proofs above all. Blocks of tokens are hashed here.
        service: who is asked: the DID that runs this.
        capabilities: what is provided, by command.
        now: UNIX seconds. A token is expired from the second `expires` on, and too early up to
            and with the second `not_before`. There is no tolerance.
        verifier: the key of the service; needed where `service` is not a key itself.
        resolver: finds the keys of other principals that are not keys, such as a `did:web`.
        revoked: what was revoked, and in whose names.
        cache: the service's memory of good signatures.
        aliases: other DIDs under which the service may be asked.

    Raises a `CapabilityError` whose `causes` tell of every path that was tried, or a `CodecError`
    where the invocation is not a token or a bound was passed. `failure` makes of either
    what the client is told.
    """
    search = _Search(service, verifier, now, blocks, resolver, revoked, cache)
    token = invocation if isinstance(invocation, Token) else search.load(invocation)
    if len(token.capabilities) != 1:
        raise NotOneCapability(
            f"an invocation has one capability, this one {len(token.capabilities)}", token=token.cid
        )
    claim = token.capabilities[0]
    capability = capabilities.get(claim.can)
    if capability is None or capability.command != claim.can:
        raise UnknownCommand(f"no service is provided for {claim.can}", token=token.cid)
    if token.audience != service and token.audience not in aliases:
        raise InvalidAudience(f"for {token.audience}, not for {service}", token=token.cid)
    if (fault := search.judge(token, ())) is not None:
        raise fault
    subject, wanted = _read(capability, claim, token)
    outcome = search.prove(token, wanted, 0)
    if isinstance(outcome, CapabilityError):
        raise outcome
    return Authorization(
        invocation=token.cid,
        issuer=token.issuer,
        audience=token.audience,
        subject=subject,
        command=claim.can,
        arguments=wanted.arguments,
        delivery=delivery_id(token),
        expires=token.expires,
        chain=outcome,
        beside=tuple(search.attested),
    )


@final
@dataclass(slots=True, eq=False)
class _Wanted:
    """What has to be granted: the claim of an invocation, narrowed by the proofs passed so far."""

    capability: Capability
    resource: str
    caveats: Mapping[str, Any]
    arguments: Any
    _key: bytes = b""

    def key(self) -> bytes:
        """Tells apart what is wanted within one search."""
        if not self._key:
            caveats = dict(self.caveats)
            self._key = codec.encode([self.capability.command, self.resource, caveats])
        return self._key

    def __str__(self) -> str:
        return f"{self.capability.command} on {self.resource}"


def _read(capability: Capability, claim: Claim, token: Token) -> tuple[DID, _Wanted]:
    """Read what an invocation (or attestation) claims, in the form that its command has."""
    caveats = {name: claim.caveats[name] for name in capability.fields & claim.caveats.keys()}
    limit = LIMITS.arguments_bytes
    if len(token.data) > limit and (size := len(codec.encode(caveats))) > limit:
        raise LimitExceeded(f"arguments of {size} bytes; the limit is {limit}")
    try:
        subject = capability.about(claim.with_)
        arguments = capability.read(caveats)
    except InvalidClaim as error:
        raise InvalidClaim(str(error), token=token.cid) from None
    return subject, _Wanted(capability, claim.with_, caveats, arguments)


class _Search:
    """One search for a path, with all that it has found out so far."""

    __slots__ = (
        "attested",
        "blocks",
        "cache",
        "derived",
        "judged",
        "narrowed",
        "now",
        "proved",
        "resolver",
        "revoked",
        "service",
        "steps",
        "tokens",
        "verifier",
    )

    def __init__(
        self,
        service: DID,
        verifier: Verifier | None,
        now: int,
        blocks: Mapping[CID, bytes],
        resolver: Resolver | None,
        revoked: Revocations | None,
        cache: Verified | Reading | None,
    ) -> None:
        self.service = service
        self.verifier = verifier
        self.now = now
        self.blocks = blocks
        self.resolver = resolver or unresolved
        self.revoked = revoked
        self.cache: Verified | Reading = Verified() if cache is None else cache
        self.steps = cache.steps if isinstance(cache, Reading) else 0  # of the whole message
        self.derived = 0
        self.tokens: dict[bytes, Token | CapabilityError] = {}
        self.narrowed: dict[tuple[bytes, int, bytes], _Wanted | CapabilityError] = {}
        self.judged: dict[tuple[bytes, bytes], CapabilityError | None] = {}
        self.proved: dict[tuple[bytes, bytes], Chain | None] = {}
        self.attested: list[Chain] = []

    def load(self, cid: CID) -> Token:
        """Return the token of that name. Raises `UnavailableProof` and what decoding raises."""
        data = self.blocks.get(cid)
        if data is None:
            raise UnavailableProof(f"{cid} did not come along", token=cid)
        return self.cache.token(cid, data)

    def prove(self, token: Token, wanted: _Wanted, depth: int) -> Chain | CapabilityError:
        """Return the chain on which `token` may grant what is wanted, or why there is none."""
        link = Link(token.cid, token.issuer, token.audience)
        if wanted.resource == token.issuer.text:
            return self._unless_revoked((link,))
        if depth == _DEPTH:
            raise LimitExceeded(f"more than {_DEPTH} proofs in a chain")
        key = (token.cid.bytes, wanted.key())
        if key in self.proved:
            return self.proved[key] or InvalidClaim(
                f"{token.cid.short} does not grant {wanted}, as was found before", token=token.cid
            )
        causes: list[CapabilityError] = []
        chain = self._first(token, link, wanted, depth, causes)
        self.proved[key] = chain
        if chain is not None:
            return chain
        why = "" if causes else ", and no proof grants it"
        return InvalidClaim(
            f"{wanted}: {token.issuer}, who issued {token.cid}, is somebody else{why}",
            token=token.cid,
            causes=causes,
        )

    def _first(
        self, token: Token, link: Link, wanted: _Wanted, depth: int, causes: list[CapabilityError]
    ) -> Chain | None:
        """Return the first chain that works; `causes` gets what was wrong with the others."""
        for proof, narrower in self._grants(token, wanted, depth, causes):
            above = self.prove(proof, narrower, depth + 1)
            if not isinstance(above, CapabilityError):
                above = self._unless_revoked((link, *above))
            if not isinstance(above, CapabilityError):
                return above
            causes.append(above)
        return None

    def _grants(
        self, token: Token, wanted: _Wanted, depth: int, causes: list[CapabilityError]
    ) -> Iterator[tuple[Token, _Wanted]]:
        """The proofs of a token that speak of what is wanted, with what has to be granted above."""
        proofs = self._proofs(token, causes)
        for proof in proofs:
            if (fault := self.judge(proof, proofs, token, depth)) is not None:
                causes.append(fault)
                continue
            about = False
            for place, claim in enumerate(proof.capabilities):
                self._step()
                if not _covers(claim, wanted):
                    continue
                about = True
                narrower = self._narrow(claim, wanted, proof, place)
                if isinstance(narrower, CapabilityError):
                    causes.append(narrower)
                else:
                    yield proof, narrower
            if not about:
                causes.append(InvalidClaim(f"{proof.cid} is not about {wanted}", token=proof.cid))

    def _proofs(self, token: Token, causes: list[CapabilityError]) -> list[Token]:
        """The proofs of a token that came along and are addressed to its issuer."""
        if len(token.proofs) > _PROOFS:
            raise LimitExceeded(f"{len(token.proofs)} proofs of one token; the limit is {_PROOFS}")
        found = []
        for cid in token.proofs:
            self._step()
            proof = self._proof(cid)
            if isinstance(proof, CapabilityError):
                causes.append(proof)
            elif proof.audience != token.issuer:
                causes.append(
                    InvalidAudience(
                        f"{cid} is for {proof.audience}, not for {token.issuer}", token=cid
                    )
                )
            else:
                found.append(proof)
        return found

    def _proof(self, cid: CID) -> Token | CapabilityError:
        known = self.tokens.get(cid.bytes)
        if known is not None:
            return known
        if len(self.tokens) == _PROOFS:
            raise LimitExceeded(f"an invocation with more than {_PROOFS} proofs")
        found: Token | CapabilityError
        try:
            found = self.load(cid)
        except CapabilityError as error:
            found = error
        except CodecError as error:
            found = InvalidSignature(f"{cid}: not a token in its one form: {error}", token=cid)
        self.tokens[cid.bytes] = found
        return found

    def _narrow(
        self, claim: Claim, wanted: _Wanted, proof: Token, place: int
    ) -> _Wanted | CapabilityError:
        """What has to be granted above if a proof's claim passes it on; found out once."""
        fixed = wanted.capability.fields & claim.caveats.keys()
        if not fixed:
            return wanted
        key = (proof.cid.bytes, place, wanted.key())
        if key not in self.narrowed:
            self.narrowed[key] = self._narrower(claim, wanted, proof, fixed)
        return self.narrowed[key]

    def _narrower(
        self, claim: Claim, wanted: _Wanted, proof: Token, fixed: frozenset[str]
    ) -> _Wanted | CapabilityError:
        """What has to be granted above by a claim that fixes these caveats.

        The caveats of the proof take the place of those that are wanted, and `derives` says whether
        what is wanted is within the result. So the limits of every proof bind, also of one above
        another that says nothing.
        """
        capability = wanted.capability
        limits = {name: claim.caveats[name] for name in fixed}
        size = len(codec.encode(limits)) if len(proof.data) > _WEIGHED else 0
        if size > LIMITS.arguments_bytes:
            return InvalidClaim(f"{proof.cid} fixes caveats of {size} bytes", token=proof.cid)
        self.derived += 1 + size // _WEIGHED
        if self.derived > _DERIVED:
            raise LimitExceeded(f"more than {_DERIVED} claims that limit what is asked for")
        caveats = {**wanted.caveats, **limits}
        try:
            arguments = capability.read(caveats)
        except InvalidClaim as error:
            return InvalidClaim(f"as {proof.cid} grants it: {error}", token=proof.cid)
        granted = capability.fixed(arguments, fixed)
        if (fault := capability.derives(wanted.arguments, granted)) is not None:
            return InvalidClaim(f"{proof.cid} does not grant {wanted}: {fault}", token=proof.cid)
        return _Wanted(capability, wanted.resource, caveats, arguments)

    def _step(self, count: int = 1) -> None:
        self.steps += count
        if isinstance(self.cache, Reading):
            self.cache.steps = self.steps
        if self.steps > _STEPS:
            raise LimitExceeded(f"more than {_STEPS} steps to find out what the proofs grant")

    def _unless_revoked(self, chain: Chain) -> Chain | CapabilityError:
        """Return the chain unless its first token was revoked by somebody in it."""
        if self.revoked is not None and (scopes := self.revoked(chain[0].token)):
            for link in chain:
                for one in (link.issuer, link.audience):
                    if one in scopes:
                        cid = chain[0].token
                        return Revoked(f"{cid} was revoked by {one}", token=cid)
        return chain

    # Time and signature.

    def judge(
        self, token: Token, siblings: Sequence[Token], lister: Token | None = None, depth: int = 0
    ) -> CapabilityError | None:
        """Return what is wrong with the time or the signature of a token, if anything is.

        `siblings` are the proofs that `lister` lists beside it: one of them may attest it.
        """
        key = (token.cid.bytes, b"" if lister is None else lister.cid.bytes)
        if key not in self.judged:
            self.judged[key] = self._judge(token, siblings, lister, depth)
        return self.judged[key]

    def _judge(
        self, token: Token, siblings: Sequence[Token], lister: Token | None, depth: int
    ) -> CapabilityError | None:
        cid = token.cid
        if token.expires is not None and token.expires <= self.now:
            return Expired(f"{cid} expired at {token.expires}, now is {self.now}", token=cid)
        if token.not_before is not None and self.now <= token.not_before:
            return TooEarly(f"{cid} holds after {token.not_before}, now is {self.now}", token=cid)
        issuer = token.issuer
        if issuer == self.service and issuer.method != "key" and self.verifier is not None:
            return self._signed(token, (self.verifier,))
        if issuer != self.service and issuer.method != "key":
            causes: list[CapabilityError] = []
            if self._attested(token, siblings, lister, depth, causes):
                return None
            if causes:
                why = f"no attestation of {cid} by {issuer} holds"
                return UnknownKey(why, token=cid, causes=causes)
        try:
            keys = verifiers(issuer, self.resolver)
        except CapabilityError as error:
            return UnknownKey(str(error), token=cid)
        return self._signed(token, keys)

    def _signed(self, token: Token, keys: Sequence[Verifier]) -> CapabilityError | None:
        if any(self.cache.check(token, key) for key in keys):
            return None
        return InvalidSignature(f"{token.cid} is not signed by {token.issuer}", token=token.cid)

    def _attested(
        self,
        token: Token,
        siblings: Sequence[Token],
        lister: Token | None,
        depth: int,
        causes: list[CapabilityError],
    ) -> bool:
        """Whether a sibling attests, in the name of the service, that the issuer made `token`.

        An attestation may rest on proofs, as any claim, and be attested in its turn.
        """
        if depth == _DEPTH:
            raise LimitExceeded(f"more than {_DEPTH} attestations of attestations")
        self._step(len(siblings))
        attestations = [one for one in siblings if _attests(one)]
        for one in attestations:
            for claim in one.capabilities:
                self._step()
                if claim.can != ATTEST.command or claim.caveats.get("proof") != token.cid:
                    continue
                if claim.with_ != self.service.text:
                    continue
                fault = self.judge(one, attestations, lister, depth + 1)
                outcome = fault or self.prove(one, _read(ATTEST, claim, one)[1], depth + 1)
                if not isinstance(outcome, CapabilityError):
                    self.attested.append(outcome)
                    return True
                causes.append(outcome)
        return False


def _covers(claim: Claim, wanted: _Wanted) -> bool:
    """Whether a claim of a proof speaks of what is wanted, caveats aside."""
    can, command = claim.can, wanted.capability.command
    if can != command and can != "*" and not (can.endswith("/*") and command.startswith(can[:-1])):
        return False
    return claim.with_ == wanted.resource or claim.with_ == "ucan:*"


def _attests(token: Token) -> bool:
    return bool(token.capabilities) and token.capabilities[0].can == ATTEST.command
