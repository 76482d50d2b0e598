"""The text under a signature: as JavaScript prints it, and one text for one value."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.ucanto import dagjson
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import CodecError, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

BLOCK = CID.of(b"a block")
SAFE = 2**53 - 1

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.just(BLOCK)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (1e-6, "0.000001"),
        (1.5e-6, "0.0000015"),
        (1e-7, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (5e-324, "5e-324"),
        (123456.789, "123456.789"),
        (2.0**53, "9007199254740992.0"),
        (-(2.0**53), "-9007199254740992.0"),
        (1e20, "100000000000000000000.0"),
        (123456789012345680000.0, "123456789012345680000.0"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (0.027254866920609633, "0.027254866920609633"),
    ],
)
def test_a_float_is_laid_out_as_in_javascript(number: float, text: str) -> None:
    assert dagjson.encode(number).decode() == text


@pytest.mark.parametrize("number", [0.0, -0.0, 5.0, -5.0, float(SAFE), -float(SAFE)])
def test_a_float_that_reads_as_an_integer_is_refused(number: float) -> None:
    with pytest.raises(MalformedBlock, match="as an integer"):
        dagjson.encode([number])


@pytest.mark.parametrize("number", [SAFE - 1, SAFE, -SAFE])
def test_an_integer_within_the_bound_is_written(number: int) -> None:
    assert dagjson.encode(number).decode() == str(number)


@pytest.mark.parametrize("number", [SAFE + 1, -SAFE - 1])
def test_an_integer_past_the_bound_is_refused(number: int) -> None:
    with pytest.raises(LimitExceeded):
        dagjson.encode(number)


def test_text_is_escaped_no_more_than_json_stringify_does() -> None:
    text = '"\\/\b\t\n\f\r\x00\x1f\x7f\u2028é😀'
    written = '"\\"\\\\/\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\u2028é😀"'
    assert dagjson.encode(text).decode() == written


def test_keys_stand_in_the_order_of_utf_16() -> None:
    keys = {"\uffff": 2, "😀": 1, "bbb": 0, "aa": 0, "Z": 0, "10": 0, "9": 0}
    assert list(json.loads(dagjson.encode(keys))) == ["10", "9", "Z", "aa", "bbb", "😀", "\uffff"]


def test_links_bytes_and_constants_have_their_forms() -> None:
    value = [BLOCK, b"\x00\x01", b"", True, False, None, {}, [], (1,)]
    assert dagjson.encode(value).decode() == (
        f'[{{"/":"{BLOCK}"}},{{"/":{{"bytes":"AAE"}}}},{{"/":{{"bytes":""}}}},'
        "true,false,null,{},[],[1]]"
    )


@pytest.mark.parametrize("value", [{"/": str(BLOCK)}, {"a": {"/": 1, "b": 2}}, [{"/": {}}]])
def test_a_map_that_would_read_as_a_link_is_refused(value: Any) -> None:
    with pytest.raises(MalformedBlock, match="the key"):
        dagjson.encode(value)


@pytest.mark.parametrize("value", [object(), {1: 2}, "\ud800", {"\ud800": 1}, float("nan"), {1, 2}])
def test_what_no_block_holds_is_refused(value: Any) -> None:
    with pytest.raises(MalformedBlock):
        dagjson.encode(value)


def test_the_writer_refuses_other_types_by_itself() -> None:
    with pytest.raises(MalformedBlock, match=r"holds no builtins\.set"):
        dagjson.text({1})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [LIMITS.depth - 1, LIMITS.depth])
def test_nesting_within_the_bound_is_written(depth: int) -> None:
    assert dagjson.text(nested(depth)) == "[" * depth + "1" + "]" * depth


@pytest.mark.parametrize("depth", [LIMITS.depth + 1, 100_000])
def test_nesting_past_the_bound_is_refused_before_the_stack_ends(depth: int) -> None:
    for write in (dagjson.text, dagjson.encode):
        with pytest.raises(LimitExceeded):
            write(nested(depth))


@given(values)
def test_the_text_gives_back_the_value(value: Any) -> None:
    try:
        text = dagjson.encode(value)
    except CodecError:
        return
    again = codec.from_json(json.loads(text))
    assert codec.encode(again) == codec.encode(value)


@given(st.binary(min_size=8, max_size=8).map(lambda raw: struct.unpack(">d", raw)[0]))
def test_every_float_reads_back_to_the_same(number: float) -> None:
    if number != number or number in (float("inf"), -float("inf")) or number.is_integer():
        return
    assert float(dagjson.text(number)) == number
