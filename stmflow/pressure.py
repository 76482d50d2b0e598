"""Back-pressure: how quickly a queue drains, and so when it is worth coming back.

Pure: the time is an argument, in milliseconds.
"""

from __future__ import annotations

from math import ceil

WINDOW_MS = 1_000
"""Over how long the rate is taken."""
SOONEST_MS = 20
LATEST_MS = 30_000
"""The shortest and the longest wait that anybody is told."""
UNKNOWN_MS = 1_000
"""What is told before anything has been measured."""


class Drain:
    """How many leave a queue in a millisecond, while anybody waits in it."""

    __slots__ = ("_left", "_rate", "_since")

    def __init__(self) -> None:
        self._left = 0
        self._rate = 0.0
        self._since: int | None = None

    def left(self, count: int, now: int, *, waiting: int) -> None:
        """So many have just left, and so many still wait."""
        if self._since is not None:
            self._left += count
            if now - self._since >= WINDOW_MS:
                self._rate, self._since, self._left = self._per_ms(now), now, 0
        if waiting == 0:  # what comes next may come late: that says nothing of the rate
            self._since = None
        elif self._since is None:
            self._since, self._left = now, 0

    def retry_after(self, waiting: int, now: int) -> int:
        """When a queue of that length will be empty, at the rate measured (milliseconds)."""
        rate = self._per_ms(now)
        if rate > 0:
            return min(max(ceil(waiting / rate), SOONEST_MS), LATEST_MS)
        stuck = self._since is not None and now - self._since >= WINDOW_MS
        return LATEST_MS if stuck else UNKNOWN_MS

    def _per_ms(self, now: int) -> float:
        """The rate until now. The last one counts as one window: it fades in a standstill."""
        elapsed = 0 if self._since is None else max(now - self._since, 0)
        left = self._left if elapsed else 0
        known = WINDOW_MS if self._rate else 0
        return (self._rate * known + left) / (known + elapsed) if known + elapsed else 0.0


__all__ = ["Drain"]
