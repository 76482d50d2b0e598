"""Transactions as lists of micro-operations, the way Elle takes them: registers, and lists.

    ["r", key, version]   it saw that version of the key; null: the key was not there
    ["w", key, version]   it wrote it, over what it had seen of the key before
    ["append", key, element], ["r", key, [elements…]]   keys that hold lists

A version is written once. A write whose key was not read first is blind: what it replaced is not
known, so that only reads of it count. Lists tell their order themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stmflow.errors import MalformedHistory
from stmflow.testing.graph import UNPLACED, Anomaly, Transaction, Version, check_graph
from stmflow.testing.jepsen import Line

Order = dict[tuple[Any, Any], Any]
"""(key, element of its list) → the element before it, or None."""


def check_microops(history: Sequence[Line]) -> list[Anomaly]:
    """What keeps these transactions from being strictly serializable, as their clients saw it.

    One of unknown fate counts as done if somebody saw what it wrote, else as not done.

    Raises:
        MalformedHistory: a `value` that is no list of micro-operations.
    """
    operations = list(_operations(history))
    order, found = _order(operations)
    made: list[Transaction] = []
    unsure: list[Transaction] = []
    for name, kind, value, began, ended in operations:
        reads, writes, odd = _effects(name, value if kind == "ok" else _asked(value), order)
        found += odd
        one = Transaction(name, reads, writes, began, ended, None, kind == "fail")
        (unsure if kind == "info" else made).append(one)
    blind = any(not one.writes for one in unsure)
    return [*found, *check_graph([*made, *_happened(made, unsure)], whole=not blind)]


Operation = tuple[str, str, list[Any], int | None, int | None]
"""Name, type, value, where it began, and where it ended, if it is known to have."""


def _operations(history: Sequence[Line]) -> Iterator[Operation]:
    """In the order of their ends; what has not ended comes last."""
    waiting: dict[Any, tuple[int, Line]] = {}
    for place, line in enumerate(history):
        who = line.get("op", line["process"])
        if line["type"] == "invoke":
            if who in waiting:
                raise MalformedHistory(f"process {line['process']} began two operations at a time")
            waiting[who] = (place, line)
        elif line["type"] != "info":
            began, asked = waiting.pop(who, (None, line))
            name = f"txn {line.get('op', place)} of process {line['process']}"
            value = line.get("value") or asked.get("value")
            yield name, line["type"], _value(value), began, place
    for place, line in waiting.values():
        name = f"txn {line.get('op', place)} of process {line['process']}"
        yield name, "info", _value(line.get("value")), place, None


def _value(value: Any) -> list[Any]:
    if not isinstance(value, list | None):
        raise MalformedHistory(f"not a list of micro-operations: {value!r:.60}")
    for one in value or ():
        if not (isinstance(one, list) and len(one) == 3 and one[0] in ("r", "w", "append")):
            raise MalformedHistory(f"not a micro-operation: {one!r:.60}")
        scalars = (one[1], *(one[2] if isinstance(one[2], list) and one[0] == "r" else one[2:]))
        if not all(part is None or isinstance(part, str | int | float) for part in scalars):
            raise MalformedHistory(f"keys and versions are text or numbers: {one!r:.60}")
    return list(value or ())


def _asked(value: Sequence[Any]) -> list[Any]:
    """What was to be written. What it would have seen, nobody knows."""
    return [one for one in value if one[0] != "r"]


def _order(operations: Sequence[Operation]) -> tuple[Order | None, list[Anomaly]]:
    """The order of each list's elements, from the longest read of it; None: there are no lists. Of
    elements that nobody saw, a single one is known to be the last."""
    if not any(one[0] == "append" for operation in operations for one in operation[2]):
        return None, []
    longest: dict[Any, tuple[list[Any], str]] = {}
    reads = [
        (one[1], one[2], name)
        for name, kind, value, _, _ in operations
        if kind == "ok"
        for one in value
        if one[0] == "r" and isinstance(one[2], list)
    ]
    for key, elements, name in reads:
        if key not in longest or len(elements) > len(longest[key][0]):
            longest[key] = (elements, name)
    found = []
    for key, elements, name in reads:
        whole, other = longest[key]
        if whole[: len(elements)] != elements:
            text = f"{name} saw {key} as {elements}, {other} saw it as {whole}"
            found.append(Anomaly("incompatible-order", text, (name, other)))
    order = {
        (key, element): elements[at - 1] if at else None
        for key, (elements, _) in longest.items()
        for at, element in enumerate(elements)
    }
    unseen: dict[Any, list[Any]] = {}
    for _, kind, value, _, _ in operations:
        for f, key, element in value if kind == "ok" else ():
            if f == "append" and (key, element) not in order:
                unseen.setdefault(key, []).append(element)
    for key, elements in unseen.items():
        if len(elements) == 1:
            whole = longest[key][0] if key in longest else []
            order[key, elements[0]] = whole[-1] if whole else None
    return order, found


def _effects(
    name: str, value: Sequence[Any], order: Order | None
) -> tuple[list[tuple[Any, Version]], list[tuple[Any, Version, Version]], list[Anomaly]]:
    """What it read of others, what it wrote, and where it did not see what it had written."""
    reads: list[tuple[Any, Version]] = []
    writes: list[tuple[Any, Version, Version]] = []
    odd: list[Anomaly] = []
    seen: dict[Any, Any] = {}
    own: set[Any] = set()
    for f, key, version in value:
        if f == "r":
            if order is not None and not isinstance(version, list):
                continue  # not told what it saw
            if isinstance(version, list):
                version = version[-1] if version else None
            if key not in own:
                reads.append((key, version))
            elif version != seen[key]:
                text = f"{name} had written {key} at {seen[key]}, and saw it at {version}"
                odd.append(Anomaly("internal", text, (name,)))
        else:
            old = seen.get(key, UNPLACED)
            writes.append((key, version, old if order is None else order.get((key, version), old)))
            own.add(key)
        seen[key] = version
    return reads, writes, odd


def _happened(made: Sequence[Transaction], unsure: Sequence[Transaction]) -> list[Transaction]:
    """Those of unknown fate of which somebody saw what they wrote."""
    seen = {sight for one in made if not one.failed for sight in one.reads}
    seen |= {(key, old) for one in made if not one.failed for key, _, old in one.writes}
    return [one for one in unsure if any((key, new) in seen for key, new, _ in one.writes)]
