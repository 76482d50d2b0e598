"""Transactions for other people's checkers: the histories that Elle and Knossos read.

`elle-cli` (github.com/ligurio/elle-cli) takes them as one JSON array, by the names of its models:

    java -jar elle-cli.jar --model list-append transactions.json
    java -jar elle-cli.jar --model cas-register job.json

A key is told as the list of its versions, numbered from 1: a write appends the next number to what
it saw, a read sees all numbers up to its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stmflow.testing.graph import Key, Transaction, Version

Places = dict[tuple[Key, Version], int]
"""(key, version) → its number in the key's order, from 1."""


def list_append(transactions: Iterable[Transaction]) -> list[dict[str, Any]]:
    """The history for Elle's `list-append`. Versions that no chain leads to are left out."""
    given = [one for one in transactions if not one.failed]
    places = _places(given)

    def value(one: Transaction) -> list[list[Any]]:
        seen = [*one.reads, *((key, old) for key, _, old in one.writes)]
        reads = [["r", str(k), _up_to(places[k, v])] for k, v in seen if (k, v) in places]
        new = [(key, version) for key, version, _ in one.writes if (key, version) in places]
        return reads + [["append", str(key), places[key, version]] for key, version in new]

    def asked(told: Any) -> list[list[Any]]:
        return [[f, key, None if f == "r" else what] for f, key, what in told]

    return _history(given, lambda one: "txn", value, asked)


def cas_register(transactions: Iterable[Transaction], key: Key) -> list[dict[str, Any]]:
    """The history of one key for Knossos' `cas-register`: writes compare and set its number."""
    given = [one for one in transactions if not one.failed]
    places = _places(given)

    def number(version: Version) -> int | None:
        return places[key, version] or None

    def f(one: Transaction) -> str:
        return "cas" if any(k == key for k, _, _ in one.writes) else "read"

    def value(one: Transaction) -> Any:
        for k, version, old in one.writes:
            if k == key:
                return [number(old), number(version)]
        return next(number(version) for k, version in one.reads if k == key)

    mine = [one for one in given if any(k == key and (k, v) in places for k, v in _touched(one))]
    return _history(mine, f, value, lambda told: told if isinstance(told, list) else None)


def dumps(history: Sequence[Any]) -> str:
    """As one JSON array, a line for each operation."""
    return "[" + ",\n ".join(json.dumps(line) for line in history) + "]\n"


def _places(transactions: Sequence[Transaction]) -> Places:
    behind: dict[tuple[Key, Version], Version] = {}
    for one in transactions:
        for key, version, old in one.writes:
            behind.setdefault((key, old), version)
    places: Places = {}
    for key in {
        key for one in transactions for key, _ in [*one.reads, *(w[:2] for w in one.writes)]
    }:
        version, place = None, 0
        while (key, version) not in places:
            places[key, version] = place
            if (key, version) not in behind:
                break
            version, place = behind[key, version], place + 1
    return places


def _touched(one: Transaction) -> list[tuple[Key, Version]]:
    return [*one.reads, *((key, version) for key, version, _ in one.writes)]


def _up_to(place: int) -> list[int]:
    return list(range(1, place + 1))


def _history(
    transactions: Sequence[Transaction],
    f: Callable[[Transaction], str],
    value: Callable[[Transaction], Any],
    asked: Callable[[Any], Any],
) -> list[dict[str, Any]]:
    """Two lines for each transaction, in real time. What has no time begins first and ends last."""
    last = max(
        (place for one in transactions for place in one[3:5] if place is not None), default=0
    )
    events = []
    for process, one in enumerate(transactions):
        told = value(one)
        common = {"process": process, "f": f(one)}
        begin = -1 if one.began is None else one.began
        end = last + 1 if one.ended is None else one.ended
        events.append((begin, process, {**common, "type": "invoke", "value": asked(told)}))
        events.append((end, process, {**common, "type": "ok", "value": told}))
    events.sort(key=lambda event: event[:1])
    return [{**line, "time": index, "index": index} for index, (_, _, line) in enumerate(events)]
