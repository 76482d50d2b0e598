"""The checks that clients report, and the table that people read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Line:
    """One check of one client: "ok", "failed", "absent", "skipped" or "known" (to fail)."""

    client: str
    check: str
    status: str
    ms: int = 0
    error: str = ""
    stored: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, client: str, reported: Mapping[str, Any]) -> Self:
        return cls(client, **reported)

    def looked_up(self, lacking: Sequence[str]) -> Line:
        """The same, but failed if the bucket lacks something."""
        if not lacking:
            return self
        return replace(self, status="failed", error=f"not in the bucket: {'; '.join(lacking)}")

    def excused(self, known: Collection[tuple[str, str]]) -> Line:
        """The same, but "known" if it failed and these say that it would."""
        if self.status == "failed" and (self.client, self.check) in known:
            return replace(self, status="known")
        return self

    @property
    def cell(self) -> str:
        return str(self.ms) if self.status == "ok" else MARKS[self.status]


MARKS = {"failed": "FAILED", "absent": "absent", "skipped": "-", "known": "known"}


def printed(lines: Sequence[Line]) -> str:
    """Checks down, clients across, each cell the milliseconds it took; what failed below."""
    clients = list(dict.fromkeys(line.client for line in lines))
    checks = list(dict.fromkeys(line.check for line in lines))
    cells = {(line.check, line.client): line.cell for line in lines}
    width = max([len(check) for check in checks], default=0)
    rows = [f"{'ms':<{width}}  " + "  ".join(f"{client:>6}" for client in clients)]
    for check in checks:
        row = [f"{cells.get((check, client), ''):>{max(len(client), 6)}}" for client in clients]
        rows.append(f"{check:<{width}}  " + "  ".join(row))
    failed = [line for line in lines if line.status == "failed"]
    rows += [f"\n{line.client}: {line.check}\n  {line.error}" for line in failed]
    passed = sum(line.status == "ok" for line in lines)
    rows.append(f"\n{passed} passed, {len(failed)} failed, {len(lines)} in all")
    return "\n".join(rows)
