"""Ledgers, read while they grow: every whole record, each once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final

PIECE: Final = 1024**2


class Tail:
    """The records `\\n…;` of a file that others append to. One that a kill has torn is left out."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = 0
        self.torn = 0

    def fresh(self) -> Iterator[str]:
        """What has come since the last time."""
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._at)
            rest = b""
            while piece := file.read(PIECE):
                *whole, rest = (rest + piece).split(b"\n")
                for record in whole:
                    yield from self._checked(record)
                self._at = file.tell() - len(rest)
            if rest.endswith(b";"):
                self._at += len(rest)
                yield from self._checked(rest)
            elif rest:
                self._at -= 1  # begin again at its line feed

    def _checked(self, record: bytes) -> Iterator[str]:
        if record.endswith(b";"):
            yield record[:-1].decode()
        elif record:
            self.torn += 1


class Book:
    """What a client has begun and has not heard of, and what else its ledger tells."""

    def __init__(self, file: Path, client: int, clients: int) -> None:
        self._tail = Tail(file)
        self._client, self._clients = client, clients
        self.begun = 0
        self.open: dict[int, float] = {}
        """What nobody has heard of yet, and since when."""
        self.longest = 0.0
        """For so many seconds an operation was open, in however many lives of its client."""
        self.answers: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    def read(self, asked: Spread, rested: Spread, minute: Spread) -> None:
        """Go on reading; tell them how long things took."""
        for record in self._tail.fresh():
            if record[0] == "+":
                self._begin(int(record[1:]))
            elif record[0] == "~":
                name, count = record[1:].split()
                self.remarks[name] += int(count)
            elif record[0] == "=":
                rested.add(float(record.split()[2]))
            else:
                number, answer, ms = record.split()
                self._close(int(number))
                self.answers[answer] += 1
                asked.add(float(ms))
                minute.add(float(ms))

    def _begin(self, count: int) -> None:
        for k in range(self.begun, count):
            self.open[self._client + self._clients * k] = monotonic()
        for k in range(count, self.begun):
            self.open.pop(self._client + self._clients * k, None)
        self.begun = count

    def _close(self, number: int) -> None:
        since = self.open.pop(number, None)
        if since is not None:
            self.longest = max(self.longest, monotonic() - since)


class Spread:
    """How values are spread, to within two in a hundred, in a bounded space."""

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()

    def add(self, value: float) -> None:
        self._steps[round(math.log1p(max(value, 0.0)) * 50)] += 1

    def __len__(self) -> int:
        return self._steps.total()

    def at(self, share: float) -> float:
        """The value below which that share of them lies."""
        wanted, seen = share * len(self), 0
        for step, count in sorted(self._steps.items()):
            seen += count
            if seen >= wanted:
                return math.expm1(step / 50)
        return 0.0
