"""What an uploader may try with a URL that he was given, at the fake and at a real server.

Both have to answer alike: what the fake lets pass, a simulated world would let pass as well.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from scheduler.handlers import Context
from scheduler.handlers.s3 import Bucket, Delete, Presign, Stat, object_key
from scheduler.testing.s3 import FakeS3
from stmflow.cid import CID, RAW
from stmflow.clock import SystemClock

BODY = b"the bytes that were asked for" * 40
OTHER = b"X" * len(BODY)
LINK = CID.of(BODY, RAW)
CLOCK = SystemClock()
TAKEN = 200

Send = Callable[[str, str, Mapping[str, str], bytes], Awaitable[int]]


@dataclass
class Place:
    """A bucket, and how somebody without a key reaches it."""

    bucket: Bucket
    send: Send

    async def sign(self, seconds: float = 60) -> dict[str, Any]:
        until = CLOCK.now() + int(seconds * 1_000)
        return await self.bucket.presign(Presign(LINK, len(BODY), until), context())

    async def put(self, signed: Mapping[str, Any], body: bytes = BODY, **headers: str) -> int:
        """The status of a PUT; `headers` replace those that were handed out."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("PUT", signed["url"], {**signed["headers"], **changed}, body)

    async def empty(self) -> bool:
        """Whether nothing was written."""
        seen = await self.bucket.stat(Stat(LINK, len(BODY)), context())
        return seen["size"] is None


def context() -> Context:
    deadline = CLOCK.now() + 20_000
    return Context(key=LINK, job=LINK, attempt=1, token=1, deadline=deadline, clock=CLOCK)


@pytest.fixture(params=["fake", "seaweed"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    if request.param == "fake":
        server = FakeS3("blobs", CLOCK)

        async def ask(method: str, url: str, headers: Mapping[str, str], body: bytes) -> int:
            return await server.request(method, url, headers, body)

        async with Bucket("blobs", client=server.client(CLOCK)) as bucket:
            yield Place(bucket, ask)
        return
    endpoint = request.getfixturevalue("endpoint")
    async with (
        httpx.AsyncClient() as client,
        Bucket(
            endpoint.bucket,
            endpoint=endpoint.url,
            access_key=endpoint.access_key,
            secret_key=endpoint.secret_key,
        ) as bucket,
    ):

        async def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> int:
            answer = await client.request(method, url, headers=dict(headers), content=body)
            return answer.status_code

        yield Place(bucket, send)


async def test_an_honest_upload_is_taken_once(place: Place) -> None:
    signed = await place.sign()
    assert await place.put(signed) == TAKEN
    assert await place.put(signed) == 412
    seen = await place.bucket.stat(Stat(LINK, len(BODY)), context())
    assert (seen["found"], seen["checksum"]) == (True, LINK.digest)


async def test_a_url_does_not_bring_bytes_back_over_those_of_a_later_put(place: Place) -> None:
    """Used again after it was stored: the condition is signed, so nothing is overwritten."""
    first, second = await place.sign(), await place.sign()
    assert await place.put(second) == TAKEN
    assert await place.put(first) == 412
    assert await place.put(first, OTHER) in (400, 412)
    assert (await place.bucket.stat(Stat(LINK, len(BODY)), context()))["found"]


async def test_another_length_than_the_declared_one_is_refused(place: Place) -> None:
    signed = await place.sign()
    for body in (BODY * 2, BODY[:-1], BODY + b"!"):
        assert await place.put(signed, body, content_length=str(len(body))) == 403
    assert await place.empty()


async def test_other_bytes_than_those_of_the_link_are_refused(place: Place) -> None:
    signed = await place.sign()
    forged = b64encode(sha256(OTHER).digest()).decode()
    assert await place.put(signed, OTHER) == 400
    assert await place.put(signed, OTHER, x_amz_checksum_sha256=forged) == 403
    assert await place.empty()


async def test_each_header_is_needed_as_it_was_handed_out(place: Place) -> None:
    signed = await place.sign()
    for name in signed["headers"].keys() - {"content-length"}:
        without = {n: value for n, value in signed["headers"].items() if n != name}
        assert await place.send("PUT", signed["url"], without, BODY) == 403, name
        changed = {**signed["headers"], name: '"0"'}
        assert 400 <= await place.send("PUT", signed["url"], changed, BODY) < 500, name
    assert await place.empty()


async def test_each_part_of_the_url_is_needed_as_it_was_signed(place: Place) -> None:
    signed = await place.sign()
    for url in tampered(signed["url"]):
        status = await place.send("PUT", url, signed["headers"], BODY)
        assert 400 <= status < 500, (status, url)
    assert await place.empty()


def tampered(url: str) -> Iterator[str]:
    """Every parameter changed, left out, or doubled; another key, another bucket, one more."""
    where, _, query = url.partition("?")
    fields = query.split("&")
    for n, field in enumerate(fields):
        name, _, value = field.partition("=")
        other = ("1" if value[0] != "1" else "2") + value[1:]
        if name == "x-id":  # a hint for readers of logs
            continue
        for instead in ([f"{name}={other}"], [f"{name}={value}0"], []):
            yield f"{where}?{'&'.join([*fields[:n], *instead, *fields[n + 1 :]])}"
    yield f"{url}&versionId=1"
    path = urlsplit(url).path
    _, bucket, key = path.split("/", 2)
    yield url.replace(key, object_key(CID.of(b"another")))
    yield url.replace(key, f"{key}/..%2F{key}")
    yield url.replace(f"/{bucket}/", "/another/")


async def test_a_url_is_good_for_a_put_alone(place: Place) -> None:
    signed = await place.sign()
    assert await place.put(signed) == TAKEN
    for method in ("GET", "DELETE", "POST"):
        status = await place.send(method, signed["url"], signed["headers"], BODY)
        assert 400 <= status < 500, method
    assert not await place.empty()


async def test_after_its_end_a_url_is_good_for_nothing(place: Place) -> None:
    """Late PUTs, also of bytes whose space was given back since: there is nothing to sweep."""
    signed = await place.sign(1.2)
    await CLOCK.sleep_until(signed["until"])
    assert await place.put(signed) == 403
    assert await place.empty()


async def test_of_two_uploads_at_once_one_is_taken(place: Place) -> None:
    signed, statuses = await place.sign(), list[int]()

    async def put() -> None:
        statuses.append(await place.put(signed))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(put)
    assert statuses.count(TAKEN) == 1
    assert set(statuses) <= {TAKEN, 409, 412}


async def test_what_was_deleted_may_be_put_anew(place: Place) -> None:
    """As long as the URL lives: so bytes are swept at its end, and not before."""
    signed = await place.sign()
    assert await place.put(signed) == TAKEN
    await place.bucket.delete(Delete(LINK), context())
    assert await place.put(signed) == TAKEN
