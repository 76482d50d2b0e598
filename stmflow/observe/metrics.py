"""Metrics, in the text format that Prometheus reads (version 0.0.4).

    metrics = Metrics()
    async with Transactor(store, workflows, observers=[metrics]) as transactor:
        metrics.text()

Most of it is counted by the engine anyway and only read here when somebody asks; what is added to
each commit is a few additions. Times are taken from the engine's clock, in whole milliseconds: one
figure is rounded, sums and averages are true.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text-based format).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from stmflow.observe import (
    STOPPED,
    Answered,
    Attempt,
    Landed,
    Observer,
    Part,
    Performed,
    Refused,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_MS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
_LONG_MS: Final = (10, 100, 1_000, 5_000, 10_000, 60_000, 300_000, 3_600_000, 86_400_000)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

COUNTERS: Final = {
    "batches": ("batches", "Commits of the store."),
    "conflicts": ("conflicts", "Requests whose heads had moved: planned again."),
    "replanned": ("replans", "Batches planned again under the store's lock."),
    "indeterminate": ("indeterminate", "Batches of unknown fate, settled by committing again."),
    "landed": ("landed", "Requests of unknown fate that had been committed."),
    "unavailable": ("unavailable", "Times that the store could not be reached or was busy."),
    "fenced": ("fenced", "Settles refused for a newer token."),
    "waits": ("waits", "Transactions that went to sleep in a retry."),
    "busy": ("busy", "Requests from outside refused for a full queue."),
    "fetched": ("heads_fetched", "Heads read from the store, not being in memory."),
    "alarms": ("alarms", "Reducers that answered impossible."),
    "performed": ("attempts", "Calls of handlers."),
    "retries": ("retries", "Attempts put off to be made again."),
    "exhausted": ("exhausted", "Tasks given up: attempts or time have run out."),
    "timers": ("timers", "Timers that were due."),
    "unsettled": ("unsettled", "Tasks whose job cannot be read here, left to other workers."),
}
"""Counter of a part of the engine → name of the metric (without `stmflow_` and `_total`), help."""

GAUGES: Final = {
    "queue": ("queue_requests", 1, "Requests that wait for a batch."),
    "queue_age_ms": ("queue_age_seconds", 1_000, "For how long the first of them has waited."),
    "heads": ("cached_heads", 1, "Heads of jobs in memory."),
    "sleeping": ("sleeping_requests", 1, "Transactions asleep in a retry."),
    "slots": ("slots", 1, "Tasks that may run at once."),
    "running": ("running_tasks", 1, "Tasks held: reserved, running or being settled."),
    "due_age_ms": ("due_age_seconds", 1_000, "For how long a task is due and not claimed."),
}
"""The same for gauges, with the divisor that makes it a base unit."""


class Sample(NamedTuple):
    """One line: suffix of the metric's name, labels, value."""

    suffix: str
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    """One metric with all its lines. `kind`: counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


class Histogram:
    """How often a value fell under each bound.

    Args:
        bounds: upper bounds, inclusive. unit: what divides bounds and sum when they are shown.
    """

    __slots__ = ("_bounds", "_counts", "_sum", "_unit")

    def __init__(self, bounds: tuple[int, ...], unit: int = 1) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0
        self._unit = unit

    def add(self, value: int) -> None:
        """Count a value; a negative one, after a clock was set back, as zero."""
        value = max(value, 0)
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: Mapping[str, str]) -> Iterable[Sample]:
        """The lines, each bound counting all that is below it."""
        below = 0
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            below += count
            shown = "+Inf" if bound is None else _number(bound / self._unit)
            yield Sample("_bucket", {**labels, "le": shown}, below)
        yield Sample("_sum", labels, self._sum / self._unit)
        yield Sample("_count", labels, below)


class _Labelled:
    """A histogram for each set of labels, made when it is first needed."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], make: Callable[[], Histogram]
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._make = make
        self._found: dict[tuple[str, ...], Histogram] = {}

    def add(self, value: int, *labels: str) -> None:
        if (found := self._found.get(labels)) is None:
            found = self._found[labels] = self._make()
        found.add(value)

    def family(self) -> Family:
        samples = [
            sample
            for values, histogram in self._found.items()
            for sample in histogram.samples(dict(zip(self._labels, values, strict=True)))
        ]
        return Family(f"stmflow_{self._name}", "histogram", self._text, samples)


