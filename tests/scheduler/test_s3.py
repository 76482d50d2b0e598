"""The S3 handlers against a real server, and against servers that misbehave on purpose."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.lowlevel
import httpx
import pytest
from botocore.loaders import create_loader

from examples.store_add.seaweed import Endpoint
from scheduler.handlers import Context
from scheduler.handlers.s3 import (
    POLICIES,
    Bucket,
    Delete,
    Presign,
    Put,
    Secret,
    Source,
    Stat,
    Verify,
    Watch,
    bucket,
    object_key,
)
from scheduler.handlers.s3.proof import MAX_PUT_BYTES, stored_sha256
from scheduler.retry import Failure, Retry
from stmflow.cid import CAR, CID, DAG_CBOR, RAW
from stmflow.clock import SystemClock
from tests.s3servers import SeaweedServer, error_body, says, stub

BODY = b"the bytes of a CAR file, or of anything else" * 100
SIZE = len(BODY)
LINK = CID.of(BODY, CAR)
OTHER = b"X" * SIZE
ABSENT = {"found": False, "size": None, "checksum": None, "mismatch": False}
FOUND = {"found": True, "size": SIZE, "checksum": LINK.digest, "mismatch": False}
CLOCK = SystemClock()


@pytest.fixture(scope="module", autouse=True)
def _one_model() -> Iterator[None]:
    """Read the client's description of S3 once, not for each of a hundred buckets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", functools.cache(create_loader))
        yield


def context(seconds: float = 20.0) -> Context:
    deadline = CLOCK.now() + int(seconds * 1_000)
    return Context(key=LINK, job=LINK, attempt=1, token=1, deadline=deadline, clock=CLOCK)


def open_bucket(endpoint: Endpoint, **changes: Any) -> Bucket:
    options: dict[str, Any] = {
        "endpoint": endpoint.url,
        "access_key": endpoint.access_key,
        "secret_key": endpoint.secret_key,
        "watch_base_ms": 50,
        "watch_cap_ms": 200,
    }
    return Bucket(endpoint.bucket, **options | changes)


def at(url: str) -> Endpoint:
    return Endpoint(url, "key", Secret("not-so-secret"), "any-bucket")


def in_seconds(seconds: float) -> int:
    return CLOCK.now() + int(seconds * 1_000)


async def fails(awaitable: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        await awaitable
    return caught.value


async def upload(signed: dict[str, Any], body: bytes = BODY, /, **changes: Any) -> httpx.Response:
    """PUT with an ordinary client; `changes` replace headers, None removes one."""
    headers = {**signed["headers"], **{k.replace("_", "-"): v for k, v in changes.items()}}
    async with httpx.AsyncClient() as client:
        request = client.build_request(
            "PUT",
            signed["url"],
            content=body,
            headers={name: value for name, value in headers.items() if value is not None},
        )
        return await client.send(request)


def code(response: httpx.Response) -> tuple[int, str]:
    text = response.text
    return response.status_code, text.split("<Code>")[-1].split("</Code>")[0]


# --- signed uploads -----------------------------------------------------------------------------


async def sign(endpoint: Endpoint, seconds: float = 60) -> dict[str, Any]:
    async with open_bucket(endpoint) as bucket:
        signed = await bucket.presign(Presign(LINK, SIZE, in_seconds(seconds)), context())
    return dict(signed)


async def look(endpoint: Endpoint) -> dict[str, Any]:
    async with open_bucket(endpoint) as bucket:
        return await bucket.stat(Stat(LINK, SIZE), context())


async def test_an_upload_with_the_exact_headers_is_stored_and_proved(endpoint: Endpoint) -> None:
    signed = await sign(endpoint)
    assert (await upload(signed)).status_code == 200
    assert await look(endpoint) == FOUND


async def test_the_url_signs_every_header_that_it_hands_out(endpoint: Endpoint) -> None:
    signed = await sign(endpoint)
    query = parse_qs(urlsplit(signed["url"]).query)
    names = "content-length;content-type;host;if-none-match;x-amz-checksum-sha256"
    assert query["X-Amz-SignedHeaders"] == [names]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert set(query) == {
        f"X-Amz-{name}"
        for name in ("Algorithm", "Credential", "Date", "Expires", "Signature", "SignedHeaders")
    }
    assert signed["headers"] == {
        "content-length": str(SIZE),
        "content-type": "application/octet-stream",
        "if-none-match": "*",
        "x-amz-checksum-sha256": b64encode(hashlib.sha256(BODY).digest()).decode(),
    }


async def test_a_second_put_cannot_overwrite(endpoint: Endpoint) -> None:
    signed = await sign(endpoint)
    assert (await upload(signed)).status_code == 200
    assert code(await upload(signed)) == (412, "PreconditionFailed")


async def test_other_bytes_are_refused(endpoint: Endpoint) -> None:
    signed = await sign(endpoint)
    assert code(await upload(signed, OTHER)) == (400, "BadDigest")
    assert await look(endpoint) == ABSENT


@pytest.mark.parametrize("body", [BODY + b"!", BODY[:-1], b""])
async def test_another_length_is_refused(endpoint: Endpoint, body: bytes) -> None:
    signed = await sign(endpoint)
    response = await upload(signed, body, content_length=str(len(body)))
    assert code(response) == (403, "SignatureDoesNotMatch")
    assert await look(endpoint) == ABSENT


@pytest.mark.parametrize("header", ["content_type", "if_none_match", "x_amz_checksum_sha256"])
async def test_a_header_left_out_is_refused(endpoint: Endpoint, header: str) -> None:
    signed = await sign(endpoint)
    assert (await upload(signed, BODY, **{header: None})).status_code == 403
    assert await look(endpoint) == ABSENT


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("content_type", "text/html"),
        ("if_none_match", '"0"'),
        ("x_amz_checksum_sha256", b64encode(hashlib.sha256(OTHER).digest()).decode()),
    ],
)
async def test_a_header_changed_is_refused(endpoint: Endpoint, header: str, value: str) -> None:
    signed = await sign(endpoint)
    assert (await upload(signed, OTHER, **{header: value})).status_code == 403
    assert await look(endpoint) == ABSENT


