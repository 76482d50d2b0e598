"""The envelope of every UCAN 1.0 token: a signature, and what it covers.

    [signature, {"h": header, "ucan/dlg@1.0.0-rc.1": payload}]      DAG-CBOR, canonical

The signed bytes are the second item as it stands in the block: they are cut out of it and never
made again. DAG-CBOR is taken in its one canonical form and the signature covers the rest, so a
token has one block, and its CID, for each signature that its key makes.

Source: UCAN 1.0 "Envelope"; UCAN-WG's fixtures write the version 1.0.0, its text 1.0.0-rc.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from capabilities.ucan1 import varsig
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import InvalidSignature, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    from capabilities.principal import Signer, Verifier

Kind: TypeAlias = Literal["dlg", "inv"]
VERSION: Final = "1.0.0-rc.1"
_INT_MAX: Final = LIMITS.ucan_int_max
_KINDS: Final[tuple[Kind, ...]] = ("dlg", "inv")
_TAGS: Final = {
    f"ucan/{kind}@{version}": (kind, version) for kind in _KINDS for version in (VERSION, "1.0.0")
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A token as it was sent. Equal where the CIDs are.

    Attributes:
        cid: the CID of the whole block.
        data: the block.
        kind: "dlg" for a delegation, "inv" for an invocation.
        version: the version in its tag.
        header: the bytes of the signature header, known and not yet compared with a key.
        signature: the bare bytes of the signature, not yet verified.
        signed: what the signature has to cover: the tail of `data`.
        payload: the decoded payload. Nobody changes it.
    """

    cid: CID
    data: bytes
    kind: Kind
    version: str
    header: bytes
    signature: bytes
    signed: bytes
    payload: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return type(other) is Envelope and self.cid == other.cid

    def __hash__(self) -> int:
        return hash(self.cid)


def decode(data: bytes, kind: Kind | None = None) -> Envelope:
    """Return the token that the block `data` holds; nothing is verified.

    Raises `MalformedBlock` and `LimitExceeded` for anything else, and `InvalidSignature` where what
    was signed is not a token of this `kind`, or is signed under a header that is not known.
    """
    value = codec.decode(data)
    if type(value) is not list or len(value) != 2:
        raise MalformedBlock("not a token: it is no list of two")
    signature, content = value
    if type(signature) is not bytes or type(content) is not dict:
        raise MalformedBlock("not a token: it is no list of bytes and a map")
    header = content.pop("h", None)
    if type(header) is not bytes or len(content) != 1:
        raise MalformedBlock("not a token: what is signed is no map of a header and a payload")
    ((tag, payload),) = content.items()
    if type(payload) is not dict:
        raise MalformedBlock("not a token: its payload is no map")
    if (known := _TAGS.get(tag)) is None:
        raise InvalidSignature(f"signed as {tag!a:.60}, which is no token that is known here")
    if kind is not None and known[0] != kind:
        raise InvalidSignature(f"signed as {tag}, where ucan/{kind} is asked for")
    varsig.decode(header)
    signed = data[1 + _head_bytes(len(signature)) + len(signature) :]
    if b"\x1b" in signed or b"\x3b" in signed:  # no greater integer goes without either
        _check_integers(payload)
    return Envelope(CID.of(data), data, *known, header, signature, signed, payload)


def seal(payload: dict[str, Any], kind: Kind, signer: Signer, *, version: str = VERSION) -> bytes:
    """Return the block of a token: `payload` signed by `signer`. Nothing in it is checked."""
    content = {"h": varsig.header(signer.verifier), f"ucan/{kind}@{version}": dict(payload)}
    signed = codec.encode(content)
    return b"\x82" + codec.encode(signer.sign(signed)) + signed


def verify(envelope: Envelope, verifiers: Iterable[Verifier]) -> Verifier:
    """Return the one of `verifiers` whose signature this is.

    Raises `InvalidSignature` when it is nobody's, or its header is not that of the key.
    """
    fitting = False
    for each in verifiers:
        if varsig.fits(envelope.header, each):
            fitting = True
            if each.verify(envelope.signed, envelope.signature):
                return each
    said = varsig.decode(envelope.header)
    reason = "does not verify" if fitting else f"is of another kind than the key ({said.algorithm})"
    if said.version == 0:
        reason = "has the old header, without a version, which proves nothing"
    raise InvalidSignature(f"{envelope.cid}: the signature {reason}", token=envelope.cid)


def _head_bytes(size: int) -> int:
    if size < 24:
        return 1
    if size < 1 << 8:
        return 2
    return 3 if size < 1 << 16 else 5


def _check_integers(payload: dict[str, Any]) -> None:
    """JavaScript's integers are the bound of UCAN's. The codec has bounded how deep this goes."""
    stack: list[Any] = [payload]
    while stack:
        value = stack.pop()
        if type(value) is dict:
            stack.extend(value.values())
        elif type(value) is list:
            stack.extend(value)
        elif type(value) is int and not -_INT_MAX <= value <= _INT_MAX:
            raise LimitExceeded(f"an integer outside -{_INT_MAX} to {_INT_MAX} in a token")
