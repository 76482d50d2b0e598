"""Principals, capabilities and tokens for the tests of ucanto: good ones in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from capabilities.authorization import Authorization
from capabilities.definition import Capability, Size, all_of, at_most, equal
from capabilities.did import DID
from capabilities.principal import Signer
from capabilities.ucanto import signature, token, validator
from capabilities.ucanto.token import Claim, Token
from stmflow import codec
from stmflow.cid import CAR, CID
from stmflow.errors import CapabilityError, StmflowError

SERVICE, SPACE, ALICE, BOB, CAROL, MALLORY, OTHER = (
    Signer.from_seed(bytes((number,)) * 32) for number in range(1, 8)
)
WEB = SERVICE.named("did:web:store.example")
ACCOUNT = DID.parse("did:mailto:example.com:ann")
NOW = 1_700_000_000
LINK = CID.of(b"a car", CAR)


@dataclass(frozen=True)
class StoreAdd:
    link: CID
    size: Size
    origin: CID | None = None


@dataclass(frozen=True)
class Blob:
    digest: bytes
    size: Size


@dataclass(frozen=True)
class BlobAdd:
    blob: Blob


@dataclass(frozen=True)
class StoreList:
    cursor: str | None = None
    size: Size | None = None


DEFINITIONS = (
    Capability("store/add", StoreAdd, derives=all_of(equal("link"), at_most("size"))),
    Capability("store/list", StoreList),
    Capability("store/nested/list", StoreList),
    Capability("space/blob/add", BlobAdd, derives=all_of(equal("blob"), at_most("blob.size"))),
    Capability("fail/hard", subject="did"),
)
CAPABILITIES = {each.command: each for each in DEFINITIONS}


def claim(can: str = "store/add", space: Signer | str = SPACE, **nb: Any) -> Claim:
    """A capability of a token, on a space unless told otherwise."""
    return Claim(can, space if isinstance(space, str) else space.did.text, nb or None)


def grant(
    issuer: Signer | DID,
    audience: Signer,
    *claims: Claim,
    proofs: Sequence[Token] = (),
    expires: int | None = NOW + 600,
    not_before: int | None = None,
    nonce: str | None = None,
) -> Token:
    """A delegation; of `store/*` on the space, unless told otherwise."""
    return token.issue(
        issuer,
        audience.did,
        claims or (claim("store/*"),),
        expires=expires,
        not_before=not_before,
        nonce=nonce,
        proofs=[each.cid for each in proofs],
    )


def ask(
    issuer: Signer | DID,
    *proofs: Token,
    claims: Sequence[Claim] = (claim(link=LINK, size=100),),
    audience: Signer = SERVICE,
    expires: int | None = NOW + 30,
    not_before: int | None = None,
    nonce: str | None = None,
) -> Token:
    """An invocation of store/add on the space, unless told otherwise."""
    return grant(
        issuer,
        audience,
        *claims,
        proofs=proofs,
        expires=expires,
        not_before=not_before,
        nonce=nonce,
    )


def chain(length: int, first: Signer = SPACE, *claims: Claim) -> list[Token]:
    """That many delegations, each proved by the one before, the last to ALICE; root first."""
    hands = [Signer.from_seed(number.to_bytes(32, "big")) for number in range(1, length)]
    people = [first, *hands, ALICE]
    made: list[Token] = []
    for issuer, audience in pairwise(people):
        made.append(grant(issuer, audience, *claims, proofs=made[-1:]))
    return made


def blocks_of(*tokens: Token) -> dict[CID, bytes]:
    return {each.cid: each.data for each in tokens}


def forged(original: Token, signer: Signer | None = None, **fields: Any) -> bytes:
    """The block of a token with other fields (`...` leaves one out).

    The signature is the old one, or made by `signer` over the payload that the block then has.
    """
    changed = {**codec.decode(original.data), **fields}
    changed = {name: value for name, value in changed.items() if value is not ...}
    data = codec.encode(changed)
    if signer is None:
        return data
    payload = token.decode(None, data).payload
    return codec.encode({**changed, "s": signature.sign(payload, signer).encode()})


def authorize(
    invoked: Token | CID,
    *proofs: Token,
    blocks: Mapping[CID, bytes] | None = None,
    service: Signer = SERVICE,
    now: int = NOW,
    **options: Any,
) -> Authorization:
    """Authorize it with these proofs at hand, by its CID, so that it is decoded too."""
    own = blocks_of(invoked) if isinstance(invoked, Token) else {}
    return validator.authorize(
        invoked.cid if isinstance(invoked, Token) else invoked,
        {**own, **blocks_of(*proofs), **(blocks or {})},
        service=service.did,
        verifier=service.verifier,
        capabilities=CAPABILITIES,
        now=now,
        **options,
    )


def refused(error: type[StmflowError], *args: Any, **options: Any) -> list[StmflowError]:
    """Authorize in vain; all the reasons, outermost first. `error` has to be among them."""
    with pytest.raises(StmflowError) as caught:
        authorize(*args, **options)
    found = list(reasons(caught.value))
    assert error in {type(each) for each in found}, found
    return found


def reasons(error: StmflowError) -> Iterable[StmflowError]:
    yield error
    if isinstance(error, CapabilityError):
        for cause in error.causes:
            yield from reasons(cause)
