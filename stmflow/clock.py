"""Time, as an argument: the `Clock` that everything below the edge is given.

No other module reads a clock. A simulation, a test or a model checker hands in a clock of its own
and then owns the time of the whole program.
"""

from __future__ import annotations

import time
from typing import Protocol

import anyio
import anyio.lowlevel

LONGEST_NAP_MS = 60_000
"""The longest sleep between two looks at the wall clock, in milliseconds."""


class Clock(Protocol):
    """What tells the time, in integer milliseconds since 1970-01-01 00:00 UTC."""

    def now(self) -> int:
        """The time, in milliseconds. It may jump either way; who needs order takes maxima."""
        ...

    async def sleep_until(self, at_ms: int) -> None:
        """Return when `now()` is `at_ms` or later; at once, after one checkpoint, if it is."""
        ...


class SystemClock:
    """The wall clock of this machine.

    A sleeper looks at the clock again every `LONGEST_NAP_MS`, so one that was set, or a machine
    that was suspended, makes it wake at most that much too late, and never too early.
    """

    def now(self) -> int:
        """The wall clock, in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    async def sleep_until(self, at_ms: int) -> None:
        """Return when the wall clock shows `at_ms` or later."""
        left_ms = at_ms - self.now()
        if left_ms <= 0:
            await anyio.lowlevel.checkpoint()
        while left_ms > 0:
            await anyio.sleep(min(left_ms, LONGEST_NAP_MS) / 1_000)
            left_ms = at_ms - self.now()
