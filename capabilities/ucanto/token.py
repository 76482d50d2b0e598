"""UCAN 0.9.1 tokens: delegations and invocations, as blocks of DAG-CBOR.

    {s, v, att: [{can, with, nb?}], aud, exp, fct?, iss, nbf?, nnc?, prf}

What is signed is not the block but a JWT made of the same fields (`Token.payload`). So one
signature could fit several blocks, each with a CID of its own, and a service that knows what it has
done by CID could be made to do it again. Here a token has one form: `decode` refuses every other
one, however well it is signed.

Source: github.com/ucan-wg/spec at 0.9.1 and the package `@ipld/dag-ucan`.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from capabilities.did import DID
from capabilities.ucanto import dagjson
from capabilities.ucanto import signature as signatures
from capabilities.ucanto.signature import ABSENT, Signature
from stmflow import codec
from stmflow.cid import CID, RAW
from stmflow.errors import HashMismatch, InvalidClaim, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    from capabilities.principal import Signer, Verifier

VERSION: Final = "0.9.1"
_NO_CAVEATS: Final[Mapping[str, Any]] = MappingProxyType({})


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """One capability of a token: what may be done (`can`), to what (`with_`), how far (`nb`).

    `can` is a command such as "store/add", or a pattern: `store/*`, `*`. `with_` is the DID of what
    it is about, or `ucan:*`. `nb` is None where it is left out.
    """

    can: str
    with_: str
    nb: Mapping[str, Any] | None = None

    @property
    def caveats(self) -> Mapping[str, Any]:
        """`nb`, empty where it is left out."""
        return _NO_CAVEATS if self.nb is None else self.nb


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Token:
    """A delegation, or an invocation: a delegation to a service with one capability.

    Equal and hashed by its CID. Times are UNIX seconds; `expires` None is never. `data` is the
    block, `payload` what the signature covers. What hangs on `nb` and `facts` is not to be changed.
    """

    cid: CID
    data: bytes
    issuer: DID
    audience: DID
    capabilities: tuple[Claim, ...]
    expires: int | None
    not_before: int | None
    nonce: str | None
    facts: tuple[Mapping[str, Any], ...]
    proofs: tuple[CID, ...]
    version: str
    signature: Signature
    payload: bytes

    def __eq__(self, other: object) -> bool:
        return type(other) is Token and self.cid == other.cid

    def __hash__(self) -> int:
        return hash(self.cid)

    def __repr__(self) -> str:
        cans = ", ".join(claim.can for claim in self.capabilities)
        return f"Token({self.cid.short}, {self.issuer} -> {self.audience}: {cans})"


def decode(cid: CID | None, data: bytes) -> Token:
    """Return the token whose block is `data`; `cid`, where it is known, must be its name.

    Nothing is verified: neither the signature nor the time. Raises `MalformedBlock`,
    `LimitExceeded`, `HashMismatch`, `InvalidDID` or `InvalidSignature` for what is not a token in
    the one form that `issue` writes. Tokens stored as the text of a JWT (CIDs of raw bytes) are
    refused: they have as many spellings as JSON.
    """
    if cid is not None and cid.codec == RAW:
        raise MalformedBlock(f"{cid}: a token stored as the text of a JWT is not taken")
    fields = codec.decode(data)
    named = CID.of(data)
    if cid is not None and cid != named:
        raise HashMismatch(f"{cid}: the block that came under this CID is {named}")
    if type(fields) is not dict or not _REQUIRED <= fields.keys() <= _KNOWN:
        raise MalformedBlock("not a token: fields are missing, or there are others")
    issuer, audience = DID.decode(fields["iss"]), DID.decode(fields["aud"])
    signature = signatures.decode(fields["s"])
    version = _version(fields["v"])
    claims = tuple([_claim(one) for one in _list(fields["att"], "att")])
    expires = _time(fields["exp"], "exp") if fields["exp"] is not None else None
    not_before = _time(fields["nbf"], "nbf") if "nbf" in fields else None
    nonce = _nonce(fields["nnc"]) if "nnc" in fields else None
    facts = _facts(fields["fct"]) if "fct" in fields else ()
    proofs = tuple(_list(fields["prf"], "prf"))
    if not all(type(proof) is CID for proof in proofs):
        raise MalformedBlock("not a token: a proof that is not a link")
    if not_before == 0:
        raise MalformedBlock("not a token in its one form: nbf is 0")
    payload = _payload(
        _header(signature.algorithm, version),
        [_claim_text(claim) for claim in claims],
        audience,
        expires,
        facts,
        issuer,
        not_before,
        nonce,
        proofs,
    )
    return Token(
        cid=named,
        data=data,
        issuer=issuer,
        audience=audience,
        capabilities=claims,
        expires=expires,
        not_before=not_before,
        nonce=nonce,
        facts=facts,
        proofs=proofs,
        version=version,
        signature=signature,
        payload=payload,
    )


def issue(
    issuer: Signer | DID,
    audience: DID,
    capabilities: Sequence[Claim],
    *,
    expires: int | None,
    not_before: int | None = None,
    nonce: str | None = None,
    facts: Sequence[Mapping[str, Any]] = (),
    proofs: Sequence[CID] = (),
) -> Token:
    """Sign a delegation, or an invocation if `audience` is a service.

    `expires` and `not_before` are UNIX seconds; the first counts as expired, the last as too early.
    Two invocations that are to be told apart although everything else is equal need a `nonce`. An
    issuer given as a DID has no key: the signature is absent, and somebody has to attest the token.
    Raises what `decode` raises, for fields that no token has.
    """
    signer = None if isinstance(issuer, DID) else issuer
    name = issuer if isinstance(issuer, DID) else issuer.did
    fields: dict[str, Any] = {
        "v": VERSION,
        "iss": name.raw,
        "aud": audience.raw,
        "att": [_claim_fields(claim) for claim in capabilities],
        "exp": expires,
        "prf": list(proofs),
        "s": b"",
    }
    if facts:
        fields["fct"] = [dict(fact) for fact in facts]
    if not_before is not None:
        fields["nbf"] = not_before
    if nonce is not None:
        fields["nnc"] = nonce
    absent = {**fields, "s": ABSENT.encode()}
    if signer is None:
        return decode(None, codec.encode(absent))
    draft = decode(None, codec.encode(absent))  # also sees to what may be signed at all
    payload = _header(signer.verifier.algorithm, VERSION) + draft.payload.partition(b".")[2]
    signed = signatures.sign(payload, signer)
    return decode(None, codec.encode({**fields, "s": signed.encode()}))


def signing_payload(token: Token) -> bytes:
    """Return what the signature covers: header and body of the JWT, without the signature."""
    return token.payload


def verify_signature(token: Token, verifier: Verifier) -> bool:
    """Whether the key behind `verifier` signed the token; not whether it is the issuer's."""
    return token.signature.verifies(token.payload, verifier)


