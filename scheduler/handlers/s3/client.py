"""The S3 client: how it is made, and what its errors mean. The only importer of aiobotocore."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from scheduler.retry import Failure, Retry

MAX_RETRY_AFTER_MS: Final = 3_600_000
"""The longest wait that a server may impose, in milliseconds."""


_LOUD: Final = ("botocore.auth", "botocore.endpoint")
"""Loggers that write signatures and tokens at their level DEBUG; it is never turned on."""


class Secret:
    """Text that prints as dots, is not pickled, and is compared in constant time."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for the one line that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "••••••"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


# --- making it ----------------------------------------------------------------------------------


def check_endpoint(endpoint: str | None) -> None:
    """Raise ValueError unless it is None or `http(s)://host[:port]` and no more."""
    if endpoint is None:
        return
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("an S3 endpoint is http://host[:port] or https://host[:port]")
    if url.username or url.password or url.query or url.fragment or url.path not in ("", "/"):
        raise ValueError("an S3 endpoint has no user, path, query or fragment")


@asynccontextmanager
async def connect(
    login: Mapping[str, str | Secret | None], options: Mapping[str, Any]
) -> AsyncIterator[Any]:
    """The client: SigV4 always, no retries, no redirects, no checksums that nobody asked for."""
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.INFO)
    config = AioConfig(
        signature_version="s3v4",  # the default in some regions signs neither length nor condition
        retries={"max_attempts": 0},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        http_session_cls=_session_without_redirects(),
        **options,
    )
    revealed = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in login.items()
    }
    async with get_session().create_client("s3", config=config, **revealed) as client:
        client.meta.events.register_last("before-parameter-build.s3", _stay_in_region)
        yield client


def _stay_in_region(context: dict[str, Any], **_: Any) -> None:
    """Tell the client that it has already followed its one redirect to another region."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _session_without_redirects() -> type:
    from aiobotocore.httpsession import AIOHTTPSession

    async def get_session(self: Any, proxy_url: str | None) -> Any:
        return _OneRequest(await AIOHTTPSession._get_session(self, proxy_url))

    return type("FixedEndpointSession", (AIOHTTPSession,), {"_get_session": get_session})


class _OneRequest:
    """An aiohttp session that follows no redirect: by default it follows ten, to anywhere."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, *arguments: Any, **options: Any) -> Any:
        return await self._session.request(*arguments, **options, allow_redirects=False)


# --- what its errors mean -----------------------------------------------------------------------

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_THROTTLED = {
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
}
_CORRUPT = {
    "BadDigest",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_CUT_SHORT = {"IncompleteBody", "RequestTimeout"}


def classify(error: BaseException) -> Failure:
    """What an error of the S3 client, or of the network below it, means for the next attempt.

    Pure. A `Failure` is returned as it is. The detail holds the status and the code of an answer,
    or the type of a lost connection's error; never a message, for messages hold URLs.
    """
    if isinstance(error, Failure):
        return error
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return _answered(response)
    return _unanswered(error)


def _answered(response: Mapping[str, Any]) -> Failure:
    metadata = response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode") or 0)
    code = str(response.get("Error", {}).get("Code", ""))
    name, retry = _verdict(status, code)
    headers = metadata.get("HTTPHeaders", {})
    after_ms = _retry_after_ms(headers)
    if retry is Retry.IDEMPOTENT and after_ms is not None:
        name, retry = "Throttled", Retry.THROTTLED
    detail = {"status": status, "code": re.sub(r"[^A-Za-z0-9._-]", "", code)[:64]}
    return Failure(name, detail, retry=retry, after_ms=after_ms)


def _verdict(status: int, code: str) -> tuple[str, Retry]:
    """Name and class of an answer: by its code where there is one, else by its status."""
    if code in _THROTTLED or status == 429:
        return "Throttled", Retry.THROTTLED
    if code in _EXPIRED or status == 401:
        return "Unauthorized", Retry.AUTH
    if code == "RequestTimeTooSkewed":  # nothing was done, and another process's clock may be right
        return "Skewed", Retry.SAFE
    if code == "NoSuchBucket":
        return "NoBucket", Retry.FATAL
    if code in _CORRUPT:
        return "Corrupt", Retry.CORRUPT
    if code in _CUT_SHORT or (status >= 500 and status != 501):
        return "Unavailable", Retry.IDEMPOTENT
    if status in (409, 412):
        return "Conflict", Retry.CONFLICT
    return {403: "Denied", 404: "Absent"}.get(status, "Refused"), Retry.FATAL


def _retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """The wait that the answer asks for: seconds, or a date less the answer's own date."""
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        wait_ms = int(text[:9]) * 1_000
    else:
        try:
            wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))
        except (TypeError, ValueError):
            return None
        wait_ms = int(wait.total_seconds() * 1_000)
    return min(max(wait_ms, 0), MAX_RETRY_AFTER_MS)


def _unanswered(error: BaseException) -> Failure:
    import aiohttp
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    cause = _cause(error)
    detail = {"cause": type(cause).__name__}
    credentials = (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
    )
    not_sent = (boto.ConnectTimeoutError, boto.SSLError, boto.ProxyConnectionError)
    unknown = (boto.HTTPClientError, boto.ConnectionError, ResponseParserError)
    if isinstance(error, credentials):
        return Failure("Unauthorized", detail, retry=Retry.AUTH)
    if isinstance(error, not_sent) or isinstance(cause, aiohttp.ClientConnectorError):
        return Failure("Unavailable", detail, retry=Retry.SAFE)
    if isinstance(error, (*unknown, aiohttp.ClientError, OSError)):
        return Failure("Unavailable", detail, retry=Retry.IDEMPOTENT)
    if isinstance(error, boto.BotoCoreError):
        return Failure("Refused", detail)
    return Failure(type(error).__name__, detail, retry=Retry.IDEMPOTENT)


def _cause(error: BaseException) -> BaseException:
    """The network's own error: the client calls a reset after sending "cannot connect" as well."""
    inner = getattr(error, "kwargs", {}).get("error")
    return inner if isinstance(inner, BaseException) else error
