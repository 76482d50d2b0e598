"""Flipped bytes: of each block in a SQLite file, of CAR files, archives and requests.

    python -m tests.campaign --only "flipped bytes" --first 17 --slices 1

One byte is changed and everything that could be decided on is read: it is refused by name
(`HashMismatch`, `Corrupt`, `MalformedBlock` …), or reported by `verify`, or the byte is of no block
that was read. A block that comes back is always the one that its CID names.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import anyio

from capabilities.ucanto import message
from scheduler.testing.orders import COUNTER, Add
from stmflow import CELL, CID, Transactor, car, codec, history
from stmflow.archive import Reader
from stmflow.errors import CodecError, Corrupt, NotFound, StmflowError
from stmflow.history.segment import check, segment
from stmflow.store import Logged, Packed
from stmflow.store.sqlite import SQLiteStore
from tests.campaign.part import Part, Step, Violation
from tests.capabilities import vectors
from tests.crash.power_loss import DATABASE, SHM
from tests.crash.service import TRANSACTIONAL, WORKFLOWS, live
from tests.crash.watched import Day, DictShelf, HandClock

STEPS = 12
STRIDE = 4
MASKS = (0x01, 0x80, 0xFF)


class Lived(NamedTuple):
    """A database and what is in it."""

    file: Path
    day: Day
    log: Sequence[Logged]


async def lived(folder: Path, seed: int) -> Lived:
    """A short day on a file."""
    day = Day(seed)
    await live(day, folder, STEPS)
    async with SQLiteStore.open(folder / DATABASE) as store:
        return Lived(folder / DATABASE, day, await store.log(limit=1_000))


# --- the store ------------------------------------------------------------------------------------


Flip = tuple[int, int, int]
"""A row of the log, a byte of it, and what it is changed by."""


async def in_the_store(found: Lived, at: Iterator[Flip], counts: Counter[str]) -> None:
    """Change one byte after the other, and read everything that it is part of."""
    async with SQLiteStore.open(found.file, inline=True) as store:
        for row, byte, mask in at:
            db = store._writer
            (data,) = db.execute("SELECT data FROM revision WHERE row = ?", (row,)).fetchone()
            bad = data[:byte] + bytes([data[byte] ^ mask]) + data[byte + 1 :]
            db.execute("UPDATE revision SET data = ? WHERE row = ?", (bad, row))
            try:
                await _refused(store, found, row, f"row {row}, byte {byte}, mask {mask}", counts)
            finally:
                db.execute("UPDATE revision SET data = ? WHERE row = ?", (data, row))
            counts["flips"] += 1
            counts["in the store"] += 1


async def _refused(
    store: SQLiteStore, found: Lived, row: int, where: str, counts: Counter[str]
) -> None:
    packed = next(one.packed for one in found.log if one.place == row)
    whole = {packed.cid: packed.revision, **{CID.of(block): block for block in packed.blocks}}
    missing = 0
    for cid, block in whole.items():
        try:
            read = await store.block(cid)
        except Corrupt:
            read = None
        if read not in (block, None):
            raise Violation(f"{where}: another block under {cid}")
        missing += read is None
    noticed = False
    for write in codec.decode(packed.revision)["writes"]:  # type: ignore[index]
        job = write["job"]
        try:
            head = (await store.heads([job]))[job]
            chain = await store.revisions(job)
        except (CodecError, Corrupt) as error:
            counts[type(error).__name__] += 1
            noticed = True
            continue
        assert head is not None
        if head.state_cid != CID.of(head.state):
            raise Violation(f"{where}: a state that is not what its CID says")
        get = history.blocks_of(chain).get
        report = history.verify(job, head.revision, get, workflows=[*WORKFLOWS, CELL], depth=1)
        noticed |= report.status == history.MISMATCH
        counts["reported by verify"] += report.status == history.MISMATCH
    if missing and not noticed:
        raise Violation(f"{where}: nobody notices")
    counts["the same block is there twice"] += not missing


async def decided_on(found: Lived, masks: Sequence[int], counts: Counter[str]) -> None:
    """Change each byte of a head's revision and state: no event is decided on that. The job is one
    that no day has archived."""
    async with SQLiteStore.open(found.file, inline=True) as store:
        job, clock = COUNTER.job("flipped"), HandClock()
        clock.pass_time(found.day.clock.now() - clock.now())
        async with Transactor(store, WORKFLOWS, clock=clock) as engine:
            await engine.send(COUNTER, Add("flipped", 1, 1))
        db = store._writer
        row, place = db.execute(
            "SELECT head, place FROM job WHERE id = ?", (job.id.bytes,)
        ).fetchone()
        (data,) = db.execute("SELECT data FROM revision WHERE row = ?", (row,)).fetchone()
        (packed,) = await store.revisions(job.id, limit=1)
        sizes = [len(packed.revision), *map(len, packed.blocks)]
        start = 4 + 4 * len(sizes)
        read = [*range(start, start + sizes[0])]
        read += range(start + sum(sizes[: 1 + place]), start + sum(sizes[: 2 + place]))
        for n, byte in enumerate([*range(start), *read]):
            mask = masks[n % len(masks)]
            bad = data[:byte] + bytes([data[byte] ^ mask]) + data[byte + 1 :]
            db.execute("UPDATE revision SET data = ? WHERE row = ?", (bad, row))
            async with Transactor(
                store, WORKFLOWS, transactional=TRANSACTIONAL, clock=clock
            ) as engine:
                try:
                    answer = await engine.send(COUNTER, Add("flipped", 2, 1))
                except (CodecError, Corrupt):
                    counts["flips"] += 1
                    counts["not decided on"] += 1
                else:
                    raise Violation(f"byte {byte} ^ {mask}: {answer} was decided on it")
            db.execute("UPDATE revision SET data = ? WHERE row = ?", (data, row))


# --- CAR files, archives, requests ----------------------------------------------------------------


def _flips(data: bytes, random: Random, stride: int) -> Iterator[tuple[int, bytes]]:
    for at in range(random.randrange(stride), len(data), stride):
        yield at, data[:at] + bytes([data[at] ^ random.choice(MASKS)]) + data[at + 1 :]


def in_a_car(found: Lived, random: Random, stride: int, counts: Counter[str]) -> None:
    """An export of the last revisions: refused; or what is read is named by its CIDs."""
    blocks = [(p.cid, p.revision) for p in (one.packed for one in found.log[-3:])]
    stream = io.BytesIO()
    car.write(stream, [blocks[-1][0]], blocks)
    for at, data in _flips(stream.getvalue(), random, stride):
        counts["flips"] += 1
        counts["in a CAR"] += 1
        try:
            read = car.read(io.BytesIO(data))
            roots, got = read.roots, list(read)
        except CodecError as error:
            counts[type(error).__name__] += 1
            continue
        if any(cid.digest != CID.of(block).digest for cid, block in got):
            raise Violation(f"CAR, byte {at}: a block that is not what its CID says")
        same = [block for _, block in got] == [block for _, block in blocks]
        if not same or (list(roots), [cid for cid, _ in got]) == (
            [blocks[-1][0]],
            [cid for cid, _ in blocks],
        ):
            raise Violation(f"CAR, byte {at}: read as if nothing had happened, or something else")
        counts["another root or codec is named"] += 1


def in_a_segment(found: Lived, random: Random, stride: int, counts: Counter[str]) -> None:
    """Both objects of an archive: what is read back is refused before anything is dropped; what a
    reader looks up later is the block that it asked for, or refused."""
    logged = list(found.log[-3:])
    made = segment(logged, None)
    wanted = [one.packed for one in logged]
    for at, data in _flips(made.car_data, random, stride):
        _unread(lambda d=data: check(made, d, made.index_data), f"segment, byte {at}", counts)
        _looked_up(made, data, made.index_data, wanted, f"segment, byte {at}", counts)
    for at, data in _flips(made.index_data, random, stride):
        _unread(lambda d=data: check(made, made.car_data, d), f"index, byte {at}", counts)
        _looked_up(made, made.car_data, data, wanted, f"index, byte {at}", counts)


def _unread(read: Callable[[], Any], where: str, counts: Counter[str]) -> None:
    counts["flips"] += 1
    counts[where.split(",", maxsplit=1)[0]] += 1
    try:
        read()
    except CodecError as error:
        counts[type(error).__name__] += 1
    else:
        raise Violation(f"{where}: taken for what was written")


def _looked_up(
    made: Any, data: bytes, index: bytes, wanted: Sequence[Packed], where: str, counts: Counter[str]
) -> None:
    shelf = DictShelf()
    shelf.objects = {made.car_link: data, made.index_link: index}

    async def look() -> None:
        reader = Reader(None, shelf, archives=[made.index_link])
        for packed in wanted:
            for block in (packed.revision, *packed.blocks):
                try:
                    read = await reader.archived(CID.of(block))
                except (CodecError, Corrupt, NotFound):
                    continue
                if read not in (block, None):
                    raise Violation(f"{where}: another block under {CID.of(block)}")

    anyio.run(look)


def requests() -> list[bytes]:
    """The agent messages that real clients have posted."""
    found = []
    for client in vectors.load("exchanges.json")["clients"].values():
        for exchange in client["exchanges"]:
            body = bytes.fromhex(exchange.get("request", ""))
            with suppress(CodecError):
                message.decode(body)
                found.append(body)
    return found


def in_a_request(data: bytes, random: Random, stride: int, counts: Counter[str]) -> None:
    """Refused; or the very same tokens, which are then judged by their signatures."""
    whole = message.decode(data)
    for at, bad in _flips(data, random, stride):
        counts["flips"] += 1
        counts["in a request"] += 1
        try:
            read = message.decode(bad)
        except StmflowError as error:
            counts[type(error).__name__] += 1
            continue
        if any(cid.digest != CID.of(block).digest for cid, block in read.blocks.items()):
            raise Violation(f"request, byte {at}: a block that is not what its CID says")
        tokens = [read.blocks[cid] for cid in read.invocations]
        if tokens != [whole.blocks[cid] for cid in whole.invocations]:
            raise Violation(f"request, byte {at}: another token is invoked")
        counts["the same tokens"] += 1


# --- the part -------------------------------------------------------------------------------------


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    with TemporaryDirectory(dir=SHM if SHM.is_dir() else folder) as here:
        yield partial(step, Path(here))


def step(folder: Path, number: int) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    random = Random(f"flips {number}")
    with TemporaryDirectory(dir=folder) as here:
        found = anyio.run(lived, Path(here), number)
        anyio.run(in_the_store, found, of_the_log(found, random, 12 * STRIDE), counts)
        if number % 2 == 0:
            anyio.run(decided_on, found, MASKS, counts)
    if found.log:  # else all of it is in the archive
        in_a_car(found, random, STRIDE, counts)
        in_a_segment(found, random, 2 * STRIDE, counts)
    asked = requests()
    for at in range(4):
        in_a_request(asked[(4 * number + at) % len(asked)], random, STRIDE, counts)
    return counts


def of_the_log(found: Lived, random: Random, stride: int) -> Iterator[Flip]:
    """One in so many bytes of the log's rows, as they lie in the database."""
    for place, packed in found.log:
        blocks = [packed.revision, *packed.blocks]
        size = 4 * (1 + len(blocks)) + sum(map(len, blocks))
        for byte in range(random.randrange(stride), size, stride):
            yield place, byte, random.choice(MASKS)


PARTS = (Part("flipped bytes", "P10", "flips", 20_000, _open, 0.5),)
