"""Checks without time: what goes round by timers is a circle. And checks of several versions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from stmflow import At, Tx, Workflow, reject, same, sleep
from stmflow.check import (
    Check,
    Faults,
    Send,
    Transact,
    View,
    always,
    eventually,
    explore,
    prove,
    replay,
    sometimes,
    words,
)
from stmflow.errors import InvalidWorkflow
from tests.stmflow.versions import ONE, TWO, File1, File2, Grow1, Open


@dataclass(frozen=True)
class Sleepy:
    name: str
    status: str = "asleep"


@dataclass(frozen=True)
class Doze:
    name: str


@dataclass(frozen=True)
class Rang:
    pass


@dataclass(frozen=True)
class Light:
    pass


@dataclass(frozen=True)
class Told:
    at: At


def bell() -> Any:
    return sleep(for_=timedelta(milliseconds=9), name="bell").then(Rang)


def dawn() -> Any:
    return sleep(for_=timedelta(days=1), name="dawn").then(Light)


def snoozes(event: Any, state: Sleepy | None) -> Any:
    match event:
        case Doze(name):
            return reject("Asleep") if state else (Sleepy(name), [bell(), dawn()])
        case Rang():
            return same(bell())
    return Sleepy("a", "awake"), ()


def sleepy(update: Any = snoozes, **how: Any) -> Check:
    workflow = Workflow(
        "sleepy",
        state=Sleepy,
        events=(Doze, Rang, Light),
        outside=(Doze,),
        update=update,
        key=("name",),
        tag="status",
    )
    given: dict[str, Any] = {"timeless": True, "properties": [eventually("it wakes", awake)]}
    return Check([workflow], sends=[Send(Doze("a"), fair=True)], **(given | how))


def awake(view: View) -> bool:
    return any(one.status == "awake" for one in view.states("sleepy").values())


def test_a_timer_that_is_set_again_and_again_is_a_circle() -> None:
    assert not explore(sleepy(timeless=False), limit=1_000).whole
    report = prove(sleepy())
    assert (report.holds, len(report.graph.states)) == (True, 4)
    assert {state[0] for state in report.graph.states} == {0}


async def test_a_circle_that_is_fair_is_found_and_the_engine_goes_round_it() -> None:
    def never(event: Any, state: Any) -> Any:
        return same(bell(), dawn()) if isinstance(event, Light) else snoozes(event, state)

    report = prove(sleepy(never))
    (wrong,) = report.wrong
    played = await replay(report.check, words(report.graph, wrong))
    assert played.breaks("it wakes")


def test_what_tells_the_time_has_none_to_tell() -> None:
    check = sleepy()
    workflow = Workflow("clock", state=Sleepy, events=(Told,), update=snoozes)
    for other in (
        replace(check, workflows=[*check.workflows, workflow]),
        replace(check, faults=Faults(overdue=True)),
    ):
        with pytest.raises(InvalidWorkflow, match="without time"):
            explore(other)


# --- several versions ---------------------------------------------------------------------------

A = ONE.job("a")


def versions(born: int) -> Check:
    """Jobs that are born at that version, grow, and are moved from one to the other."""

    def moved(to: int) -> Transact:
        def move(tx: Tx) -> None:
            if tx.read(A) is not None:
                tx.adopt(A, to)

        return Transact(f"to version {to}", move, None)

    def stays(view: View) -> bool:
        state = view.state(A)
        return state is None or (state.octets if isinstance(state, File2) else state.size) <= 3

    return Check(
        [ONE, TWO],
        sends=[Send(Open("a")), Send(Grow1("a", 3))],
        transactions=[moved(1), moved(2)],
        chooser=lambda tx, job: born,
        properties=[
            always("it grows once", stays),
            sometimes("version 1", lambda v: isinstance(v.state(A), File1)),
            sometimes("version 2", lambda v: isinstance(v.state(A), File2)),
        ],
    )


@pytest.mark.parametrize("born", [1, 2])
async def test_a_job_is_run_by_the_version_that_it_is_on(born: int) -> None:
    report = prove(versions(born))
    assert (report.holds, report.vacuous, len(report.graph.states)) == (True, [], 5)
    first = report.graph.machine.locals[1]
    assert first is not None
    assert first.head.version == born
    wrong = always("it never is on the other", lambda v: not _other(v.state(A), born))
    broken = replace(versions(born), properties=[wrong])
    report = prove(broken)
    lines = words(report.graph, report.wrong[0])
    assert lines == [
        "send file: Open(name='a')  committed",
        f"transact: to version {3 - born}  committed",
    ]
    assert (await replay(broken, lines)).breaks("it never is on the other")


def _other(state: Any, born: int) -> bool:
    return isinstance(state, File2 if born == 1 else File1)
