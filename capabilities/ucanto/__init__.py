"""ucanto: UCAN 0.9.1 tokens, agent messages and receipts, as deployed storage clients speak them.

- `message`: what is posted and answered: `message.decode(body)`, `message.encode(message)`;
- `token`: delegations and invocations: `token.decode`, `token.issue`, `token.delivery_id`;
- `validator`: `authorize(invocation, blocks, ...)` says whether one may be run, and why not;
- `verified`: the memory of good signatures that a service owns;
- `receipt`: signed outcomes; `failure` makes of an error what one says;
- `archive`: delegations in a file; `dagjson`, `signature`, `blocks`: what all these are made of.

Everything is a pure function of bytes and of `now`. What is not in its one form is refused with a
`CodecError` or `CapabilityError` of `stmflow.errors`.
"""

from __future__ import annotations

from capabilities.ucanto.failure import failure
from capabilities.ucanto.message import Message
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.token import Claim, Token
from capabilities.ucanto.validator import authorize
from capabilities.ucanto.verified import Reading, Verified, verify_all

__all__ = [
    "Claim",
    "Message",
    "Reading",
    "Receipt",
    "Token",
    "Verified",
    "authorize",
    "failure",
    "verify_all",
]
