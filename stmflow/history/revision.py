"""Revisions read from blocks: what a commit wrote, job by job, and the walk along a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import MalformedBlock, NotFound
from stmflow.store import Packed

Get = Callable[[CID], bytes | None]


"""Where blocks come from: CID → bytes, or None. A dict's `get` will do."""


class Line(NamedTuple):
    """One job's part in a revision. `extra`: (by, effects) that no reducer returned."""

    job: CID
    workflow: str
    version: int
    key: list[Any] | None
    seq: int
    prev: CID | None
    epoch: int
    receipts: tuple[CID, ...]
    events: tuple[CID, ...]
    state: CID
    effects: tuple[tuple[int, CID], ...]
    extra: tuple[tuple[str, tuple[tuple[int, CID], ...]], ...]
    plain: dict[str, Any]

    def given(self) -> Iterator[tuple[str, int, CID]]:
        """(by, epoch, effect) of what `extra` holds."""
        for by, effects in self.extra:
            for epoch, effect in effects:
                yield by, epoch, effect

    @property
    def bare(self) -> bool:
        """Whether nothing happened to the job: all that such a write may do is move its version."""
        return not (self.receipts or self.events or self.effects or self.extra)

    def blocks(self) -> Iterator[CID]:
        """Every block that this write made, its state first."""
        yield self.state
        yield from self.events
        yield from self.receipts
        yield from (cid for _, cid in self.effects)
        yield from (cid for _, _, cid in self.given())


class Revision(NamedTuple):
    """A revision, read. `delivery`: (job, id) of what caused it, or None."""

    cid: CID
    delivery: tuple[CID, bytes] | None
    at: int
    reads: tuple[tuple[CID, CID | None], ...]
    writes: tuple[Line, ...]

    def line(self, job: CID) -> Line:
        """That job's part. Raises NotFound."""
        for line in self.writes:
            if line.job == job:
                return line
        raise NotFound(f"revision {self.cid} does not write job {job}")


def read_revision(cid: CID, block: bytes) -> Revision:
    """The revision in a block.

    Raises:
        HashMismatch: the block is not what the CID names.
        MalformedBlock: it is no revision.
    """
    cid.verify(block)
    plain = codec.decode(block)
    try:
        return _revision(cid, plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, MalformedBlock):
            raise
        raise MalformedBlock(f"{cid} is no revision: {error}") from None


def is_revision(plain: Any) -> bool:
    """Whether a decoded block has the form of a revision."""
    return isinstance(plain, dict) and plain.keys() == _REVISION


_REVISION: Final = {"v", "delivery", "at", "reads", "writes"}


_LINE: Final = {
    *("job", "workflow", "seq", "prev", "epoch", "receipts"),
    *("events", "state", "effects", "extra"),
}


def _revision(cid: CID, plain: Any) -> Revision:
    require(is_revision(plain) and plain["v"] == 1 and type(plain["v"]) is int, "a revision")
    delivery, reads, writes = plain["delivery"], plain["reads"], plain["writes"]
    if delivery is not None:
        require(type(delivery) is list and len(delivery) == 2, "a delivery")
        delivery = (expect(delivery[0], CID), expect(delivery[1], bytes))
    found = Revision(
        cid,
        delivery,
        expect(plain["at"], int),
        tuple((expect(job, CID), _link(read)) for job, read in reads),
        tuple(_line(line) for line in writes),
    )
    wrote, read = [line.job for line in found.writes], [job for job, _ in found.reads]
    require(bool(wrote), "a revision that writes something")
    for order in (wrote, read):
        require(all(a < b for a, b in pairwise(order)), "sorted by job")
    require(not set(wrote) & set(read), "a revision that reads only what it does not write")
    return found


def _line(plain: Any) -> Line:
    keys = plain.keys() - {"key"}
    require(keys == _LINE and ("key" in plain) == (plain["prev"] is None), "a write")
    name, version = plain["workflow"]
    return Line(
        expect(plain["job"], CID),
        expect(name, str),
        expect(version, int),
        expect(plain["key"], list) if "key" in plain else None,
        expect(plain["seq"], int),
        _link(plain["prev"]),
        expect(plain["epoch"], int),
        tuple(expect(cid, CID) for cid in plain["receipts"]),
        tuple(expect(cid, CID) for cid in plain["events"]),
        expect(plain["state"], CID),
        tuple((expect(epoch, int), expect(cid, CID)) for epoch, cid in plain["effects"]),
        tuple(_extra(one) for one in plain["extra"]),
        plain,
    )


def _extra(plain: Any) -> tuple[str, tuple[tuple[int, CID], ...]]:
    require(plain.keys() == {"by", "effects"}, "an extra")
    effects = tuple((expect(epoch, int), expect(cid, CID)) for epoch, cid in plain["effects"])
    return expect(plain["by"], str), effects


def require(holds: bool, what: str) -> None:
    if not holds:
        raise MalformedBlock(f"not {what}")


def expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise MalformedBlock(f"not of type {kind.__name__}: {value!r:.60}")
    return value


def _link(value: Any) -> Any:
    return None if value is None else expect(value, CID)


def walk(job: CID, head: CID, get: Get) -> Iterator[Revision]:
    """A job's revisions, newest first, each hashed and read.

    Raises:
        NotFound: a block is missing, or a revision does not write the job.
        HashMismatch, MalformedBlock: a block is not what its CID says.
    """
    cid: CID | None = head
    while cid is not None:
        block = get(cid)
        if block is None:
            raise NotFound(f"revision {cid} is missing")
        revision = read_revision(cid, block)
        cid = revision.line(job).prev
        yield revision


def blocks_of(packs: Iterable[Packed]) -> dict[CID, bytes]:
    """The blocks that a store gave, each under the CID that it hashes to."""
    found: dict[CID, bytes] = {}
    for packed in packs:
        found |= {CID.of(block): block for block in (packed.revision, *packed.blocks)}
    return found


def plain_of(get: Get, cid: CID) -> Any:
    block = get(cid)
    if block is None:
        raise NotFound(f"block {cid} is missing")
    cid.verify(block)
    return codec.decode(block)
