"""Who may run how much at once: slots, per task type, per tenant, and rates. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.shares import Shared

_FORGET = 1_024
"""So many tenants' buckets are kept before the full ones, which say nothing, are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one scheduler, that is of one worker process.

    Attributes:
        slots: tasks at once. per_type: task tag → at once. per_tenant: at once for each tenant.
        rates: task tag → starts per second. rate_per_tenant: starts per second for each tenant.
            A rate lets a second's worth start at once, and at least one task.
        weights: task tag → its share where types compete for slots; 1 where none is given.
        shared: limits that hold over all workers together.

    Raises:
        ValueError: a number that nothing could run under.
    """

    slots: int = 64
    per_type: Mapping[str, int] = field(default_factory=dict)
    per_tenant: int | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    rate_per_tenant: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    shared: Sequence[Shared] = ()

    def __post_init__(self) -> None:
        given = {"slots": self.slots, "per_tenant": self.per_tenant}
        counts = given | {f"per_type {tag}": count for tag, count in self.per_type.items()}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name}: at least one task has to fit, not {count}")
        speeds = {f"rates {tag}": rate for tag, rate in self.rates.items()}
        speeds |= {f"weights {tag}": weight for tag, weight in self.weights.items()}
        for name, speed in (speeds | {"rate_per_tenant": self.rate_per_tenant}).items():
            if speed is not None and not 0 < speed < float("inf"):
                raise ValueError(f"{name}: a number above 0, not {speed}")

    @property
    def tags(self) -> frozenset[str]:
        """The types that are named."""
        shared = [tag for limit in self.shared for tag in limit.types]
        return frozenset([*self.per_type, *self.rates, *self.weights, *shared])


class Slots:
    """What is in use. `take` reserves, `give` returns; neither blocks."""

    __slots__ = ("_forget", "_limits", "_starts", "_tags", "_tenants", "_tokens", "_used")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._used = 0
        self._tags: dict[str, int] = {}
        self._tenants: dict[str, int] = {}
        self._tokens = {tag: _Bucket(rate) for tag, rate in limits.rates.items()}
        self._starts: dict[str, _Bucket] = {}
        self._forget = _FORGET

    @property
    def used(self) -> int:
        """Slots in use."""
        return self._used

    @property
    def free(self) -> int:
        """Slots not in use."""
        return self._limits.slots - self._used

    def room(self, tag: str, now: int) -> int:
        """How many more tasks of that tag may start now."""
        limits = self._limits
        room = limits.slots - self._used
        if tag in limits.per_type:
            room = min(room, limits.per_type[tag] - self._tags.get(tag, 0))
        if tag in self._tokens:
            room = min(room, self._tokens[tag].whole(now))
        return max(room, 0)

    def room_of(self, tenant: str, now: int) -> int:
        """How many more tasks of that tenant may start now."""
        limits = self._limits
        room = limits.slots - self._used
        if limits.per_tenant is not None:
            room = min(room, limits.per_tenant - self._tenants.get(tenant, 0))
        if tenant in self._starts:
            room = min(room, self._starts[tenant].whole(now))
        elif limits.rate_per_tenant is not None:
            room = min(room, max(1, int(limits.rate_per_tenant)))
        return max(room, 0)

    def take(self, tag: str, tenant: str, now: int) -> bool:
        """Reserve a slot; False where a limit is reached."""
        limits = self._limits
        if self.room(tag, now) < 1 or self.room_of(tenant, now) < 1:
            return False
        self._used += 1
        self._tags[tag] = self._tags.get(tag, 0) + 1
        self._tenants[tenant] = self._tenants.get(tenant, 0) + 1
        if tag in self._tokens:
            self._tokens[tag].take(now)
        if limits.rate_per_tenant is not None:
            self._start(tenant, limits.rate_per_tenant, now)
        return True

    def give(self, tag: str, tenant: str, *, unused: bool = False) -> None:
        """Return a slot; where nothing was started on it, its tokens as well."""
        if unused:
            for bucket in (self._tokens.get(tag), self._starts.get(tenant)):
                if bucket is not None:
                    bucket.give()
        self._used -= 1
        self._tags[tag] -= 1
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]

    def next_token(self, now: int) -> int | None:
        """When the next token of an empty bucket comes (milliseconds), or None."""
        buckets = (*self._tokens.values(), *self._starts.values())
        waits = [bucket.next(now) for bucket in buckets if bucket.whole(now) < 1]
        return min(waits, default=None)

    def _start(self, tenant: str, rate: float, now: int) -> None:
        if len(self._starts) >= self._forget:
            kept = {who: bucket for who, bucket in self._starts.items() if not bucket.full(now)}
            self._starts, self._forget = kept, max(_FORGET, 2 * len(kept))
        self._starts.setdefault(tenant, _Bucket(rate)).take(now)


class _Bucket:
    """A token bucket that holds a second's worth, and at least one token; full at first."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = max(1.0, rate)
        self._at: int | None = None

    def take(self, now: int) -> None:
        self._tokens, self._at = self._fill(now) - 1, now

    def give(self) -> None:
        self._tokens += 1

    def whole(self, now: int) -> int:
        """Tokens that are there."""
        return int(self._fill(now))

    def full(self, now: int) -> bool:
        return self._fill(now) >= max(1.0, self._rate)

    def next(self, now: int) -> int:
        """When there will be one, if there is none."""
        return now + int((1 - self._fill(now)) * 1_000 / self._rate) + 1

    def _fill(self, now: int) -> float:
        if self._at is None:
            return self._tokens
        self._at = min(self._at, now)  # it was set back: from here on it is gained anew
        gained = (now - self._at) * self._rate / 1_000
        return min(max(1.0, self._rate), self._tokens + gained)
