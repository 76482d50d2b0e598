"""The archive: where history goes that leaves a store, and how it is read again.

    reader = Reader(store, shelf)
    packs = await reader.revisions(job)    # the whole chain, wherever it lies
    await reader.revive(job)               # a job that has left is in the store again
    both = whole(store, shelf)             # a store to read from, of which nothing has left

`stmflow.retention` fills it, `stmflow.history.segment` says what its objects are. Nothing of it is
taken on trust: every block is hashed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Any, Protocol, TypeVar, cast

from stmflow import history
from stmflow.cid import CID
from stmflow.errors import Archived, Corrupt, NotFound
from stmflow.history import read_revision
from stmflow.history.segment import Index, before, named_blocks, read_index
from stmflow.store import Batch, Packed, Revive, Store, StoredHead

__all__ = ["Reader", "Shelf", "whole"]

K = TypeVar("K")
V = TypeVar("V")

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
        pages: int = 16,
        indexes: int = 16,
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._given = list(archives)
        self._most = pages
        self._most_indexes = indexes
        self._pages: dict[tuple[CID, int], bytes] = {}
        self._indexes: dict[CID, Index] = {}
        self._hit: CID | None = None  # a chain's blocks lie together: where the last one was found

    async def block(self, cid: CID) -> bytes | None:
        """The block of that CID, from the store or else from the archive; None: in neither."""
        if self._store is not None and (found := await self._store.block(cid)) is not None:
            return found
        return await self.archived(cid)

    async def archived(self, cid: CID) -> bytes | None:
        """The block of that CID from the archive, hashed."""
        prefix = cid.digest[:8]
        async for link, index in self._all():
            for found in index.between(prefix, prefix):
                data = await self._cut(index, found.start, found.size)
                if CID.of(data) == cid:
                    self._hit = link
                    return data
        return None

    async def find(self, prefix: bytes, bits: int) -> list[CID]:
        """Archived blocks whose SHA-256 digest begins with these bits."""
        value = int.from_bytes(prefix, "big") >> (len(prefix) * 8 - bits)
        wide = min(bits, 64)
        top = value >> (bits - wide)
        low = (top << (64 - wide)).to_bytes(8, "big")
        high = (((top + 1) << (64 - wide)) - 1).to_bytes(8, "big")
        cids = [
            CID.of(await self._cut(index, found.start, found.size))
            async for _, index in self._all()
            for found in index.between(low, high)
        ]
        return [c for c in dict.fromkeys(cids) if int.from_bytes(c.digest) >> (256 - bits) == value]

    async def revisions(self, job: CID, *, head: CID | None = None) -> list[Packed]:
        """The job's whole chain, newest first: what the store has, and from there the archive.

        Args:
            head: where it begins, where the store is not to be asked.

        Raises:
            NotFound: no such job, or a block of it is in neither.
        """
        return [packed async for packed in self.chain(job, head=head)]

    async def chain(self, job: CID, *, head: CID | None = None) -> AsyncIterator[Packed]:
        """The same, one after the other."""
        found: list[Packed] = []
        if head is None:
            found, head = await self._stored(job)
        for packed in found:
            yield packed
        while head is not None:
            packed = await self.revision(head)
            yield packed
            head = before(packed, job)

    async def _stored(self, job: CID) -> tuple[list[Packed], CID | None]:
        """What the store has of a chain, and the revision at which the archive goes on."""
        if self._store is None:
            raise NotFound(f"no head is known of job {job}")
        if found := list(await self._store.revisions(job)):
            return found, before(found[-1], job)
        try:
            if (head := (await self._store.heads([job]))[job]) is None:
                raise NotFound(f"no job {job}")
        except Archived as error:
            return [], error.revision
        return [], head.revision  # what was its head has left while the chain was read

    async def revision(self, cid: CID) -> Packed:
        """A revision with all blocks of its commit, from the archive or else from the store.

        Raises:
            NotFound: it is in neither.
        """
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

    async def head(self, job: CID, revision: CID) -> StoredHead:
        """The head of a job that has left, read from its blocks. What the store alone knows, its
        open effects, is empty. Raises NotFound."""
        packs = await self.revisions(job, head=revision)
        newest, first = (read_revision(one.cid, one.revision) for one in (packs[0], packs[-1]))
        line, key = newest.line(job), first.line(job).key or []
        state = history.blocks_of(packs[:1])[line.state]
        rows = [] if self._store is None else await self._store.under(line.workflow, *key)
        tag = next((row.tag for row in rows if row.job == job), "")
        return StoredHead(
            job,
            line.workflow,
            line.version,
            key,
            revision,
            line.seq,
            line.epoch,
            newest.at,
            tag,
            state,
            line.state,
            b"",
        )

    # --- the archive's objects

    async def _must(self, cid: CID) -> bytes:
        block = await self.archived(cid)
        if block is None and self._store is not None:
            block = await self._store.block(cid)
        if block is None:
            raise NotFound(f"block {cid} is neither in the store nor in the archive")
        return block

    async def _all(self) -> AsyncIterator[tuple[CID, Index]]:
        """Every index, each once: the one that was of use last, before the store is asked for the
        others, then the newest first."""
        hit = self._hit
        if hit is not None:
            yield hit, await self._index(hit)
        wanted = list(self._given)
        if self._store is not None:
            wanted += await self._store.archives()
        seen: set[CID] = set()
        while wanted:
            link = wanted.pop(0)
            if link in seen:
                continue
            seen.add(link)
            index = await self._index(link)
            if link != hit:
                yield link, index
            if index.prev is not None:
                wanted.append(index.prev)

    async def _index(self, link: CID) -> Index:
        index = self._indexes.pop(link, None)
        if index is None:
            index = read_index(link, await self._shelf.get(link))
        _keep(self._indexes, link, index, self._most_indexes)
        return index

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


def whole(store: Store, shelf: Shelf) -> Store:
    """The store with its archive, to read from: heads, chains and blocks are found in either."""
    return cast(Store, _Whole(store, Reader(store, shelf)))


class _Whole:
    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def heads(self, jobs: Collection[CID]) -> Mapping[CID, StoredHead | None]:
        found: dict[CID, StoredHead | None] = {}
        for job in jobs:
            try:
                found |= await self._store.heads([job])
            except Archived as error:
                found[job] = await self._reader.head(job, error.revision)
        return found

    async def revisions(
        self, job: CID, *, down_to: int = 0, limit: int | None = None
    ) -> list[Packed]:
        found: list[Packed] = []
        async for packed in self._reader.chain(job):
            seq = read_revision(packed.cid, packed.revision).line(job).seq
            if seq <= down_to or len(found) == limit:
                break
            found.append(packed)
        return found

    async def block(self, cid: CID) -> bytes | None:
        return await self._reader.block(cid)

    async def find(self, prefix: bytes, bits: int) -> list[CID]:
        both = [*await self._store.find(prefix, bits), *await self._reader.find(prefix, bits)]
        return list(dict.fromkeys(both))


def _keep(kept: dict[K, V], key: K, value: V, most: int) -> None:
    """Put it last; what has not been used for longest makes room."""
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
