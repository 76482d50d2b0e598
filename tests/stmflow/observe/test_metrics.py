"""Metrics: the figures are right, and Prometheus' own parser reads the text."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stmflow import Transactor
from stmflow.errors import Busy
from stmflow.observe import Answered, Asked, Attempt, Metrics, Performed
from stmflow.observe.metrics import COUNTERS, GAUGES, Family, Histogram, Sample, _lines
from stmflow.store.memory import MemoryStore
from stmflow.transaction import Answer
from tests.stmflow.observe.work import FILE, Added, file, running

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Found:
    """Every sample by name and labels, as Prometheus' parser reads it."""
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: Found, name: str, **labels: str) -> float:
    return found[(f"stmflow_{name}", tuple(sorted(labels.items())))]


async def test_what_happened_is_counted() -> None:
    metrics = Metrics()
    async with running(metrics) as transactor:
        for name in ("a", "b", "c"):
            await file(transactor, name, delivery=name)
        await transactor.send(FILE, Added("a"), delivery="a")
        await file(transactor, "f", "flaky")
        await file(transactor, "u", "uncaught")
        await file(transactor, "s", "sleepy")
        await transactor.send(FILE, Added("z", "no"))
        found = parsed(metrics.text())
    assert value(found, "answers_total", request="send", answer="committed") == 6
    assert value(found, "answers_total", request="send", answer="repeated") == 1
    assert value(found, "answers_total", request="send", answer="rejected") == 1
    assert value(found, "answers_total", request="settle", answer="committed") == 8
    assert value(found, "answers_total", request="settle", answer="parked") == 1
    assert value(found, "answers_total", request="fire", answer="committed") == 1
    assert value(found, "commits_total") == 15
    assert value(found, "attempts_total") == 11
    assert value(found, "retries_total") == 2
    assert value(found, "timers_total") == 1
    ok = value(found, "attempt_seconds_count", task="Stat", result="ok")
    assert (ok, value(found, "attempt_seconds_count", task="Mark", result="ok")) == (4, 4)
    assert value(found, "attempt_seconds_count", task="Stat", result="retried") == 2
    assert value(found, "attempt_seconds_count", task="Stat", result="failed") == 1
    assert value(found, "request_seconds_count", request="send") == 8
    assert value(found, "task_delay_seconds_count", task="Stat") == 5
    assert value(found, "timer_late_seconds_count") == 1
    assert value(found, "batch_requests_count") == value(found, "batches_total")
    assert value(found, "commit_seconds_count") == value(found, "batches_total")
    assert value(found, "slots") == 64
    assert value(found, "queue_requests") == value(found, "running_tasks") == 0
    assert value(found, "cached_heads") <= 7  # a commit elsewhere, if only a beat, may drop them


async def test_what_waits_and_what_is_refused_is_shown() -> None:
    class Shut(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.free = anyio.Event()

        async def commit(self, batch: Any) -> Any:
            await self.free.wait()
            return await super().commit(batch)

    metrics, store = Metrics(), Shut()
    async with (
        Transactor(store, [FILE], observers=[metrics], queued_requests=2) as transactor,
        anyio.create_task_group() as group,
    ):
        group.start_soon(transactor.send, FILE, Added("a"))
        await anyio.sleep(0.02)
        group.start_soon(transactor.send, FILE, Added("b"))
        group.start_soon(transactor.send, FILE, Added("c"))
        await anyio.sleep(0.02)
        with pytest.raises(Busy):
            await transactor.send(FILE, Added("d"))
        found = parsed(metrics.text())
        store.free.set()
    assert value(found, "queue_requests") == 2
    assert value(found, "queue_age_seconds") >= 0.02
    assert value(found, "busy_total") == 1
    assert value(found, "errors_total", request="send", error="Busy") == 1


async def test_two_transactors_of_one_process_are_added_up() -> None:
    metrics = Metrics()
    async with running(metrics) as one, running(metrics) as two:
        await file(one, "a")
        await file(two, "b")
        found = parsed(metrics.text())
    assert value(found, "commits_total") == 6
    assert value(found, "slots") == 128


async def test_every_counter_of_the_engine_has_its_metric() -> None:
    metrics = Metrics()
    async with running(metrics) as transactor:
        await file(transactor, "a", "flaky")
        counted = {name for part in metrics._parts for name in part.counters}
        gauged = {name for part in metrics._parts for name in part.gauges()}
    answers = {"committed", "parked", "closed", "fenced", "stale"}  # told as answers already
    assert counted - answers - set(COUNTERS) == set()
    assert gauged == set(GAUGES)


def test_before_anything_has_happened_the_text_is_valid() -> None:
    found = parsed(Metrics().text())
    assert value(found, "commits_total") == 0


# --- the format -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["plain", 'with "quotes"', "back\\slash", "two\nlines", "ü⟨⟩", "", "{a}=,"]
)
def test_labels_and_help_come_back_as_they_were(text: str) -> None:
    family = Family("stmflow_x", "counter", text or "x", [Sample("_total", {"a": text}, 3)])
    (read,) = text_string_to_metric_families("".join(_lines(family)))
    assert read.documentation == (text or "x")
    assert [(sample.labels, sample.value) for sample in read.samples] == [({"a": text}, 3.0)]


def test_a_histogram_counts_what_is_at_its_bounds_below_them() -> None:
    histogram = Histogram((10, 100), 1_000)
    for given in (-5, 0, 9, 10, 11, 99, 100, 101, 5_000):
        histogram.add(given)
    family = Family("stmflow_x_seconds", "histogram", "x", list(histogram.samples({})))
    (read,) = text_string_to_metric_families("".join(_lines(family)))
    assert read.type == "histogram"
    buckets = {s.labels["le"]: s.value for s in read.samples if s.name.endswith("_bucket")}
    assert buckets == {"0.01": 4, "0.1": 7, "+Inf": 9}
    assert [float(le) for le in buckets] == [0.01, 0.1, math.inf]
    sums = {s.name: s.value for s in read.samples if "le" not in s.labels}
    assert sums == {"stmflow_x_seconds_sum": 5.33, "stmflow_x_seconds_count": 9}


def test_label_values_come_from_types_and_never_from_what_callers_send() -> None:
    metrics = Metrics()
    asked = Asked("send", "Added", None, b"id", None, None, None, None, 0, None)
    for number in range(100):
        answer = Answer("rejected", code=f"Code{number}")
        metrics.answered(Answered(asked, answer, None, [], 1))
        attempt = Attempt(*[None] * 2, "w", "Stat", f"tenant {number}", 1, 1, 1, 0, 0)  # type: ignore[arg-type]
        metrics.performing(attempt)(Performed(f"Error{number}", None, 1))
    assert "Code7" not in metrics.text()
    assert "tenant" not in metrics.text()
    assert "Error7" not in metrics.text()
