"""A copy of a SQLite database while others write to it. No driver is imported here.

The source holds one read transaction throughout, so the copy is of one moment: without it SQLite
would begin anew whenever another connection commits, and never end on a busy database. Writers go
on; the WAL grows meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from tempfile import mkstemp
from typing import Any

from stmflow.errors import Corrupt

PAGES = 4_096
"""Pages that are copied between two looks at whether to go on."""


def copy(
    source: Any,
    connect: Callable[[str], Any],
    path: str,
    stop: Callable[[], bool] = lambda: False,
    *,
    replace: bool = False,
) -> None:
    """Write what `source` sees now to a file, whole or not at all, and on the disk when done.

    Args:
        connect: opens a database that is to be made.
        stop: asked between steps; True gives the copy up.
        replace: whether it may take the place of another file.

    Raises:
        FileExistsError: there is something at `path`, or the journal of another database beside it.
        Corrupt: the copy does not hold together, so the source does not.
    """
    _free(path, replace)
    folder, name = os.path.split(path)
    number, part = mkstemp(".part", f"{name}.", folder or ".")
    os.close(number)
    try:
        target = connect(part)
        try:
            if _pages(source, target, stop):
                return
            _settle(target)
        finally:
            target.close()
        _sync(part)
        _free(path, replace)
        if replace:
            os.replace(part, path)
        else:
            os.link(part, path)  # refused where somebody else was faster
        _sync(folder or ".")
    finally:
        for left in (part, f"{part}-wal", f"{part}-shm", f"{part}-journal"):
            with suppress(FileNotFoundError):
                os.unlink(left)


def _free(path: str, replace: bool) -> None:
    """Whether a copy may get that name. What a database left there in its journal, SQLite would
    write into the copy when it is opened: it would be the old database again, or a mixture."""
    if not replace and os.path.lexists(path):
        raise FileExistsError(f"{path} exists")
    for journal in (f"{path}-wal", f"{path}-journal"):
        with suppress(FileNotFoundError):
            if os.stat(journal).st_size:
                raise FileExistsError(f"{journal} exists: of a database in use, or not closed")


def _pages(source: Any, target: Any, stop: Callable[[], bool]) -> bool:
    """Copy all pages; whether it was given up."""
    inside = source.in_transaction
    if not inside:
        source.execute("BEGIN")
    try:
        source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        backup = target.backup("main", source, "main")
        try:
            while not backup.done:
                if stop():
                    return True
                backup.step(PAGES)
            backup.finish()
        finally:
            backup.close(True)  # what is wrong has been said; as a context manager it would hide it
        return False
    finally:
        if not inside and source.in_transaction:  # a failed read may have ended it
            source.execute("ROLLBACK")


def _settle(target: Any) -> None:
    """One file without a journal beside it, which holds together."""
    target.execute("PRAGMA journal_mode = delete").fetchall()
    found = target.execute("PRAGMA quick_check(1)").fetchall()
    if found != [("ok",)]:
        raise Corrupt(f"the copy does not hold together: {found[0][0]}")


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
