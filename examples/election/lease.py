"""A lease on a key, with a fencing token: what a service takes in place of an election.

    token = await transactor.transact(take(LEASE.job("sweeper"), "host-1", 30_000))
    answer = await transactor.transact(fenced(LEASE.job("sweeper"), token, sweep))

The store agrees already: a commit that compares one head decides who leads. The token counts the
holders. Whoever was away for longer than the lease may believe that it still leads; what it does in
`fenced` comes to nothing, because the lease is read in the very commit that would do it.

Source: C. Gray and D. Cheriton, *Leases*, 1989; the token is of M. Burrows, *The Chubby Lock
Service*, 2006 (there a sequencer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar, assert_never

from stmflow import Effect, Job, Tx, Workflow, impossible, reject, same, sleep

T = TypeVar("T")

LOST: Final = "Lost"
"""What `fenced`, `renew` and `release` answer whom the lease is no longer with."""


@dataclass(frozen=True, slots=True)
class Take:
    """Let `holder` have the lease for so long, if nobody has it."""

    tag: ClassVar[str] = "lease/take"

    holder: str
    for_ms: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Let it have the lease for so long from now."""

    tag: ClassVar[str] = "lease/renew"

    token: int
    for_ms: int


@dataclass(frozen=True, slots=True)
class Release:
    tag: ClassVar[str] = "lease/release"

    token: int


@dataclass(frozen=True, slots=True)
class Lapsed:
    tag: ClassVar[str] = "lease/lapsed"


@dataclass(frozen=True, slots=True)
class Lease:
    """Who has it. `token`: the number of its last holder; the first is 1."""

    status: Literal["free", "held"]
    token: int
    holder: str | None


Event: TypeAlias = Take | Renew | Release | Lapsed


def update(event: Event, state: Lease | None) -> object:
    state = Lease("free", 0, None) if state is None else state
    match state.status:
        case "free":
            return _free(event, state)
        case "held":
            return _held(event, state)
    assert_never(state.status)


def _free(event: Event, state: Lease) -> object:
    match event:
        case Take(holder, for_ms):
            if for_ms < 1:
                return reject("Invalid")
            return Lease("held", state.token + 1, holder), [lapse(for_ms)]
        case Renew() | Release():
            return reject(LOST)
        case Lapsed():
            return impossible()
    assert_never(event)


def _held(event: Event, state: Lease) -> object:
    match event:
        case Take():
            return reject("Held", {"holder": state.holder})
        case Renew(token) | Release(token) if token != state.token:
            return reject(LOST)
        case Renew(for_ms=for_ms):
            return same(lapse(for_ms)) if for_ms > 0 else reject("Invalid")
        case Release() | Lapsed():
            return replace(state, status="free", holder=None), []
    assert_never(event)


def lapse(for_ms: int) -> Effect:
    """By its name it replaces the one before; with the lease it goes."""
    return sleep(for_=timedelta(milliseconds=for_ms), name="lapse").then(Lapsed)


LEASE: Final = Workflow(
    "lease", state=Lease, events=(Take, Renew, Release, Lapsed), update=update, tag="status"
)

# --- transactions -------------------------------------------------------------------------------


def take(lease: Job, holder: str, for_ms: int) -> Callable[[Tx], int | None]:
    """The token, or None: somebody else has the lease."""

    def body(tx: Tx) -> int | None:
        taken = tx.apply(lease, Take(holder, for_ms)).code is None
        return int(tx.read(lease).token) if taken else None

    return body


def renew(lease: Job, token: int, for_ms: int) -> Callable[[Tx], str | None]:
    """None, or `LOST`."""
    return lambda tx: tx.apply(lease, Renew(token, for_ms)).code


def release(lease: Job, token: int) -> Callable[[Tx], str | None]:
    """None, or `LOST`: it needs no release."""
    return lambda tx: tx.apply(lease, Release(token)).code


def fenced(lease: Job, token: int, body: Callable[[Tx], T]) -> Callable[[Tx], T | str]:
    """What `body` gives, or `LOST`: then it was not run."""

    def guarded(tx: Tx) -> Any:
        held = tx.read(lease)
        if held is None or (held.status, held.token) != ("held", token):
            return LOST
        return body(tx)

    return guarded
