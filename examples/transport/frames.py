"""Frames: what two sides say to each other over a stream of bytes that knows no messages.

    length of the rest (4 bytes) · CRC-32 of the rest (4 bytes) · header, JSON on one line · body

A stream gives what it has, in pieces of any size, and may end in the middle; so a frame is read to
its length, and believed only if its checksum is right.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any, Final, NoReturn

import anyio
from anyio.abc import ByteReceiveStream
from anyio.streams.buffered import BufferedByteReceiveStream

from examples.transport.model import BODY_BYTES

FRAME_BYTES: Final = BODY_BYTES + 1024
"""The longest frame, without its first eight bytes."""

_HEAD: Final = struct.Struct(">II")


class BadFrame(Exception):
    """Bytes that are no frame: nothing that comes after them can be trusted."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A question or an answer. `key` and `attempt` say of what; `after_ms`: how long to wait."""

    what: str
    key: str
    attempt: int
    body: bytes = b""
    token: str = ""
    after_ms: int = 0


def pack(frame: Frame) -> bytes:
    """The bytes of a frame. Raises ValueError where it is too long."""
    header: dict[str, Any] = asdict(frame)
    body: bytes = header.pop("body")
    rest = json.dumps(header).encode() + b"\n" + body
    if len(rest) > FRAME_BYTES:
        raise ValueError(f"a frame of {len(rest)} bytes; at most {FRAME_BYTES}")
    return _HEAD.pack(len(rest), zlib.crc32(rest)) + rest


class Frames:
    """The frames of one stream, in order."""

    def __init__(self, stream: ByteReceiveStream) -> None:
        self._stream = BufferedByteReceiveStream(stream)

    async def next(self) -> Frame:
        """The next frame, however many pieces it comes in.

        Raises:
            BadFrame: too long, a wrong checksum, or no header of ours.
            anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError: the stream is over.
        """
        length, checksum = _HEAD.unpack(await self._stream.receive_exactly(_HEAD.size))
        if length > FRAME_BYTES:
            raise BadFrame(f"a frame of {length} bytes")
        rest = await self._stream.receive_exactly(length)
        if zlib.crc32(rest) != checksum:
            raise BadFrame("a wrong checksum")
        header, _, body = rest.partition(b"\n")
        try:
            return Frame(body=body, **json.loads(header))
        except (ValueError, TypeError) as error:
            _bad(error)


def _bad(error: Exception) -> NoReturn:
    raise BadFrame("no header") from error


BROKEN: Final = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""What a wire that is over raises, whoever ended it."""
