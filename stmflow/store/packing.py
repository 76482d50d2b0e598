"""How blocks lie in one appended row: a count, their lengths, then the blocks end to end."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from stmflow.errors import Corrupt


def pack(blocks: Sequence[bytes]) -> bytes:
    """One byte string that holds them all."""
    count = len(blocks)
    return b"".join([struct.pack(f"<{count + 1}I", count, *map(len, blocks)), *blocks])


def unpack(data: bytes) -> list[bytes]:
    """The inverse of `pack`. Raises Corrupt."""
    try:
        (count,) = struct.unpack_from("<I", data)
        lengths = struct.unpack_from(f"<{count}I", data, 4)
    except struct.error:
        raise Corrupt("a packed row is cut short") from None
    at = 4 * (count + 1)
    if at + sum(lengths) != len(data):
        raise Corrupt("a packed row is not as long as it says")
    blocks = []
    for length in lengths:
        blocks.append(data[at : at + length])
        at += length
    return blocks


def pack_rows(rows: Sequence[int]) -> bytes:
    """Row numbers, 8 bytes each."""
    return struct.pack(f"<{len(rows)}q", *rows)


def unpack_rows(data: bytes) -> tuple[int, ...]:
    """The inverse of `pack_rows`."""
    return struct.unpack(f"<{len(data) // 8}q", data)
