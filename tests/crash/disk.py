"""What a disk was told, and every state in which a power loss may leave it.

    log = Log()
    with recording(log): ...                    # SQLite opens every file through the recorder
    disk = Disk()
    for entry in log.entries:
        disk.play(entry)
        files = disk.image(some(Random(7)))     # name → bytes, as found after the loss

The recorder is a VFS around the operating system's: what goes through it really happens. Files are
followed by inode, not by name. The WAL's shared memory is not recorded, as it does not survive.

The model is that of ext4. What was synced stays. Of the writes to a file since its last sync any
may have reached the disk, in whole, in part (sectors of 512 bytes) or not at all. Directory entries
appear and vanish in order; a sync of a file makes its own entry durable, and all before it, only a
sync of the folder those after.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, NamedTuple

import apsw

SECTOR = 512
USUAL = apsw.vfs_names()[0]
_numbers = count()


class Write(NamedTuple):
    """Bytes at an offset."""

    inode: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A new length."""

    inode: int
    size: int


class Sync(NamedTuple):
    """Everything that was written to the file is on the disk."""

    inode: int


class FailedSync(NamedTuple):
    """Nobody knows what of it is on the disk, and no later sync will write what is not: the system
    holds it for written."""

    inode: int


class Link(NamedTuple):
    """A name appears."""

    name: str
    inode: int


class Found(NamedTuple):
    """A file that was there, and on the disk, before anybody looked."""

    name: str
    inode: int
    data: bytes


class Unlink(NamedTuple):
    """A name vanishes."""

    name: str


class SyncFolder(NamedTuple):
    """All names are on the disk as they are."""


class Mark(NamedTuple):
    """Nothing that the disk was told: the caller of the database knows this, as of now."""

    what: Any


Entry = Write | Truncate | Sync | FailedSync | Link | Found | Unlink | SyncFolder | Mark


def no_trouble(kind: str, path: str) -> None:
    """The disk works."""


@dataclass(slots=True)
class Log:
    """All that a disk was told, in order; one folder."""

    entries: list[Entry] = field(default_factory=list)
    inodes: dict[str, int] = field(default_factory=dict)
    """The files that have a name now."""
    skip: Callable[[Entry], bool] = lambda entry: False
    """What is not to be noted, as if it had never reached the disk: a planted fault."""
    trouble: Callable[[str, str], None] = no_trouble
    """Told of each call before it is made, by kind and path; what it raises, SQLite gets."""

    def add(self, entry: Entry) -> None:
        """Note one entry."""
        if not self.skip(entry):
            self.entries.append(entry)

    def inode(self, path: str) -> int:
        """The file of that name; it gets one if it has none, with what it holds already."""
        name = os.path.basename(path)
        if name not in self.inodes:
            number = self.inodes[name] = next(_numbers)
            with open(path, "rb") as file:
                held = file.read()
            self.add(Found(name, number, held) if held else Link(name, number))
        return self.inodes[name]

    def link(self, path: str, other: str) -> None:
        """A second name of a file."""
        self.inodes[os.path.basename(other)] = self.inode(path)
        self.add(Link(os.path.basename(other), self.inode(path)))

    def unlink(self, path: str) -> None:
        """A name is gone."""
        name = os.path.basename(path)
        if self.inodes.pop(name, None) is not None:
            self.add(Unlink(name))


