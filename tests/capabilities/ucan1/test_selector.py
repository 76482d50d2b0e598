"""Selectors: what they may look like, and where they lead."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.ucan1 import selector
from capabilities.ucan1.selector import MISSING
from stmflow.errors import CodecError, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

ARGUMENTS: dict[str, Any] = {
    "to": ["bob", "carol", "dan"],
    "m": {"b": 2, "a b": 1, '"': 3, "\n": 4, "é": 5, "x-y$_1": 6},
    "raw": bytes.fromhex("d6a9c18cf8c4"),
    "text": "hello",
    "nothing": None,
    "n": 1,
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (".", ARGUMENTS),
        (".?", ARGUMENTS),
        (".n", 1),
        (".nothing", None),
        (".m.b", 2),
        ('["n"]', 1),
        ('.["n"]', 1),
        ('.m["a b"]', 1),
        ('.m.["a b"]', 1),
        (r'.m["\""]', 3),
        (r'.m["\n"]', 4),
        ('.m["\n"]', 4),
        (r'.m["\u00e9"]', 5),
        (".m.é", 5),
        (".m.x-y$_1", 6),
        (".to[0]", "bob"),
        (".to.[2]", "dan"),
        (".to[-1]", "dan"),
        (".to[-3]", "bob"),
        (".to[3]", MISSING),
        (".to[-4]", MISSING),
        (".to[9]?", None),
        (".to[1:]", ["carol", "dan"]),
        (".to[:1]", ["bob"]),
        (".to[0:-1]", ["bob", "carol"]),
        (".to[2:1]", []),
        (".to[7:9]", []),
        (".to[1:][0]", "carol"),
        (".to[]", ["bob", "carol", "dan"]),
        (".to[][1]", "carol"),
        (".m[]", [2, 1, 3, 4, 5, 6]),
        (".raw[3]", 140),
        (".raw[-1]", 0xC4),
        (".raw[6]", MISSING),
        (".raw[1:3]", bytes.fromhex("a9c1")),
        (".raw[]", MISSING),
        (".text[0]", MISSING),
        (".text[0:1]", MISSING),
        (".text.length", MISSING),
        (".to.length", MISSING),
        (".to.bob", MISSING),
        (".m[0]", MISSING),
        (".n[0]", MISSING),
        (".nope", MISSING),
        (".nope?", None),
        (".nope???", None),
        (".nope.x", MISSING),
        (".nope.x?", MISSING),  # it has failed before the optional step
        (".nope?.x", MISSING),
        (".nope?.x?", None),
        (".nothing.x?", None),
        (".m?.b", 2),
    ],
)
def test_a_selector_leads_to(text: str, found: Any) -> None:
    assert selector.parse(text).resolve(ARGUMENTS) == found
    assert selector.parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "foo", "..", "...", "..a", ".a.", ".a..b", ".?.a", ".1", ".0x", "?", "a.b", ". a"),
        *("[", "]", "[a]", "[0", "['a']", '["a]', '["a"', '["a"]b', "[0]a", "[ 0 ]", "[[0]]"),
        *("[00]", "[007]", "[-0]", "[+1]", "[1.0]", "[1e3]", "[1:2:3]", "[:]", "[--1]", "[٣]"),
        *("[99999999999999999999]", r'["\x41"]', r'["\ud800"]', ".a b", ".a|.b", ".[*]", ".*"),
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    with pytest.raises(MalformedBlock):
        selector.parse(text)


@pytest.mark.parametrize("value", [None, 1, b".", [".a"], {}])
def test_a_selector_is_text(value: Any) -> None:
    with pytest.raises(MalformedBlock):
        selector.parse(value)


@pytest.mark.parametrize("segment", [".a", "[0]", '["a"]', "[]", ".a?", ".[1:]"])
def test_the_segments_are_bounded(segment: str) -> None:
    limit = LIMITS.selector_segments
    for count in (limit - 1, limit):
        assert len(selector.parse(segment * count).steps) == count
    with pytest.raises(LimitExceeded):
        selector.parse(segment * (limit + 1))


@given(st.text('.[]"?:-019ab\\ ', max_size=30), st.recursive(st.integers(), st.lists, max_leaves=5))
def test_any_text_is_a_selector_that_raises_nothing_or_is_refused(text: str, value: Any) -> None:
    try:
        parsed = selector.parse(text)
    except CodecError:
        return
    parsed.resolve({"a": value, "b": {"a": value}})
    parsed.resolve(value)
