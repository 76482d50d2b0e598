"""OpenTelemetry spans that follow event → commit → task → event, across processes.

    async with Transactor(store, workflows, observers=[Tracing()]):
        ...

Nothing travels with the work: no context is stored, and no CID knows of it. A trace is one *hop*: a
delivery and what answers it. Its id is a hash of (job, delivery id), and the delivery id of an
outcome is its task's id, so whoever holds a task knows its trace, on whatever host, years later:

    trace of an outside delivery      trace of a task or timer
    ┌──────────────────────────┐      ┌──────────────────────────────────┐
    │ send Added               │ ◄──► │ create Stat                      │
    └──────────────────────────┘ link │   ├ perform Stat, attempt 1      │      ┌─────────────
                                      │   └ perform Stat, attempt 2      │ ◄──► │ create Mark
                                      │       └ settle                   │ link │   …
                                      └──────────────────────────────────┘      └─────────────

A commit's span is linked to those of the tasks that it made ready, and they to it. So a job that
lives for days is a chain of short traces and not one without end. Where the caller of `send` or
`transact` is in a span of its own, the commit's span is its child, in its trace.

A span's own id is made by the SDK. With `DerivedIds` as the SDK's generator the first span of a hop
gets the id that all others take for its own; without, backends say that the root is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
)

from stmflow.cid import CID
from stmflow.observe import Answered, Armed, Asked, Attempt, Observer, Performed, Refused

_NS: Final = 1_000_000
_LOW: Final = 2**64
_FAILED: Final = ("parked", "fenced")

Attributes = dict[str, str | int | bool]


class Hop(NamedTuple):
    """The ids of a hop's trace and of its first span."""

    trace: int
    span: int

    @property
    def trace_id(self) -> str:
        """The trace's id as backends show it: 32 hexadecimal digits."""
        return f"{self.trace:032x}"


def hop(job: CID, delivery: CID | bytes) -> Hop:
    """The hop of a delivery to a job; a task's id is the delivery id of its outcome."""
    id = delivery if isinstance(delivery, bytes) else delivery.bytes
    digest = sha256(b"stmflow hop\0" + job.bytes + b"\0" + id).digest()
    return Hop(int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1)


class Generator(Protocol):
    """What an SDK takes for `id_generator`."""

    def generate_trace_id(self) -> int: ...

    def generate_span_id(self) -> int: ...


class DerivedIds:
    """An `id_generator` for the SDK: derived ids for the first span of a hop, else `otherwise`'s.

    Args:
        otherwise: the generator for every other span: the SDK's `RandomIdGenerator()`.
    """

    def __init__(self, otherwise: Generator) -> None:
        self._otherwise = otherwise
        self._wanted: ContextVar[Hop | None] = ContextVar("stmflow_hop", default=None)

    def generate_trace_id(self) -> int:
        """The id for a new trace."""
        wanted = self._wanted.get()
        return self._otherwise.generate_trace_id() if wanted is None else wanted.trace

    def generate_span_id(self) -> int:
        """The id for a new span."""
        wanted = self._wanted.get()
        return self._otherwise.generate_span_id() if wanted is None else wanted.span

    def is_trace_id_random(self) -> bool:
        """Whether a new trace's id is drawn; asked for since level 2 of W3C's Trace Context."""
        asks = getattr(self._otherwise, "is_trace_id_random", None)
        return self._wanted.get() is None and asks is not None and bool(asks())

    def giving(self, wanted: Hop, start: Callable[[], Span]) -> Span:
        """Start a span that gets these ids."""
        token = self._wanted.set(wanted)
        try:
            return start()
        finally:
            self._wanted.reset(token)


