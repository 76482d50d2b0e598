"""What is checked: workflows as they run in production, and a small world around them.

    CHECK = Check(
        [PARCEL],
        sends=[Send(Order("p")), Send(Abort("p"))],
        world=frozenset(),
        handlers={Pack: lambda task, world: [(None, world | {task.name}), (Err("Broken"), world)]},
        properties=[
            always("nothing is sent unpacked", lambda view: …),
            leads_to("every order ends", lambda view: …, lambda view: …),
        ],
    )

The world is one frozen value that stands for everything outside: a bucket, an account, a motor. A
handler's model is a pure function from (task, world) to what one attempt may come to; a move is
what the world does by itself. The engine's own faults need no model: `Faults` says which are drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol

from stmflow.errors import InvalidWorkflow, StmflowError
from stmflow.schema import tag_of
from stmflow.transaction import Transactional, Tx
from stmflow.workflow import Chooser, Job, Workflow

Handler = Callable[..., Iterable[tuple[Any, Any]]]
"""`(task, world)` → pairs of (outcome, the world after it); it may take the time and a transaction
as well: `(task, world, now, tx)`. Every pair is a possible result of one attempt; none at all: the
handler has nothing to say yet. What it writes in the transaction is committed before its answer is
on its way, as by a service of its own. Pure. It is called again after an answer was lost, as a
worker would."""


class View(Protocol):
    """What a property sees: everything, at one moment between two steps.

    To ask for jobs of a workflow that the check does not have raises UnknownWorkflow.
    """

    @property
    def world(self) -> Any:
        """The world."""
        ...

    @property
    def now(self) -> int:
        """The latest time that any commit or timer has shown, in milliseconds."""
        ...

    def state(self, job: Job) -> Any:
        """A job's state, or None."""
        ...

    def states(self, workflow: str) -> Mapping[tuple[Any, ...], Any]:
        """Key → state of every job of that workflow."""
        ...

    def open(self, job: Job) -> Sequence[Any]:
        """The tasks that the job waits for, timers as `Sleep`."""
        ...

    def asked(self, job: Job) -> Sequence[Any]:
        """Every task that its open effects may still perform, those behind others included."""
        ...


@dataclass(frozen=True, slots=True)
class Send:
    """An event that may come from outside, up to so many times (None: without end), each time a
    delivery of its own.

    `job` None: the job that the workflow's key names. With `fair` it is sure to come, as long as it
    may.
    """

    event: Any
    times: int | None = 1
    job: Job | None = None
    fair: bool = False

    @property
    def label(self) -> str:
        """How a trace names it."""
        return tag_of(type(self.event))


@dataclass(frozen=True, slots=True)
class Transact:
    """A transaction over several jobs that a client may run, up to so many times (None: without
    end)."""

    label: str
    body: Callable[[Tx], Any]
    times: int | None = 1
    fair: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """Something that the world does by itself: `(world)` or `(world, now)` → worlds after it."""

    label: str
    worlds: Callable[..., Iterable[Any]]
    fair: bool = False


def _same(world: Any, one: int, other: int) -> Any:
    return world


@dataclass(frozen=True, slots=True)
class Alike:
    """Parts of a model that may trade places: keys, clients, workers. States that differ only in
    who is who are explored once.

    That they are alike is not believed: every answer of the engine is compared with what it
    answers once they have traded places. Properties need not treat them alike: each is asked of
    every way to place them.

    Attributes:
        rows: for each part what is its own: its sends and transactions, and jobs to which nobody
            sends. What stands at the same place of two rows trades places.
        world: `(world, one, other)` → the world in which these two rows have traded places. Without
            it, the world does not tell them apart.
    """

    rows: Sequence[Sequence[Send | Transact | Job]]
    world: Callable[[Any, int, int], Any] = _same


@dataclass(frozen=True, slots=True)
class Faults:
    """The engine's own faults, in every order. Reordering and delay need no switch: what is under
    way arrives in every order, and a timer that is armed may always be what comes next.

    Attributes:
        lost: an attempt's answer may be lost (a crash after it, a lease that ended): the task is
            performed again. late: so many attempts of workers that lost their lease may still be
            under way, and take effect at any later time, when the task may long be settled.
        overdue: time may pass a deadline before its timer fires, and other things come in between,
            one millisecond after it.
    """

    lost: bool = True
    late: int = 1
    overdue: bool = False


