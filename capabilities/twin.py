"""The other CID under which a token may come again, with a signature that nobody made.

Of every ECDSA signature (r, s) anybody can make another one that verifies, (r, n - s). So a token
signed with such a key has a twin: other bytes, another CID, the same authority. Both halves are in
use, so neither is refused; but who takes a token back takes back its twin as well. Ed25519 (with
S + L refused) and RSA have none. The signature says of which kind it is: an issuer need not be a
key, and what signs for a `did:web` today may not tomorrow.

Source: SEC 1, section 4.1.3; FIPS 186-5 for the orders of the curves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from capabilities.ucan1 import envelope, varsig
from capabilities.ucanto import signature as signatures
from capabilities.ucanto import token
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import HashMismatch

_ORDERS: Final = {
    "ES256": int("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551", 16),
    "ES384": int("F" * 48 + "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
    "ES512": int(
        "1" + "F" * 65 + "A51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16
    ),
    "ES256K": int("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141", 16),
}


def twins(cid: CID, data: bytes) -> tuple[CID, ...]:
    """The CID of a token of either family, and that of its twin, if it has one.

    Raises what `decode` of its family raises for what is no token, and `HashMismatch` for one that
    has another CID: such as that of raw bytes, under which nobody looks for it.
    """
    if data[:1] == b"\x82":  # a list: the envelope of UCAN 1.0
        made = envelope.decode(data)
        if made.cid != cid:
            raise HashMismatch(f"{cid}: the token under it is {made.cid}")
        other = _flipped(varsig.decode(made.header).algorithm, made.signature)
        block = None if other is None else codec.encode([other, codec.decode(data)[1]])
    else:
        old = token.decode(cid, data)
        other = _flipped(old.signature.algorithm, old.signature.raw)
        block = None
        if other is not None:
            signature: signatures.Signature = replace(old.signature, raw=other)
            block = codec.encode({**codec.decode(data), "s": signature.encode()})
    return (cid,) if block is None else (cid, CID.of(block))


def _flipped(algorithm: str, signature: bytes) -> bytes | None:
    """(r, n - s) of a signature of ECDSA."""
    order = _ORDERS.get(algorithm)
    if order is None:
        return None
    size = (order.bit_length() + 7) // 8
    s = order - int.from_bytes(signature[size:], "big")
    if len(signature) != 2 * size or not 0 < s < order:
        return None
    return signature[:size] + s.to_bytes(size, "big")
