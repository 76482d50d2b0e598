"""Every error that stmflow raises on purpose.

StmflowError
├── CodecError (ValueError)       bytes or values that are not what they claim to be
│   ├── MalformedBlock            not strict DAG-CBOR, not a CID, not a CAR, not the declared type
│   ├── MalformedHistory          a line of a recorded history that is no operation
│   ├── LimitExceeded             a bound of `limits.py` was passed; nothing was decoded
│   └── HashMismatch              bytes do not hash to the CID they came under
├── StoreError                    what a store says of a commit or of itself
│   ├── Conflict                  did not happen: something read has changed
│   ├── Indeterminate             unknown: it may have happened; `delivery` settles it
│   ├── Unavailable               did not happen: the store could not be reached or is busy
│   │   ├── DiskFull              did not happen: no room; what was committed is safe
│   │   └── Busy                  did not happen: too much waits; `retry_after` says when to come
│   ├── ReadOnly                  did not happen: the database may not be written
│   ├── UnsafeStore               refused to open: settings that would lose commits
│   ├── UnknownSchema             refused to open: a schema or codec version we do not know
│   └── Corrupt                   the store gave back something it cannot have been given
├── WorkflowError                 what a caller, a workflow or a worker got wrong
│   ├── InvalidWorkflow           a definition that cannot work, found when it is made
│   ├── InvalidEvent (ValueError) an event, key or task that its declared type refuses
│   ├── NotOutside                an event that only the engine may deliver
│   ├── UnknownVersion            a block names a version for which nothing is registered
│   │   └── UnknownWorkflow       nor any other version of that workflow
│   ├── UnknownTask               no such task in the outbox
│   ├── ImpureReducer             `update` gave two answers to one question
│   ├── ReducerFailed             a reducer, hook or body raised; nothing was written
│   ├── ConflictsExhausted        did not happen: lost the race too often
│   └── Stopped                   did not happen: the transactor or scheduler has been left
├── CapabilityError               why an invocation or a proof has no authority; nothing written
│   ├── InvalidDID (ValueError)   not a principal's name, or one of a kind we do not know
│   │   └── WeakKey               a key under which anybody can sign
│   ├── UnknownKey                no key can be found for that principal
│   ├── InvalidSignature          not signed by its issuer, or not in the one form we accept
│   ├── InvalidAudience           addressed to somebody else
│   ├── InvalidSubject            about somebody else, or not granted by whom it is about
│   ├── InvalidClaim              asks for more than its proof grants, or not in its form
│   ├── MatchError                arguments that a policy on the way does not allow
│   ├── UnavailableProof          a proof that was not sent and is not known here
│   ├── Expired                   its time is over
│   ├── TooEarly                  its time has not come
│   ├── Revoked                   taken back by somebody who may
│   └── UnknownCommand            nothing is provided under that name
├── LookupFailed (LookupError)    nothing, or too much, answers to that name
│   ├── NotFound                  no block or job has that CID
│   ├── Archived                  the job is in the archive: nothing happened, revive it first
│   └── Ambiguous                 several blocks have that prefix: `candidates`
└── DeadlineExceeded (TimeoutError)  the caller's deadline passed

A task's failure is never an exception in a reducer: it is data, `Err(name, detail)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stmflow.cid import CID


class StmflowError(Exception):
    """The root of the tree above."""


class CodecError(StmflowError, ValueError):
    """Bytes or values that are not what they claim to be."""


class MalformedBlock(CodecError):
    """Not strict DAG-CBOR, not a CID, not a CAR, or not of the declared type."""


class MalformedHistory(CodecError):
    """A line of a recorded history (`stmflow.testing`) that is no operation, or out of order."""


class LimitExceeded(CodecError):
    """A bound of `stmflow.limits` was passed, before anything was decoded or written."""


class HashMismatch(CodecError):
    """Bytes that do not hash to the CID they came under."""


class StoreError(StmflowError):
    """What a store says of a commit or of itself."""


class Conflict(StoreError):
    """Nothing was written: something that the transaction read has changed."""


class Indeterminate(StoreError):
    """The commit may or may not have happened.

    `delivery` is (job, delivery id) when the same call may be sent again under that id to settle
    the question; `None` when there is no such id and the caller has to look for himself.
    """

    def __init__(self, message: str, *, delivery: tuple[CID, bytes] | None = None) -> None:
        super().__init__(message)
        self.delivery = delivery


class Unavailable(StoreError):
    """Nothing was written: the store is down, busy or closed. Try again later."""


class DiskFull(Unavailable):
    """Nothing was written: the disk is full. What was committed before is safe."""


class Busy(Unavailable):
    """Nothing was written, nothing was queued: too much waits already.

    `retry_after` is when what waits now will be done, in milliseconds from now, at the rate at
    which it is being done. Add some chance to it, or all who were refused come back at once.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ReadOnly(StoreError):
    """Nothing was written: this database may only be read."""


