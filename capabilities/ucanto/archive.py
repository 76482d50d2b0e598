"""Delegations in a file or in a letter: a CAR whose root is `{"ucan@0.9.1": link}`.

Source: the package `@ucanto/core`, `delegation.js`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from capabilities.ucanto import blocks as car
from capabilities.ucanto.token import Token
from capabilities.ucanto.token import decode as decode_token
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import MalformedBlock

VARIANT: Final = "ucan@0.9.1"


def encode(token: Token, blocks: Mapping[CID, bytes]) -> bytes:
    """Return the archive of `token`, with what it links to as far as it is in `blocks`."""
    root, data = codec.block({VARIANT: token.cid})
    known = {**blocks, token.cid: token.data, root: data}
    return car.write(root, {cid: known[cid] for cid in car.children_first((root,), known)})


def decode(data: bytes) -> tuple[Token, dict[CID, bytes]]:
    """Return the token of an archive and the blocks that came with it, itself included.

    Raises `CodecError` for what is no archive, and what decoding the token raises. Nothing is
    verified but the hashes.
    """
    root, blocks = car.read(data)
    variant = codec.decode(blocks.pop(root))
    match variant:
        case {"ucan@0.9.1": CID() as cid, **rest} if not rest:
            if cid not in blocks:
                raise MalformedBlock(f"an archive without the block of its token {cid}")
            return decode_token(cid, blocks[cid]), blocks
    raise MalformedBlock(f"not an archive: its root is not {{{VARIANT!r}: link}}")
