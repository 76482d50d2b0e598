"""Retention: old history moves to an archive, finished jobs with it, and both are found again.

    over = Over("store/add", ("expired", "failed"))
    retention = Retention(store, shelf, keep_ms=30 * DAY, finished=[over])
    done = await retention.run()           # beside the running service, in bounded steps
    reader = Reader(store, shelf)
    packs = await reader.revisions(job)    # the whole chain, wherever it lies

A run writes a segment of the log to the shelf, reads it back, checks every block, and only then
lets the store drop what it holds, a few revisions at a time, each judged again under the store's
lock. So whatever happens in between, a revision is in the store, or in the archive, or in both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from stmflow import codec
from stmflow.cid import CID
from stmflow.clock import Clock, SystemClock
from stmflow.errors import Archived, Corrupt, InvalidWorkflow, NotFound
from stmflow.history.segment import Index, before, check, named_blocks, read_index, segment
from stmflow.limits import LIMITS
from stmflow.store import Batch, Done, Drop, Dropped, Finished, Logged, Packed, Revive, Store, Sweep

__all__ = ["DAY", "Over", "Reader", "Retention", "Shelf", "Totals"]

K = TypeVar("K")
V = TypeVar("V")

DAY = 24 * 3_600_000
"""Milliseconds."""

STEP = 64
"""Revisions that one store transaction judges."""
SWEEP = 1_000
"""Delivery rows that one store transaction forgets."""
PAGE_BYTES = 256 * 1024
"""What a reader fetches at a time, and keeps: neighbours are wanted next."""


class Shelf(Protocol):
    """Where an archive's objects lie, by the CID of their bytes: a bucket, or a folder."""

    async def put(self, link: CID, data: bytes) -> None:
        """Write an object; it is durable when this returns. The same one again changes nothing."""
        ...

    async def get(self, link: CID, *, start: int = 0, size: int | None = None) -> bytes:
        """Its bytes, or `size` of them from `start`. Raises NotFound."""
        ...


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
        """The log up to the first revision that is too young, in stretches of a segment each."""
        bound = self._clock.now() - self._keep_ms
        after, size = 0, 0
        stretch: list[Logged] = []
        while page := await self._store.log(after=after, limit=STEP):
            for logged in page:
                if _at(logged.packed) >= bound:
                    page = []
                    break
                stretch.append(logged)
                size += _size(logged.packed)
                after = logged.place
                if size >= self._segment_bytes:
                    yield stretch
                    stretch, size = [], 0
            if not page:
                break
        if stretch:
            yield stretch

    async def _leave(self, stretch: list[Logged], totals: Totals) -> None:
        """One segment: written, read back, checked, dropped."""
        index = None
        if self._shelf is not None:
            index = await self._write(self._shelf, stretch, totals)
        for at in range(0, len(stretch), STEP):
            totals.add(await self._drop(stretch[at : at + STEP], index))

    async def _write(self, shelf: Shelf, stretch: list[Logged], totals: Totals) -> CID:
        known = await self._store.archives()
        made = segment(stretch, known[0] if known else None)
        await shelf.put(made.car_link, made.car_data)
        await shelf.put(made.index_link, made.index_data)
        check(made, await shelf.get(made.car_link), await shelf.get(made.index_link))
        totals.archived += len(stretch)
        totals.archived_bytes += len(made.car_data) + len(made.index_data)
        totals.archives.append(made.index_link)
        return made.index_link

    async def _drop(self, revisions: Sequence[Logged], archive: CID | None) -> Dropped:
        now = self._clock.now()
        finished = [Finished(one.workflow, one.tags, now - one.keep_ms) for one in self._finished]
        named = [(logged.place, logged.packed.cid) for logged in revisions]
        dropped: Dropped = await self._commit(Drop(named, archive, finished))
        return dropped

    async def _commit(self, member: Sweep | Drop) -> Any:
        """One member alone, which nothing can refuse; and then a rest."""
        (result,) = await self._store.commit(Batch([member]))
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


