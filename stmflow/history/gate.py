"""The replay gate: would a new version have done the same? Run before any live job sees it. Pure.

Every write of a recorded history is judged by itself: the state before it and its events are cast
to the new version, `update` folds them, and state, epoch and effects must be those recorded, cast
likewise. No code of the old version is needed, and no job is touched. What the new version means to
do otherwise is said by `allow`, one predicate over divergences; the next write starts again from
what was recorded, so one allowed difference hides no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import Effect
from stmflow.errors import CodecError, LookupFailed, UnknownVersion
from stmflow.history.explain import diff, told
from stmflow.history.revision import Get, Line, Revision, plain_of, walk
from stmflow.job import Draft, Head
from stmflow.schema import freeze
from stmflow.workflow import Job, Registry, Workflow


class Recorded(NamedTuple):
    """One job's history: its head, and where its blocks are."""

    job: CID
    head: CID
    get: Get


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a new version goes another way.

    Attributes:
        job, seq, revision: the write. events: all that it folded.
        event: the one at which it diverged; None where it folded several and only their sum tells.
        recorded: the state that was committed. made: the one that the new version gives (the CID
            of its block), or None where it gives none.
        why: each difference in a line.
    """

    job: CID
    seq: int
    revision: CID
    events: tuple[CID, ...]
    event: CID | None
    recorded: CID
    made: CID | None
    why: tuple[str, ...]


@dataclass(slots=True)
class ReplayCheck:
    """What the gate says.

    Attributes:
        histories, revisions: how many were run again whole. allowed: divergences that were meant.
        divergence: the first one that was not meant; nothing was run after it.
        not_rerun: a history that could not be run again (job, why), which is no pass.
    """

    histories: int = 0
    revisions: int = 0
    allowed: int = 0
    divergence: Divergence | None = None
    not_rerun: tuple[CID, str] | None = None

    @property
    def passed(self) -> bool:
        """Whether every history was run again and went the same way."""
        return self.divergence is None and self.not_rerun is None


Allow = Callable[[Divergence], bool]


def replay_check(
    registry: Registry,
    histories: Iterable[Recorded],
    *,
    version: int | None = None,
    allow: Allow = lambda divergence: False,
) -> ReplayCheck:
    """Run a version over recorded histories until the first divergence.

    Args:
        registry: the version under test, with its casts from and to the recorded versions.
        histories: each is read, and its blocks hashed, when its turn comes.
        version: the one under test. Default: the newest of each history's workflow.
        allow: which divergences are meant.

    A history that is torn or of a version without a cast ends the check as `not_rerun`.
    """
    check = ReplayCheck()
    for history in histories:
        if not check_one(check, registry, history, version=version, allow=allow):
            break
    return check


def check_one(
    check: ReplayCheck,
    registry: Registry,
    history: Recorded,
    *,
    version: int | None = None,
    allow: Allow = lambda divergence: False,
) -> bool:
    """Add one history to a check; whether to go on."""
    try:
        chain = list(walk(history.job, history.head, history.get))[::-1]
        for divergence in _run(check, registry, history, chain, version):
            if not allow(divergence):
                check.divergence = divergence
                return False
            check.allowed += 1
    except (CodecError, LookupFailed, UnknownVersion) as error:
        check.not_rerun = (history.job, str(error))
        return False
    check.histories += 1
    return True


def _run(
    check: ReplayCheck,
    registry: Registry,
    history: Recorded,
    chain: Sequence[Revision],
    version: int | None,
) -> Iterable[Divergence]:
    head: Head | None = None
    first = chain[0].line(history.job)
    job = Job(first.workflow, freeze(first.key), history.job)
    newest = registry.newest(job.workflow)
    workflow = newest if version is None else registry.version(job.workflow, version)
    for revision in chain:
        line = revision.line(history.job)
        after = _cast(registry, workflow, job, revision, line, history.get)
        fold = _Fold(registry, job, head, revision.at, version=workflow.version, pure=True)
        # A bare write moved the job between versions: it ran no reducer.
        found = None if line.bare else _judge(fold, registry, line, revision, after, history.get)
        if found is not None:
            yield found
        check.revisions += 1
        head = after


class _Fold(Draft):
    """The fold of a write's events alone: what hooks and transactions gave is as given."""

    __slots__ = ()

    def fold(self, event: Any) -> None:
        self._step(event, inside=True)

    def _hooks(self, event: Any, before: Any, after: Any) -> list[tuple[str, Effect]]:
        return []


def _cast(
    registry: Registry, workflow: Workflow, job: Job, revision: Revision, line: Line, get: Get
) -> Head:
    """What a write left, in the form of the version under test. Open effects are not looked at.

    Raises:
        UnknownVersion: a cast is missing.
        MalformedBlock: a cast gives what this version does not know.
    """
    plain = _lift(registry, workflow, plain_of(get, line.state), event=False)
    state = workflow.state_of(plain)
    block = workflow.state_bytes(state)
    return Head(
        job=job.id,
        name=job.workflow,
        key=job.key,
        version=workflow.version,
        revision=revision.cid,
        seq=line.seq,
        epoch=line.epoch,
        at=revision.at,
        state=state,
        state_cid=CID.of(block),
        state_block=block,
        open=(),
        rows={},
        next_n=0,
    )


def _lift(registry: Registry, workflow: Workflow, plain: Any, *, event: bool) -> Any:
    """A block cast to that version. What a cast raises is the application's: not re-run."""
    try:
        return registry.lift(plain, event=event, to=workflow)[1]
    except UnknownVersion:
        raise
    except Exception as error:
        what = f"a cast of {workflow.name} from version {plain['v']} raised {error!r}"
        raise UnknownVersion(what) from error


def _judge(
    fold: _Fold, registry: Registry, line: Line, revision: Revision, after: Head, get: Get
) -> Divergence | None:
    at: CID | None = None
    why: list[str] = []
    for at in line.events:
        plain = _lift(registry, fold.workflow, plain_of(get, at), event=True)
        event = fold.workflow.event_of(plain)
        try:
            fold.fold(event)
        except Exception as error:  # whatever the new version raises is what it would do
            why.append(f"{type(error).__name__}: {error}")
            break
    else:
        why += _differences(fold, line, after, get)
        at = line.events[0] if len(line.events) == 1 else None
    if not why:
        return None
    return Divergence(
        line.job,
        line.seq,
        revision.cid,
        line.events,
        at,
        line.state,
        fold.state_cid,
        tuple(why),
    )


def _differences(fold: _Fold, line: Line, after: Head, get: Get) -> Iterable[str]:
    if fold.state_cid != after.state_cid:
        made = None if fold.state_block is None else codec.decode(fold.state_block)
        for one in diff(codec.decode(after.state_block), made):
            path = ".".join(map(str, one.path)) or "state"
            yield f"{path}: recorded {told(one.before)}, now {told(one.after)}"
    try:
        epoch = fold.workflow.epoch_of(after.state)
    except Exception as error:
        yield f"epoch: {error!r}"
    else:
        if epoch != line.epoch:
            yield f"epoch: recorded {line.epoch}, now {epoch}"
    blocks = {CID.of(block): block for block in fold.blocks}
    before = [[epoch, plain_of(get, cid)["f"]] for epoch, cid in line.effects]
    now = [[epoch, codec.decode(blocks[cid])["f"]] for epoch, cid in fold.effects]
    for one in diff(before, now):
        path = ".".join(map(str, one.path))
        yield f"effects {path}: recorded {told(one.before)}, now {told(one.after)}"