class _File(apsw.VFSFile):
    """A file whose changes are noted once they have been made."""

    def __init__(self, log: Log, path: str, name: Any, flags: list[int]) -> None:
        super().__init__(USUAL, name, flags)
        self._log = log
        self._path = path
        self._inode = log.inode(path)

    def xRead(self, amount: int, offset: int) -> bytes:
        try:
            self._log.trouble("read", self._path)
        except EOFError:  # only half of it is to be had
            return super().xRead(amount, offset)[: amount // 2]
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        try:
            self._log.trouble("write", self._path)
        except apsw.FullError:  # half of it still fitted
            self._write(bytes(data)[: len(data) // 2], offset)
            raise
        self._write(bytes(data), offset)

    def _write(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._log.add(Write(self._inode, offset, data))

    def xTruncate(self, size: int) -> None:
        self._log.trouble("truncate", self._path)
        super().xTruncate(size)
        self._log.add(Truncate(self._inode, size))

    def xSync(self, flags: int) -> None:
        try:
            self._log.trouble("sync", self._path)
        except apsw.Error:
            self._log.add(FailedSync(self._inode))
            raise
        super().xSync(flags)
        self._log.add(Sync(self._inode))

    def xFileSize(self) -> int:
        self._log.trouble("size", self._path)
        return super().xFileSize()

    def xLock(self, level: int) -> None:
        self._log.trouble("lock", self._path)
        super().xLock(level)


class _Recorder(apsw.VFS):
    """The operating system's files, with a log."""

    def __init__(self, name: str, log: Log) -> None:
        super().__init__(name, USUAL)
        self._log = log

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        if name is None:  # a temporary file
            return apsw.VFSFile(USUAL, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._log.trouble("open", path)
        return _File(self._log, path, name, flags)

    def xAccess(self, name: str, flags: int) -> bool:
        self._log.trouble("access", name)
        return super().xAccess(name, flags)

    def xDelete(self, name: str, sync: bool) -> None:
        self._log.trouble("delete", name)
        super().xDelete(name, sync)
        self._log.unlink(name)
        if sync:
            self._log.add(SyncFolder())


@contextmanager
def default_vfs(vfs: apsw.VFS, name: str) -> Iterator[None]:
    """Databases are opened through this VFS; the store under test need not know of it."""
    apsw.set_default_vfs(name)
    try:
        yield
    finally:
        apsw.set_default_vfs(USUAL)
        vfs.unregister()


@contextmanager
def recording(log: Log) -> Iterator[None]:
    """Note what every database is told that is opened inside."""
    name = f"recording-{next(_numbers)}"
    with default_vfs(_Recorder(name, log), name):
        yield


class RecordingOS:
    """Stands in for `os` in a module that makes, syncs and links files by itself."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        file = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            self._log.inode(path)
        return file

    def pwrite(self, file: int, data: bytes, at: int) -> int:
        size = os.pwrite(file, data, at)
        self._log.add(Write(self._log.inode(_path(file)), at, data[:size]))
        return size

    def fsync(self, file: int) -> None:
        path = _path(file)
        try:
            self._log.trouble("sync", path)
        except apsw.Error as error:
            if not os.path.isdir(path):
                self._log.add(FailedSync(self._log.inode(path)))
            raise OSError(errno.EIO, "planted", path) from error
        os.fsync(file)
        self._log.add(SyncFolder() if os.path.isdir(path) else Sync(self._log.inode(path)))

    def link(self, path: str, other: str) -> None:
        os.link(path, other)
        self._log.link(path, other)

    def unlink(self, path: str) -> None:
        os.unlink(path)
        self._log.unlink(path)


def _path(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")


# --- what a loss leaves ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Inode:
    synced: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)


Fate = Callable[[Write | Truncate], Iterator[Write | Truncate]]
"""What of a change that was not synced has reached the disk."""


class Choice(NamedTuple):
    """What a loss keeps: of the names that were not synced the first so many, and of each write."""

    names: Callable[[int], int]
    fate: Fate


def nothing() -> Choice:
    """Only what was synced."""
    return Choice(lambda most: 0, lambda change: iter(()))


def everything() -> Choice:
    """All that was written, as a killed process leaves it."""
    return Choice(lambda most: most, lambda change: iter((change,)))


def some(random: Random) -> Choice:
    """Any of it: kept, dropped or torn, as drawn."""
    kept, torn = random.random(), random.choice((0.0, 0.3, 1.0))

    def fate(change: Write | Truncate) -> Iterator[Write | Truncate]:
        if random.random() >= kept:
            return
        if isinstance(change, Write) and random.random() < torn:
            yield from _sectors(change, random)
        else:
            yield change

    return Choice(lambda most: random.randint(0, most), fate)


def _sectors(change: Write, random: Random) -> Iterator[Write]:
    at, end = change.offset, change.offset + len(change.data)
    while at < end:
        upto = min(end, (at // SECTOR + 1) * SECTOR)
        if random.random() < 0.5:
            piece = change.data[at - change.offset : upto - change.offset]
            yield Write(change.inode, at, piece)
        at = upto


class Disk:
    """A folder on a disk while a log is played to it.

    Args:
        random: says what a failed sync has written; without it, nothing.
    """

    def __init__(self, random: Random | None = None) -> None:
        self._failed = nothing() if random is None else some(random)
        self._inodes: dict[int, _Inode] = {}
        self._names: dict[str, int] = {}
        self._pending: list[Link | Unlink] = []

    @property
    def unsynced(self) -> int:
        """Changes of which nobody knows whether they are on the disk."""
        return len(self._pending) + sum(len(one.pending) for one in self._inodes.values())

    def play(self, entry: Entry) -> None:
        """The disk is told this."""
        match entry:
            case Write() | Truncate():
                self._inodes.setdefault(entry.inode, _Inode()).pending.append(entry)
            case FailedSync(inode):
                self._write(inode, self._failed.fate)
            case Sync(inode):
                self._write(inode, everything().fate)
                places = [
                    at
                    for at, one in enumerate(self._pending)
                    if isinstance(one, Link) and one.inode == inode
                ]
                self._settle(places[-1] + 1 if places else 0)
            case Link(_, inode):
                self._inodes.setdefault(inode, _Inode())
                self._pending.append(entry)
            case Found(name, inode, data):
                self._inodes[inode] = _Inode(bytearray(data))
                self._names[name] = inode
            case Unlink():
                self._pending.append(entry)
            case SyncFolder():
                self._settle(len(self._pending))

    def _write(self, inode: int, fate: Fate) -> None:
        held = self._inodes.setdefault(inode, _Inode())
        for change in held.pending:
            for piece in fate(change):
                _apply(held.synced, piece)
        held.pending.clear()

    def _settle(self, upto: int) -> None:
        for entry in self._pending[:upto]:
            _rename(self._names, entry)
        del self._pending[:upto]
        used = {*self._names.values(), *(e.inode for e in self._pending if isinstance(e, Link))}
        for inode in self._inodes.keys() - used:
            del self._inodes[inode]

    def image(self, choice: Choice) -> dict[str, bytes]:
        """The files that are found after a loss of power, here and now."""
        names = dict(self._names)
        for entry in self._pending[: choice.names(len(self._pending))]:
            _rename(names, entry)
        found = {}
        for name, inode in names.items():
            data = bytearray(self._inodes[inode].synced)
            for change in self._inodes[inode].pending:
                for piece in choice.fate(change):
                    _apply(data, piece)
            found[name] = bytes(data)
        return found


def _rename(names: dict[str, int], entry: Link | Unlink) -> None:
    if isinstance(entry, Link):
        names[entry.name] = entry.inode
    else:
        names.pop(entry.name, None)


def _apply(data: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del data[change.size :]
        data.extend(bytes(change.size - len(data)))
        return
    data.extend(bytes(max(0, change.offset - len(data))))
    data[change.offset : change.offset + len(change.data)] = change.data


def lay_out(folder: str, files: Mapping[str, bytes]) -> None:
    """Put an image where a store can open it. Locks that live beside a database stay."""
    for name in os.listdir(folder):
        if not name.endswith(("-workers", "-turn")):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
    for name, data in files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
