"""What stores of rows share: numbers for jobs and their tasks, short keys, ranges of keys.

A job has a number, and each of its waiting tasks and timers a *place*: `number * PLACES + n`. Keys
are compared as their DAG-CBOR bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import Archived, Corrupt
from stmflow.limits import LIMITS
from stmflow.store import Packed, StoredHead, TaskRow
from stmflow.store.packing import unpack, unpack_rows

PLACES = 1_048_576
"""Numbers of one job's rows. Part of every schema, whose statements divide by it."""
assert LIMITS.task_places == PLACES


def job_hash(job: CID) -> int:
    """The job's short key: the first 8 bytes of its digest, as a signed integer."""
    return int.from_bytes(job.digest[:8], "big", signed=True)


def stranger(job: CID) -> int:
    """Where the deliveries of a job that has no row lie: a negative number from its short key."""
    return -1 - (job_hash(job) & (2**63 - 1))


def delivery_hash(id: bytes) -> bytes:
    """The delivery's short key within its job."""
    return hashlib.sha256(id).digest()[:16]


def list_of(count: int) -> bytes:
    """How DAG-CBOR begins a list of so many items."""
    return codec.encode([0] * count)[: -count or None]  # each 0 is one byte


def past(prefix: bytes) -> bytes:
    """What sorts after all bytes that begin so, and before all others that sort after them."""
    kept = prefix.rstrip(b"\xff")  # no list begins with 0xff
    return kept[:-1] + bytes([kept[-1] + 1])


class Digests(NamedTuple):
    """The digests that begin with some bits: `low` and `high` bound their first 8 bytes."""

    value: int
    bits: int
    low: bytes
    high: bytes

    @staticmethod
    def beginning(prefix: bytes, bits: int) -> Digests:
        """Those that begin with the first `bits` bits of `prefix`."""
        value = int.from_bytes(prefix, "big") >> (len(prefix) * 8 - bits)
        wide = min(bits, 64)
        top = value >> (bits - wide)
        low = (top << (64 - wide)).to_bytes(8, "big")
        high = (((top + 1) << (64 - wide)) - 1).to_bytes(8, "big")
        return Digests(value, bits, low, high)

    def has(self, cid: CID) -> bool:
        """Whether this CID's digest is one of them."""
        return int.from_bytes(cid.digest, "big") >> (256 - self.bits) == self.value


def head_row(row: Any) -> StoredHead:
    """The head in a row, its blocks hashed: id, workflow, version, key, revision, seq, epoch, at,
    tag, place, and of the revision's row, where it is there, open effects and blocks.

    Raises:
        Archived: the job has left. Corrupt: the row is not what its CIDs say.
    """
    id, workflow, version, key, revision, seq, epoch, at, tag, place, opens, data = row
    job, head = CID.parse(id), CID.parse(revision)
    if data is None and place < 0:
        raise Archived(job, head)
    if data is None:
        raise Corrupt(f"revision {head}, the head of job {job}, is missing")
    blocks = unpack(data)
    if CID.of(blocks[0]) != head:
        raise Corrupt(f"the head of job {job} does not hash to {head}")
    state = blocks[1 + place]
    named = next((w for w in codec.decode(blocks[0])["writes"] if w["job"] == job), None)
    if named is None:
        raise Corrupt(f"the head of job {job} is a revision that does not write it")
    if CID.of(state) != named["state"]:
        raise Corrupt(f"the state of job {job} does not hash to {named['state']}")
    return StoredHead(
        job,
        workflow,
        version,
        codec.decode(key),
        head,
        seq,
        epoch,
        at,
        tag,
        state,
        named["state"],
        unpack(opens)[place],
    )


def link_row(job: CID, cid: CID, prev: bytes, data: bytes) -> tuple[Packed, int, CID]:
    """One revision of a job's chain, and the row and CID of the one before it.

    Raises Corrupt: it is not what its CID says, or does not write the job.
    """
    revision, *blocks = unpack(data)
    if CID.of(revision) != cid:
        raise Corrupt(f"revision {cid} of job {job} does not hash to its CID")
    writes = codec.decode(revision)["writes"]
    place = next((at for at, write in enumerate(writes) if write["job"] == job), None)
    if place is None:
        raise Corrupt(f"revision {cid} does not write job {job}, whose chain it is in")
    return Packed(cid, revision, blocks), unpack_rows(prev)[place], writes[place]["prev"] or cid


def arranged(packed: Packed) -> list[bytes]:
    """The blocks of a revision in the order of a row: itself, a state for each write, the others.

    Raises Corrupt: it is not what its CID says, or a state is missing.
    """
    if CID.of(packed.revision) != packed.cid:
        raise Corrupt(f"revision {packed.cid} does not hash to its CID")
    others = {CID.of(block): block for block in packed.blocks}
    writes: Any = codec.decode(packed.revision)
    wanted = [write["state"] for write in writes["writes"]]
    if missing := [cid for cid in wanted if cid not in others]:
        raise Corrupt(f"revision {packed.cid} comes without its state {missing[0]}")
    states = [others[cid] for cid in wanted]
    return [packed.revision, *states, *(others[cid] for cid in others if cid not in set(wanted))]


def task_row(row: Any) -> TaskRow:
    """The task of an outbox row: job, place, id, block, workflow, tag, tenant, due, attempt,
    token, worker, parked, error, outcome."""
    job, place, id, block, workflow, tag, tenant, due, attempt, token, worker = row[:11]
    parked, error, outcome = row[11:]
    return TaskRow(
        CID.parse(job),
        place % PLACES,
        CID.parse(id),
        False,
        block,
        workflow,
        tag,
        tenant,
        due,
        attempt,
        token,
        worker,
        bool(parked),
        error,
        outcome,
    )


def timer_row(row: Any) -> TaskRow:
    """The timer that a row holds: job, place, id, workflow, due, parked, error."""
    job, place, id, workflow, due, parked, error = row
    return TaskRow(
        CID.parse(job),
        place % PLACES,
        CID.parse(id),
        True,
        None,
        workflow,
        "sleep",
        "",
        due,
        0,
        0,
        None,
        bool(parked),
        error,
        None,
    )
