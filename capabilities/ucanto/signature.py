"""Signatures as ucanto writes them: which kind, how long, the bare bytes.

    varint code | varint length | bare signature | name of the algorithm (under code 0xd000 alone)

An account (`did:mailto`) that has no key has an absent signature: code 0xd000, nothing, no name.

Source: the package `@ipld/dag-ucan`, `signature.js`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from stmflow.cid import write_varint
from stmflow.errors import InvalidSignature

if TYPE_CHECKING:
    from capabilities.principal import Signer, Verifier

NON_STANDARD: Final = 0xD000
_NAMES: Final = {
    0xD0ED: "EdDSA",
    0xD0E7: "ES256K",
    0xD0EA: "BLS12381G1",
    0xD0EB: "BLS12381G2",
    0xD191: "EIP191",
    0xD01200: "ES256",
    0xD01201: "ES384",
    0xD01202: "ES512",
    0xD01205: "RS256",
}
_CODES: Final = frozenset(_NAMES.values())
_EDDSA: Final = b"\xed\xa1\x03\x40"
_NAME_BYTES: Final = 64
_VARINT_BYTES: Final = 9


@final
@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and its kind; `algorithm` is the JWT name, empty for an absent signature."""

    code: int
    algorithm: str
    raw: bytes

    def encode(self) -> bytes:
        """Return the one binary form."""
        name = self.algorithm.encode() if self.code == NON_STANDARD else b""
        return write_varint(self.code) + write_varint(len(self.raw)) + self.raw + name

    def verifies(self, payload: bytes, verifier: Verifier) -> bool:
        """Whether this is the signature on `payload` of the key behind `verifier`."""
        return self.code == verifier.code and verifier.verify(payload, self.raw)


ABSENT: Final = Signature(NON_STANDARD, "", b"")


def sign(payload: bytes, signer: Signer) -> Signature:
    """Return the signature of `signer` on `payload`."""
    return Signature(signer.verifier.code, signer.verifier.algorithm, signer.sign(payload))


def decode(data: object) -> Signature:
    """Return the signature whose binary form is `data`.

    Raises `InvalidSignature` for any other spelling: an unknown code, long varints, bytes left
    over, and a standard algorithm under the code for others. Each would be a second form of one
    signature, and so a second CID for what it signs.
    """
    if type(data) is not bytes:
        raise InvalidSignature(f"a signature is bytes, not {type(data).__name__}")
    if data[:4] == _EDDSA and len(data) == 68:
        return Signature(0xD0ED, "EdDSA", data[4:])
    code, start = _varint(data, 0)
    size, start = _varint(data, start)
    raw, rest = data[start : start + size], data[start + size :]
    signature = Signature(code, _algorithm(code, rest), raw)
    if len(raw) != size or signature.encode() != data:
        raise InvalidSignature("a signature that is cut short, too long or not in its one form")
    return signature


def _algorithm(code: int, name: bytes) -> str:
    if code != NON_STANDARD:
        if code not in _NAMES:
            raise InvalidSignature(f"a signature of an unknown kind: {code:#x}")
        return _NAMES[code]
    if len(name) > _NAME_BYTES or not name.isascii() or name.decode() in _CODES:
        raise InvalidSignature("a signature whose algorithm is named in no proper way")
    return name.decode()


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Return the number at `start` and where it ends; `decode` sees to its being minimal."""
    number = 0
    for index, byte in enumerate(data[start : start + _VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, start + index + 1
    raise InvalidSignature("a signature that is cut short")
