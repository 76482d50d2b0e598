"""What has been revoked, as jobs: so that authority is part of what a commit has read.

A revocation is a pair: a token, and the DID in whose name it was revoked. Anybody may revoke
anything; a pair only counts where the DID stands in the chain that is judged, as issuer or audience
of the token or of one that it rests on. So a stranger's revocation is kept and does nothing.

One job for each pair, and one for each token that has any: a chain is cleared by reading one key
for each of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from capabilities.authorization import Chain
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


@lru_cache(8_192)
def revocation(token: CID, scope: DID | None = None) -> Job:
    """The job of a pair; of a token, without a scope. Delegations come again and again."""
    return REVOCATION.job(token, ANYBODY if scope is None else scope.text)


Read = Callable[[Job], Any]
"""job → its state, or None: `tx.read` in a transaction."""


def revoke(tx: Any, tokens: Sequence[CID], scope: DID, cause: CID) -> None:
    """Write the revocation of these tokens, in that name, in a transaction."""
    for token in tokens:
        tx.apply(revocation(token), Revoke(token, ANYBODY, cause))
        tx.apply(revocation(token, scope), Revoke(token, scope.text, cause))


@dataclass(frozen=True, slots=True)
class Standing:
    """What an authorization rests on, as it was found when the invocation was accepted.

    `chains` are that from the invocation to the root, and those of attestations; `judged` are pairs
    that were revoked by then and did not count.
    """

    chains: tuple[Chain, ...]
    judged: frozenset[tuple[CID, DID]] = frozenset()

    def reads(self) -> list[Job]:
        """The jobs that `check` surely reads."""
        return [revocation(link.token) for chain in self.chains for link in chain]

    def check(self, read: Read) -> None:
        """Raise `Revoked` if something was revoked since. Every key that this depends on is read.

        Args:
            read: job → its state, or None: `tx.read` in a transaction.
        """
        for token, entitled in standing(self.chains):
            if read(revocation(token)) is None:
                continue
            for name in entitled:
                pair = (token, name)
                if pair not in self.judged and read(revocation(*pair)) is not None:
                    raise Revoked(f"revoked in the name of {name}", token=token)


def standing(chains: Iterable[Chain]) -> Iterator[tuple[CID, tuple[DID, ...]]]:
    """Each token, and who stands in it or in one that it rests on: they may revoke it."""
    for chain in chains:
        for at, link in enumerate(chain):
            names = (name for above in chain[at:] for name in (above.issuer, above.audience))
            yield link.token, tuple(dict.fromkeys(names))
