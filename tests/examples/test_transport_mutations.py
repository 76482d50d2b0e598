"""Requests with one thing broken: the checker finds each, and the engine does what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from examples.transport import check as proofs
from examples.transport import workflow as table
from examples.transport.check import PROCESSES, REACHED, SAYINGS, TERMS, World, handlers, model
from examples.transport.model import (
    Cancel,
    Close,
    Deadline,
    Dial,
    Dropped,
    Reconcile,
    Request,
    Resume,
    Write,
)
from stmflow import Effect, Workflow
from stmflow.check import Check, Faults, Handler, prove
from tests.examples import planted
from tests.project import ROOT

IMPOSSIBLE = "no impossible cell is reached"
ONCE = "T2 a frame follows only one that is void"
KNOWS = "T2 carried out as it ends"
LATE = "T1 nothing is begun over the deadline"
CLOSED = "T3 every wire is closed"

Update = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Mutation:
    """What is broken, the property that shows it, and the length of the shortest trace.

    `patch`: functions of the table. `answers`: another `update`, made of the real one. `world`:
    other models of handlers. `how`: what the model is like.
    """

    name: str
    breaks: str
    steps: int
    patch: Mapping[str, Any] = field(default_factory=dict)
    answers: Callable[[Update], Update] | None = None
    world: Mapping[type, Handler] = field(default_factory=dict)
    how: Mapping[str, Any] = field(default_factory=dict)
    epochs: bool = True

    def check(self) -> Check:
        """The model with this broken; only that property is asked."""
        check = model(self.name, **{"idempotent": False, **self.how})
        twin: Workflow = copy(check.workflows[0])
        if self.answers is not None:
            twin.update = self.answers(twin.update)
        if not self.epochs:
            twin._epoch = None
        return replace(
            check,
            workflows=[twin],
            handlers={**check.handlers, **self.world},
            properties=[one for one in check.properties if one.name == self.breaks],
        )


# --- what is broken in the table ------------------------------------------------------------------


def instead(kind: type, status: str, answer: Callable[[Any, Request], Any]) -> Any:
    """Another answer in one cell."""

    def mutate(update: Update) -> Update:
        def broken(event: Any, state: Any) -> Any:
            if isinstance(event, kind) and state is not None and state.status == status:
                return answer(event, state)
            return update(event, state)

        return broken

    return mutate


def no_class(*names: str) -> Any:
    """Errors of these classes are taken for refusals."""

    def declined(state: Request, event: Any) -> Any:
        if event.error.name in names:
            return table.refused(state, event.at)
        return DECLINED(state, event)

    return declined


DECLINED = table.declined
LEAVE = table.leave
DIAL = table.dial
DOUBT = table.doubt


def for_ever(state: Request, event: Any) -> Any:
    if event.error.name == "Auth":
        return table.again(state, event.at, fresh=True)
    return DECLINED(state, event)


def without(kind: type) -> Any:
    """Who leaves an attempt forgets this task."""

    def leave(state: Request) -> list[Effect]:
        return [one for one in LEAVE(state) if not isinstance(getattr(one, "task", None), kind)]

    return leave


def closing(state: Request) -> list[Effect]:
    """Who leaves an attempt withdraws nothing."""
    return LEAVE(state)[-1:]


def no_deadline(state: Request, at: int, *before: Effect) -> Any:
    after, effects = DIAL(state, at, *before)  # type: ignore[misc]
    return after, effects[:-1]


def time_only(state: Request, at: int) -> bool:
    return at < state.deadline


# --- what is broken around it ---------------------------------------------------------------------

Results = Iterator[tuple[Any, World]]
SOUND = handlers()


def asks_only(task: Reconcile, world: World) -> Results:
    """What became of the key, and no promise of what will."""
    yield {"body": b"" if world.carried else None}, world


def writes_again(task: Write, world: World, now: int) -> Results:
    if task.wire in world.used:
        yield None, replace(world, way=world.way | {task.wire})
    else:
        yield from SOUND[Write](task, world, now)


def writes_to_any(task: Write, world: World, now: int) -> Results:
    """By the attempt's number alone."""
    for process in PROCESSES:
        yield from SOUND[Write](replace(task, wire=f"{task.attempt}{process}"), world, now)


def dials_again(task: Dial, world: World, now: int) -> Results:
    """In the place of the wire that was there."""
    wire = f"{task.attempt}a"
    yield {"wire": wire}, replace(proofs.without(world, wire), open=world.open | {wire})


