"""The campaign gives slices out fairly, ends when it should, and forgives nothing."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.campaign import __main__ as campaign
from tests.campaign import lane
from tests.campaign.lane import Slice
from tests.campaign.part import Part, Violation
from tests.campaign.parts import PARTS


@contextmanager
def _open(folder: Path) -> Iterator[Any]:
    def step(number: int) -> dict[str, int]:
        if number == 7:
            raise Violation("seven")
        return {"things": 2}

    assert not any(folder.iterdir())
    yield step


def part(name: str, **how: Any) -> Part:
    return Part(name, "P1", "things", how.pop("gate", 10), _open, **how)


def planned(parts: list[Part], **how: Any) -> campaign.Campaign:
    options = Namespace(gate=False, share=1.0, whole=[], slices=None, minutes=1e9, first=0)
    vars(options).update(how)
    return campaign.Campaign(options, [campaign.Ledger(one) for one in parts])


def test_time_is_shared_as_the_parts_say() -> None:
    plan = planned([part("slow", share=1), part("quick", share=3)])
    for _ in range(80):
        asked = plan.next()
        assert asked is not None
        plan.note(Slice(*asked, seconds=2.0 if asked[0] == "slow" else 1.0, counts={"things": 1}))
    seconds = {name: ledger.seconds for name, ledger in plan.ledgers.items()}
    assert seconds["quick"] == pytest.approx(3 * seconds["slow"], rel=0.1)


def test_the_gate_ends_when_each_part_has_what_is_asked_and_not_before() -> None:
    plan = planned([part("a", gate=10), part("b", gate=3)], gate=True)
    running = []
    for _ in range(100):
        while len(running) < 2 and (asked := plan.next()) is not None:
            running.append(asked)
        if not running:
            break
        plan.note(Slice(*running.pop(0), seconds=1.0, counts={"things": 2}))
    done = {name: ledger.done for name, ledger in plan.ledgers.items()}
    assert 10 <= done["a"] <= 14
    assert 3 <= done["b"] <= 6


def test_what_is_to_be_whole_is_not_shared() -> None:
    plan = planned([part("a"), part("seeds, b")], gate=True, share=0.3, whole=["seeds"])
    while (asked := plan.next()) is not None:
        plan.note(Slice(*asked, seconds=1.0, counts={"things": 2}))
    assert {name: ledger.done for name, ledger in plan.ledgers.items()} == {"a": 4, "seeds, b": 10}


def test_a_share_of_the_gate_is_less_of_everything() -> None:
    plan = planned([part("a", gate=10)], gate=True, share=0.3)
    while (asked := plan.next()) is not None:
        plan.note(Slice(*asked, seconds=1.0, counts={"things": 1}))
    assert plan.ledgers["a"].done == 3


def test_a_part_that_is_for_one_process_is_never_given_twice() -> None:
    plan = planned([part("alone", both=False)])
    asked = plan.next()
    assert asked == ("alone", 0)
    assert plan.next() is None
    plan.note(Slice("alone", 0, 1.0))
    assert plan.next() == ("alone", 1)


def test_a_part_that_keeps_failing_is_not_run_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned([part("bad")])
    while (asked := plan.next()) is not None:
        plan.note(Slice(*asked, seconds=1.0, violation="lost"))
    assert plan.ledgers["bad"].slices == campaign.FORGIVEN
    assert '--only "bad" --first 2 --slices 1\nlost' in capsys.readouterr().out


class Pipe:
    """Both ends of a lane's pipe in one."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked
        self.told: list[Slice] = []

    def recv(self) -> Any:
        return self.asked.pop(0)

    def send(self, slice: Slice) -> None:
        self.told.append(slice)


def test_a_lane_opens_a_part_once_and_goes_on_after_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "PARTS", [part("one")])
    monkeypatch.setattr(lane.signal, "signal", lambda *_: None)
    pipe: Any = Pipe([("one", 1), ("one", 7), ("one", 2), None])
    lane.serve(pipe)
    assert [told.counts for told in pipe.told] == [{"things": 2}, {}, {"things": 2}]
    assert "Violation: seven" in pipe.told[1].violation


def test_a_lane_that_dies_is_a_violation_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "serve", _die)
    first = campaign.Lane()
    first.ask("one", 3)
    told = first.told()
    assert (told.part, told.number) == ("one", 3)
    assert "ended with 9" in str(told.violation)
    monkeypatch.undo()
    first.ends.close()


def _die(ends: Any) -> None:
    ends.recv()
    os._exit(9)


def test_names_are_one_parts_own_and_each_is_asked_for_something() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    assert all(part.gate > 0 and part.share > 0 and part.promises for part in PARTS)


def test_a_campaign_of_one_slice_says_what_it_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["--only", "seeds, memory", "--slices", "1", "--first", "0"]) == 0
    printed = capsys.readouterr().out
    assert "seeds, memory" in printed
    assert "20 seeds" in printed


def test_a_part_that_does_not_exist_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        campaign.main(["--only", "sheep"])
    assert error.value.code == 2
    assert "seeds, memory" in capsys.readouterr().err
