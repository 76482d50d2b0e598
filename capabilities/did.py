"""The names of principals: DIDs as text and in ucanto's binary form, weak keys refused.

One principal has one text and one binary form here, so DIDs compare by their text:

- `did:key`: base58btc of the key's multicodec and bytes, and nothing behind it. Ed25519, P-256,
  P-384, P-521, secp256k1 and RSA keys are checked; BLS12-381 keys are carried as they are.
- `did:web`: a lower-case host, `%3A` and a port, path segments behind colons.
- `did:mailto`: domain and local part of an account that has no key of its own.
- any other method whose text is a DID: carried, never resolved.

A URL on top of a DID (path, query, fragment) is no DID. Sources: w3.org/TR/did-core section 3.1,
the methods' own specifications (w3c-ccg.github.io/did-method-key and did-method-web), and
github.com/multiformats/multicodec for the codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from string import ascii_letters, digits
from typing import Final, NamedTuple, NoReturn, final

from nacl.bindings import crypto_core_ed25519_is_valid_point

from stmflow.errors import InvalidDID, LimitExceeded, WeakKey
from stmflow.limits import LIMITS

RSA_BITS_MIN: Final = 2_048
RSA_BITS_MAX: Final = 8_192

# The multicodecs of public keys, as the varints with which `DID.raw` starts.
ED25519: Final = b"\xed\x01"
SECP256K1: Final = b"\xe7\x01"
P256: Final = b"\x80\x24"
P384: Final = b"\x81\x24"
P521: Final = b"\x82\x24"
RSA: Final = b"\x85\x24"
BLS_G1: Final = b"\xea\x01"
BLS_G2: Final = b"\xeb\x01"
_TEXTUAL: Final = b"\x9d\x1a"  # 0x0d1d: what follows is the text without `did:`

_KEY: Final = "did:key:z"
_KEY_BYTES: Final = RSA_BITS_MAX // 8 + 22  # the longest key that is taken, with its code
_KEY_TEXT: Final = len(_KEY) + _KEY_BYTES * 137 // 100
_CACHED: Final = 4_096


@final
class DID:
    """One DID. Equal and hashed by its text; never equal to plain text.

    `DID.parse` reads the text, `DID.decode` the binary form. Both raise `InvalidDID`; `WeakKey` for
    a key that proves nothing; `LimitExceeded` past `LIMITS.did_bytes` (for a `did:key`: past the
    length of the longest RSA key).
    """

    __slots__ = ("method", "raw", "text")

    text: str
    raw: bytes
    """The binary form: code and key of a `did:key`, else 0x0d1d and the text without `did:`."""
    method: str

    def __new__(cls, text: str) -> DID:
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str | DID) -> DID:
        """Return the DID that `text` is."""
        if type(text) is str:
            return _parse(text)
        if type(text) is DID:
            return text
        raise InvalidDID(f"a DID is text, not {type(text).__name__}")

    @classmethod
    def decode(cls, raw: bytes) -> DID:
        """Return the DID whose binary form is `raw`."""
        if type(raw) is not bytes:
            raise InvalidDID(f"a binary DID is bytes, not {type(raw).__name__}")
        return _decode(raw)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"DID({self.text!r})"

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is DID and self.text == other.text)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a DID cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a DID cannot be changed")

    def __reduce__(self) -> tuple[type[DID], tuple[str]]:
        return DID, (self.text,)


_new = object.__new__
_set_text = vars(DID)["text"].__set__  # the slots; `__setattr__` is shut
_set_raw = vars(DID)["raw"].__set__
_set_method = vars(DID)["method"].__set__


@lru_cache(_CACHED)
def _parse(text: str) -> DID:
    if text.startswith("did:key:"):
        method, raw = "key", _key(text)
    else:
        method, raw = _other(text)
    did = _new(DID)
    _set_text(did, text)
    _set_raw(did, raw)
    _set_method(did, method)
    return did


@lru_cache(_CACHED)
def _decode(raw: bytes) -> DID:
    if raw[:2] == _TEXTUAL:
        _bound("DID", len(raw) + 2, LIMITS.did_bytes)
        text = "did:" + raw[2:].decode("latin-1")  # a byte past ASCII is refused below
    else:
        _bound("public key", len(raw), _KEY_BYTES)
        text = _KEY + base58(raw)
    did = _parse(text)
    if did.raw != raw:
        raise InvalidDID(f"not the binary form of {text:.80}")
    return did


def _bound(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise LimitExceeded(f"a {what} of {size} bytes; the limit is {limit}")


# Other methods than `key`.

_UNRESERVED = r"[A-Za-z0-9._-]"
_PERCENT = r"%[0-9A-F]{2}"
_DID: Final = re.compile(
    rf"did:([a-z0-9]+):((?:{_UNRESERVED}|:|%[0-9A-Fa-f]{{2}})*(?:{_UNRESERVED}|%[0-9A-Fa-f]{{2}}))"
)
_SEGMENT = rf"(?!\.\.?(?:$|:))(?:{_UNRESERVED}|{_PERCENT})+"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"(?=[a-z0-9.-]{{1,253}}(?:$|[:%]))(?:{_LABEL}\.)*(?=[a-z0-9-]*[a-z]){_LABEL}"
_WEB: Final = re.compile(rf"{_HOST}(?:%3A[1-9][0-9]{{0,4}})?(?::{_SEGMENT})*")
_PLAIN: Final = frozenset(ascii_letters + digits + "-._")
_ESCAPED: Final = re.compile(r"%(..)")
# What JavaScript's encodeURIComponent leaves, which is more than other DIDs may hold.
_MAILTO: Final = re.compile(
    rf"did:mailto:(?:{_UNRESERVED}|{_PERCENT})+:(?:{_UNRESERVED}|[!~*'()]|{_PERCENT})+"
)


def _other(text: str) -> tuple[str, bytes]:
    _bound("DID", len(text), LIMITS.did_bytes)
    if text.startswith("did:mailto:"):
        method, good = "mailto", _MAILTO.fullmatch(text) is not None
    elif match := _DID.fullmatch(text):
        method, good = match[1], match[1] != "web" or _is_web(match[2])
    else:
        method, good = "", False
    if not good:
        raise InvalidDID(f"not a DID{f' of the method {method}' if method else ''}: {text!a:.80}")
    return method, _TEXTUAL + text[4:].encode()


def _is_web(name: str) -> bool:
    host, _, path = name.partition(":")
    port = host.partition("%3A")[2]
    if not _WEB.fullmatch(name) or int(port or 1) >= 1 << 16:
        return False
    return not any(_never_escaped(int(code, 16)) for code in _ESCAPED.findall(path))


def _never_escaped(byte: int) -> bool:
    """What needs no escape has one form without; a slash or control would make another path."""
    return byte <= 0x20 or byte == 0x7F or chr(byte) in "/\\" or chr(byte) in _PLAIN


# did:key.


def _key(text: str) -> bytes:
    _bound("DID", len(text), _KEY_TEXT)
    if not text.startswith(_KEY):
        raise InvalidDID(f"a did:key is base58btc (z...): {text!a:.80}")
    raw = unbase58(text[len(_KEY) :])
    kind = _KINDS.get(raw[:2])
    if kind is None:
        raise InvalidDID(f"a did:key of an unknown kind: {text:.80}")
    if kind.size is not None and len(raw) != kind.size + 2:
        raise InvalidDID(f"{kind.name} key of {len(raw) - 2} bytes, not {kind.size}: {text:.80}")
    if kind.fault and (fault := kind.fault(raw[2:])):
        raise WeakKey(f"{kind.name} key {fault}: {text:.80}")
    return raw


class _Kind(NamedTuple):
    """A kind of public key: what is the matter with one is text, or None."""

    name: str
    size: int | None
    fault: Callable[[bytes], str | None] | None = None


def _ed25519_fault(key: bytes) -> str | None:
    """Only what `scalar * base point` can be is a key; libsodium knows (44 us)."""
    if crypto_core_ed25519_is_valid_point(key):
        return None
    return "of small order, off the curve or not in its one form"


def _curve(p: int, a: int, b: int) -> Callable[[bytes], str | None]:
    """Check compressed points of y**2 = x**3 + a*x + b modulo p, a curve of prime order."""

    def fault(key: bytes) -> str | None:
        if key[0] not in (2, 3):
            return "that is not a compressed point"
        x = int.from_bytes(key[1:], "big")
        if x >= p or pow(x * x * x + a * x + b, (p - 1) // 2, p) != 1:
            return "that is no point of the curve"
        return None

    return fault


def _rsa_fault(der: bytes) -> str | None:
    modulus, exponent = rsa_numbers(der)
    bits = modulus.bit_length()
    if not RSA_BITS_MIN <= bits <= RSA_BITS_MAX:
        return f"of {bits} bits, not {RSA_BITS_MIN} to {RSA_BITS_MAX}"
    if not modulus & 1:
        return "with an even modulus"
    if exponent < 3 or not exponent & 1 or exponent >= 1 << 64:
        return "whose exponent is even, 1 or longer than 64 bits"
    return None


def rsa_numbers(der: bytes) -> tuple[int, int]:
    """Return modulus and exponent of a PKCS#1 RSAPublicKey in DER. Raises `InvalidDID`."""
    body, rest = _der(der, 0x30)
    modulus, tail = _der(body, 0x02)
    exponent, end = _der(tail, 0x02)
    numbers = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    if rest or end or _rsa_der(*numbers) != der:
        raise InvalidDID("an RSA key that is not the DER of PKCS#1")
    return numbers


