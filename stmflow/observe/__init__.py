"""What happens, told to whoever watches: metrics, traces, logs.

    metrics = Metrics()
    async with Transactor(store, workflows, observers=[metrics, Logs()]) as transactor:
        ...
        metrics.text()

An observer is told of facts alone: of a batch, an answer or a revision once it is durable, of an
attempt when it begins and when it has ended. It is called on the engine's own loop, so it must be
quick; what it raises is kept from the engine. Without observers nothing of this is run.

Facts name things by CID, type and number. They hold no state, no event and no field of a task: what
may be secret cannot leak from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from stmflow.request import Fire, Request, Send, Settle, Transact
from stmflow.store import Commit, Member
from stmflow.transaction import Answer

if TYPE_CHECKING:
    from stmflow.cid import CID
    from stmflow.observe.logs import Logs
    from stmflow.observe.metrics import Metrics
    from stmflow.observe.tracing import Tracing

__all__ = [
    "STOPPED",
    "Answered",
    "Armed",
    "Asked",
    "Attempt",
    "Landed",
    "Logs",
    "Metrics",
    "Observer",
    "Observers",
    "Part",
    "Performed",
    "Refused",
    "Tracing",
]


# --- facts ----------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What was asked of the committer.

    Attributes:
        request: send, settle, fire or transact; housekeeping where one ends in an error.
        about: the event's type, where it is a send. job: whom it is about.
        delivery: the id under which it was sent; of a settle or fire, the bytes of its task's id.
        task: the task or timer that it is about. worker, token: of the claim that is settled.
        due: of a timer, when it was. since: when it was asked (all times in milliseconds).
        origin: what `Observer.origin` gave for it.
    """

    request: str
    about: str | None
    job: CID | None
    delivery: bytes | None
    task: CID | None
    worker: int | None
    token: int | None
    due: int | None
    since: int
    origin: Any


class Armed(NamedTuple):
    """A task or timer (`tag` is then `sleep`) that a commit has made ready."""

    job: CID
    id: CID
    tag: str
    due: int


class Answered(NamedTuple):
    """A request got its answer, and what it wrote is durable. `revision`: what it wrote."""

    asked: Asked
    answer: Answer
    revision: CID | None
    armed: Sequence[Armed]
    at: int


class Refused(NamedTuple):
    """A request ended in an error, which says whether it happened."""

    asked: Asked
    error: BaseException
    at: int


class Landed(NamedTuple):
    """A batch is durable: so many requests in one commit of the store."""

    requests: int
    sent: int
    at: int
    replanned: bool


class Attempt(NamedTuple):
    """A handler is about to be called. `at`: now; `since`: when the task was committed."""

    job: CID
    task: CID
    workflow: str
    tag: str
    tenant: str
    worker: int
    attempt: int
    token: int
    since: int
    at: int


STOPPED: Final = "Stopped"
"""In place of an error: the scheduler was left, and the attempt was given back."""


class Performed(NamedTuple):
    """What came of an attempt.

    `error` is None when it went well, else the name of the failure, or `STOPPED`; `again` when the
    task is due again (milliseconds), where it will be tried again.
    """

    error: str | None
    again: int | None
    at: int


# --- observers ------------------------------------------------------------------------------------


