"""What `verify` found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from stmflow.cid import CID
from stmflow.job import Head

OK: Final = "ok"


MISMATCH: Final = "mismatch"


NOT_RERUN: Final = "not re-run"


SKIPPED: Final = "not reached"


class Finding(NamedTuple):
    """Something that does not hold: on which level, where, and what."""

    level: int
    seq: int | None
    revision: CID | None
    text: str


@dataclass(slots=True)
class Report:
    """What `verify` says of one job.

    Attributes:
        revisions: how many were walked. given: effects that no reducer returned, taken as they are.
        rerun: how many revisions level 3 ran again. not_rerun: why it ran no more, or None; where
            no revision was walked, why nothing could be judged.
        made: the head that running everything again makes, where nothing stopped it.
        unseen: other jobs in these revisions, of which only CIDs are known here.
    """

    job: CID
    head: CID | None
    depth: int = 3
    workflow: str | None = None
    key: list[Any] | None = None
    revisions: int = 0
    rerun: int = 0
    given: int = 0
    not_rerun: str | None = None
    made: Head | None = None
    unseen: set[CID] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def level(self, number: int) -> str:
        """`ok`, `mismatch`, `not re-run` or `not reached`."""
        if any(finding.level == number for finding in self.findings):
            return MISMATCH
        if number > self.depth or (number > 1 and self.level(1) == MISMATCH):
            return SKIPPED
        if self.not_rerun is not None and (number == 3 or not self.revisions):
            return NOT_RERUN
        return SKIPPED if number == 3 and self.rerun < self.revisions else OK

    @property
    def status(self) -> str:
        """Of all levels that were asked for together."""
        levels = [self.level(number) for number in range(1, self.depth + 1)]
        return next((s for s in (MISMATCH, NOT_RERUN, SKIPPED) if s in levels), OK)
