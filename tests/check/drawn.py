"""Small models drawn at random: parcels that share a box, with and without faults, timers and more,
and properties that may hold or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from stmflow import Err
from stmflow.check import (
    Alike,
    Check,
    Faults,
    Move,
    Send,
    Transact,
    View,
    always,
    at_rest,
    leads_to,
    sometimes,
    step,
)
from stmflow.check.machine import Machine, State
from tests.check.parcel import PARCEL, Box, Calm, Hurry, Order, Pack, may_break, model, packs


def only_one(task: Pack, box: Box) -> Iterator[tuple[Any, Box]]:
    """There is room for one."""
    if box - {task.name}:
        yield Err("Broken"), box
    else:
        yield None, box | {task.name}


def swapped(names: str) -> Any:
    """The box, once two parcels have traded places."""

    def swap(box: Box, one: int, other: int) -> Box:
        to = {names[one]: names[other], names[other]: names[one]}
        return frozenset(to.get(name, name) for name in box)

    return swap


def stolen(box: Box) -> Iterator[Box]:
    """Something is taken out of the box."""
    return (box - {name} for name in sorted(box))


def nudge(name: str) -> Transact:
    def body(tx: Any) -> None:
        if tx.read(PARCEL.job(name)) is not None:
            tx.apply(PARCEL.job(name), Hurry(name))

    return Transact(f"nudge {name}", body)


def status(view: View, name: str) -> str | None:
    state = view.state(PARCEL.job(name))
    return None if state is None else state.status


def properties(names: str) -> list[Any]:
    """Some that tell the parcels apart, and some that do not."""
    first = names[0]
    return [
        always("not all are packed", lambda view: len(view.world) < len(names)),
        always("the first is never lost", lambda view: status(view, first) != "lost"),
        always("sent is packed", lambda view: status(view, first) != "sent" or first in view.world),
        sometimes("the last is late", lambda view: status(view, names[-1]) == "late"),
        at_rest("at rest the first is sent", lambda view: status(view, first) in (None, "sent")),
        step(
            "the last is not settled twice",
            lambda before, told, after: (
                told.what != "settle" or status(before, names[-1]) in (None, "packing")
            ),
        ),
        leads_to(
            "the first ends",
            lambda view: status(view, first) == "packing",
            lambda view: status(view, first) != "packing",
        ),
        leads_to(
            "all that are ordered are sent",
            lambda view: bool(view.states("parcel")),
            lambda view: all(one.status == "sent" for one in view.states("parcel").values()),
        ),
    ]


@st.composite
def checks(draw: st.DrawFn, most: int = 3) -> Check:
    """A check of parcels that are alike, which it says."""
    names = "abc"[: draw(st.integers(2, most))]
    faults = [Faults(lost=False, late=0), Faults(late=0), Faults(lost=False, late=1)]
    fault = draw(st.sampled_from(faults if names == "ab" else faults[:1]))
    small = names == "ab" and not fault.late
    timed = draw(st.booleans()) and small
    extra = draw(st.sampled_from([None, Hurry, Calm, nudge])) if small else None
    rows: list[list[Any]] = []
    for name in names:
        more = [] if extra is None else [nudge(name) if extra is nudge else Send(extra(name))]
        rows.append([Send(Order(name, timed=timed)), *more])
    flat = [one for row in rows for one in row]
    return model(
        *(one for one in flat if isinstance(one, Send)),
        transactions=[one for one in flat if isinstance(one, Transact)],
        handlers={Pack: draw(st.sampled_from([packs, may_break, only_one]))},
        moves=[Move("stolen", stolen)] if draw(st.booleans()) and not timed else [],
        faults=replace(fault, overdue=timed and draw(st.booleans())),
        properties=properties(names),
        symmetric=[Alike(rows, swapped(names))],
    )


def told(machine: Machine, state: State) -> Any:
    """A state without the numbers of one machine."""
    now, world, locals, flights, late, left = state
    jobs = {}
    for number, local in enumerate(locals):
        if local:
            head = machine.locals[local]
            assert head is not None
            tasks = [(repr(machine.leaves[one.leaf]), one.due) for one in head.tasks]
            jobs[machine.jobs[number].key] = (head.head.state, tuple(tasks))
    answers = sorted(
        (machine.jobs[job].key, at, repr(machine.outcomes[one])) for job, at, one in flights
    )
    waiting = sorted(repr(machine.leaves[leaf]) for leaf in late)
    return now, sorted(machine.worlds[world]), sorted(jobs.items()), answers, waiting, left