class Part(Protocol):
    """A part of the engine that has figures of its own, read when somebody asks."""

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what has happened."""
        ...

    def gauges(self) -> Mapping[str, float]:
        """How things stand now."""
        ...


class Observer:
    """Who watches. Every method does nothing until it is overridden."""

    def attach(self, part: Part) -> None:
        """A transactor or a scheduler begins."""

    def origin(self) -> Any:
        """What surrounds whoever asks now; it comes back in `Asked.origin`."""

    def landed(self, batch: Landed) -> None:
        """A batch is durable."""

    def answered(self, fact: Answered) -> None:
        """A request got its answer."""

    def refused(self, fact: Refused) -> None:
        """A request ended in an error."""

    def performing(self, attempt: Attempt) -> Callable[[Performed], None] | None:
        """A handler is about to be called, in the context of this call. What is returned is called
        with what came of it."""
        return None


class Observers:
    """Several observers as the engine calls them: what one raises stays here.

    Args:
        alarm: called with a text the first time that one of them raises.
    """

    def __init__(self, observers: Sequence[Observer], alarm: Callable[[str], None]) -> None:
        def hear(hook: str) -> list[Observer]:
            silent = getattr(Observer, hook)
            return [one for one in observers if getattr(type(one), hook) is not silent]

        self._observers = tuple(observers)
        self._surrounded = hear("origin")
        self._landed = hear("landed")
        self._answered = hear("answered")
        self._refused = hear("refused")
        self._performing = hear("performing")
        self._alarm = alarm
        self.errors = 0

    def attach(self, part: Part) -> None:
        """Tell all of a part of the engine."""
        for one in self._observers:
            self._safely(one.attach, part)

    def origins(self) -> dict[Observer, Any]:
        """What surrounds the caller, for each who wants to know."""
        return {one: self._safely(one.origin) for one in self._surrounded}

    def landed(self, requests: int, sent: int, at: int, *, replanned: bool) -> None:
        """A batch is durable."""
        fact = Landed(requests, sent, at, replanned)
        for one in self._landed:
            self._safely(one.landed, fact)

    def answered(self, request: Request, answer: Any, member: Member | None, at: int) -> None:
        """A request got its answer. Housekeeping, which has none, is nobody's business."""
        if type(answer) is not Answer or not self._answered:
            return
        revision, armed = None, _NONE
        if isinstance(member, Commit):
            revision = member.revision_cid
            if member.tasks or member.timers:
                armed = _armed(member)
        asked = _asked(request)
        fact = Answered(asked, answer, revision, armed, at)
        for one in self._answered:
            told = fact
            if one in request.origin:
                told = fact._replace(asked=asked._replace(origin=request.origin[one]))
            self._safely(one.answered, told)

    def refused(self, request: Request, error: BaseException, at: int) -> None:
        """A request ended in an error."""
        for one in self._refused:
            asked = _asked(request)._replace(origin=request.origin.get(one))
            self._safely(one.refused, Refused(asked, error, at))

    def performing(self, attempt: Attempt) -> Callable[[Performed], None]:
        """A handler is about to be called; returns what is to be called with what came of it."""
        ends = [self._safely(one.performing, attempt) for one in self._performing]

        def performed(fact: Performed) -> None:
            for end in reversed(ends):
                if end is not None:
                    self._safely(end, fact)

        return performed

    def _safely(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Exception as error:
            self.errors += 1
            if self.errors == 1:
                with suppress(Exception):
                    self._alarm(f"an observer raised {error!r}; later ones are only counted")
            return None


_NONE: Sequence[Armed] = ()


def _asked(request: Request) -> Asked:
    job = about = delivery = task = worker = token = due = None
    match request:
        case Settle():
            job, _, task, worker, token = request.ref
            delivery = task.bytes
        case Send():
            job, delivery, about = request.target, request.id, type(request.event).__name__
        case Fire():
            job, _, task, due = request.timer
            delivery = task.bytes
        case Transact():
            job, delivery = None if request.at is None else request.at.id, request.id
    kind = type(request).__name__.lower()
    return Asked(kind, about, job, delivery, task, worker, token, due, request.since, None)


def _armed(commit: Commit) -> list[Armed]:
    tasks = [Armed(task.job, task.id, task.tag, task.at) for task in commit.tasks]
    return tasks + [Armed(timer.job, timer.id, "sleep", timer.due) for timer in commit.timers]


def __getattr__(name: str) -> Any:
    """`Metrics`, `Logs` and `Tracing`, imported when they are first asked for."""
    from importlib import import_module

    if name not in ("Metrics", "Logs", "Tracing"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)
