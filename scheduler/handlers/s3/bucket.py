"""The bucket: the handlers of all S3 tasks over one client."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from hashlib import sha256
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import anyio

from scheduler.handlers import Context, Handler
from scheduler.handlers.s3.client import Secret, check_endpoint, classify, connect
from scheduler.handlers.s3.proof import (
    CheckedStream,
    Source,
    check_size,
    checked,
    checksum_header,
    object_key,
    sha256_of,
    stored_sha256,
)
from scheduler.handlers.s3.tasks import Delete, Presign, Put, Stat, Verify, Watch
from scheduler.retry import Failure, Retry
from stmflow.cid import CID
from stmflow.clock import Clock

MAX_URL_SECONDS: Final = 7 * 24 * 3600
"""The longest that SigV4 lets a signed URL live."""

RANGE_BYTES: Final = 16 * 1024**2
CHUNK_BYTES: Final = 256 * 1024
BUCKET_SEEN_MS: Final = 60_000
WATCH_MARGIN_MS: Final = 1_000


class Bucket:
    """One bucket and the one client through which all its tasks go; an async context manager.

    Requests go to `endpoint` (None: AWS in `region`) and nowhere else: redirects are not followed.
    Every call is one request: the scheduler retries, not the client. Without an access key the
    client's own chain finds credentials (environment, files, role) and renews them. `path_style`
    None means: for an endpoint of one's own. Have `max_connections` at least as large as the number
    of tasks that run at once.

    A signed URL puts its object once: `If-None-Match` is signed, and whoever comes second is told
    412. With `put_again` it may be used until it dies, by several uploaders at once; length and
    checksum are signed all the same, so each of them writes the same bytes.

    A watch pauses `watch_base_ms` after its first look, then twice that, at most `watch_cap_ms`. Up
    to `watchers` of them wait in here, each in a slot of the scheduler, which must have more slots
    than that; all others leave after each look and come back when the next one is due.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        access_key: str | None = None,
        secret_key: Secret | None = None,
        session_token: Secret | None = None,
        prefix: str = "",
        content_type: str = "application/octet-stream",
        path_style: bool | None = None,
        put_again: bool = False,
        source: Source | None = None,
        max_connections: int = 64,
        connect_timeout_seconds: float = 5.0,
        read_timeout_seconds: float = 30.0,
        watch_base_ms: int = 500,
        watch_cap_ms: int = 30_000,
        watchers: int = 8,
        client: AbstractAsyncContextManager[Any] | None = None,
    ) -> None:
        check_endpoint(endpoint)
        if (access_key is None) != (secret_key is None):
            raise ValueError("an access key and its secret go together")
        self.name = name
        self.prefix = prefix
        self._content_type = content_type
        self._put_again = put_again
        self._source = source
        self._watch_pauses_ms = (watch_base_ms, watch_cap_ms)
        self._watchers = watchers
        self._waiting = 0
        self._login = {
            "endpoint_url": endpoint,
            "region_name": region,
            "aws_access_key_id": access_key,
            "aws_secret_access_key": secret_key,
            "aws_session_token": session_token,
        }
        path_style = endpoint is not None if path_style is None else path_style
        self._options = {
            "max_pool_connections": max_connections,
            "connect_timeout": connect_timeout_seconds,
            "read_timeout": read_timeout_seconds,
            "s3": {
                "addressing_style": "path" if path_style else "virtual",
                # Every put signs the checksum of its payload: no need to hash that once more.
                "payload_signing_enabled": False,
            },
        }
        self._exits = AsyncExitStack()
        self._given = client
        self._client: Any = None
        self._bucket_seen_ms: int | None = None
        self._bells: dict[bytes, set[anyio.Event]] = {}

    async def __aenter__(self) -> Self:
        client = self._given or connect(self._login, self._options)
        self._client = await self._exits.enter_async_context(client)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._client = None
        await self._exits.aclose()

    def handlers(self) -> dict[type, Handler]:
        """Each task type with the method that performs it."""
        return {
            Stat: self.stat,
            Presign: self.presign,
            Put: self.put,
            Watch: self.watch,
            Verify: self.verify,
            Delete: self.delete,
        }

    def notify(self, link: CID) -> None:
        """Make every watch of the link's bytes that runs here look at once.

        For what the server or an uploader says of new objects: a hint, never a proof. A watch that
        does not wait in here misses it and looks when its next look is due.
        """
        for bell in self._bells.get(link.multihash, ()):
            bell.set()

    async def stat(self, task: Stat, context: Context) -> dict[str, Any]:
        """Perform `Stat`. `Denied`, `NoBucket` and `Unavailable` are failures, never "absent"."""
        async with _attempt(context):
            return await self._look(task.link, task.size, context.clock, {})

    async def verify(self, task: Verify, context: Context) -> dict[str, Any]:
        """Perform `Verify`. Fails as `Mismatch` (FATAL) when the claim is not true."""
        async with _attempt(context):
            seen = await self._look(task.link, task.size, context.clock, {})
        if not seen["found"]:
            raise Failure("Mismatch", {"round": task.round, **seen})
        return {
            "verified": True,
            "size": task.size,
            "checksum": seen["checksum"],
            "round": task.round,
        }

    async def watch(self, task: Watch, context: Context) -> dict[str, Any]:
        """Perform `Watch`. Where it may not wait any longer it fails as `Watching`: claim it again.

        That is shortly before the attempt's end, or at once while `watchers` others wait here.
        """
        first_ms, cap_ms = self._watch_pauses_ms
        pause_ms = min(first_ms << min(context.attempt - 1, 20), cap_ms)
        stop = context.deadline - WATCH_MARGIN_MS
        hashed: dict[str, bytes] = {}
        while True:
            with self._bell(task.link) as bell:
                async with _attempt(context):
                    seen = await self._look(task.link, task.size, context.clock, hashed)
                now = context.clock.now()
                if seen["found"] or now >= task.until:
                    return seen
                next_look = min(now + pause_ms, task.until)
                if self._waiting < self._watchers:
                    await self._wait(bell, context.clock, min(next_look, stop))
                    now = context.clock.now()
                    if now < stop:
                        pause_ms = min(pause_ms * 2, cap_ms)
                        continue
            raise Failure("Watching", retry=Retry.SAFE, after_ms=max(next_look - now, 0))

    async def presign(self, task: Presign, context: Context) -> dict[str, Any]:
        """Perform `Presign`. Fails as `TooLate` (under one second left) or `TooFar` (7 days)."""
        check_size(task.size)
        digest = sha256_of(task.link)
        headers = {
            "content-length": str(task.size),
            "content-type": self._content_type,
            "x-amz-checksum-sha256": checksum_header(digest),
        }
        parameters = {
            "Bucket": self.name,
            "Key": object_key(task.link, self.prefix),
            **self._conditions(task.size, digest),
        }
        if self._put_again:
            del parameters["IfNoneMatch"]
        else:
            headers["if-none-match"] = "*"
        async with _attempt(context):
            url = await self._sign(parameters, task.until, context.clock)
        _check_signed(url, headers)
        return {"url": url, "headers": headers, "until": task.until}

    async def put(self, task: Put, context: Context) -> dict[str, Any]:
        """Perform `Put`. Fails as `Corrupt` when the source's bytes are not those of the link."""
        check_size(task.size)
        digest = sha256_of(task.link)
        async with _attempt(context):
            body = checked(await self._open(task.link), task.size, digest)
            try:
                await self._call(
                    "put_object",
                    Key=object_key(task.link, self.prefix),
                    Body=body,
                    **self._conditions(task.size, digest),
                )
            except Failure as failure:
                if isinstance(body, CheckedStream) and body.error is not None:
                    raise body.error from None
                return await self._after_refusal(failure, task, context.clock)
        return {"existed": False}

    async def delete(self, task: Delete, context: Context) -> dict[str, Any]:
        """Perform `Delete`."""
        async with _attempt(context):
            try:
                await self._call("delete_object", Key=object_key(task.link, self.prefix))
            except Failure as failure:
                if failure.name != "Conflict":
                    raise
                raise Failure("Busy", failure.detail, retry=Retry.THROTTLED) from None
        return {"deleted": True}

    async def ask(self, operation: str, **parameters: Any) -> bytes:
        """One request about this bucket for who keeps objects of his own in it; its answer's body.

        Raises:
            Failure: by name, as the tasks fail.
        """
        answer = await self._call(operation, **parameters)
        if "Body" not in answer:
            return b""
        try:
            async with answer["Body"] as body:
                data: bytes = await body.read()
                return data
        except Exception as error:
            raise classify(error) from None

    # --- putting and signing --------------------------------------------------------------------

    def _conditions(self, size: int, digest: bytes) -> dict[str, Any]:
        """What makes a put write these very bytes, once."""
        return {
            "ContentLength": size,
            "ContentType": self._content_type,
            "IfNoneMatch": "*",
            "ChecksumSHA256": checksum_header(digest),
        }

    async def _open(self, link: CID) -> bytes | AsyncIterable[bytes]:
        if self._source is None:
            raise Failure("Refused", {"code": "NoSource"})
        return await self._source(link)

    async def _after_refusal(self, failure: Failure, task: Put, clock: Clock) -> dict[str, Any]:
        """412 says that something is there, 409 that somebody writes: look, or try again."""
        if failure.name != "Conflict":
            raise failure
        if failure.detail["status"] != 412:
            raise Failure("Busy", failure.detail, retry=Retry.THROTTLED) from None
        seen = await self._look(task.link, task.size, clock, {})
        if seen["mismatch"]:
            raise Failure("Mismatch", seen, retry=Retry.CONFLICT) from None
        if not seen["found"]:
            raise Failure("Changed", failure.detail, retry=Retry.SAFE) from None
        return {"existed": True}

    async def _sign(self, parameters: Mapping[str, Any], until: int, clock: Clock) -> str:
        """A URL that is dead at `until`: if a second turned while it was signed, sign again."""
        seconds = _seconds_until(until, clock)
        while True:
            try:
                url: str = await self._open_client().generate_presigned_url(
                    "put_object", Params=parameters, ExpiresIn=seconds
                )
            except Exception as error:
                raise classify(error) from None
            left = _seconds_until(until, clock)
            if left >= seconds:
                return url
            seconds = left

    # --- looking --------------------------------------------------------------------------------

    async def _look(
        self, link: CID, size: int, clock: Clock, hashed: dict[str, bytes]
    ) -> dict[str, Any]:
        """The outcome of one look. `hashed` remembers what was read, by the object's ETag."""
        digest = sha256_of(link)
        key = object_key(link, self.prefix)
        head = await self._head(key, clock)
        if head is None:
            return {"found": False, "size": None, "checksum": None, "mismatch": False}
        checksum = stored_sha256(head)
        if checksum is None and head["ContentLength"] == size:
            etag = head["ETag"]
            checksum = hashed.get(etag) or await self._hash(key, size, etag)
            hashed[etag] = checksum
        found = head["ContentLength"] == size and checksum == digest
        return {
            "found": found,
            "size": head["ContentLength"],
            "checksum": checksum,
            "mismatch": not found,
        }

    async def _head(self, key: str, clock: Clock) -> Mapping[str, Any] | None:
        """The object's head; None when it is absent from a bucket that exists.

        The answer to a HEAD has no body, so 404 may mean the bucket, and 403 anything: a GET of one
        byte tells which; after a 404 at most once a minute.
        """
        head: Mapping[str, Any] | None = None
        try:
            head = await self._call("head_object", Key=key, ChecksumMode="ENABLED")
        except Failure as failure:
            if failure.name not in ("Absent", "Denied"):
                raise
            if failure.name == "Denied" or not self._bucket_seen(clock.now()):
                await self._explain(failure, key)
        self._bucket_seen_ms = clock.now()
        return head

    def _bucket_seen(self, now: int) -> bool:
        seen = self._bucket_seen_ms
        return seen is not None and 0 <= now - seen < BUCKET_SEEN_MS

    async def _explain(self, failure: Failure, key: str) -> None:
        """Raise why the HEAD failed; return if nothing but the object was absent."""
        try:
            answer = await self._call("get_object", Key=key, Range="bytes=0-0")
            async with answer["Body"] as body:
                await body.read(1)
        except Exception as error:
            why = classify(error)
            if why.name != "Absent" and why.detail.get("status") != 416:  # 416: it is empty
                raise why from None
        if failure.name != "Absent":
            raise failure

    async def _hash(self, key: str, size: int, etag: str) -> bytes:
        """The sha2-256 of the object with that ETag, read in ranges and in bounded memory."""
        hasher = sha256()
        for start in range(0, size, RANGE_BYTES):
            stop = min(start + RANGE_BYTES, size)
            try:
                answer = await self._call(
                    "get_object", Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=etag
                )
                async with answer["Body"] as body:
                    await _feed(hasher, body, stop - start)
            except Exception as error:
                failure = classify(error)
                if failure.name in ("Absent", "Conflict"):
                    failure = Failure("Changed", failure.detail, retry=Retry.SAFE)
                raise failure from None
        return hasher.digest()

    # --- the client and the bells ---------------------------------------------------------------

    async def _call(self, operation: str, **parameters: Any) -> Any:
        """One request about this bucket; every error leaves classified."""
        client = self._open_client()
        try:
            return await getattr(client, operation)(Bucket=self.name, **parameters)
        except Exception as error:
            raise classify(error) from None

    def _open_client(self) -> Any:
        if self._client is None:
            raise RuntimeError("a bucket is used inside `async with`")
        return self._client

    @contextmanager
    def _bell(self, link: CID) -> Iterator[anyio.Event]:
        """An event that `notify` sets; made before the look, so that no notice is lost."""
        bell = anyio.Event()
        bells = self._bells.setdefault(link.multihash, set())
        bells.add(bell)
        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells:
                self._bells.pop(link.multihash, None)

    async def _wait(self, bell: anyio.Event, clock: Clock, until: int) -> None:
        """Return when the bell rings or the clock shows `until`."""

        async def listen() -> None:
            await bell.wait()
            group.cancel_scope.cancel()

        self._waiting += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                await clock.sleep_until(until)
                group.cancel_scope.cancel()
        finally:
            self._waiting -= 1