def delivery_id(token: Token) -> bytes:
    """Return the delivery id of an invocation: the same however it is signed, proved or encoded.

    It is the CID of {iss, aud, can, with, nb, exp, nbf, nnc}. Raises `InvalidClaim` unless the
    token has exactly one capability.
    """
    if len(token.capabilities) != 1:
        raise InvalidClaim("an invocation has exactly one capability", token=token.cid)
    claim = token.capabilities[0]
    fields = {
        "iss": token.issuer.raw,
        "aud": token.audience.raw,
        "can": claim.can,
        "with": claim.with_,
        "nb": dict(claim.caveats),
        "exp": token.expires,
        "nbf": token.not_before,
        "nnc": token.nonce,
    }
    return CID.of(codec.encode(fields)).bytes


# What is signed. The fields stand in the order of DAG-JSON, which is not that of the block.


def _payload(
    header: bytes,
    claims: list[str],
    audience: DID,
    expires: int | None,
    facts: tuple[Mapping[str, Any], ...],
    issuer: DID,
    not_before: int | None,
    nonce: str | None,
    proofs: tuple[CID, ...],
) -> bytes:
    attenuations = ",".join(claims)
    links = ",".join([f'"{proof}"' for proof in proofs])
    parts = [
        f'{{"att":[{attenuations}],"aud":"{audience}"',
        f',"exp":{"null" if expires is None else expires}',
        f',"fct":{dagjson.text([dict(fact) for fact in facts])}' if facts else "",
        f',"iss":"{issuer}"',
        "" if not_before is None else f',"nbf":{not_before}',
        "" if nonce is None else f',"nnc":{dagjson.quote(nonce)}',
        f',"prf":[{links}]}}',
    ]
    return header + _base64("".join(parts).encode())


