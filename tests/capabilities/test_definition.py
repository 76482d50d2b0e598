"""Definitions: what a command takes, strictly, and how it may be narrowed."""

from __future__ import annotations

import doctest
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from capabilities import definition
from capabilities.definition import (
    Capability,
    Derives,
    NoArguments,
    Size,
    all_of,
    at_most,
    equal,
    same,
)
from stmflow.cid import CID
from stmflow.errors import InvalidClaim
from tests.capabilities.ucanto.tokens import ALICE, LINK, OTHER, WEB, Blob, BlobAdd, StoreAdd

ADD = Capability("store/add", StoreAdd)
BLOB = Capability("space/blob/add", BlobAdd)
OTHER_LINK = CID.of(b"other")


def test_the_example_of_the_module_works() -> None:
    outcome = doctest.testmod(definition)
    assert outcome.attempted >= 8
    assert outcome.failed == 0


def test_a_command_has_a_path_in_the_other_family() -> None:
    assert ADD.path == "/store/add"
    assert ADD.fields == {"link", "size", "origin"}


# Reading


def test_arguments_become_their_declared_type() -> None:
    assert ADD.read({"link": LINK, "size": 0}) == StoreAdd(LINK, 0)
    assert ADD.read({"link": LINK, "size": 2**53 - 1, "origin": LINK}).origin == LINK
    assert BLOB.read({"blob": {"digest": b"d", "size": 1}}) == BlobAdd(Blob(b"d", 1))


def test_unknown_arguments_are_dropped() -> None:
    assert ADD.read({"link": LINK, "size": 1, "other": object()}) == StoreAdd(LINK, 1)
    nested = {"blob": {"digest": b"d", "size": 1, "x": 1}}
    assert BLOB.read(nested) == BlobAdd(Blob(b"d", 1))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"link": LINK},
        {"size": 1},
        {"link": LINK, "size": "5"},
        {"link": LINK, "size": 5.0},
        {"link": LINK, "size": 5.5},
        {"link": LINK, "size": True},
        {"link": LINK, "size": -1},
        {"link": LINK, "size": 2**53},
        {"link": LINK, "size": None},
        {"link": str(LINK), "size": 1},
        {"link": LINK.bytes, "size": 1},
        {"link": None, "size": 1},
        {"link": {"/": str(LINK)}, "size": 1},
        {"link": LINK, "size": 1, "origin": "x"},
    ],
)
def test_arguments_of_another_type_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidClaim, match="store/add"):
        ADD.read(arguments)


@pytest.mark.parametrize(
    "blob", [None, [], 1, {}, {"digest": "text", "size": 1}, {"digest": b"", "size": True}]
)
def test_nested_arguments_of_another_type_are_refused(blob: object) -> None:
    with pytest.raises(InvalidClaim, match="space/blob/add: blob"):
        BLOB.read({"blob": blob})


def test_links_may_come_as_text_where_that_is_asked_for() -> None:
    assert ADD.read({"link": str(LINK), "size": 1}, text_links=True) == StoreAdd(LINK, 1)
    other_base = "f" + LINK.bytes.hex()
    assert CID.parse(other_base) == LINK
    for text in ("", "b", "bafy", 1, b"", other_base, str(LINK).upper()):
        with pytest.raises(InvalidClaim):
            ADD.read({"link": text, "size": 1}, text_links=True)


@dataclass(frozen=True, slots=True)
class Shapes:
    links: tuple[CID, ...] = ()
    pair: tuple[int, str] = (1, "a")
    blobs: tuple[Blob, ...] = ()
    one: Blob | None = None
    old: Optional[CID] = None  # noqa: UP045 -- the older spelling is taken too
    kind: Literal["a", "b"] = "a"
    headers: Mapping[str, str] = field(default_factory=dict)
    named: dict[str, Blob] = field(default_factory=dict)
    several: list[CID] = field(default_factory=list)
    small: Annotated[int, Field(le=3)] = 0
    anything: Any = None