def _der(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the element that `data` starts with, and what follows."""
    if data[:1] != bytes((tag,)) or len(data) < 2:
        raise InvalidDID("an RSA key that is not the DER of PKCS#1")
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    return data[start : start + size], data[start + size :]


def _rsa_der(modulus: int, exponent: int) -> bytes:
    """The one DER of these numbers: what `_der` reads too leniently is found by comparing."""
    integers = b"".join(
        _element(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
        for number in (modulus, exponent)
    )
    return _element(0x30, integers)


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


_KINDS: Final = {
    ED25519: _Kind("Ed25519", 32, _ed25519_fault),
    P256: _Kind(
        "P-256",
        33,
        _curve(
            p=2**256 - 2**224 + 2**192 + 2**96 - 1,
            a=-3,
            b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        ),
    ),
    P384: _Kind(
        "P-384",
        49,
        _curve(
            p=2**384 - 2**128 - 2**96 + 2**32 - 1,
            a=-3,
            b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        ),
    ),
    P521: _Kind(
        "P-521",
        67,
        _curve(
            p=2**521 - 1,
            a=-3,
            b=0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
        ),
    ),
    SECP256K1: _Kind("secp256k1", 33, _curve(p=2**256 - 2**32 - 977, a=0, b=7)),
    RSA: _Kind("RSA", None, _rsa_fault),
    BLS_G1: _Kind("BLS12-381 G1", 48),
    BLS_G2: _Kind("BLS12-381 G2", 96),
}


# Base58btc, for what `did:key` needs: quadratic, so only for bounded sizes.

_LETTERS: Final = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = bytes(max(_LETTERS.find(byte), 0) for byte in range(256))


def base58(data: bytes) -> str:
    """Return `data` in base58btc, without a multibase prefix."""
    number = int.from_bytes(data, "big")
    letters = bytearray()
    while number:
        number, digit = divmod(number, 58)
        letters.append(_LETTERS[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + letters[::-1].decode()


def unbase58(text: str) -> bytes:
    """Return the bytes whose base58btc is `text`; each has one text. Raises `InvalidDID`."""
    letters = text.encode(errors="replace")
    if letters.strip(_LETTERS):
        raise InvalidDID(f"not base58btc: {text!a:.80}")
    number = 0
    for digit in letters.translate(_DIGITS):
        number = number * 58 + digit
    zeros = len(letters) - len(letters.lstrip(b"1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
