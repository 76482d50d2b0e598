"""Whose turn it is: free slots are dealt to the types and tenants that wait.

Types share by weight, by stride scheduling: each has a pass that moves on by 1/weight with every
slot that it got, and the type whose pass is least gets the next. Within a type the tenants take
turns, in the order of their names from where the last deal ended. Nobody who waits is passed over
for ever, and no slot stays free that somebody who waits may have.

Source: Waldspurger and Weihl, *Stride Scheduling*, MIT/LCS/TM-528, 1995.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from stmflow.placement import plain
from stmflow.store import Kind, Queue, Want

LOOK = 4_096
"""Tenants that are looked at in one read, at most, for some that can be served."""

Look = Callable[[Mapping[Kind, str | None], int], Awaitable[Sequence[Queue]]]
"""As `Store.queues`."""


@dataclass(slots=True)
class Page:
    """The part of one type's queues that was looked at last.

    Attributes:
        tenants: who can be served, in order, and of which kind their first task is.
        barred: who has something due that no limit of theirs lets start now.
        whole: whether these are all that wait. end: the last tenant looked at; None: all were.
    """

    tenants: dict[str, Kind] = field(default_factory=dict)
    barred: set[str] = field(default_factory=set)
    whole: bool = False
    end: str | None = None


class Turns:
    """Who was served last, and how much each type has had.

    Args:
        weights: task tag → its share of the slots where types compete; 1 where none is given.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._passes: dict[str, float] = {}
        self._virtual = 0.0
        self._last: dict[str, str | None] = {}

    async def look(
        self,
        kinds: Collection[Kind],
        queues: Look,
        *,
        slots: int,
        room_of: Callable[[Kind, str], int],
        now: int,
    ) -> dict[str, Page]:
        """Who waits and can be served, for each type: as many tenants as there are slots, or all.

        Args:
            queues: asks the store. slots: how many are free.
            room_of: (kind, tenant) → how many tasks its limits let start now.
        """
        pages: dict[str, Page] = {}
        wrapped: set[str] = set()
        limit = slots + 1  # one more, to see whether that is all
        while kinds:
            after = {kind: self._last.get(plain(kind[2])) for kind in kinds}
            found = self._pages(after, await queues(after, limit), limit, room_of, now)
            for tag, page in found.items():
                page.barred |= pages[tag].barred if tag in pages else set()
            pages |= found
            done = set()
            for tag, page in found.items():
                if page.tenants or page.whole or (page.end is None and tag in wrapped):
                    done.add(tag)
                    continue
                self._last[tag] = page.end  # nobody there: look on
                if page.end is None:
                    wrapped.add(tag)
            kinds = [kind for kind in kinds if plain(kind[2]) not in done]
            limit = min(4 * limit, LOOK)
        return pages

    def _pages(
        self,
        after: Mapping[Kind, str | None],
        queues: Sequence[Queue],
        limit: int,
        room_of: Callable[[Kind, str], int],
        now: int,
    ) -> dict[str, Page]:
        found: dict[Kind, list[Queue]] = {kind: [] for kind in after}
        for queue in queues:
            found[queue[:3]].append(queue)
        pages: dict[str, Page] = {}
        for tag in dict.fromkeys(plain(kind[2]) for kind in after):
            each = [found[kind] for kind in after if plain(kind[2]) == tag]
            ends = [queues[-1].tenant for queues in each if len(queues) >= limit]
            page = pages[tag] = Page(end=min(ends, default=None))
            page.whole = not ends and self._last.get(tag) is None
            lines = sorted((q.tenant, q.due, q[:3]) for queues in each for q in queues)
            for tenant, due, kind in lines:
                if due > now or (page.end is not None and tenant > page.end):
                    continue
                if room_of(kind, tenant) > 0:
                    page.tenants.setdefault(tenant, kind)
                else:
                    page.barred.add(tenant)
        return pages

    def deal(
        self,
        pages: Mapping[str, Page],
        *,
        slots: int,
        take: Callable[[Kind, str], bool],
    ) -> list[Want]:
        """Deal so many slots; the next look goes on from where this deal ends.

        Args:
            pages: who waits. Where they are not all that wait, each gets one slot at the most.
            take: (kind, tenant) → whether it gets a slot, by all limits there are.
        """
        hands = {tag: _Hand(page, take) for tag, page in pages.items()}
        starts = {tag: max(self._passes.get(tag, 0.0), self._virtual) for tag in hands}
        passes = dict(starts)
        waiting = sorted(tag for tag, page in pages.items() if page.tenants)
        while slots and waiting:
            tag = min(waiting, key=lambda tag: (passes[tag], tag))
            if hands[tag].give():
                slots -= 1
                passes[tag] += 1 / self._weights.get(tag, 1)
            else:
                waiting.remove(tag)
        competed = [tag for tag, hand in hands.items() if hand.given or tag in waiting]
        self._virtual = min((starts[tag] for tag in competed), default=self._virtual)
        for tag, hand in hands.items():
            self._passes[tag] = starts[tag]
            if hand.given:
                self._last[tag] = hand.last
        return [want for hand in hands.values() for want in hand.wants()]

    def served(self, tag: str, count: int) -> None:
        """So many tasks of a type were claimed upon the last deal."""
        self._passes[tag] = self._passes.get(tag, 0.0) + count / self._weights.get(tag, 1)


class _Hand:
    """What one type gets in a deal."""

    def __init__(self, page: Page, take: Callable[[Kind, str], bool]) -> None:
        self._page, self._take = page, take
        self._order: Sequence[str] = list(page.tenants)
        self._at = 0
        self.given: dict[str, int] = {}

    def give(self) -> bool:
        """One slot to the tenant whose turn it is, or to the next that may have it."""
        for _ in self._order:
            if self._at >= len(self._order) and not self._page.whole:
                return False
            tenant = self._order[self._at % len(self._order)]
            self._at += 1
            if self._take(self._page.tenants[tenant], tenant):
                self.given[tenant] = self.given.get(tenant, 0) + 1
                return True
        return False

    @property
    def last(self) -> str | None:
        """Who had the last turn; None where all have had theirs."""
        turn = self._at % len(self._order)
        return self._order[turn - 1] if turn else self._page.end

    def wants(self) -> list[Want]:
        return [
            Want(*self._page.tenants[tenant], count, tenant) for tenant, count in self.given.items()
        ]
