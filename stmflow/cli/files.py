"""Files that commands write and read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import mkstemp
from typing import IO, TYPE_CHECKING

import click

if TYPE_CHECKING:
    from stmflow.history import Archive


@contextmanager
def sink(path: str, *, force: bool) -> Iterator[IO[bytes]]:
    """A new file of mode 0600, whole or not at all; nothing is overwritten without `force`."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if "\0" in path:
        raise click.UsageError("a file's name holds no NUL")
    target, (folder, name) = path, os.path.split(path)
    try:
        if force:
            number, target = mkstemp(".part", f"{name}.", folder or ".")
        else:
            number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise click.UsageError(f"{path} exists; --force replaces it") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(target, path)
    except BaseException as error:
        os.unlink(target)
        if isinstance(error, OSError):
            raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None
        raise


def archived(files: Sequence[str]) -> Archive:
    """What these CAR files hold together.

    Raises:
        NotFound: there is no such file. UsageError: it cannot be read.
        MalformedBlock: it is no CAR, or a block in it is not what its CID says.
    """
    from stmflow.errors import CodecError, MalformedBlock, NotFound
    from stmflow.history import Archive

    archive = Archive()
    for file in files:
        try:
            with open(file, "rb") as source:
                archive.add(source)
        except FileNotFoundError:
            raise NotFound(f"no file {file}") from None
        except CodecError as error:
            raise MalformedBlock(f"{file}: {error}") from None
        except (OSError, ValueError) as error:
            raise click.UsageError(f"{file} cannot be read: {error}") from None
    return archive