@asynccontextmanager
async def _attempt(context: Context) -> AsyncIterator[None]:
    """Bound what is inside by the attempt's end; after it, nothing is sent."""
    seconds = context.remaining_seconds
    if seconds <= 0:
        raise Failure("TimedOut", retry=Retry.SAFE)
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise Failure("TimedOut", retry=Retry.IDEMPOTENT) from None


async def _feed(hasher: Any, body: Any, size: int) -> None:
    """Hash a body that must have exactly `size` bytes, whatever its headers say."""
    seen = 0
    while chunk := await body.read(CHUNK_BYTES):
        seen += len(chunk)
        if seen > size:
            break
        hasher.update(chunk)
    if seen != size:
        raise Failure("Unavailable", {"cause": "WrongRange"}, retry=Retry.IDEMPOTENT)


def _seconds_until(until: int, clock: Clock) -> int:
    """Whole seconds that a URL may live, at least one."""
    seconds = (until - clock.now()) // 1_000
    if seconds < 1:
        raise Failure("TooLate", {"until": until})
    if seconds > MAX_URL_SECONDS:
        raise Failure("TooFar", {"until": until, "max_seconds": MAX_URL_SECONDS})
    return seconds


def _check_signed(url: str, headers: Mapping[str, str]) -> None:
    """A URL that leaves a header unsigned would let its holder write what he likes."""
    query = parse_qs(urlsplit(url).query)
    signed = query.get("X-Amz-SignedHeaders", [""])[0].split(";")
    if set(signed) != {"host", *headers}:
        raise Failure("Refused", {"code": "UnsignedHeaders", "signed": signed})
