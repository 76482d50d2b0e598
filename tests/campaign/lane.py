"""A process that runs slices: parts are opened when first asked for, and closed at the end."""

from __future__ import annotations

import resource
import signal
import tempfile
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

from tests.campaign.part import Step
from tests.campaign.parts import PARTS


@dataclass(frozen=True, slots=True)
class Slice:
    """What a slice came to. `violation` is None, or how to see it again."""

    part: str
    number: int
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    violation: str | None = None
    peak_kib: int = 0


def serve(ends: Connection) -> None:
    """Run what is asked for, (part, number) by (part, number), until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parts = {part.name: part for part in PARTS}
    steps: dict[str, Step] = {}
    with tempfile.TemporaryDirectory(prefix="stmflow-campaign-") as folder, ExitStack() as stack:
        while (asked := ends.recv()) is not None:
            name, number = asked
            began = monotonic()
            counts, violation = {}, None
            try:
                if name not in steps:
                    under = Path(folder) / name.replace(" ", "-").replace(",", "")
                    under.mkdir()
                    steps[name] = stack.enter_context(parts[name].open(under))
                counts = dict(steps[name](number))
            except Exception:
                violation = traceback.format_exc()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            ends.send(Slice(name, number, monotonic() - began, counts, violation, peak))