def test_a_dataclass_may_hold_lists_maps_options_and_others() -> None:
    shapes = Capability("a/b", Shapes)
    assert shapes.read({}) == Shapes()
    blob = {"digest": b"d", "size": 1}
    read = shapes.read(
        {
            "links": [LINK],
            "pair": [2, "b"],
            "blobs": [blob],
            "one": blob,
            "old": LINK,
            "kind": "b",
            "headers": {"a": "b"},
            "named": {"x": blob},
            "several": [LINK],
            "small": 3,
            "anything": [1, {"a": b""}],
        }
    )
    assert read.links == (LINK,)
    assert read.pair == (2, "b")
    assert read.blobs == (read.one,) == (Blob(b"d", 1),)
    assert read.named == {"x": Blob(b"d", 1)}
    assert (read.kind, dict(read.headers), read.several) == ("b", {"a": "b"}, [LINK])
    assert read.anything == [1, {"a": b""}]
    for wrong in ({"links": LINK}, {"pair": [1]}, {"kind": "c"}, {"small": 4}, {"named": {"x": 1}}):
        with pytest.raises(InvalidClaim):
            shapes.read(wrong)
    assert shapes.read({"links": [str(LINK)]}, text_links=True).links == (LINK,)


@dataclass(frozen=True)
class Chosen:
    number: Literal[1, 2] | None = None
    flag: Literal[True, "yes"] = True


def test_a_declared_number_is_no_bool_or_float_that_equals_it() -> None:
    chosen = Capability("a/b", Chosen)
    for good in ({"number": 1}, {"number": None}, {"flag": True}, {"flag": "yes"}):
        ((name, value),) = good.items()
        assert repr(getattr(chosen.read(good), name)) == repr(value)
    for wrong in ({"number": True}, {"number": 1.0}, {"flag": 1}, {"flag": 1.0}, {"flag": False}):
        with pytest.raises(InvalidClaim):
            chosen.read(wrong)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)
    size: Size
    from_: str = Field(default="", alias="from")


class Choice(BaseModel):
    size: int = Field(validation_alias=AliasChoices("size", "bytes"))


def test_a_model_is_read_strictly_by_the_names_on_the_wire() -> None:
    capability = Capability("a/b", Model)
    assert capability.fields == {"size", "from"}
    read = capability.read({"size": 1, "from": "x", "other": 1})
    assert (read.size, read.from_) == (1, "x")
    assert capability.fixed(read, {"from"}) == {"from": "x"}
    for wrong in ({"size": "1"}, {"size": True}, {"size": 1.0}, {"size": 1, "from": 2}):
        with pytest.raises(InvalidClaim):
            capability.read(wrong)


def test_a_command_may_take_no_arguments() -> None:
    assert Capability("a/b").read({"x": 1}) == NoArguments()


def test_a_refusal_is_short_however_long_the_input() -> None:
    with pytest.raises(InvalidClaim) as caught:
        BLOB.read({"blob": {"digest": "x" * 100_000, "size": "y" * 100_000}})
    assert len(str(caught.value)) < 400


# The subject


def test_a_subject_is_a_key_unless_any_did_will_do() -> None:
    assert ADD.about(ALICE.did.text) == ALICE.did
    assert Capability("a/b", subject="did").about(WEB.did.text) == WEB.did
    for text in (WEB.did.text, "did:mailto:example.com:ann"):
        with pytest.raises(InvalidClaim, match="did:key"):
            ADD.about(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did",
        "did:*",
        "did:key:*",
        "ucan:*",
        "https://a.b",
        "did:key:zzz",
        "did:web:a.b/c",
        "did:web:*",
        ALICE.did.text + "#" + ALICE.did.text[8:],
        ALICE.did.text.upper(),
        "did:a:" + "b" * 300,
    ],
)
def test_what_is_no_did_is_no_subject(text: str) -> None:
    for capability in (ADD, Capability("a/b", subject="did")):
        with pytest.raises(InvalidClaim):
            capability.about(text)


# Narrowing


CLAIMED = StoreAdd(LINK, 100)
CLAIMED_BLOB = BlobAdd(Blob(b"d", 100))


@pytest.mark.parametrize(
    ("rule", "proof", "allowed"),
    [
        (same, {}, True),
        (same, {"link": LINK, "size": 100}, True),
        (same, {"size": 101}, False),
        (same, {"size": 100.0}, False),
        (same, {"origin": LINK}, False),
        (equal("link"), {}, True),
        (equal("link"), {"link": LINK, "size": 1}, True),
        (equal("link"), {"link": OTHER_LINK}, False),
        (equal("link"), {"link": str(LINK)}, False),
        (equal("origin"), {"origin": LINK}, False),
        (at_most("size"), {}, True),
        (at_most("size"), {"size": 101}, True),
        (at_most("size"), {"size": 100}, True),
        (at_most("size"), {"size": 99}, False),
        (at_most("size"), {"size": True}, False),
        (at_most("origin"), {"origin": 5}, False),
        (all_of(equal("link"), at_most("size")), {"link": LINK, "size": 100}, True),
        (all_of(equal("link"), at_most("size")), {"link": LINK, "size": 99}, False),
        (all_of(equal("link"), at_most("size")), {"link": OTHER_LINK, "size": 100}, False),
        (all_of(equal("link"), at_most("size")), {"origin": LINK}, True),
        (all_of(), {"size": 1}, True),
    ],
)
def test_a_proof_allows_what_is_within_it(
    rule: Derives, proof: dict[str, Any], allowed: bool
) -> None:
    fault = rule(CLAIMED, proof)
    assert (fault is None) is allowed
    assert fault is None or fault.partition(":")[0] in ("link", "size", "origin")


