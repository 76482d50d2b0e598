"""What leaves a SQLite log: rows that an archive holds, and how their jobs come back.

Three tables more, made by the first `Drop`. A database without them has lost nothing, so they need
no schema number: a reader who does not know them finds a chain that ends early, never a wrong one.
No driver is imported here; the connection is given.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.store import Conflicted, Done, Drop, Dropped, Logged, Packed, Result, Revive
from stmflow.store.packing import pack, pack_rows, unpack
from stmflow.store.rows import PLACES, arranged, job_hash

_TABLES = """
-- What holds the rows between first and last that are not here. link NULL: nobody does.
CREATE TABLE IF NOT EXISTS archive (
    row INTEGER PRIMARY KEY,
    link BLOB UNIQUE,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL
) STRICT;
-- Revisions that an archive holds and that are needed here as well.
CREATE TABLE IF NOT EXISTS archived (row INTEGER PRIMARY KEY) STRICT;
-- Jobs that have left. Their rows stay, with head = 0 and place = -1; their open effects are here.
CREATE TABLE IF NOT EXISTS away (job INTEGER PRIMARY KEY, open BLOB NOT NULL) STRICT;
"""
_JOB = "SELECT row, revision, head, place, workflow, tag, at FROM job WHERE hash = ? AND id = ?"
_WAITS = (
    "SELECT EXISTS (SELECT 1 FROM task WHERE place BETWEEN ?1 AND ?2)"
    " OR EXISTS (SELECT 1 FROM timer WHERE place BETWEEN ?1 AND ?2)"
    " OR EXISTS (SELECT 1 FROM delivery WHERE job = ?3)"
)
_REACH = (
    "UPDATE archive SET last = max(last, ?)"
    " WHERE row = (SELECT max(row) FROM archive WHERE link IS NOT NULL)"
)
"""A row that was revived leaves without being archived anew: an archive has it already."""


def known(db: Any) -> bool:
    """Whether anything has ever left this database."""
    return bool(db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'archive'").fetchall())


def log(db: Any, after: int, limit: int, archived: bool) -> list[Logged]:
    """Rows of the log that no archive holds, or that one holds and that are still here."""
    if archived:
        if not known(db):
            return []
        sql = (
            "SELECT row, data FROM archived JOIN revision USING (row)"
            " WHERE row > ? ORDER BY row LIMIT ?"
        )
    elif known(db):
        sql = (
            "SELECT row, data FROM revision"
            " WHERE row > ? AND row NOT IN (SELECT row FROM archived) ORDER BY row LIMIT ?"
        )
    else:
        sql = "SELECT row, data FROM revision WHERE row > ? ORDER BY row LIMIT ?"
    found = []
    for row, data in db.execute(sql, (after, limit)):
        revision, *blocks = unpack(data)
        found.append(Logged(row, Packed(CID.of(revision), revision, blocks)))
    return found


def archives(db: Any) -> list[CID]:
    """What holds the rows that have left, newest first."""
    if not known(db):
        return []
    sql = "SELECT link FROM archive WHERE link IS NOT NULL ORDER BY row DESC"
    return [CID.parse(link) for (link,) in db.execute(sql)]


def left(db: Any, row: int) -> bool:
    """Whether a row that is not here may have left (else it is lost)."""
    sql = "SELECT 1 FROM archive WHERE ? BETWEEN first AND last LIMIT 1"
    return known(db) and bool(db.execute(sql, (row,)).fetchall())


class Dropping:
    """One `Drop` inside a write transaction."""

    def __init__(self, db: Any, drop: Drop) -> None:
        self._db = db
        self._drop = drop
        self.jobs: list[CID] = []
        """Jobs that have left: whoever has their rows in memory must forget them."""

    def run(self) -> Result:
        """Let go of what is not needed; judged row by row, on what the tables say now."""
        db, drop = self._db, self._drop
        db.execute(_TABLES)
        if not drop.revisions:
            return Done(Dropped())
        if not self._follows():
            return Conflicted()
        (newest,) = next(db.execute("SELECT max(row) FROM revision"))
        gone: list[int] = []
        kept: list[int] = []
        for row, cid in drop.revisions:
            stored = db.execute("SELECT data, open FROM revision WHERE row = ?", (row,)).fetchall()
            if not stored or CID.of((blocks := unpack(stored[0][0]))[0]) != cid:
                continue
            heads = list(self._heads(row, blocks[0]))
            sure = not heads or self._held(row)
            if row == newest or not sure or not all(self._may_leave(job) for _, job in heads):
                kept.append(row)
                continue
            opens = unpack(stored[0][1])
            for job, (number, _, _, place, *_) in heads:
                db.execute("UPDATE job SET head = 0, place = -1 WHERE row = ?", (number,))
                db.execute("INSERT OR REPLACE INTO away VALUES (?, ?)", (number, opens[place]))
                self.jobs.append(job)
            gone.append(row)
        self._note(gone)
        for row in gone:
            db.execute("DELETE FROM revision WHERE row = ?", (row,))
            db.execute("DELETE FROM archived WHERE row = ?", (row,))
        for row in kept if drop.archive is not None else ():
            db.execute("INSERT OR IGNORE INTO archived VALUES (?)", (row,))
        if gone:
            thin(db, min(gone), max(gone))
        return Done(Dropped(len(gone), len(kept), len(self.jobs)))

    def _follows(self) -> bool:
        """Whether the archive is known, or names the newest one as the one before it."""
        archive, prev = self._drop.archive, self._drop.prev
        if archive is None:
            return True
        known = "SELECT 1 FROM archive WHERE link = ?"
        if self._db.execute(known, (archive.bytes,)).fetchone() is not None:
            return True
        newest = "SELECT link FROM archive WHERE link IS NOT NULL ORDER BY row DESC LIMIT 1"
        return bool(self._db.execute(newest).fetchone() == (prev and (prev.bytes,)))

    def _heads(self, row: int, revision: bytes) -> Iterator[tuple[CID, tuple[Any, ...]]]:
        """The jobs whose head this row is."""
        for write in codec.decode(revision)["writes"]:
            job = write["job"]
            for found in self._db.execute(_JOB, (job_hash(job), job.bytes)).fetchall():
                if found[2] == row:
                    yield job, found

    def _may_leave(self, job: tuple[Any, ...]) -> bool:
        row, _, _, _, workflow, tag, at = job
        if not any(
            workflow == one.workflow and tag in one.tags and at < one.before
            for one in self._drop.finished
        ):
            return False
        low = row * PLACES
        return not next(self._db.execute(_WAITS, (low, low + PLACES - 1, row)))[0]

    def _held(self, row: int) -> bool:
        """Whether an archive holds that row."""
        sql = "SELECT 1 FROM archived WHERE row = ?"
        return self._drop.archive is not None or bool(self._db.execute(sql, (row,)).fetchall())

    def _note(self, gone: list[int]) -> None:
        """What holds these rows: one line for each archive, one for all that nobody holds."""
        rows = [row for row, _ in self._drop.revisions]
        if self._drop.archive is None:
            rows = [row for row in gone if not self._held(row)]
        if not rows:
            return
        link = None if self._drop.archive is None else self._drop.archive.bytes
        span = (min(rows), max(rows), link)
        self._db.execute(
            "UPDATE archive SET first = min(first, ?), last = max(last, ?) WHERE link IS ?", span
        )
        if not self._db.changes():
            self._db.execute("INSERT INTO archive (first, last, link) VALUES (?, ?, ?)", span)


def thin(db: Any, low: int, high: int) -> None:
    """Write the fullest segment of the CID index that reaches into these rows anew, without the
    rows that are gone, once they are half of it. Until then they are looked up in vain."""
    sql = (
        "SELECT row, first, offsets FROM segment WHERE first <= ? AND last >= ?"
        " ORDER BY length(offsets) DESC LIMIT 1"
    )
    for segment, first, packed in db.execute(sql, (high, low)).fetchall():
        offsets = struct.unpack(f">{len(packed) // 4}I", packed)
        named = {first + offset for offset in offsets}
        sql = "SELECT row FROM revision WHERE row BETWEEN ? AND ?"
        span = (min(named, default=0), max(named, default=-1))
        here = {row for (row,) in db.execute(sql, span)} & named
        if not named or len(here) * 2 > len(named):
            continue
        ((digests,),) = db.execute("SELECT digests FROM segment WHERE row = ?", (segment,))
        kept = [at for at, offset in enumerate(offsets) if first + offset in here]
        thinner = (
            b"".join([digests[at * 8 : at * 8 + 8] for at in kept]),
            struct.pack(f">{len(kept)}I", *[offsets[at] for at in kept]),
        )
        db.execute("UPDATE segment SET digests = ?, offsets = ? WHERE row = ?", (*thinner, segment))


def revive(db: Any, row: int, wanted: Revive) -> tuple[Result, bytes]:
    """Put a revision back as `row`, the head of every job that left with it; with the digests that
    the CID index will hold of it, none where it was refused."""
    revision, *blocks = arranged(wanted.packed)
    opens, back = [], []
    for write in codec.decode(revision)["writes"]:
        job = write["job"]
        (found,) = db.execute(_JOB, (job_hash(job), job.bytes)).fetchall() or (None,)
        if found is None or found[2] or found[1] != wanted.packed.cid.bytes:
            opens.append(b"")
            continue
        (kept,) = next(db.execute("SELECT open FROM away WHERE job = ?", (found[0],)))
        opens.append(kept)
        back.append((job, found[0], len(opens) - 1))
    if wanted.job not in [job for job, _, _ in back]:
        return Conflicted([wanted.job]), b""
    stored = [revision, *blocks]
    digests = b"".join([hashlib.sha256(block).digest()[:8] for block in stored])
    none = pack_rows([0] * len(opens))
    values = (row, digests, none, pack(opens), pack(stored))
    db.execute("INSERT INTO revision VALUES (?, ?, ?, ?, ?)", values)
    db.execute("INSERT INTO archived VALUES (?)", (row,))
    db.execute(_REACH, (row,))
    for _, number, place in back:
        db.execute("UPDATE job SET head = ?, place = ? WHERE row = ?", (row, place, number))
        db.execute("DELETE FROM away WHERE job = ?", (number,))
    return Done(), digests
