"""The rollout of a version: its spec, the events, the tasks and the state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeAlias

from stmflow import CID, Data, Err

MOST: Final = 200
"""Jobs that one step may move: they are moved in one commit."""


@dataclass(frozen=True, slots=True)
class Health:
    """What counts as healthy.

    Every `every_ms` a sample is taken; more than `tolerate` bad jobs in one is a violation, and
    `samples` healthy ones are needed before the next step.
    """

    every_ms: int
    samples: int = 1
    tolerate: int = 0


@dataclass(frozen=True, slots=True)
class Spec:
    """What is to be rolled out, and how carefully.

    Attributes:
        base, version: from where to where.
        canary: jobs that are moved first, before the promotion. max_parallel: jobs in each step
            after it.
        min_healthy_ms: a step lasts at least so long. progress_ms: and at most so long.
        auto_promote, auto_revert: whether a person is asked.
        pause_ms: between two looks for jobs where one found none that could be moved.
        sample, seed: how many histories the replay check runs (0: all), and what draws them.
    """

    base: int
    version: int
    canary: int
    max_parallel: int
    min_healthy_ms: int
    progress_ms: int
    health: Health | None = None
    auto_promote: bool = False
    auto_revert: bool = False
    pause_ms: int = 5_000
    sample: int = 0
    seed: int = 0


def flaws(spec: Spec) -> Iterator[str]:
    """Why a spec is refused; nothing where it is sound."""
    health = spec.health
    if spec.base < 1 or spec.version < 1 or spec.base == spec.version:
        yield "base and version are two versions from 1 up"
    if not 0 <= spec.canary <= MOST:
        yield f"canary is 0 to {MOST} jobs"
    if not 1 <= spec.max_parallel <= MOST:
        yield f"max_parallel is 1 to {MOST} jobs"
    if spec.min_healthy_ms < 1:
        yield "min_healthy_ms is at least 1"
    if spec.progress_ms <= spec.min_healthy_ms:
        yield "progress_ms must be more than min_healthy_ms: no step could end in time"
    if spec.pause_ms < 1:
        yield "pause_ms is at least 1"
    if spec.sample < 0:
        yield "sample is a number of histories, or 0 for all"
    if spec.canary and health is None:
        yield "a canary without a health check promotes nothing"
    if spec.auto_promote and not spec.canary:
        yield "auto_promote needs a canary to promote"
    if spec.auto_revert and health is None:
        yield "auto_revert needs a health check that asks for it"
    if health is not None:
        if health.every_ms < 1 or health.samples < 1 or health.tolerate < 0:
            yield "a health check needs every_ms and samples from 1 up, and tolerate from 0 up"
        elif health.every_ms * health.samples >= spec.progress_ms:
            yield "progress_ms must be more than all samples of a step take"


# --- what people send -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Roll out."""

    tag: ClassVar[str] = "rollout/start"

    workflow: str
    spec: Spec


@dataclass(frozen=True, slots=True)
class Promote:
    """Go on to all jobs: what the canary shows is good enough."""

    tag: ClassVar[str] = "rollout/promote"

    workflow: str


@dataclass(frozen=True, slots=True)
class Revert:
    """Go back."""

    tag: ClassVar[str] = "rollout/revert"

    workflow: str


# --- what the rollout asks for, and the answers ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pick:
    """Find up to `most` jobs of that version, in order of creation from the one after `after`.

    Outcome: `{keys, after, done}`; `done`: there is none behind `after`.
    """

    tag: ClassVar[str] = "rollout/pick"

    workflow: str
    version: int
    most: int
    after: CID | None


@dataclass(frozen=True, slots=True)
class Move:
    """Move these jobs, in the very commit that counts them: it is transactional.

    Outcome: `{moved, stuck}`. Jobs that have moved already count as neither.
    """

    tag: ClassVar[str] = "rollout/move"

    workflow: str
    version: int
    keys: tuple[Data, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Look at the jobs of that version. Outcome: `{jobs, bad}`."""

    tag: ClassVar[str] = "rollout/sample"

    workflow: str
    version: int


@dataclass(frozen=True, slots=True)
class Passed:
    """The replay check found no divergence."""

    histories: int
    revisions: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The replay check found one, or could not be made."""

    error: Err


@dataclass(frozen=True, slots=True)
class Picked:
    keys: tuple[Data, ...]
    after: CID | None
    done: bool


@dataclass(frozen=True, slots=True)
class Moved:
    moved: int
    stuck: int


@dataclass(frozen=True, slots=True)
class Sampled:
    jobs: int
    bad: int


@dataclass(frozen=True, slots=True)
class Unpicked:
    """The look for jobs could not be made: it is made again."""

    error: Err


@dataclass(frozen=True, slots=True)
class Unsampled:
    """The sample could not be taken. It says nothing of the jobs, and is taken again."""

    error: Err


@dataclass(frozen=True, slots=True)
class Ripe:
    """The step has lasted long enough."""


@dataclass(frozen=True, slots=True)
class Late:
    """The step has lasted too long."""


@dataclass(frozen=True, slots=True)
class Again:
    """Time to look for jobs once more."""


# --- the state ------------------------------------------------------------------------------------

Status: TypeAlias = Literal[
    "stable", "checking", "canary", "waiting", "rolling", "halted", "reverting"
]


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where the rollout of one workflow stands.

    Attributes:
        stable: the version at which jobs are born until a promotion, and to which they go back.
        spec: what is being rolled out. epoch: how many rollouts there were.
        canaries: jobs moved before the promotion. moved: jobs moved in all, less those moved back.
        ripe, healthy: whether the step has lasted long enough; its healthy samples so far.
        after, touched: how far the pass over all jobs has come, and whether it found any to move.
        refused: why the last rollout went back or was never begun. The detail of `Diverged` names
            the first diverging job, revision and event.
    """

    workflow: str
    status: Status
    stable: int
    spec: Spec
    epoch: int = 1
    canaries: int = 0
    moved: int = 0
    ripe: bool = False
    healthy: int = 0
    after: CID | None = None
    touched: bool = False
    refused: Err | None = None

    @property
    def born(self) -> int:
        """The version at which a new job is born."""
        return self.spec.version if self.status == "rolling" else self.stable


Event: TypeAlias = Any
