"""Signed receipts: what came of an invocation, in the name of who ran it.

    {ocm: {fx: {fork: [link...], join?: link}, iss?, out: {ok | error}, prf, ran: link, meta}, sig}

Unlike a token's, its signature covers the DAG-CBOR of `ocm` itself, and principals are text.

Source: the package `@ucanto/core`, `receipt.js`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from capabilities.did import DID
from capabilities.ucanto import signature as signatures
from capabilities.ucanto.signature import Signature
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import HashMismatch, MalformedBlock

if TYPE_CHECKING:
    from capabilities.principal import Signer, Verifier


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Receipt:
    """What came of the invocation `ran`.

    `out` is `{"ok": value}` or `{"error": value}`. `fork` and `join` are invocations that it leads
    to; their blocks travel along. `data` is the block, `payload` what the signature covers. Equal
    and hashed by its CID.
    """

    cid: CID
    data: bytes
    ran: CID
    issuer: DID | None
    out: Mapping[str, Any]
    fork: tuple[CID, ...]
    join: CID | None
    proofs: tuple[CID, ...]
    meta: Mapping[str, Any]
    signature: Signature
    payload: bytes

    def __eq__(self, other: object) -> bool:
        return type(other) is Receipt and self.cid == other.cid

    def __hash__(self) -> int:
        return hash(self.cid)

    def __repr__(self) -> str:
        (outcome,) = self.out
        return f"Receipt({self.cid.short}, {outcome} of {self.ran.short} by {self.issuer})"


def issue(
    signer: Signer,
    ran: CID,
    out: Mapping[str, Any],
    *,
    fork: Sequence[CID] = (),
    join: CID | None = None,
    proofs: Sequence[CID] = (),
    meta: Mapping[str, Any] | None = None,
) -> Receipt:
    """Sign the receipt of the invocation `ran`: `out` is `{"ok": value}` or `{"error": value}`.

    The same arguments give the same receipt, with the same CID. Raises `MalformedBlock` or
    `LimitExceeded` for values that no block holds.
    """
    ocm: dict[str, Any] = {
        "fx": {"fork": list(fork)} | ({} if join is None else {"join": join}),
        "iss": signer.did.text,
        "out": dict(out),
        "prf": list(proofs),
        "ran": ran,
        "meta": dict(meta or {}),
    }
    payload = codec.encode(ocm)
    signed = signatures.sign(payload, signer)
    data = codec.encode({"ocm": ocm, "sig": signed.encode()})
    return Receipt(
        cid=CID.of(data),
        data=data,
        ran=ran,
        issuer=signer.did,
        out=MappingProxyType(ocm["out"]),
        fork=tuple(fork),
        join=join,
        proofs=tuple(proofs),
        meta=MappingProxyType(ocm["meta"]),
        signature=signed,
        payload=payload,
    )


def decode(cid: CID | None, data: bytes) -> Receipt:
    """Return the receipt whose block is `data`; `cid`, where it is known, must be its name.

    The signature is not verified. Raises `MalformedBlock`, `LimitExceeded`, `HashMismatch`,
    `InvalidDID` or `InvalidSignature`.
    """
    block = codec.decode(data)
    named = CID.of(data)
    if cid is not None and cid != named:
        raise HashMismatch(f"{cid}: the block that came under this CID is {named}")
    if type(block) is not dict or block.keys() != {"ocm", "sig"}:
        raise MalformedBlock("not a receipt: not a map of ocm and sig alone")
    ocm = block["ocm"]
    if type(ocm) is not dict or not _REQUIRED <= ocm.keys() <= _KNOWN:
        raise MalformedBlock("not a receipt: fields are missing, or there are others")
    fx, out = ocm["fx"], ocm["out"]
    if type(fx) is not dict or not _FORK <= fx.keys() <= _FORK_JOIN:
        raise MalformedBlock("not a receipt: fx is not a map of fork and perhaps join")
    if type(out) is not dict or out.keys() not in ({"ok"}, {"error"}):
        raise MalformedBlock("not a receipt: its outcome is neither ok nor error")
    if type(ocm["meta"]) is not dict:
        raise MalformedBlock("not a receipt: meta is not a map")
    return Receipt(
        cid=named,
        data=data,
        ran=_link(ocm["ran"]),
        issuer=DID.parse(ocm["iss"]) if "iss" in ocm else None,
        out=MappingProxyType(out),
        fork=_links(fx["fork"]),
        join=_link(fx["join"]) if "join" in fx else None,
        proofs=_links(ocm["prf"]),
        meta=MappingProxyType(ocm["meta"]),
        signature=signatures.decode(block["sig"]),
        payload=codec.encode(ocm),
    )


def verify_signature(receipt: Receipt, verifier: Verifier) -> bool:
    """Whether the key behind `verifier` signed the receipt; not whether it is the issuer's."""
    return receipt.signature.verifies(receipt.payload, verifier)


_REQUIRED: Final = frozenset(("fx", "out", "prf", "ran", "meta"))
_KNOWN: Final = _REQUIRED | {"iss"}
_FORK: Final = frozenset(("fork",))
_FORK_JOIN: Final = _FORK | {"join"}


def _link(value: object) -> CID:
    if type(value) is not CID:
        raise MalformedBlock(f"not a receipt: {type(value).__name__} where a link has to be")
    return value


def _links(value: object) -> tuple[CID, ...]:
    if type(value) is not list:
        raise MalformedBlock("not a receipt: no list where links have to be")
    return tuple([_link(one) for one in value])


__all__ = [
    "Receipt",
    "decode",
    "issue",
    "verify_signature",
]
