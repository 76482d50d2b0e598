"""Capacity of a space: reserved before bytes may come, given back on every way out.

Two ways to keep the account, for the same two tasks:

    Transactor(…, transactional=local_quota(limit=GIB))         the asking job is the reservation
    Scheduler(…, handlers=allocator(transactor, limit=GIB))     each reservation is a job of its own

With a local quota, capacity enters and leaves `quota(space)` in the very commit that changes the
asking job, whose state says what was charged. An allocator decides once per reservation and
remembers it, refusals too: whoever asks again, however late, gets the same answer, and a released
reservation is never granted again.

    reservation   reserve                         release
    none          granted, or refused if full     released, so that a late reserve fails
    granted       granted (other size: refused)   released, its size given back
    refused       refused                         refused
    released      Err("Released")                 released
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from scheduler.handlers import Context, Handler
from stmflow.cid import CID
from stmflow.effect import Err
from stmflow.errors import ReducerFailed
from stmflow.transaction import Transactional, Tx
from stmflow.transactor import Transactor
from stmflow.workflow import Job, Workflow, ignore, impossible, reject, same

__all__ = [
    "QUOTA",
    "RESERVATION",
    "Allocate",
    "Deallocate",
    "Give",
    "Granted",
    "Quota",
    "Refused",
    "Released",
    "SetLimit",
    "Take",
    "allocator",
    "local_quota",
    "release",
    "reserve",
]

Size = Annotated[int, Field(ge=0)]


# --- the tasks ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allocate:
    """Reserve `size` bytes of a space. Outcome: `{reservation, size}`, the size that it costs.

    Fails as `NoSpace` with `{limit, used}`, as `Released` when this reservation was given back
    before, as `SizeConflict` when it was granted for another size. `charged` is what the asking
    job has been charged for this reservation already: a local quota takes only the difference.
    """

    tag: ClassVar[str] = "storage/allocate"

    space: str
    reservation: CID
    size: Size
    charged: Size = 0


@dataclass(frozen=True, slots=True)
class Deallocate:
    """Give a reservation back, granted or not. Outcome: `{reservation, size}`, size given back.

    A local quota gives back `charged`: what the asking job's own state says; 0 if nothing. An
    allocator goes by the reservation alone.
    """

    tag: ClassVar[str] = "storage/deallocate"

    space: str
    reservation: CID
    charged: Size


# --- quota(space) -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a space may be used, and how much is."""

    tag: ClassVar[str] = "quota"

    limit: Size
    used: Size


@dataclass(frozen=True, slots=True)
class Take:
    """Use `size` more, if the limit allows. A space not seen before begins with `limit`."""

    tag: ClassVar[str] = "quota/take"

    size: Size
    limit: Size


@dataclass(frozen=True, slots=True)
class Give:
    """Use `size` less."""

    tag: ClassVar[str] = "quota/give"

    size: Size


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Change the limit. Below what is used, nothing is taken away and nothing more is granted."""

    tag: ClassVar[str] = "quota/limit"

    space: str
    limit: Size


def _quota(event: Take | Give | SetLimit, quota: Quota | None) -> object:
    match event, quota:
        case SetLimit(limit=limit), None:
            return Quota(limit, 0), ()
        case SetLimit(limit=limit), Quota():
            return replace(quota, limit=limit), ()
        case ((Take(size=0) | Give(size=0)), _):
            return same()
        case Take(size, limit), _:
            quota = Quota(limit, 0) if quota is None else quota
            if quota.used + size > quota.limit:
                return reject("NoSpace", {"limit": quota.limit, "used": quota.used})
            return replace(quota, used=quota.used + size), ()
        case Give(size), Quota(used=used) if size <= used:
            return replace(quota, used=used - size), ()
    return impossible()


QUOTA: Final = Workflow(
    "quota",
    state=Quota,
    events=(Take, Give, SetLimit),
    outside=(SetLimit,),
    key=("space",),
    update=_quota,
)
"""The account of a space."""


# --- reservation(id) ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Granted:
    """The reservation holds `size` bytes of the space."""

    tag: ClassVar[str] = "granted"

    space: str
    size: Size


@dataclass(frozen=True, slots=True)
class Refused:
    """There was no room, and for this reservation that is final."""

    tag: ClassVar[str] = "refused"

    space: str
    size: Size
    limit: Size
    used: Size


@dataclass(frozen=True, slots=True)
class Released:
    """Given back, or never to be granted."""

    tag: ClassVar[str] = "released"

    space: str


@dataclass(frozen=True, slots=True)
class Grant:
    """There was room."""

    tag: ClassVar[str] = "reservation/grant"

    space: str
    size: Size


@dataclass(frozen=True, slots=True)
class Refuse:
    """There was none."""

    tag: ClassVar[str] = "reservation/refuse"

    space: str
    size: Size
    limit: Size
    used: Size


@dataclass(frozen=True, slots=True)
class Release:
    """It is needed no more."""

    tag: ClassVar[str] = "reservation/release"

    space: str


def _reservation(
    event: Grant | Refuse | Release, state: Granted | Refused | Released | None
) -> object:
    match event, state:
        case Grant(space, size), None:
            return Granted(space, size), ()
        case Refuse(space, size, limit, used), None:
            return Refused(space, size, limit, used), ()
        case Release(space), (None | Granted()):
            return Released(space), ()
        case Release(), (Refused() | Released()):
            return ignore()
    return impossible()


RESERVATION: Final = Workflow(
    "reservation",
    state=(Granted, Refused, Released),
    events=(Grant, Refuse, Release),
    update=_reservation,
)
"""What became of one reservation. Its key is the reservation's id."""


