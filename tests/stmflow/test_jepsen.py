"""Histories travel as JSON lines, and as what Elle and Knossos read; bad ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stmflow.errors import MalformedHistory
from stmflow.testing import elle
from stmflow.testing.graph import Transaction as T
from stmflow.testing.graph import check_graph
from stmflow.testing.jepsen import dumps, loads
from stmflow.testing.microops import check_microops
from stmflow.testing.observed import check_history


def line(kind: str, process: int, value: Any, **more: Any) -> dict[str, Any]:
    return {"process": process, "type": kind, "f": "txn", "value": value, **more}


HISTORY = [
    line("invoke", 0, [["r", "x", None], ["w", "x", 1]], time=0.25),
    line("ok", 0, [["r", "x", None], ["w", "x", 1]], time=0.5),
    line("invoke", 1, [["r", "x", None]], time=1.0),
    line("info", 1, None, time=1.5),
]


def kinds(history: list[dict[str, Any]]) -> list[str]:
    return [one.kind for one in check_microops(history)]


# --- lines


def test_a_history_comes_back_as_it_was_written() -> None:
    text = dumps(HISTORY)
    read = loads(text)
    assert [one["index"] for one in read] == [0, 1, 2, 3]
    assert [one["time"] for one in read] == [250_000_000, 500_000_000, 1_000_000_000, 1_500_000_000]
    assert [{**one, "time": 0} for one in HISTORY] == [
        {k: 0 if k == "time" else v for k, v in one.items() if k != "index"} for one in read
    ]
    assert dumps(read) == text
    assert loads(json.dumps(read)) == read, "one JSON array, as elle-cli takes it"


def test_an_empty_history_is_a_history() -> None:
    assert loads("") == loads("\n") == loads("[]") == []
    assert check_history([]) == []


def test_what_a_nemesis_did_is_no_operation() -> None:
    assert loads('{"process": "nemesis", "type": "info", "f": "kill"}') == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ('{"process": 0, "type": "invoke"}\n{"process"', "line 2 is no JSON"),
        ("7", "line 1 is no operation"),
        ('{"process": 0}', "line 1: type is None"),
        ('{"type": "ok"}', "line 1 has no process"),
        ('{"process": 0, "type": "ok", "f": "read"}', "line 1 has no job"),
        ('{"process": 0, "type": "ok", "f": "read", "job": 1}', "line 1: job is 1"),
        ('{"process": 0, "type": "ok", "job": "a", "f": "read", "revision": "r"}', "no seq"),
        ('{"process": 0, "type": "ok", "index": 3}\n' * 2, "line 2: index 3 after 3"),
    ],
)
def test_a_bad_line_is_named(text: str, says: str) -> None:
    with pytest.raises(MalformedHistory, match=says):
        loads(text)


@pytest.mark.parametrize(
    "value", [7, [["r", "x"]], [["cas", "x", 1]], [["w", "x", [1]]], [["w", {}, 1]], [[]], "r"]
)
def test_a_value_that_is_no_list_of_micro_operations_is_refused(value: Any) -> None:
    with pytest.raises(MalformedHistory):
        check_microops([line("invoke", 0, []), line("ok", 0, value)])


def test_a_process_does_one_thing_at_a_time() -> None:
    with pytest.raises(MalformedHistory, match="two operations"):
        check_microops([line("invoke", 0, []), line("invoke", 0, [])])


# --- registers


def done(*values: Any) -> list[dict[str, Any]]:
    """Transactions one after the other."""
    return [line(kind, n, value) for n, value in enumerate(values) for kind in ("invoke", "ok")]


def at_once(*values: Any) -> list[dict[str, Any]]:
    """Transactions that overlap."""
    begun = [line("invoke", n, value) for n, value in enumerate(values)]
    return begun + [line("ok", n, value) for n, value in enumerate(values)]


def test_a_serial_history_of_registers_passes() -> None:
    assert kinds(done([["r", "x", None], ["w", "x", 1]], [["r", "x", 1], ["w", "x", 2]])) == []
    assert kinds(at_once([["w", "x", 1]], [["r", "x", 1]], [["r", "x", None]])) == []


@pytest.mark.parametrize(
    ("kind", "history"),
    [
        ("G-single-realtime", done([["r", "x", None], ["w", "x", 1]], [["r", "x", None]])),
        ("G1a", done([["r", "x", 7]])),
        ("internal", done([["w", "x", 1], ["r", "x", 2]])),
        (
            "lost-update",
            at_once([["r", "x", None], ["w", "x", 1]], [["r", "x", None], ["w", "x", 2]]),
        ),
        (
            "G2-item",
            at_once(
                [["r", "x", None], ["r", "y", None], ["w", "x", 1]],
                [["r", "x", None], ["r", "y", None], ["w", "y", 1]],
            ),
        ),
        ("G1b", at_once([["r", "x", None], ["w", "x", 1], ["w", "x", 2]], [["r", "x", 1]])),
        ("duplicate", at_once([["w", "x", 1]], [["w", "x", 1]])),
        (
            "G1a",
            [line("invoke", 0, [["w", "x", 1]]), line("fail", 0, None), *at_once([["r", "x", 1]])],
        ),
    ],
)
def test_an_anomaly_of_registers_is_told(kind: str, history: list[dict[str, Any]]) -> None:
    assert kind in kinds(history)


def test_a_transaction_of_unknown_fate_counts_if_somebody_saw_it() -> None:
    unknown = [line("invoke", 9, [["w", "x", 1]]), line("info", 9, None)]
    assert kinds([*unknown, *at_once([["r", "x", None]])]) == []
    assert kinds([*unknown, *at_once([["r", "x", 1]])]) == []
    early = done([["r", "x", 1]])
    assert kinds([*early, *unknown]) == ["G1c-realtime"]


# --- lists, as Elle documents them


def test_lists_tell_their_order() -> None:
    """Two appends to one key; a read of the first key's state before the other's."""
    history = at_once(
        [["append", "a", 1], ["append", "b", 1]],
        [["append", "a", 2], ["r", "b", []]],
        [["r", "a", [1, 2]]],
    )
    assert kinds(history) == ["G-single"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("incompatible-order", [[["append", "a", 1]], [["append", "a", 2]],
                                [["r", "a", [1, 2]]], [["r", "a", [2, 1]]]]),
        ("G1a", [[["append", "a", 1]], [["r", "a", [1, 9]]]]),
        ("G0", [[["append", "a", 1], ["append", "b", 2]], [["append", "a", 2], ["append", "b", 1]],
                [["r", "a", [1, 2]], ["r", "b", [1, 2]]]]),
        ("G1b", [[["append", "a", 1], ["append", "a", 2]], [["r", "a", [1]]],
                 [["r", "a", [1, 2]]]]),
        ("G1c", [[["append", "a", 1], ["r", "b", [1]]], [["append", "b", 1], ["r", "a", [1]]]]),
        ("G2-item", [[["r", "a", []], ["append", "b", 1]], [["r", "b", []], ["append", "a", 1]],
                     [["r", "a", [1]], ["r", "b", [1]]]]),
    ],
)  # fmt: skip
def test_an_anomaly_of_lists_is_told(kind: str, values: list[Any]) -> None:
    assert kind in kinds(at_once(*values))


# --- for Elle and Knossos

SKEW = [
    T("birth", (), [("x", "r0", None), ("y", "r0", None)], 0, 1),
    T("a", [("y", "r0")], [("x", "ra", "r0")], 2, 5),
    T("b", [("x", "r0")], [("y", "rb", "r0")], 3, 6),
    T("timer", (), [("x", "rt", "ra")]),
    T("read", [("x", "ra")], (), 7, 8),
]


def test_what_is_written_for_elle_is_the_same_history() -> None:
    history = elle.list_append(SKEW)
    assert loads(elle.dumps(history)) == history
    assert [one["index"] for one in history] == list(range(10))
    assert {one["f"] for one in history} == {"txn"}
    read = next(one for one in history if one["process"] == 4 and one["type"] == "ok")
    assert read["value"] == [["r", "x", [1, 2]]]
    told = [one.kind for one in check_graph(SKEW)]
    assert told == kinds(history) == ["G2-item"]


def test_what_is_written_for_knossos_compares_and_sets() -> None:
    history = elle.cas_register(SKEW, "x")
    told = [(one["f"], one["value"]) for one in history if one["type"] == "ok"]
    assert ("cas", [None, 1]) in told
    assert ("cas", [1, 2]) in told
    assert ("read", 2) in told
    assert [one["value"] for one in history if one["type"] == "invoke" and one["f"] == "read"] == [
        None, None
    ]  # fmt: skip


# --- the command


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    from stmflow.testing.__main__ import main

    code = main(["check", *words])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(dumps(done([["r", "x", None], ["w", "x", 1]])))
    assert command(capsys, str(file)) == (0, f"{file}: 1 operations, no anomaly\n")
    file.write_text(dumps(done([["r", "x", None], ["w", "x", 1]], [["r", "x", None]])))
    code, told = command(capsys, str(file))
    assert code == 1
    assert told.startswith("G-single-realtime: no order of 2 transactions")
    file.write_text("nonsense")
    assert command(capsys, str(file))[0] == 2
    assert command(capsys, str(tmp_path / "none"))[0] == 2
    file.write_text("")
    code, told = command(capsys, str(file), "--database", str(tmp_path / "none.db"))
    assert (code, "none.db" in told) == (2, True)


def test_an_empty_history_alone_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("")
    assert command(capsys, str(file)) == (2, f"{file}: no operation\n")
