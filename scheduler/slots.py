"""Who may run how much at once: slots, per task type, per tenant, and rates. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one scheduler.

    Attributes:
        slots: tasks at once. per_type: task tag → at once. per_tenant: at once for each tenant.
        rates: task tag → starts per second.
    """

    slots: int = 64
    per_type: Mapping[str, int] = field(default_factory=dict)
    per_tenant: int | None = None
    rates: Mapping[str, float] = field(default_factory=dict)


class Slots:
    """What is in use. `take` reserves, `give` returns; neither blocks."""

    __slots__ = ("_limits", "_tags", "_tenants", "_tokens", "_used")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._used = 0
        self._tags: dict[str, int] = {}
        self._tenants: dict[str, int] = {}
        self._tokens = {tag: (max(1.0, rate), 0) for tag, rate in limits.rates.items()}

    @property
    def used(self) -> int:
        """Slots in use."""
        return self._used

    def room(self, tag: str, now: int) -> int:
        """How many more tasks of that tag may start now."""
        limits = self._limits
        room = limits.slots - self._used
        if tag in limits.per_type:
            room = min(room, limits.per_type[tag] - self._tags.get(tag, 0))
        if tag in limits.rates:
            room = min(room, int(self._fill(tag, now)))
        return max(room, 0)

    def take(self, tag: str, tenant: str, now: int) -> bool:
        """Reserve a slot; False where a limit is reached."""
        if self._used >= self._limits.slots or self.room(tag, now) < 1 or self.full(tenant):
            return False
        self._used += 1
        self._tags[tag] = self._tags.get(tag, 0) + 1
        if self._limits.per_tenant is not None:
            self._tenants[tenant] = self._tenants.get(tenant, 0) + 1
        if tag in self._limits.rates:
            self._tokens[tag] = (self._fill(tag, now) - 1, now)
        return True

    def give(self, tag: str, tenant: str) -> None:
        """Return a slot."""
        self._used -= 1
        self._tags[tag] -= 1
        if tenant in self._tenants:
            self._tenants[tenant] -= 1
            if not self._tenants[tenant]:
                del self._tenants[tenant]

    def full(self, tenant: str) -> bool:
        """Whether that tenant has all it may have."""
        cap = self._limits.per_tenant
        return cap is not None and self._tenants.get(tenant, 0) >= cap

    def full_tenants(self) -> Collection[str]:
        """Every tenant that has all it may have."""
        return [tenant for tenant in self._tenants if self.full(tenant)]

    def next_token(self, now: int) -> int | None:
        """When the next token of an empty bucket comes (milliseconds), or None."""
        waits = [
            now + int((1 - tokens) * 1_000 / self._limits.rates[tag]) + 1
            for tag in self._limits.rates
            if (tokens := self._fill(tag, now)) < 1
        ]
        return min(waits, default=None)

    def _fill(self, tag: str, now: int) -> float:
        rate = self._limits.rates[tag]
        tokens, at = self._tokens[tag]
        if at == 0:
            return tokens
        return min(max(1.0, rate), tokens + max(now - at, 0) * rate / 1_000)
