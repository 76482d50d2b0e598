"""What has been revoked, as jobs: so that authority is part of what a commit has read.

A revocation is a pair: a token, and the DID in whose name it was revoked. Anybody may revoke
anything; a pair only counts where the DID stands in the chain that is judged, as issuer or audience
of the token or of one that it rests on. So a stranger's revocation is kept and does nothing.

One job for each pair, and one for each token that has any: a chain is cleared by reading one key
for each of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from capabilities.authorization import Link
from capabilities.did import DID
from stmflow.cid import CID
from stmflow.errors import Revoked
from stmflow.schema import At
from stmflow.workflow import Job, Workflow, same

ANYBODY: Final = ""
"""In place of a DID: the key that tells whether a token has been revoked by anybody at all."""


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take a token back, in the name of a DID (or `ANYBODY`)."""

    token: CID
    scope: str
    cause: CID
    at: At = 0


@dataclass(frozen=True, slots=True)
class Revocation:
    """It was taken back, by which invocation and when (milliseconds). There is no way back."""

    cause: CID
    at: int


def _update(event: Revoke, state: Revocation | None) -> Any:
    return (Revocation(event.cause, event.at), []) if state is None else same()


REVOCATION: Final = Workflow(
    "ucan/revocation",
    state=Revocation,
    events=(Revoke,),
    update=_update,
    key=("token", "scope"),
)

Read = Callable[[Job], Any]
"""job → its state, or None: `tx.read` in a transaction."""


def revoke(tx: Any, tokens: Sequence[CID], scope: DID, cause: CID) -> None:
    """Write the revocation of these tokens, in that name, in a transaction."""
    for token in tokens:
        for name in (ANYBODY, scope.text):
            tx.apply(REVOCATION.job(token, name), Revoke(token, name, cause))


def taken_back(read: Read, chain: Sequence[Link]) -> tuple[int, str] | None:
    """The first token of a chain that was revoked by somebody who may: its place, and by whom.

    `chain` goes from the invocation to the root. Every key that the answer depends on is read.
    """
    for at, link in enumerate(chain):
        if read(REVOCATION.job(link.token, ANYBODY)) is None:
            continue
        for scope in _may_revoke(chain[at:]):
            if read(REVOCATION.job(link.token, scope)) is not None:
                return at, scope
    return None


def check(read: Read, chain: Sequence[Link]) -> None:
    """Raise `Revoked` if a token of the chain has been taken back by somebody who may."""
    if (found := taken_back(read, chain)) is not None:
        at, scope = found
        raise Revoked(f"revoked in the name of {scope}", token=chain[at].token)


def read_by(chain: Sequence[Link]) -> list[Job]:
    """The jobs that `check` surely reads."""
    return [REVOCATION.job(link.token, ANYBODY) for link in chain]


def _may_revoke(chain: Sequence[Link]) -> Iterator[str]:
    """Whoever stands in this token or upstream of it."""
    yield from dict.fromkeys(name.text for link in chain for name in (link.issuer, link.audience))
