"""The blocks that travel along: read from a CAR, written to one, children before their parents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Final

from stmflow import car
from stmflow.cid import CID, DAG_CBOR
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS


def read(
    data: bytes,
    *,
    max_bytes: int = LIMITS.request_bytes,
    max_blocks: int = LIMITS.request_blocks,
) -> tuple[CID, dict[CID, bytes]]:
    """Return the one root of a CAR and its blocks, every one hashed.

    Raises `MalformedBlock` (also where the root's block is not there), `LimitExceeded` or
    `HashMismatch`.
    """
    if len(data) > max_bytes:
        raise LimitExceeded(f"a message of {len(data)} bytes; the limit is {max_bytes}")
    file = car.read(BytesIO(data), max_blocks=max_blocks)
    blocks = dict(file)
    if file.root not in blocks:
        raise MalformedBlock(f"a CAR without the block of its root {file.root}")
    return file.root, blocks


def write(root: CID, blocks: Mapping[CID, bytes]) -> bytes:
    """Return the CAR of these blocks, each before those that link to it, the root last."""
    out = BytesIO()
    ordered = [cid for cid in children_first((*blocks, root), blocks) if cid != root]
    car.write(out, (root,), ((cid, blocks[cid]) for cid in (*ordered, root)))
    return out.getvalue()


def children_first(roots: Iterable[CID], blocks: Mapping[CID, bytes]) -> list[CID]:
    """Return the blocks that hang on `roots`, these included, each after all that it links to.

    Links to blocks that are not there are left out.
    """
    names = {cid.bytes: cid for cid in blocks}
    order: dict[CID, None] = {}
    opened: set[CID] = set()
    stack = [(cid, False) for cid in reversed([*roots])]
    while stack:
        cid, done = stack.pop()
        if done:
            order[cid] = None
        elif cid in blocks and cid not in opened:
            opened.add(cid)
            stack.append((cid, True))
            if cid.codec == DAG_CBOR:
                stack += [(one, False) for one in reversed(_linked(blocks[cid], names))]
    return list(order)


def _linked(data: bytes, names: Mapping[bytes, CID]) -> list[CID]:
    """The links of a block to these names, without decoding it: an order is all that is wanted,
    so bytes that only look like a link do no harm."""
    found = []
    for match in _LINK.finditer(data):
        start = match.end()
        cid = names.get(data[start : start + match[1][0] - 1])
        if cid is not None:
            found.append(cid)
    return found


_LINK: Final = re.compile(rb"\xd8\x2a\x58(.)\x00", re.DOTALL)
"""Tag 42 over bytes of up to 255, the first of which is 0."""
