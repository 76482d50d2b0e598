"""What is proved of a request: T1 to T5, on the reducer that runs in production.

    stmflow check examples/transport

The world is what lies between here and the peer: wires, frames on their way, and what the peer has
done. A frame may be carried out long after its wire broke, which is what makes all of this hard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from examples.transport.model import (
    Cancel,
    Close,
    Dial,
    Read,
    Reconcile,
    Request,
    Start,
    Terms,
    Write,
)
from examples.transport.workflow import TRANSPORT
from stmflow import Err
from stmflow.check import (
    Check,
    Faults,
    Handler,
    Move,
    Property,
    Send,
    Told,
    View,
    always,
    at_rest,
    leads_to,
    sometimes,
    step,
)

JOB: Final = TRANSPORT.job("k")
TERMS: Final = Terms(attempts=2, lookups=1, attempt_ms=1, deadline_ms=3, base_ms=1, cap_ms=1)
PROMPT: Final = Faults(late=0)
PROCESSES: Final = "ab"
MOST: Final = 2
"""Times that it is counted how often something was carried out."""

# --- the world ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """Wires, by what has become of them; each is named by its attempt and the process it is in.

    Attributes:
        open: those that carried nothing yet. used: those that carried a frame.
        spent: attempts that open no wire any more, by process. way: wires whose frame is on its way
            to a peer that has not forbidden it. answers: (wire, what the peer says).
        carried: how often it was carried out. forbidden: no attempt up to this one will be.
    """

    open: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
    spent: frozenset[str] = frozenset()
    way: frozenset[str] = frozenset()
    answers: frozenset[tuple[str, str]] = frozenset()
    carried: int = 0
    forbidden: int = 0

    @property
    def wires(self) -> frozenset[str]:
        return self.open | self.used

    def allows(self, wire: str) -> bool:
        """Whether the peer still takes a frame of that attempt."""
        return int(wire[:-1]) > self.forbidden


Results = Iterator[tuple[Any, World]]

RESET: Final = Err("Reset")


def without(world: World, *wires: str) -> World:
    """Those wires are gone, and what was on its way back."""
    answers = frozenset(one for one in world.answers if one[0] not in wires)
    return replace(world, open=world.open - {*wires}, used=world.used - {*wires}, answers=answers)


def dialled(processes: str) -> Handler:
    """By any of these processes; each opens one wire for an attempt, and names it again."""

    def dial(task: Dial, world: World, now: int) -> Results:
        for process in processes:
            wire = f"{task.attempt}{process}"
            if wire in world.open:
                yield {"wire": wire}, world
            elif wire not in world.spent and now <= task.until:
                opened = replace(world, open=world.open | {wire}, spent=world.spent | {wire})
                yield {"wire": wire}, opened
        yield RESET, world
        yield Err("Unresolved"), world
        yield Err("Unreachable"), world

    return dial


def written(processes: str) -> Handler:
    """By the process that has the wire, or by another, which does not find it."""

    def write(task: Write, world: World, now: int) -> Results:
        wire = task.wire
        if wire in world.used:
            yield None, world
        elif wire in world.open and now <= task.until:
            way = world.way | ({wire} if world.allows(wire) else set())
            yield None, replace(world, open=world.open - {wire}, used=world.used | {wire}, way=way)
            yield RESET, replace(without(world, wire), way=way)
            yield RESET, without(world, wire)
        if len(processes) > 1 or wire not in world.wires or now > task.until:
            yield RESET, world

    return write


def read(task: Read, world: World) -> Results:
    """An answer, or a wire that is broken: one that is silent has nothing to say yet."""
    for wire, said in world.answers:
        if wire == task.wire:
            yield ({"body": b""} if said == "Ok" else Err(said)), world
    if task.wire not in world.wires:
        yield RESET, world


def close(task: Close, world: World) -> Results:
    wires = [f"{task.attempt}{process}" for process in PROCESSES]
    yield None, replace(without(world, *wires), spent=world.spent | {*wires})


def reconcile(task: Reconcile, world: World) -> Results:
    """The peer is asked; the question, too, may come to nothing."""
    if world.carried:
        yield {"body": b""}, world
    else:
        asked = replace(world, forbidden=max(world.forbidden, task.attempt))
        yield {"body": None}, replace(asked, way=frozenset(filter(asked.allows, world.way)))
    yield Err("Unreachable"), world


def peer(*says: str) -> Move:
    """The peer takes a frame: it carries it out, or refuses it, and answers or falls silent."""

    def takes(world: World) -> Iterator[World]:
        for wire in world.way:
            refused = replace(world, way=world.way - {wire})
            carried = replace(refused, carried=min(world.carried + 1, MOST))
            yield carried
            for said in says if wire in world.used else ():
                answers = world.answers | {(wire, said)}
                if said in ("Ok", "Corrupt", "Transient"):
                    yield replace(carried, answers=answers)
                if said not in ("Ok", "Corrupt"):
                    yield replace(refused, answers=answers)

    return Move("the peer takes a frame", takes)


def broken(world: World) -> Iterator[World]:
    """A wire breaks; what it carried may arrive all the same."""
    yield from (without(world, wire) for wire in world.wires)


def lose(world: World) -> Iterator[World]:
    """A frame whose wire broke goes nowhere."""
    yield from (replace(world, way=world.way - {each}) for each in world.way - world.wires)


BREAKS: Final = (Move("a wire breaks", broken), Move("a frame is lost", lose))


def handlers(processes: str = PROCESSES[0]) -> dict[type, Handler]:
    return {
        Dial: dialled(processes),
        Write: written(processes),
        Read: read,
        Close: close,
        Reconcile: reconcile,
    }


SAYINGS: Final = ("Ok", "Transient", "Throttled", "Auth", "Fatal", "Corrupt")
# --- what must hold -------------------------------------------------------------------------------


def request(view: View) -> Request | None:
    found: Request | None = view.state(JOB)
    return found


def live(view: View) -> bool:
    state = request(view)
    return state is not None and not state.ended


def in_time(view: View) -> bool:
    state = request(view)
    return state is None or state.ended or view.now <= state.deadline


def nothing_late(before: View, action: Told, after: View) -> bool:
    """Over its deadline nothing is dialled or sent, however late a worker comes."""
    begun = after.world.wires - before.world.wires or after.world.way - before.world.way
    return not begun or before.now <= TERMS.deadline_ms


def sent_once(view: View) -> bool:
    """Of frames that may still be carried out or were, there is one at most."""
    return bool(view.world.carried + len(view.world.way) <= 1)


def knows(view: View) -> bool:
    """What an end says is so, and stays so: no frame is on its way that could change it."""
    state = request(view)
    if state is None or not state.ended or state.happened is None:
        return True
    if state.happened:
        return bool(view.world.carried)
    return not view.world.carried and not view.world.way


def in_budget(view: View) -> bool:
    state = request(view)
    return state is None or state.attempt <= state.terms.attempts


def refreshed_once(before: View, action: Told, after: View) -> bool:
    one, other = request(before), request(after)
    refused = action.what == "settle" and action.outcome == Err("Auth")
    if one is None or other is None or not refused or action.answer != "committed":
        return True
    return not one.fresh or one.status not in ("sending", "waiting") or other.ended


def unwanted_stays_home(before: View, action: Told, after: View) -> bool:
    """What was cancelled is not begun again."""
    one, other = request(before), request(after)
    return one is None or other is None or not one.unwanted or one.attempt == other.attempt


def closed(view: View) -> bool:
    return not view.world.wires


def became(status: str) -> Property:
    def is_so(view: View) -> bool:
        state = request(view)
        return state is not None and state.status == status

    return sometimes(f"a request is {status}", is_so)


def ends_as(happened: bool | None) -> Property:
    def is_so(view: View) -> bool:
        state = request(view)
        return state is not None and state.status == "failed" and state.happened is happened

    told = {None: "may have happened", False: "did not happen"}
    return sometimes(f"what failed {told[happened]}", is_so)


ON_TIME: Final = always("T1 it ends by its deadline", in_time)
SAFETY: Final = (
    step("T1 nothing is begun over the deadline", nothing_late),
    always("T2 carried out as it ends", knows),
    at_rest("T3 every wire is closed", closed),
    always("T4 no more attempts than the budget has", in_budget),
    step("T4 credentials are refreshed once", refreshed_once),
    step("T5 what was cancelled is not begun again", unwanted_stays_home),
    leads_to("every request ends", live, lambda view: not live(view)),
    leads_to("every wire is closed", lambda view: not closed(view), closed),
)
ONCE: Final = always("T2 a frame follows only one that is void", sent_once)
REACHED: Final = (
    *map(became, ("done", "failed", "cancelled", "unknown", "backoff")),
    *map(ends_as, (None, False)),
)


def model(
    name: str,
    *,
    idempotent: bool,
    says: Sequence[str] = ("Ok",),
    more: Sequence[Property] = (),
    processes: str = PROCESSES[0],
    cancels: bool = False,
    breaks: bool = True,
    terms: Terms = TERMS,
    faults: Faults = PROMPT,
) -> Check:
    """A request, and a peer that says no more than this when it says something."""
    start = Start("k", "peer", b"", idempotent, terms)
    punctual = not faults.overdue
    return Check(
        [TRANSPORT],
        name=name,
        world=World(),
        sends=[Send(start), *([Send(Cancel("k"))] if cancels else [])],
        moves=[peer(*says), *(BREAKS if breaks else ())],
        handlers=handlers(processes),
        faults=faults,
        properties=[
            *([ON_TIME] if punctual else []),
            *([] if idempotent else [ONCE]),
            *SAFETY,
            *more,
        ],
    )


CHECKS: Final = (
    model(
        "transport, to be carried out once",
        idempotent=False,
        says=SAYINGS,
        cancels=True,
        more=REACHED,
    ),
    model(
        "transport, that may be carried out again",
        idempotent=True,
        says=SAYINGS,
        cancels=True,
        more=REACHED,
    ),
    model(
        "transport, timers overdue",
        idempotent=False,
        cancels=True,
        faults=Faults(late=0, overdue=True),
    ),
    model(
        "transport, credentials that are refused",
        idempotent=False,
        says=("Auth",),
        breaks=False,
        terms=replace(TERMS, attempts=3),
    ),
    model("transport, by two processes", idempotent=False, processes=PROCESSES),
    model("transport, workers that come late", idempotent=False, says=(), faults=Faults(late=1)),
)
