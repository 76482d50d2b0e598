"""What a chart is written with: states, cells, timers, invocations. Plain frozen values.

    Chart("fetch", data=Page, start=lambda event: Page(event.url), events=(Fetch, …), …, states=(
        State("idle", on={Fetch: "loading"}),
        State(
            "loading",
            invoke=Invoke(lambda event, page: Load(page.url), done=Loaded, error=Broken),
            after={timedelta(seconds=30): "failed"},
            on={Loaded: Go("shown", do=lambda event, page: replace(page, text=event.text)),
                Broken: "failed"},
        ),
        State("failed", on={Retry: "loading"}),
        Final("shown"),
    ))

Every function given here is pure and takes `(event, data)`, or as many of these as it wants; a
third argument is the set of the names of all active states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from stmflow.effect import Effect

Guard = Callable[..., bool]
"""`(event, data)` → whether."""

Act = Callable[..., Any]
"""`(event, data)` → the next data, or `(data, effects)`, or `Did`."""


class Did(NamedTuple):
    """What an act comes to.

    Attributes:
        effects: one or several, asked for in the same commit. raised: events for this chart alone,
            handled in this macro-step. sent: events handled after it, in the same commit, as if
            from outside.
    """

    data: Any
    effects: Effect | Sequence[Effect] = ()
    raised: Sequence[Any] = ()
    sent: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Go:
    """Leave for `to`, one state or one for each of several regions; None: stay, and act.

    Attributes:
        when: only if this holds; the cells of one event are tried in their order.
        do: what is done between the exits and the entries. internal: a target inside the state
            that the cell belongs to does not leave that state.
    """

    to: str | Sequence[str] | None = None
    when: Guard | None = None
    do: Act | None = None
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Stay:
    """Accept the event and change nothing: the answer is *no change*."""

    when: Guard | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Reject the event by this code, unless another region takes it."""

    code: str
    when: Guard | None = None


Cell = str | Go | Stay | Refuse
"""What a state does with an event; a name alone is `Go` to it."""

Cells = Cell | Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Invoke:
    """A task for as long as a state is active: started on entry, cancelled on exit.

    Attributes:
        task: `(event, data)` → the task, a value that a handler performs.
        done: the event type that its ok outcome becomes. error: the one of a failure; None: a
            failure is parked.
    """

    task: Callable[..., Any]
    done: type
    error: type | None = None


@dataclass(frozen=True)
class State:
    """A state. With `states` it is compound: exactly one of them is active while it is.

    Attributes:
        initial: the child that is entered with it; the first one. on: event type → cells; what a
            state does not answer its parent does. always: cells tried whenever nothing else is
            left to do. after: a time since entry → cells. done: cells for when a final child was
            entered (of a parallel state: one in each region).
        entry, exit: acts. invoke: what runs meanwhile.
    """

    name: str
    states: Sequence[State] = ()
    initial: str | Go | None = None
    on: Mapping[Any, Cells] | Sequence[tuple[Any, Cells]] = ()
    always: Cells = ()
    after: Mapping[timedelta, Cells] = field(default_factory=dict)
    done: Cells = ()
    entry: Act | Sequence[Act] = ()
    exit: Act | Sequence[Act] = ()
    invoke: Invoke | Sequence[Invoke] = ()


@dataclass(frozen=True)
class Parallel(State):
    """All of `states` at once: each of them is a region."""


@dataclass(frozen=True)
class Final(State):
    """The end of the state around it; at the top, of the job. `gives`: `(event, data)` → the value
    of the `Done` that the state around it raises."""

    gives: Callable[..., Any] | None = None


@dataclass(frozen=True)
class History(State):
    """Where the state around it was when it was left: its child, or with `deep` the leaves below
    it. `default`: where to go at the first time."""

    default: str | Go = ""
    deep: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Raised when a state has come to its end."""

    state: str
    value: Any = None
