"""The signature header of UCAN 1.0 (varsig): which algorithm, and what was signed.

    34 01 <key or scheme> ... <hash> ... <encoding>      encoding 71: DAG-CBOR

A header is read for every algorithm below. It is believed only when it is, byte for byte, the one
header that the issuer's key has (`fits`): so no header can choose another algorithm, hash or
encoding. The older header without the version byte 01 is read, because tokens in the wild carry it,
and never fits: such a token can be looked at and proves nothing. The same holds for EIP-191, for
which there is no verifier.

Source: UCAN 1.0 "Varsig" and github.com/ChainAgnostic/varsig.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stmflow.errors import InvalidSignature

if TYPE_CHECKING:
    from capabilities.principal import Verifier

DAG_CBOR: Final = b"\x71"
_SIGIL: Final = b"\x34"
_V1: Final = _SIGIL + b"\x01"


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says: the algorithm by its JWT name, and the version of varsig (1 or 0)."""

    algorithm: str
    version: int


def header(verifier: Verifier) -> bytes:
    """Return the header of the signatures that `verifier` verifies, on DAG-CBOR."""
    return verifier.varsig + DAG_CBOR


def fits(data: bytes, verifier: Verifier) -> bool:
    """Tell whether `data` is the header of that key's signatures. Older versions never are."""
    return data == verifier.varsig + DAG_CBOR


def decode(data: bytes) -> Header:
    """Return what the header `data` says. Raises `InvalidSignature` for one that is not known."""
    found = _HEADERS.get(data)
    if found is None:
        raise InvalidSignature(f"no signature header that is known here: {data[:16].hex() or '-'}")
    return found


def encode(algorithm: str, *, rsa_bytes: int = 256) -> bytes:
    """Return the header of an algorithm; `rsa_bytes` is the length of an RSA key's signatures.

    Raises `InvalidSignature` for an algorithm that has none.
    """
    middle = _rsa(rsa_bytes) if algorithm == "RS256" else _MIDDLES.get(algorithm)
    if middle is None:
        raise InvalidSignature(f"no signature header is known for {algorithm!a:.40}")
    return _V1 + middle + DAG_CBOR


def _rsa(size: int) -> bytes | None:
    """2,048 to 8,192 bits: all the lengths that take two bytes of varint."""
    if not 256 <= size <= 1_024:
        return None
    return b"\x85\x24\x12" + bytes((size & 0x7F | 0x80, size >> 7))


_MIDDLES: Final = {
    "EdDSA": b"\xed\x01\xed\x01\x13",
    "ES256": b"\xec\x01\x80\x24\x12",
    "ES384": b"\xec\x01\x81\x24\x20",
    "ES512": b"\xec\x01\x82\x24\x13",
    "ES256K": b"\xec\x01\xe7\x01\x12",
    "EIP191": b"\xec\x01\xe7\x01\x1b\x91\xc3\x03",
}
_HEADERS: Final = {
    _SIGIL + b"\xed\x01" + DAG_CBOR: Header("EdDSA", 0),
    **{_V1 + middle + DAG_CBOR: Header(name, 1) for name, middle in _MIDDLES.items()},
    **{
        _V1 + middle + DAG_CBOR: Header("RS256", 1)
        for size in range(256, 1_025)
        if (middle := _rsa(size))
    },
}
