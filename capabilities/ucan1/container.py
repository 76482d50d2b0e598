"""Containers: several tokens in one string of bytes, to travel together.

    header byte, then  {"ctn-v1": [token, ...]}  in CBOR, then gzip, then base64, as the byte says

    @ raw        B base64        C base64url without padding
    M raw+gzip   O base64+gzip   P base64url+gzip

It carries no CIDs: the reader hashes each token. Writers sort the tokens bytewise; a reader takes
any order, since the published vectors are not sorted, but no token twice.

Source: github.com/ucan-wg/container.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from stmflow.cid import CID
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

Form: TypeAlias = Literal["raw", "base64", "base64url"]
_PLAIN: Final[dict[Form, int]] = {"raw": 0x40, "base64": 0x42, "base64url": 0x43}
_GZIPPED: Final[dict[Form, int]] = {"raw": 0x4D, "base64": 0x4F, "base64url": 0x50}
_HEADERS: Final = {
    byte: (form, gzipped)
    for gzipped, forms in ((False, _PLAIN), (True, _GZIPPED))
    for form, byte in forms.items()
}
_START: Final = b"\xa1\x66ctn-v1"
_GZIP: Final = 31  # zlib's number for a gzip header


def encode(tokens: Iterable[bytes], *, form: Form = "raw", gzip: bool = False) -> bytes:
    """Return a container of these tokens, sorted, none twice; the same for the same tokens.

    Raises `LimitExceeded` for what `decode` would refuse.
    """
    ordered = sorted(set(tokens))
    _check_count(len(ordered))
    parts = [_START, _head(0x80, len(ordered))]
    for token in ordered:
        _check_token(len(token))
        parts += _head(0x40, len(token)), token
    data = b"".join(parts)
    _check_size(len(data))
    if gzip:
        packer = zlib.compressobj(wbits=_GZIP)
        data = packer.compress(data) + packer.flush()
    if form == "base64":
        data = b64encode(data)
    elif form == "base64url":
        data = urlsafe_b64encode(data).rstrip(b"=")
    data = bytes(((_GZIPPED if gzip else _PLAIN)[form],)) + data
    _check_size(len(data))
    return data


def decode(data: bytes) -> dict[CID, bytes]:
    """Return the tokens of a container by their CIDs, in its order. They are not looked into.

    Raises `MalformedBlock`, and `LimitExceeded` for more than `LIMITS.request_bytes` before or
    after decompression, `LIMITS.request_blocks` tokens or `LIMITS.block_bytes` in one.
    """
    _check_size(len(data))
    if data[:1] == b"" or data[0] not in _HEADERS:
        raise MalformedBlock(f"not a container: it starts with {data[:1].hex() or 'nothing'}")
    form, gzipped = _HEADERS[data[0]]
    content = data[1:] if form == "raw" else _unbase64(data[1:], form)
    return _tokens(_inflate(content) if gzipped else content)


def _unbase64(text: bytes, form: Form) -> bytes:
    try:
        if form == "base64":
            data = b64decode(text, validate=True)
            again = b64encode(data)
        else:
            data = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
            again = urlsafe_b64encode(data).rstrip(b"=")
    except (ValueError, binascii.Error):
        raise MalformedBlock(f"not a container: not {form}") from None
    if again != text:
        raise MalformedBlock(f"not a container: not canonical {form}")
    return data


def _inflate(data: bytes) -> bytes:
    """Decompress no more than may be: memory is bounded whatever the compressed bytes say."""
    unpacker = zlib.decompressobj(wbits=_GZIP)
    try:
        content = unpacker.decompress(data, LIMITS.request_bytes + 1)
    except zlib.error as error:
        raise MalformedBlock(f"not a container: not gzip ({error})") from None
    _check_size(len(content))
    if not unpacker.eof or unpacker.unused_data:
        raise MalformedBlock("not a container: its gzip is cut short, or goes on after its end")
    return content


def _tokens(data: bytes) -> dict[CID, bytes]:
    """Read the CBOR: a container may be longer than a block, so `codec` is not for it."""
    if not data.startswith(_START):
        raise MalformedBlock("not a container: no map of ctn-v1")
    count, position = _argument(data, len(_START), 0x80)
    _check_count(count)
    found: dict[CID, bytes] = {}
    for _ in range(count):
        size, position = _argument(data, position, 0x40)
        _check_token(size)
        token = data[position : position + size]
        position += size
        cid = CID.of(token)
        if cid in found:
            raise MalformedBlock(f"a container with one token twice: {cid}")
        found[cid] = token
    if position != len(data):
        raise MalformedBlock("a container that is cut short, or goes on after its end")
    return found


def _argument(data: bytes, position: int, major: int) -> tuple[int, int]:
    """Return the count or length of the item at `position`, and where its head ends."""
    low = (data[position] if position < len(data) else 0xFF) - major
    if not 0 <= low < 27:
        raise MalformedBlock("a container that is not a list of byte strings")
    size = 0 if low < 24 else 1 << low - 24
    end = position + 1 + size
    argument = int.from_bytes(data[position + 1 : end], "big") if size else low
    if data[position:end] != _head(major, argument):
        raise MalformedBlock("a container whose heads are longer than they have to be, or cut off")
    return argument, end


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major | argument,))
    size = 1 if argument < 1 << 8 else 2 if argument < 1 << 16 else 4
    return bytes((major | 24 + size.bit_length() - 1,)) + argument.to_bytes(size, "big")


def _check_size(size: int) -> None:
    if size > LIMITS.request_bytes:
        raise LimitExceeded(f"a container of more than {LIMITS.request_bytes} bytes")


def _check_count(count: int) -> None:
    if count > LIMITS.request_blocks:
        raise LimitExceeded(f"{count} tokens in a container; the limit is {LIMITS.request_blocks}")


def _check_token(size: int) -> None:
    if size > LIMITS.block_bytes:
        raise LimitExceeded(f"a token of {size} bytes; the limit is {LIMITS.block_bytes}")
