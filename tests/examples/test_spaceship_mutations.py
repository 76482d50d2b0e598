"""The ship with one thing broken: the checker finds each, by its shortest trace.

The first eleven are the bugs of the published program that the ship comes from, as far as they can
be written here at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from examples.spaceship import airlock, bay, deck, door, workflow
from examples.spaceship.check import ship
from examples.spaceship.workflow import AIRLOCK, BAY, DECK, DOOR, TRANSACTIONAL
from stmflow import Effect, Guard, Tx, Workflow, perform
from stmflow.check import Check, Report, prove, trace
from stmflow.effect import Perform, Then

Update = Callable[[Any, Any], Any]
Bodies = Mapping[type, Callable[[Tx, Any], Any]]


@dataclass(frozen=True)
class Mutation:
    """What is broken, the property that shows it, and the length of the shortest trace."""

    name: str
    breaks: str
    steps: int
    update: Mapping[Workflow, Callable[[Update], Update]] = field(default_factory=dict)
    pre: Mapping[Workflow, tuple[Guard, ...]] = field(default_factory=dict)
    tasks: Bodies = field(default_factory=dict)
    transactional: Bodies = field(default_factory=dict)
    dropped: tuple[type, ...] = ()

    def of(self, check: Check) -> Check:
        """The check with this broken."""
        workflows = []
        for one in check.workflows:
            twin = copy(one)
            if one in self.update:
                twin.update = self.update[one](one.update)
            twin.pre = self.pre.get(one, one.pre)
            workflows.append(twin)
        transactional = {**check.transactional, **self.transactional}
        for kind in self.dropped:
            del transactional[kind]
        return replace(
            check,
            workflows=workflows,
            tasks={**check.tasks, **self.tasks},
            transactional=transactional,
        )


# --- what is broken -----------------------------------------------------------------------------

COMPLETIONS = (airlock.FinishedPressurising, airlock.FinishedClosingInner)


def without_names(update: Update) -> Update:
    """Every completion event meets a name that does not exist."""

    def broken(event: Any, state: Any) -> Any:
        if isinstance(event, COMPLETIONS):
            raise NameError("FINISHED_PRESSURIZING_STATE")
        return update(event, state)

    return broken


def without_follow(update: Update) -> Update:
    """Compares a state with events, and finds nothing to follow."""

    def broken(event: Any, state: Any) -> Any:
        if isinstance(event, (airlock.FinishedClosingInner, airlock.FinishedClosingOuter)):
            return replace(state, label="closed"), []
        return update(event, state)

    return broken


def always_depressurises(update: Update) -> Update:
    """After the inner door has closed, even towards a friendly bay."""

    def broken(event: Any, state: Any) -> Any:
        if isinstance(event, airlock.FinishedClosingInner):
            return airlock.pump(state, "depressurising")
        return update(event, state)

    return broken


def flips(update: Update) -> Update:
    """Another goal turns the pump, whatever air it needs."""

    def broken(event: Any, state: Any) -> Any:
        if isinstance(event, airlock.AskOuter) and state.label == "pressurising":
            return airlock.pump(replace(state, goal="outer"), "depressurising")
        return update(event, state)

    return broken


def deaf(*kinds: type) -> Callable[[Update], Update]:
    """Does not hear of something."""

    def mutate(update: Update) -> Update:
        return lambda event, state: (
            (state, []) if isinstance(event, kinds) else update(event, state)
        )

    return mutate


def reads_friendly(update: Update) -> Update:
    """What is not known of the bay is taken for friendly."""

    def broken(event: Any, state: Any) -> Any:
        if isinstance(event, airlock.BayUnstable):
            return replace(state, bay="friendly"), []
        return update(event, state)

    return broken


def careless(tx: Tx, task: deck.Step) -> None:
    """Asks for everything at once, and does not look."""
    relaxed, active = task.goal == "relaxed", task.goal == "active"
    air = (bay.FriendlyRequested if relaxed else bay.HostileRequested)(task.ship)
    gate = (door.OpenRequested if active else door.CloseRequested)(task.ship)
    asked = tx.apply(BAY.job(task.ship), air), tx.apply(DOOR.job(task.ship), gate)
    if all(verdict.kind != "committed" for verdict in asked):
        tx.retry()


def at_will(event: Any, state: Any, read: Any) -> Any:
    """Answers whether it may be, not why it may not."""
    if isinstance(event, airlock.AskOuter):
        return workflow.calm(event, state, read) is None
    return None


def nothing(tx: Tx, task: Any) -> None:
    """Is done at once."""


def nameless(update: Update) -> Update:
    """What is started withdraws nothing."""

    def broken(event: Any, state: Any) -> Any:
        answer = update(event, state)
        if type(answer) is not tuple:
            return answer
        return answer[0], [unnamed(effect) for effect in answer[1]]

    return broken


def unnamed(effect: Effect) -> Effect:
    match effect:
        case Then(Perform(task, str()), event):
            return perform(task).then(event)
        case Perform(task, str()):
            return perform(task)
    return effect


def all_shut(event: Any, state: Any, read: Any) -> str | None:
    """Refuses air also while an outer door is open, where the ship sends everybody inside."""
    if not isinstance(event, bay.FriendlyRequested):
        return None
    open_ = any(read(AIRLOCK.job(event.ship, each)).outside for each in state.airlocks)
    return workflow.shut(event, state, read) or ("OuterOpen" if open_ else None)


P1 = "P1 where an outer door is not closed, the chamber is as the bay"
R2 = "R2 where the bay door is not closed, the bay is hostile"
R4 = "R4 while the bay changes, every outer door is closed or closing"
H1 = "H1 to ask to go out while bay or deck change does nothing"
KNOWS = "every airlock knows of the bay what is so"
WAITS = "no airlock waits while the bay is stable"
PUMP = "a pump starts only for the air that is needed"
FAILS = "no task is parked, and no reducer fails"
IMPOSSIBLE = "no impossible cell is reached"
RELAXES = "the deck becomes relaxed, or its goal is replaced"

MUTATIONS = [
    Mutation("1 a completion raises", FAILS, 3, update={AIRLOCK: without_names}),
    Mutation("2 follow looks at the wrong thing", WAITS, 3, update={AIRLOCK: without_follow}),
    Mutation("3 a press counts although it is vetoed", H1, 2, pre={AIRLOCK: ()}),
    Mutation("4 always depressurises", PUMP, 3, update={AIRLOCK: always_depressurises}),
    Mutation("5 another goal flips the pump", PUMP, 13, update={AIRLOCK: flips}),
    Mutation(
        "6 an airlock hears nothing of the bay",
        R4,
        5,
        update={AIRLOCK: deaf(airlock.BayUnstable, airlock.BayStable, airlock.BayLeak)},
    ),
    Mutation(
        "7 the deck hears no leak",
        "D relaxed: door and bay are so",
        1,
        update={DECK: deaf(deck.Leaked)},
    ),
    Mutation(
        "8 air may be let in with the door open", R2, 5, pre={BAY: ()}, tasks={deck.Step: careless}
    ),
    Mutation("9 a missing sensor reads as friendly", R4, 5, update={AIRLOCK: reads_friendly}),
    Mutation("10 a hook that answers no text", FAILS, 1, pre={AIRLOCK: (Guard("calm", at_will),)}),
    Mutation(
        "11 the machines are right, their joint is late",
        P1,
        4,
        tasks=TRANSACTIONAL,
        dropped=(bay.Announce,),
    ),
    Mutation("no interlock", P1, 6, tasks={bay.Interlock: nothing}),
    Mutation("an airlock hears no leak", P1, 4, update={AIRLOCK: deaf(airlock.BayLeak)}),
    Mutation(
        "an airlock does not hear that the bay is stable",
        KNOWS,
        4,
        update={AIRLOCK: deaf(airlock.BayStable)},
    ),
    Mutation("the bay door opens into air", R2, 2, pre={DOOR: ()}, tasks={deck.Step: careless}),
    Mutation(
        "an airlock's motor goes on after it was turned", IMPOSSIBLE, 4, update={AIRLOCK: nameless}
    ),
    Mutation(
        "the door's motor goes on after it was turned", IMPOSSIBLE, 7, update={DOOR: nameless}
    ),
    Mutation("the pump goes on after it was turned", IMPOSSIBLE, 4, update={BAY: nameless}),
    Mutation(
        "a mode is reached unseen", "D active: door and bay are so", 2, tasks={deck.Await: nothing}
    ),
    Mutation(
        "orders of a goal that was replaced",
        IMPOSSIBLE,
        4,
        update={DECK: nameless},
    ),
    Mutation(
        "air is refused while an outer door is open",
        RELAXES,
        10,
        pre={BAY: (Guard("all shut", all_shut),)},
        tasks={deck.Evacuate: nothing},
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_is_broken_is_found(mutation: Mutation) -> None:
    report = found(mutation)
    wrong = report.wrong[0]
    assert (wrong.property, len(trace.steps(report.graph, wrong))) == (
        mutation.breaks,
        mutation.steps,
    )


def found(mutation: Mutation) -> Report:
    """What the checker finds against that one property; others may be broken sooner."""
    check = mutation.of(ship("a broken ship", ["A"]))
    asked = [one for one in check.properties if one.name == mutation.breaks]
    return prove(replace(check, properties=asked))


CALM = Mutation("buttons are not vetoed", "", 0, pre={AIRLOCK: ()})
HASTY = Mutation("the deck asks without looking", "", 0, tasks={deck.Step: careless})
LEFT = Mutation("nobody is called inside", "", 0, tasks={deck.Evacuate: nothing})


@pytest.mark.parametrize("mutation", [CALM, HASTY, LEFT], ids=lambda mutation: mutation.name)
def test_courtesies_are_no_part_of_what_is_safe(mutation: Mutation) -> None:
    check = mutation.of(ship("an impolite ship", ["A"], orders=1, leaks=0))
    report = prove(replace(check, properties=[p for p in check.properties if p.name != H1]))
    assert (report.wrong, report.unreached) == ([], [])
