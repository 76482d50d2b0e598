"""Needs and labels: what they can say, what is refused, and who meets them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmflow.errors import InvalidWorkflow
from stmflow.limits import LIMITS
from stmflow.placement import check_labels, check_needs, meets, needs_of, placed, plain

KIND = ("work", 1, "Stat")
texts = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=9)
names = st.from_regex(r"[a-z]([a-z./-]{0,5}[a-z])?", fullmatch=True)
versions = st.lists(st.integers(0, 12), min_size=1, max_size=3).map(lambda v: ".".join(map(str, v)))


@pytest.mark.parametrize(
    ("label", "need", "met"),
    [
        ("photos", "photos", True),
        ("photos", "films", False),
        ("ssd", {"ssd", "nvme"}, True),
        ("disk", ["ssd", "nvme"], False),
        ("2", ">=2", True),
        ("2.0", "=2", True),
        ("2.10", ">2.9", True),
        ("2.9", ">=2.10", False),
        ("1.9.9", ">= 2", False),
        ("3", ">=2, <3", False),
        ("2.99", ">=2,<3", True),
        ("2", "<=2.0.0", True),
        ("0", "<=0", True),
        ("newest", ">=2", False),
        ("2", "2.0", False),
    ],
)
def test_a_label_meets_a_need_or_does_not(label: str, need: Any, met: bool) -> None:
    checked = check_needs({"it": need})
    assert meets({"it": label, "else": "x"}, checked) is met
    assert not meets({"else": label}, checked)
    assert meets({}, {})


def test_every_need_has_to_be_met() -> None:
    needs = check_needs({"bucket": "photos", "disk": {"ssd", "nvme"}})
    assert meets({"bucket": "photos", "disk": "ssd"}, needs)
    assert not meets({"bucket": "photos", "disk": "tape"}, needs)
    assert not meets({"bucket": "photos"}, needs)


@pytest.mark.parametrize(
    "need",
    [
        *("~2", "^1", "!=2", "==2", "=>2", ">", ">=x", ">=2,", ">=2;<3", ">=1.2-rc", "< 2 3"),
        *("<0", ">=3,<2", ">2,<2", ">2,<=2", "=2,=3", "=2,>2", "<1,=1"),
        *("", "\n", set(), [], {"ssd", ""}, {">=2"}, {"a": "b"}, 2, None, b"ssd", [2]),
    ],
)
def test_a_need_that_makes_no_sense_is_refused(need: Any) -> None:
    with pytest.raises(InvalidWorkflow, match="it"):
        check_needs({"it": need})


@pytest.mark.parametrize("name", ["", "a b", "-a", "a=", "ä", "a\n", 3, ".a", "a/"])
def test_a_label_has_a_plain_name(name: Any) -> None:
    for check in (check_needs, check_labels):
        with pytest.raises(InvalidWorkflow):
            check({name: "x"})


@pytest.mark.parametrize("text", ["", ">2", "=2", "a\x00", 5, None])
def test_a_label_has_a_text_that_is_no_comparison(text: Any) -> None:
    with pytest.raises(InvalidWorkflow):
        check_labels({"it": text})


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_labels_and_needs_are_bounded(more: int) -> None:
    def allowed(check: Any, given: Any) -> None:
        if more <= 0:
            check(given)
        else:
            with pytest.raises(InvalidWorkflow):
                check(given)

    many = {f"n{n}": "x" for n in range(LIMITS.labels + more)}
    allowed(check_labels, many)
    allowed(check_needs, many)
    long = "é" * (LIMITS.label_bytes // 2 - 1) + "x" * (2 + more)
    allowed(check_labels, {"it": long})
    allowed(check_needs, {"it": long})
    allowed(check_labels, {"x" * (LIMITS.label_bytes + more): "it"})
    allowed(check_needs, {"it": {str(n) for n in range(LIMITS.need_texts + more)}})
    told = len('Stat {"a":"","b":"","c":"","d":""}')
    room = LIMITS.placed_tag_bytes + more - told
    texts = ["x" * (room // 4 + (n < room % 4)) for n in range(4)]
    allowed(lambda needs: placed(KIND, needs), dict(zip("abcd", texts, strict=True)))


def test_a_placed_kind_states_its_needs_in_one_form() -> None:
    one = placed(KIND, {"disk": {"nvme", "ssd"}, "bucket": ["photos"], "agent": ">= 2"})
    assert one == ("work", 1, 'Stat {"agent":">=2","bucket":"photos","disk":["nvme","ssd"]}')
    assert plain(one[2]) == plain("Stat") == "Stat"
    assert needs_of("Stat") == {}
    assert placed(KIND, {}) == KIND


@pytest.mark.parametrize("told", ["}", "[]", '"a":5}', '"a":"~1"}', '"a":"1"', '"a":[]}', "5}"])
def test_needs_that_a_row_states_and_nobody_understands_are_refused(told: str) -> None:
    if told == "}":
        assert needs_of("Stat {}") == {}
        return
    with pytest.raises(InvalidWorkflow):
        needs_of("Stat {" + told)


@given(st.dictionaries(names, texts | st.sets(texts, min_size=1, max_size=3), max_size=4))
def test_needs_are_read_back_as_they_were_stated(needs: dict[str, Any]) -> None:
    checked = check_needs(needs)
    assert needs_of(placed(KIND, needs)[2]) == checked == check_needs(checked)
    met = {name: need if isinstance(need, str) else need[0] for name, need in checked.items()}
    assert meets(check_labels(met), checked)


@given(versions, st.sampled_from([">=", "<=", ">", "<", "="]), versions)
def test_versions_compare_as_numbers(label: str, operator: str, than: str) -> None:
    def numbers(text: str) -> list[int]:
        return [*map(int, text.split(".")), 0, 0, 0][:3]

    python = {">=": "__ge__", "<=": "__le__", ">": "__gt__", "<": "__lt__", "=": "__eq__"}
    expected = getattr(numbers(label), python[operator])(numbers(than))
    try:
        needs = check_needs({"v": operator + than})
    except InvalidWorkflow:
        assert (operator, numbers(than)) == ("<", [0, 0, 0])
        return
    assert meets({"v": label}, needs) is expected
