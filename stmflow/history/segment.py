"""A stretch of the log as an archive keeps it: a CAR of whole revisions, and its index. Pure.

    <CAR>      CAR v1: each revision with every block of its commit, in order of the log
    <index>    CAR v1: {v, car, size, places, prev, entries}, then the entries as one raw block

An object is named by the CID of its bytes, so it cannot be changed, only be missing. An entry is
the first 8 bytes of a block's digest, where its data begin in the CAR, and how long they are;
entries are sorted. `prev` names the index before: with the newest one, all are found.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stmflow import car, codec
from stmflow.cid import CAR, CID, RAW
from stmflow.errors import HashMismatch, MalformedBlock
from stmflow.history.revision import expect, read_revision, require
from stmflow.store import Logged, Packed

_ENTRY = struct.Struct(">8sII")


class Segment(NamedTuple):
    """Two objects to be written: the blocks, and what they are found by."""

    car_link: CID
    car_data: bytes
    index_link: CID
    index_data: bytes


class Found(NamedTuple):
    """Where a block may lie in a CAR."""

    start: int
    size: int


class Index(NamedTuple):
    """An index, read. `places`: of the first and the last revision in the log it came from."""

    car: CID
    size: int
    places: tuple[int, int]
    prev: CID | None
    entries: bytes

    def between(self, low: bytes, high: bytes) -> Iterator[Found]:
        """Blocks whose digest begins between these 8-byte bounds."""
        size = _ENTRY.size
        first, last = 0, len(self.entries) // size
        while first < last:
            middle = (first + last) // 2
            below = self.entries[middle * size : middle * size + 8] < low
            first, last = (middle + 1, last) if below else (first, middle)
        for at in range(first * size, len(self.entries), size):
            prefix, start, length = _ENTRY.unpack_from(self.entries, at)
            if prefix > high:
                return
            yield Found(start, length)


def segment(revisions: Sequence[Logged], prev: CID | None) -> Segment:
    """Both objects for these revisions, of which there is one at least."""
    stream = io.BytesIO()
    writer = car.Writer(stream, [revisions[-1].packed.cid])
    entries: dict[CID, bytes] = {}
    for _, packed in revisions:
        for block in (packed.revision, *packed.blocks):
            cid = CID.of(block)
            if cid not in entries:
                writer.write(cid, block)
                start = stream.tell() - len(block)
                entries[cid] = _ENTRY.pack(cid.digest[:8], start, len(block))
    blocks = stream.getvalue()
    link = CID.of(blocks, CAR)
    index = _index(link, len(blocks), revisions, prev, b"".join(sorted(entries.values())))
    return Segment(link, blocks, CID.of(index, CAR), index)


def _index(
    link: CID, size: int, revisions: Sequence[Logged], prev: CID | None, entries: bytes
) -> bytes:
    raw = CID.of(entries, RAW)
    root = codec.encode(
        {
            "v": 1,
            "car": link,
            "size": size,
            "places": [revisions[0].place, revisions[-1].place],
            "prev": prev,
            "entries": raw,
        }
    )
    stream = io.BytesIO()
    both = [(CID.of(root), root), (raw, entries)]
    car.write(stream, [CID.of(root)], both, block_bytes=len(entries))
    return stream.getvalue()


def read_index(link: CID, data: bytes) -> Index:
    """The index in an object. Raises HashMismatch, MalformedBlock."""
    _same(link, data)
    found = car.read(io.BytesIO(data), block_bytes=len(data))
    blocks = dict(found)
    try:
        plain: Any = codec.decode(blocks[found.root])
        require(plain["v"] == 1, "an index of version 1")
        first, last = plain["places"]
        prev = None if plain["prev"] is None else expect(plain["prev"], CID)
        entries = blocks[expect(plain["entries"], CID)]
        places = (expect(first, int), expect(last, int))
        made = Index(expect(plain["car"], CID), expect(plain["size"], int), places, prev, entries)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedBlock(f"{link} is no index of an archive: {error}") from None
    require(len(made.entries) % _ENTRY.size == 0, "an index of whole entries")
    return made


def check(written: Segment, blocks: bytes, index: bytes) -> None:
    """Whether what was read back is what was written: by the names of both objects, by every block
    of the CAR, and by looking each of them up. Raises HashMismatch, MalformedBlock."""
    _same(written.car_link, blocks)
    read = read_index(written.index_link, index)
    for cid, block in car.read(io.BytesIO(blocks)):
        prefix = cid.digest[:8]
        places = read.between(prefix, prefix)
        if not any(blocks[at.start : at.start + at.size] == block for at in places):
            raise MalformedBlock(f"the index {written.index_link} does not lead to block {cid}")


def _same(link: CID, data: bytes) -> None:
    if CID.of(data, CAR) != link:
        raise HashMismatch(f"an object of {len(data)} bytes is not {link}")


def named_blocks(cid: CID, revision: bytes) -> list[CID]:
    """Every other block of the commit that wrote this revision, each once."""
    lines = read_revision(cid, revision).writes
    return list(dict.fromkeys(block for line in lines for block in line.blocks()))


def before(packed: Packed, job: CID) -> CID | None:
    """The job's revision before this one. Raises NotFound where it does not write the job."""
    return read_revision(packed.cid, packed.revision).line(job).prev


__all__ = [
    "Found",
    "Index",
    "Segment",
    "before",
    "check",
    "named_blocks",
    "read_index",
    "segment",
]
