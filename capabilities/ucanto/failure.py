"""What a client is told when its invocation does not run: our errors under the wire's names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from capabilities.ucanto.token import Claim
from capabilities.ucanto.validator import NotOneCapability
from stmflow.errors import (
    CapabilityError,
    CodecError,
    InvalidAudience,
    InvalidDID,
    StmflowError,
    TooEarly,
    UnknownCommand,
    UnknownKey,
    WeakKey,
)

_NAMES: Final[dict[type[StmflowError], str]] = {
    WeakKey: "WeakKey",
    InvalidDID: "DIDKeyResolutionError",
    UnknownKey: "DIDKeyResolutionError",
    TooEarly: "NotValidBefore",
}
_LINES: Final = 64
_LETTERS: Final = 400


def failure(error: Exception, claim: Claim | None = None) -> dict[str, Any]:
    """Return the value of a receipt's `error`: a map with `name`, `message` and what belongs to it.

    `claim` is what was asked for, where that is known. What is wrong with authority or form is told
    in full, as a tree in the message; an error of any other kind (a handler's) by its kind alone.
    """
    about = _about(claim)
    match error:
        case NotOneCapability():
            message = "Invocation is required to have a single capability."
            return {"name": "InvocationCapabilityError", "message": message}
        case UnknownCommand():
            message = f"service does not implement {_shown(claim)} handler"
            return {"name": "HandlerNotFound", "message": message, **about}
        case InvalidAudience():
            return {"name": "InvalidAudience", "message": str(error)[:_LETTERS]}
        case CapabilityError() | CodecError():
            lines = islice(_lines(error, "  "), _LINES)
            message = "\n".join([f"Claim {_shown(claim)} is not authorized", *lines])
            return {"name": "Unauthorized", "message": message, **about}
    message = f"service handler {_shown(claim)} error: {type(error).__name__}"
    return {"name": "HandlerExecutionError", "message": message, **about}


def _about(claim: Claim | None) -> dict[str, Any]:
    return {} if claim is None else {"capability": {"can": claim.can, "with": claim.with_}}


def _shown(claim: Claim | None) -> str:
    return "{}" if claim is None else json.dumps({"can": claim.can}, separators=(",", ":"))


def _lines(error: StmflowError, indent: str) -> Iterator[str]:
    """The reasons as a tree, outermost first, each under the name that it has on the wire."""
    yield f"{indent}- {_name(error)}: {error}"[:_LETTERS]
    if isinstance(error, CapabilityError):
        for cause in error.causes:
            yield from _lines(cause, f"{indent}  ")


def _name(error: StmflowError) -> str:
    return next(
        (name for kind, name in _NAMES.items() if isinstance(error, kind)), type(error).__name__
    )