class Tracing(Observer):
    """Makes spans of what happens.

    Args:
        tracer: default: that of the global provider. Without an SDK it makes nothing.
        ids: what the provider got as `id_generator`, if it is ours.
        ratio: the part of all hops that is sampled. All processes that are given the same one
            choose the same hops, as `TraceIdRatioBased` does.
    """

    def __init__(
        self, tracer: Tracer | None = None, *, ids: DerivedIds | None = None, ratio: float = 1.0
    ) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError("a ratio is from 0 to 1")
        self._tracer = trace.get_tracer("stmflow") if tracer is None else tracer
        self._ids = ids
        self._bound = round(ratio * _LOW)

    def origin(self) -> SpanContext | None:
        found = trace.get_current_span().get_span_context()
        return found if found.is_valid else None

    def answered(self, fact: Answered) -> None:
        asked, answer = fact.asked, fact.answer
        links = [Link(self._first(hop(armed.job, armed.id))) for armed in fact.armed]
        attributes = _attributes(asked) | {"stmflow.answer": answer.kind}
        if fact.revision is not None:
            attributes |= {"stmflow.revision": str(fact.revision), "stmflow.seq": answer.seq}
        if answer.code is not None:
            attributes["stmflow.code"] = answer.code
        if answer.repeated:
            attributes["stmflow.repeated"] = True
        span = self._asked(asked, attributes, links, first=not answer.repeated)
        if answer.kind in _FAILED:
            span.set_status(StatusCode.ERROR, answer.kind)
        for armed in fact.armed:
            self._create(armed, span.get_span_context(), fact.at)
        span.end(max(fact.at, asked.since) * _NS)

    def refused(self, fact: Refused) -> None:
        name = type(fact.error).__name__
        attributes = _attributes(fact.asked) | {"error.type": name}
        span = self._asked(fact.asked, attributes, [], first=False)
        span.set_status(StatusCode.ERROR, name)
        span.end(max(fact.at, fact.asked.since) * _NS)

    def performing(self, attempt: Attempt) -> Callable[[Performed], None]:
        span = self._tracer.start_span(
            f"perform {attempt.tag}",
            self._below(hop(attempt.job, attempt.task)),
            SpanKind.CONSUMER,
            {
                "stmflow.job": str(attempt.job),
                "stmflow.task": str(attempt.task),
                "stmflow.workflow": attempt.workflow,
                "stmflow.attempt": attempt.attempt,
                "stmflow.token": attempt.token,
                "stmflow.worker": attempt.worker,
            },
            start_time=attempt.at * _NS,
        )
        token = contexts.attach(trace.set_span_in_context(span))

        def performed(fact: Performed) -> None:
            contexts.detach(token)
            if fact.error is not None:
                span.set_attribute("error.type", fact.error)
                span.set_status(StatusCode.ERROR, fact.error)
            span.end(max(fact.at, attempt.at) * _NS)

        return performed

    # --- spans and their places

    def _asked(
        self, asked: Asked, attributes: Attributes, links: list[Link], *, first: bool
    ) -> Span:
        """The span of a request, from asking on; perhaps the first of its hop."""
        name = asked.request if asked.about is None else f"{asked.request} {asked.about}"
        place = None
        if asked.job is not None and asked.delivery is not None:
            place = hop(asked.job, asked.delivery)
        ambient: SpanContext | None = asked.origin
        if asked.task is not None:
            first = False
            if ambient is not None and (place is None or ambient.trace_id != place.trace):
                ambient = None  # whoever settles may be in any span: only its own attempt counts

        def start(context: Context | None) -> Span:
            return self._tracer.start_span(
                name, context, SpanKind.INTERNAL, attributes, links, start_time=asked.since * _NS
            )

        if ambient is not None:
            return start(trace.set_span_in_context(NonRecordingSpan(ambient)))
        if place is None:
            return start(Context())
        if not first or self._ids is None:
            return start(self._below(place))
        return self._ids.giving(place, lambda: start(Context()))

    def _create(self, armed: Armed, commit: SpanContext, at: int) -> None:
        """The first span of a task's hop, made by whoever commits it."""
        first = hop(armed.job, armed.id)
        attributes: Attributes = {
            "stmflow.job": str(armed.job),
            "stmflow.task": str(armed.id),
            "stmflow.due": armed.due,
        }

        def start(context: Context) -> Span:
            return self._tracer.start_span(
                f"create {armed.tag}",
                context,
                SpanKind.PRODUCER,
                attributes,
                [Link(commit)],
                start_time=at * _NS,
            )

        if self._ids is None:
            span = start(self._below(first))
        else:
            span = self._ids.giving(first, lambda: start(Context()))
        span.end(at * _NS)

    def _first(self, first: Hop) -> SpanContext:
        """The hop's first span, as seen from elsewhere."""
        sampled = first.trace % _LOW < self._bound
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(first.trace, first.span, is_remote=True, trace_flags=flags)

    def _below(self, first: Hop) -> Context:
        return trace.set_span_in_context(NonRecordingSpan(self._first(first)), Context())


def _attributes(asked: Asked) -> Attributes:
    found: Attributes = {}
    if asked.job is not None:
        found["stmflow.job"] = str(asked.job)
    if asked.task is not None:
        found["stmflow.task"] = str(asked.task)
    elif asked.delivery is not None:
        found["stmflow.delivery"] = asked.delivery.hex()
    if asked.worker is not None and asked.token is not None:
        found |= {"stmflow.worker": asked.worker, "stmflow.token": asked.token}
    return found


__all__ = ["DerivedIds", "Generator", "Hop", "Tracing", "hop"]
