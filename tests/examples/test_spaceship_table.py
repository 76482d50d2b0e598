"""Every cell of the ship's four tables, as its README has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, get_args

import pytest

from examples.spaceship import airlock, bay, deck, door
from examples.spaceship.workflow import AIRLOCK, BAY, DECK, DOOR
from stmflow import Effect, Workflow
from stmflow.effect import Cancel, Plan
from stmflow.schema import tag_of
from stmflow.workflow import Ignore, Impossible, Reject, Same
from tests.examples.test_spaceship_mutations import MUTATIONS
from tests.project import ROOT

SHIP, NAMES = "s", ("A",)


@dataclass(frozen=True)
class Table:
    """A workflow, every kind of state that it can be in, and its events in the order of columns."""

    workflow: Workflow
    states: list[Any]
    events: list[Any]

    @property
    def columns(self) -> list[str]:
        return ["state", *(tag_of(type(event)).split("/")[1] for event in self.events)]

    def rows(self) -> Iterator[list[str]]:
        tags = dict.fromkeys(self.workflow.tag_of(state) for state in self.states)
        for tag in tags:
            states = [state for state in self.states if self.workflow.tag_of(state) == tag]
            yield [tag, *(self.cell(states, event) for event in self.events)]

    def cell(self, states: list[Any], event: Any) -> str:
        return " · ".join(dict.fromkeys(self.answer(event, state) for state in states))

    def answer(self, event: Any, state: Any) -> str:
        match self.workflow.update(event, state):
            case Impossible():
                return "‼"
            case Ignore():
                return "~"
            case Reject(code):
                return f"R:{code}"
            case Same(effects):
                return " ".join(["=", *asked(effects)])
            case after, effects:
                return " ".join([self.moved(state, after), *asked(effects)])
        raise AssertionError("no answer")

    def moved(self, before: Any, after: Any) -> str:
        if self.workflow.tag_of(before) != self.workflow.tag_of(after):
            return f"→{self.workflow.tag_of(after)}"
        changes = [
            f"{each.name} {getattr(after, each.name)}"
            for each in fields(after)
            if each.name != "bay"  # follows the column
            if getattr(before, each.name) != getattr(after, each.name)
        ]
        return ", ".join(changes) or "="


def asked(effects: Any) -> list[str]:
    """What a cell asks for beside motors and pumps, which its next state tells."""
    names = [name for effect in effects for name in names_of(effect)]
    return [f"[{', '.join(names)}]"] if names else []


def names_of(effect: Effect) -> Iterator[str]:
    if isinstance(effect, Cancel):
        return
    for leaf in Plan(effect).leaves:
        tag = tag_of(type(leaf.task))  # type: ignore[union-attr]
        if not tag.endswith(("/swing", "/pump")):
            yield tag.split("/")[1]


def locks() -> Iterator[airlock.Airlock]:
    """Every airlock that the rules allow."""
    for label, chamber, goal, air in product(
        get_args(airlock.Label),
        ("friendly", "hostile"),
        ("inner", "outer"),
        ("friendly", "hostile", "unstable"),
    ):
        lock = airlock.Airlock(SHIP, "A", label, chamber, goal, air)
        if lock.inside and chamber == "hostile":
            continue
        if lock.outside and air not in (chamber, "unstable"):
            continue
        if label in ("opening outer", "outer open") and (goal == "inner" or air == "unstable"):
            continue
        if label in ("opening inner", "inner open") and goal == "outer":
            continue
        if label == "closing outer" and air == "unstable" and goal == "outer":
            continue
        if label == "closed" and (goal == "inner" or air != "unstable"):
            continue  # it would not stay so
        yield lock


TABLES = [
    Table(
        DOOR,
        [door.Door(SHIP, label) for label in get_args(door.Label)],
        [
            door.OpenRequested(SHIP),
            door.CloseRequested(SHIP),
            door.FinishedOpening(),
            door.FinishedClosing(),
        ],
    ),
    Table(
        BAY,
        [bay.Bay(SHIP, NAMES, label) for label in get_args(bay.Label)],
        [
            bay.FriendlyRequested(SHIP),
            bay.HostileRequested(SHIP),
            bay.Leak(SHIP),
            bay.Sealed(),
            bay.FinishedPressurising(),
            bay.FinishedHeating(),
            bay.FinishedDepressurising(),
        ],
    ),
    Table(
        AIRLOCK,
        sorted(locks(), key=lambda lock: get_args(airlock.Label).index(lock.label)),
        [
            airlock.AskOuter(SHIP, "A"),
            airlock.AskInner(SHIP, "A"),
            airlock.FinishedPressurising(),
            airlock.FinishedDepressurising(),
            airlock.FinishedOpeningOuter(),
            airlock.FinishedOpeningInner(),
            airlock.FinishedClosingOuter(),
            airlock.FinishedClosingInner(),
            airlock.BayUnstable(),
            airlock.BayStable("friendly"),
            airlock.BayStable("hostile"),
            airlock.BayLeak(),
        ],
    ),
    Table(
        DECK,
        [deck.Deck(SHIP, NAMES, label) for label in get_args(deck.Label)],
        [
            deck.ActiveRequested(SHIP),
            deck.ReadyRequested(SHIP),
            deck.RelaxedRequested(SHIP),
            deck.Stepped(),
            deck.NowActive(),
            deck.NowReady(),
            deck.NowRelaxed(),
            deck.Leaked(),
        ],
    ),
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.workflow.name)
def test_the_readme_has_the_table(table: Table) -> None:
    text = (ROOT / "examples/spaceship/README.md").read_text()
    assert markdown(table) in text


def markdown(table: Table) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_readme_has_every_mutation() -> None:
    text = (ROOT / "examples/spaceship/README.md").read_text()
    rows = [f"| {one.name} | {one.breaks} | {one.steps} |" for one in MUTATIONS]
    assert "\n".join(rows) in text
