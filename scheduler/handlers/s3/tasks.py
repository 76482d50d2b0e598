"""What can be asked of a bucket: one frozen type per task, and the policy that suits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

from scheduler.retry import Policy
from stmflow.cid import CID


@dataclass(frozen=True, slots=True)
class Stat:
    """Is the object there? Outcome: `{found, size, checksum, mismatch}`, always these four.

    `found` means: there, with this size and this sha2-256. An object of another size or hash is
    not found and sets `mismatch`; `size` (bytes) and `checksum` (32 bytes) tell what is there, None
    where that is nothing or was not asked.
    """

    tag: ClassVar[str] = "s3/stat"

    link: CID
    size: int


@dataclass(frozen=True, slots=True)
class Presign:
    """A URL for one PUT of these bytes. Outcome: `{url, headers, until}`.

    The uploader sends exactly `headers` (and the host of the URL): all are signed, so the server
    refuses another length, other bytes, or a second write. The URL dies at `until` (milliseconds
    since 1970) or up to two seconds before, never after.
    """

    tag: ClassVar[str] = "s3/presign"

    link: CID
    size: int
    until: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write the bytes that the bucket's `source` has for the link. Outcome: `{existed}`.

    `existed` is true when the right bytes were there before.
    """

    tag: ClassVar[str] = "s3/put"

    link: CID
    size: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Look again and again until the object is found or `until` (milliseconds since 1970) is past.

    Outcome: that of `Stat`, of the last look, which is made at `until` or later if the object was
    not found before. `Bucket.notify` brings the next look forward to now.
    """

    tag: ClassVar[str] = "s3/watch"

    link: CID
    size: int
    until: int


@dataclass(frozen=True, slots=True)
class Verify:
    """Prove a claim that the object is there. Outcome: `{verified: true, size, checksum, round}`.

    Everything else is the failure `Mismatch`, whose detail is that of `Stat` and the `round`.
    """

    tag: ClassVar[str] = "s3/verify"

    link: CID
    size: int
    round: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the object, or see that it is not there. Outcome: `{deleted: true}`.

    Nothing is checked: who commits this task has made sure that nobody needs the bytes.
    """

    tag: ClassVar[str] = "s3/delete"

    link: CID


_MINUTE = 60_000
POLICIES: Final[Mapping[type, Policy]] = MappingProxyType(
    {
        Stat: Policy(attempts=12, attempt_ms=5 * _MINUTE),
        Presign: Policy(attempts=12),
        Put: Policy(attempts=12, attempt_ms=30 * _MINUTE),
        Watch: Policy(attempts=100_000, attempt_ms=_MINUTE // 2),
        Verify: Policy(attempts=12, attempt_ms=30 * _MINUTE),
        Delete: Policy(attempts=12),
    }
)
"""What suits these tasks. A watch is ended by its `until`, not by its attempts: each attempt is one
stretch of it, short, so that few slots of the scheduler serve many watches."""
