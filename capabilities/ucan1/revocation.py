"""What an invocation of `/ucan/revoke` says: which token is taken back, and how it is connected.

The text is a draft. A revocation is about one token and is never taken back itself; whether whom it
is by may revoke that token is decided where the token is used (`chain`).

Source: github.com/ucan-wg/revocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stmflow.cid import CID
from stmflow.errors import InvalidClaim, LimitExceeded
from stmflow.limits import LIMITS

COMMAND: Final = "/ucan/revoke"


@dataclass(frozen=True, slots=True)
class Revocation:
    """The token that is revoked, and the delegations that lead to it, where they were named."""

    revoke: CID
    path: tuple[CID, ...] = ()


def parse(arguments: Mapping[str, Any]) -> Revocation:
    """Return the revocation that these arguments ask for.

    Raises `InvalidClaim` for others, `LimitExceeded` for a path over `LIMITS.proof_chain`.
    """
    token, path = arguments.get("revoke"), arguments.get("path", [])
    if type(token) is not CID:
        raise InvalidClaim("a revocation without a link to what it revokes")
    if type(path) not in (list, tuple) or not all(type(each) is CID for each in path):
        raise InvalidClaim("a revocation whose path is not a list of links")
    if len(path) > LIMITS.proof_chain:
        raise LimitExceeded(f"a path of {len(path)} tokens; the limit is {LIMITS.proof_chain}")
    return Revocation(token, tuple(path))
