"""The words of a request: what may come, what is asked for, and what is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

from stmflow import At, Err

BODY_BYTES: Final = 32 * 1024
"""The longest body of a request, and of an answer."""

Status: TypeAlias = Literal[
    "connecting",
    "sending",
    "waiting",
    "unknown",
    "backoff",
    "done",
    "failed",
    "cancelled",
]
ENDED: Final = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Terms:
    """The budget of a request: attempts, those of them that may fail to find the peer, the time of
    one attempt and of all of them, and how long to pause in between."""

    attempts: int = 5
    lookups: int = 2
    attempt_ms: int = 2_000
    deadline_ms: int = 30_000
    base_ms: int = 50
    cap_ms: int = 5_000


# --- events from outside --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Send this to the peer, once. `key` names the request, here and there; `idempotent` says that
    it does no harm if it is carried out again."""

    tag: ClassVar[str] = "transport/start"

    key: str
    peer: str
    body: bytes
    idempotent: bool
    terms: Terms = Terms()
    at: At = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """It is no longer wanted."""

    tag: ClassVar[str] = "transport/cancel"

    key: str
    at: At = 0


# --- events that tasks and timers bring -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a wire, and this is its name."""

    tag: ClassVar[str] = "transport/connected"

    wire: str


@dataclass(frozen=True, slots=True)
class Sent:
    """Every byte of the frame was handed to the network."""

    tag: ClassVar[str] = "transport/sent"


@dataclass(frozen=True, slots=True)
class Answered:
    """It was carried out."""

    tag: ClassVar[str] = "transport/answered"

    body: bytes


@dataclass(frozen=True, slots=True)
class Declined:
    """The peer answered with an error of this class: the name of the error."""

    tag: ClassVar[str] = "transport/declined"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The time of one attempt is over."""

    tag: ClassVar[str] = "transport/timed-out"

    at: At = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """Refused, reset, broken off, or the worker that held the wire has died."""

    tag: ClassVar[str] = "transport/dropped"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The peer's name has no address."""

    tag: ClassVar[str] = "transport/unresolved"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There is no way to the address."""

    tag: ClassVar[str] = "transport/unreachable"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class Resume:
    """A pause is over."""

    tag: ClassVar[str] = "transport/resume"

    at: At = 0


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time of all attempts is over."""

    tag: ClassVar[str] = "transport/deadline"

    at: At = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the key, for good: it was carried out, with this answer; or it was not, and no
    attempt up to the one that was asked about will be."""

    tag: ClassVar[str] = "transport/settled"

    body: bytes | None
    at: At = 0


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The peer could not be asked."""

    tag: ClassVar[str] = "transport/unsettled"

    error: Err
    at: At = 0


Inside: TypeAlias = (
    Connected
    | Sent
    | Answered
    | Declined
    | TimedOut
    | Dropped
    | Unresolved
    | Unreachable
    | Resume
    | Deadline
    | Settled
    | Unsettled
)
Event: TypeAlias = Start | Cancel | Inside


# --- tasks ----------------------------------------------------------------------------------------
# A wire lives in the process that dialled it, and no other has one of that name. `until` is when a
# task gives up, in milliseconds since 1970 UTC; a wire closes itself at its request's deadline.


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a wire for this attempt, which nothing uses after `deadline`. Outcome: its name."""

    tag: ClassVar[str] = "transport/dial"

    key: str
    attempt: int
    peer: str
    until: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Write:
    """Send the frame over that wire, all of it; no wire carries two. `fresh`: with credentials that
    were fetched anew. Outcome: nothing."""

    tag: ClassVar[str] = "transport/write"

    key: str
    attempt: int
    wire: str
    body: bytes
    fresh: bool
    until: int


@dataclass(frozen=True, slots=True)
class Read:
    """Read the answer from that wire. Outcome: its body."""

    tag: ClassVar[str] = "transport/read"

    key: str
    attempt: int
    wire: str
    until: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close every wire of this attempt, and open none any more. Outcome: nothing."""

    tag: ClassVar[str] = "transport/close"

    key: str
    attempt: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Ask the peer what became of the key; it forbids all attempts up to this one if it has done
    nothing yet. Outcome: the body of the answer, or None."""

    tag: ClassVar[str] = "transport/reconcile"

    key: str
    attempt: int
    peer: str
    until: int


# --- the state ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        deadline: when it is over, in milliseconds. attempt: which one this is; the job's epoch.
        lookups: attempts that have not found the peer. asks: questions that were not answered.
        fresh: this attempt's credentials were fetched anew, because those before were refused.
        unwanted: it was cancelled, if that was not too late.
        maybe: an attempt that is over may have been carried out, or may still be.
    """

    key: str
    status: Status
    deadline: int
    peer: str = ""
    body: bytes = b""
    idempotent: bool = False
    terms: Terms = Terms()
    attempt: int = 1
    lookups: int = 0
    asks: int = 0
    fresh: bool = False
    unwanted: bool = False
    maybe: bool = False
    answer: bytes | None = None
    error: Err | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ENDED

    @property
    def happened(self) -> bool | None:
        """Whether it was carried out, once it has ended; None: nobody knows."""
        return True if self.status == "done" else None if self.maybe else False
