"""The ship: four machines, each a workflow of its own, and everything that joins them.

Four ways, each where its rule wants it:

    at once         the bay's news reach every airlock in the commit that makes them: `announce`
    once it holds   a task waits for other jobs, and is settled in a commit that read them: `Await`
    veto            a pre hook looks at other machines and refuses a request: `calm`, `in_vacuum`
    on the way      a post hook asks for something that may come a little later: `Evacuate`

Whoever may speak to whom at once is an order: deck → door and bay, bay → airlocks; of a leak, bay →
deck. Nobody waits in a commit for a job that waits for him.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from examples.spaceship import airlock, bay, deck, door
from stmflow import Guard, Hook, Job, Tx, Workflow

Read = Callable[[Job], Any]

# --- vetoes -------------------------------------------------------------------------------------


def in_vacuum(event: door.Event, state: object, read: Read) -> str | None:
    """The bay door opens only where nobody breathes."""
    if not isinstance(event, door.OpenRequested):
        return None
    air = read(BAY.job(event.ship))
    return None if air is not None and air.label == "hostile" else "BayNotHostile"


def shut(event: bay.Event, state: object, read: Read) -> str | None:
    """No air is let in while the bay door is not closed."""
    if not isinstance(event, bay.FriendlyRequested):
        return None
    gate = read(DOOR.job(event.ship))
    return None if gate is not None and gate.label == "closed" else "DoorNotClosed"


def calm(event: airlock.Event, state: object, read: Read) -> str | None:
    """Nobody asks to go out while the bay changes, or is about to."""
    if not isinstance(event, airlock.AskOuter):
        return None
    air, mode = read(BAY.job(event.ship)), read(DECK.job(event.ship))
    if air is None or not air.stable:
        return "BayNotStable"
    return None if mode is not None and mode.calm else "DeckNotCalm"


# --- the machines -------------------------------------------------------------------------------

DOOR: Final = Workflow(
    "spaceship/door",
    state=door.Door,
    events=(
        door.Hung,
        door.OpenRequested,
        door.CloseRequested,
        door.FinishedOpening,
        door.FinishedClosing,
    ),
    tasks=(door.Swing,),
    update=door.update,
    key=("ship",),
    tag="label",
    pre=[Guard("in vacuum", in_vacuum)],
)

BAY: Final = Workflow(
    "spaceship/bay",
    state=bay.Bay,
    events=(
        bay.Filled,
        bay.FriendlyRequested,
        bay.HostileRequested,
        bay.Leak,
        bay.Sealed,
        bay.FinishedPressurising,
        bay.FinishedHeating,
        bay.FinishedDepressurising,
    ),
    outside=(bay.Leak,),
    tasks=(bay.Pump, bay.Interlock, bay.Announce),
    update=bay.update,
    key=("ship",),
    tag="label",
    pre=[Guard("shut", shut)],
)

AIRLOCK: Final = Workflow(
    "spaceship/airlock",
    state=airlock.Airlock,
    events=(
        airlock.Fitted,
        airlock.AskOuter,
        airlock.AskInner,
        airlock.FinishedPressurising,
        airlock.FinishedDepressurising,
        airlock.FinishedOpeningOuter,
        airlock.FinishedOpeningInner,
        airlock.FinishedClosingOuter,
        airlock.FinishedClosingInner,
        airlock.BayUnstable,
        airlock.BayStable,
        airlock.BayLeak,
    ),
    outside=(airlock.AskOuter, airlock.AskInner),
    tasks=(airlock.Swing, airlock.Pump),
    update=airlock.update,
    key=("ship", "airlock"),
    tag=airlock.tag,
    pre=[Guard("calm", calm)],
)

DECK: Final = Workflow(
    "spaceship/deck",
    state=deck.Deck,
    events=(
        deck.Manned,
        deck.ActiveRequested,
        deck.ReadyRequested,
        deck.RelaxedRequested,
        deck.Stepped,
        deck.NowActive,
        deck.NowReady,
        deck.NowRelaxed,
        deck.Leaked,
    ),
    outside=(deck.ActiveRequested, deck.ReadyRequested, deck.RelaxedRequested),
    tasks=(deck.Step, deck.Await, deck.Evacuate, deck.Repair),
    update=deck.update,
    key=("ship",),
    tag="label",
    post=[Hook("red alert", 1, deck.red_alert)],
)

WORKFLOWS: Final = (DOOR, BAY, AIRLOCK, DECK)


def build(tx: Tx, ship: str, airlocks: tuple[str, ...]) -> None:
    """Make a ship: at rest, its doors closed, air in the bay."""
    tx.apply(DOOR.job(ship), door.Hung(ship))
    tx.apply(BAY.job(ship), bay.Filled(ship, airlocks))
    tx.apply(DECK.job(ship), deck.Manned(ship, airlocks))
    for name in airlocks:
        tx.apply(AIRLOCK.job(ship, name), airlock.Fitted(ship, name))


# --- at once ------------------------------------------------------------------------------------


def announce(tx: Tx, task: bay.Announce) -> None:
    """Part of the commit in which the bay changes."""
    news: airlock.Event
    match task.news:
        case "unstable":
            news = airlock.BayUnstable()
        case "leak":
            news = airlock.BayLeak()
            tx.apply(DECK.job(task.ship), deck.Leaked())
        case "friendly" | "hostile":
            news = airlock.BayStable(task.news)
    for name in task.airlocks:
        tx.apply(AIRLOCK.job(task.ship, name), news)


TRANSACTIONAL: Final[Mapping[type, Callable[[Tx, Any], Any]]] = {bay.Announce: announce}

# --- once it holds ------------------------------------------------------------------------------


def interlock(tx: Tx, task: bay.Interlock) -> None:
    """Wait until every outer door is closed."""
    for name in task.airlocks:
        if tx.read(AIRLOCK.job(task.ship, name)).outside:
            tx.retry()


def step(tx: Tx, task: deck.Step) -> None:
    """Make the next request, once there is one that is not refused."""
    gate, air = DOOR.job(task.ship), BAY.job(task.ship)
    wish = towards(task.ship, task.goal, tx.read(gate).label, tx.read(air).label)
    if wish is None:
        tx.retry()
    to = gate if isinstance(wish, (door.OpenRequested, door.CloseRequested)) else air
    if tx.apply(to, wish).kind != "committed":
        tx.retry()


def towards(ship: str, goal: deck.Goal, gate: door.Label, air: bay.Label) -> Any:
    """What to ask for next; None: what was asked for is under way, or there is nothing left."""
    if goal != "active" and gate in ("open", "opening"):
        return door.CloseRequested(ship)
    if goal == "relaxed":
        wanted = air in ("hostile", "leaving friendly", "depressurising")
        return bay.FriendlyRequested(ship) if wanted and gate == "closed" else None
    if air in ("friendly", "leaving hostile", "pressurising", "heating"):
        return bay.HostileRequested(ship)
    opens = goal == "active" and air == "hostile" and gate in ("closed", "closing")
    return door.OpenRequested(ship) if opens else None


NEEDS: Final[dict[deck.Goal, tuple[door.Label, bay.Label]]] = {
    "active": ("open", "hostile"),
    "ready": ("closed", "hostile"),
    "relaxed": ("closed", "friendly"),
}


def arrive(tx: Tx, task: deck.Await) -> None:
    """Wait until door and bay are as the goal needs them."""
    gate, air = tx.read(DOOR.job(task.ship)), tx.read(BAY.job(task.ship))
    if (gate.label, air.label) != NEEDS[task.goal]:
        tx.retry()


# --- on the way ---------------------------------------------------------------------------------


def evacuate(tx: Tx, task: deck.Evacuate) -> None:
    """Ask for the inner door wherever the outer one is not closed."""
    for name in task.airlocks:
        if tx.read(AIRLOCK.job(task.ship, name)).outside:
            tx.apply(AIRLOCK.job(task.ship, name), airlock.AskInner(task.ship, name))


TASKS: Final[Mapping[type, Callable[[Tx, Any], Any]]] = {
    bay.Interlock: interlock,
    deck.Step: step,
    deck.Await: arrive,
    deck.Evacuate: evacuate,
}
"""Performed by the scheduler as `Transaction`s of their own."""
