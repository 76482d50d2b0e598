"""Whether and when a failed attempt is made again: classes of failure, policies, backoff.

Pure: elapsed time and the random draw are arguments. The classes are those of one table for
everything that speaks to a network; a handler names one by raising `Failure`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Retry(enum.Enum):
    """What one failed attempt allows the next one to be.

    ============ ================================= =========================================
    class        what is known                     made again
    ============ ================================= =========================================
    SAFE         nothing was sent                  yes
    IDEMPOTENT   sent, outcome unknown             if the policy says `idempotent`
    THROTTLED    refused for now                   yes, not before `after_ms`
    AUTH         credentials have run out          once, with fresh ones
    FATAL        refused for good                  never
    CONFLICT     something else holds the place    never: read again and decide
    CORRUPT      bytes that are not what they say  never
    ============ ================================= =========================================
    """

    SAFE = "safe"
    IDEMPOTENT = "idempotent"
    THROTTLED = "throttled"
    AUTH = "auth"
    FATAL = "fatal"
    CONFLICT = "conflict"
    CORRUPT = "corrupt"


class Failure(Exception):
    """An attempt that failed, raised by a handler; given up, it becomes `Err(name, detail)`.

    `name` is what a workflow catches. `detail` is plain IPLD data or None and goes into history:
    never a secret, a signed URL or a message of a library. `after_ms` is how long the other side
    asked us to wait, from now.
    """

    def __init__(
        self,
        name: str,
        detail: Any = None,
        *,
        retry: Retry = Retry.FATAL,
        after_ms: int | None = None,
    ) -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail
        self.retry = retry
        self.after_ms = None if after_ms is None else int(after_ms)

    def __str__(self) -> str:
        return f"{self.name} ({self.retry.value})" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often, how long and how patiently one type of task is tried.

    `attempts` caps the attempts; `deadline_ms` the whole time since the task was committed or
    redriven (None: no end); `attempt_ms` one attempt. The pause after attempt n is drawn evenly
    from zero to `base_ms` * 2 ** (n - 1), at most `cap_ms`. `idempotent` says that the
    work may be done twice, so an attempt of unknown outcome may be repeated.
    """

    attempts: int = 10
    deadline_ms: int | None = None
    attempt_ms: int = 30_000
    base_ms: int = 200
    cap_ms: int = 30_000
    idempotent: bool = True

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.attempt_ms < 1:
            raise ValueError("a policy needs at least one attempt of at least 1 ms")
        if self.deadline_ms is not None and self.deadline_ms < 1:
            raise ValueError("deadline_ms must be at least 1, or None")
        if not 0 <= self.base_ms <= self.cap_ms:
            raise ValueError("a policy needs 0 <= base_ms <= cap_ms")


def next_delay_ms(
    policy: Policy,
    failure: Failure,
    *,
    attempt: int,
    elapsed_ms: int,
    draw: float,
    previous: Retry | None = None,
) -> int | None:
    """How long to wait before the next attempt, in milliseconds; None to give up.

    `attempt` is the number of the attempt that failed, from 1; `elapsed_ms` the time since the
    task was committed; `draw` an even draw from [0, 1). `previous` is the class of the failure
    before this one, if there was one and it was kept: credentials are refreshed once, so AUTH
    right after AUTH is given up, and so is AUTH after an attempt of which nothing is known.
    The next attempt must begin before the deadline, or it is not made.

    Source: full jitter, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if attempt >= policy.attempts or not _may_repeat(policy, failure.retry, attempt, previous):
        return None
    delay_ms = _delay_ms(policy, failure, attempt, draw)
    if policy.deadline_ms is not None and elapsed_ms + delay_ms >= policy.deadline_ms:
        return None
    return delay_ms


def _may_repeat(policy: Policy, retry: Retry, attempt: int, previous: Retry | None) -> bool:
    match retry:
        case Retry.SAFE | Retry.THROTTLED:
            return True
        case Retry.IDEMPOTENT:
            return policy.idempotent
        case Retry.AUTH:
            return attempt == 1 or previous not in (None, Retry.AUTH)
        case Retry.FATAL | Retry.CONFLICT | Retry.CORRUPT:
            return False


def _delay_ms(policy: Policy, failure: Failure, attempt: int, draw: float) -> int:
    if failure.retry is Retry.SAFE and failure.after_ms is not None:
        return max(failure.after_ms, 0)  # nothing went wrong: the handler says when to look again
    widest_ms = min(policy.cap_ms, policy.base_ms << min(attempt - 1, 40))
    return max(failure.after_ms or 0, int(draw * widest_ms))
