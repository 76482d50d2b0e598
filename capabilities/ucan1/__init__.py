"""UCAN 1.0: tokens in signed envelopes, a policy language, and proofs in one list.

varsig, envelope     the signature's header, and what is signed
fields               the fields of a payload, one by one
selector, policy     what a delegation demands of arguments
delegation, invocation   the two tokens, read and issued
verified, chain      whether an invocation has authority
container            several tokens in one request
promise, revocation  arguments with a meaning of their own
"""

from __future__ import annotations

from capabilities.ucan1.chain import authorize
from capabilities.ucan1.delegation import Delegation
from capabilities.ucan1.invocation import Invocation
from capabilities.ucan1.verified import Verified

__all__ = ["Delegation", "Invocation", "Verified", "authorize"]
