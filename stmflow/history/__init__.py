"""A job's history: walk it, verify it, export it, compare its states and say why they are. Pure.

A head commits to its whole chain, so everything here works on blocks alone, from a store or from a
CAR. `verify` judges on three levels, reported separately:

    1 links      every block hashes to its CID; seq, at, epoch and version run on without a break
    2 progress   receipts name tasks that were open; events are those that their outcomes fire;
                 no timer fires early; what the store derived (open effects, rows) is what follows
    3 reducer    `update` run again over the events of each write gives its state and effects

Levels 1 and 2 need no code of the application: effects are read as plain data (`Ledger`). Level 3
runs the production `Draft` again, with receipts for transactional tasks, and compares the line it
would write. Where a workflow or a version is missing it is *not re-run*, which is no mismatch.

`replay_check` asks the other question: whether a *new* version would have done the same.
"""

from stmflow.history.archive import Archive, Audit, export, verify_archive
from stmflow.history.explain import Change, Reason, diff, diff_revisions, why
from stmflow.history.gate import Divergence, Recorded, ReplayCheck, replay_check
from stmflow.history.ledger import Leaf, Ledger, Settled, Step
from stmflow.history.report import MISMATCH, NOT_RERUN, OK, SKIPPED, Finding, Report
from stmflow.history.revision import (
    Get,
    Line,
    Revision,
    blocks_of,
    is_revision,
    read_revision,
    walk,
)
from stmflow.history.sample import draw, recorded
from stmflow.history.together import between
from stmflow.history.verifying import verify

__all__ = [
    "MISMATCH",
    "NOT_RERUN",
    "OK",
    "SKIPPED",
    "Archive",
    "Audit",
    "Change",
    "Divergence",
    "Finding",
    "Get",
    "Leaf",
    "Ledger",
    "Line",
    "Reason",
    "Recorded",
    "ReplayCheck",
    "Report",
    "Revision",
    "Settled",
    "Step",
    "between",
    "blocks_of",
    "diff",
    "diff_revisions",
    "draw",
    "export",
    "is_revision",
    "read_revision",
    "recorded",
    "replay_check",
    "verify",
    "verify_archive",
    "walk",
    "why",
]