@lru_cache(64)
def _header(algorithm: str, version: str) -> bytes:
    text = dagjson.text({"alg": algorithm, "typ": "JWT", "ucv": version})
    return _base64(text.encode()) + b"."


_URL: Final = bytes.maketrans(b"+/", b"-_")


def _base64(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).translate(_URL).rstrip(b"=")


def _claim_text(claim: Claim) -> str:
    nb = "" if claim.nb is None else f'"nb":{dagjson.text(dict(claim.nb))},'
    return f'{{"can":{dagjson.quote(claim.can)},{nb}"with":{dagjson.quote(claim.with_)}}}'


# What the fields may hold. The codec has seen to the bytes: they are the one encoding of `fields`.

_REQUIRED: Final = frozenset(("s", "v", "att", "aud", "exp", "iss", "prf"))
_KNOWN: Final = _REQUIRED | {"fct", "nbf", "nnc"}
_CLAIM_REQUIRED: Final = frozenset(("can", "with"))
_CLAIM_KNOWN: Final = _CLAIM_REQUIRED | {"nb"}
_VERSION: Final = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f]*")
_CAN_BYTES: Final = 256
_URI_LETTERS: Final = 2_048
_INT_MAX: Final = LIMITS.ucan_int_max


def _version(value: object) -> str:
    if type(value) is not str or not _VERSION.fullmatch(value):
        raise MalformedBlock("not a token: its version is not three numbers")
    return value


def _claim(one: object) -> Claim:
    if type(one) is not dict or not _CLAIM_REQUIRED <= one.keys() <= _CLAIM_KNOWN:
        raise MalformedBlock("not a token: a capability is a map of can, with and perhaps nb")
    can, with_ = one["can"], one["with"]
    if type(can) is not str or not _is_can(can):
        raise MalformedBlock(f"not a token: no command or pattern of commands: {can!a:.60}")
    if type(with_) is not str or not _is_uri(with_):
        raise MalformedBlock(f"not a token: no URI: {with_!a:.60}")
    if "nb" not in one:
        return Claim(can, with_)
    if type(one["nb"]) is not dict:
        raise MalformedBlock("not a token: nb is not a map")
    return Claim(can, with_, MappingProxyType(one["nb"]))


@lru_cache(1_024)
def _is_can(can: str) -> bool:
    """Lower-case ASCII with a slash inside, so that no two commands look alike or fold to one."""
    plain = can.isascii() and can.isprintable() and " " not in can and can == can.lower()
    return can == "*" or (plain and "/" in can[1:-1] and len(can) <= _CAN_BYTES)


@lru_cache(1_024)
def _is_uri(uri: str) -> bool:
    return len(uri) <= _URI_LETTERS and _URI.fullmatch(uri) is not None


def _claim_fields(claim: Claim) -> dict[str, Any]:
    fields: dict[str, Any] = {"can": claim.can, "with": claim.with_}
    if claim.nb is not None:
        fields["nb"] = dict(claim.nb)
    return fields


def _time(value: object, name: str) -> int:
    if type(value) is not int:
        raise MalformedBlock(f"not a token: {name} is not an integer")
    if not -_INT_MAX <= value <= _INT_MAX:
        raise LimitExceeded(f"{name} outside {-_INT_MAX} to {_INT_MAX}")
    return value


def _nonce(value: object) -> str:
    if type(value) is not str:
        raise MalformedBlock("not a token: nnc is not text")
    if not value:
        raise MalformedBlock("not a token in its one form: nnc is empty, and so not signed")
    return value


def _facts(value: object) -> tuple[Mapping[str, Any], ...]:
    facts = _list(value, "fct")
    if not facts:
        raise MalformedBlock("not a token in its one form: fct is empty, and so not signed")
    if not all(type(fact) is dict for fact in facts):
        raise MalformedBlock("not a token: a fact that is not a map")
    return tuple([MappingProxyType(fact) for fact in facts])


def _list(value: object, name: str) -> list[Any]:
    if type(value) is not list:
        raise MalformedBlock(f"not a token: {name} is not a list")
    return value


__all__ = [
    "VERSION",
    "Claim",
    "Token",
    "decode",
    "delivery_id",
    "issue",
    "signing_payload",
    "verify_signature",
]
