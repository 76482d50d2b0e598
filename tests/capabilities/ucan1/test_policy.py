"""Policies: what holds of which arguments, what is malformed, and how much work there may be."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.ucan1 import policy
from capabilities.ucan1.policy import Budget
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import CodecError, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

LINK = CID.of(b"a link")
ARGUMENTS: dict[str, Any] = {
    "n": 8,
    "one": 1,
    "zero": 0,
    "f": 1.5,
    "yes": True,
    "no": False,
    "nul": None,
    "s": "Alice*, Bob, Carol.",
    "lines": "a\nb",
    "raw": b"\x01\x02",
    "link": LINK,
    "links": [LINK, {"k": str(LINK)}],
    "empty": [],
    "m": {"k": [1, 2, 3], "e": {}},
    "a": [{"b": 1}, {"b": 2}, {"z": [7, 8, 9]}],
}
HOLDS = ["and", []]
FAILS = ["not", HOLDS]


@pytest.mark.parametrize(
    "statement",
    [
        ["==", ".n", 8],
        ["==", ".n", 8.0],
        ["==", ".m", {"k": [1.0, 2, 3.0], "e": {}}],
        ["==", ".link", LINK],
        ["==", ".link", str(LINK)],
        ["==", ".links", [str(LINK), {"k": LINK}]],
        ["any", ".links", ["==", ".", LINK]],
        ["like", ".link", "bafy*"],
        ["!=", ".link", LINK.bytes],
        ["!=", ".link", CID.of(b"another")],
        ["==", ".raw", b"\x01\x02"],
        ["==", ".nul", None],
        ["==", ".nope?", None],
        ["==", ".yes", True],
        ["!=", ".n", 9],
        ["!=", ".n", "8"],
        ["!=", ".one", True],
        ["!=", ".zero", False],
        ["!=", ".yes", 1],
        ["!=", ".nul", False],
        ["!=", ".nope?", 1],
        ["<", ".n", 8.5],
        ["<=", ".n", 8],
        [">", ".f", 1],
        [">=", ".f", 1.5],
        ["<", ".raw[0]", 2],
        ["like", ".s", "*"],
        ["like", ".s", "**"],
        ["like", ".s", "Alice*"],
        ["like", ".s", r"Alice\*, Bob*, Carol."],
        ["like", ".s", "*Carol."],
        ["like", ".s", "*,*,*"],
        ["like", ".lines", "a*b"],
        ["like", ".lines", "a\n*b"],
        ["like", ".lines", "*a*b*"],
        HOLDS,
        ["or", []],
        ["or", [FAILS, HOLDS]],
        ["not", ["==", ".nope", 1]],
        ["not", ["!=", ".nope", 1]],
        ["all", ".empty", FAILS],
        ["any", ".empty", FAILS],
        ["all", ".m.e", FAILS],
        ["all", ".m.k", [">", ".", 0]],
        ["any", ".a", ["==", ".b", 2]],
        ["any", ".a", ["any", ".z", ["==", ".", 9]]],
        ["all", ".m", ["!=", ".", 1]],
    ],
)
def test_a_statement_holds(statement: Any) -> None:
    assert policy.parse([statement]).holds(ARGUMENTS) is True
    assert policy.parse([["not", statement]]).holds(ARGUMENTS) is False


@pytest.mark.parametrize(
    "statement",
    [
        ["==", ".n", "8"],
        ["==", ".one", True],
        ["==", ".zero", False],
        ["==", ".yes", 1],
        ["==", ".no", 0.0],
        ["==", ".m", {"k": [True, 2, 3], "e": {}}],
        ["==", ".nope", None],
        ["!=", ".nope", 1],
        ["!=", ".n", 8.0],
        ["<", ".n", 8],
        ["<=", ".n", 7.5],
        [">", ".f", 1.5],
        [">=", ".f", 2],
        ["<", ".yes", 2],
        ["<", ".s", 100],
        [">", ".nul", -1],
        ["<", ".nope", 1],
        ["<", ".nope?", 1],
        ["!=", ".link", str(LINK)],
        ["!=", ".links", [LINK, {"k": str(LINK)}]],
        ["like", ".link", "bagb*"],
        ["<", ".link", 1],
        ["==", ".link[0]", "b"],
        ["all", ".link", HOLDS],
        ["like", ".n", "*"],
        ["like", ".raw", "*"],
        ["like", ".nope", "*"],
        ["like", ".nope?", "*"],
        ["like", ".s", "alice*"],
        ["like", ".s", r"Alice\*"],
        ["like", ".s", r"Alice, \*"],
        ["like", ".s", "?lice*"],
        ["like", ".s", "*Carol"],
        ["like", ".lines", "a\nb*b"],
        ["like", ".lines", "*a*a*"],
        ["like", ".lines", "*b*b"],
        ["or", [FAILS, FAILS]],
        ["and", [HOLDS, FAILS]],
        ["all", ".n", HOLDS],
        ["any", ".s", HOLDS],
        ["any", ".raw", HOLDS],
        ["all", ".nope", HOLDS],
        ["all", ".nope?", HOLDS],
        ["all", ".a", [">", ".b", 0]],
    ],
)
def test_a_statement_does_not_hold(statement: Any) -> None:
    assert policy.parse([statement]).holds(ARGUMENTS) is False
    assert policy.parse([["not", statement]]).holds(ARGUMENTS) is True


def test_all_statements_have_to_hold_and_the_first_that_fails_is_told() -> None:
    assert policy.parse([]).holds({})
    parsed = policy.parse([HOLDS, ["==", ".n", 9], FAILS])
    assert not parsed.holds(ARGUMENTS)
    assert parsed.failing(ARGUMENTS) == ["==", ".n", 9]


def test_quantifiers_nest() -> None:
    """The specification's fixture, as it stands in its repository."""
    recipients = [{"email": "bob@example.com"}, {"email": "alice@example.com"}]
    parsed = policy.parse(
        [["all", ".newsletters", ["any", ".recipients", ["==", ".email", "bob@example.com"]]]]
    )
    assert parsed.holds({"newsletters": {"christmas": {"recipients": recipients}}})
    assert not parsed.holds({"newsletters": {"christmas": {"recipients": recipients[1:]}}})


