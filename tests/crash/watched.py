"""A store that is watched: what it is about to commit, what has become of it, who was told what.

A `Day` notes it while a service lives through it (`tests.crash.service`); from the notes follows
what a database may hold after a crash at any moment.
"""

from __future__ import annotations

import hashlib
import marshal
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio
import apsw

from stmflow import CID, Answer
from stmflow.errors import Indeterminate, NotFound, StoreError
from stmflow.store.sqlite import SQLiteStore
from tests.crash.disk import Log, Mark, no_trouble

START_MS = 1_800_000_000_000


class Flying(NamedTuple):
    """A mark: a commit is on its way that leads to state `state`."""

    state: int


class Acknowledged(NamedTuple):
    """A mark: the database holds state `state`, and whoever asked has been told."""

    state: int


class Refused(NamedTuple):
    """A mark: what was on its way did not happen, and whoever asked has been told."""


class Copied(NamedTuple):
    """A mark: a backup of state `state` is whole and on the disk under this name."""

    name: str
    state: int


class Told(NamedTuple):
    """What a caller was told of a delivery."""

    job: CID
    delivery: bytes
    answer: Answer
    until: int
    """For how long it is kept (milliseconds)."""


class HandClock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self._now = START_MS
        self._moved = anyio.Event()

    def now(self) -> int:
        return self._now

    def pass_time(self, ms: int) -> None:
        self._now += ms
        self._moved.set()
        self._moved = anyio.Event()

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0)
        while self._now < at_ms:
            await self._moved.wait()


class DictShelf:
    """An archive that loses nothing."""

    def __init__(self) -> None:
        self.objects: dict[CID, bytes] = {}

    async def put(self, link: CID, data: bytes) -> None:
        self.objects[link] = data

    async def get(self, link: CID, *, start: int = 0, size: int | None = None) -> bytes:
        if link not in self.objects:
            raise NotFound(str(link))
        return self.objects[link][start : None if size is None else start + size]


class WatchedStore(SQLiteStore):
    """The real store, which says what it is about to commit, and what has become of it."""

    watcher: Any = None

    def _finish(self) -> None:
        self.watcher.flying(self)
        try:
            super()._finish()
        except Indeterminate:
            self.watcher.unknown()
            raise
        except StoreError:
            self.watcher.refused()
            raise
        self.watcher.acknowledged(self)

    def _reopen(self) -> None:
        super()._reopen()
        self.watcher.acknowledged(self)


def held(db: apsw.Connection) -> bytes:
    """A digest of everything that the database holds, table by table, row by row; but for a count
    of the commits that settle an unknown one, which nobody asks for."""
    digest = hashlib.sha256()
    tables = db.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    ).fetchall()
    digest.update(marshal.dumps(tables, 2))
    for name, _ in tables:
        columns = "id, schema, codec, workers" if name == "meta" else "*"
        rows = db.execute(f"SELECT {columns} FROM {name}").fetchall()  # noqa: S608
        digest.update(marshal.dumps(rows, 2))
    return digest.digest()


class State(NamedTuple):
    """What a database held at some moment, or would have held."""

    held: bytes
    told: int
    """So many of the day's answers had been given."""
    at: int
    """The time, in milliseconds."""


class Modes(NamedTuple):
    """How the database is made durable. The first two are stmflow's, the others lose commits."""

    journal: str
    synchronous: str


WAL_FULL = Modes("wal", "full")
DELETE_EXTRA = Modes("delete", "extra")
UNSAFE = (
    Modes("wal", "normal"),
    Modes("wal", "off"),
    Modes("delete", "full"),
    Modes("delete", "off"),
)


@dataclass(slots=True)
class Day:
    """What was drawn, what was done, what callers were told, and what the database held when."""

    seed: int
    log: Log = field(default_factory=Log)
    shelf: DictShelf = field(default_factory=DictShelf)
    clock: HandClock = field(default_factory=HandClock)
    states: list[State] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    denied: dict[bytes, CID] = field(default_factory=dict)
    """Deliveries of which callers were told that they did not happen, and their jobs."""
    doubted: set[bytes] = field(default_factory=set)
    """Deliveries of which somebody was told that nobody knows."""
    done: Counter[str] = field(default_factory=Counter)
    doing: str = ""
    """The kind of the step that is being made."""
    watching: bool = False
    """While the harness itself looks at the database, which must not fail."""
    alone: bool = False
    """In one thread: system calls that answer in Python want the interpreter's lock while they hold
    SQLite's, and a second thread the other way round."""

    @property
    def troubled(self) -> bool:
        """Whether the disk makes trouble on this day."""
        return self.log.trouble is not no_trouble

    def prepare(self, store: WatchedStore, modes: Modes) -> None:
        """Look at what was opened; a small WAL, so that checkpoints come often."""
        self.watching = True
        if modes not in (WAL_FULL, DELETE_EXTRA):
            store._writer.execute("PRAGMA synchronous = " + modes.synchronous).fetchall()
        store._writer.execute("PRAGMA wal_autocheckpoint = 40").fetchall()
        store.watcher = self
        self.acknowledged(store)

    def flying(self, store: SQLiteStore) -> None:
        """A commit is about to be tried."""
        self.log.add(Mark(Flying(self.note(store))))

    def acknowledged(self, store: SQLiteStore) -> None:
        """What the database holds now is durable."""
        self.log.add(Mark(Acknowledged(self.note(store))))

    def refused(self) -> None:
        """What was about to be committed was not."""
        self.log.add(Mark(Refused()))

    def unknown(self) -> None:
        """Nobody knows."""
        self.done["unknown"] += 1

    def note(self, store: SQLiteStore) -> int:
        """The number of the state that its writer sees."""
        self.watching = True
        try:
            digest = held(store._writer)
            store._writer.execute("PRAGMA shrink_memory").fetchall()
        finally:
            self.watching = False
        if not self.states or self.states[-1].held != digest:
            self.states.append(State(digest, len(self.told), self.clock.now()))
        return len(self.states) - 1
