"""Delegations of UCAN 1.0: leave to act for a subject, within a command and a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from capabilities.ucan1 import envelope, fields, policy
from capabilities.ucan1.envelope import VERSION, Envelope
from capabilities.ucan1.policy import Policy
from stmflow.cid import CID

if TYPE_CHECKING:
    from capabilities.did import DID
    from capabilities.principal import Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """One delegation, well formed; nothing is verified. Equal where the CIDs are.

    Attributes:
        envelope: the token as it was sent: its block, signature and header.
        issuer: who grants.
        audience: to whom.
        subject: for whom one may act; None: for whomever the chain above is about.
        command: the command granted, with all that lie under it; starts with a slash.
        policy: what the arguments must satisfy.
        nonce: any bytes; may be empty.
        expires: the last second in which it holds, in UNIX seconds; None: it always will.
        not_before: the first second in which it holds; None: it always has.
        meta: anything else the issuer says; it grants nothing.
    """

    envelope: Envelope
    issuer: DID = field(compare=False)
    audience: DID = field(compare=False)
    subject: DID | None = field(compare=False)
    command: str = field(compare=False)
    policy: Policy = field(compare=False)
    nonce: bytes = field(compare=False)
    expires: int | None = field(compare=False)
    not_before: int | None = field(compare=False)
    meta: dict[str, Any] | None = field(compare=False, repr=False)

    @property
    def cid(self) -> CID:
        """The CID of the block."""
        return self.envelope.cid

    @property
    def data(self) -> bytes:
        """The block."""
        return self.envelope.data


def decode(data: bytes) -> Delegation:
    """Return the delegation that the block `data` holds. Its signature is not verified.

    Fields that are not known are signed with the others and grant nothing. Raises `MalformedBlock`,
    `LimitExceeded`, `InvalidDID`, `WeakKey`, and `InvalidSignature` for what is signed as something
    else than a delegation.
    """
    token = envelope.decode(data, "dlg")
    payload = token.payload
    return Delegation(
        envelope=token,
        issuer=fields.did(payload, "iss"),
        audience=fields.did(payload, "aud"),
        subject=None if payload.get("sub", "") is None else fields.did(payload, "sub"),
        command=fields.command(payload),
        policy=policy.parse(payload.get("pol")),
        nonce=fields.nonce(payload),
        expires=fields.expiry(payload),
        not_before=fields.seconds_or_none(payload, "nbf"),
        meta=fields.mapping_or_none(payload, "meta"),
    )


def issue(
    signer: Signer,
    *,
    audience: DID,
    subject: DID | None,
    command: str,
    nonce: bytes,
    expires: int | None,
    statements: Sequence[Any] = (),
    not_before: int | None = None,
    meta: Mapping[str, Any] | None = None,
    version: str = VERSION,
) -> Delegation:
    """Return a new delegation by `signer`; what it means is said at `Delegation`.

    `statements` is the policy as plain data; `nonce` is yours to draw. Raises what `decode` raises.
    """
    payload = {
        "iss": signer.did.text,
        "aud": audience.text,
        "sub": None if subject is None else subject.text,
        "cmd": command,
        "pol": list(statements),
        "nonce": nonce,
        "exp": expires,
        **({} if not_before is None else {"nbf": not_before}),
        **({} if meta is None else {"meta": dict(meta)}),
    }
    return decode(envelope.seal(payload, "dlg", signer, version=version))