@pytest.mark.parametrize(
    "plain",
    [
        *(None, {}, "", b"", 1, (HOLDS,)),
        *([None], [[]], [1], ["=="], [{}], [["=="]], [["==", ".a"]], [["==", ".a", 1, 2]]),
        *([["~=", ".a", 1]], [["===", ".a", 1]], [[1, ".a", 1]], [[["=="], ".a", 1]]),
        *([["==", 1, 1]], [["==", "a", 1]], [["==", None, 1]], [["==", "..", 1]]),
        *([["<", ".a", "1"]], [["<", ".a", True]], [["<", ".a", None]], [["<", ".a", [1]]]),
        *([["like", ".a", 1]], [["like", ".a", None]], [["like", ".a", b"*"]], [["like", "*"]]),
        *([["and"]], [["and", HOLDS]], [["and", {}]], [["or", [[]]]], [["or", HOLDS, HOLDS]]),
        *([["not"]], [["not", [HOLDS]]], [["not", []]], [["not", HOLDS, HOLDS]]),
        *([["all", ".a"]], [["all", ".a", [HOLDS]]], [["any", ".a", []]], [["any", HOLDS]]),
        [["or", [HOLDS, ["~=", ".a", 1]]]],  # never reached by evaluation
    ],
)
def test_anything_else_is_malformed(plain: Any) -> None:
    with pytest.raises(MalformedBlock):
        policy.parse(plain)


def test_the_statements_are_bounded_with_the_inner_ones() -> None:
    limit = LIMITS.policy_statements
    for count in (limit - 1, limit):
        policy.parse([HOLDS] * count)
        policy.parse([["and", [HOLDS] * (count - 1)]])
    for plain in ([HOLDS] * (limit + 1), [["and", [HOLDS] * limit]]):
        with pytest.raises(LimitExceeded):
            policy.parse(plain)


@pytest.mark.parametrize("outer", [["not"], ["and"], ["or"], ["all", "."], ["any", "."]])
def test_the_depth_is_bounded(outer: list[Any]) -> None:
    def nested(depth: int) -> list[Any]:
        if depth == 1:
            return HOLDS
        inner = nested(depth - 1)
        return [*outer, [inner] if outer[0] in ("and", "or") else inner]

    for depth in (LIMITS.policy_depth - 1, LIMITS.policy_depth):
        policy.parse([nested(depth)])
    for depth in (LIMITS.policy_depth + 1, LIMITS.policy_depth + 10):
        with pytest.raises(LimitExceeded):
            policy.parse([nested(depth)])


def test_depth_is_checked_before_recursion() -> None:
    plain: list[Any] = HOLDS
    for _ in range(100_000):
        plain = ["not", plain]
    with pytest.raises(LimitExceeded):
        policy.parse([plain])
    with pytest.raises(MalformedBlock):
        policy.parse([["unknown", plain]])


def test_the_stars_of_a_glob_are_bounded() -> None:
    for count in (LIMITS.policy_globs - 1, LIMITS.policy_globs):
        policy.parse([["like", ".a", "*" * count + r"\*" * 20]])
    with pytest.raises(LimitExceeded):
        policy.parse([["like", ".a", "*" * (LIMITS.policy_globs + 1)]])


@given(
    st.text("ab*\\.\n", max_size=12).filter(lambda glob: glob.count("*") <= LIMITS.policy_globs),
    st.text("ab*\\.\n", max_size=12),
)
def test_a_glob_matches_as_the_regular_expression_does(glob: str, text: str) -> None:
    pieces = re.split(r"(?<!\\)\*", glob)
    pattern = ".*".join(re.escape(piece.replace("\\*", "*")) for piece in pieces)
    expected = re.fullmatch(pattern, text, re.DOTALL) is not None
    assert policy.parse([["like", ".", glob]]).holds(text) is expected


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6), st.text("ab"))
def test_a_glob_matches_what_it_was_made_of(pieces: list[str], gap: str) -> None:
    assert policy.parse([["like", ".", "*".join(pieces)]]).holds(gap.join(pieces))


