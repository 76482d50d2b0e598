"""Files of either family, in whichever form and spelling: what is in them, decoded and hashed."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import click

from capabilities.ucan1 import container, delegation, envelope, invocation
from capabilities.ucan1.delegation import Delegation
from capabilities.ucan1.invocation import Invocation
from capabilities.ucanto import archive, message, receipt, token
from capabilities.ucanto import blocks as car
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.token import Token
from stmflow import codec
from stmflow.cid import CID, DAG_CBOR
from stmflow.cli.exits import Unusable
from stmflow.cli.ucan_options import UCAN1, UCANTO
from stmflow.errors import CapabilityError, CodecError, LimitExceeded, MalformedBlock, NotFound
from stmflow.limits import LIMITS

AnyToken: TypeAlias = Token | Delegation | Invocation

_FILE_BYTES: Final = 2 * LIMITS.request_bytes + 4_096  # in hexadecimal, with a few line feeds
_IDENTITY_CAR: Final = b"\x01\x82\x04\x00"  # a CID that holds a CAR: how delegations go by letter


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds.

    `kind` is token, delegation, invocation, archive, container, message or receipt. `tokens` are
    those it is about, `receipts` by their CID, `blocks` everything that came along, each hashed.
    """

    kind: str
    family: str
    tokens: tuple[AnyToken, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    blocks: Mapping[CID, bytes] = field(default_factory=dict, repr=False)


def read_file(path: str) -> Found:
    """What is in the file; `-` is standard input. Raises `NotFound`, and `Unusable` by name."""
    data = _bytes(path)
    with blamed(path):
        return decode(data)


def _bytes(path: str) -> bytes:
    try:
        with click.open_file(path, "rb") as file:
            data: bytes = file.read(_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise click.UsageError("a file's name holds no NUL") from None
    with blamed(path):
        if len(data) > _FILE_BYTES:
            raise LimitExceeded(f"more than {_FILE_BYTES} bytes")
    return data


@contextmanager
def blamed(path: str) -> Iterator[None]:
    """What is wrong with the contents of a file is told with its name and the error's."""
    try:
        yield
    except (CodecError, CapabilityError) as error:
        raise Unusable(f"{path}: {type(error).__name__}: {error}") from error


def decode(data: bytes) -> Found:
    """What these bytes, or this text in base64 or hexadecimal, are.

    Nothing is verified but hashes. Raises a `CodecError` or `CapabilityError`.
    """
    for form in _forms(data):
        for start, read in _READERS:
            if start.match(form):
                return read(form)
    raise MalformedBlock("neither a token, archive, container, message nor receipt")


def _forms(data: bytes) -> Iterator[bytes]:
    """The bytes; or, where they are plain text, what it spells."""
    text = b"".join(data.removeprefix(b"\xef\xbb\xbf").split())
    if not re.fullmatch(rb"[!-~]+", text):
        yield data
        return
    yield text  # a container, which may be text itself
    if len(text) % 2 == 0 and re.fullmatch(rb"[0-9a-fA-F]+", text):
        yield bytes.fromhex(text.decode())
    if text[:1] == b"m" and (cid := _unbase64(text[1:])).startswith(_IDENTITY_CAR):
        yield _identity(cid[len(_IDENTITY_CAR) :])
    yield _unbase64(text)


def _unbase64(text: bytes) -> bytes:
    """The bytes that this is the base64 of, in either alphabet, padded or not; none for others."""
    plain = text.translate(_STANDARD).rstrip(b"=")
    try:
        return b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return b""


_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _identity(rest: bytes) -> bytes:
    """What stands behind a length as varint, if it is that long."""
    size = at = 0
    for at, byte in enumerate(rest[:4]):
        size |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            break
    held = rest[at + 1 :]
    if len(held) != size:
        raise MalformedBlock(f"a CID that says to hold {size} bytes and holds {len(held)}")
    return held


def _car(data: bytes) -> Found:
    root, blocks = car.read(data)
    value = codec.decode(blocks[root]) if root.codec == DAG_CBOR else None
    match value:
        case {message.VARIANT: _}:
            return _message(data)
        case {archive.VARIANT: _}:
            top, held = archive.decode(data)
            return Found("archive", UCANTO, (top,), blocks=held)
        case {"ocm": _, **_rest}:
            return Found("receipt", UCANTO, (), (receipt.decode(root, blocks[root]),), blocks)
        case {"att": _, **_rest}:
            return Found("archive", UCANTO, (token.decode(root, blocks[root]),), blocks=blocks)
    raise MalformedBlock(f"a CAR whose root {root} is nothing of ucanto")


def _message(data: bytes) -> Found:
    read = message.decode(data)
    tokens = [token.decode(cid, read.blocks[cid]) for cid in read.invocations]
    receipts = [
        receipt.decode(cid, read.blocks[cid])
        for cid in read.receipts.values()
        if cid in read.blocks
    ]
    for ran, cid in read.receipts.items():
        if cid in read.blocks and receipt.decode(cid, read.blocks[cid]).ran != ran:
            raise MalformedBlock(f"a message that reports the receipt {cid} for another's {ran}")
    return Found("message", UCANTO, tuple(tokens), tuple(receipts), read.blocks)


def _token(data: bytes) -> Found:
    read = token.decode(None, data)
    return Found("token", UCANTO, (read,), blocks={read.cid: data})


def _receipt(data: bytes) -> Found:
    read = receipt.decode(None, data)
    return Found("receipt", UCANTO, (), (read,), {read.cid: data})


def _envelope(data: bytes) -> Found:
    read = token1(data)
    kind = "invocation" if isinstance(read, Invocation) else "delegation"
    return Found(kind, UCAN1, (read,), blocks={read.cid: data})


def _container(data: bytes) -> Found:
    blocks = container.decode(data)
    return Found("container", UCAN1, tuple(map(token1, blocks.values())), blocks=blocks)


def token1(data: bytes) -> Delegation | Invocation:
    """The token of UCAN 1.0 that a block is."""
    if envelope.decode(data).kind == "inv":
        return invocation.decode(data)
    return delegation.decode(data)


# How each begins. It is then read as that, so that what is malformed is told by its own name.
_READERS: Final = (
    (re.compile(rb".{1,3}\xa2\x65roots", re.S), _car),
    (re.compile(rb"[\xa1-\xaf]\x61s"), _token),
    (re.compile(rb"[\xa1-\xa4]\x63ocm"), _receipt),
    (re.compile(rb"\x82[\x40-\x5b]"), _envelope),
    (re.compile(rb"@\xa1\x66ctn-v|M\x1f\x8b|[BC]oWZjdG4t|[OP]H4sI"), _container),
)
