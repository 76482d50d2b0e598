"""What links and sizes prove: an object's key, what a server stored, bytes on their way."""

from __future__ import annotations

import binascii
from base64 import b32encode, b64decode, b64encode
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Any, Final, NoReturn, TypeAlias

from scheduler.retry import Failure, Retry
from stmflow.cid import CID, SHA2_256

Source: TypeAlias = Callable[[CID], Awaitable[bytes | AsyncIterable[bytes]]]
"""Where `Put` finds the bytes of a link. What it gives is hashed before the last of it is sent."""

MAX_PUT_BYTES: Final = 5 * 1024**3
"""The most that S3 takes in one PUT."""


def object_key(link: CID, prefix: str = "") -> str:
    """The name of the object that holds the bytes of `link`: the multihash in base32."""
    return f"{prefix}b{b32encode(link.multihash).decode().lower().rstrip('=')}"


def sha256_of(link: CID) -> bytes:
    """The 32 bytes that the link's data hashes to. Raises `Failure("Unprovable")`."""
    if link.hash_code != SHA2_256:
        raise Failure("Unprovable", {"hash": link.hash_code})
    return link.digest


def check_size(size: int) -> None:
    """Raise `Failure("BadSize")` unless a single put can write that many bytes."""
    if not 0 <= size <= MAX_PUT_BYTES:
        raise Failure("BadSize", {"size": size, "max": MAX_PUT_BYTES})


def checksum_header(digest: bytes) -> str:
    """The digest as S3's headers carry it."""
    return b64encode(digest).decode()


def stored_sha256(head: Mapping[str, Any]) -> bytes | None:
    """The sha2-256 of the whole object, if the server stored one.

    That of an object that was put in parts is a hash of hashes ("COMPOSITE", with a `-` and the
    number of parts), and proves nothing here.
    """
    text = head.get("ChecksumSHA256")
    if not text or head.get("ChecksumType") == "COMPOSITE" or "-" in text:
        return None
    try:
        digest = b64decode(text, validate=True)
    except binascii.Error:
        return None
    return digest if len(digest) == 32 else None


def checked(data: bytes | AsyncIterable[bytes], size: int, digest: bytes) -> bytes | CheckedStream:
    """The same data, as a body to put. Raises `Failure("Corrupt")` where it can tell at once."""
    if not isinstance(data, bytes):
        return CheckedStream(data, size, digest)
    if len(data) != size or sha256(data).digest() != digest:
        raise _corrupt(len(data))
    return data


class CheckedStream:
    """A body that is hashed on its way: wrong bytes are never sent to their end.

    The client takes it for a file because it has a `read`, and then iterates over it. What goes
    wrong inside reaches the caller as a lost connection; `error` keeps what it was.
    """

    def __init__(self, chunks: AsyncIterable[bytes], size: int, digest: bytes) -> None:
        self._chunks = chunks
        self._size = size
        self._digest = digest
        self.error: Exception | None = None

    def read(self) -> NoReturn:
        raise TypeError("this body is iterated over")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._proved():
                yield chunk
        except Exception as error:
            self.error = error
            raise

    async def _proved(self) -> AsyncIterator[bytes]:
        """The chunks, each one late: the last leaves only when all of them are right."""
        size, hasher, held = 0, sha256(), b""
        async for chunk in self._chunks:
            size += len(chunk)
            hasher.update(chunk)
            if size > self._size:
                raise _corrupt(size)
            if held:
                yield held
            held = chunk
        if size != self._size or hasher.digest() != self._digest:
            raise _corrupt(size)
        yield held


def _corrupt(size: int) -> Failure:
    return Failure("Corrupt", {"size": size}, retry=Retry.CORRUPT)
