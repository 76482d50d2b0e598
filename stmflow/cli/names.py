"""What a person calls things by: CIDs, or any unambiguous beginning of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, NamedTuple

import click

from stmflow.cid import CID
from stmflow.errors import Ambiguous, Archived, CodecError, Corrupt, NotFound

if TYPE_CHECKING:
    from stmflow.store import JobRow, Store

LEAST = 10
"""The shortest beginning that is taken: all begin with `bafyrei`."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_HEADER = 0x01711220
_HEADER_BITS = 32
_TOLD = 8
_PAGE = 1_000

JOB, TASK, BLOCK = "job", "task", "block"
ANYTHING = (JOB, TASK, BLOCK)


class Named(NamedTuple):
    """What a name stands for."""

    kind: str
    cid: CID


async def find(store: Store, text: str, kinds: Collection[str] = ANYTHING) -> Named:
    """The one thing of these kinds that has this CID, or whose CID begins so.

    Raises:
        UsageError: it can be no CID and no beginning of one.
        NotFound, Ambiguous: nothing or several things answer to it.
    """
    what = " or ".join(kinds)
    found = await _candidates(store, text, kinds)
    if not found:
        raise NotFound(f"no {what} {text:.80}")
    if len(found) > 1:
        told = ", ".join([f"{one.kind} {one.cid}" for one in found[:_TOLD]])
        more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        raise Ambiguous(
            f"{text:.80} begins {len(found)} of them: {told}{more}", [one.cid for one in found]
        )
    return found[0]


async def find_job(store: Store, text: str) -> CID:
    """The job of that name."""
    return (await find(store, text, (JOB,))).cid


async def _candidates(store: Store, text: str, kinds: Collection[str]) -> list[Named]:
    try:
        cid = CID.parse(text)
    except CodecError:
        bits, digest = _beginning(text)
    else:
        return await _exactly(store, cid, kinds)
    found: dict[CID, Named] = {}
    if JOB in kinds:
        async for row in every_job(store):
            if str(row.job).startswith(text):
                found[row.job] = Named(JOB, row.job)
    if TASK in kinds:
        for task in await store.tasks():
            if str(task.id).startswith(text):
                found.setdefault(task.id, Named(TASK, task.id))
    if BLOCK in kinds and digest is not None:
        size = (bits + 7) // 8
        prefix = (digest << (size * 8 - bits)).to_bytes(size, "big")
        for cid in await store.find(prefix, bits):
            found.setdefault(cid, Named(BLOCK, cid))
    return sorted(found.values(), key=lambda one: one.cid)


async def _exactly(store: Store, cid: CID, kinds: Collection[str]) -> list[Named]:
    if JOB in kinds and await _is_job(store, cid):
        return [Named(JOB, cid)]
    if TASK in kinds and await store.task(cid) is not None:
        return [Named(TASK, cid)]
    if BLOCK in kinds and await store.block(cid) is not None:
        return [Named(BLOCK, cid)]
    return []


async def _is_job(store: Store, cid: CID) -> bool:
    try:
        return (await store.heads([cid]))[cid] is not None
    except (Corrupt, CodecError, Archived):  # whoever wants its head will be told
        return True


def _beginning(text: str) -> tuple[int, int | None]:
    """How many bits of a digest a text tells, and which; None where it is no CID of a block."""
    if len(text) > 100 or not text.startswith("b") or set(text[1:]) - set(_ALPHABET):
        raise click.UsageError(f"not a CID, nor the beginning of one: {text!r:.80}")
    if len(text) < LEAST:
        raise click.UsageError(f"{text!r} is too short: give {LEAST} letters of a CID or more")
    value = 0
    for letter in text[1:]:
        value = value << 5 | _ALPHABET.index(letter)
    bits = 5 * (len(text) - 1) - _HEADER_BITS
    if not 0 < bits <= 256 or value >> bits != _HEADER:
        return bits, None
    return bits, value & (1 << bits) - 1


async def every_job(
    store: Store, *, workflow: str | None = None, tag: str | None = None
) -> AsyncIterator[JobRow]:
    """All jobs, page after page."""
    after: CID | None = None
    while True:
        page = await store.jobs(workflow=workflow, tag=tag, after=after, limit=_PAGE)
        for row in page:
            yield row
        if len(page) < _PAGE:
            return
        after = page[-1].job
