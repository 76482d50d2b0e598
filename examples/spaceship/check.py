"""What is proved of the ship: the rules of its crew, on the reducers that run in production.

    stmflow check examples/spaceship

The world is empty: motors and pumps end sooner or later, and that is all one sees of them. It is
assumed that each obeys the newest order that it was given: the order before may still be on its
way, from a worker that has lost its lease.
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
from stmflow import Job
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

MOTORS: Final = (door.Swing, bay.Pump, airlock.Swing, airlock.Pump, deck.Repair)
"""What is done outside: nothing in the ship can tell how, but that it ends."""


def done(task: Any, world: None) -> Iterator[tuple[None, None]]:
    """Motors and pumps come to their end, sooner or later."""
    yield None, None


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

    def needed(before: View, action: Told, after: View) -> bool:
        """A chamber's pump that has just started makes the air that its goal needs."""
        for job in locks:
            one, other = before.state(job), after.state(job)
            if one.label == other.label or other.label not in ("pressurising", "depressurising"):
                continue
            makes = "friendly" if other.label == "pressurising" else "hostile"
            if makes != ("friendly" if other.goal == "inner" else other.bay):
                return False
        return True

    def closing(lock: airlock.Airlock, air: bay.Bay) -> bool:
        return air.stable or not lock.outside or lock.label == "closing outer"

    def level(lock: airlock.Airlock, air: bay.Bay) -> bool:
        return not lock.outside or lock.chamber == air.label.removeprefix("leaving ")

    def breathing(lock: airlock.Airlock, air: bay.Bay) -> bool:
        return not lock.inside or lock.chamber == "friendly"

    def informed(lock: airlock.Airlock, air: bay.Bay) -> bool:
        return lock.bay == (air.label if air.stable else "unstable")

    def going(lock: airlock.Airlock, air: bay.Bay) -> bool:
        return not (air.stable and lock.label == "closed" and lock.goal == "outer")

    return [
        step("R1 the bay changes only for the deck, or by a leak", commanded),
        always(
            "R2 where the bay door is not closed, the bay is hostile",
            lambda v: v.state(GATE).label == "closed" or v.state(AIR).label == "hostile",
        ),
        step("R3 no outer door begins to open while the bay changes", turned),
        always("R4 while the bay changes, every outer door is closed or closing", every(closing)),
        always("P1 where an outer door is not closed, the chamber is as the bay", every(level)),
        always("P2 where an inner door is not closed, there is air", every(breathing)),
        always("every airlock knows of the bay what is so", every(informed)),
        always("no airlock waits while the bay is stable", every(going)),
        step("a pump starts only for the air that is needed", needed),
        step("H1 to ask to go out while bay or deck change does nothing", vetoed),
        *(rule for goal in NEEDS for rule in mode(goal)),
        *(reached(air, locks) for air in ("friendly", "hostile")),
    ]


def mode(goal: deck.Goal) -> list[Property]:
    """D1 to D3: a mode is what it needs; what leads to it ends; it is reached at all."""

    def met(view: View) -> bool:
        return (view.state(GATE).label, view.state(AIR).label) == NEEDS[goal]

    def towards(view: View) -> bool:
        return bool(view.state(MODE).label == deck.TOWARDS[goal])

    return [
        always(f"D {goal}: door and bay are so", lambda v: v.state(MODE).label != goal or met(v)),
        leads_to(
            f"the deck becomes {goal}, or its goal is replaced", towards, lambda v: not towards(v)
        ),
        sometimes(f"the deck is {goal}", lambda v: v.state(MODE).label == goal),
    ]


def reached(air: airlock.Air, locks: Sequence[Job]) -> Property:
    def out(view: View) -> bool:
        states = [view.state(job) for job in locks]
        return any(one.label == "outer open" and one.chamber == air for one in states)

    return sometimes(f"an outer door is open to a {air} bay", out)


def honoured(name: str) -> list[Property]:
    """That every ask ends, where the deck's orders do."""
    lock = AIRLOCK.job(SHIP, name)

    def wants(goal: airlock.Side) -> Callable[[View], bool]:
        return lambda view: bool(view.state(lock).goal == goal)

    def has(goal: airlock.Side) -> Callable[[View], bool]:
        return lambda view: view.state(lock).label == f"{goal} open" or not wants(goal)(view)

    sides: tuple[airlock.Side, ...] = ("outer", "inner")
    return [
        leads_to(f"who asks for the {side} door gets it, or another asks", wants(side), has(side))
        for side in sides
    ]


def ship(
    name: str,
    names: Sequence[str],
    *,
    orders: int | None = None,
    leaks: int | None = 1,
    more: Sequence[Property] = (),
) -> Check:
    """A ship with these airlocks, its buttons pressed for ever; `orders` of each kind."""
    return Check(
        WORKFLOWS,
        name=name,
        start=partial(build, ship=SHIP, airlocks=tuple(names)),
        transactional=TRANSACTIONAL,
        tasks=TASKS,
        handlers=dict.fromkeys(MOTORS, done),
        sends=[
            Send(deck.ActiveRequested(SHIP), orders),
            Send(deck.ReadyRequested(SHIP), orders),
            Send(deck.RelaxedRequested(SHIP), orders),
            Send(bay.Leak(SHIP), leaks),
            *(Send(airlock.AskOuter(SHIP, each), None) for each in names),
            *(Send(airlock.AskInner(SHIP, each), None) for each in names),
        ],
        faults=Faults(late=0),  # with nothing to be seen of the world, they would change nothing
        properties=[*rules(names), *more],
    )


CHECKS: Final = (
    ship("spaceship, one airlock", ["A"]),
    ship("spaceship, every ask ends", ["A"], orders=1, more=honoured("A")),
)
