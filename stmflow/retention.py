"""Retention: old history moves to an archive, and finished jobs with it, while the service runs.

    over = Over("store/add", ("expired", "failed"))
    retention = Retention(store, shelf, keep_ms=30 * DAY, finished=[over])
    done = await retention.run()           # beside the running service, in bounded steps

A run writes a segment of the log to the shelf, reads it back, checks every block, and only then
lets the store drop what it holds, a few revisions at a time, each judged again under the store's
lock. So whatever happens in between, a revision is in the store, or in the archive, or in both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.archive import Shelf
from stmflow.cid import CID
from stmflow.clock import Clock, SystemClock
from stmflow.errors import InvalidWorkflow
from stmflow.history.segment import Segment, check, segment
from stmflow.limits import LIMITS
from stmflow.store import (
    Batch,
    Conflicted,
    Done,
    Drop,
    Dropped,
    Finished,
    Logged,
    Packed,
    Store,
    Sweep,
)

__all__ = ["DAY", "Over", "Retention", "Totals"]

DAY = 24 * 3_600_000
"""Milliseconds."""

STEP = 64
"""Revisions that one store transaction judges."""
SWEEP = 1_000
"""Delivery rows that one store transaction forgets."""


class Over(NamedTuple):
    """Jobs of one workflow that nobody needs any more: whose state has one of these tags and has
    been the same for `keep_ms`. Only the service can know that."""

    workflow: str
    tags: tuple[str, ...]
    keep_ms: int = 30 * DAY


@dataclass(slots=True)
class Totals:
    """What a run came to."""

    archived: int = 0
    """Revisions written to the archive."""
    archived_bytes: int = 0
    dropped: int = 0
    """Revisions that left the store."""
    jobs: int = 0
    """Jobs that left with them."""
    deliveries: int = 0
    """Delivery rows whose time was over."""
    archives: list[CID] = field(default_factory=list)
    """Indexes of the segments written."""

    def add(self, dropped: Dropped) -> None:
        """Count what one `Drop` came to."""
        self.dropped += dropped.revisions
        self.jobs += dropped.jobs


class _Overtaken(Exception):
    """Another run has noted an archive meanwhile."""


class Retention:
    """What may leave a store, and where it goes.

    Args:
        shelf: where history goes. None: nowhere, it is gone for good; then no job leaves.
        keep_ms: how long history stays after it was written; `LIMITS.retention_min_ms` at least.
        finished: jobs that leave whole. All others keep their newest revision for ever.
        clock: says what is old, and paces a run.
        segment_bytes: how large a segment of the archive becomes, about.
        pause_ms: how long a run rests after each step, so that the service comes first.
    """

    def __init__(
        self,
        store: Store,
        shelf: Shelf | None,
        *,
        keep_ms: int = 30 * DAY,
        finished: Iterable[Over] = (),
        clock: Clock | None = None,
        segment_bytes: int = 8 * 1024**2,
        pause_ms: int = 0,
    ) -> None:
        self._finished = list(finished)
        shortest = min([keep_ms, *(one.keep_ms for one in self._finished)])
        if shortest < LIMITS.retention_min_ms:
            raise InvalidWorkflow(f"history is kept for {LIMITS.retention_min_ms} ms at least")
        if shelf is None and self._finished:
            raise InvalidWorkflow("no job leaves a store for nowhere: give a shelf")
        self._store = store
        self._shelf = shelf
        self._keep_ms = keep_ms
        self._clock: Clock = SystemClock() if clock is None else clock
        self._segment_bytes = segment_bytes
        self._pause_ms = pause_ms

    async def run(self) -> Totals:
        """Everything that is due: deliveries, history, then what stayed before and may go now.

        Cancelled or crashed anywhere, it has lost nothing; the next run goes on.

        Raises:
            StoreError: what the store says; `Indeterminate` needs nothing but another run.
            HashMismatch, MalformedBlock: the shelf did not give back what it was given; nothing of
                that segment was dropped.
        """
        totals = Totals()
        await self.sweep(totals)
        await self.release(totals)
        async for stretch in self._old():
            await self._leave(stretch, totals)
        return totals

    async def sweep(self, totals: Totals) -> None:
        """Forget deliveries whose time is over."""
        count = SWEEP
        while count == SWEEP:
            count = await self._commit(Sweep(self._clock.now(), SWEEP))
            totals.deliveries += count

    async def release(self, totals: Totals) -> None:
        """Drop what an archive has held for a while and was needed here: heads that have been
        replaced since, and jobs that are over by now."""
        after = 0
        while page := await self._store.log(after=after, limit=STEP, archived=True):
            totals.add(await self._drop(page, None))
            after = page[-1].place

    async def _old(self) -> AsyncIterator[list[Logged]]:
        """The log up to the first revision that is too young, in stretches of a segment each.

        One of a time to come tells of a clock that has leapt ahead, and nothing of those behind it.
        """
        bound = self._clock.now() - self._keep_ms
        after, size = 0, 0
        stretch: list[Logged] = []
        while page := await self._store.log(after=after, limit=STEP):
            for logged in page:
                at = _at(logged.packed)
                after = logged.place
                if at > self._clock.now():
                    continue
                if at >= bound:
                    page = []
                    break
                stretch.append(logged)
                size += _size(logged.packed)
                if size >= self._segment_bytes:
                    yield stretch
                    stretch, size = [], 0
            if not page:
                break
        if stretch:
            yield stretch

    async def _leave(self, stretch: list[Logged], totals: Totals) -> None:
        """One segment: written, read back, checked, dropped. Where another run has been faster with
        one of its own, the index is written again, to name that one as the one before it."""
        first, *others = (stretch[at : at + STEP] for at in range(0, len(stretch), STEP))
        index = None
        if self._shelf is None:
            totals.add(await self._drop(first, None))
        while self._shelf is not None and index is None:
            prev = next(iter(await self._store.archives()), None)
            made = await self._write(self._shelf, stretch, prev)
            with suppress(_Overtaken):
                totals.add(await self._drop(first, made.index_link, prev))
                index = made.index_link
                totals.archives.append(index)
                totals.archived += len(stretch)
                totals.archived_bytes += len(made.car_data) + len(made.index_data)
        for step in others:
            totals.add(await self._drop(step, index))

    async def _write(self, shelf: Shelf, stretch: list[Logged], prev: CID | None) -> Segment:
        made = segment(stretch, prev)
        await shelf.put(made.car_link, made.car_data)
        await shelf.put(made.index_link, made.index_data)
        check(made, await shelf.get(made.car_link), await shelf.get(made.index_link))
        return made

    async def _drop(
        self, revisions: Sequence[Logged], archive: CID | None, prev: CID | None = None
    ) -> Dropped:
        now = self._clock.now()
        finished = [Finished(one.workflow, one.tags, now - one.keep_ms) for one in self._finished]
        named = [(logged.place, logged.packed.cid) for logged in revisions]
        dropped: Dropped = await self._commit(Drop(named, archive, finished, prev))
        return dropped

    async def _commit(self, member: Sweep | Drop) -> Any:
        """One member alone, which only another run can refuse; and then a rest."""
        (result,) = await self._store.commit(Batch([member]))
        if isinstance(result, Conflicted):
            raise _Overtaken
        assert isinstance(result, Done), result
        if self._pause_ms:
            await self._clock.sleep_until(self._clock.now() + self._pause_ms)
        return result.value


def _at(packed: Packed) -> int:
    plain: Any = codec.decode(packed.revision)
    at: int = plain["at"]
    return at


def _size(packed: Packed) -> int:
    return len(packed.revision) + sum(map(len, packed.blocks))
