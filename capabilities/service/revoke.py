"""`ucan/revoke`: the one command that every service provides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

from capabilities.definition import Capability
from capabilities.service.authority import revocation, revoke
from capabilities.service.provider import Asked, Call, Fault, Ok, Result
from capabilities.twin import twins
from stmflow.cid import CID
from stmflow.errors import CapabilityError, CodecError
from stmflow.transactor import Transactor


@final
@dataclass(frozen=True, slots=True)
class Revoked:
    """Which token is revoked, and proofs that lead from it to who revokes it."""

    ucan: CID
    proof: tuple[CID, ...] = ()


CAPABILITY: Final = Capability("ucan/revoke", Revoked, subject="did")


@dataclass(frozen=True, slots=True)
class UcanRevoke:
    """Take a token back in the name of the subject. Its block travels with the invocation.

    Anybody may; it counts where the subject stands in the chain that is judged. Revoking a
    revocation does nothing.
    """

    capability: Capability = CAPABILITY

    async def perform(self, call: Call) -> Result:
        """The time of the first revocation, in milliseconds."""
        asked = call.asked()
        revoked: CID = asked.arguments.ucan
        if revoked not in call.blocks:
            return Fault("UCANNotFound", f"{revoked} did not travel with its revocation")
        try:
            tokens = twins(revoked, call.blocks[revoked])
        except (CapabilityError, CodecError) as error:
            return Fault("UCANNotFound", f"{revoked} is no token: {error}")
        job = revocation(revoked, asked.subject)

        def body(tx: Any) -> Any:
            revoke(tx, tokens, asked.subject, asked.invocation)
            return tx.read(job).at

        return Ok({"time": await call.commit(job, body)})

    async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
        head = await transactor.get(revocation(asked.arguments.ucan, asked.subject))
        return None if head is None else Ok({"time": head.state.at})
