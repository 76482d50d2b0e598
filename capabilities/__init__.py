"""The room for UCAN: who may ask for what. Empty today; stmflow works without it.

What belongs here, and nowhere else:

- principals: `did:key` identities, signers and verifiers, weak keys refused;
- two wire families, each with its own codec: ucanto (UCAN 0.9.1, agent messages in CAR), which
  deployed storage clients speak, and UCAN 1.0 (envelope, policy language, linear proofs);
- one authorization result, the same whichever family the message came in;
- signed receipts, made from a durable answer after the commit.

It imports from stmflow only `codec`, `cid`, `car`, `limits` and `errors`. One module, `service`,
will also know the transactor and workflows: bytes in, a job started or found, bytes out.
"""

from __future__ import annotations

__all__: list[str] = []
