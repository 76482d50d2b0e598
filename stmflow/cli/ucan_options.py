"""What commands of capabilities are told: DIDs, DAG-JSON, times, key files."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from capabilities.did import DID
    from capabilities.principal import Signer

UCANTO: Final = "ucanto"
UCAN1: Final = "1.0"
FAMILIES: Final = (UCANTO, UCAN1)
NEVER: Final = "never"
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,12})([smhdw])")


class DIDType(click.ParamType):  # type: ignore[type-arg]
    """A DID; `other` is one more text that is taken as it is."""

    name = "DID"

    def __init__(self, other: str | None = None) -> None:
        self.other = other

    def convert(self, value: Any, param: Any, ctx: Any) -> DID | str:
        """The DID, or `other`."""
        from capabilities.did import DID
        from stmflow.errors import CapabilityError, CodecError

        if isinstance(value, DID) or (self.other is not None and value == self.other):
            found: DID | str = value
            return found
        try:
            return DID.parse(value)
        except (CapabilityError, CodecError) as error:
            self.fail(f"{type(error).__name__}: {error}", param, ctx)


class DagJSON(click.ParamType):  # type: ignore[type-arg]
    """A value as DAG-JSON: a map, or a list."""

    name = "JSON"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value, as the codec would decode it."""
        from stmflow import codec
        from stmflow.errors import CodecError

        if isinstance(value, self.kind):
            return value
        try:
            form = json.loads(value, object_pairs_hook=_unique, parse_constant=_no_number)
            found: Any = codec.from_json(form)
        except CodecError as error:
            self.fail(f"{type(error).__name__}: {error}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"not JSON: {error}", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"a {'map' if self.kind is dict else 'list'} is asked for", param, ctx)
        return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a map with one key twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class Expiry(click.ParamType):  # type: ignore[type-arg]
    """A time to come, as UNIX seconds; None is never."""

    name = "WHEN"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int | None]:
        """The time in a tuple of its own: click takes a bare None for an option left out."""
        from stmflow.cli.output import now_ms
        from stmflow.limits import LIMITS

        if isinstance(value, tuple):
            return value
        if value == NEVER:
            return (None,)
        now = now_ms() // 1_000
        if match := _DURATION.fullmatch(value):
            seconds = now + int(match[1]) * _UNITS[match[2]]
        else:
            seconds = self._date(value, param, ctx)
        if seconds <= now:
            self.fail(f"{value!r:.60} is over already", param, ctx)
        if seconds > LIMITS.ucan_int_max:
            self.fail(f"{value!r:.60} is too far away; there is also {NEVER!r}", param, ctx)
        return (seconds,)

    def _date(self, value: str, param: Any, ctx: Any) -> int:
        from datetime import UTC, datetime

        try:
            found = datetime.fromisoformat(value)
            return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r:.60} is no duration (30s, 15m, 12h, 7d, 2w), no date"
                f" (2030-12-31, 2030-12-31T12:00Z) and not {NEVER!r}",
                param,
                ctx,
            )


def load_key(path: str) -> Signer:
    """The key in a file. Raises `NotFound`, `Unusable`."""
    from capabilities.principal import Signer
    from stmflow.cli.exits import Unusable
    from stmflow.errors import CapabilityError, CodecError, NotFound

    try:
        return Signer.load(path)
    except FileNotFoundError:
        raise NotFound(f"no key file {path}; `stmflow key new` makes one") from None
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    except (CapabilityError, CodecError) as error:
        raise Unusable(f"{path}: {type(error).__name__}: {error}") from None


KEY_HELP: Final = "The key that signs: a file made by `stmflow key new`."
PROOF_HELP: Final = "A delegation to that key, in any form that `ucan show` reads. Repeatable."
WHEN_HELP: Final = "When it expires: a duration (30s, 15m, 12h, 7d, 2w), a date (UTC), or `never`."
