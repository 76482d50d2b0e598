"""What an agent does: pass authority on, and use it. In the ucanto family, which services speak.

grant = delegate("store/*", issuer=space, audience=agent.did, expires=None)
asked = invoke("store/add", issuer=agent, audience=service, subject=space.did,
               arguments={"link": link, "size": 5}, proofs=[grant], expires=now + 30)
reply = post(url, asked.body)                        # by any HTTP client
told = asked.receipt(reply)                          # told.out: {"ok": ...} or {"error": ...}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capabilities.did import DID
from capabilities.principal import Signer, Verifier, verifier
from capabilities.ucanto import archive, message, receipt, token
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.token import Claim, Token
from stmflow.cid import CID
from stmflow.errors import InvalidSignature, MalformedBlock


@dataclass(frozen=True, slots=True)
class Grant:
    """A delegation with the blocks of the proofs that it rests on."""

    token: Token
    blocks: Mapping[CID, bytes] = field(repr=False)

    def archive(self) -> bytes:
        """As a file, or a letter: the form that JavaScript clients read, too."""
        return archive.encode(self.token, self.blocks)

    @classmethod
    def read(cls, data: bytes) -> Grant:
        """The grant of an archive. Nothing is verified but hashes; raises `CodecError`."""
        return cls(*archive.decode(data))


@dataclass(frozen=True, slots=True)
class Asked:
    """An invocation as it is posted (`message.CONTENT_TYPE`)."""

    token: Token
    body: bytes = field(repr=False)

    def receipt(self, reply: bytes, *, service: Verifier | None = None) -> Receipt:
        """The receipt of this invocation in a reply, signed by whom it was addressed to.

        `service` is needed where the audience is no did:key. Raises `MalformedBlock` for a reply
        without it, `InvalidSignature` where somebody else has signed.
        """
        told = message.decode(reply)
        cid = told.receipts.get(self.token.cid)
        if cid is None or cid not in told.blocks:
            raise MalformedBlock(f"a reply without the receipt of {self.token.cid}")
        found = receipt.decode(cid, told.blocks[cid])
        key = verifier(self.token.audience) if service is None else service
        if found.ran != self.token.cid or not receipt.verify_signature(found, key):
            raise InvalidSignature(f"the receipt is not signed by {self.token.audience}")
        return found


def delegate(
    *commands: str,
    issuer: Signer,
    audience: DID,
    expires: int | None,
    subject: DID | None = None,
    caveats: Mapping[str, Any] | None = None,
    proofs: Sequence[Grant] = (),
    nonce: str | None = None,
) -> Grant:
    """Let `audience` do these commands (`store/add`, `store/*`) for `subject`.

    Args:
        expires: UNIX seconds; None: never.
        subject: default: the issuer itself; for another one `proofs` have to grant it.
        caveats: arguments that are fixed, or bounded as the command defines it.
    """
    about = str(issuer.did if subject is None else subject)
    made = token.issue(
        issuer,
        audience,
        [Claim(command, about, caveats) for command in commands],
        expires=expires,
        proofs=[proof.token.cid for proof in proofs],
        nonce=nonce,
    )
    return Grant(made, {**_blocks(proofs), made.cid: made.data})


def invoke(
    command: str,
    *,
    issuer: Signer,
    audience: DID,
    subject: DID,
    arguments: Mapping[str, Any],
    expires: int | None,
    proofs: Sequence[Grant] = (),
    attach: Mapping[CID, bytes] | None = None,
    nonce: str | None = None,
) -> Asked:
    """Ask `audience`, a service, for one command. `attach`: blocks that the arguments link to.

    Without a `nonce` the same arguments within one second are the same invocation.
    """
    made = token.issue(
        issuer,
        audience,
        [Claim(command, str(subject), arguments or None)],
        expires=expires,
        proofs=[proof.token.cid for proof in proofs],
        nonce=nonce,
    )
    blocks = {**_blocks(proofs), **(attach or {}), made.cid: made.data}
    return Asked(made, message.encode(message.Message(invocations=(made.cid,), blocks=blocks)))


def _blocks(proofs: Sequence[Grant]) -> dict[CID, bytes]:
    found: dict[CID, bytes] = {}
    for proof in proofs:
        found |= proof.blocks
    return found
