"""What a process holds, over time: memory and open files, and by how much they grow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

MIB = 1024**2
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """`at`: seconds since the start."""

    at: float
    value: float


@dataclass(slots=True)
class Series:
    """One figure over time."""

    samples: list[Sample] = field(default_factory=list)

    def add(self, at: float, value: float) -> None:
        self.samples.append(Sample(at, value))

    def after(self, at: float) -> Series:
        """Only what was taken then or later."""
        return Series([one for one in self.samples if one.at >= at])

    @property
    def slope(self) -> float:
        """Growth per hour, by least squares; 0 for fewer than two samples."""
        count = len(self.samples)
        if count < 2:
            return 0.0
        x = sum(one.at for one in self.samples) / count
        y = sum(one.value for one in self.samples) / count
        below = sum((one.at - x) ** 2 for one in self.samples)
        above = sum((one.at - x) * (one.value - y) for one in self.samples)
        return 3_600 * above / below if below else 0.0

    @property
    def growth(self) -> float:
        """What the fitted line gains from the first sample to the last."""
        if len(self.samples) < 2:
            return 0.0
        return self.slope * (self.samples[-1].at - self.samples[0].at) / 3_600

    def figures(self) -> dict[str, float]:
        values = [one.value for one in self.samples] or [0.0]
        return {
            "start": round(values[0], 1),
            "end": round(values[-1], 1),
            "max": round(max(values), 1),
            "per_hour": round(self.slope, 1),
            "growth": round(self.growth, 2),
        }


def memory_mib(pid: int) -> float:
    """Resident memory. Raises OSError where the process has gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MIB


def open_files(pid: int) -> int:
    """Open file descriptors. Raises OSError where the process has gone."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; all but the first to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
