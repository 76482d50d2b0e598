"""`python -m tests.campaign`: all parts for a stated time, or each up to what CI asks for.

    python -m tests.campaign --minutes 60
    python -m tests.campaign --gate
    python -m tests.campaign --only "seeds, memory" --first 17 --slices 1

Two processes run slices side by side. Exit code 0 only if nothing was violated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import secrets
import sys
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Any

from tests.campaign.lane import Slice, serve
from tests.campaign.part import Part
from tests.campaign.parts import PARTS

LANES = 2
FORGIVEN = 3
"""After so many violations a part is not run again: what it would find is known."""


@dataclass(slots=True)
class Ledger:
    """What one part has come to."""

    part: Part
    slices: int = 0
    seconds: float = 0.0
    running: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        return self.counts[self.part.unit]

    def expected(self) -> int:
        """What it will have done when the slices that run now have ended."""
        ended = self.slices - self.running
        each = self.done / ended if ended else 0
        return self.done + round(self.running * each)


class Campaign:
    """Gives slices to lanes until it is time to stop."""

    def __init__(self, options: argparse.Namespace, ledgers: list[Ledger]) -> None:
        self.options = options
        self.ledgers = {ledger.part.name: ledger for ledger in ledgers}
        self.first = options.first
        self.began = monotonic()
        self.peak_kib = 0

    def next(self) -> tuple[str, int] | None:
        """The part that is furthest behind, and the number of its next slice; None: no more."""
        open = [ledger for ledger in self.ledgers.values() if self._wanted(ledger)]
        if not open:
            return None
        if self.options.gate:
            chosen = min(open, key=lambda ledger: ledger.expected() / ledger.part.gate)
        else:
            chosen = min(open, key=lambda ledger: self._used(ledger) / ledger.part.share)
        number = self.first + chosen.slices
        chosen.slices += 1
        chosen.running += 1
        return chosen.part.name, number

    def _wanted(self, ledger: Ledger) -> bool:
        options = self.options
        if len(ledger.violations) >= FORGIVEN or (ledger.running and not ledger.part.both):
            return False
        if options.slices is not None:
            return bool(ledger.slices < options.slices)
        if options.gate:
            whole = ledger.part.name.startswith(tuple(options.whole))
            return bool(ledger.expected() < ledger.part.gate * (1 if whole else options.share))
        return bool(monotonic() - self.began < options.minutes * 60)

    def _used(self, ledger: Ledger) -> float:
        ended = ledger.slices - ledger.running
        each = ledger.seconds / ended if ended else 1.0
        return ledger.seconds + ledger.running * each

    def note(self, slice: Slice) -> None:
        """A slice has ended."""
        ledger = self.ledgers[slice.part]
        ledger.running -= 1
        ledger.seconds += slice.seconds
        ledger.counts.update(slice.counts)
        self.peak_kib = max(self.peak_kib, slice.peak_kib)
        if slice.violation is not None:
            ledger.violations.append(slice.violation)
            again = f'python -m tests.campaign --only "{slice.part}" --first {slice.number}'
            print(f"VIOLATION  {again} --slices 1\n{slice.violation}", flush=True)

    def line(self) -> str:
        """Where it stands."""
        minutes = (monotonic() - self.began) / 60
        done = [f"{one.done:,} {one.part.unit}" for one in self.ledgers.values()]
        return f"{minutes:.0f} min: {'; '.join(done)}"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--gate", action="store_true", help="each part up to what CI asks for")
    parser.add_argument("--share", type=float, default=1.0, help="of what the gate asks for")
    parser.add_argument("--whole", action="append", default=[], help="parts that are not shared")
    parser.add_argument("--slices", type=int, help="so many slices of each part")
    parser.add_argument("--only", action="append", help="a part's name, or how it begins")
    parser.add_argument("--first", type=int, help="the first slice's number; default: drawn")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args(arguments)
    if options.first is None:
        options.first = 0 if options.gate else secrets.randbelow(2**30)
    wanted = tuple(options.only or [""])
    ledgers = [Ledger(part) for part in PARTS if part.name.startswith(wanted)]
    if not ledgers:
        parser.error(f"no such part; there are: {', '.join(part.name for part in PARTS)}")
    campaign = Campaign(options, ledgers)
    print(f"{len(ledgers)} parts, slices from {options.first}", flush=True)
    _run(campaign)
    print(table(campaign))
    if options.json is not None:
        options.json.write_text(json.dumps(figures(campaign), indent=1) + "\n")
    return int(any(ledger.violations for ledger in ledgers))


class Lane:
    """A process that runs slices; one that died is replaced."""

    def __init__(self) -> None:
        self._asked: tuple[str, int, float] = ("", 0, 0.0)
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there,))
        self._process.start()
        there.close()

    def ask(self, part: str, number: int) -> None:
        """Have it run that slice."""
        self._asked = (part, number, monotonic())
        self.ends.send((part, number))

    def told(self) -> Slice:
        """What the slice came to; a lane that died in it has violated something."""
        part, number, began = self._asked
        try:
            answer = self.ends.recv()
        except EOFError:
            self._process.join()
            died = f"its process ended with {self._process.exitcode}"
            self._start()
            return Slice(part, number, monotonic() - began, violation=died)
        assert isinstance(answer, Slice)
        return answer

    def close(self) -> None:
        """Close what its parts have opened."""
        self.ends.send(None)
        self._process.join()


def _run(campaign: Campaign) -> None:
    idle, busy = [Lane() for _ in range(LANES)], list[Lane]()
    said = monotonic()
    while True:
        while idle and (asked := campaign.next()) is not None:
            busy.append(idle.pop())
            busy[-1].ask(*asked)
        if not busy:
            break
        ready = wait([lane.ends for lane in busy], 60)
        for lane in [lane for lane in busy if lane.ends in ready]:
            campaign.note(lane.told())
            busy.remove(lane)
            idle.append(lane)
        if monotonic() - said > 60:
            said = monotonic()
            print(campaign.line(), flush=True)
    for lane in idle:
        lane.close()


def table(campaign: Campaign) -> str:
    """A line for each part, then what was counted in it."""
    ledgers = list(campaign.ledgers.values())
    width = max(len(ledger.part.name) for ledger in ledgers)
    lines = [f"{'part':{width}}  {'figure':>22}  slices  minutes  violations"]
    for one in ledgers:
        figure = f"{one.done:,} {one.part.unit}"
        lines.append(
            f"{one.part.name:{width}}  {figure:>22}  {one.slices:6}  {one.seconds / 60:7.1f}"
            f"  {len(one.violations):10}"
        )
    for one in ledgers:
        counted = [f"{name} {n:,}" for name, n in sorted(one.counts.items()) if n]
        lines += ["", f"{one.part.name}: {', '.join(counted)}"]
    minutes = (monotonic() - campaign.began) / 60
    lines += ["", f"{minutes:.1f} minutes, at most {campaign.peak_kib // 1024} MiB in a process"]
    return "\n".join(lines)


def figures(campaign: Campaign) -> dict[str, Any]:
    """The same as one mapping."""
    return {
        "minutes": round((monotonic() - campaign.began) / 60, 1),
        "first": campaign.first,
        "peak_mib": campaign.peak_kib // 1024,
        "parts": {
            one.part.name: {
                "promises": one.part.promises,
                "unit": one.part.unit,
                "done": one.done,
                "slices": one.slices,
                "seconds": round(one.seconds),
                "violations": len(one.violations),
                "counts": dict(sorted(one.counts.items())),
            }
            for one in campaign.ledgers.values()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
