"""Charts drawn at random: what holds of every chart, whatever its shape."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from stmflow import Err
from stmflow.errors import InvalidWorkflow
from stmflow.statechart import Chart, Go, History, Invoke, Parallel, State, mermaid, table
from stmflow.statechart.scxml import read, write
from stmflow.testing import Trace


@dataclass(frozen=True, slots=True)
class Nothing:
    pass


@dataclass(frozen=True, slots=True)
class E0:
    pass


@dataclass(frozen=True, slots=True)
class E1:
    pass


@dataclass(frozen=True, slots=True)
class Over:
    pass


@dataclass(frozen=True, slots=True)
class Broken:
    error: Err


@dataclass(frozen=True, slots=True)
class Work:
    state: str


EVENTS = (E0, E1)
NAMES = [f"s{n}" for n in range(9)]


def state(draw: Random, names: list[str], depth: int) -> State:
    """A state of the next name, with children of the names after it; targets are any of them."""
    name = names.pop(0)
    events = draw.sample([*EVENTS, Over, Broken], draw.randint(0, 3))
    how: dict[str, Any] = {
        "on": {one: Go(draw.choice(NAMES), internal=draw.random() < 0.3) for one in events}
    }
    if draw.random() < 0.4:
        how["invoke"] = Invoke(lambda: Work(name), Over, Broken)
    if draw.random() < 0.4:
        how["after"] = {timedelta(seconds=1): draw.choice(NAMES)}
    if draw.random() < 0.1:
        how["always"] = draw.choice(NAMES)
    count = min(draw.randint(0, 3), len(names)) if depth < 3 else 0
    children = [state(draw, names, depth + 1) for _ in range(count) if names]
    kind = Parallel if children and draw.random() < 0.4 else State
    if children and draw.random() < 0.5:
        default, deep = children[0].name, draw.random() < 0.5
        children.append(History(f"{name}-was", default=default, deep=deep))
    return kind(name, children, **how)


def chart(draw: Random) -> Chart:
    """One that is not refused; most are, for a target that is none or eventless cells."""
    while True:
        names = list(NAMES)
        tops = [state(draw, names, 0) for _ in range(2) if names]
        try:
            return Chart(
                "any",
                data=Nothing,
                start=lambda event: Nothing(),
                events=(*EVENTS, Over, Broken),
                outside=EVENTS,
                begin=EVENTS,
                tasks=(Work,),
                states=tops,
            )
        except InvalidWorkflow:
            continue


@pytest.mark.parametrize("seed", range(25))
def test_what_holds_of_every_chart(seed: int) -> None:
    """One leaf in each region; tasks and timers are those of active states, no more and no fewer;
    it can be shown, and written and read again."""
    draw = Random(seed)
    made = chart(draw)
    legal = set(made.configurations())
    trace = Trace(made.workflow).send(E0())
    for _ in range(8):
        step(trace, draw)
        assert trace.state.active in legal
        active = {name for name in made.tree.by_name if name and made.inside(trace.state, name)}
        waiting = {name for name in active if made.tree[name].timers}
        assert {str(timer.name).split(".")[1] for timer in trace.timers} == waiting
        assert {task.state for task in trace.ready} <= active
    assert table(made).count("\n") >= 3
    assert mermaid(made).count("{") == mermaid(made).count("}")
    assert read(write(made), strict=False).configurations() == made.configurations()


def step(trace: Trace, draw: Random) -> None:
    match draw.randint(0, 4):
        case 0:
            trace.pass_time(seconds=1)
        case 1 if trace.ready:
            trace.succeed(draw.choice(trace.ready))
        case 2 if trace.ready:
            trace.fail(draw.choice(trace.ready), "Broken")
        case _:
            trace.send(draw.choice(EVENTS)())
