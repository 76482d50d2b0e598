"""The blocks that travel along: read from a CAR, written to one, children before their parents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from typing import Any

from stmflow import car, codec
from stmflow.cid import CID, DAG_CBOR
from stmflow.errors import CodecError, LimitExceeded, MalformedBlock
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
            stack += [(link, False) for link in reversed(links(cid, blocks[cid]))]
    return list(order)


def links(cid: CID, data: bytes) -> list[CID]:
    """Return the links of a block, in its order; none for what is not DAG-CBOR.

    A block that only claims to be travels along all the same: it may be what a receipt refuses.
    """
    if cid.codec != DAG_CBOR:
        return []
    try:
        return list(_links(codec.decode(data)))
    except CodecError:
        return []


def _links(value: Any) -> Iterator[CID]:
    """Those of a decoded value, whose depth the codec has bounded."""
    level = [value]
    while level:
        item = level.pop()
        if type(item) is CID:
            yield item
        elif type(item) is dict:
            level += reversed(item.values())
        elif type(item) is list:
            level += reversed(item)