class Metrics(Observer):
    """Counts what happens in one process, whatever transactors and schedulers it is given to."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._answers: dict[tuple[str, str], int] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._commits = 0
        self._batch = _Labelled(
            "batch_requests", "Requests in one commit of the store.", (), lambda: Histogram(_SIZES)
        )
        self._commit = _seconds("commit_seconds", "From sending a batch to its being durable.")
        self._request = _seconds("request_seconds", "From asking to a durable answer.", "request")
        self._attempt = _seconds("attempt_seconds", "One call of a handler.", "task", "result")
        self._delay = _long("task_delay_seconds", "From commit to first attempt.", "task")
        self._late = _long("timer_late_seconds", "From when a timer was due to its commit.")

    # --- what the engine calls

    def attach(self, part: Part) -> None:
        self._parts.append(part)

    def landed(self, batch: Landed) -> None:
        self._batch.add(batch.requests)
        self._commit.add(batch.at - batch.sent)

    def answered(self, fact: Answered) -> None:
        asked = fact.asked
        key = (asked.request, "repeated" if fact.answer.repeated else fact.answer.kind)
        self._answers[key] = self._answers.get(key, 0) + 1
        self._commits += fact.revision is not None
        self._request.add(fact.at - asked.since, asked.request)
        if asked.due is not None:
            self._late.add(fact.at - asked.due)

    def refused(self, fact: Refused) -> None:
        key = (fact.asked.request, type(fact.error).__name__)
        self._errors[key] = self._errors.get(key, 0) + 1

    def performing(self, attempt: Attempt) -> Callable[[Performed], None]:
        if attempt.attempt == 1:
            self._delay.add(attempt.at - attempt.since, attempt.tag)

        def performed(fact: Performed) -> None:
            self._attempt.add(fact.at - attempt.at, attempt.tag, _result(fact))

        return performed

    # --- what is asked

    def families(self) -> list[Family]:
        """Every metric as plain data, for a registry of your own."""
        return [
            Family("stmflow_commits", "counter", "Revisions.", [_total({}, self._commits)]),
            Family(
                "stmflow_answers",
                "counter",
                "Answers by request and kind.",
                [_total({"request": r, "answer": a}, n) for (r, a), n in self._answers.items()],
            ),
            Family(
                "stmflow_errors",
                "counter",
                "Requests that ended in an error.",
                [_total({"request": r, "error": e}, n) for (r, e), n in self._errors.items()],
            ),
            *self._counted(),
            *self._gauged(),
            self._batch.family(),
            self._commit.family(),
            self._request.family(),
            self._attempt.family(),
            self._delay.family(),
            self._late.family(),
        ]

    def text(self) -> str:
        """What an endpoint `/metrics` answers, as `CONTENT_TYPE`."""
        return "".join(
            line for family in self.families() if family.samples for line in _lines(family)
        )

    def _counted(self) -> Iterable[Family]:
        counted = [part.counters for part in self._parts]
        for key, (name, text) in COUNTERS.items():
            total = sum(each.get(key, 0) for each in counted)
            yield Family(f"stmflow_{name}", "counter", text, [_total({}, total)])

    def _gauged(self) -> Iterable[Family]:
        gauged = [part.gauges() for part in self._parts]
        for key, (name, unit, text) in GAUGES.items():
            values = [each[key] for each in gauged if key in each]
            if values:
                found = max(values) if key.endswith("_age_ms") else sum(values)
                yield Family(f"stmflow_{name}", "gauge", text, [Sample("", {}, found / unit)])


def _seconds(name: str, text: str, *labels: str) -> _Labelled:
    return _Labelled(name, text, labels, lambda: Histogram(_MS, 1_000))


def _long(name: str, text: str, *labels: str) -> _Labelled:
    return _Labelled(name, text, labels, lambda: Histogram(_LONG_MS, 1_000))


def _total(labels: Mapping[str, str], value: int) -> Sample:
    return Sample("_total", labels, value)


def _result(fact: Performed) -> str:
    """ok, retried, failed or stopped: names of failures are the workflow's, and may be many."""
    if fact.error is None:
        return "ok"
    if fact.error == STOPPED:
        return "stopped"
    return "failed" if fact.again is None else "retried"


# --- the format -----------------------------------------------------------------------------------


def _lines(family: Family) -> Iterable[str]:
    name = family.name + ("_total" if family.kind == "counter" else "")
    yield f"# HELP {name} {_escaped(family.help)}\n"
    yield f"# TYPE {name} {family.kind}\n"
    for suffix, labels, value in family.samples:
        shown = ",".join([f'{key}="{_quoted(text)}"' for key, text in labels.items()])
        yield f"{family.name}{suffix}{f'{{{shown}}}' if shown else ''} {_number(value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


__all__ = ["CONTENT_TYPE", "Family", "Histogram", "Metrics", "Sample"]
