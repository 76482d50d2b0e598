"""Traces: hops that any process can name, linked both ways, with nothing stored for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from scheduler import Context
from stmflow import CID, Transactor
from stmflow.observe import Tracing
from stmflow.observe.tracing import DerivedIds, hop
from stmflow.store.sqlite import SQLiteStore
from tests.stmflow.observe.work import FILE, SOON, Added, Hands, Notes, file, running, scheduled


class Traced(NamedTuple):
    """A process's own provider: what it traces, and what was exported."""

    tracing: Tracing
    tracer: trace.Tracer
    exporter: InMemorySpanExporter

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]


def traced(*, derived: bool = True, ratio: float = 1.0) -> Traced:
    ids = DerivedIds(RandomIdGenerator()) if derived else None
    exporter = InMemorySpanExporter()
    sampler = ParentBased(TraceIdRatioBased(ratio))
    provider = TracerProvider(sampler=sampler, **({} if ids is None else {"id_generator": ids}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    return Traced(Tracing(tracer, ids=ids, ratio=ratio), tracer, exporter)


def place(span: Any) -> tuple[int, int]:
    context = span.get_span_context() if hasattr(span, "get_span_context") else span
    return context.trace_id, context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [place(link.context) for link in span.links]


@contextmanager
def a_span(tracer: trace.Tracer) -> Iterator[trace.Span]:
    with tracer.start_as_current_span("caller") as span:
        yield span


# --- one process ----------------------------------------------------------------------------------


async def test_a_job_is_a_chain_of_hops_linked_both_ways() -> None:
    seen, notes = traced(), Notes()
    async with running(seen.tracing, notes) as transactor:
        job = await file(transactor, "a", delivery="first")
    send, stat, mark = [fact for fact in notes.answers if fact.revision is not None]
    assert stat.asked.task is not None
    assert mark.asked.task is not None
    hops = [hop(job.id, b"first"), hop(job.id, stat.asked.task), hop(job.id, mark.asked.task)]

    (sent,) = seen.named("send Added")
    assert place(sent) == hops[0]
    assert sent.parent is None
    assert sent.attributes is not None
    assert sent.attributes["stmflow.job"] == str(job.id)
    assert sent.attributes["stmflow.revision"] == str(send.revision)

    settles = seen.named("settle")
    for tag, here, before, settle in (
        ("Stat", hops[1], sent, settles[0]),
        ("Mark", hops[2], settles[0], settles[1]),
    ):
        (create,) = seen.named(f"create {tag}")
        (perform,) = seen.named(f"perform {tag}")
        assert place(create) == here
        assert create.parent is None
        assert linked(create) == [place(before)]
        assert linked(before) == [place(create)]
        assert perform.parent is not None
        assert place(perform.parent) == here
        assert settle.parent is not None
        assert place(settle.parent) == place(perform)
        assert settle.get_span_context().trace_id == here.trace
    assert linked(settles[1]) == []
    assert len({place(span) for span in seen.spans}) == len(seen.spans) == 7


async def test_attempts_are_side_by_side_and_say_what_went_wrong() -> None:
    seen = traced()
    async with running(seen.tracing) as transactor:
        await file(transactor, "a", "flaky")
        await file(transactor, "b", "uncaught")
    attempts = seen.named("perform Stat")
    found = [(span.status.status_code, dict(span.attributes or {})) for span in attempts]
    told = [(code, given["stmflow.attempt"], given.get("error.type")) for code, given in found]
    assert told == [
        (StatusCode.ERROR, 1, "Away"),
        (StatusCode.ERROR, 2, "Away"),
        (StatusCode.UNSET, 3, None),
        (StatusCode.ERROR, 1, "Odd"),
    ]
    assert len({span.parent.span_id for span in attempts[:3] if span.parent}) == 1
    (parked,) = [span for span in seen.named("settle") if span.status.description == "parked"]
    assert parked.status.status_code is StatusCode.ERROR


async def test_a_timer_is_a_hop_of_its_own() -> None:
    seen = traced()
    async with running(seen.tracing) as transactor:
        await file(transactor, "a", "sleepy")
    (create,), (fire,) = seen.named("create sleep"), seen.named("fire")
    assert fire.parent is not None
    assert place(fire.parent) == place(create)


async def test_a_caller_s_span_is_the_parent_and_the_hops_go_on_from_there() -> None:
    seen = traced()
    async with running(seen.tracing) as transactor:
        with a_span(seen.tracer) as caller:
            await transactor.send(FILE, Added("a"))
        await transactor.wait(FILE.job("a"), lambda state: state.status == "done", timeout=SOON)
    (sent,) = seen.named("send Added")
    (create,) = seen.named("create Stat")
    assert sent.parent is not None
    assert place(sent.parent) == place(caller)
    assert linked(create) == [place(sent)]
    assert create.get_span_context().trace_id != place(caller)[0]


async def test_a_handler_s_own_spans_lie_below_its_attempt() -> None:
    seen = traced()

    class Inner(Hands):
        async def stat(self, task: Any, context: Context) -> Any:
            with seen.tracer.start_as_current_span("PUT"):
                await anyio.sleep(0)
            return {"found": True}

    async with (
        SQLiteStore.open(":memory:") as store,
        Transactor(store, [FILE], observers=[seen.tracing]) as transactor,
        scheduled(transactor, Inner()),
    ):
        await file(transactor, "a")
    (put,), (perform,) = seen.named("PUT"), seen.named("perform Stat")
    assert put.parent is not None
    assert place(put.parent) == place(perform)
    (mark,) = seen.named("perform Mark")
    assert mark.get_span_context().trace_id != put.get_span_context().trace_id


async def test_a_repeat_is_told_below_the_first_and_does_not_take_its_place() -> None:
    seen = traced()
    async with running(seen.tracing) as transactor:
        for _ in range(3):
            await transactor.send(FILE, Added("a"), delivery="d")
    first, *repeats = seen.named("send Added")
    assert place(first) == hop(FILE.job("a").id, b"d")
    assert [place(span.parent) for span in repeats if span.parent] == [place(first)] * 2
    assert len({place(span) for span in (first, *repeats)}) == 3


# --- across processes -----------------------------------------------------------------------------


async def sends(path: Path, seen: Traced, names: Sequence[str]) -> None:
    """A process that sends, and performs nothing."""
    async with (
        SQLiteStore.open(path) as store,
        Transactor(store, [FILE], observers=[seen.tracing]) as transactor,
    ):
        for name in names:
            await transactor.send(FILE, Added(name), delivery="d")


async def works(path: Path, seen: Traced, names: Sequence[str]) -> None:
    """Another that performs what it finds."""
    async with (
        SQLiteStore.open(path) as store,
        Transactor(store, [FILE], observers=[seen.tracing]) as transactor,
        scheduled(transactor),
    ):
        for name in names:
            await transactor.wait(FILE.job(name), lambda s: s.status == "done", timeout=SOON)


async def test_two_processes_make_one_trace_with_nothing_passed_between_them(
    tmp_path: Path,
) -> None:
    sender, worker = traced(), traced()
    path = tmp_path / "jobs.db"
    await sends(path, sender, ["a"])
    await works(path, worker, ["a"])
    (create,), (perform,) = sender.named("create Stat"), worker.named("perform Stat")
    assert perform.parent is not None
    assert place(perform.parent) == place(create)
    assert sorted(span.name for span in sender.spans) == ["create Stat", "send Added"]
    assert sorted(span.name for span in worker.spans) == [
        "create Mark",
        "perform Mark",
        "perform Stat",
        "settle",
        "settle",
    ]


async def test_tracing_changes_no_cid(tmp_path: Path) -> None:
    heads: list[Any] = []
    for number, seen in enumerate((None, traced())):
        async with SQLiteStore.open(tmp_path / f"{number}.db") as store:
            observers = [] if seen is None else [seen.tracing]
            clock = Standing()
            async with Transactor(store, [FILE], observers=observers, clock=clock) as transactor:
                await transactor.send(FILE, Added("a"), delivery="first")
            heads.append((await store.heads([FILE.job("a").id]))[FILE.job("a").id])
            assert len(await store.tasks()) == 1
    assert heads[0] == heads[1]


class Standing:
    """A clock that stands still."""

    def now(self) -> int:
        return 1_700_000_000_000

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0.01 if at_ms > self.now() else 0)


async def test_every_process_samples_the_same_hops(tmp_path: Path) -> None:
    sender, worker = traced(ratio=0.5), traced(ratio=0.5)
    path, names = tmp_path / "jobs.db", [f"file {number}" for number in range(24)]
    await sends(path, sender, names)
    await works(path, worker, names)

    def traces(spans: Sequence[ReadableSpan]) -> set[int]:
        return {span.get_span_context().trace_id for span in spans}

    created, performed = traces(sender.named("create Stat")), traces(worker.named("perform Stat"))
    assert created == performed
    assert 0 < len(created) < len(names)


async def test_without_derived_ids_the_traces_are_the_same_and_their_root_is_missing() -> None:
    seen, notes = traced(derived=False), Notes()
    async with running(seen.tracing, notes) as transactor:
        job = await file(transactor, "a", delivery="first")
    send = next(fact for fact in notes.answers if fact.asked.request == "send")
    here = hop(job.id, send.armed[0].id)
    (create,), (perform,) = seen.named("create Stat"), seen.named("perform Stat")
    assert create.parent is not None
    assert perform.parent is not None
    assert place(create.parent) == place(perform.parent) == here


async def test_without_an_sdk_nothing_is_made_and_nothing_breaks() -> None:
    tracing = Tracing(trace.NoOpTracer())
    async with running(tracing) as transactor:
        await file(transactor, "a", "flaky")
        assert transactor.observers is not None
        assert transactor.observers.errors == 0


# --- the ids --------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40))
def test_a_hop_has_the_ids_of_its_job_and_delivery_alone(one: bytes, other: bytes) -> None:
    job = CID.of(b"job")
    assert hop(job, one) == hop(job, bytes(one))
    assert (hop(job, one) == hop(job, other)) == (one == other)
    assert hop(job, one) != hop(CID.of(b"another"), one)
    assert 0 < hop(job, one).trace < 2**128
    assert 0 < hop(job, one).span < 2**64
    assert int(hop(job, one).trace_id, 16) == hop(job, one).trace
    assert len(hop(job, one).trace_id) == 32


@pytest.mark.parametrize("ratio", [-0.01, 1.01])
def test_a_ratio_is_from_0_to_1(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        Tracing(trace.NoOpTracer(), ratio=ratio)
