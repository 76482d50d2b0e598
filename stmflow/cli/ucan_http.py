"""One request to a service over HTTP, and what its failure means for what was asked.

Until a request has been sent, nothing has happened (`Unreachable`). Once it has, and no answer
comes, it may have (`Lost`). An answer of 4xx is a refusal (`Refused`), and so is a redirection,
which is not followed: a capability is addressed to one service.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import click

from stmflow.cli.exits import Lost, Refused, Unreachable, Untrusted
from stmflow.limits import LIMITS

_AGENT: Final = "stmflow"
_BUSY: Final = (429, 503)


def get(url: str, *, timeout: float) -> bytes:
    """What is there."""
    return _ask(_request(url, None, {"accept": "application/json"}), timeout)


def post(url: str, body: bytes, headers: Mapping[str, str], *, timeout: float) -> bytes:
    """The answer to `body`."""
    return _ask(_request(url, body, headers), timeout)


def check_url(url: str) -> str:
    """The URL of a service. Raises `UsageError`."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or "@" in url or not url.isascii() or not url.isprintable() or " " in url:
        raise click.UsageError(f"not the URL of a service: {url!r:.80}")
    return url


def _request(url: str, body: bytes | None, headers: Mapping[str, str]) -> urllib.request.Request:
    named = {"user-agent": _AGENT, **headers}
    return urllib.request.Request(check_url(url), data=body, headers=named)  # http or https alone


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nobody."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        """No other request."""


def _ask(request: urllib.request.Request, timeout: float) -> bytes:
    opener = urllib.request.build_opener(_Stay)
    where = request.full_url
    try:
        with opener.open(request, timeout=timeout) as answer:
            body: bytes = answer.read(LIMITS.request_bytes + 1)
            if len(body) > LIMITS.request_bytes:
                raise Untrusted(f"{where} answers with more than {LIMITS.request_bytes} bytes")
            if answer.length:  # `read` with a size does not mind
                raise http.client.IncompleteRead(body, answer.length)
    except urllib.error.HTTPError as error:
        with error:
            raise _answered(where, error) from None
    except urllib.error.URLError as error:
        raise Unreachable(f"{where} cannot be reached: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        told = str(error) or type(error).__name__
        kind = Unreachable if request.data is None else Lost
        raise kind(f"no answer from {where}: {told}") from None
    return body


def _when(error: urllib.error.HTTPError) -> str:
    """When a busy service wants to be asked again, if it says so in seconds."""
    after = error.headers.get("retry-after", "")
    known = after.isascii() and after.isdigit() and len(after) < 6
    return f": ask again in {after} s" if known else ""


def _answered(where: str, error: urllib.error.HTTPError) -> Exception:
    try:
        text = error.read(400).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        text = ""
    told = f"{where} answers {error.code}{f': {text}' if text else ''}"
    if error.code in _BUSY:
        return Unreachable(f"{told}; nothing has happened{_when(error)}")
    return Refused(told) if error.code < 500 else Lost(told)
