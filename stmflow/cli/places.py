"""Where an archive lies, as a person writes it: a folder, or a bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import click

if TYPE_CHECKING:
    from stmflow.archive import Shelf

_KNOWN = ("endpoint", "region")


@asynccontextmanager
async def shelf_at(place: str) -> AsyncIterator[Shelf]:
    """The shelf at that place. A bucket's credentials come from where the S3 client finds them.

    Raises:
        UsageError: it is no such place, or a bucket and the extra `s3` is not installed.
    """
    from scheduler.handlers.archive import BucketShelf, FolderShelf
    from scheduler.handlers.s3 import Bucket

    if not place.startswith("s3:"):
        if "\0" in place or "://" in place:
            raise click.UsageError(f"neither a folder nor s3://BUCKET/PREFIX: {place!r:.80}")
        yield FolderShelf(place)
        return
    bucket, prefix, options = _bucket(place)
    try:
        opened = Bucket(
            bucket,
            prefix=prefix,
            endpoint=options.get("endpoint"),
            region=options.get("region", "us-east-1"),
        )
    except ValueError as error:
        raise click.UsageError(f"{place!r:.80}: {error}") from None
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(opened)
        except ImportError:
            raise click.UsageError("an archive in a bucket needs the extra `s3`") from None
        yield BucketShelf(opened)


def _bucket(place: str) -> tuple[str, str, dict[str, str]]:
    try:
        uri = urlsplit(place)
        flags = parse_qsl(uri.query, keep_blank_values=True)
    except ValueError as error:
        raise click.UsageError(f"{error}: {place!r:.80}") from None
    if not uri.netloc or uri.fragment or "@" in uri.netloc or place[:5] != "s3://":
        raise click.UsageError(f"not s3://BUCKET/PREFIX: {place!r:.80}")
    for name, value in flags:
        if name not in _KNOWN or not value:
            raise click.UsageError(f"unknown flag {name + '=' + value!r:.80} in --archive")
    return uri.netloc, uri.path.removeprefix("/"), dict(flags)
