"""Structured logs: stable event names and fields over the standard `logging`.

    async with Transactor(store, workflows, observers=[Logs()]):
        ...

Each record has the name of its event as its message and its fields as attributes, so any handler
and any formatter will do; `JSONFormatter` writes one object a line. Fields are CIDs, types and
numbers. What a library says may hold more: `mask` makes signatures, passwords and keys dots.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from stmflow.cid import CID
from stmflow.errors import Busy, DeadlineExceeded, Stopped
from stmflow.observe import (
    STOPPED,
    Answered,
    Attempt,
    Landed,
    Observer,
    Performed,
    Refused,
)

engine: Final = logging.getLogger("stmflow.engine")
scheduler: Final = logging.getLogger("stmflow.scheduler")

FIELDS: Final = (
    "event",
    "request",
    "about",
    "job",
    "delivery",
    "task",
    "type",
    "workflow",
    "tenant",
    "worker",
    "token",
    "attempt",
    "answer",
    "code",
    "revision",
    "seq",
    "armed",
    "error",
    "again",
    "requests",
    "replanned",
    "ms",
)
"""Every field that a record may have, in the order in which they are written."""

_EXPECTED: Final = (Busy, DeadlineExceeded, Stopped)
_DOTS: Final = "••••••"


class Logs(Observer):
    """Logs what happens, under these names and levels:

    ==================== ========= ==================================================
    batch                DEBUG     a commit of the store: requests, ms
    send, transact       INFO      an outside request that wrote a revision
    settle, fire         INFO      an outcome or timer that wrote a revision
    (the same)           DEBUG     one that wrote nothing: the field `answer` says why
    (the same)           WARNING   closed or fenced; or an error: the field `error`
    (the same)           ERROR     parked: it waits for a person
    attempt              DEBUG     a handler is called
    performed            INFO      it went well
    performed            WARNING   it failed: `error`, and `again` where it is tried again
    ==================== ========= ==================================================
    """

    def landed(self, batch: Landed) -> None:
        fields = {"requests": batch.requests, "ms": batch.at - batch.sent}
        _log(engine, logging.DEBUG, "batch", replanned=batch.replanned or None, **fields)

    def answered(self, fact: Answered) -> None:
        answer = fact.answer
        level = logging.DEBUG if fact.revision is None else logging.INFO
        if answer.kind in ("closed", "fenced"):
            level = logging.WARNING
        elif answer.kind == "parked":
            level = logging.ERROR
        if not engine.isEnabledFor(level):
            return
        _log(
            engine,
            level,
            fact.asked.request,
            **_asked(fact, fact.at),
            answer="repeated" if answer.repeated else answer.kind,
            code=answer.code,
            revision=fact.revision,
            seq=answer.seq if fact.revision is not None else None,
            armed=[one.id for one in fact.armed] or None,
        )

    def refused(self, fact: Refused) -> None:
        level = logging.INFO if isinstance(fact.error, _EXPECTED) else logging.WARNING
        name = type(fact.error).__name__
        _log(engine, level, fact.asked.request, **_asked(fact, fact.at), error=name)

    def performing(self, attempt: Attempt) -> Callable[[Performed], None]:
        fields = {
            "job": attempt.job,
            "task": attempt.task,
            "type": attempt.tag,
            "workflow": attempt.workflow,
            "tenant": attempt.tenant or None,
            "worker": attempt.worker,
            "token": attempt.token,
            "attempt": attempt.attempt,
        }
        _log(scheduler, logging.DEBUG, "attempt", **fields)

        def performed(fact: Performed) -> None:
            level = logging.INFO if fact.error in (None, STOPPED) else logging.WARNING
            took = fact.at - attempt.at
            _log(
                scheduler,
                level,
                "performed",
                **fields,
                error=fact.error,
                again=fact.again,
                ms=took,
            )

        return performed


def _asked(fact: Answered | Refused, at: int) -> dict[str, Any]:
    asked = fact.asked
    return {
        "about": asked.about,
        "job": asked.job,
        "delivery": None if asked.task is not None else _delivery(asked.delivery),
        "task": asked.task,
        "worker": asked.worker,
        "token": asked.token,
        "ms": at - asked.since,
    }


def _delivery(id: bytes | None) -> str | None:
    """A delivery id as it is told: a CID, a caller's text, or hexadecimal digits."""
    if id is None:
        return None
    try:
        return str(CID.parse(id))
    except ValueError:
        text = id.decode("ascii", "replace")
        return text if text.isprintable() and text.isascii() else id.hex()


def _log(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    if logger.isEnabledFor(level):
        told = {name: value for name, value in fields.items() if value is not None}
        logger.log(level, event, extra={"stmflow": {"event": event, **told}})


# --- how it is written ----------------------------------------------------------------------------

_SECRETS: Final = (
    # A signed URL's signature, and the credential and session that it names.
    re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s\"'<>\\]+"),
    re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer |basic )?)[^\s\"',}]+"),
    # A password in a URL, whatever its scheme, and as libpq takes it.
    re.compile(r"(?i)([a-z][a-z0-9+.-]{0,20}://[^\s:/@]*:)[^\s@/]+(?=@)"),
    re.compile(
        r"(?i)((?:password|secret|secret_?(?:access_?)?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,}]+"
    ),
    # The text of an Ed25519 key: base64 that begins with its multicodec.
    re.compile(r"()\bM?gC[YZab][A-Za-z0-9+/]{40,}={0,2}"),
)


def mask(text: str) -> str:
    """The text with dots in place of what must not be seen.

    It knows signed URLs, authorization headers, passwords in URLs and settings, and the text of a
    signer's key. It is a net below the rule that secrets are not logged, not in its place.
    """
    for pattern in _SECRETS:
        text = pattern.sub(rf"\1{_DOTS}", text)
    return text


class JSONFormatter(logging.Formatter):
    """One JSON object a line: `at` (UTC), `level`, `logger`, `event`, then the record's fields.

    A record of others has its message as `message`, and a traceback as `traceback`, both masked.
    """

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = _fields(record)
        told |= {name: _plain(fields[name]) for name in FIELDS if name in fields}
        if (message := record.getMessage()) != fields.get("event"):
            told["message"] = mask(message)
        if record.exc_info:
            told["traceback"] = mask(self.formatException(record.exc_info))
        return json.dumps(told)


class TextFormatter(logging.Formatter):
    """One line for people: time, level, event, fields. Masked; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = _fields(record)
        shown = [
            f"{name}={_short(fields[name])}"
            for name in FIELDS
            if name in fields and name != "event"
        ]
        text = f"{at} {record.levelname.lower():7} {record.name} {record.getMessage()}"
        if record.exc_info:
            text += f" {self.formatException(record.exc_info)}"
        masked = mask(" ".join([text, *shown]))
        return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in masked])


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, "stmflow", {})
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return mask(str(value))


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join([_short(item) for item in value])
    return str(value)


def configure(
    *, json: bool = False, level: str = "INFO", stream: TextIO | None = None
) -> logging.Handler:
    """Send every log of this process to a stream (stderr), masked. Returns the handler.

    Raises:
        ValueError: no such level.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JSONFormatter() if json else TextFormatter())
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.addHandler(handler)
    return handler


__all__ = ["FIELDS", "JSONFormatter", "Logs", "TextFormatter", "configure", "mask"]
