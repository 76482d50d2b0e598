"""What an error of the S3 client means: one table, no server."""

from __future__ import annotations

import errno
import ssl
from typing import Any

import aiohttp
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from scheduler.handlers.s3 import classify
from scheduler.handlers.s3.client import MAX_RETRY_AFTER_MS
from scheduler.retry import Failure, Retry

URL = "https://secret-host/bucket/key?X-Amz-Signature=abcdef"


def answer(status: int, code: str = "", headers: dict[str, str] | None = None) -> Any:
    """What the client raises for an answer; for one to a HEAD the code is the status."""
    error = {
        "Code": code or str(status),
        "Message": f"denied for {URL}",
        "StringToSign": "AWS4-HMAC-SHA256 …",
    }
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    response: Any = {"Error": error, "ResponseMetadata": metadata}
    return boto.ClientError(response, "PutObject")


def connector_error(error: OSError) -> aiohttp.ClientConnectorError:
    key: Any = type("Key", (), {"host": "secret-host", "port": 1, "ssl": True})()
    return aiohttp.ClientConnectorError(key, error)


def unreachable(inner: Exception) -> Any:
    return boto.EndpointConnectionError(endpoint_url=URL, error=inner)


@pytest.mark.parametrize(
    ("status", "code", "name", "retry"),
    [
        (404, "", "Absent", Retry.FATAL),
        (404, "NoSuchKey", "Absent", Retry.FATAL),
        (404, "NoSuchBucket", "NoBucket", Retry.FATAL),
        (403, "", "Denied", Retry.FATAL),
        (403, "AccessDenied", "Denied", Retry.FATAL),
        (403, "SignatureDoesNotMatch", "Denied", Retry.FATAL),
        (403, "InvalidAccessKeyId", "Denied", Retry.FATAL),
        (403, "RequestTimeTooSkewed", "Skewed", Retry.SAFE),
        (403, "ExpiredToken", "Unauthorized", Retry.AUTH),
        (400, "ExpiredToken", "Unauthorized", Retry.AUTH),
        (400, "TokenRefreshRequired", "Unauthorized", Retry.AUTH),
        (401, "", "Unauthorized", Retry.AUTH),
        (409, "ConditionalRequestConflict", "Conflict", Retry.CONFLICT),
        (412, "PreconditionFailed", "Conflict", Retry.CONFLICT),
        (400, "BadDigest", "Corrupt", Retry.CORRUPT),
        (400, "XAmzContentSHA256Mismatch", "Corrupt", Retry.CORRUPT),
        (429, "", "Throttled", Retry.THROTTLED),
        (503, "SlowDown", "Throttled", Retry.THROTTLED),
        (400, "ThrottlingException", "Throttled", Retry.THROTTLED),
        (503, "ServiceUnavailable", "Unavailable", Retry.IDEMPOTENT),
        (500, "InternalError", "Unavailable", Retry.IDEMPOTENT),
        (502, "", "Unavailable", Retry.IDEMPOTENT),
        (599, "", "Unavailable", Retry.IDEMPOTENT),
        (400, "RequestTimeout", "Unavailable", Retry.IDEMPOTENT),
        (400, "IncompleteBody", "Unavailable", Retry.IDEMPOTENT),
        (501, "NotImplemented", "Refused", Retry.FATAL),
        (400, "InvalidBucketName", "Refused", Retry.FATAL),
        (416, "InvalidRange", "Refused", Retry.FATAL),
        (301, "PermanentRedirect", "Refused", Retry.FATAL),
        (307, "TemporaryRedirect", "Refused", Retry.FATAL),
    ],
)
def test_an_answer_is_judged_by_its_code_and_its_status(
    status: int, code: str, name: str, retry: Retry
) -> None:
    failure = classify(answer(status, code))
    assert (failure.name, failure.retry) == (name, retry)
    assert failure.detail == {"status": status, "code": code or str(status)}
    assert failure.after_ms is None


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
NO_NAME = OSError(-2, "Name or service not known")
RESET = aiohttp.ClientOSError(errno.ECONNRESET, f"reset {URL}")


