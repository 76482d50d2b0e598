"""`stmflow replay`: the gate as a command, with an exit code for each answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stmflow.cli import exits
from stmflow.workflow import Workflow
from tests.stmflow.cli import sample
from tests.stmflow.cli.conftest import APP, Call, Names

HERE = "tests.stmflow.cli.test_replay"


def _changed(event: Any, state: Any) -> Any:
    answer = sample.order(event, state)
    if isinstance(answer, tuple) and answer[0].status == "refused":
        return dataclasses.replace(answer[0], status="denied"), answer[1]
    return answer


changed = [
    Workflow(
        "order",
        version=2,
        state=sample.Order,
        events=(sample.Ordered, sample.Reserved, sample.Refused),
        outside=(sample.Ordered,),
        tasks=(sample.Reserve, sample.Mark),
        update=_changed,
        key=("space", "number"),
        tag="status",
        upcasts={1: (lambda tag, fields: (tag, fields),) * 2},
    ),
    sample.ORDER,
]


def test_what_does_the_same_passes(call: Call, names: Names) -> None:
    (told,) = call.json("replay", "--all", "--app", APP)
    assert told["passed"]
    assert told["histories"] > 5
    (told,) = call.json("replay", names.order, names.quota, "--app", APP)
    assert (told["histories"], told["divergence"], told["not_rerun"]) == (2, None, None)
    assert "the same" in call("replay", names.order, "--app", APP).stdout


def test_the_first_divergence_is_told_and_has_a_code_of_its_own(call: Call) -> None:
    options = ("replay", "--all", "--workflow", "order", "--app", f"{HERE}:changed")
    (told,) = call.json(*options, code=exits.MISMATCH)
    found = told["divergence"]
    assert not told["passed"]
    assert found["why"] == ['f.status: recorded "refused", now "denied"']
    assert (found["event"], len(found["events"])) == (None, 2)  # asked and refused in one write
    assert found["made"] != found["recorded"]
    text = call(*options, code=exits.MISMATCH).stdout
    assert found["revision"]["/"] in text
    assert "and no further" in text
    call(*options, "--version", "1")


def test_a_sample_is_drawn_by_its_seed(call: Call) -> None:
    options = ("replay", "--all", "--app", APP, "--sample")
    assert call.json(*options, 2)[0]["histories"] == 2
    revisions = {call.json(*options, 1, "--seed", n)[0]["revisions"] for n in range(8)}
    assert len(revisions) > 1


def test_what_cannot_be_run_again_is_no_pass(call: Call, names: Names) -> None:
    (told,) = call.json("replay", names.order, "--app", f"{HERE}:none", code=exits.NOT_RERUN)
    assert not told["passed"]
    assert "no upcast" in told["not_rerun"]["why"]
    text = call("replay", names.order, "--app", f"{HERE}:none", code=exits.NOT_RERUN).stdout
    assert "not re-run" in text


none = [Workflow("order", version=2, state=sample.Order, events=(), update=sample.order)]


def test_files_are_replayed_without_a_database(call: Call, names: Names, tmp_path: Path) -> None:
    car = tmp_path / "orders.car"
    call("export", names.order, names.quota, "-o", car)
    missing = tmp_path / "no.db"
    (told,) = call.json("replay", car, "--app", APP, database=missing)
    assert told["histories"] == 2
    car.write_bytes(car.read_bytes()[:-3])
    call("replay", car, "--app", APP, code=exits.UNUSABLE)
    call("replay", f"{car}.car", "--app", APP, code=exits.NOT_FOUND)


def test_it_wants_either_jobs_or_files_or_all(call: Call, names: Names, tmp_path: Path) -> None:
    (tmp_path / "x.car").touch()
    for wrong in (
        (),
        ("--all", names.order),
        (names.order, tmp_path / "x.car"),
        (names.order, "--sample", 1),
        (names.order, "--workflow", "order"),
    ):
        call("replay", *wrong, "--app", APP, code=exits.USAGE)
    call("replay", names.order, code=exits.USAGE)
