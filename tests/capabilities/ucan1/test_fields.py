"""Commands: what is one, and what lies under which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.ucan1 import fields
from stmflow.errors import MalformedBlock


@pytest.mark.parametrize("command", ["/", "/a", "/store/add", "/a/..", "/a%2fb", "/ѕtore", "/a b"])
def test_a_command_is_a_path_of_names(command: str) -> None:
    fields.check_command(command)


@pytest.mark.parametrize(
    "command",
    ["", "a", "store/add", "//", "/a/", "//a", "/a//b", "/A", "/Store/add", "/É", "a/", " /a"],
)
def test_anything_else_is_malformed(command: str) -> None:
    with pytest.raises(MalformedBlock):
        fields.check_command(command)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [("/", "/"), ("/", "/a"), ("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a/b/c/d"), ("/a", "/a/..")],
)
def test_a_command_covers_itself_and_what_lies_under_it(outer: str, inner: str) -> None:
    assert fields.covers(outer, inner)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("/a", "/"),
        ("/a", "/b"),
        ("/a/b", "/a"),
        ("/a/b", "/b/a"),
        ("/a/b", "/a/b-c"),
        ("/store", "/storehouse"),
        ("/store/add", "/store"),
        ("/store/add", "/store/addition"),
        ("/store", "/ѕtore/add"),
        ("/store", "/%73tore/add"),
        ("/store/list", "/store/../store/list"),
    ],
)
def test_a_command_covers_nothing_else(outer: str, inner: str) -> None:
    assert not fields.covers(outer, inner)


segments = st.lists(st.sampled_from(["a", "b", "ab", ".."]), max_size=4)


@given(segments, segments)
def test_commands_nest_by_segment(outer: list[str], inner: list[str]) -> None:
    expected = inner[: len(outer)] == outer
    assert fields.covers("/" + "/".join(outer), "/" + "/".join(inner)) is expected
