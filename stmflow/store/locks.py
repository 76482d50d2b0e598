"""Owner locks: each worker holds one byte of a file beside the database for as long as it lives.

Record locks belong to a process and are not inherited by children, so a byte that can be locked
belongs to nobody alive. They vanish when *any* descriptor of the file is closed; so a process
keeps one descriptor per file, for good, and knows by itself which bytes are its own. A file is what
it is on the disk: one that was removed, and another of the same name, are two.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # pragma: no cover - no record locks on this platform: time alone decides
    fcntl = None  # type: ignore[assignment]

_File = tuple[int, int, int]
"""Of which process, and where on which disk."""
_files: dict[_File, tuple[int, set[int]]] = {}
_looking: dict[_File, int] = {}


class OwnerLocks:
    """The locks beside one database. `path` None: no other process can see it."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._own: set[int] = set()
        self._mine: _File | None = None
        self._taken: set[int] = set()

    def take(self, worker: int) -> None:
        """Hold that worker's byte until `drop`, or until this process dies."""
        file, own = self._file()
        if file is not None and fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, worker)
        own.add(worker)
        self._taken.add(worker)

    def drop(self, worker: int) -> None:
        """Let go."""
        file, own = self._file()
        own.discard(worker)
        self._taken.discard(worker)
        if file is not None and fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, worker)

    def close(self) -> None:
        """Let go of every worker that was taken here."""
        for worker in list(self._taken):
            self.drop(worker)

    def dead(self, worker: int) -> bool:
        """Whether nobody alive holds that worker's byte."""
        file, own = self._file()
        if worker in own:
            return False
        if file is None:
            return True
        if fcntl is None:  # pragma: no cover
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, worker)
        except OSError:
            return False
        fcntl.lockf(file, fcntl.LOCK_UN, 1, worker)
        return True

    def alive(self, path: str, worker: int) -> bool | None:
        """Whether somebody holds that worker's byte of this file, without touching the lock; None
        where this platform cannot tell."""
        if not path or not os.path.exists(path):
            return worker in self._own
        if worker in _files.get(_which(path), (0, self._own))[1]:
            return True
        return _held(path, worker)

    def _file(self) -> tuple[int | None, set[int]]:
        if self._path is None:
            return None, self._own
        if self._mine is None or self._mine[0] != os.getpid():
            self._mine = _opened(self._path)
        return _files[self._mine]


def _which(path: str) -> _File:
    found = os.stat(path)
    return os.getpid(), found.st_dev, found.st_ino


def _opened(path: str) -> _File:
    """The file at that path, which is made where there is none, and opened once."""
    with contextlib.suppress(FileNotFoundError):
        if (known := _which(path)) in _files:
            return known
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    found = os.fstat(descriptor)
    key = (os.getpid(), found.st_dev, found.st_ino)
    _files.setdefault(key, (descriptor, set()))
    return key


def _held(path: str, worker: int) -> bool | None:
    """Ask who holds a byte (Linux's layout of `struct flock`)."""
    if fcntl is None or sys.platform != "linux" or struct.calcsize("P") != 8:
        return None
    key = _which(path)
    if key not in _looking:  # kept for good: to close it would drop locks of this process
        _looking[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, worker, 1, 0)
    found: int = struct.unpack("hhqqi4x", fcntl.fcntl(_looking[key], fcntl.F_GETLK, asked))[0]
    return found != fcntl.F_UNLCK


class Turn:
    """One writer at a time, in order of asking: fairer than a busy handler between processes."""

    def __init__(self, path: str | None) -> None:
        self._file = None
        if path is not None and fcntl is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for the turn, and pass it on."""
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
