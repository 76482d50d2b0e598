"""store/add over an S3 server that fails and lies, by seed; its clients lie as well."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scheduler.testing.s3 import S3_FAULTS
from tests.campaign.part import Part, Step, Violation
from tests.simulation.uploads import uploaded

SLICE = 16
"""As many as there are faults: each is certain to exist in one of them."""

KINDS = 3
"""Of so many faults at least something comes of in a slice."""


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    logging.disable(logging.CRITICAL)
    yield _step


def _step(number: int) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for seed in range(number * SLICE, (number + 1) * SLICE):
        outcome = uploaded(seed)
        if outcome.problems:
            again = f"make test ARGS='tests/simulation/test_uploads.py -k whatever --seed {seed}'"
            raise Violation(f"{again}\n{outcome.report()}")
        counts.update(outcome.seen)
        counts["seeds"] += 1
        counts["steps"] += outcome.steps
        counts["virtual seconds"] += round(outcome.virtual_seconds)
    kinds = sum(counts[fault] > 0 for fault in S3_FAULTS)
    if kinds < KINDS or not counts["end stored"] or not counts["end expired"]:
        raise Violation(f"slice {number} tries nothing: {dict(counts)}")
    return counts


PART = Part("uploads", "P4 P6 P7 P13", "seeds", 96, _open, 2)
