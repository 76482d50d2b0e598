"""An S3 server in memory that obeys, fails and lies: for tests, and for simulated worlds.

    server = FakeS3("blobs", clock, hit=faults.hit, random=Random(seed))
    async with Bucket("blobs", client=server.client(clock)) as bucket:
        ...
    status = await server.request("PUT", url, headers, data)    # as an uploader, with no key

It takes what S3 takes and refuses what S3 refuses: a URL is good for one method, bucket, key, time
and set of headers; a put is checked for its length, its checksum and its condition. `hit` is asked
before each fault of `S3_FAULTS` whether it comes now. None of them makes a look find what is not
there: a checksum that a server reports is taken for a proof, so a server that forges it is not
modelled, nor is a request that lands more than `CUT_MS` after it was sent.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import anyio

from stmflow.clock import Clock

S3_FAULTS: Final = (
    "s3 500",
    "s3 503",  # half of them say how long to wait
    "s3 slow",  # up to `CUT_MS`
    "s3 timeout done",  # no answer, and it was done
    "s3 timeout lost",  # no answer, and it was not
    "s3 cut",  # a body that ends early
    "s3 wrong bytes",  # a body of the right length
    "s3 wrong checksum",
    "s3 no checksum",  # so that the bytes have to be read
    "s3 wrong size",
    "s3 409",
    "s3 412",
    "s3 unseen",  # a put that looks do not see for a while
    "s3 stale list",
    "s3 redirect",
    "s3 skewed",  # "your clock is wrong"
)
CUT_MS: Final = 3_000
"""A request that has been on its way for longer never arrives: the line was cut."""

UNSEEN_MS: Final = 1_500
SKEW_MS: Final = 15 * 60_000
"""How wrong a client's clock may be."""

HOST: Final = "s3.test"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object. Looks see it from `seen` on; `checksum` is None where none was sent."""

    data: bytes
    checksum: bytes | None
    seen: int
    etag: str


class Refusal(Exception):
    """An answer of the server that is an error, in the form that `classify` reads."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, code)
        metadata = {"HTTPStatusCode": status, "HTTPHeaders": dict(headers or {})}
        self.status = status
        self.response = {"Error": {"Code": code}, "ResponseMetadata": metadata}


