"""Whether one serial order explains the histories of several jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stmflow.cid import CID
from stmflow.history.report import Finding
from stmflow.history.revision import Revision


def between(chains: Mapping[CID, Sequence[Revision]]) -> list[Finding]:
    """What keeps these whole chains (oldest first) from being one serial history.

    Each revision is a transaction: it saw what its `reads` and `prev` name. It comes after the
    writers of these and before whoever replaced them; where that goes in a circle, no serial order
    gives the same history. Jobs whose chain is not given are not looked at.
    """
    findings: list[Finding] = []
    revisions = {one.cid: one for chain in chains.values() for one in chain}
    places = {job: {one.cid: at for at, one in enumerate(chain)} for job, chain in chains.items()}
    after: dict[CID, set[CID]] = {cid: set() for cid in revisions}

    def wrong(revision: Revision, text: str) -> None:
        findings.append(Finding(1, None, revision.cid, text))

    for revision in revisions.values():
        seen = [(job, read, False) for job, read in revision.reads]
        seen += [(line.job, line.prev, True) for line in revision.writes]
        for job, read, wrote in seen:
            if job not in chains:
                continue
            if wrote and revision.cid not in places[job]:
                wrong(revision, f"it writes job {job}, whose chain does not hold it")
            elif read is not None and read not in places[job]:
                wrong(revision, f"it read {read}, which is not in the chain of job {job}")
            else:
                at = -1 if read is None else places[job][read]
                chain = chains[job]
                if at >= 0:
                    after[chain[at].cid].add(revision.cid)
                    if chain[at].at > revision.at:
                        wrong(revision, f"it read {read}, which is younger than itself")
                if at + 1 < len(chain) and chain[at + 1].cid != revision.cid:
                    after[revision.cid].add(chain[at + 1].cid)
    for cid in _circle(after):
        wrong(revisions[cid], "it has no place in any serial order: it saw what others replaced")
    return findings


def _circle(after: Mapping[CID, set[CID]]) -> list[CID]:
    """What is left when everything with nothing before it has been taken away, both ways."""
    left = _peel({cid: set(others) for cid, others in after.items()})
    back: dict[CID, set[CID]] = {cid: set() for cid in left}
    for cid in left:
        for other in after[cid] & left:
            back[other].add(cid)
    return sorted(_peel(back))


def _peel(after: dict[CID, set[CID]]) -> set[CID]:
    waits = dict.fromkeys(after, 0)
    for others in after.values():
        for other in others:
            waits[other] += 1
    free = [cid for cid, count in waits.items() if not count]
    while free:
        cid = free.pop()
        del waits[cid]
        for other in after[cid]:
            waits[other] -= 1
            if not waits[other]:
                free.append(other)
    return set(waits)
