"""The fields of a payload, read one by one: each is of its type or the token is malformed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from capabilities.did import DID
from stmflow.cid import CID
from stmflow.errors import MalformedBlock

Payload: TypeAlias = Mapping[str, Any]
_MISSING: Final = object()


def did(payload: Payload, key: str) -> DID:
    """A DID. Raises `InvalidDID` and `WeakKey` as well."""
    return DID.parse(_typed(payload, key, str, "text"))


def command(payload: Payload) -> str:
    """The command of a payload; see `check_command`."""
    text: str = _typed(payload, "cmd", str, "text")
    check_command(text)
    return text


def check_command(text: str) -> None:
    """Raise `MalformedBlock` for what is not a command.

    `/` alone, or lower-case segments that each follow a slash and are not empty. They are names and
    nothing else: `..`, percent signs and letters that look alike have no meaning of their own.
    """
    if text != "/" and (text[:1] != "/" or "//" in text or text[-1] == "/"):
        raise MalformedBlock(f"not a command, which is a path from /: {text!a:.60}")
    if text != text.lower():
        raise MalformedBlock(f"not a command, which is lower case: {text!a:.60}")


def covers(outer: str, inner: str) -> bool:
    """Tell whether the command `inner` is `outer` or lies under it, segment by segment."""
    return outer in ("/", inner) or inner.startswith(outer + "/")


def nonce(payload: Payload) -> bytes:
    """The nonce, which may be empty but is always there."""
    data: bytes = _typed(payload, "nonce", bytes, "bytes")
    return data


def expiry(payload: Payload) -> int | None:
    """The expiry, in UNIX seconds, always there; None: never."""
    seconds: int | None
    if (seconds := payload.get("exp", _MISSING)) is None:
        return None
    seconds = _typed(payload, "exp", int, "an integer or null")
    return seconds


def seconds_or_none(payload: Payload, key: str) -> int | None:
    """A time in UNIX seconds that may be left out; None: it was."""
    return _typed(payload, key, int, "an integer") if key in payload else None


def mapping(payload: Payload, key: str) -> dict[str, Any]:
    """A map."""
    value: dict[str, Any] = _typed(payload, key, dict, "a map")
    return value


def mapping_or_none(payload: Payload, key: str) -> dict[str, Any] | None:
    """A map that may be left out; None: it was."""
    return mapping(payload, key) if key in payload else None


def link_or_none(payload: Payload, key: str) -> CID | None:
    """A link that may be left out; None: it was."""
    return _typed(payload, key, CID, "a link") if key in payload else None


def links(payload: Payload, key: str) -> tuple[CID, ...]:
    """A list of links."""
    found: list[Any] = _typed(payload, key, list, "a list of links")
    if not all(type(each) is CID for each in found):
        raise MalformedBlock(f"a token whose {key} is not a list of links")
    return tuple(found)


def _typed(payload: Payload, key: str, kind: type, name: str) -> Any:
    """Compared by type, not by `isinstance`: a bool is no integer."""
    value = payload.get(key, _MISSING)
    if type(value) is not kind:
        state = "without" if value is _MISSING else "with a wrong"
        raise MalformedBlock(f"a token {state} {key}, which is {name}")
    return value
