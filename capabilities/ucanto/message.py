"""Agent messages: what a client posts, and what it gets back, as a CAR with one root.

    {"ucanto/message@7.0.0": {execute?: [link...], report?: {"<CID of invocation>": receipt}}}

Source: the package `@ucanto/core`, `message.js`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, final

from capabilities.ucanto import blocks as car
from stmflow import codec
from stmflow.cid import CID, DAG_CBOR
from stmflow.errors import MalformedBlock
from stmflow.limits import LIMITS

VARIANT: Final = "ucanto/message@7.0.0"
CONTENT_TYPE: Final = "application/vnd.ipld.car"
_FIELDS: Final = frozenset(("execute", "report"))


@final
@dataclass(frozen=True, slots=True)
class Message:
    """Invocations to run and receipts by the invocation that they answer, with all their blocks."""

    invocations: tuple[CID, ...] = ()
    receipts: Mapping[CID, CID] = field(default_factory=dict)
    blocks: Mapping[CID, bytes] = field(default_factory=dict, repr=False)


def decode(
    data: bytes,
    *,
    max_bytes: int = LIMITS.request_bytes,
    max_blocks: int = LIMITS.request_blocks,
) -> Message:
    """Return the message in the body of a request or reply.

    Every block has been hashed, every invocation to run is there, once; a receipt need not be.
    Tokens and receipts are not looked into. Raises `MalformedBlock`, `LimitExceeded` or
    `HashMismatch`.
    """
    root, blocks = car.read(data, max_bytes=max_bytes, max_blocks=max_blocks)
    if root.codec != DAG_CBOR:
        raise MalformedBlock(f"not an agent message: its root {root} is not DAG-CBOR")
    variants = codec.decode(blocks.pop(root))
    if type(variants) is not dict or variants.keys() != {VARIANT}:
        raise MalformedBlock(f"not an agent message: its root is not a map of {VARIANT} alone")
    body = variants[VARIANT]
    if type(body) is not dict or not body.keys() <= _FIELDS:
        raise MalformedBlock("not an agent message: it holds more than execute and report")
    invocations = _execute(body.get("execute", []))
    for cid in invocations:
        if cid not in blocks:
            raise MalformedBlock(f"an agent message without the block of its invocation {cid}")
    receipts = _report(body.get("report", {}))
    return Message(invocations, MappingProxyType(receipts), MappingProxyType(blocks))


def encode(message: Message) -> bytes:
    """Return the body that says `message`: blocks before those that link to them, the root last.

    Raises `MalformedBlock` for an invocation or receipt whose block is missing, `LimitExceeded` for
    a block of more than `LIMITS.block_bytes`, `HashMismatch` for one under another's CID.
    """
    body: dict[str, Any] = {}
    if message.invocations:
        body["execute"] = list(dict.fromkeys(message.invocations))
    if message.receipts:
        body["report"] = {str(cid): receipt for cid, receipt in message.receipts.items()}
    for cid in (*message.invocations, *message.receipts.values()):
        if cid not in message.blocks:
            raise MalformedBlock(f"an agent message without the block of {cid}")
    root, data = codec.block({VARIANT: body})
    return car.write(root, {**message.blocks, root: data})


def _execute(value: object) -> tuple[CID, ...]:
    if type(value) is not list or not all(type(cid) is CID for cid in value):
        raise MalformedBlock("not an agent message: execute is not a list of links")
    return tuple(dict.fromkeys(value))


def _report(value: object) -> dict[CID, CID]:
    if type(value) is not dict or not all(type(cid) is CID for cid in value.values()):
        raise MalformedBlock("not an agent message: report is not a map of links")
    receipts = {CID.parse(text): receipt for text, receipt in value.items()}
    if len(receipts) != len(value):
        raise MalformedBlock("not an agent message: two receipts for one invocation")
    return receipts