def test_a_hostile_glob_takes_no_time() -> None:
    parsed = policy.parse([["like", ".", "*a" * 7 + "*b"]] * 8)
    started = time.perf_counter()
    assert not parsed.holds("a" * LIMITS.arguments_bytes)
    assert time.perf_counter() - started < 2


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 2), st.sampled_from([0.0, 1.0, -0.5]), st.text("ab")
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


def normal(value: Any) -> Any:
    """A form in which values are equal exactly when their encodings are."""
    match value:
        case bool():
            return ["bool", value]
        case int() | float():
            return ["number", float(value)]
        case list():
            return ["list", *map(normal, value)]
        case dict():
            return {key: normal(each) for key, each in value.items()}
    return value


@given(values, values)
def test_equality_is_deep_and_keeps_truth_and_numbers_apart(one: Any, other: Any) -> None:
    expected = codec.encode(normal(one)) == codec.encode(normal(other))
    assert policy.parse([["==", ".", other]]).holds(one) is expected
    assert policy.parse([["!=", ".", other]]).holds(one) is not expected


statements = st.recursive(
    st.tuples(st.sampled_from(["==", "!=", "<", ">="]), st.sampled_from([".", ".a", "[0]", ".b?"]))
    .flatmap(lambda head: st.tuples(st.just(head[0]), st.just(head[1]), leaves))
    .map(list)
    | st.text("a*").map(lambda glob: ["like", ".", glob]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: ["or", parts])
        | inner.map(lambda part: ["not", part])
        | inner.map(lambda part: ["all", "[]", part])
    ),
    max_leaves=6,
)


@given(st.lists(statements, max_size=3), values)
def test_evaluation_raises_nothing(plain: list[Any], value: Any) -> None:
    try:
        parsed = policy.parse(plain)
    except CodecError:
        return
    assert parsed.holds(value) is (parsed.failing(value) is None)


def test_evaluation_ends_after_a_bounded_number_of_steps() -> None:
    arguments = {"l": [0] * 4_096}
    assert len(codec.encode(arguments)) < LIMITS.arguments_bytes
    assert policy.parse([["all", ".l", ["==", ".", 0]]]).holds(arguments)
    hostile = policy.parse([["all", ".l", ["and", [["==", ".", 0]] * 60]]])
    started = time.perf_counter()
    with pytest.raises(LimitExceeded):
        hostile.holds(arguments)
    with pytest.raises(LimitExceeded):
        policy.parse([["not", hostile.plain[0]]]).holds(arguments)
    with pytest.raises(LimitExceeded):
        policy.parse([["==", ".l", arguments["l"]]] * 5).holds(arguments)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("statement", "value", "steps"),
    [
        (["==", ".", 1], 1, 2),
        (["==", ".", 1], 2, 1),
        (["==", ".", [1, 2]], [1, 2], 4),
        (["==", ".", {"a": [1]}], {"a": [1]}, 4),
        (["<", ".", 1], 0, 1),
        (["like", ".", "*"], "a" * 63, 1),
        (["like", ".", "*"], "a" * 64, 2),
        (["like", ".", "*"], 1, 1),
        (["and", [HOLDS, HOLDS]], 1, 3),
        (["and", [FAILS, HOLDS]], 1, 3),
        (["or", [HOLDS, HOLDS]], 1, 2),
        (FAILS, 1, 2),
        (["all", ".", HOLDS], [1, 2], 3),
        (["any", ".", HOLDS], [1, 2], 2),
        (["all", ".", HOLDS], {"a": 1}, 2),
        (["all", ".", HOLDS], "text", 1),
    ],
)
def test_each_statement_takes_its_steps_of_the_budget(
    statement: Any, value: Any, steps: int
) -> None:
    """One for itself; those of what it looks into; and it stops where it knows."""
    parsed = policy.parse([statement])
    for enough in (steps, steps + 1):
        parsed.holds(value, Budget(enough))
    with pytest.raises(LimitExceeded):
        parsed.holds(value, Budget(steps - 1))


def test_a_policy_takes_as_many_steps_as_arguments_have_bytes() -> None:
    parsed = policy.parse([["all", ".", HOLDS]])
    limit = LIMITS.arguments_bytes
    for items in (limit - 2, limit - 1):  # and a step for `all`
        assert parsed.holds([0] * items)
    with pytest.raises(LimitExceeded):
        parsed.holds([0] * limit)


@pytest.mark.parametrize(
    ("plain", "name"), [(["~=", ".a", 1], "~="), ([1], "?"), ([], "?"), ({}, "?"), ("==", "?")]
)
def test_a_statement_that_is_none_is_named(plain: Any, name: str) -> None:
    with pytest.raises(MalformedBlock, match=re.escape(f"in the form of '{name}'")):
        policy.parse([plain])
