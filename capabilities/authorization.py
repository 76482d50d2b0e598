"""What both families' checks end in: who asks, for whom, for what, by which chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from capabilities.did import DID
    from stmflow.cid import CID
    from stmflow.errors import CapabilityError


@dataclass(frozen=True, slots=True)
class Link:
    """One token of a chain: its CID and the two between whom it passes authority."""

    token: CID
    issuer: DID
    audience: DID


Chain: TypeAlias = tuple[Link, ...]
"""Tokens of which each rests on the next, the root last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """An invocation that was found to have authority, whichever family it came in.

    Attributes:
        invocation: the CID of the token that was received.
        issuer: who asks.
        audience: who is asked: this service.
        subject: for whom; the resource (`with`) in ucanto.
        command: what, without a leading slash: `store/add`.
        arguments: with what, as the command's definition reads them.
        delivery: the delivery id: the same for a repeat however it is signed or encoded.
        expires: when this invocation is refused, in UNIX seconds; None: never.
        renewable: whether a repeat may be signed to hold longer: its delivery id is the same.
        chain: the tokens it rests on, the invocation first and the root last.
        beside: the chains of attestations that were relied on.
    """

    invocation: CID
    issuer: DID
    audience: DID
    subject: DID
    command: str
    arguments: Any
    delivery: bytes
    expires: int | None
    chain: Chain
    beside: tuple[Chain, ...] = ()
    renewable: bool = False


def explain(error: CapabilityError, *, indent: str = "  ") -> Iterator[str]:
    """The reasons of a refusal as lines of a tree, outermost first."""
    yield f"{type(error).__name__}: {error}"
    for cause in error.causes:
        for line in explain(cause, indent=indent):
            yield indent + line
