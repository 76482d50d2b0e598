"""What a failed sync leaves behind in a WAL. No driver is imported here.

After a sync that failed, the system may hold pages for written that never reached the disk. They
read back as if they were there, recovery believes them, the next sync succeeds without writing
them, and a loss of power takes them away, with every commit that was built on them. So before
anything is built on a WAL it is written once more: then its pages are dirty, and a sync that
succeeds means what it says.
"""

from __future__ import annotations

import os

PIECE = 1 << 20


def write_again(database: str) -> None:
    """Write the WAL of a database over itself and sync it. Its write lock is held meanwhile.

    Raises OSError: it is not on the disk; nothing may be built on it.
    """
    try:
        file = os.open(f"{database}-wal", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        at = 0
        while data := os.pread(file, PIECE, at):
            at += os.pwrite(file, data, at)
        if at:
            os.fsync(file)
    finally:
        os.close(file)
