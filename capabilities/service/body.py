"""The body of a request, and what it is in UCAN 1.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capabilities.ucan1 import container, envelope
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.requests import Request

_ENVELOPE: Final = b"\x82"
STARTS: Final = frozenset((_ENVELOPE, *(bytes((byte,)) for byte in b"@BCMOP")))
"""How a body of UCAN 1.0 begins: an envelope, or one of the containers."""


async def read_body(request: Request) -> bytes:
    """The whole body. Raises `LimitExceeded` before more than `LIMITS.request_bytes` is held."""
    limit = LIMITS.request_bytes
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise LimitExceeded(f"a body of more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def invoked(body: bytes) -> tuple[CID, Mapping[CID, bytes]]:
    """The invocation in a body, and all tokens by CID: a bare envelope, or a container.

    A container holds one invocation, and the delegations that it rests on. Raises `MalformedBlock`,
    `LimitExceeded`.
    """
    if is_envelope(body):
        _check_weight([body])
        cid = envelope.decode(body).cid
        return cid, {cid: body}
    blocks = container.decode(body)
    _check_weight(blocks.values())
    found = [cid for cid, data in blocks.items() if envelope.decode(data).kind == "inv"]
    if len(found) != 1:
        raise MalformedBlock(f"a container with {len(found)} invocations; there has to be one")
    return found[0], blocks


def _check_weight(tokens: Collection[bytes]) -> None:
    """Refuse what would take too long to decode, as `ucanto.Reading` does."""
    size = sum(map(len, tokens))
    if size > LIMITS.request_token_bytes:
        limit = LIMITS.request_token_bytes
        raise LimitExceeded(f"tokens of {size} bytes in one request; the limit is {limit}")
    if sum(map(codec.lists, tokens)) > LIMITS.request_token_lists:
        limit = LIMITS.request_token_lists
        raise LimitExceeded(f"tokens of more than {limit} lists and maps in one request")


def is_envelope(block: bytes) -> bool:
    """Whether a block is a token of UCAN 1.0, rather than one of ucanto: a list, not a map."""
    return block[:1] == _ENVELOPE
