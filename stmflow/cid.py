"""The name of a block: an immutable CIDv1, made, read, printed and checked.

A CID is `01 <codec> <hash code> <digest length> <digest>`, each number but the last an unsigned
varint, and is carried here as those bytes and nothing else. Every CIDv1 with a digest of at most
64 bytes can be carried; only sha2-256 can be computed and verified. CIDv0 is refused.

Sources: github.com/multiformats/cid, /unsigned-varint (minimal form, at most 9 bytes), /multihash,
/multibase. `docs/decisions/own-codec-and-cid.md` says why this is not `multiformats.CID`.
"""

from __future__ import annotations

import base64
import binascii
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from stmflow.errors import HashMismatch, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    import multiformats
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

RAW: Final = 0x55
DAG_CBOR: Final = 0x71
CAR: Final = 0x0202
SHA2_256: Final = 0x12

_Bytes = bytes  # inside the class, `bytes` is the slot


@final
class CID:
    """One CIDv1. Equal, ordered and hashed by its bytes; never equal to plain bytes or text.

    `CID(data)` reads the binary form, `CID.parse` every form, `CID.of` names some data.
    Raises `MalformedBlock` for what is not a CIDv1 in its one canonical form, `LimitExceeded` for a
    digest over `LIMITS.digest_bytes` (64).
    """

    __slots__ = ("bytes",)

    bytes: _Bytes
    """The binary form, without the multibase zero that DAG-CBOR puts before it."""

    def __new__(cls, data: _Bytes) -> CID:
        if type(data) is not _Bytes:
            raise MalformedBlock(f"a binary CID is bytes, not {type(data).__name__}")
        return from_bytes(data)

    @classmethod
    def of(cls, data: _Bytes, codec: int = DAG_CBOR) -> CID:
        """Return the CID that names `data`, hashed with sha2-256, read as `codec`."""
        cid = _new(CID)
        _fill(cid, (_SHA2_256_HEADS.get(codec) or _sha2_256_head(codec)) + sha256(data).digest())
        return cid

    @classmethod
    def parse(cls, value: str | _Bytes | CID | multiformats.CID) -> CID:
        """Return the CID that `value` is: its text, its binary form, or a CID of either library.

        Text is multibase: base32 lower case (`b...`, the form that `str` gives) or base58btc (`z`),
        base36 (`k`), base16 (`f`) and base64url (`u`). Each CID has one text per base; any other
        spelling (upper case, padding, stray bits) is refused.
        """
        kind = type(value)
        if kind is str:
            return _from_text(value)  # type: ignore[arg-type]
        if kind is _Bytes:
            return from_bytes(value)  # type: ignore[arg-type]
        if kind is CID:
            return value  # type: ignore[return-value]
        return _from_foreign(value)

    @property
    def codec(self) -> int:
        """The multicodec of the data: 0x71 is DAG-CBOR, 0x55 raw bytes."""
        return _varint(self.bytes, 1)[0]

    @property
    def hash_code(self) -> int:
        """The multicodec of the hash function: 0x12 is sha2-256."""
        return _varint(self.bytes, _varint(self.bytes, 1)[1])[0]

    @property
    def digest(self) -> _Bytes:
        """The bare hash, without code and length."""
        data = self.bytes
        start = _varint(data, _varint(data, _varint(data, 1)[1])[1])[1]
        return data[start:]

    @property
    def multihash(self) -> _Bytes:
        """The hash with its code and length: what a store of blobs calls the digest of a blob."""
        data = self.bytes
        return data[_varint(data, 1)[1] :]

    @property
    def short(self) -> str:
        """The first 16 letters of the text: tells CIDs apart in a table, and finds by prefix."""
        return str(self)[:16]

    def verify(self, data: _Bytes) -> None:
        """Raise `HashMismatch` unless `data` is what this CID names.

        Only sha2-256 can be verified: under any other hash code no data is accepted.
        """
        if self.bytes[-34:-32] != b"\x12\x20" or self.hash_code != SHA2_256:
            raise HashMismatch(f"{self}: hash code {self.hash_code:#x} cannot be verified")
        if sha256(data).digest() != self.bytes[-32:]:
            raise HashMismatch(f"{self}: {len(data)} bytes came under this CID and hash to another")

    def to_multiformats(self) -> multiformats.CID:
        """Return the same CID as a `multiformats.CID` whose text is base32.

        Raises `MalformedBlock` where multiformats does not know the codec or the hash.
        """
        import multiformats

        try:
            return multiformats.CID.decode(self.bytes).set(base="base32")
        except Exception as error:  # its errors have no common class
            raise MalformedBlock(f"{self}: multiformats refuses it: {error!r}") from error

    def __str__(self) -> str:
        data = self.bytes
        return _text36(data) if len(data) == 36 else _text(data)

    def __repr__(self) -> str:
        return f"CID({str(self)!r})"

    def __bytes__(self) -> _Bytes:
        return self.bytes

    def __hash__(self) -> int:
        return hash(self.bytes)

    def __eq__(self, other: object) -> bool:
        return type(other) is CID and self.bytes == other.bytes

    def __lt__(self, other: CID) -> bool:
        return self.bytes < other.bytes if type(other) is CID else NotImplemented

    def __le__(self, other: CID) -> bool:
        return self.bytes <= other.bytes if type(other) is CID else NotImplemented

    def __gt__(self, other: CID) -> bool:
        return self.bytes > other.bytes if type(other) is CID else NotImplemented

    def __ge__(self, other: CID) -> bool:
        return self.bytes >= other.bytes if type(other) is CID else NotImplemented

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a CID cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a CID cannot be changed")

    def __reduce__(self) -> tuple[type[CID], tuple[_Bytes]]:
        return CID, (self.bytes,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In Python an instance; in JSON `{"/": "b..."}`, and in lax mode also its bare text."""
        from pydantic_core import core_schema as s

        text = s.no_info_after_validator_function(_from_text, s.str_schema(strict=True))
        link = s.no_info_after_validator_function(
            lambda form: _from_text(form["/"]),
            s.typed_dict_schema(
                {"/": s.typed_dict_field(s.str_schema(strict=True))}, extra_behavior="forbid"
            ),
        )
        return s.json_or_python_schema(
            json_schema=s.lax_or_strict_schema(s.union_schema([link, text]), link),
            python_schema=s.is_instance_schema(cls),
            serialization=s.plain_serializer_function_ser_schema(
                lambda cid: {"/": str(cid)}, when_used="json"
            ),
        )


_new = object.__new__
_fill = vars(CID)["bytes"].__set__  # the slot; `__setattr__` is shut

_SHA2_256_HEADS: Final = {
    RAW: b"\x01\x55\x12\x20",
    DAG_CBOR: b"\x01\x71\x12\x20",
    CAR: b"\x01\x82\x04\x12\x20",
}
_FAST_HEADS: Final = frozenset(head for head in _SHA2_256_HEADS.values() if len(head) == 4)
_VARINT_BYTES: Final = 9


def from_bytes(data: bytes) -> CID:
    """Return the CID whose binary form is `data`: `CID(data)` for codecs, at half its price."""
    if len(data) != 36 or data[:4] not in _FAST_HEADS:
        _check(data)
    cid = _new(CID)
    _fill(cid, data)
    return cid


def split(data: bytes) -> tuple[CID, int]:
    """Return the CID that `data` starts with, and where it ends."""
    end = 36 if data[:4] in _FAST_HEADS else _end(data)
    return from_bytes(data[:end]), end


def write_varint(number: int) -> bytes:
    """Return `number` (0 to 2**63 - 1) as an unsigned varint."""
    if type(number) is not int or not 0 <= number < 1 << 7 * _VARINT_BYTES:
        raise MalformedBlock(f"not an unsigned varint: {number!r:.40}")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Return the unsigned varint at `start` and where it ends."""
    byte = data[start] if start < len(data) else 0x80
    if byte < 0x80:
        return byte, start + 1
    number = 0
    for index, byte in enumerate(data[start : start + _VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if not byte:
                raise MalformedBlock("not a CID: a varint is longer than it has to be")
            return number, start + index + 1
    raise MalformedBlock("not a CID: a varint is cut short or longer than 9 bytes")


def _check(data: bytes) -> None:
    if len(data) > LIMITS.cid_bytes:
        raise LimitExceeded(f"a CID of {len(data)} bytes; the limit is {LIMITS.cid_bytes}")
    end = _end(data)
    if end != len(data):
        raise MalformedBlock(f"not a CID: {len(data)} bytes where its digest ends at {end}")


def _end(data: bytes) -> int:
    """Return where the CID that `data` starts with has to end."""
    if data[:2] == b"\x12\x20":
        raise MalformedBlock("not a CIDv1: this is a CIDv0, which is not taken")
    version, end = _varint(data, 0)
    if version != 1:
        raise MalformedBlock(f"not a CIDv1: its version is {version}")
    _codec, end = _varint(data, end)
    hash_code, end = _varint(data, end)
    size, end = _varint(data, end)
    if size > LIMITS.digest_bytes:
        raise LimitExceeded(f"a digest of {size} bytes; the limit is {LIMITS.digest_bytes}")
    if hash_code == SHA2_256 and size != 32:
        raise MalformedBlock(f"not a CID: a sha2-256 of {size} bytes")
    return end + size


def _sha2_256_head(codec: int) -> bytes:
    return b"\x01" + write_varint(codec) + b"\x12\x20"


# Text. Base32 is written and read here: `base64.b32encode` costs four times as much.

_ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz234567"
_LETTERS: Final = _ALPHABET + bytes(224)
_DIGITS: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[_ALPHABET.index(byte)] if byte in _ALPHABET else 0x7E
    for byte in range(256)
)  # what `int(..., 32)` reads; every other byte becomes `~`, which it refuses
_TEXT_LENGTH: Final = 2 * LIMITS.cid_bytes + 1  # base16, the longest form
_OTHER_BASES: Final = {"z": "base58btc", "k": "base36", "f": "base16", "u": "base64url"}


def _spread(bits: int, gap: int) -> tuple[int, int]:
    """Masks that pick the odd and the even runs of `bits` bits in lanes of twice `gap` bits."""
    low = sum((1 << bits) - 1 << lane for lane in range(0, 512, 2 * gap))
    return low << bits, low


_H80, _L80 = _spread(80, 128)
_H40, _L40 = _spread(40, 64)
_H20, _L20 = _spread(20, 32)
_H10, _L10 = _spread(10, 16)
_H5, _L5 = _spread(5, 8)


def _text36(data: bytes) -> str:
    """Base32 of 36 bytes: spread 58 groups of 5 bits over 58 bytes by halving, then translate."""
    n = int.from_bytes(data, "big") << 2
    n = (n >> 160) << 256 | n & (1 << 160) - 1
    n = (n & _H80) << 48 | n & _L80
    n = (n & _H40) << 24 | n & _L40
    n = (n & _H20) << 12 | n & _L20
    n = (n & _H10) << 6 | n & _L10
    n = (n & _H5) << 3 | n & _L5
    return "b" + n.to_bytes(58, "big").translate(_LETTERS).decode()


def _text(data: bytes) -> str:
    return "b" + base64.b32encode(data).decode().lower().rstrip("=")


def _from_text(text: str) -> CID:
    if len(text) > _TEXT_LENGTH:
        raise LimitExceeded(f"CID text of {len(text)} letters; the limit is {_TEXT_LENGTH}")
    if text[:1] == "b":
        return from_bytes(_unbase32(text))
    if text[:1] in _OTHER_BASES:
        return from_bytes(_unbase(text))
    raise MalformedBlock(f"not the text of a CIDv1 in a known base: {text!r:.60}")


def _unbase32(text: str) -> bytes:
    size, spare = divmod((len(text) - 1) * 5, 8)
    try:
        number = int(text[1:].encode("ascii").translate(_DIGITS), 32)
    except ValueError:
        raise MalformedBlock(f"not lower-case base32: {text!r:.60}") from None
    if spare > 4 or number & (1 << spare) - 1:
        raise MalformedBlock(f"not canonical base32 (stray bits at the end): {text!r:.60}")
    return (number >> spare).to_bytes(size, "big")


def _unbase(text: str) -> bytes:
    """Decode the bases that few use, and require that they encode back to the same text."""
    try:
        if text[0] == "f":
            data = bytes.fromhex(text[1:])
            again = "f" + data.hex()
        elif text[0] == "u":
            data = base64.urlsafe_b64decode(text[1:] + "=" * (-(len(text) - 1) % 4))
            again = "u" + base64.urlsafe_b64encode(data).decode().rstrip("=")
        else:
            from multiformats import multibase

            data = multibase.decode(text)
            again = multibase.encode(data, _OTHER_BASES[text[0]])
    except (ValueError, KeyError, binascii.Error) as error:
        name = _OTHER_BASES[text[0]]
        raise MalformedBlock(f"not {name}: {text!r:.60}") from error
    if again != text:
        raise MalformedBlock(f"not canonical {_OTHER_BASES[text[0]]}: {text!r:.60}")
    return data


def _from_foreign(value: object) -> CID:
    library = sys.modules.get("multiformats")
    if library is not None and isinstance(value, library.CID):
        return from_bytes(bytes(value))
    raise MalformedBlock(f"not a CID, its text or its bytes: {type(value).__name__}")
