"""A chart that was read from SCXML, as a workflow: sessions, messages, what is sent for later."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stmflow.effect import ANY, Effect, cancel, sleep
from stmflow.schema import At, Data, thaw
from stmflow.statechart.chart import Active, Chart
from stmflow.statechart.model import Act, Go, State
from stmflow.statechart.scxml.content import Info, Session
from stmflow.statechart.scxml.expression import UNDEFINED
from stmflow.statechart.step import Named, Step
from stmflow.workflow import reject, same

_RESERVED = re.compile(r"(done|error)(\.|$)|$")
"""Names of events that only the chart itself raises."""

SENT = "send"
"""The name of the one timer of a session: when the next event is due that was sent for later."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begins a session: its data model is made and its initial states are entered."""

    tag = "scxml.start"
    session: str
    at: At = 0


@dataclass(frozen=True, slots=True)
class Message:
    """An event from outside. `data` is what `_event.data` shows; None: nothing. Names that begin
    with `done.` or `error.` are the chart's own and are rejected as `Reserved`."""

    tag = "scxml.message"
    session: str
    name: str
    data: Data = None
    at: At = 0


@dataclass(frozen=True, slots=True)
class Due:
    """Events that were sent for later are due. Fired by the timer alone."""

    tag = "scxml.due"
    at: At = 0


class Scxml(Chart):
    """A chart whose states, acts and guards come from a document.

    One job is one session: `Start(session)` begins it, `Message(session, name, data)` is an event
    of that name. What a document sends to itself without delay is handled in the same commit; what
    it sends for later stands in the state and one durable timer waits for the next of it.

    Attributes:
        title: the document's own name. faults: what is not supported in it, each by line; only a
            document that was read with `strict=False` has any.
    """

    def __init__(
        self,
        name: str,
        *,
        states: Sequence[State],
        initial: str | Go | None,
        entry: Sequence[Act],
        title: str,
        faults: Sequence[str] = (),
    ) -> None:
        super().__init__(
            name,
            states=states,
            initial=initial,
            entry=entry,
            data=Session,
            start=lambda event: Session(event.session, title, {}),
            events=(Start, Message, Due),
            outside=(Start, Message),
            begin=(Start,),
            key=("session",),
            prefixes=True,
        )
        self.title = title
        self.faults = tuple(faults)

    def _update(self, event: Any, state: Active | None) -> Any:
        if state is None and not isinstance(event, Start):
            return reject("NoSession")
        if state is not None and isinstance(event, Start):
            return same()
        if isinstance(event, Message) and _RESERVED.match(event.name):
            return reject("Reserved")
        return super()._update(event, state)

    def _feed(self, step: Step, event: Any) -> None:
        if isinstance(event, Message):
            data = UNDEFINED if event.data is None else thaw(event.data)
            step.send(Named(event.name, Info("external", data)))
        elif isinstance(event, Due):
            self._fall_due(step, event.at)

    def _fall_due(self, step: Step, at: int) -> None:
        """Send what is due, in the order of the times; one may cancel the next."""
        while due := [one for one in step.data.pending if 0 <= one.due <= at]:
            first = min(due, key=lambda one: (one.due, one.n))
            rest = tuple(one for one in step.data.pending if one is not first)
            step.data = replace(step.data, pending=rest)
            data = thaw(first.data[0]) if first.data else UNDEFINED
            step.send(Named(first.name, Info("external", data, first.id)))

    def _last(
        self, event: Any, data: Session, before: Active | None
    ) -> tuple[Session, Sequence[Effect]]:
        """Give what was sent its time, and see that the timer waits for the earliest."""
        pending = tuple(
            replace(one, due=event.at - one.due) if one.due < 0 else one for one in data.pending
        )
        due = min((one.due for one in pending), default=None)
        waits = () if before is None or isinstance(event, Due) else before.data.pending
        armed = min((one.due for one in waits), default=None)
        effects: list[Effect] = []
        if due is not None and due != armed:
            effects = [sleep(until=due, name=SENT, during=ANY).then(Due)]
        elif due is None and armed is not None:
            effects = [cancel(SENT)]
        return (data if pending == data.pending else replace(data, pending=pending)), effects