class WrongModel(InvalidWorkflow):
    """A function of the check raised, or gave what it must not."""


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Tell what a function of the check raises under its name; what we raise has one already."""
    try:
        yield
    except StmflowError:
        raise
    except Exception as error:
        raise WrongModel(f"{what} raised {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Property:
    """Something that must hold of every behaviour; made by the functions below."""

    kind: str
    name: str
    test: Callable[..., bool]
    when: Callable[[View], bool] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "test", _named(self.name, self.test))
        if self.when is not None:
            object.__setattr__(self, "when", _named(self.name, self.when))


def _named(name: str, function: Callable[..., bool]) -> Callable[..., bool]:
    """The same, and what it raises is told under the property's name."""

    @wraps(function)
    def asked(*seen: Any) -> bool:
        try:
            return function(*seen)
        except Exception as error:
            raise WrongModel(f"property {name!r} raised {type(error).__name__}: {error}") from error

    return asked


def always(name: str, test: Callable[[View], bool]) -> Property:
    """The test holds in every state."""
    return Property("always", name, test)


def sometimes(name: str, test: Callable[[View], bool]) -> Property:
    """The test holds in some state: what is never reached is not proved of anything."""
    return Property("sometimes", name, test)


def step(name: str, test: Callable[[View, Any, View], bool]) -> Property:
    """The test holds of every step: `(before, action, after)`."""
    return Property("step", name, test)


def eventually(name: str, test: Callable[[View], bool]) -> Property:
    """In every fair behaviour the test holds at some moment."""
    return Property("leads to", name, test)


def leads_to(name: str, when: Callable[[View], bool], then: Callable[[View], bool]) -> Property:
    """In every fair behaviour, once `when` holds, `then` holds at that moment or later. `then` is
    asked only from there on."""
    return Property("leads to", name, then, when)


def at_rest(name: str, test: Callable[[View], bool]) -> Property:
    """The test holds wherever no task, timer or answer is under way."""
    return Property("at rest", name, test)


@dataclass(frozen=True)
class Check:
    """A model to explore.

    Attributes:
        workflows: the very ones of production. sends, transactions: what clients may do.
        world: the world at first. handlers: task type → model of its handler. moves: the world's.
        transactional: as the transactor takes them. tasks: task types that are transactions of
            their own, as `scheduler.Transaction` runs them: type → `(tx, task) -> outcome`.
        properties: what must hold; that no cell is impossible and no task is parked, always.
        start: runs before the first state: a transaction that makes the jobs which are there.
        at: the time of the first state, in milliseconds. bound: states beyond which a view is not
            followed further (False: not explored from here), for workflows without end.
        parks: outcomes may be left uncaught: the task then waits for a person, for ever.
        symmetric: what may trade places, to have fewer states.
        timeless: time stands still, and any timer may be what comes next. What goes round by timers
            is then a circle, and finite; for workflows whose events do not tell the time.
        chooser: as the transactor takes it; the workflows may be several versions of one.
    """

    workflows: Sequence[Workflow]
    name: str = "check"
    sends: Sequence[Send] = ()
    transactions: Sequence[Transact] = ()
    world: Any = None
    handlers: Mapping[type, Handler] = field(default_factory=dict)
    moves: Sequence[Move] = ()
    transactional: Transactional = field(default_factory=dict)
    tasks: Mapping[type, Callable[[Tx, Any], Any]] = field(default_factory=dict)
    properties: Sequence[Property] = ()
    faults: Faults = Faults()
    start: Callable[[Tx], Any] | None = None
    at: int = 0
    bound: Callable[[View], bool] | None = None
    parks: bool = False
    symmetric: Sequence[Alike] = ()
    timeless: bool = False
    chooser: Chooser | None = None


def timed(function: Callable[..., Any], most: int) -> Callable[..., Any]:
    """A function that takes only the first of so many arguments, as one that takes them all."""
    takes = len(inspect.signature(function).parameters)
    return function if takes >= most else lambda *given: function(*given[:takes])
