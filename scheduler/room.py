"""Room for one more task: by the limits of this worker, and by those of all workers together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from scheduler.shares import Pool, Shares
from scheduler.slots import Limits, Slots
from stmflow.clock import Clock
from stmflow.placement import plain
from stmflow.store import Kind


class Slot(NamedTuple):
    """A place for one task, here and in every pool that it draws from."""

    tag: str
    tenant: str
    pools: tuple[Pool, ...]

    def ends(self, end: int) -> int:
        """When an attempt has to end that would end then: no later than any pool's lease."""
        return min([end, *(pool.ends(end) for pool in self.pools)])


class Room:
    """Takes and gives slots by all limits there are. Nothing here blocks.

    Args:
        attempt_ms: task tag → the longest attempt at such a task.
    """

    def __init__(self, limits: Limits, attempt_ms: Mapping[str, int], clock: Clock) -> None:
        self.slots = Slots(limits)
        self.shares = Shares(limits.shared, attempt_ms, slots=limits.slots, clock=clock)
        self._clock = clock

    def of(self, kind: Kind, tenant: str) -> int:
        """How many more such tasks may start now, but for the limits of their type."""
        now = self._clock.now()
        room = self.slots.room_of(tenant, now)
        return min(room, self.shares.room(kind, tenant, now)) if room else 0

    def take(self, kind: Kind, tenant: str) -> Slot | None:
        """A slot for a task that stands in the outbox under this kind, or None."""
        now, tag = self._clock.now(), plain(kind[2])
        if not self.slots.take(tag, tenant, now):
            return None
        pools = self.shares.take(kind, tenant, now)
        if pools is None:
            self.slots.give(tag, tenant, unused=True)
            return None
        return Slot(tag, tenant, pools)

    def give(self, slot: Slot, *, unused: bool = False) -> None:
        """Return it; where nothing was started on it, its tokens as well."""
        self.slots.give(slot.tag, slot.tenant, unused=unused)
        for pool in slot.pools:
            pool.give(unused=unused)