def closes_and_forgets(task: Close, world: World) -> Results:
    after = proofs.without(world, f"{task.attempt}a")
    yield None, replace(after, spent=world.spent - {f"{task.attempt}a"})


def in_no_hurry(handler: Handler) -> Handler:
    return lambda task, world, now: handler(task, world, 0)


WORKERS_LATE = {"says": (), "faults": Faults(late=1)}

MUTATIONS = [
    Mutation(
        "no question is asked",
        ONCE,
        9,
        answers=instead(Resume, "unknown", lambda event, state: table.again(state, event.at)),
    ),
    Mutation(
        "unknown is taken as safe",
        ONCE,
        12,
        answers=instead(Dropped, "waiting", lambda event, state: table.back_off(state, event.at)),
    ),
    Mutation(
        "a transient error is taken as safe",
        ONCE,
        11,
        patch={"declined": no_class("Transient")},
        how={"says": SAYINGS},
    ),
    Mutation(
        "a broken answer is taken for none",
        ONCE,
        11,
        patch={"declined": no_class("Corrupt")},
        how={"says": SAYINGS},
    ),
    Mutation(
        "credentials are refreshed for ever",
        "T4 credentials are refreshed once",
        13,
        patch={"declined": for_ever},
        how={"says": ("Auth",), "breaks": False, "terms": replace(TERMS, attempts=3)},
    ),
    Mutation("the deadline is forgotten", "every request ends", 9, patch={"dial": no_deadline}),
    Mutation(
        "the budget is forgotten",
        "T4 no more attempts than the budget has",
        7,
        patch={"left": time_only},
    ),
    Mutation("no wire is closed", CLOSED, 3, patch={"leave": without(Close)}),
    Mutation(
        "what was cancelled goes on",
        "T5 what was cancelled is not begun again",
        5,
        answers=instead(Resume, "unknown", lambda event, state: table.again(state, event.at)),
        how={"idempotent": True, "cancels": True},
    ),
    Mutation(
        "what was cancelled is thought not to have happened",
        KNOWS,
        7,
        answers=instead(
            Cancel,
            "connecting",
            lambda event, state: table.end(replace(state, maybe=False), "cancelled"),
        ),
        how={"idempotent": True, "cancels": True},
    ),
    Mutation(
        "what is overdue is thought not to have happened",
        KNOWS,
        6,
        answers=instead(Deadline, "waiting", lambda event, state: table.end(state, "failed")),
    ),
    Mutation(
        "an attempt is no epoch, and leaves its tasks behind",
        IMPOSSIBLE,
        12,
        patch={"leave": closing},
        epochs=False,
    ),
    Mutation("the peer is asked, and promises nothing", ONCE, 12, world={Reconcile: asks_only}),
    Mutation("a wire carries a frame twice", ONCE, 7, world={Write: writes_again}),
    Mutation(
        "a wire is known by its attempt alone",
        ONCE,
        8,
        world={Write: writes_to_any},
        how={"processes": PROCESSES},
    ),
    Mutation(
        "a wire is opened in the place of another",
        ONCE,
        9,
        world={Dial: dials_again},
        how=WORKERS_LATE,
    ),
    Mutation(
        "what is closed may be opened",
        CLOSED,
        7,
        world={Close: closes_and_forgets},
        how=WORKERS_LATE,
    ),
    Mutation(
        "workers do not look at the time",
        LATE,
        4,
        world={kind: in_no_hurry(SOUND[kind]) for kind in (Dial, Write)},
        how={"faults": Faults(late=0, overdue=True)},
    ),
]


COURTESIES = [
    Mutation("tasks are not withdrawn", "", 0, patch={"leave": closing}),
    Mutation("an attempt is no epoch", "", 0, epochs=False),
]


@pytest.mark.acceptance
@pytest.mark.parametrize("mutation", COURTESIES, ids=lambda mutation: mutation.name)
def test_of_epoch_and_withdrawal_either_is_enough(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, function in mutation.patch.items():
        monkeypatch.setattr(table, name, function)
    check = mutation.check()
    asked = [one for one in model("whole", idempotent=False).properties if one not in REACHED]
    assert prove(replace(check, properties=asked)).wrong == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_what_is_broken_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in mutation.patch.items():
        monkeypatch.setattr(table, name, function)
    await planted.first(prove(mutation.check()), mutation)


def test_the_readme_has_every_mutation() -> None:
    assert planted.listed(ROOT / "examples/transport/README.md", MUTATIONS)
