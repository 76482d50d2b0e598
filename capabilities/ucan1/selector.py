"""Selectors: the path in a policy's statement to the value that it is about.

    .                    all of the arguments
    .size  ["any key"]   the value of a map under a key; the quoted form is a JSON string
    [0]  [-1]            an item of a list, or a byte of a byte string
    [1:3] [2:] [:-1]     a part of a list or of a byte string
    []                   the values of a map; of a list, the list itself
    ?                    behind any of these: null where it would fail

A dot may stand before a bracket (`.["a"]`, `.to.[0]`). Anything that cannot be followed is
`MISSING`, and so is all that comes after it; a map's missing key too. Text has no items here.

Source: UCAN 1.0 delegation, "Selectors".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What a selector gives that cannot be followed."""


@dataclass(frozen=True, slots=True)
class Values:
    """The segment `[]`."""


Step: TypeAlias = "str | int | slice | Values"
_VALUES: Final = Values()


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector: steps, each with whether it gives null where it would fail."""

    text: str
    steps: tuple[tuple[Step, bool], ...]

    def resolve(self, value: Any) -> Any:
        """Return what is at this path in `value`, or `MISSING`. Never raises."""
        for step, optional in self.steps:
            if type(step) is str:
                value = value.get(step, MISSING) if type(value) is dict else MISSING
            else:
                value = _follow(step, value)
            if value is MISSING:
                if not optional:
                    return MISSING
                value = None
        return value


def parse(text: str) -> Selector:
    """Return the selector that `text` is. Raises `MalformedBlock` and `LimitExceeded`."""
    if type(text) is not str:
        raise MalformedBlock(f"a selector is text, not {type(text).__name__}")
    if _IDENTITY.fullmatch(text):
        return Selector(text, ())
    steps: list[tuple[Step, bool]] = []
    position = 0
    while match := _SEGMENT.match(text, position):
        if len(steps) == LIMITS.selector_segments:
            raise LimitExceeded(f"a selector of more than {LIMITS.selector_segments} segments")
        steps.append((_step(match), bool(match["optional"])))
        position = match.end()
    if position != len(text) or not steps:
        raise MalformedBlock(f"not a selector at {text[position : position + 20]!a}: {text!a:.80}")
    return Selector(text, tuple(steps))


_NUMBER: Final = r"0|-?[1-9][0-9]{0,8}"  # no list is longer; -0 and 007 are refused
_IDENTITY: Final = re.compile(r"\.\?*")
_SEGMENT: Final = re.compile(
    r"(?: \. (?P<name>[^\W\d][\w$-]*)"
    r' | \.? \[ (?: (?P<quoted>"(?:[^"\\]|\\.)*")'
    rf"  | (?P<index>{_NUMBER})"
    rf"  | (?P<start>{_NUMBER})? : (?P<stop>{_NUMBER})?"
    r"   | (?P<values>)"
    r") \] ) (?P<optional>\?*)",
    re.VERBOSE | re.DOTALL,
)


def _step(match: re.Match[str]) -> Step:
    if (name := match["name"]) is not None:
        return name
    if (quoted := match["quoted"]) is not None:
        return _unquoted(quoted)
    if (index := match["index"]) is not None:
        return int(index)
    if match["values"] is not None:
        return _VALUES
    start, stop = match["start"], match["stop"]
    if start is None and stop is None:
        raise MalformedBlock("a slice [:] in a selector, which says neither where from nor to")
    return slice(int(start) if start else None, int(stop) if stop else None)


def _unquoted(quoted: str) -> str:
    try:
        key: str = json.loads(quoted, strict=False)
        key.encode()
    except ValueError:
        raise MalformedBlock(f"not a key in a selector: {quoted!a:.60}") from None
    return key


def _follow(step: Step, value: Any) -> Any:
    kind = type(value)
    if type(step) is Values:
        if kind is dict:
            return list(value.values())
        return value if kind is list else MISSING
    if kind is not list and kind is not bytes:
        return MISSING
    if type(step) is slice or (type(step) is int and -len(value) <= step < len(value)):
        return value[step]
    return MISSING
