"""What a seed draws, and what its world leaves behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, NamedTuple

from scheduler.testing.faults import Faults
from stmflow.cid import CID
from stmflow.workflow import Workflow

NARROW = 2
"""A queue that a handler which sends may find full: then it fails, and is tried again."""


CALM_GRAIN_MS = 5_000
"""How coarsely processes sleep where nothing is drawn: the steps of an idle world are of no
interest."""


FATES = ("lost", "landed")
"""What becomes of the commit on its way when its process crashes: the names of `Crash.lands`."""


class Crash(NamedTuple):
    """Before which loop step, whether the commit on its way lands, and which process falls: a
    number, counted round among those that live."""

    step: int
    lands: bool = False
    node: int = 0


@dataclass(slots=True)
class Options:
    """What a seed draws. Any field may be set to steer a run.

    Attributes:
        rates: fault → how likely, each time it could come. crashes: those that are not drawn, in
            order of their steps. news_s: how late a process hears of what others have written.
    """

    seed: int
    rates: dict[str, float]
    nodes: int
    clients: int
    operations: int
    fault_seconds: float
    grain_ms: int
    slots: int
    lease_seconds: float
    replans: bool
    pure: bool
    queued_requests: int = 16_384
    news_s: float = 0.0
    crashes: tuple[Crash, ...] = ()

    @staticmethod
    def draw(seed: int) -> Options:
        """The options of that seed."""
        random = Random(f"options {seed}")
        quiet = random.random() < 0.1
        rates = Faults.draw(random)
        return Options(
            seed=seed,
            rates={} if quiet else rates,
            nodes=random.randint(1, 4),
            clients=random.randint(1, 8),
            operations=random.randint(3, 12),
            # who loses every race loses as many as he is given
            fault_seconds=random.uniform(15 if 1.0 in rates.values() else 3, 20),
            grain_ms=random.choice((15, 100, 400, 400)),
            slots=random.choice((1, 2, 4, 16)),
            lease_seconds=random.choice((5.0, 10.0)),
            replans=random.random() < 0.5,
            pure=random.random() < 0.2,
            queued_requests=random.choice((NARROW, 16_384, 16_384, 16_384)),
            news_s=random.choice((0.0, 0.0, 0.05, 0.5)),
        )

    @staticmethod
    def calm(seed: int, *, operations: int = 2, nodes: int = 1) -> Options:
        """A short life of one client, in which no fault is drawn."""
        return Options(
            seed=seed,
            rates={},
            nodes=nodes,
            clients=1,
            operations=operations,
            fault_seconds=0.0,
            grain_ms=CALM_GRAIN_MS,
            slots=2,
            lease_seconds=60.0,
            replans=False,
            pure=False,
        )


@dataclass(slots=True)
class Outcome:
    """What a world left behind: the history, the store at rest, and what went wrong.

    Attributes:
        history: what clients saw, one mapping a line, as `stmflow.testing.linear` reads it; `time`
            is in virtual nanoseconds, `index` counts the lines.
        seen: what happened → how often: faults, answers, errors, events with the state they gave.
        performed: task → (process, attempt) of each run of its handler. failed: task → how many of
            these raised or took too long.
        handled: tags of the tasks that have one. redriven: tasks that a person tried again.
        workflows: every version that some process ran. mixed: not all processes ran the same app.
        store: open, as the world left it. began: the last step before clients did anything.
        digest: of steps and history; the same seed gives the same.
    """

    options: Options
    workload: Any = None
    history: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    performed: dict[CID, list[tuple[str, int]]] = field(default_factory=dict)
    failed: Counter[CID] = field(default_factory=Counter)
    handled: set[str] = field(default_factory=set)
    redriven: set[str] = field(default_factory=set)
    workflows: list[Workflow] = field(default_factory=list)
    mixed: bool = False
    store: Any = None
    began: int = 0
    steps: int = 0
    virtual_seconds: float = 0.0
    digest: str = ""

    def report(self) -> str:
        """Seed and options first, then the problems."""
        lines = [f"seed {self.options.seed}", f"options {json.dumps(asdict(self.options))}"]
        lines.append(f"workload {self.workload!r}")
        lines.append(f"steps {self.steps}, virtual seconds {self.virtual_seconds:.1f}")
        return "\n".join([*lines, *self.problems])

    def lines(self) -> Iterator[str]:
        """The history as JSON lines."""
        return (json.dumps(line, sort_keys=True) for line in self.history)