class Reader:
    """A store and its archive, read as one.

    Args:
        archives: indexes to begin with, newest first, where the store is lost or is not to be
            asked; the ones before are found by their links. Default: what the store names.
        pages: how many stretches of 256 KiB it keeps. indexes: how many of these; one has 16 bytes
            for each block of its segment.
    """

    def __init__(
        self,
        store: Store | None,
        shelf: Shelf,
        *,
        archives: Iterable[CID] = (),
        pages: int = 64,
        indexes: int = 256,
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._given = list(archives)
        self._most = pages
        self._most_indexes = indexes
        self._pages: dict[tuple[CID, int], bytes] = {}
        self._indexes: dict[CID, Index] = {}

    async def block(self, cid: CID) -> bytes | None:
        """The block of that CID, from the store or else from the archive; None: in neither."""
        if self._store is not None and (found := await self._store.block(cid)) is not None:
            return found
        return await self.archived(cid)

    async def archived(self, cid: CID) -> bytes | None:
        """The block of that CID from the archive, hashed."""
        prefix = cid.digest[:8]
        async for data in self._between(prefix, prefix):
            if CID.of(data) == cid:
                return data
        return None

    async def find(self, prefix: bytes, bits: int) -> list[CID]:
        """Archived blocks whose SHA-256 digest begins with these bits."""
        value = int.from_bytes(prefix, "big") >> (len(prefix) * 8 - bits)
        wide = min(bits, 64)
        top = value >> (bits - wide)
        low = (top << (64 - wide)).to_bytes(8, "big")
        high = (((top + 1) << (64 - wide)) - 1).to_bytes(8, "big")
        cids = [CID.of(data) async for data in self._between(low, high)]
        return [c for c in dict.fromkeys(cids) if int.from_bytes(c.digest) >> (256 - bits) == value]

    async def revisions(self, job: CID, *, head: CID | None = None) -> list[Packed]:
        """The job's whole chain, newest first: what the store has, and from there the archive.

        Args:
            head: where it begins, where the store is not to be asked.

        Raises:
            NotFound: no such job, or a block of it is in neither.
        """
        found: list[Packed] = []
        if head is None:
            found, head = await self._stored(job)
        while head is not None:
            found.append(await self.revision(head))
            head = before(found[-1], job)
        return found

    async def _stored(self, job: CID) -> tuple[list[Packed], CID | None]:
        """What the store has of a chain, and the revision at which the archive goes on."""
        if self._store is None:
            raise NotFound(f"no head is known of job {job}")
        try:
            if (await self._store.heads([job]))[job] is None:
                raise NotFound(f"no job {job}")
        except Archived as error:
            return [], error.revision
        found = list(await self._store.revisions(job))
        return found, before(found[-1], job)

    async def revision(self, cid: CID) -> Packed:
        """A revision with all blocks of its commit. Raises NotFound."""
        revision = await self._must(cid)
        return Packed(cid, revision, [await self._must(b) for b in named_blocks(cid, revision)])

    async def revive(self, job: CID) -> None:
        """Bring a job back that has left the store: it is as it was, and goes on from there.

        Somebody else may have done so first: that is as good. Its history stays in the archive.

        Raises:
            NotFound: no such job, or it is not in this archive.
        """
        if self._store is None:
            raise NotFound("there is no store to bring it back to")
        try:
            if (await self._store.heads([job]))[job] is None:
                raise NotFound(f"no job {job}")
        except Archived as error:
            revive = Revive(job, await self.revision(error.revision))
            await self._store.commit(Batch([revive]))

    # --- the archive's objects

    async def _must(self, cid: CID) -> bytes:
        block = await self.block(cid)
        if block is None:
            raise NotFound(f"block {cid} is neither in the store nor in the archive")
        return block

    async def _between(self, low: bytes, high: bytes) -> AsyncIterator[bytes]:
        """Blocks whose digest may begin between these bounds, newest segment first."""
        async for index in self.indexes():
            for found in index.between(low, high):
                yield await self._cut(index, found.start, found.size)

    async def indexes(self) -> AsyncIterator[Index]:
        """Every index, newest first, each once."""
        wanted = list(self._given)
        if self._store is not None:
            wanted += await self._store.archives()
        seen: set[CID] = set()
        while wanted:
            link = wanted.pop(0)
            if link in seen:
                continue
            seen.add(link)
            index = self._indexes.pop(link, None)
            if index is None:
                index = read_index(link, await self._shelf.get(link))
            _keep(self._indexes, link, index, self._most_indexes)
            yield index
            if index.prev is not None:
                wanted.append(index.prev)

    async def _cut(self, index: Index, start: int, size: int) -> bytes:
        """So many bytes of a CAR, out of whole pages."""
        first, last = start // PAGE_BYTES, (start + size - 1) // PAGE_BYTES
        pages = [await self._page(index, number) for number in range(first, last + 1)]
        return b"".join(pages)[start - first * PAGE_BYTES :][:size]

    async def _page(self, index: Index, number: int) -> bytes:
        key = (index.car, number)
        page = self._pages.pop(key, None)
        if page is None:
            start = number * PAGE_BYTES
            size = min(PAGE_BYTES, index.size - start)
            if size <= 0:
                raise Corrupt(f"an index leads past the end of {index.car}")
            page = await self._shelf.get(index.car, start=start, size=size)
        _keep(self._pages, key, page, self._most)
        return page


def _keep(kept: dict[K, V], key: K, value: V, most: int) -> None:
    """Put it last; what has not been used for longest makes room."""
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
