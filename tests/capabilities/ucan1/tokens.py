"""Principals and tokens for the tests of UCAN 1.0: good ones in one line, bad ones made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from capabilities import ucan1
from capabilities.authorization import Authorization
from capabilities.definition import Capability
from capabilities.did import DID
from capabilities.principal import Signer
from capabilities.ucan1 import delegation, invocation, varsig
from capabilities.ucan1.delegation import Delegation
from capabilities.ucan1.invocation import Invocation
from stmflow import codec
from stmflow.cid import CID

SERVICE, SPACE, ALICE, BOB, CAROL, MALLORY = (
    Signer.from_seed(bytes((number,)) * 32) for number in range(1, 7)
)
NOW = 1_700_000_000
NONCE = b"twelve bytes"
Token = Delegation | Invocation


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


CAPABILITIES = {
    name: Capability(name, Anything, subject="did")
    for name in ("store/add", "store/addition", "store/list", "upload/add")
}


def grant(
    issuer: Signer,
    audience: Signer,
    *,
    subject: Signer | None = SPACE,
    command: str = "/store",
    statements: Sequence[Any] = (),
    nonce: bytes = NONCE,
    expires: int | None = NOW + 600,
    not_before: int | None = None,
) -> Delegation:
    """A delegation; of all under /store by the space, unless told otherwise."""
    return delegation.issue(
        issuer,
        audience=audience.did,
        subject=None if subject is None else subject.did,
        command=command,
        statements=statements,
        nonce=nonce,
        expires=expires,
        not_before=not_before,
    )


def ask(
    issuer: Signer,
    proofs: Sequence[Delegation] = (),
    *,
    subject: Signer = SPACE,
    command: str = "/store/add",
    arguments: Mapping[str, Any] | None = None,
    audience: Signer | None = SERVICE,
    nonce: bytes = NONCE,
    expires: int | None = NOW + 60,
) -> Invocation:
    """An invocation of /store/add on the space, unless told otherwise."""
    return invocation.issue(
        issuer,
        subject=subject.did,
        command=command,
        arguments={"size": 100} if arguments is None else arguments,
        audience=None if audience is None else audience.did,
        proofs=[each.cid for each in proofs],
        nonce=nonce,
        expires=expires,
    )


def forged(
    token: Token,
    signer: Signer,
    *,
    tag: Any = None,
    header: Any = None,
    signature: Any = None,
    **fields: Any,
) -> bytes:
    """The block of a token with other fields (`...` leaves one out), signed by `signer`."""
    payload = {**token.envelope.payload, **fields}
    payload = {key: value for key, value in payload.items() if value is not ...}
    tag = tag or f"ucan/{token.envelope.kind}@{token.envelope.version}"
    content = {"h": varsig.header(signer.verifier) if header is None else header, tag: payload}
    signed = codec.encode(content)
    return codec.encode([signer.sign(signed) if signature is None else signature, content])


def authorize(
    invoked: Invocation | bytes,
    proofs: Sequence[Delegation | bytes] = (),
    *,
    service: DID = SERVICE.did,
    now: int = NOW,
    **options: Any,
) -> Authorization:
    """Authorize it with these proofs at hand; by its bytes, so that it is decoded too."""
    blocks = [each if isinstance(each, bytes) else each.data for each in proofs]
    return ucan1.authorize(
        invoked if isinstance(invoked, bytes) else invoked.data,
        {CID.of(block): block for block in blocks},
        service=service,
        capabilities=CAPABILITIES,
        now=now,
        **options,
    )
