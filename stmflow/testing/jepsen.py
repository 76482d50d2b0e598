"""Histories in Jepsen's shape, as JSON lines: written, read, and handed on to Elle and Knossos.

One operation is two lines, in real-time order: `invoke`, then `ok` (it happened), `fail` (it did
not) or `info` (unknown). Each line has

    process   who: one operation at a time, a new number after `info`
    type, f   invoke, ok, fail or info; what was asked: send, transact, read, txn
    value     what was asked for, and, when ok, what came of it
    time      nanoseconds
    index     the line's place, from 0

and, for jobs, `job`, `op` (one number for all lines of an operation), `delivery` (hexadecimal) and,
when ok, `answer`, `revision`, `seq`, `repeated`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from stmflow.errors import MalformedHistory

Line = Mapping[str, Any]

TYPES = ("invoke", "ok", "fail", "info")
NANOSECONDS = 1_000_000_000


def dumps(history: Iterable[Line]) -> str:
    """The history as JSON lines, each with its index; a time in seconds (a float) becomes
    nanoseconds."""
    return "".join(f"{json.dumps(line)}\n" for line in _numbered(history))


def _numbered(history: Iterable[Line]) -> Iterable[dict[str, Any]]:
    for place, line in enumerate(history):
        numbered = {**line, "index": place}
        if isinstance(line.get("time"), float):
            numbered["time"] = round(line["time"] * NANOSECONDS)
        yield numbered


def joined(histories: Iterable[Iterable[Line]]) -> list[Line]:
    """Histories of several processes as one, by the time of their lines. Of lines at one moment
    those that begin an operation come first, so that no order is made up."""
    lines = [line for history in histories for line in history]
    return sorted(lines, key=lambda line: (line["time"], line["type"] != "invoke"))


def loads(text: str) -> list[dict[str, Any]]:
    """The lines of a history: JSON lines, or one JSON array of them.

    Lines of a nemesis (whose process is no number) are left out: they are no operations.

    Raises:
        MalformedHistory: a line that is no operation, or out of order. Names the line.
    """
    if text.lstrip().startswith("["):
        found = _json(text, 1)
    else:
        found = [_json(line, n) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, line in enumerate(found, 1):
        _judge(line, number)
    for number, (one, other) in enumerate(pairwise(found), 2):
        if not one.get("index", -1) < other.get("index", float("inf")):
            raise MalformedHistory(f"line {number}: index {other['index']} after {one['index']}")
    return [line for line in found if type(line["process"]) is int]


def _json(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedHistory(f"line {number} is no JSON: {error}") from None


def _judge(line: Any, number: int) -> None:
    if not isinstance(line, dict):
        raise MalformedHistory(f"line {number} is no operation: {line!r:.60}")
    if line.get("type") not in TYPES:
        raise MalformedHistory(
            f"line {number}: type is {line.get('type')!r:.60}, not one of {TYPES}"
        )
    line.setdefault("f", "txn")  # Elle's histories may leave it out
    for name, kinds in FIELDS.items():
        if name in line and not isinstance(line[name], kinds):
            raise MalformedHistory(f"line {number}: {name} is {line[name]!r:.60}")
    for name in ("process", *(("job",) if line["f"] in ("send", "read") else ())):
        if name not in line:
            raise MalformedHistory(f"line {number} has no {name}")
    if line["type"] == "ok" and line.get("revision") is not None and "seq" not in line:
        raise MalformedHistory(f"line {number} has a revision and no seq")


FIELDS: dict[str, Any] = {
    "process": int | str,
    "f": str,
    "index": int,
    "time": int | float,
    "job": str | None,
    "op": int | str,
    "delivery": str | None,
    "revision": str | None,
    "seq": int | None,
}
