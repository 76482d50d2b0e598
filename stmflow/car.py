"""CAR v1: blocks in one file, read and written as a stream, every block hashed on the way.

    varint length | DAG-CBOR {"roots": [CID...], "version": 1}
    varint length | CID | data          and so on until the end of the stream

Memory is bounded by one block, however long the file. A reader is told nothing that the hash of a
block does not vouch for, but two things: the roots, which nobody signs, and the codec in a CID,
which says how to read the data and is no part of the hash.

Source: ipld.io/specs/transport/car/carv1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, final

from stmflow import codec
from stmflow.cid import CID, RAW, split, write_varint
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS


class Source(Protocol):
    """What is read from: any binary file. Fewer bytes than asked for is no end; none is."""

    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    """What is written to: any binary file that takes all it is given (a buffered one)."""

    def write(self, data: bytes, /) -> object: ...


def read(
    stream: Source,
    *,
    verify: bool = True,
    block_bytes: int = LIMITS.block_bytes,
    max_blocks: int | None = None,
) -> Car:
    """Read the header of a CAR and return its roots and, when iterated, its blocks.

    `block_bytes` bounds raw blocks, such as parts of a file; all others keep the bound of
    `LIMITS`. `verify=False` leaves the hashing to the caller. Raises, here and while iterating,
    `MalformedBlock`, `LimitExceeded` (before anything of that length is read) and `HashMismatch`
    (also for every block under a hash other than sha2-256).
    """
    return Car(stream, _read_header(stream), verify, block_bytes, max_blocks)


def write(
    stream: Sink,
    roots: Iterable[CID],
    blocks: Iterable[tuple[CID, bytes]],
    *,
    block_bytes: int = LIMITS.block_bytes,
) -> None:
    """Write a whole CAR. Raises what `Writer` raises."""
    writer = Writer(stream, roots, block_bytes=block_bytes)
    for cid, data in blocks:
        writer.write(cid, data)


@final
class Car:
    """The roots of a CAR, and its blocks `(CID, bytes)` in the order of the file, once."""

    __slots__ = ("_block_bytes", "_max_blocks", "_stream", "_verify", "roots")

    def __init__(
        self,
        stream: Source,
        roots: tuple[CID, ...],
        verify: bool,
        block_bytes: int,
        max_blocks: int | None,
    ) -> None:
        self.roots = roots
        self._stream = stream
        self._verify = verify
        self._block_bytes = block_bytes
        self._max_blocks = max_blocks

    @property
    def root(self) -> CID:
        """The only root. Raises `MalformedBlock` where there is none or more than one."""
        if len(self.roots) != 1:
            raise MalformedBlock(f"a CAR with {len(self.roots)} roots, where one is asked for")
        return self.roots[0]

    def __iter__(self) -> Iterator[tuple[CID, bytes]]:
        longest = LIMITS.cid_bytes + max(self._block_bytes, LIMITS.block_bytes)
        count = 0
        while (size := _read_varint(self._stream)) is not None:
            count += 1
            if self._max_blocks is not None and count > self._max_blocks:
                raise LimitExceeded(f"more than {self._max_blocks} blocks in a CAR")
            section = _read_section(self._stream, size, longest)
            cid, end = split(section)
            data = section[end:]
            _check_size(cid, data, self._block_bytes)
            if self._verify:
                cid.verify(data)
            yield cid, data


@final
class Writer:
    """Writes a CAR: the header at once, then block after block.

    Raises `HashMismatch` for data that is not what its CID names and `LimitExceeded` for a block
    that `read` would refuse under the same `block_bytes`; nothing of that block is written.
    """

    __slots__ = ("_block_bytes", "_stream")

    def __init__(
        self, stream: Sink, roots: Iterable[CID], *, block_bytes: int = LIMITS.block_bytes
    ) -> None:
        self._stream = stream
        self._block_bytes = block_bytes
        header = codec.encode({"roots": [_root(one) for one in roots], "version": 1})
        _check_header(len(header))
        stream.write(write_varint(len(header)) + header)

    def write(self, cid: CID, data: bytes) -> None:
        """Append one block."""
        _check_size(cid, data, self._block_bytes)
        cid.verify(data)
        self._stream.write(write_varint(len(cid.bytes) + len(data)) + cid.bytes + data)


def _read_header(stream: Source) -> tuple[CID, ...]:
    size = _read_varint(stream)
    if size is None:
        raise MalformedBlock("not a CAR: no bytes at all")
    _check_header(size)
    header = codec.decode(_read_section(stream, size, size))
    if not isinstance(header, dict) or header.keys() != {"roots", "version"}:
        raise MalformedBlock("not a CAR: its header is not a map of roots and version")
    version, roots = header["version"], header["roots"]
    if type(version) is not int or version != 1:
        raise MalformedBlock(f"not a CAR v1: its version is {version!a:.40}")
    if not isinstance(roots, list):
        raise MalformedBlock("not a CAR: its roots are not a list")
    return tuple([_root(one) for one in roots])


def _root(one: object) -> CID:
    if not isinstance(one, CID):
        raise MalformedBlock("not a CAR: a root that is not a link")
    return one


def _check_header(size: int) -> None:
    if size > LIMITS.car_header_bytes:
        limit = LIMITS.car_header_bytes
        raise LimitExceeded(f"a CAR header of {size} bytes; the limit is {limit}")


def _check_size(cid: CID, data: bytes, block_bytes: int) -> None:
    limit = block_bytes if cid.codec == RAW else LIMITS.block_bytes
    if len(data) > limit:
        raise LimitExceeded(f"{cid}: a block of {len(data)} bytes; the limit is {limit}")


def _read_varint(stream: Source) -> int | None:
    """Return the next length, or `None` at the end of the stream."""
    number = shift = 0
    while byte := stream.read(1):
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            if shift and not byte[0]:
                raise MalformedBlock("a CAR length that is longer than it has to be")
            return number
        shift += 7
        if shift == 63:
            raise MalformedBlock("a CAR length of more than 9 bytes")
    if shift:
        raise MalformedBlock("a CAR that is cut short in a length")
    return None


def _read_section(stream: Source, size: int, longest: int) -> bytes:
    if size == 0:
        raise MalformedBlock("an empty entry in a CAR")
    if size > longest:
        raise LimitExceeded(f"{size} bytes in one entry of a CAR; the limit is {longest}")
    parts: list[bytes] = []
    missing = size
    while missing:
        part = stream.read(missing)
        if not part:
            raise MalformedBlock(f"a CAR that is cut short: {size - missing} bytes of {size}")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
