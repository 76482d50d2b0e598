"""Where an archive lies: shelves for `stmflow.archive`, in a bucket or in a folder.

    async with Bucket("history", prefix="stmflow/", …) as bucket:
        retention = Retention(store, BucketShelf(bucket), keep_ms=30 * DAY)

An object is named by the hash of its bytes, as all objects of a bucket are; it is written with its
checksum signed, and never changed. Those of a run that was cut short may stay behind unused: they
do no harm.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final

import anyio

from scheduler.handlers import Failure, Retry
from scheduler.handlers.s3.bucket import Bucket
from scheduler.handlers.s3.proof import checksum_header, object_key, sha256_of
from stmflow.cid import CID
from stmflow.clock import Clock, SystemClock
from stmflow.errors import HashMismatch, NotFound, Unavailable

__all__ = ["BucketShelf", "FolderShelf"]

ATTEMPTS: Final = 5
PAUSE_MS: Final = 200
AGAIN: Final = (Retry.SAFE, Retry.IDEMPOTENT, Retry.THROTTLED)


class BucketShelf:
    """Objects in a bucket, which has been entered.

    A request that fails without having been refused is made again, five times in all, with longer
    and longer pauses.

    Raises:
        Unavailable: nobody answered, or the server refuses; by the failure's name (see
            `scheduler.handlers.s3`).
    """

    def __init__(self, bucket: Bucket, *, clock: Clock | None = None) -> None:
        self._bucket = bucket
        self._clock: Clock = SystemClock() if clock is None else clock

    async def put(self, link: CID, data: bytes) -> None:
        """Write an object, or see that its bytes are there. Raises HashMismatch, Unavailable."""
        if CID.of(data, link.codec) != link:
            raise HashMismatch(f"an object of {len(data)} bytes is not {link}")
        await self._again("put_object", Key=self._key(link), Body=data,
            ContentLength=len(data), ChecksumSHA256=checksum_header(sha256_of(link)))  # fmt: skip

    async def get(self, link: CID, *, start: int = 0, size: int | None = None) -> bytes:
        """Its bytes, or `size` of them from `start`. Raises NotFound, Unavailable."""
        wanted = {} if size is None else {"Range": f"bytes={start}-{start + size - 1}"}
        data = await self._again("get_object", Key=self._key(link), **wanted)
        if size is not None and len(data) != size:
            raise Unavailable(f"{len(data)} bytes of {link} came instead of {size}")
        return data

    def _key(self, link: CID) -> str:
        return object_key(link, self._bucket.prefix)

    async def _again(self, operation: str, **parameters: Any) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._bucket.ask(operation, **parameters)
            except Failure as failure:
                if failure.name == "Absent":
                    raise NotFound(f"no object {parameters['Key']} in the archive") from None
                if failure.retry not in AGAIN or attempt == ATTEMPTS:
                    raise Unavailable(f"the archive: {failure.name}") from failure
            await self._clock.sleep_until(self._clock.now() + PAUSE_MS * 2**attempt)
        raise AssertionError("not reached")


class FolderShelf:
    """Objects as files of one folder, which is made where there is none."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    async def put(self, link: CID, data: bytes) -> None:
        """Write a file, whole or not at all. Raises HashMismatch, Unavailable."""
        if CID.of(data, link.codec) != link:
            raise HashMismatch(f"an object of {len(data)} bytes is not {link}")
        await anyio.to_thread.run_sync(self._put, object_key(link), data)

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            number, part = mkstemp(".part", f"{name}.", self._folder)
            try:
                with open(number, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, self._folder / name)
            except BaseException:
                os.unlink(part)
                raise
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise Unavailable(f"the archive: {error.filename}: {error.strerror}") from error

    async def get(self, link: CID, *, start: int = 0, size: int | None = None) -> bytes:
        """Its bytes, or `size` of them from `start`. Raises NotFound, Unavailable."""
        return await anyio.to_thread.run_sync(self._get, object_key(link), start, size)

    def _get(self, name: str, start: int, size: int | None) -> bytes:
        try:
            with open(self._folder / name, "rb") as file:
                file.seek(start)
                data = file.read(-1 if size is None else size)
        except FileNotFoundError:
            raise NotFound(f"no object {name} in the archive {self._folder}") from None
        except OSError as error:
            raise Unavailable(f"the archive: {error.filename}: {error.strerror}") from error
        if size is not None and len(data) != size:
            raise Unavailable(f"{len(data)} bytes of {name} came instead of {size}")
        return data
