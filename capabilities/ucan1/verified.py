"""Which tokens were found to be signed: a bounded memory that a service owns."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from capabilities.ucan1.delegation import Delegation
from capabilities.ucan1.invocation import Invocation

if TYPE_CHECKING:
    from capabilities.did import DID
    from stmflow.cid import CID

Token: TypeAlias = Delegation | Invocation
AnyToken = TypeVar("AnyToken", Delegation, Invocation)
TOKENS: Final = 4_096
TOKEN_BYTES: Final = 4_096
"""Longer tokens are not remembered, so that all together stay below 16 MiB of blocks."""


class Verified:
    """The last `tokens` tokens whose signature was good, decoded, with the key that made it.

    Time, audience, revocation and the chain are judged anew at every use; what is remembered here
    can never become wrong. Not for several threads at once.
    """

    __slots__ = ("_found", "_tokens")

    def __init__(self, tokens: int = TOKENS) -> None:
        self._tokens = tokens
        self._found: OrderedDict[CID, tuple[Token, DID]] = OrderedDict()

    def get(self, cid: CID, kind: type[AnyToken]) -> AnyToken | None:
        """Return the token of that CID and class, if it is known."""
        found = self._found.get(cid)
        if found is None or not isinstance(found[0], kind):
            return None
        self._found.move_to_end(cid)
        return found[0]

    def key(self, cid: CID) -> DID | None:
        """Return the key that signed the token of that CID, if it is known."""
        found = self._found.get(cid)
        return None if found is None else found[1]

    def add(self, token: Token, key: DID) -> None:
        """Remember that `key` signed `token`."""
        if len(token.data) <= TOKEN_BYTES:
            self._found[token.cid] = token, key
            if len(self._found) > self._tokens:
                self._found.popitem(last=False)

    def __len__(self) -> int:
        return len(self._found)