def test_rules_reach_into_nested_arguments() -> None:
    rule = all_of(equal("blob.digest"), at_most("blob.size"))
    assert rule(CLAIMED_BLOB, {"blob": Blob(b"d", 100)}) is None
    assert rule(CLAIMED_BLOB, {"blob": {"size": 100}}) is None
    assert rule(CLAIMED_BLOB, {"blob": Blob(b"d", 99)}) == "blob.size: 100 is more than 99"
    assert "blob.digest" in (rule(CLAIMED_BLOB, {"blob": Blob(b"e", 100)}) or "")
    assert rule(CLAIMED_BLOB, {}) is None


@dataclass(frozen=True)
class Open:
    value: Any = None


@dataclass(frozen=True)
class Around:
    inner: Open


@pytest.mark.parametrize(
    ("claimed", "delegated"),
    [
        (1, True),
        ([1], [True]),
        ({"a": 0}, {"a": False}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1.0}]}),
        (5, None),
        (None, 5),
        ("x", [None]),
    ],
)
@pytest.mark.parametrize("rule", [same, equal("inner"), all_of(same, equal("inner"))])
def test_what_python_finds_equal_is_not_the_same_however_deep(
    rule: Derives, claimed: Any, delegated: Any
) -> None:
    capability = Capability("a/b", Around)
    asked = capability.read({"inner": {"value": claimed}})
    proof = capability.fixed(capability.read({"inner": {"value": delegated}}), {"inner"})
    assert rule(asked, proof) is not None
    assert rule(asked, {"inner": asked.inner}) is None


def test_what_a_proof_fixes_as_nothing_is_claimed_as_nothing() -> None:
    assert same(StoreAdd(LINK, 1, LINK), {"origin": None}) is not None
    assert same(StoreAdd(LINK, 1), {"origin": None}) is None


class Aliased(BaseModel):
    size: Size = Field(alias="max.size")
    from_: str = Field(default="", alias="from")


def test_arguments_are_narrowed_by_their_names_on_the_wire() -> None:
    capability = Capability("a/b", Aliased)
    claimed = capability.read({"max.size": 5, "from": "x"})
    for wire, allowed in (
        ({"max.size": 5}, True),
        ({"max.size": 4}, False),
        ({"from": "x"}, True),
        ({"from": "y"}, False),
    ):
        proof = capability.fixed(capability.read({"max.size": 0, **wire}), wire)
        assert (capability.derives(claimed, proof) is None) is allowed
        if "from" in wire:
            assert (equal("from")(claimed, proof) is None) is allowed


# Definitions that cannot work


@dataclass
class Thawed:
    size: int


class Plain:
    pass


@dataclass(frozen=True)
class Deep:
    inner: Thawed


@pytest.mark.parametrize(
    "command",
    [
        "",
        "store",
        "*",
        "store/*",
        "/store/add",
        "store/add/",
        "Store/add",
        "a//b",
        "a/b ",
        "a/b\n",
        "a/é",
    ],
)
def test_a_command_is_lower_case_segments(command: str) -> None:
    with pytest.raises(ValueError, match="command"):
        Capability(command)


@pytest.mark.parametrize("kind", [Thawed, Plain, Deep, dict, int, None, Choice])
def test_arguments_are_frozen_dataclasses_or_models(kind: Any) -> None:
    with pytest.raises(TypeError):
        Capability("a/b", kind)


def test_the_subject_is_of_a_known_kind() -> None:
    with pytest.raises(ValueError, match="subject"):
        Capability("a/b", subject="did:web")  # type: ignore[arg-type]


def test_definitions_are_values() -> None:
    assert Capability("a/b", StoreAdd) == Capability("a/b", StoreAdd)
    assert Capability("a/b", StoreAdd) != Capability("a/c", StoreAdd)
    assert OTHER.did != ALICE.did
