"""Placement: what a task needs of the worker that performs it, and whether labels meet it. Pure.

    needs  = {"bucket": "photos", "storage": {"ssd", "nvme"}, "agent": ">=2,<4"}
    labels = {"bucket": "photos", "storage": "ssd", "agent": "2.10", "region": "eu"}

A need is one text (equality), a set of texts (membership), or comparisons of dotted versions that
must all hold. Every need must be met; labels that nobody asks for are no hindrance. There is no
expression language.

A task that has needs of its own is *placed*: its outbox row stands under the tag `Stat {"bucket":
"photos"}` instead of `Stat`. A claim names the tags that it wants, so a worker that does not know
of placement, an older one too, never takes a placed task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from stmflow.errors import InvalidWorkflow
from stmflow.limits import LIMITS
from stmflow.store import Kind

Needs: TypeAlias = Mapping[str, str | Collection[str]]
"""Label → the text that it must be, the texts of which it must be one, or version comparisons."""
Labels: TypeAlias = Mapping[str, str]
Placement: TypeAlias = Callable[[Any], Needs]
"""Task → what it needs. Pure: it runs inside commits, and may run many times."""

_Bound = tuple[tuple[int, ...], bool]

_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,7}")
_COMPARISON = re.compile(r"\s*(>=|<=|>|<|=)\s*(" + _VERSION.pattern + r")\s*")
_OPERATORS = "<>=!~^"


def check_labels(labels: Labels) -> dict[str, str]:
    """The labels of a worker, if they can be any.

    Raises:
        InvalidWorkflow: too many or too long, a strange name, a value that looks like a comparison.
    """
    if len(labels) > LIMITS.labels:
        raise InvalidWorkflow(f"a worker has at most {LIMITS.labels} labels")
    return {_key(key): _text(key, value) for key, value in labels.items()}


def check_needs(needs: Needs) -> dict[str, str | list[str]]:
    """The needs in their one form: sets as sorted lists, a set of one as its text.

    Raises:
        InvalidWorkflow: an unknown operator, an empty set, comparisons that no version can meet.
    """
    if len(needs) > LIMITS.labels:
        raise InvalidWorkflow(f"a task needs at most {LIMITS.labels} labels")
    return {_key(key): _need(key, needs[key]) for key in sorted(needs)}


def meets(labels: Labels, needs: Needs) -> bool:
    """Whether a worker of these labels may perform what has these needs. Both have been checked.

    A label that is not there meets nothing; one that is no version meets no comparison.
    """
    return all(key in labels and _met(labels[key], need) for key, need in needs.items())


def placed(kind: Kind, needs: Needs) -> Kind:
    """Under which kind a task of these needs stands in the outbox.

    Raises:
        InvalidWorkflow: as `check_needs`; or they take more than `LIMITS.placed_tag_bytes`.
    """
    if not needs:
        return kind
    workflow, version, tag = kind
    told = json.dumps(check_needs(needs), separators=(",", ":"))
    if len(tag.encode()) + len(told) + 1 > LIMITS.placed_tag_bytes:
        raise InvalidWorkflow(f"tag and needs of {tag} pass {LIMITS.placed_tag_bytes} bytes")
    return workflow, version, f"{tag} {told}"


def plain(tag: str) -> str:
    """The task's own tag, whether its row is placed or not."""
    return tag.partition(" {")[0]


def needs_of(tag: str) -> dict[str, str | list[str]]:
    """The needs that a row of the outbox states; none where it is not placed.

    Raises:
        InvalidWorkflow: a newer stmflow has written needs that this one does not understand.
    """
    _, space, told = tag.partition(" {")
    if not space:
        return {}
    try:
        return check_needs(json.loads("{" + told))
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidWorkflow(f"not the needs of a task: {{{told:.80}") from error


# --- parts ----------------------------------------------------------------------------------------


def _key(key: Any) -> str:
    if not isinstance(key, str) or len(key) > LIMITS.label_bytes or not _KEY.fullmatch(key):
        raise InvalidWorkflow(f"not the name of a label: {key!r:.80}")
    return key


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise InvalidWorkflow(f"label {key:.80}: not a text that can be compared: {value!r:.80}")
    if len(value.encode()) > LIMITS.label_bytes:
        raise InvalidWorkflow(f"label {key:.80} has more than {LIMITS.label_bytes} bytes")
    if value[0] in _OPERATORS:
        raise InvalidWorkflow(f"label {key:.80}: {value!r:.80} reads like a comparison")
    return value


def _need(key: str, need: Any) -> str | list[str]:
    if isinstance(need, str):
        if need[:1] and need[0] in _OPERATORS:
            return _range(key, need)
        return _text(key, need)
    if isinstance(need, Mapping) or not isinstance(need, Collection):
        raise InvalidWorkflow(f"need {key:.80}: a text or a set of texts, not {need!r:.80}")
    texts = sorted({_text(key, one) for one in need})
    if not texts:
        raise InvalidWorkflow(f"need {key:.80}: nothing is in an empty set")
    if len(texts) > LIMITS.need_texts:
        raise InvalidWorkflow(f"need {key:.80}: a set has at most {LIMITS.need_texts} texts")
    return texts[0] if len(texts) == 1 else texts


def _range(key: str, need: str) -> str:
    """Comparisons in their one form, if there is a version that meets them all."""
    if len(need.encode()) > LIMITS.label_bytes:
        raise InvalidWorkflow(f"need {key:.80} has more than {LIMITS.label_bytes} bytes")
    low: _Bound = ((), True)  # version 0
    high: _Bound | None = None
    for operator, version in (parsed := _comparisons(key, need)):
        at = _version(version)
        if operator in (">", ">=", "=") and _above((at, operator != ">"), low):
            low = (at, operator != ">")
        if operator in ("<", "<=", "=") and (high is None or _below((at, operator != "<"), high)):
            high = (at, operator != "<")
    if high is not None and (low[0] > high[0] or (low[0] == high[0] and not (low[1] and high[1]))):
        raise InvalidWorkflow(f"need {key:.80}: no version meets {need!r:.80}")
    return ",".join(operator + version for operator, version in parsed)


def _comparisons(key: str, need: str) -> list[tuple[str, str]]:
    parts = [_COMPARISON.fullmatch(part) for part in need.split(",")]
    if None in parts:
        raise InvalidWorkflow(
            f"need {key:.80}: {need!r:.80} is no comparison; >=, <=, >, < and = take a version"
        )
    return [(part[1], part[2]) for part in parts if part]


def _above(one: _Bound, other: _Bound) -> bool:
    return one[0] > other[0] or (one[0] == other[0] and not one[1])


def _below(one: _Bound, other: _Bound) -> bool:
    return one[0] < other[0] or (one[0] == other[0] and not one[1])


def _met(label: str, need: str | Collection[str]) -> bool:
    if not isinstance(need, str):
        return label in need
    if need[0] not in _OPERATORS:
        return label == need
    if not _VERSION.fullmatch(label):
        return False
    at = _version(label)
    return all(_holds(at, operator, _version(than)) for operator, than in _comparisons("", need))


def _version(text: str) -> tuple[int, ...]:
    """The numbers of a dotted version; 2 and 2.0 are the same."""
    numbers = [int(part) for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _holds(at: tuple[int, ...], operator: str, than: tuple[int, ...]) -> bool:
    match operator:
        case ">=":
            return at >= than
        case "<=":
            return at <= than
        case ">":
            return at > than
        case "<":
            return at < than
    return at == than
