"""What is proved of the ship: the rules of its crew, on the reducers that run in production.

stmflow check examples.spaceship
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from examples.spaceship import airlock, bay, deck, door
from examples.spaceship.workflow import (
    AIRLOCK,
    BAY,
    DECK,
    DOOR,
    NEEDS,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
    build,
)
from stmflow.check import (
    Check,
    Faults,
    Property,
    Send,
    Told,
    View,
    always,
    leads_to,
    sometimes,
    step,
)

SHIP: Final = "ship"
GATE, AIR, MODE = DOOR.job(SHIP), BAY.job(SHIP), DECK.job(SHIP)


def done(task: Any, world: None) -> Iterator[tuple[None, None]]:
    """Motors and pumps come to their end, sooner or later."""
    yield None, None


def holds(view: View, goal: deck.Goal) -> bool:
    return (view.state(GATE).label, view.state(AIR).label) == NEEDS[goal]


def rules(names: Sequence[str]) -> list[Property]:
    locks = [AIRLOCK.job(SHIP, name) for name in names]

    def every(test: Callable[[airlock.Airlock, bay.Bay], bool]) -> Callable[[View], bool]:
        return lambda view: all(test(view.state(job), view.state(AIR)) for job in locks)

    def commanded(before: View, action: Told, after: View) -> bool:
        one, other = before.state(AIR).label, after.state(AIR).label
        return one == other or isinstance(action.by, (bay.Leak, bay.Pump, bay.Interlock, deck.Step))

    def turned(before: View, action: Told, after: View) -> bool:
        """R3: where an outer door has just begun to open, the bay is stable."""
        begun = any(not before.state(job).outside and after.state(job).outside for job in locks)
        return not begun or after.state(AIR).stable

    def vetoed(before: View, action: Told, after: View) -> bool:
        """H1: what is refused is no step at all, so a press that comes to one was not refused."""
        pressed = action.what == "send" and isinstance(action.by, airlock.AskOuter)
        return not pressed or (before.state(AIR).stable and before.state(MODE).calm)

    return [
        step("R1 the bay changes only for the deck, or by a leak", commanded),
        always(
            "R2 where the bay door is not closed, the bay is hostile",
            lambda v: v.state(GATE).label == "closed" or v.state(AIR).label == "hostile",
        ),
        step("R3 no outer door begins to open while the bay changes", turned),
        always(
            "R4 while the bay changes, every outer door is closed or closing",
            every(
                lambda lock, air: air.stable or not lock.outside or lock.label == "closing outer"
            ),
        ),
        always(
            "P1 where an outer door is not closed, the chamber is as the bay",
            every(
                lambda lock, air: (
                    not lock.outside or lock.chamber == air.label.removeprefix("leaving ")
                )
            ),
        ),
        always(
            "P2 where an inner door is not closed, there is air, and the outer one is closed",
            every(lambda lock, air: not lock.inside or lock.chamber == "friendly"),
        ),
        *(
            always(
                f"D{number} {goal}: door and bay are so",
                lambda v, goal=goal: v.state(MODE).label != goal or holds(v, goal),
            )
            for number, goal in enumerate(NEEDS, 1)
        ),
        always(
            "every airlock knows of the bay what is so",
            every(lambda lock, air: lock.bay == (air.label if air.stable else "unstable")),
        ),
        always(
            "no airlock waits while the bay is stable",
            every(
                lambda lock, air: (
                    not (air.stable and lock.label == "closed" and lock.goal == "outer")
                )
            ),
        ),
        step("H1 to ask to go out while bay or deck change does nothing", vetoed),
        *(
            leads_to(
                f"the deck becomes {goal}, or its goal is replaced",
                lambda v, goal=goal: v.state(MODE).label == deck.TOWARDS[goal],
                lambda v, goal=goal: v.state(MODE).label != deck.TOWARDS[goal],
            )
            for goal in NEEDS
        ),
        *(
            sometimes(f"the deck is {goal}", lambda v, goal=goal: v.state(MODE).label == goal)
            for goal in NEEDS
        ),
        *(
            sometimes(
                f"an outer door is open to a {air} bay",
                every(lambda lock, _, air=air: lock.label == "outer open" and lock.chamber == air),
            )
            for air in ("friendly", "hostile")
        ),
    ]


def honoured(names: Sequence[str]) -> list[Property]:
    """That every ask ends, where goals of the deck do."""
    lock = AIRLOCK.job(SHIP, names[0])
    return [
        leads_to(
            "who asks for the outer door gets it, or the goal is replaced",
            lambda v: v.state(lock).goal == "outer",
            lambda v: v.state(lock).label == "outer open" or v.state(lock).goal == "inner",
        ),
        leads_to(
            "who asks for the inner door gets it, or the goal is replaced",
            lambda v: v.state(lock).goal == "inner",
            lambda v: v.state(lock).label == "inner open" or v.state(lock).goal == "outer",
        ),
    ]


def ship(
    name: str,
    names: Sequence[str],
    *,
    orders: int | None = None,
    leaks: int = 1,
    asks: bool = False,
) -> Check:
    """A ship with these airlocks, its buttons pressed for ever; `orders` of each kind."""
    commands = (deck.ActiveRequested, deck.ReadyRequested, deck.RelaxedRequested)
    return Check(
        WORKFLOWS,
        name=name,
        start=partial(build, ship=SHIP, airlocks=tuple(names)),
        transactional=TRANSACTIONAL,
        tasks=TASKS,
        handlers={
            kind: done for kind in (door.Swing, bay.Pump, airlock.Swing, airlock.Pump, deck.Repair)
        },
        sends=[
            *(Send(command(SHIP), orders) for command in commands),
            Send(bay.Leak(SHIP), leaks),
            *(
                Send(ask(SHIP, each), None)
                for each in names
                for ask in (airlock.AskOuter, airlock.AskInner)
            ),
        ],
        faults=Faults(late=0),  # a motor that turns twice turns no further
        properties=[*rules(names), *(honoured(names) if asks else [])],
    )


CHECKS: Final = (
    ship("spaceship, one airlock", ["A"]),
    ship("spaceship, every ask ends", ["A"], orders=1, asks=True),
)
