"""Declared types and IPLD data: what is written can be read, and nothing else is written."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, MaxLen
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import CodecError, InvalidWorkflow, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS
from stmflow.schema import At, Data, Schema, freeze, schema_of, tag_of, thaw

LINK = CID.of(b"link")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.Enum):
    LOW = 0
    HIGH = 1


@dataclass(frozen=True, slots=True)
class Inner:
    n: int


@dataclass(frozen=True, slots=True)
class Other:
    n: int


@dataclass(frozen=True, slots=True)
class Namesake:
    tag = "Inner"
    n: int


@dataclass(frozen=True, slots=True)
class Wide:
    none: None
    flag: bool
    number: int
    ratio: float
    text: str
    data: bytes
    link: CID
    literal: Literal["a", 1]
    colour: Colour
    level: Level
    many: tuple[int, ...]
    pair: tuple[int, str]
    bag: frozenset[str]
    table: Mapping[str, int]
    maybe: int | None
    inner: Inner
    either: Inner | Other
    any: Data


def wide(**changes: Any) -> Wide:
    values: dict[str, Any] = {
        "none": None,
        "flag": True,
        "number": 7,
        "ratio": 1.5,
        "text": "ä",
        "data": b"\x00",
        "link": LINK,
        "literal": "a",
        "colour": Colour.BLUE,
        "level": Level.LOW,
        "many": (1, 2),
        "pair": (1, "x"),
        "bag": frozenset({"b", "a"}),
        "table": MappingProxyType({"k": 1}),
        "maybe": None,
        "inner": Inner(3),
        "either": Other(4),
        "any": (1, "x"),
    }
    return Wide(**(values | changes))


def through(value: Any) -> Any:
    """Written as a block and read again."""
    schema = schema_of(type(value))
    block = schema.write(value)
    assert codec.encode(schema.encode(value)) == block
    plain = codec.decode(block)
    return schema.decode(plain)


# --- there and back -------------------------------------------------------------------------------


def test_every_declared_type_comes_back_equal() -> None:
    assert through(wide()) == wide()


@given(
    number=st.integers(LIMITS.int_min, LIMITS.int_max),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(max_size=50),
    data=st.binary(max_size=50),
    many=st.lists(st.integers(-(2**63), 2**63 - 1)).map(tuple),
    bag=st.frozensets(st.text(max_size=5)),
    table=st.dictionaries(st.text(max_size=5), st.integers(-5, 5)).map(MappingProxyType),
    maybe=st.none() | st.integers(-5, 5),
    either=st.builds(Inner, st.integers(0, 5)) | st.builds(Other, st.integers(0, 5)),
)
def test_values_come_back_with_the_same_types(**changes: Any) -> None:
    value = wide(**changes)
    again = through(value)
    assert again == value
    for name in changes:
        assert type(getattr(again, name)) is type(getattr(value, name))
    assert schema_of(Wide).write(again) == schema_of(Wide).write(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
    | st.binary(max_size=5) | st.floats(allow_nan=False, allow_infinity=False) | st.just(LINK),
    lambda part: st.lists(part, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=3), part, max_size=3).map(MappingProxyType),
    max_leaves=8,
)  # fmt: skip


@given(value=plain)
def test_any_plain_value_fits_a_data_field_and_comes_back(value: Any) -> None:
    again = through(wide(any=value)).any
    assert again == value
    assert codec.encode(thaw(again)) == codec.encode(thaw(value))


@given(value=plain)
def test_freeze_and_thaw_are_inverse(value: Any) -> None:
    assert freeze(thaw(value)) == value
    assert thaw(freeze(thaw(value))) == thaw(value)


def test_fields_are_written_under_their_names_in_canonical_order() -> None:
    block = schema_of(Wide).write(wide())
    assert list(schema_of(Wide).encode(wide())) == sorted(
        Wide.__slots__, key=lambda name: (len(name), name)
    )
    assert codec.encode(codec.decode(block)) == block


# --- what is refused when written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("none", 0),
        ("flag", 1),
        ("number", True),
        ("number", 1.0),
        ("number", "1"),
        ("number", Level.LOW),
        ("number", 2**63),
        ("number", -(2**63) - 1),
        ("ratio", 1),
        ("ratio", float("nan")),
        ("ratio", float("inf")),
        ("text", b"x"),
        ("text", "\ud800"),
        ("text", Colour.RED),
        ("data", "x"),
        ("data", bytearray(b"x")),
        ("link", str(LINK)),
        ("link", LINK.to_multiformats()),
        ("literal", "b"),
        ("literal", True),
        ("literal", 1.0),
        ("colour", "red"),
        ("colour", Level.LOW),
        ("many", [1]),
        ("many", (1, "x")),
        ("pair", (1,)),
        ("pair", (1, "x", 2)),
        ("bag", {"a"}),
        ("bag", frozenset({1})),
        ("table", {1: 1}),
        ("table", {"k": "v"}),
        ("table", {"\ud800": 1}),
        ("maybe", False),
        ("inner", Other(1)),
        ("inner", {"n": 1}),
        ("either", Namesake(1)),
        ("any", object()),
        ("any", {1: 2}),
        ("any", {"a": {3}}),
        ("any", float("nan")),
        ("any", 2**64),
        ("inner", Inner("x")),  # type: ignore[arg-type]
    ],
)
def test_what_would_not_come_back_is_not_written(name: str, value: Any) -> None:
    with pytest.raises(CodecError) as caught:
        schema_of(Wide).write(wide(**{name: value}))
    assert "Wide" in str(caught.value)


def test_a_subclass_does_not_pass_for_its_base() -> None:
    class Text(str):
        __slots__ = ()

    with pytest.raises(MalformedBlock):
        schema_of(Wide).write(wide(text=Text("x")))


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_text_is_bounded(off: int) -> None:
    value = wide(text="x" * (LIMITS.text_bytes + off))
    if off > 0:
        with pytest.raises(LimitExceeded):
            codec.scan(schema_of(Wide).write(value))
    else:
        assert through(value) == value


# --- what is refused when read --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"number": None}, "number"),
        ({"number": True}, "number"),
        ({"colour": "green"}, "colour"),
        ({"level": True}, "level"),
        ({"bag": ["b", "a"]}, "order"),
        ({"bag": ["a", "a"]}, "repeats"),
        ({"either": {"n": 1}}, "either"),
        ({"either": {"t": "Nobody", "f": {"n": 1}}}, "either"),
        ({"either": {"t": "Inner", "f": {"n": 1}, "x": 1}}, "either"),
        ({"either": {"t": "Inner", "f": 1}}, "either"),
        ({"inner": {}}, "missing n"),
        ({"inner": {"n": 1, "m": 2}}, "unknown m"),
        ({"pair": [1]}, "pair"),
        ({"link": "x"}, "link"),
        ({"extra": 1}, "unknown extra"),
    ],
)
def test_what_was_not_written_is_not_read(change: dict[str, Any], says: str) -> None:
    fields = schema_of(Wide).encode(wide()) | change
    with pytest.raises(MalformedBlock, match=says):
        schema_of(Wide).decode(fields)


def test_a_missing_field_is_refused_even_with_a_default() -> None:
    with pytest.raises(MalformedBlock, match="missing n"):
        schema_of(WithDefault).decode({})


@dataclass(frozen=True)
class WithDefault:
    n: int = 5
    derived: int = field(init=False, default=0)


def test_a_field_that_is_not_an_argument_is_not_stored() -> None:
    assert schema_of(WithDefault).encode(WithDefault(3)) == {"n": 3}
    assert through(WithDefault(3)) == WithDefault(3)


# --- rules of the declared type -------------------------------------------------------------------


@dataclass(frozen=True)
class Bounded:
    n: Annotated[int, Ge(0)] = 0
    many: tuple[Annotated[int, Ge(0)], ...] = ()
    table: Mapping[str, Annotated[int, Ge(0)]] = field(default_factory=dict)
    text: Annotated[str, MaxLen(3)] | None = None


@pytest.mark.parametrize(
    "value", [Bounded(n=-1), Bounded(many=(1, -1)), Bounded(table={"k": -1}), Bounded(text="four")]
)
def test_constraints_are_judged_both_ways(value: Bounded) -> None:
    with pytest.raises(MalformedBlock):
        schema_of(Bounded).write(value)
    fields = {"n": value.n, "many": list(value.many), "table": value.table, "text": value.text}
    with pytest.raises(MalformedBlock):
        schema_of(Bounded).decode(thaw(fields))


def test_values_within_their_constraints_pass() -> None:
    value = Bounded(1, (2,), MappingProxyType({"k": 3}), "abc")
    assert through(value) == value


@dataclass(frozen=True)
class Even:
    n: int

    def __post_init__(self) -> None:
        if self.n % 2:
            raise ValueError("odd")


@dataclass(frozen=True)
class Strange:
    n: int

    def __post_init__(self) -> None:
        if self.n:
            raise KeyError("strange")


@pytest.mark.parametrize("kind", [Even, Strange])
def test_a_value_that_its_own_type_refuses_is_malformed(kind: Any) -> None:
    assert through(kind(0)) == kind(0)
    with pytest.raises(MalformedBlock):
        schema_of(kind).decode({"n": 1})


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)

    n: int
    inner: Inner
    table: Mapping[str, int] = {}
    many: tuple[int, ...] = ()


class Aliased(BaseModel):
    model_config = ConfigDict(frozen=True)

    n: int = Field(alias="number")


class Checked(BaseModel):
    model_config = ConfigDict(frozen=True)

    n: int

    @field_validator("n")
    @classmethod
    def small(cls, n: int) -> int:
        if n > 9:
            raise ValueError("too large")
        return n


def test_a_frozen_model_is_a_record_too() -> None:
    value = Model(n=1, inner=Inner(2), table=MappingProxyType({"k": 1}), many=(1,))
    assert through(value) == value
    with pytest.raises(MalformedBlock):
        schema_of(Model).decode({"n": "1", "inner": {"n": 2}, "table": {}, "many": []})


def test_a_model_with_an_alias_is_stored_and_read_by_its_field_names() -> None:
    value = Aliased(number=3)
    assert schema_of(Aliased).encode(value) == {"n": 3}
    assert through(value) == value


def test_a_models_validators_are_judged_both_ways() -> None:
    assert through(Checked(n=9)) == Checked(n=9)
    with pytest.raises(MalformedBlock):
        schema_of(Checked).decode({"n": 10})
    with pytest.raises(MalformedBlock):
        schema_of(Checked).write(Checked.model_construct(n=10))


# --- what cannot be declared ----------------------------------------------------------------------


def declared(hint: Any) -> type:
    return dataclass(frozen=True)(type("Made", (), {"__annotations__": {"field": hint}}))


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        (list[int], "tuple"),
        (dict[str, int], "Mapping"),
        (set[int], "frozenset"),
        (list, "tuple"),
        (object, "cannot be stored"),
        (Any, "cannot be stored"),
        (complex, "cannot be stored"),
        (Mapping[int, str], "cannot be stored"),
        (tuple, "cannot be stored"),
        (str | Colour, "apart"),
        (Colour | Literal["red"], "apart"),
        (tuple[int, ...] | tuple[str, ...], "apart"),
        (frozenset[int] | tuple[int, ...], "apart"),
        (Inner | Mapping[str, int], "apart"),
        (Inner | Other | Mapping[str, int], "apart"),
        (Inner | Namesake, "tag"),
    ],
)
def test_a_type_that_could_not_be_read_back_is_refused_when_declared(hint: Any, says: str) -> None:
    with pytest.raises(InvalidWorkflow, match=says):
        Schema(declared(hint))


def test_data_beside_none_is_data() -> None:
    kind = declared(Data | None)
    for value in (None, 5, (1,), "x"):
        assert through(kind(value)) == kind(value)  # type: ignore[call-arg]


def test_what_is_not_frozen_is_refused() -> None:
    @dataclass
    class Thawed:
        n: int

    class ThawedModel(BaseModel):
        n: int

    for kind in (Thawed, ThawedModel):
        with pytest.raises(InvalidWorkflow, match="not frozen"):
            schema_of(kind)
    with pytest.raises(InvalidWorkflow, match="neither"):
        schema_of(int)


def test_a_type_declared_out_of_sight_is_refused_by_name() -> None:
    @dataclass(frozen=True)
    class Hidden:
        n: int

    @dataclass(frozen=True)
    class Outer:
        hidden: Hidden

    with pytest.raises(InvalidWorkflow, match="module level"):
        schema_of(Outer)


@dataclass(frozen=True)
class Node:
    children: tuple[Node, ...] = ()


def test_a_type_within_itself_is_refused_by_name() -> None:
    with pytest.raises(InvalidWorkflow, match="Node"):
        schema_of(Node)


# --- tags and times -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dated:
    n: int
    at: At = 0
    last: str = ""


def test_a_tag_is_the_name_of_the_type_or_what_it_says() -> None:
    assert tag_of(Inner) == "Inner"
    assert tag_of(Namesake) == "Inner"


def test_the_field_for_the_time_is_not_free() -> None:
    schema = schema_of(Dated)
    assert (schema.at, schema.free) == ("at", ("n", "last"))
    assert schema_of(Inner).at is None


def test_data_fields_come_back_frozen() -> None:
    again = through(wide(any={"a": [1, {"b": 2}]}))
    assert isinstance(again.any, MappingProxyType)
    assert again.any["a"] == (1, MappingProxyType({"b": 2}))
