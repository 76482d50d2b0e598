"""The words of store/add: what is asked, what may happen, and what is true in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pydantic import Field

from stmflow import CID, At, Err

MAX_BYTES: Final = 5 * 1024**3
"""The most that S3 takes in one PUT."""

DAY_MS: Final = 24 * 3_600_000

Space = Annotated[str, Field(min_length=1, max_length=256)]
Size = Annotated[int, Field(gt=0, le=MAX_BYTES)]
Span = Annotated[int, Field(gt=0, le=7 * DAY_MS)]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the service grants to one try. Part of the event, so that history replays after the
    service has changed its mind.

    `window_ms`: how long an upload URL is valid; an extension grants as much again, from then.
    `skew_ms`: how much later the deadline is acted upon. It must cover the difference of the
    clocks here and at S3, and the longest time that a PUT takes which began in time.
    `longest_ms`: the end of all extensions, from the moment when the first URL was asked for.
    """

    window_ms: Span = 3_600_000
    skew_ms: Span = 60_000
    longest_ms: Span = DAY_MS


# --- events that callers send -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Add:
    """An agent asks a space to store the bytes of `link`. `cause` is the asking invocation."""

    tag: ClassVar[str] = "store/add"

    space: Space
    link: CID
    size: Size
    agent: str = ""
    cause: CID | None = None
    terms: Terms = Terms()


@dataclass(frozen=True, slots=True)
class Put:
    """An agent claims that it has uploaded. A claim is checked, never believed."""

    tag: ClassVar[str] = "store/put"

    space: Space
    link: CID
    receipt: CID | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The agent gives up."""

    tag: ClassVar[str] = "store/cancel"

    space: Space
    link: CID
    at: At = 0


@dataclass(frozen=True, slots=True)
class Extend:
    """The agent needs more time."""

    tag: ClassVar[str] = "store/extend"

    space: Space
    link: CID
    at: At = 0


@dataclass(frozen=True, slots=True)
class Remove:
    """The space no longer wants it."""

    tag: ClassVar[str] = "store/remove"

    space: Space
    link: CID
    at: At = 0


# --- events that only effects, timers and the service's own code bring ----------------------------


@dataclass(frozen=True, slots=True)
class Allocated:
    """There was room."""

    tag: ClassVar[str] = "store/allocated"

    reservation: CID
    size: int


@dataclass(frozen=True, slots=True)
class Exceed:
    """There was none."""

    tag: ClassVar[str] = "store/exceed"

    error: Err


@dataclass(frozen=True, slots=True)
class Looked:
    """What a stat saw. `found` means: there, with this size and hash."""

    tag: ClassVar[str] = "store/looked"

    found: bool
    size: int | None
    checksum: bytes | None
    mismatch: bool
    at: At = 0


@dataclass(frozen=True, slots=True)
class Signed:
    """The URL for the upload, its exact headers and its end."""

    tag: ClassVar[str] = "store/signed"

    url: str = field(repr=False)
    headers: Mapping[str, str]
    until: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A claim was true."""

    tag: ClassVar[str] = "store/verified"

    verified: Literal[True]
    size: int
    checksum: bytes
    round: int


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A claim was not true; the error's detail names the round."""

    tag: ClassVar[str] = "store/mismatch"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class Expire:
    """The deadline and its margin have passed."""

    tag: ClassVar[str] = "store/expire"

    at: At = 0


@dataclass(frozen=True, slots=True)
class EffectFailed:
    """A task failed for good."""

    tag: ClassVar[str] = "effect/failed"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class Referred:
    """The blob counts one reference more, on this proof."""

    tag: ClassVar[str] = "store/referred"

    size: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class BlobDeleting:
    """The bytes are on their way out."""

    tag: ClassVar[str] = "store/deleting"

    error: Err


@dataclass(frozen=True, slots=True)
class LookAgain:
    """They may be gone by now."""

    tag: ClassVar[str] = "store/look"


@dataclass(frozen=True, slots=True)
class Removed:
    """Capacity and reference were given back."""

    tag: ClassVar[str] = "store/removed"


@dataclass(frozen=True, slots=True)
class Lost:
    """An audit of the service did not find the bytes."""

    tag: ClassVar[str] = "store/lost"

    at: At = 0


Event: TypeAlias = (
    Add
    | Put
    | Cancel
    | Extend
    | Remove
    | Allocated
    | Exceed
    | Looked
    | Signed
    | Verified
    | Mismatch
    | Expire
    | EffectFailed
    | Referred
    | BlobDeleting
    | LookAgain
    | Removed
    | Lost
)


# --- states -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upload:
    """What was asked in this try, and what it costs.

    `charged` is what the space pays for it now; `closes` is when the last URL signed for it is
    dead for certain (0: none was signed). Capacity goes back not before.
    """

    space: str
    link: CID
    size: int
    agent: str
    cause: CID | None
    terms: Terms
    reservation: CID
    charged: int = 0
    closes: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how the agent uploads."""

    url: str = field(repr=False)
    headers: Mapping[str, str]
    until: int


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which bytes may come: since when, until when, which look, and where to."""

    since: int
    deadline: int
    round: int = 0
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """Removed; only the number of tries is kept."""

    tag: ClassVar[str] = "idle"

    upload: Upload
    epoch: int


@dataclass(frozen=True, slots=True)
class Allocating:
    """Capacity is asked for."""

    tag: ClassVar[str] = "allocating"

    upload: Upload
    epoch: int


@dataclass(frozen=True, slots=True)
class Probing:
    """The bytes may be there already. `held`: they cannot be deleted meanwhile."""

    tag: ClassVar[str] = "probing"

    upload: Upload
    epoch: int
    held: bool = True


@dataclass(frozen=True, slots=True)
class Receiving:
    """The agent may upload."""

    tag: ClassVar[str] = "receiving"

    upload: Upload
    epoch: int
    window: Window


@dataclass(frozen=True, slots=True)
class Verifying:
    """Bytes were claimed, or the deadline has passed (`final`): a proof is looked for."""

    tag: ClassVar[str] = "verifying"

    upload: Upload
    epoch: int
    window: Window
    final: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes are there, proved by size and hash."""

    tag: ClassVar[str] = "stored"

    upload: Upload
    epoch: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class Exceeded:
    """There was no room."""

    tag: ClassVar[str] = "exceeded"

    upload: Upload
    epoch: int
    error: Err


@dataclass(frozen=True, slots=True)
class Expired:
    """Nothing came in time."""

    tag: ClassVar[str] = "expired"

    upload: Upload
    epoch: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A task failed for good, or the agent gave up (`Cancelled`)."""

    tag: ClassVar[str] = "failed"

    upload: Upload
    epoch: int
    error: Err


@dataclass(frozen=True, slots=True)
class Removing:
    """Capacity and reference are on their way back."""

    tag: ClassVar[str] = "removing"

    upload: Upload
    epoch: int


State: TypeAlias = (
    Idle
    | Allocating
    | Probing
    | Receiving
    | Verifying
    | Stored
    | Exceeded
    | Expired
    | Failed
    | Removing
)
