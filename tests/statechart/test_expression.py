"""Expressions of documents: what they come to, and what they can never do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmflow import LIMITS
from stmflow.statechart.scxml.expression import UNDEFINED, ExpressionError, Scope, compiled

SCOPE = Scope(
    {"x": 3, "text": "abc", "list": [1, 2], "map": {"a": {"b": 5}}, "none": UNDEFINED},
    frozenset({"here"}),
)


def value(text: str) -> Any:
    return compiled(text)(SCOPE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 - 2 - 1", 4),
        ("6 / 4", 1.5),
        ("6 / 3", 2),
        ("-7 % 3", -1),
        (".5 + 1e1", 10.5),
        ("-x", -3),
        ("'a' + 1 + true", "a1true"),
        ('"it\\\'s\\n"', "it's\n"),
        ("x == '3'", True),
        ("x === '3'", False),
        ("null == undefined", True),
        ("null === undefined", False),
        ("1 === true", False),
        ("1 == true", True),
        ("x != 3 || x >= 3 && x <= 3", True),
        ("'a' < 'b'", True),
        ("!x", False),
        ("!''", True),
        ("![]", False),
        ("x > 2 ? 'big' : 'small'", "big"),
        ("0 || 'other'", "other"),
        ("0 && missing", 0),
        ("typeof missing", "undefined"),
        ("typeof none === 'undefined'", True),
        ("typeof x + typeof text + typeof true + typeof null", "numberstringbooleanobject"),
        ("map.a.b + map['a']['b']", 10),
        ("map.missing", UNDEFINED),
        ("list[1]", 2),
        ("list[2]", UNDEFINED),
        ("list.length + text.length", 5),
        ("list.concat([3], 4)", [1, 2, 3, 4]),
        ("list.indexOf(2)", 1),
        ("text.indexOf('c')", 2),
        ("[1, 'a', {k: none}]", [1, "a", {"k": None}]),
        ("{'a b': 1, c: [2]}", {"a b": 1, "c": [2]}),
        ("'a' in map", True),
        ("list instanceof Array", True),
        ("map instanceof Array", False),
        ("In('here') && !In('there')", True),
        ("[1, 2] == list", True),
        ("x == 3 | text == 'b'", 1),
        ("6 & 3 | 8", 10),
    ],
)
def test_an_expression_comes_to(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "missing",
        "none.x",
        "x.y",
        "1 / 0",
        "1 % 0",
        "'a' * 2",
        "[] + 1",
        "text.at(0)",
        "1 in x",
        "1.5 | 1",
        "'a' < 1",
        "9223372036854775807 + 1",
        "1e308 * 10",
    ],
)
def test_one_without_a_value_fails(text: str) -> None:
    with pytest.raises(ExpressionError):
        value(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "return",
        "1 +",
        "x = 1",
        "x++",
        "f()",
        "new Date()",
        "function() {}",
        "(1",
        "[1",
        "{a 1}",
        "a.",
        "In()",
        "1 2",
        "'open",
        "x instanceof y",
        "/re/",
        "`t`",
        "#",
    ],
)
def test_what_is_not_of_the_language_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compiled(text)


@pytest.mark.parametrize(
    "text", ["__class__", "text.__class__", "list.append(1)", "map.keys()", "x.__class__.__base__"]
)
def test_nothing_of_python_is_reached(text: str) -> None:
    try:
        found = value(text)
    except ExpressionError:
        return
    assert found is UNDEFINED


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize(("open_", "close"), [("(", ")"), ("[", "]"), ("!", ""), ("-", "")])
def test_depth_is_bounded(open_: str, close: str, off: int) -> None:
    depth = LIMITS.depth - 1 + off
    text = open_ * depth + "1" + close * depth
    if off > 0:
        with pytest.raises(ExpressionError, match="deeper"):
            compiled(text)
    else:
        compiled(text)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_texts_and_arrays_are_bounded(off: int) -> None:
    for name, grown, bound in (
        ("text", "text + 'a'", LIMITS.text_bytes),
        ("list", "list.concat(1)", LIMITS.items),
    ):
        long: Any = "a" * (bound + off - 1) if name == "text" else [0] * (bound + off - 1)
        run = compiled(grown)
        if off > 0:
            with pytest.raises(ExpressionError):
                run(Scope({name: long}, frozenset()))
        else:
            assert len(run(Scope({name: long}, frozenset()))) == bound + off


@given(st.text(alphabet="x1.+-*/%()[]{}'\"!<>=&|?:, In\ttypeofnull", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        value(text)
    except ExpressionError:
        pass
