"""Faults below the VFS: the calls by which SQLite maps a WAL's shared memory and takes locks.

What a VFS in Python is asked for does not include shared memory; the operating system's VFS lets
its system calls be replaced, one by one, for the whole process.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from tests.crash.disk import USUAL

AVAILABLE = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8
_FAILED = ctypes.c_void_p(-1).value
_Pointer, _Int, _Long = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
_Map = ctypes.CFUNCTYPE(
    _Pointer, _Pointer, ctypes.c_size_t, _Int, _Int, _Int, _Long, use_errno=True
)
_Control = ctypes.CFUNCTYPE(_Int, _Int, _Int, _Pointer, use_errno=True)


@contextmanager
def failing(trouble: Callable[[str, str], None]) -> Iterator[None]:
    """Tell `trouble` of each "mmap" and of each "fcntl" that takes a lock, before it is made; where
    it raises OSError, the call fails with its errno."""
    vfs = apsw.VFS("system-calls", USUAL)
    usual = {name: vfs.xGetSystemCall(name) for name in ("mmap", "fcntl")}
    real_map, real_control = _Map(usual["mmap"]), _Control(usual["fcntl"])

    def mapped(*given: Any) -> Any:
        return _FAILED if _failed(trouble, "mmap") else real_map(*given)

    def controlled(file: int, command: int, argument: int | None) -> int:
        takes = command == fcntl.F_SETLK and ctypes.c_short.from_address(argument or 0).value != 2
        failed = takes and _failed(trouble, "fcntl")
        return -1 if failed else real_control(file, command, argument)

    ours = {"mmap": _Map(mapped), "fcntl": _Control(controlled)}
    try:
        for name, call in ours.items():
            vfs.xSetSystemCall(name, ctypes.cast(call, _Pointer).value)
        yield
    finally:
        for name, pointer in usual.items():
            vfs.xSetSystemCall(name, pointer)
        vfs.unregister()


def _failed(trouble: Callable[[str, str], None], kind: str) -> bool:
    try:
        trouble(kind, "")
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EIO)
        return True
    return False
