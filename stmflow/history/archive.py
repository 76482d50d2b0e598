"""Whole histories in CAR files, and their verification without a database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stmflow import car
from stmflow.cid import CID
from stmflow.errors import CodecError, Corrupt, NotFound
from stmflow.history.report import OK, Finding, Report
from stmflow.history.revision import blocks_of, read_revision, walk
from stmflow.history.together import between
from stmflow.history.verifying import verify
from stmflow.store import Packed
from stmflow.workflow import Workflow


def export(chains: Mapping[CID, Sequence[Packed]]) -> tuple[list[CID], Iterator[tuple[CID, bytes]]]:
    """Roots and blocks of a CAR that holds these jobs' whole chains (as a store gives them).

    One root for each job, its head; of other jobs in the same revisions only their CIDs.
    """
    return [chain[0].cid for chain in chains.values()], _exported(chains)


def _exported(chains: Mapping[CID, Sequence[Packed]]) -> Iterator[tuple[CID, bytes]]:
    sent: set[CID] = set()
    for job, chain in chains.items():
        for packed in chain:
            have = blocks_of([packed])
            for cid in (packed.cid, *read_revision(packed.cid, packed.revision).line(job).blocks()):
                if cid not in sent:
                    sent.add(cid)
                    if cid not in have:
                        raise Corrupt(f"block {cid} of job {job} is missing")
                    yield cid, have[cid]


@dataclass(slots=True)
class Archive:
    """What one or several CARs hold: a root for each job, and blocks, all hashed."""

    roots: list[CID] = field(default_factory=list)
    blocks: dict[CID, bytes] = field(default_factory=dict)

    def add(self, source: car.Source) -> None:
        """Read a CAR into this one. Raises CodecError."""
        found = car.read(source)
        self.roots += found.roots
        self.blocks |= dict(found)

    def jobs(self) -> tuple[dict[CID, CID], list[Finding]]:
        """Job → head, and what is wrong with the roots."""
        heads: dict[CID, CID] = {}
        findings: list[Finding] = []
        for root in dict.fromkeys(self.roots):
            try:
                lines = read_revision(root, self.blocks[root]).writes
            except (KeyError, CodecError) as error:
                text = str(error) if isinstance(error, CodecError) else "this root is missing"
                findings.append(Finding(1, None, root, text))
                continue
            here = [line.job for line in lines if line.state in self.blocks]
            whole = [job for job in here if self._whole(job, root)]
            if len(whole) < self.roots.count(root):
                whole = here
            if not whole:
                findings.append(Finding(1, None, root, "no job of this root has its blocks here"))
            for job in whole:
                self._head(heads, findings, job, root)
        return heads, findings

    def _whole(self, job: CID, head: CID) -> bool:
        try:
            return all(
                cid in self.blocks
                for revision in walk(job, head, self.blocks.get)
                for cid in revision.line(job).blocks()
            )
        except (NotFound, CodecError):
            return False

    def _head(self, heads: dict[CID, CID], findings: list[Finding], job: CID, root: CID) -> None:
        """The longer of two chains of one job, of which the other must be a part."""
        other = heads.setdefault(job, root)
        if other == root:
            return
        chains: dict[CID, list[CID]] = {}
        for head in (other, root):
            chains[head] = []
            try:
                chains[head] += [revision.cid for revision in walk(job, head, self.blocks.get)]
            except (NotFound, CodecError) as error:
                findings.append(Finding(1, None, head, str(error)))
        longer, shorter = sorted((other, root), key=lambda head: -len(chains[head]))
        heads[job] = longer
        if shorter not in chains[longer]:
            text = f"job {job} has two heads, and neither is in the other's chain: {longer}"
            findings.append(Finding(1, None, shorter, text))


class Audit(NamedTuple):
    """What `verify_archive` says. `between`: of several chains, and of the roots."""

    reports: list[Report]
    between: list[Finding]


def verify_archive(
    archive: Archive, *, workflows: Iterable[Workflow] = (), depth: int = 3
) -> Audit:
    """Judge every job of an archive, and how they go together. No store is asked."""
    heads, findings = archive.jobs()
    get = archive.blocks.get
    known = list(workflows)
    reports = [verify(job, head, get, workflows=known, depth=depth) for job, head in heads.items()]
    sound = [report.job for report in reports if report.level(1) == OK]
    if len(sound) > 1:
        findings += between({job: list(walk(job, heads[job], get))[::-1] for job in sound})
    return Audit(reports, findings)