class FakeS3:
    """One bucket.

    Args:
        bucket: its name. clock: the server's. hit: whether a fault comes now. random: for the rest.

    Attributes:
        objects: what lies there, by key. done: how often each operation succeeded.
        before_delete: called with the key of each object that is about to be deleted.
    """

    def __init__(
        self,
        bucket: str,
        clock: Clock,
        *,
        hit: Callable[[str], bool] = lambda fault: False,
        random: Random | None = None,
    ) -> None:
        self.bucket = bucket
        self.clock = clock
        self.hit = hit
        self.random = random or Random(0)
        self.objects: dict[str, Stored] = {}
        self.done: Counter[str] = Counter()
        self.before_delete: Callable[[str], None] = lambda key: None
        self._secret = self.random.randbytes(32)
        self._listed: list[str] = []

    def client(self, clock: Clock) -> FakeClient:
        """The client of a process whose clock this is; it holds the key."""
        return FakeClient(self, clock)

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"", *,
        seconds: float = 0.0,
    ) -> int:  # fmt: skip
        """The status that somebody without a key gets; `seconds`: how long the body takes to come.

        A URL is judged when the head of the request comes, and the body when it has come.
        """
        try:
            key, signed = self._authorised(method, url, headers)
            await anyio.sleep(seconds)
            if self.hit("s3 500"):
                raise Refusal(500, "InternalError")
            self.store(key, body, signed)
        except Refusal as refusal:
            return refusal.status
        return 200

    def place(self, key: str, data: bytes) -> None:
        """Put an object there as the bucket's owner can, and without a checksum."""
        self.objects[key] = Stored(data, None, 0, hashlib.md5(data).hexdigest())

    # --- what a server does ---------------------------------------------------------------------

    def visible(self, key: str) -> Stored | None:
        """What a look sees."""
        found = self.objects.get(key)
        return None if found is None or self.clock.now() < found.seen else found

    def store(self, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        """A put, whose headers are signed."""
        digest = hashlib.sha256(body).digest()
        checksum = headers.get("x-amz-checksum-sha256")
        if len(body) != int(headers.get("content-length", len(body))):
            raise Refusal(400, "IncompleteBody")
        if checksum is not None and b64decode(checksum) != digest:
            raise Refusal(400, "BadDigest")
        if headers.get("if-none-match") == "*":
            if key in self.objects or self.hit("s3 412"):
                raise Refusal(412, "PreconditionFailed")
            if self.hit("s3 409"):
                raise Refusal(409, "ConditionalRequestConflict")
        seen = self.clock.now()
        if self.hit("s3 unseen"):
            seen += self.random.randint(1, UNSEEN_MS)
        kept = None if checksum is None else digest
        self.objects[key] = Stored(body, kept, seen, hashlib.md5(body).hexdigest())
        self.done["put"] += 1

    def delete(self, key: str) -> None:
        if self.hit("s3 409"):
            raise Refusal(409, "OperationAborted")
        if key in self.objects:
            self.before_delete(key)
            del self.objects[key]
        self.done["delete"] += 1

    def list(self, prefix: str) -> list[str]:
        """The keys that a listing names: those of now, or of the listing before."""
        stale = self.hit("s3 stale list")
        if not stale:
            self._listed = sorted(key for key in self.objects if self.visible(key) is not None)
        return [key for key in self._listed if key.startswith(prefix)]

    def sign(self, method: str, key: str, query: Mapping[str, str], headers: str) -> str:
        """The signature over all that a URL says, and over its headers."""
        text = "\n".join([method, self.bucket, key, *sorted(f"{n}={query[n]}" for n in query)])
        return hmac.new(self._secret, f"{text}\n{headers}".encode(), hashlib.sha256).hexdigest()

    def _authorised(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> tuple[str, Mapping[str, str]]:
        """Key and signed headers of a request by URL."""
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        _, bucket, key, *_ = [*unquote(parts.path).split("/", 2), "", ""]
        given = {name.lower(): value for name, value in headers.items()} | {"host": parts.netloc}
        names = query.get("X-Amz-SignedHeaders", "").split(";")
        signature = query.pop("X-Amz-Signature", "")
        if bucket != self.bucket or not {"X-Amz-Date", "X-Amz-Expires"} <= set(query):
            raise Refusal(403, "AccessDenied")
        signed = {name: given[name] for name in names if name in given}
        if not hmac.compare_digest(signature, self.sign(method, key, query, _headers(signed))):
            raise Refusal(403, "SignatureDoesNotMatch")
        begins = int(query["X-Amz-Date"])
        now = self.clock.now()
        if now < begins - SKEW_MS or now >= begins + int(query["X-Amz-Expires"]) * 1_000:
            raise Refusal(403, "AccessDenied")
        return key, signed


class FakeClient:
    """What `Bucket` asks of its client, as an async context manager too."""

    def __init__(self, server: FakeS3, clock: Clock) -> None:
        self._server = server
        self._clock = clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def head_object(self, *, Bucket: str, Key: str, ChecksumMode: str) -> dict[str, Any]:
        """Size and checksum. Its errors have no code: the answer to a HEAD has no body."""
        try:
            head: dict[str, Any] = await self._send(Bucket, lambda: self._head(Key))
        except Refusal as refusal:
            raise Refusal(refusal.status, str(refusal.status), _told(refusal)) from None
        return head

    async def get_object(
        self, *, Bucket: str, Key: str, Range: str = "bytes=0-", IfMatch: str | None = None
    ) -> dict[str, Any]:
        """A range of the bytes."""
        answer: dict[str, Any] = await self._send(Bucket, lambda: self._get(Key, Range, IfMatch))
        return answer

    async def put_object(self, *, Bucket: str, Key: str, Body: Any, **conditions: Any) -> Any:
        """Write an object."""
        body = Body if isinstance(Body, bytes) else b"".join([chunk async for chunk in Body])
        return await self._send(
            Bucket, lambda: self._server.store(Key, body, _headers_of(conditions))
        )

    async def delete_object(self, *, Bucket: str, Key: str) -> Any:
        """Remove an object, or see that there is none."""
        return await self._send(Bucket, lambda: self._server.delete(Key))

    async def list_objects_v2(self, *, Bucket: str, Prefix: str = "") -> dict[str, Any]:
        """The keys with that prefix."""
        keys = await self._send(Bucket, lambda: self._server.list(Prefix))
        return {"KeyCount": len(keys), "Contents": [{"Key": key} for key in keys]}

    async def generate_presigned_url(
        self, operation: str, *, Params: Mapping[str, Any], ExpiresIn: int
    ) -> str:
        """A URL for what the parameters say. Nobody is asked."""
        assert operation == "put_object"
        headers = {"host": HOST, **_headers_of(Params)}
        query = {
            "X-Amz-Date": str(self._clock.now() // 1_000 * 1_000),
            "X-Amz-Expires": str(ExpiresIn),
            "X-Amz-SignedHeaders": ";".join(sorted(headers)),
        }
        key = Params["Key"]
        query["X-Amz-Signature"] = self._server.sign("PUT", key, query, _headers(headers))
        return f"https://{HOST}/{self._server.bucket}/{quote(key)}?{urlencode(query)}"

    async def _send(self, bucket: str, act: Callable[[], Any]) -> Any:
        """One request, and the answer to it: where it goes wrong is what the faults say."""
        server, hit, sent = self._server, self._server.hit, self._server.clock.now()
        await self._way()
        if server.clock.now() - sent > CUT_MS:
            raise ConnectionResetError("cut")
        if abs(self._clock.now() - server.clock.now()) > SKEW_MS or hit("s3 skewed"):
            raise Refusal(403, "RequestTimeTooSkewed")
        if bucket != server.bucket:
            raise Refusal(404, "NoSuchBucket")
        if hit("s3 redirect"):
            raise Refusal(307, "TemporaryRedirect", {"location": "https://elsewhere.test/"})
        if hit("s3 500"):
            raise Refusal(500, "InternalError")
        if hit("s3 503"):
            patience = {"retry-after": "2"} if server.random.random() < 0.5 else {}
            raise Refusal(503, "SlowDown", patience)
        if hit("s3 timeout lost"):
            await anyio.sleep(CUT_MS / 1_000)
            raise TimeoutError
        answer = act()
        if hit("s3 timeout done"):
            await anyio.sleep(CUT_MS / 1_000)
            raise TimeoutError
        await self._way()
        return answer

    async def _way(self) -> None:
        longest = CUT_MS / 1_000 if self._server.hit("s3 slow") else 0.02
        await anyio.sleep(self._server.random.random() * longest)

    def _head(self, key: str) -> dict[str, Any]:
        server = self._server
        found = server.visible(key)
        if found is None:
            raise Refusal(404, "NoSuchKey")
        head: dict[str, Any] = {"ContentLength": len(found.data), "ETag": found.etag}
        if server.hit("s3 wrong size"):
            head["ContentLength"] += server.random.choice((-1, 1))
        if found.checksum is not None and not server.hit("s3 no checksum"):
            lie = server.hit("s3 wrong checksum")
            checksum = server.random.randbytes(32) if lie else found.checksum
            head["ChecksumSHA256"] = b64encode(checksum).decode()
        return head

    def _get(self, key: str, range: str, match: str | None) -> dict[str, Any]:
        server = self._server
        found = server.visible(key)
        if found is None:
            raise Refusal(404, "NoSuchKey")
        if match is not None and match != found.etag:
            raise Refusal(412, "PreconditionFailed")
        first, last = range.removeprefix("bytes=").split("-")
        if int(first) >= len(found.data):
            raise Refusal(416, "InvalidRange")
        data = bytearray(found.data[int(first) : int(last) + 1 if last else None])
        if server.hit("s3 wrong bytes"):
            data[server.random.randrange(len(data))] ^= 1
        cut = server.hit("s3 cut")
        if cut:
            del data[server.random.randrange(len(data)) :]
        return {"Body": _Body(bytes(data), cut and server.random.random() < 0.5)}


class _Body:
    """The body of an answer; with `breaks` it ends with a lost line instead of an end."""

    def __init__(self, data: bytes, breaks: bool) -> None:
        self._data = data
        self._breaks = breaks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def read(self, size: int = -1) -> bytes:
        chunk = self._data if size < 0 else self._data[:size]
        self._data = self._data[len(chunk) :]
        if self._breaks and not chunk:
            raise ConnectionResetError("cut")
        return chunk


_HEADER: Final = {
    "ContentLength": "content-length",
    "ContentType": "content-type",
    "IfNoneMatch": "if-none-match",
    "ChecksumSHA256": "x-amz-checksum-sha256",
}


def _headers_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The headers that a client makes of an operation's parameters."""
    return {_HEADER[name]: str(value) for name, value in parameters.items() if name in _HEADER}


def _headers(headers: Mapping[str, str]) -> str:
    return "\n".join(f"{name}:{headers[name]}" for name in sorted(headers))


def _told(refusal: Refusal) -> Mapping[str, str]:
    headers: Mapping[str, str] = refusal.response["ResponseMetadata"]["HTTPHeaders"]  # type: ignore[index]
    return headers