async def test_a_url_is_good_for_one_key_and_one_method(endpoint: Endpoint) -> None:
    signed = await sign(endpoint)
    async with httpx.AsyncClient() as client:
        for url in (
            signed["url"].replace(object_key(LINK), "another-key"),
            signed["url"].replace(f"/{endpoint.bucket}/", "/stmflow/"),
            signed["url"].replace("X-Amz-Expires=", "X-Amz-Expires=9"),
            signed["url"].replace("X-Amz-Signature=", "X-Amz-Signature=0"),
        ):
            response = await client.put(url, content=BODY, headers=signed["headers"])
            assert response.status_code in (400, 403), url
        for method in ("GET", "HEAD", "DELETE"):
            response = await client.request(method, signed["url"])
            assert response.status_code == 403, method


async def test_a_url_is_dead_at_its_deadline(endpoint: Endpoint) -> None:
    until = in_seconds(2)
    async with open_bucket(endpoint) as bucket:
        signed = await bucket.presign(Presign(LINK, SIZE, until), context())
    assert signed["until"] == until
    query = {name: values[0] for name, values in parse_qs(urlsplit(signed["url"]).query).items()}
    begins = time.mktime(time.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ")) - time.timezone
    assert until - 2_000 <= (begins + int(query["X-Amz-Expires"])) * 1_000 <= until
    await CLOCK.sleep_until(until)
    assert code(await upload(signed)) == (403, "AccessDenied")
    assert await look(endpoint) == ABSENT


class Frozen:
    """A clock whose time stands still."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def now(self) -> int:
        return self.now_ms

    async def sleep_until(self, at_ms: int) -> None:
        raise AssertionError("nothing sleeps here")


WEEK = 7 * 24 * 3_600_000


@pytest.mark.parametrize(
    ("left_ms", "expires"),
    [(1_000, "1"), (1_999, "1"), (2_000, "2"), (WEEK, "604800"), (WEEK + 999, "604800")],
)
async def test_a_url_lives_for_whole_seconds_up_to_a_week(left_ms: int, expires: str) -> None:
    now = CLOCK.now()
    still = Context(key=LINK, job=LINK, attempt=1, token=1, deadline=now + 9_000, clock=Frozen(now))
    async with open_bucket(at("http://127.0.0.1:9")) as bucket:
        signed = await bucket.presign(Presign(LINK, SIZE, now + left_ms), still)
    assert parse_qs(urlsplit(signed["url"]).query)["X-Amz-Expires"] == [expires]


async def test_a_url_that_took_a_second_to_sign_is_signed_again() -> None:
    now = CLOCK.now()

    class Ticking(Frozen):
        """A second passes with every look at it but the first and the last."""

        looks = 0

        def now(self) -> int:
            self.looks += 1
            return self.now_ms + 1_000 * min(max(self.looks - 2, 0), 2)

    ticking = Context(
        key=LINK, job=LINK, attempt=1, token=1, deadline=now + 60_000, clock=Ticking(now)
    )
    async with open_bucket(at("http://127.0.0.1:9")) as bucket:
        signed = await bucket.presign(Presign(LINK, SIZE, now + 9_500), ticking)
    assert parse_qs(urlsplit(signed["url"]).query)["X-Amz-Expires"] == ["7"]


async def test_a_url_that_leaves_a_header_unsigned_is_not_handed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sign(*_: Any) -> str:
        return "http://host/key?X-Amz-SignedHeaders=host%3Bcontent-length"

    async with open_bucket(at("http://127.0.0.1:9")) as bucket:
        monkeypatch.setattr(bucket, "_sign", sign)
        failure = await fails(bucket.presign(Presign(LINK, SIZE, in_seconds(60)), context()))
    assert failure.detail["code"] == "UnsignedHeaders"


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_url_lives_for_so_long_at_most(off: int) -> None:
    assert bucket.MAX_URL_SECONDS == WEEK // 1_000
    still = Frozen(CLOCK.now())
    until = still.now() + (bucket.MAX_URL_SECONDS + off) * 1_000
    if off > 0:
        with pytest.raises(Failure, match="TooFar"):
            bucket._seconds_until(until, still)
    else:
        assert bucket._seconds_until(until, still) == bucket.MAX_URL_SECONDS + off


@pytest.mark.parametrize(
    ("left_ms", "name"),
    [(-5_000, "TooLate"), (0, "TooLate"), (999, "TooLate"), (WEEK + 1_000, "TooFar")],
)
async def test_a_deadline_that_no_url_can_meet_is_refused(left_ms: int, name: str) -> None:
    now = CLOCK.now()
    still = Context(key=LINK, job=LINK, attempt=1, token=1, deadline=now + 9_000, clock=Frozen(now))
    async with open_bucket(at("http://127.0.0.1:9")) as bucket:
        failure = await fails(bucket.presign(Presign(LINK, SIZE, now + left_ms), still))
    assert (failure.name, failure.retry) == (name, Retry.FATAL)
    assert failure.detail["until"] == now + left_ms


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        *((-1, False), (0, True), (1, True)),
        *((MAX_PUT_BYTES - 1, True), (MAX_PUT_BYTES, True), (MAX_PUT_BYTES + 1, False)),
    ],
)
async def test_only_what_one_put_can_take_is_signed(size: int, fits: bool) -> None:
    async with open_bucket(at("http://127.0.0.1:9")) as bucket:
        signing = bucket.presign(Presign(LINK, size, in_seconds(60)), context())
        if fits:
            assert (await signing)["headers"]["content-length"] == str(size)
        else:
            assert (await fails(signing)).name == "BadSize"


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", None])
async def test_every_region_signs_alike(region: str, url: str | None) -> None:
    secret = Secret("not-so-secret")
    unreached = Bucket(
        "some-bucket", endpoint=url, region=region, access_key="a", secret_key=secret
    )
    async with unreached as bucket:
        signed = await bucket.presign(Presign(LINK, SIZE, in_seconds(60)), context())
    assert "X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost%3B" in signed["url"]
    assert secret.reveal() not in str(signed)


async def test_a_hash_that_cannot_be_proved_is_refused() -> None:
    sha512 = CID(bytes([1, RAW, 0x13, 64]) + bytes(64))
    async with open_bucket(at("http://127.0.0.1:9")) as bucket:
        for call in (
            bucket.presign(Presign(sha512, SIZE, in_seconds(60)), context()),
            bucket.stat(Stat(sha512, SIZE), context()),
            bucket.put(Put(sha512, SIZE), context()),
        ):
            failure = await fails(call)
            assert (failure.name, failure.detail) == ("Unprovable", {"hash": 0x13})


def test_one_object_per_digest_whatever_the_codec() -> None:
    keys = {object_key(CID.of(BODY, codec)) for codec in (CAR, RAW, DAG_CBOR)}
    assert keys == {object_key(LINK)}
    assert object_key(LINK, "up/") == f"up/{object_key(LINK)}"
    assert object_key(LINK).startswith("bciq")  # multibase base32 of a sha2-256 multihash


# --- looking ------------------------------------------------------------------------------------


async def test_what_is_not_there_is_absent(endpoint: Endpoint) -> None:
    assert await look(endpoint) == ABSENT


async def test_another_size_is_not_found(endpoint: Endpoint) -> None:
    await upload(await sign(endpoint))
    async with open_bucket(endpoint) as bucket:
        seen = await bucket.stat(Stat(LINK, SIZE + 1), context())
    assert seen == {"found": False, "size": SIZE, "checksum": LINK.digest, "mismatch": True}


async def test_without_a_stored_checksum_the_bytes_are_read(
    seaweed: SeaweedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = object_key(LINK)
    seaweed.s3.put_object(Bucket=endpoint.bucket, Key=key, Body=BODY)
    head = seaweed.s3.head_object(Bucket=endpoint.bucket, Key=key, ChecksumMode="ENABLED")
    assert "ChecksumSHA256" not in head
    assert await look(endpoint) == FOUND
    for range_bytes in (1_000, SIZE - 1, SIZE, SIZE + 1):
        monkeypatch.setattr(bucket, "RANGE_BYTES", range_bytes)
        assert await look(endpoint) == FOUND


@pytest.mark.parametrize("checksum", [True, False])
async def test_other_bytes_of_the_same_size_are_not_found(
    seaweed: SeaweedServer, endpoint: Endpoint, checksum: bool
) -> None:
    stored = {"ChecksumSHA256": b64encode(hashlib.sha256(OTHER).digest()).decode()}
    seaweed.s3.put_object(
        Bucket=endpoint.bucket, Key=object_key(LINK), Body=OTHER, **(stored if checksum else {})
    )
    assert await look(endpoint) == {
        "found": False,
        "size": SIZE,
        "checksum": hashlib.sha256(OTHER).digest(),
        "mismatch": True,
    }


async def test_the_checksum_of_a_multipart_upload_proves_nothing(
    seaweed: SeaweedServer, endpoint: Endpoint
) -> None:
    body = bytes(5 * 1024**2) + BODY
    link = CID.of(body, RAW)
    where = {"Bucket": endpoint.bucket, "Key": object_key(link)}
    upload_id = seaweed.s3.create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]
    parts = []
    for number, part in enumerate((body[: 5 * 1024**2], body[5 * 1024**2 :]), start=1):
        digest = b64encode(hashlib.sha256(part).digest()).decode()
        sent = seaweed.s3.upload_part(
            **where, UploadId=upload_id, PartNumber=number, Body=part, ChecksumSHA256=digest
        )
        parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": digest})
    seaweed.s3.complete_multipart_upload(
        **where, UploadId=upload_id, MultipartUpload={"Parts": parts}
    )
    async with open_bucket(endpoint) as bucket:
        assert (await bucket.stat(Stat(link, len(body)), context()))["found"]


async def test_an_empty_object_is_found(seaweed: SeaweedServer, endpoint: Endpoint) -> None:
    link = CID.of(b"", RAW)
    seaweed.s3.put_object(Bucket=endpoint.bucket, Key=object_key(link), Body=b"")
    async with open_bucket(endpoint) as bucket:
        assert (await bucket.stat(Stat(link, 0), context()))["found"]


async def test_a_missing_bucket_is_not_an_absent_object(endpoint: Endpoint) -> None:
    gone = Endpoint(endpoint.url, endpoint.access_key, endpoint.secret_key, "no-such-bucket")
    async with open_bucket(gone, source=source_of(BODY)) as bucket:
        for call in (
            bucket.stat(Stat(LINK, SIZE), context()),
            bucket.put(Put(LINK, SIZE), context()),
            bucket.watch(Watch(LINK, SIZE, in_seconds(60)), context()),
        ):
            failure = await fails(call)
            assert (failure.name, failure.retry) == ("NoBucket", Retry.FATAL)


async def test_a_bucket_that_was_seen_is_not_asked_for_again(endpoint: Endpoint) -> None:
    async with stub(says("404 Not Found", body=error_body("NoSuchKey"))) as server:
        async with open_bucket(at(server.url)) as bucket:
            for _ in range(3):
                assert await bucket.stat(Stat(LINK, SIZE), context()) == ABSENT
        assert [line.split(" ")[0] for line in server.requests] == ["HEAD", "GET", "HEAD", "HEAD"]


@pytest.mark.parametrize("status", ["206 Partial Content", "416 Range Not Satisfiable"])
async def test_what_lands_right_after_a_look_is_not_in_it(status: str) -> None:
    async def reply(stream: Any, request: str) -> None:
        answer = says("404 Not Found") if request.startswith("HEAD") else says(status, body="x")
        await answer(stream, request)

    async with stub(reply) as server, open_bucket(at(server.url)) as bucket:
        assert await bucket.stat(Stat(LINK, SIZE), context()) == ABSENT


async def test_a_reason_that_cannot_be_had_leaves_the_look_unknown() -> None:
    async def reply(stream: Any, request: str) -> None:
        if request.startswith("HEAD"):
            await says("404 Not Found")(stream, request)
        else:
            await stream.send(b"HTTP/1.1 206 Partial\r\nContent-Length: 9\r\n\r\n")

    async with stub(reply) as server, open_bucket(at(server.url)) as bucket:
        failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
    assert (failure.name, failure.retry) == ("Unavailable", Retry.IDEMPOTENT)


async def test_without_credentials_nothing_is_signed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    async with Bucket("any-bucket", endpoint="http://127.0.0.1:9") as bucket:
        failure = await fails(bucket.presign(Presign(LINK, SIZE, in_seconds(60)), context()))
    assert (failure.name, failure.retry) == ("Unauthorized", Retry.AUTH)


async def test_a_wrong_secret_is_denied_and_not_absent(endpoint: Endpoint) -> None:
    wrong = Endpoint(endpoint.url, endpoint.access_key, Secret("wrong"), endpoint.bucket)
    async with open_bucket(wrong, source=source_of(BODY)) as bucket:
        for call in (
            bucket.stat(Stat(LINK, SIZE), context()),
            bucket.put(Put(LINK, SIZE), context()),
            bucket.delete(Delete(LINK), context()),
        ):
            failure = await fails(call)
            assert (failure.name, failure.retry) == ("Denied", Retry.FATAL)
            assert failure.detail == {"status": 403, "code": "SignatureDoesNotMatch"}


@pytest.mark.parametrize(
    ("expired", "name", "retry"),
    [("ExpiredToken", "Unauthorized", Retry.AUTH), ("NoSuchKey", "Denied", Retry.FATAL)],
)
async def test_a_denied_look_asks_for_the_reason(expired: str, name: str, retry: Retry) -> None:
    status = "404 Not Found" if expired == "NoSuchKey" else "403 Forbidden"

    async def reply(stream: Any, request: str) -> None:
        head = request.startswith("HEAD")
        answer = says("403 Forbidden") if head else says(status, body=error_body(expired))
        await answer(stream, request)

    async with stub(reply) as server, open_bucket(at(server.url)) as bucket:
        failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
    assert (failure.name, failure.retry) == (name, retry)


@pytest.mark.parametrize(
    ("head", "proof"),
    [
        ({}, None),
        ({"ChecksumSHA256": b64encode(LINK.digest).decode()}, LINK.digest),
        (
            {
                "ChecksumSHA256": b64encode(LINK.digest).decode(),
                "ChecksumType": "FULL_OBJECT",
            },
            LINK.digest,
        ),
        (
            {"ChecksumSHA256": b64encode(LINK.digest).decode(), "ChecksumType": "COMPOSITE"},
            None,
        ),
        ({"ChecksumSHA256": b64encode(LINK.digest).decode() + "-2"}, None),
        ({"ChecksumSHA256": b64encode(LINK.digest[1:]).decode()}, None),
        ({"ChecksumSHA256": "?" * 44}, None),
        ({"ChecksumSHA256": ""}, None),
    ],
)
def test_only_the_checksum_of_the_whole_object_is_a_proof(
    head: dict[str, str], proof: bytes | None
) -> None:
    assert stored_sha256(head) == proof


# --- servers that misbehave ---------------------------------------------------------------------


async def test_a_server_that_is_down_is_unavailable_and_nothing_was_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with open_bucket(at(url)) as bucket:
            failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
    assert (failure.name, failure.retry) == ("Unavailable", Retry.SAFE)
    assert failure.detail == {"cause": "ClientConnectorError"}


async def test_a_name_that_nobody_knows_is_unavailable() -> None:
    async with open_bucket(at("http://stmflow.invalid")) as bucket:
        failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
    assert (failure.name, failure.retry) == ("Unavailable", Retry.SAFE)


async def mute(stream: Any, request: str) -> None:
    await anyio.sleep(5)


async def cut(stream: Any, request: str) -> None:
    """Read the request and say nothing: the line is cut after this."""


async def test_a_slow_server_costs_no_more_than_the_attempt() -> None:
    async with stub(mute) as server, open_bucket(at(server.url)) as bucket:
        begun = time.monotonic()
        failure = await fails(bucket.stat(Stat(LINK, SIZE), context(0.3)))
        assert time.monotonic() - begun < 2
    assert (failure.name, failure.retry) == ("TimedOut", Retry.IDEMPOTENT)


async def test_a_server_that_never_answers_leaves_the_outcome_unknown() -> None:
    async with stub(mute) as server:
        async with open_bucket(at(server.url), read_timeout_seconds=0.2) as bucket:
            failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
        assert len(server.requests) == 1  # the scheduler tries again, not the client
    assert (failure.name, failure.retry) == ("Unavailable", Retry.IDEMPOTENT)


async def test_a_line_cut_after_the_request_leaves_the_outcome_unknown() -> None:
    async with stub(cut) as server, open_bucket(at(server.url)) as bucket:
        failure = await fails(bucket.delete(Delete(LINK), context()))
    assert (failure.name, failure.retry) == ("Unavailable", Retry.IDEMPOTENT)


async def test_after_the_attempts_end_nothing_is_sent() -> None:
    async with stub(cut) as server:
        async with open_bucket(at(server.url), source=source_of(BODY)) as bucket:
            for call in (
                bucket.stat(Stat(LINK, SIZE), context(0)),
                bucket.put(Put(LINK, SIZE), context(0)),
                bucket.delete(Delete(LINK), context(0)),
                bucket.watch(Watch(LINK, SIZE, in_seconds(9)), context(0)),
                bucket.verify(Verify(LINK, SIZE, 1), context(0)),
            ):
                failure = await fails(call)
                assert (failure.name, failure.retry) == ("TimedOut", Retry.SAFE)
        assert server.requests == []


@pytest.mark.parametrize(
    ("status", "headers", "name", "retry", "after_ms"),
    [
        ("503 Slow Down", ["Retry-After: 3"], "Throttled", Retry.THROTTLED, 3_000),
        ("500 Internal Server Error", [], "Unavailable", Retry.IDEMPOTENT, None),
        ("429 Too Many Requests", [], "Throttled", Retry.THROTTLED, None),
    ],
)
async def test_what_a_server_answers_reaches_the_scheduler_after_one_request(
    status: str, headers: list[str], name: str, retry: Retry, after_ms: int | None
) -> None:
    async with stub(says(status, *headers)) as server:
        async with open_bucket(at(server.url)) as bucket:
            failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
        assert len(server.requests) == 1
    assert (failure.name, failure.retry, failure.after_ms) == (name, retry, after_ms)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    async with stub(says("200 OK")) as other:
        elsewhere = [f"Location: {other.url}/any-bucket/key", "x-amz-bucket-region: eu-west-9"]
        async with stub(says(status, *elsewhere)) as server:
            async with open_bucket(at(server.url), source=source_of(BODY)) as bucket:
                for call in (
                    bucket.stat(Stat(LINK, SIZE), context()),
                    bucket.put(Put(LINK, SIZE), context()),
                    bucket.delete(Delete(LINK), context()),
                ):
                    failure = await fails(call)
                    assert (failure.name, failure.retry) == ("Refused", Retry.FATAL)
            assert len(server.requests) == 3
        assert other.requests == []


@pytest.mark.parametrize("length", [SIZE - 1, SIZE + 1])
async def test_a_range_that_is_not_what_was_asked_for_proves_nothing(length: int) -> None:
    headers = [f"Content-Length: {SIZE}", 'ETag: "1"', "Connection: close", "", ""]
    head = ("HTTP/1.1 200 OK\r\n" + "\r\n".join(headers)).encode()

    async def reply(stream: Any, request: str) -> None:
        if request.startswith("HEAD"):
            await stream.send(head)
        else:
            await says("200 OK", 'ETag: "1"', body="x" * length)(stream, request)

    async with stub(reply) as server, open_bucket(at(server.url)) as bucket:
        failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
    assert (failure.name, failure.detail) == ("Unavailable", {"cause": "WrongRange"})


async def test_an_object_that_changes_while_it_is_read_is_looked_at_again() -> None:
    headers = [f"Content-Length: {SIZE}", 'ETag: "1"', "Connection: close", "", ""]
    head = ("HTTP/1.1 200 OK\r\n" + "\r\n".join(headers)).encode()

    async def reply(stream: Any, request: str) -> None:
        if request.startswith("HEAD"):
            await stream.send(head)
        else:
            await says("412 No", body=error_body("PreconditionFailed"))(stream, request)

    async with stub(reply) as server, open_bucket(at(server.url)) as bucket:
        failure = await fails(bucket.stat(Stat(LINK, SIZE), context()))
    assert 'If-Match: "1"' in server.requests[-1]
    assert (failure.name, failure.retry) == ("Changed", Retry.SAFE)


# --- putting ------------------------------------------------------------------------------------


def source_of(body: bytes, chunk: int | None = None) -> Source:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), chunk or 1):
            yield body[start : start + (chunk or 1)]

    async def source(link: CID) -> bytes | AsyncIterator[bytes]:
        return chunks() if chunk else body

    return source


@pytest.mark.parametrize("chunk", [None, 1_000, SIZE])
async def test_a_put_may_be_repeated(endpoint: Endpoint, chunk: int | None) -> None:
    async with open_bucket(endpoint, source=source_of(BODY, chunk)) as bucket:
        assert await bucket.put(Put(LINK, SIZE), context()) == {"existed": False}
        assert await bucket.stat(Stat(LINK, SIZE), context()) == FOUND
        assert await bucket.put(Put(LINK, SIZE), context()) == {"existed": True}


@pytest.mark.parametrize("chunk", [None, 1_000])
@pytest.mark.parametrize("body", [OTHER, BODY[:-1], BODY + b"!", b""])
async def test_bytes_that_are_not_the_links_are_not_put(
    endpoint: Endpoint, body: bytes, chunk: int | None
) -> None:
    async with open_bucket(endpoint, source=source_of(body, chunk)) as bucket:
        failure = await fails(bucket.put(Put(LINK, SIZE), context()))
        assert (failure.name, failure.retry) == ("Corrupt", Retry.CORRUPT)
        assert failure.detail == {"size": len(body)}  # our own finding, not the server's
        assert await bucket.stat(Stat(LINK, SIZE), context()) == ABSENT


@pytest.mark.parametrize("chunk", [None, 1_000])
async def test_the_right_bytes_under_a_wrong_size_are_not_put(
    endpoint: Endpoint, chunk: int | None
) -> None:
    async with open_bucket(endpoint, source=source_of(BODY, chunk)) as bucket:
        for size in (SIZE - 1, SIZE + 1):
            failure = await fails(bucket.put(Put(LINK, size), context()))
            assert (failure.name, failure.detail) == ("Corrupt", {"size": SIZE})


async def test_a_source_without_an_end_is_cut_off(endpoint: Endpoint) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            await anyio.lowlevel.checkpoint()
            yield bytes(1_000)

    async def source(link: CID) -> AsyncIterator[bytes]:
        return endless()

    async with open_bucket(endpoint, source=source) as bucket:
        failure = await fails(bucket.put(Put(LINK, SIZE), context(5)))
    assert (failure.name, failure.detail) == ("Corrupt", {"size": SIZE - SIZE % 1_000 + 1_000})


async def test_a_put_over_other_bytes_says_what_is_there(
    seaweed: SeaweedServer, endpoint: Endpoint
) -> None:
    seaweed.s3.put_object(Bucket=endpoint.bucket, Key=object_key(LINK), Body=OTHER)
    async with open_bucket(endpoint, source=source_of(BODY)) as bucket:
        failure = await fails(bucket.put(Put(LINK, SIZE), context()))
    assert (failure.name, failure.retry) == ("Mismatch", Retry.CONFLICT)
    assert failure.detail["checksum"] == hashlib.sha256(OTHER).digest()


async def test_a_put_that_meets_another_waits_and_tries_again() -> None:
    busy = says("409 Conflict", body=error_body("ConditionalRequestConflict"))
    async with stub(busy) as server, open_bucket(at(server.url), source=source_of(BODY)) as bucket:
        failure = await fails(bucket.put(Put(LINK, SIZE), context()))
    assert (failure.name, failure.retry) == ("Busy", Retry.THROTTLED)


async def test_a_put_refused_for_an_object_that_went_away_is_tried_again() -> None:
    async def reply(stream: Any, request: str) -> None:
        status = "412 No" if request.startswith("PUT") else "404 Not Found"
        await says(status)(stream, request)

    async with stub(reply) as server:
        async with open_bucket(at(server.url), source=source_of(BODY)) as bucket:
            failure = await fails(bucket.put(Put(LINK, SIZE), context()))
        assert [line.split(" ")[0] for line in server.requests] == ["PUT", "HEAD", "GET"]
    assert (failure.name, failure.retry) == ("Changed", Retry.SAFE)


async def test_a_source_that_breaks_is_what_the_scheduler_hears_of(endpoint: Endpoint) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield BODY[:100]
        raise LookupError("the disk is gone")

    async def broken(link: CID) -> AsyncIterator[bytes]:
        return chunks()

    async with open_bucket(endpoint, source=broken) as bucket:
        with pytest.raises(LookupError):
            await bucket.put(Put(LINK, SIZE), context())
        assert await bucket.stat(Stat(LINK, SIZE), context()) == ABSENT


async def test_without_a_source_there_is_nothing_to_put() -> None:
    async with open_bucket(at("http://127.0.0.1:9")) as bucket:
        failure = await fails(bucket.put(Put(LINK, SIZE), context()))
    assert (failure.name, failure.detail) == ("Refused", {"code": "NoSource"})


async def test_a_delete_may_be_repeated(endpoint: Endpoint) -> None:
    async with open_bucket(endpoint, source=source_of(BODY)) as bucket:
        await bucket.put(Put(LINK, SIZE), context())
        for _ in range(2):
            assert await bucket.delete(Delete(LINK), context()) == {"deleted": True}
        assert await bucket.stat(Stat(LINK, SIZE), context()) == ABSENT


# --- proving a claim ----------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [True, False])
async def test_a_true_claim_is_verified(
    seaweed: SeaweedServer, endpoint: Endpoint, checksum: bool
) -> None:
    if checksum:
        await upload(await sign(endpoint))
    else:
        seaweed.s3.put_object(Bucket=endpoint.bucket, Key=object_key(LINK), Body=BODY)
    async with open_bucket(endpoint) as bucket:
        proved = await bucket.verify(Verify(LINK, SIZE, 3), context())
    assert proved == {"verified": True, "size": SIZE, "checksum": LINK.digest, "round": 3}


async def test_a_claim_without_bytes_is_a_mismatch(endpoint: Endpoint) -> None:
    async with open_bucket(endpoint) as bucket:
        failure = await fails(bucket.verify(Verify(LINK, SIZE, 2), context()))
    assert (failure.name, failure.retry) == ("Mismatch", Retry.FATAL)
    assert failure.detail == {"round": 2, **ABSENT}


async def test_a_claim_with_other_bytes_is_a_mismatch(
    seaweed: SeaweedServer, endpoint: Endpoint
) -> None:
    seaweed.s3.put_object(Bucket=endpoint.bucket, Key=object_key(LINK), Body=OTHER)
    async with open_bucket(endpoint) as bucket:
        failure = await fails(bucket.verify(Verify(LINK, SIZE, 4), context()))
    assert failure.detail == {
        "round": 4,
        "found": False,
        "size": SIZE,
        "checksum": hashlib.sha256(OTHER).digest(),
        "mismatch": True,
    }


# --- watching -----------------------------------------------------------------------------------


async def test_a_watch_finds_what_comes_later(endpoint: Endpoint) -> None:
    signed = await sign(endpoint)
    async with open_bucket(endpoint) as bucket, anyio.create_task_group() as group:

        async def later() -> None:
            await anyio.sleep(0.3)
            await upload(signed)

        group.start_soon(later)
        assert await bucket.watch(Watch(LINK, SIZE, in_seconds(15)), context()) == FOUND


async def test_a_notice_brings_the_next_look_forward(endpoint: Endpoint) -> None:
    signed = await sign(endpoint)
    patient = {"watch_base_ms": 60_000, "watch_cap_ms": 60_000}
    async with open_bucket(endpoint, **patient) as bucket, anyio.create_task_group() as group:

        async def tell() -> None:
            await anyio.sleep(0.2)
            bucket.notify(CID.of(b"of no interest", RAW))
            await upload(signed)
            bucket.notify(CID.of(BODY, RAW))  # another codec, the same bytes

        begun = time.monotonic()
        group.start_soon(tell)
        assert await bucket.watch(Watch(LINK, SIZE, in_seconds(90)), context(90)) == FOUND
        assert time.monotonic() - begun < 10
        assert bucket._bells == {}


async def test_a_notice_during_a_look_is_not_lost() -> None:
    async with anyio.create_task_group() as group:
        looked = anyio.Event()

        async def reply(stream: Any, request: str) -> None:
            await says("404 Not Found", body=error_body("NoSuchKey"))(stream, request)
            if len(server.requests) == 1:
                bucket.notify(LINK)  # the answer is on its way and knows nothing of it
            if len(server.requests) == 3:  # HEAD, GET (is it the bucket?), HEAD
                looked.set()

        patient = {"watch_base_ms": 60_000, "watch_cap_ms": 60_000}
        async with stub(reply) as server, open_bucket(at(server.url), **patient) as bucket:
            group.start_soon(bucket.watch, Watch(LINK, SIZE, in_seconds(90)), context(90))
            with anyio.fail_after(10):
                await looked.wait()
            group.cancel_scope.cancel()


async def test_a_watch_ends_with_a_look_at_its_deadline(endpoint: Endpoint) -> None:
    until = in_seconds(0.7)
    async with open_bucket(endpoint, watch_base_ms=9_000, watch_cap_ms=9_000) as bucket:
        assert await bucket.watch(Watch(LINK, SIZE, until), context()) == ABSENT
    assert until <= CLOCK.now() < until + 5_000


async def test_a_watch_past_its_deadline_looks_once(endpoint: Endpoint) -> None:
    await upload(await sign(endpoint))
    async with open_bucket(endpoint) as bucket:
        assert await bucket.watch(Watch(LINK, SIZE, in_seconds(-60)), context()) == FOUND


async def test_a_watch_gives_its_attempt_back_before_the_end(endpoint: Endpoint) -> None:
    attempt = context(1.5)
    async with open_bucket(endpoint, watch_base_ms=10_000, watch_cap_ms=10_000) as bucket:
        failure = await fails(bucket.watch(Watch(LINK, SIZE, in_seconds(60)), attempt))
    assert CLOCK.now() < attempt.deadline
    assert (failure.name, failure.retry) == ("Watching", Retry.SAFE)
    assert failure.after_ms is not None
    assert 8_000 < failure.after_ms <= 10_000


async def test_more_watches_than_may_wait_leave_after_their_look(endpoint: Endpoint) -> None:
    task = Watch(LINK, SIZE, in_seconds(60))
    options = {"watchers": 1, "watch_base_ms": 5_000, "watch_cap_ms": 18_000}
    async with open_bucket(endpoint, **options) as bucket, anyio.create_task_group() as group:
        group.start_soon(bucket.watch, task, context())
        with anyio.fail_after(10):
            while not bucket._waiting:
                await anyio.sleep(0.01)
        pauses = []
        for attempt in (1, 2, 3, 30, 10_000):
            again = dataclasses.replace(context(), attempt=attempt)
            failure = await fails(bucket.watch(task, again))
            assert (failure.name, failure.retry) == ("Watching", Retry.SAFE)
            pauses.append(failure.after_ms)
        assert pauses == [5_000, 10_000, 18_000, 18_000, 18_000]
        group.cancel_scope.cancel()
    assert bucket._waiting == 0


async def test_the_looks_of_a_watch_become_rarer() -> None:
    patient = {"watch_base_ms": 20, "watch_cap_ms": 10_000}
    absent = says("404 Not Found", body=error_body("NoSuchKey"))
    async with stub(absent) as server, open_bucket(at(server.url), **patient) as bucket:
        assert await bucket.watch(Watch(LINK, SIZE, in_seconds(0.8)), context()) == ABSENT
    assert len(server.requests) <= 8  # after 20, 40, 80, 160, 320 ms; at the end; one GET


async def test_a_watch_never_calls_an_unreachable_object_absent() -> None:
    broken = says("500 Internal Server Error")
    async with stub(broken) as server, open_bucket(at(server.url)) as bucket:
        failure = await fails(bucket.watch(Watch(LINK, SIZE, in_seconds(-1)), context()))
    assert (failure.name, failure.retry) == ("Unavailable", Retry.IDEMPOTENT)


async def test_a_watch_reads_wrong_bytes_once() -> None:
    headers = [f"Content-Length: {SIZE}", 'ETag: "1"', "Connection: close", "", ""]
    head = ("HTTP/1.1 200 OK\r\n" + "\r\n".join(headers)).encode()

    async def reply(stream: Any, request: str) -> None:
        if request.startswith("HEAD"):
            await stream.send(head)
        else:
            await says("206 Partial", 'ETag: "1"', body=OTHER.decode())(stream, request)

    async with stub(reply) as server, open_bucket(at(server.url)) as bucket:
        seen = await bucket.watch(Watch(LINK, SIZE, in_seconds(0.5)), context())
    assert seen["mismatch"] is True
    methods = [line.split(" ")[0] for line in server.requests]
    assert methods.count("GET") == 1
    assert methods.count("HEAD") > 2


# --- the bucket itself --------------------------------------------------------------------------


def test_every_task_has_a_handler_and_a_policy() -> None:
    handlers = Bucket("any-bucket").handlers()
    assert set(handlers) == set(POLICIES) == {Stat, Presign, Put, Watch, Verify, Delete}
    tags = {kind.__name__: kind.tag for kind in handlers}  # type: ignore[attr-defined]
    assert tags == {name: f"s3/{name.lower()}" for name in tags}


async def test_more_tasks_than_connections_are_all_performed(endpoint: Endpoint) -> None:
    seen = []
    async with open_bucket(endpoint, max_connections=2) as bucket:

        async def one() -> None:
            seen.append(await bucket.stat(Stat(LINK, SIZE), context()))

        async with anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(one)
    assert seen == [ABSENT] * 16


async def test_a_prefix_is_part_of_the_key(seaweed: SeaweedServer, endpoint: Endpoint) -> None:
    async with open_bucket(endpoint, prefix="up/", source=source_of(BODY)) as bucket:
        await bucket.put(Put(LINK, SIZE), context())
    listed = seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)["Contents"]
    assert [each["Key"] for each in listed] == [f"up/{object_key(LINK)}"]
    assert await look(endpoint) == ABSENT


async def test_a_bucket_is_used_inside_its_block_only(endpoint: Endpoint) -> None:
    bucket = open_bucket(endpoint)
    with pytest.raises(RuntimeError):
        await bucket.stat(Stat(LINK, SIZE), context())
    for _ in range(2):
        async with bucket:
            assert await bucket.stat(Stat(LINK, SIZE), context()) == ABSENT


@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:8333",
        "ftp://host",
        "http://",
        "http://user@host",
        "http://host/path",
        "http://host?query",
        "http://host#fragment",
        "file:///etc/passwd",
    ],
)
def test_an_endpoint_is_a_host_and_a_port(endpoint: str) -> None:
    with pytest.raises(ValueError):
        Bucket("any-bucket", endpoint=endpoint)


def test_half_a_login_is_refused() -> None:
    with pytest.raises(ValueError):
        Bucket("any-bucket", access_key="alone")


def test_a_secret_prints_as_dots() -> None:
    secret = Secret("hunter2")
    shown = f"{secret} {secret!r} {[secret]} {vars(Bucket('b', access_key='a', secret_key=secret))}"
    assert "hunter2" not in shown
    assert secret.reveal() == "hunter2"
    assert (secret, hash(secret)) == (Secret("hunter2"), hash(Secret("hunter2")))
    assert secret != Secret("hunter3")
    assert secret != "hunter2"
    with pytest.raises(TypeError):
        secret.__reduce__()
