"""Bytes that several jobs share: who still needs them, and their end when nobody does.

    Transactor(…, [store_add, BLOB], transactional={**COUNTED, …})
    Scheduler(…, handlers={Delete: sweeping(transactor, bucket.delete), …})

A job holds the blob from before its first look until its upload URL is dead, and turns the hold
into a reference in the commit that makes it *stored*. Counts are enough, because who holds and who
refers stands in the jobs' own states; so these tasks must be transactional, never handlers: only in
one commit with the asking job are they counted once.

A marked blob that nobody holds or refers to is *deleting*, and is *gone* when its object is.
Whoever meets it in between waits and looks again, so no delete meets bytes that somebody has seen.

    blob        hold          refer         leave         unlink          gc/mark         deleted
    none, gone  →live, held   impossible    impossible    impossible      marked (*)      impossible
    live        held + 1      held to ref.  held − 1 (*)  ref. − 1 (*)    marked (*)      impossible
    deleting    R:Deleting    impossible    impossible    impossible      same            →gone
    (*) marked, not held, not referred to: →deleting [s3/delete]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from scheduler.handlers import Context, Failure, Handler
from scheduler.handlers.s3 import Delete
from stmflow.cid import CID
from stmflow.effect import Err, perform
from stmflow.errors import ReducerFailed
from stmflow.transaction import Transactional, Tx
from stmflow.transactor import Transactor
from stmflow.workflow import Workflow, impossible, reject, same

__all__ = [
    "BLOB",
    "COUNTED",
    "Deleting",
    "Gone",
    "Hold",
    "Leave",
    "Live",
    "Mark",
    "Refer",
    "Unlink",
    "sweeping",
]


# --- the tasks, which are the events of the blob as well ------------------------------------------


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the bytes from being deleted while they are looked for or uploaded.

    Fails as `Deleting` while they are on their way out.
    """

    tag: ClassVar[str] = "blob/hold"

    link: CID


@dataclass(frozen=True, slots=True)
class Refer:
    """Turn a hold into a reference, on this proof. Outcome: `{size, checksum}`, the proof."""

    tag: ClassVar[str] = "blob/refer"

    link: CID
    size: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """End a hold that came to nothing."""

    tag: ClassVar[str] = "blob/leave"

    link: CID


@dataclass(frozen=True, slots=True)
class Unlink:
    """End a reference."""

    tag: ClassVar[str] = "blob/unlink"

    link: CID


@dataclass(frozen=True, slots=True)
class Mark:
    """There may be bytes that nobody needs: delete them once that is so."""

    tag: ClassVar[str] = "gc/mark"

    link: CID


@dataclass(frozen=True, slots=True)
class Deleted:
    """The object is gone: the outcome of `s3/delete`."""

    tag: ClassVar[str] = "blob/deleted"

    deleted: Literal[True]


# --- blob(multihash) ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Live:
    """Somebody holds it, refers to it, or nobody has asked for its end."""

    tag: ClassVar[str] = "live"

    link: CID
    held: Annotated[int, Field(ge=0)]
    references: Annotated[int, Field(ge=0)]
    marked: bool


@dataclass(frozen=True, slots=True)
class Deleting:
    """Its object is being deleted."""

    tag: ClassVar[str] = "deleting"

    link: CID


@dataclass(frozen=True, slots=True)
class Gone:
    """Its object was deleted."""

    tag: ClassVar[str] = "gone"

    link: CID


def _update(
    event: Hold | Refer | Leave | Unlink | Mark | Deleted, blob: Live | Deleting | Gone | None
) -> object:
    match blob, event:
        case ((None | Gone()), Hold(link)):
            return Live(link, held=1, references=0, marked=False), ()
        case Live(held=held), Hold():
            return replace(blob, held=held + 1), ()
        case Deleting(), Hold():
            return reject("Deleting")
        case Live(held=held, references=references), Refer() if held:
            return replace(blob, held=held - 1, references=references + 1), ()
        case Live(held=held), Leave() if held:
            return _swept(replace(blob, held=held - 1))
        case Live(references=references), Unlink() if references:
            return _swept(replace(blob, references=references - 1))
        case Live(), Mark():
            return _swept(replace(blob, marked=True))
        case ((None | Gone()), Mark(link)):
            return _swept(Live(link, held=0, references=0, marked=True))
        case Deleting(), Mark():
            return same()
        case Deleting(link), Deleted():
            return Gone(link), ()
    return impossible()


def _swept(blob: Live) -> object:
    if not blob.marked or blob.held or blob.references:
        return blob, ()
    return Deleting(blob.link), perform(Delete(blob.link)).then(Deleted)


BLOB: Final = Workflow(
    "blob",
    state=(Live, Deleting, Gone),
    events=(Hold, Refer, Leave, Unlink, Mark, Deleted),
    tasks=(Delete,),
    update=_update,
)
"""The bytes of one multihash, which is its key."""


def _count(tx: Tx, task: Hold | Refer | Leave | Unlink | Mark) -> Any:
    verdict = tx.apply(BLOB.job(task.link.multihash), task)
    if verdict.kind != "rejected":
        return {"size": task.size, "checksum": task.checksum} if isinstance(task, Refer) else None
    if verdict.code == "Deleting":
        return Err("Deleting")
    raise ReducerFailed(f"{task} is impossible: {verdict.detail}")


COUNTED: Final[Transactional] = {
    Hold: _count,
    Refer: _count,
    Leave: _count,
    Unlink: _count,
    Mark: _count,
}
"""The tasks of this module as transactional ones."""


def sweeping(transactor: Transactor, delete: Handler) -> Handler:
    """A handler of `s3/delete` that deletes only while the blob is *deleting*.

    An attempt that lost its lease long ago must not meet the bytes of a later upload: it fails as
    `NotDeleting`, and nobody listens any more.
    """

    async def sweep(task: Delete, context: Context) -> Any:
        head = await transactor.get(BLOB.job(task.link.multihash))
        if head is None or not isinstance(head.state, Deleting):
            raise Failure("NotDeleting")
        return await delete(task, context)

    return sweep
