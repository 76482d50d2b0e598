"""What a token or receipt says, and whether it holds now, as plain data: for JSON and for a tree.

Signatures are checked against the key in the issuer's name; where there is none (a `did:web`, an
account), it is said so. Time is judged as each family does: ucanto's `exp` has expired in its very
second, that of UCAN 1.0 holds in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capabilities.principal import Verifier, verifiers
from capabilities.ucan1 import envelope, varsig
from capabilities.ucan1.delegation import Delegation
from capabilities.ucan1.invocation import Invocation
from capabilities.ucanto import receipt as receipts
from capabilities.ucanto import token as tokens
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.signature import ABSENT
from capabilities.ucanto.token import Token
from stmflow.cid import CID
from stmflow.cli.ucan_options import UCAN1, UCANTO
from stmflow.cli.ucan_read import AnyToken, token1
from stmflow.errors import CapabilityError, CodecError, InvalidSignature

Sheet = dict[str, Any]

IN_TIME, EXPIRED, TOO_EARLY = "in time", "expired", "too early"


def token_sheet(token: AnyToken, now: int) -> Sheet:
    """What a token says and whether it holds at `now`, in UNIX seconds.

    `signature.good` is None where no key is known; `why` says more. `proofs` are the links of the
    token: a delegation of UCAN 1.0 has none of its own.
    """
    if isinstance(token, Token):
        return _ucanto(token, now)
    return _ucan1(token, now)


def _ucanto(token: Token, now: int) -> Sheet:
    early = token.not_before is not None and now <= token.not_before
    late = token.expires is not None and token.expires <= now
    grants = [
        {"can": one.can, "with": one.with_} | ({} if one.nb is None else {"nb": dict(one.nb)})
        for one in token.capabilities
    ]
    return {
        "cid": token.cid,
        "family": UCANTO,
        "version": token.version,
        "kind": "token",
        "issuer": token.issuer.text,
        "audience": token.audience.text,
        "grants": grants,
        "not_before": token.not_before,
        "expires": token.expires,
        "time": EXPIRED if late else TOO_EARLY if early else IN_TIME,
        "nonce": token.nonce,
        "facts": [dict(fact) for fact in token.facts],
        "signature": _signature(token, token.signature.algorithm),
        "proofs": list(token.proofs),
    }


def _ucan1(token: Delegation | Invocation, now: int) -> Sheet:
    late = token.expires is not None and token.expires < now
    grant: dict[str, Any] = {
        "can": token.command,
        "with": None if token.subject is None else token.subject.text,
    }
    not_before = None
    if isinstance(token, Delegation):
        not_before = token.not_before
        grant["policy"] = token.policy.plain
    else:
        grant["args"] = token.arguments
    early = not_before is not None and not_before > now
    return {
        "cid": token.cid,
        "family": UCAN1,
        "version": token.envelope.version,
        "kind": "delegation" if isinstance(token, Delegation) else "invocation",
        "issuer": token.issuer.text,
        "audience": token.audience.text,
        "grants": [grant],
        "not_before": not_before,
        "expires": token.expires,
        "time": EXPIRED if late else TOO_EARLY if early else IN_TIME,
        "nonce": token.nonce,
        "facts": [] if token.meta is None else [token.meta],
        "signature": _signature(token, varsig.decode(token.envelope.header).algorithm),
        "proofs": list(token.proofs) if isinstance(token, Invocation) else [],
    }


def receipt_sheet(receipt: Receipt) -> Sheet:
    """What a receipt says, and whether its issuer signed it."""
    return {
        "cid": receipt.cid,
        "ran": receipt.ran,
        "issuer": None if receipt.issuer is None else receipt.issuer.text,
        "out": dict(receipt.out),
        "fork": list(receipt.fork),
        "join": receipt.join,
        "proofs": list(receipt.proofs),
        "meta": dict(receipt.meta),
        "signature": _signature(receipt, receipt.signature.algorithm),
    }


def _signature(signed: AnyToken | Receipt, algorithm: str) -> Sheet:
    good, why = _checked(signed)
    return {"algorithm": algorithm, "good": good, "why": why}


def _checked(signed: AnyToken | Receipt) -> tuple[bool | None, str]:
    """Whether it is signed by its issuer, and if that is not so or cannot be known, why."""
    if signed.issuer is None:
        return None, "it names no issuer"
    if isinstance(signed, Token) and signed.signature == ABSENT:
        return None, "absent: somebody has to attest it"
    try:
        keys = verifiers(signed.issuer)
    except CapabilityError as error:
        return None, str(error)
    return (True, "") if is_signed(signed, keys) else (False, "not its issuer's")


def is_signed(signed: AnyToken | Receipt, keys: Sequence[Verifier]) -> bool:
    """Whether one of the keys signed it."""
    if isinstance(signed, Token):
        return any(tokens.verify_signature(signed, key) for key in keys)
    if isinstance(signed, Receipt):
        return any(receipts.verify_signature(signed, key) for key in keys)
    try:
        envelope.verify(signed.envelope, keys)
    except InvalidSignature:
        return False
    return True


def load_token(cid: CID, blocks: Mapping[CID, bytes], family: str) -> AnyToken | str:
    """A token that is named; in words what is the matter if it is not there, or is none."""
    data = blocks.get(cid)
    if data is None:
        return "did not come along"
    try:
        return token1(data) if family == UCAN1 else tokens.decode(cid, data)
    except (CodecError, CapabilityError) as error:
        return f"{type(error).__name__}: {error}"