# --- the two ways to keep the account -----------------------------------------------------------


def local_quota(*, limit: int, least: int = 1) -> Transactional:
    """Both tasks as transactional ones: `quota(space)` changes in the asking job's own commit.

    Args:
        limit: bytes that a space not seen before may use.
        least: bytes that a reservation costs at least, so that a space has `limit // least` of
            them at most, however small they are.
    """

    def allocate(tx: Tx, task: Allocate) -> Any:
        size = max(task.size, least)
        verdict = tx.apply(QUOTA.job(task.space), Take(max(size - task.charged, 0), limit))
        if verdict.kind == "rejected":
            return Err("NoSpace", verdict.detail)
        return {"reservation": task.reservation, "size": size}

    def deallocate(tx: Tx, task: Deallocate) -> Any:
        _apply(tx, QUOTA.job(task.space), Give(task.charged))
        return {"reservation": task.reservation, "size": task.charged}

    return {Allocate: allocate, Deallocate: deallocate}


def allocator(transactor: Transactor, *, limit: int, least: int = 1) -> Mapping[type, Handler]:
    """Handlers of both tasks, for a transactor that may be a remote allocator's.

    Args:
        limit: bytes that a space not seen before may use. least: that a reservation costs at least.
    """

    async def allocate(task: Allocate, context: Context) -> Any:
        return _outcome(
            await transactor.transact(
                lambda tx: _answer(reserve(tx, task, limit=limit, least=least)),
                at=RESERVATION.job(task.reservation),
                delivery=context.key.bytes,
            )
        )

    async def deallocate(task: Deallocate, context: Context) -> Any:
        return await transactor.transact(
            lambda tx: release(tx, task),
            at=RESERVATION.job(task.reservation),
            delivery=context.key.bytes,
        )

    return {Allocate: allocate, Deallocate: deallocate}


def reserve(tx: Tx, task: Allocate, *, limit: int, least: int = 1) -> dict[str, Any] | Err:
    """Decide a reservation once, or say again what was decided: a transaction's body."""
    mine, wanted = RESERVATION.job(task.reservation), max(task.size, least)
    match tx.read(mine):
        case None:
            verdict = tx.apply(QUOTA.job(task.space), Take(wanted, limit))
            if verdict.kind == "rejected":
                full = verdict.detail
                tx.apply(mine, Refuse(task.space, wanted, full["limit"], full["used"]))
                return Err("NoSpace", {"limit": full["limit"], "used": full["used"]})
            _apply(tx, mine, Grant(task.space, wanted))
        case Refused(limit=allowed, used=used):
            return Err("NoSpace", {"limit": allowed, "used": used})
        case Released():
            return Err("Released", {"reservation": task.reservation})
        case Granted(size=size) if size != wanted:
            return Err("SizeConflict", {"size": size})
    return {"reservation": task.reservation, "size": wanted}


def release(tx: Tx, task: Deallocate) -> dict[str, Any]:
    """Give back what a reservation holds and see that it is never granted: a transaction's body."""
    mine = RESERVATION.job(task.reservation)
    held = tx.read(mine)
    size = held.size if isinstance(held, Granted) else 0
    _apply(tx, QUOTA.job(task.space), Give(size))
    _apply(tx, mine, Release(task.space))
    return {"reservation": task.reservation, "size": size}


def _apply(tx: Tx, job: Job, event: Any) -> None:
    verdict = tx.apply(job, event)
    if verdict.kind == "rejected":
        raise ReducerFailed(f"{job.workflow} refused {event}: {verdict.code}")


def _answer(outcome: dict[str, Any] | Err) -> dict[str, Any]:
    """An outcome as a delivery row can keep it."""
    if isinstance(outcome, Err):
        return {"refused": outcome.name, "detail": outcome.detail}
    return outcome


def _outcome(answer: Mapping[str, Any]) -> Any:
    if "refused" in answer:
        return Err(answer["refused"], answer["detail"])
    return answer