class UnsafeStore(StoreError):
    """The store refused to open: its settings could lose acknowledged commits."""


class UnknownSchema(StoreError):
    """The store refused to open: not a database of ours, or of a version we do not know."""


class Corrupt(StoreError):
    """The store gave back something that it cannot have been given."""


class WorkflowError(StmflowError):
    """What a caller, a workflow's definition or a worker got wrong."""


class InvalidWorkflow(WorkflowError):
    """A definition that cannot work; raised when the workflow is made."""


class InvalidEvent(WorkflowError, ValueError):
    """An event, key or task that its declared type refuses. Nothing was written."""


class NotOutside(WorkflowError):
    """An event that is not in the workflow's `outside` list. Nothing was written."""


class UnknownVersion(WorkflowError):
    """A block names a workflow version for which nothing is registered here."""


class UnknownWorkflow(UnknownVersion):
    """No workflow of that name is registered here, in no version."""


class UnknownTask(WorkflowError):
    """No such task waits in the outbox (any more)."""


class ImpureReducer(WorkflowError):
    """`update` gave two different answers to the same event and state."""


class ReducerFailed(WorkflowError):
    """`update`, a hook or a transaction's body raised. Nothing was written."""


class ConflictsExhausted(WorkflowError):
    """Nothing was written: the transaction lost the race more often than its cap allows."""


class Stopped(WorkflowError):
    """Nothing was written: the transactor or scheduler has been left."""


class CapabilityError(StmflowError):
    """Why an invocation or one of its proofs has no authority. Nothing was written.

    `token` is the CID of the one that is at fault, where there is one; `causes` are the reasons
    one level down, such as what was wrong with each proof: together they are a tree.
    """

    def __init__(
        self, message: str, *, token: CID | None = None, causes: Sequence[CapabilityError] = ()
    ) -> None:
        super().__init__(message)
        self.token = token
        self.causes = tuple(causes)


class InvalidDID(CapabilityError, ValueError):
    """Not the name of a principal, or of a kind that is not known here."""


class WeakKey(InvalidDID):
    """A public key under which anybody can make a signature that verifies."""


class UnknownKey(CapabilityError):
    """The principal has no key of its own in its name, and none could be found for it."""


class InvalidSignature(CapabilityError):
    """Not signed by its issuer, or not in the one form that is accepted."""


class InvalidAudience(CapabilityError):
    """Addressed to somebody else."""


class InvalidSubject(CapabilityError):
    """About somebody else, or not granted by the one whom it is about."""


class InvalidClaim(CapabilityError):
    """It asks for more than its proof grants, or not in the form that its command has."""


class MatchError(CapabilityError):
    """Arguments that a policy on the way does not allow."""


class UnavailableProof(CapabilityError):
    """A proof that did not travel with the invocation and is not known here."""


class Expired(CapabilityError):
    """Its time is over."""


class TooEarly(CapabilityError):
    """Its time has not come."""


class Revoked(CapabilityError):
    """Taken back by somebody who may do so."""


class UnknownCommand(CapabilityError):
    """Nothing is provided under that name, at least not to the outside."""


class LookupFailed(StmflowError, LookupError):
    """Nothing, or too much, answers to that name."""


class NotFound(LookupFailed):
    """No block or job has that CID."""


class Archived(LookupFailed):
    """The job is not lost and not new: its last revision is in the archive. Nothing happened.

    `job` may be revived (`stmflow.archive.Reader.revive`), and the call made again; `revision` is
    the head to which it comes back.
    """

    def __init__(self, job: CID, revision: CID) -> None:
        super().__init__(f"job {job} is in the archive, with the head {revision}")
        self.job = job
        self.revision = revision


class Ambiguous(LookupFailed):
    """Several blocks share the prefix; `candidates` lists their CIDs."""

    def __init__(self, message: str, candidates: Sequence[CID]) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class DeadlineExceeded(StmflowError, TimeoutError):
    """The caller's deadline passed. It says nothing of the job, which goes on."""
