"""Invocations of UCAN 1.0: a service is asked to do a command for a subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from capabilities.ucan1 import envelope, fields
from capabilities.ucan1.envelope import VERSION, Envelope
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import LimitExceeded
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    from capabilities.did import DID
    from capabilities.principal import Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One invocation, well formed; nothing is verified. Equal where the CIDs are.

    Attributes:
        envelope: the token as it was sent: its block, signature and header.
        issuer: who asks.
        subject: for whom.
        audience: who is asked; the subject, where the token names nobody.
        command: what; starts with a slash.
        arguments: with what. Nobody changes it.
        proofs: the delegations from the subject (first) to the issuer (last).
        nonce: any bytes; empty for a command that is the same however often it is asked for.
        expires: the last second in which it holds, in UNIX seconds; None: it always will.
        issued_at: when the issuer says to have issued it; nothing depends on it.
        meta: anything else the issuer says.
        cause: the receipt that asked for this task.
    """

    envelope: Envelope
    issuer: DID = field(compare=False)
    subject: DID = field(compare=False)
    audience: DID = field(compare=False)
    command: str = field(compare=False)
    arguments: dict[str, Any] = field(compare=False)
    proofs: tuple[CID, ...] = field(compare=False)
    nonce: bytes = field(compare=False)
    expires: int | None = field(compare=False)
    issued_at: int | None = field(compare=False)
    meta: dict[str, Any] | None = field(compare=False, repr=False)
    cause: CID | None = field(compare=False)

    @property
    def cid(self) -> CID:
        """The CID of the block."""
        return self.envelope.cid

    @property
    def data(self) -> bytes:
        """The block."""
        return self.envelope.data

    @property
    def task(self) -> CID:
        """The CID of what is asked for: subject, command, arguments and nonce, whoever asks."""
        payload = self.envelope.payload
        return CID.of(codec.encode({key: payload[key] for key in ("sub", "cmd", "args", "nonce")}))

    @property
    def delivery_id(self) -> bytes:
        """What a repeat shares with the first, however it is signed: the bytes of a CID.

        That of the task; without a nonce, tasks of one content are told apart by issuer and expiry.
        """
        task = self.task
        if self.nonce:
            return task.bytes
        return CID.of(codec.encode([task, self.issuer.text, self.expires])).bytes


def decode(data: bytes) -> Invocation:
    """Return the invocation that the block `data` holds. Its signature is not verified.

    Fields that are not known are signed with the others and mean nothing; `nbf` is one of them.
    Raises `MalformedBlock`, `LimitExceeded` (arguments over `LIMITS.arguments_bytes` too),
    `InvalidDID`, `WeakKey`, and `InvalidSignature` for what is signed as something else than an
    invocation. The number of proofs is bounded by `authorize`, for whom alone it matters.
    """
    token = envelope.decode(data, "inv")
    payload = token.payload
    subject = fields.did(payload, "sub")
    return Invocation(
        envelope=token,
        issuer=fields.did(payload, "iss"),
        subject=subject,
        audience=fields.did(payload, "aud") if "aud" in payload else subject,
        command=fields.command(payload),
        arguments=_arguments(token),
        proofs=fields.links(payload, "prf"),
        nonce=fields.nonce(payload),
        expires=fields.expiry(payload),
        issued_at=fields.seconds_or_none(payload, "iat"),
        meta=fields.mapping_or_none(payload, "meta"),
        cause=fields.link_or_none(payload, "cause"),
    )


def issue(
    signer: Signer,
    *,
    subject: DID,
    command: str,
    arguments: Mapping[str, Any],
    nonce: bytes,
    expires: int | None,
    audience: DID | None = None,
    proofs: Sequence[CID] = (),
    issued_at: int | None = None,
    meta: Mapping[str, Any] | None = None,
    cause: CID | None = None,
    version: str = VERSION,
) -> Invocation:
    """Return a new invocation by `signer`; what it means is said at `Invocation`.

    `nonce` is yours to draw. Raises what `decode` raises.
    """
    payload = {
        "iss": signer.did.text,
        "sub": subject.text,
        "cmd": command,
        "args": dict(arguments),
        "prf": list(proofs),
        "nonce": nonce,
        "exp": expires,
        **({} if audience is None else {"aud": audience.text}),
        **({} if issued_at is None else {"iat": issued_at}),
        **({} if meta is None else {"meta": dict(meta)}),
        **({} if cause is None else {"cause": cause}),
    }
    return decode(envelope.seal(payload, "inv", signer, version=version))


def _arguments(token: Envelope) -> dict[str, Any]:
    arguments = fields.mapping(token.payload, "args")
    if len(token.signed) > LIMITS.arguments_bytes:  # else they are smaller anyway
        size = len(codec.encode(arguments))
        if size > LIMITS.arguments_bytes:
            raise LimitExceeded(f"arguments of {size} bytes; the limit is {LIMITS.arguments_bytes}")
    return arguments