@pytest.mark.parametrize(
    ("error", "retry", "cause"),
    [
        (unreachable(connector_error(REFUSED)), Retry.SAFE, "ClientConnectorError"),
        (
            unreachable(
                aiohttp.ClientConnectorDNSError(connector_error(NO_NAME)._conn_key, NO_NAME)
            ),
            Retry.SAFE,
            "ClientConnectorDNSError",
        ),
        (
            boto.ConnectTimeoutError(endpoint_url=URL, error=aiohttp.ConnectionTimeoutError()),
            Retry.SAFE,
            "ConnectionTimeoutError",
        ),
        (boto.SSLError(endpoint_url=URL, error=ssl.SSLError(1, URL)), Retry.SAFE, "SSLError"),
        (boto.ProxyConnectionError(proxy_url=URL, error=OSError(URL)), Retry.SAFE, "OSError"),
        # Said to be "cannot connect" by the client, but the line was cut after the request.
        (unreachable(RESET), Retry.IDEMPOTENT, "ClientOSError"),
        (
            boto.ConnectionClosedError(endpoint_url=URL, error=aiohttp.ServerDisconnectedError()),
            Retry.IDEMPOTENT,
            "ServerDisconnectedError",
        ),
        (
            boto.ReadTimeoutError(endpoint_url=URL, error=aiohttp.SocketTimeoutError()),
            Retry.IDEMPOTENT,
            "SocketTimeoutError",
        ),
        (boto.HTTPClientError(error=ValueError(URL)), Retry.IDEMPOTENT, "ValueError"),
        (ResponseParserError(URL), Retry.IDEMPOTENT, "ResponseParserError"),
        (aiohttp.ClientPayloadError(URL), Retry.IDEMPOTENT, "ClientPayloadError"),
        (TimeoutError(), Retry.IDEMPOTENT, "TimeoutError"),
        (ConnectionResetError(URL), Retry.IDEMPOTENT, "ConnectionResetError"),
    ],
)
def test_without_an_answer_it_matters_whether_anything_was_sent(
    error: Exception, retry: Retry, cause: str
) -> None:
    failure = classify(error)
    assert (failure.name, failure.retry) == ("Unavailable", retry)
    assert failure.detail == {"cause": cause}


@pytest.mark.parametrize(
    "error",
    [
        boto.NoCredentialsError(),
        boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
        boto.CredentialRetrievalError(provider="role", error_msg=URL),
    ],
)
def test_credentials_that_cannot_be_had_are_refreshed_once(error: Exception) -> None:
    assert (classify(error).name, classify(error).retry) == ("Unauthorized", Retry.AUTH)


def test_a_request_that_cannot_be_made_is_not_made_again() -> None:
    failure = classify(boto.ParamValidationError(report=f"bad {URL}"))
    assert (failure.name, failure.retry) == ("Refused", Retry.FATAL)
    assert failure.detail == {"cause": "ParamValidationError"}


def test_what_is_unknown_keeps_its_name_and_its_doubt() -> None:
    failure = classify(KeyError(URL))
    assert (failure.name, failure.retry) == ("KeyError", Retry.IDEMPOTENT)


def test_a_failure_stays_as_it_is() -> None:
    failure = Failure("Mismatch")
    assert classify(failure) is failure


DATE = "Sun, 22 Nov 2026 03:00:00 GMT"


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_server_may_impose_so_long_a_wait_at_most(off: int) -> None:
    asked = MAX_RETRY_AFTER_MS // 1_000 + off
    failure = classify(answer(503, "SlowDown", {"retry-after": str(asked)}))
    assert failure.after_ms == min(asked * 1_000, MAX_RETRY_AFTER_MS)


@pytest.mark.parametrize(
    ("headers", "after_ms"),
    [
        ({"retry-after": "7"}, 7_000),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "3600"}, 3_600_000),
        ({"retry-after": "99999999999999999999"}, 3_600_000),
        ({"retry-after": "Sun, 22 Nov 2026 03:00:09 GMT", "date": DATE}, 9_000),
        ({"retry-after": "Sun, 22 Nov 2026 02:59:00 GMT", "date": DATE}, 0),
        ({"retry-after": "Sun, 22 Nov 2026 03:00:09 GMT"}, None),
        ({"retry-after": "soon", "date": DATE}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "²"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_the_wait_is_what_the_server_asks_for_within_an_hour(
    headers: dict[str, str], after_ms: int | None
) -> None:
    failure = classify(answer(503, "SlowDown", headers))
    assert (failure.retry, failure.after_ms) == (Retry.THROTTLED, after_ms)


def test_a_server_error_that_names_a_wait_is_throttling() -> None:
    failure = classify(answer(503, "", {"retry-after": "2"}))
    assert (failure.name, failure.retry, failure.after_ms) == ("Throttled", Retry.THROTTLED, 2_000)


def test_a_code_from_the_other_side_is_cut_to_size() -> None:
    failure = classify(answer(400, "<Evil \x1b[2J\n" + "x" * 1_000))
    assert failure.detail["code"] == "Evil2J" + "x" * 58


@pytest.mark.parametrize(
    "error",
    [
        answer(403, "SignatureDoesNotMatch"),
        answer(500),
        unreachable(RESET),
        boto.SSLError(endpoint_url=URL, error=ssl.SSLError(1, URL)),
        boto.HTTPClientError(error=ValueError(URL)),
        KeyError(URL),
    ],
)
def test_no_message_of_the_client_or_the_server_gets_into_a_failure(error: Exception) -> None:
    failure = classify(error)
    for text in (str(failure), repr(failure), repr(failure.detail)):
        for secret in ("secret-host", "Signature=", "AWS4", "denied for"):
            assert secret not in text
