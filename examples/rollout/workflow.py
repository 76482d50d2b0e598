"""The rollout of a version over live jobs, after Nomad's updates: canary, promotion, steps, revert.

One job for each workflow that is rolled out. One function per state, one case per cell of the table
in README.md:

    same()        accepted, nothing changes      impossible()  no legal run leads here
    reject(code)  refused

What holds in between: no job is moved before the replay check has passed; before the promotion at
most `canary` jobs are moved, because they are moved in the commit that counts them; after it, at
most `max_parallel` in each step; a job that is born reads this one in the same commit, so none is
born at the new version unless the rollout is rolling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias, assert_never

from examples.rollout.model import (
    Again,
    Event,
    Failed,
    Late,
    Move,
    Moved,
    Passed,
    Pick,
    Picked,
    Promote,
    Revert,
    Ripe,
    Rollout,
    Sample,
    Sampled,
    Start,
    Unpicked,
    Unsampled,
    flaws,
)
from scheduler.handlers.replay import Replay
from stmflow import (
    Effect,
    Err,
    Workflow,
    cancel,
    impossible,
    perform,
    reject,
    same,
    sleep,
)

Next: TypeAlias = object
"""`(state, effects)`, or one of the four answers above."""


def update(event: Event, state: Rollout | None) -> Next:
    if state is None:
        return _unknown(event)
    match state.status:
        case "stable":
            return _stable(event, state)
        case "checking":
            return _checking(event, state)
        case "canary":
            return _canary(event, state)
        case "waiting":
            return _waiting(event, state)
        case "rolling":
            return _rolling(event, state)
        case "halted":
            return _halted(event, state)
        case "reverting":
            return _reverting(event, state)
    assert_never(state.status)


def _unknown(event: Event) -> Next:
    match event:
        case Start(workflow, spec):
            return _check(event, Rollout(workflow, "checking", spec.base, spec))
        case Promote() | Revert():
            return reject("NotRolling")
    return impossible()


def _stable(event: Event, state: Rollout) -> Next:
    match event:
        case Start(spec=spec) if spec.base != state.stable:
            return reject("Base", {"stable": state.stable})
        case Start(workflow, spec):
            epoch = state.epoch + 1
            return _check(event, Rollout(workflow, "checking", spec.base, spec, epoch))
        case Promote() | Revert():
            return reject("NotRolling")
    return impossible()


def _checking(event: Event, state: Rollout) -> Next:
    match event:
        case Start():
            return reject("Busy")
        case Passed() if state.spec.canary == 0:
            return _promote(state)
        case Passed():
            canary = replace(state, status="canary")
            pick = _pick(canary, state.spec.base, state.spec.canary)
            return canary, [pick, _deadline(canary, "canary", "halted")]
        case Failed(error):
            return _settle(state, state.stable, error)
        case Late():
            return _settle(state, state.stable, Err("Late"))
        case Promote():
            return reject("NotReady")
        case Revert():
            return _settle(state, state.stable, None)
    return impossible()


def _canary(event: Event, state: Rollout) -> Next:
    match event:
        case Start():
            return reject("Busy")
        case Picked(keys=keys) if keys:
            room = state.spec.canary - state.canaries
            return same(_move(state, state.spec.version, keys[:room]))
        case Moved(moved) if moved:
            counted = state.canaries + moved
            begun = replace(state, canaries=counted, moved=counted)
            return begun, [_ripen(state), _watch(state)]
        case Picked() | Moved() | Unpicked():  # there is nothing yet that could show anything
            return same(_again(state))
        case Again():
            return same(_pick(state, state.spec.base, state.spec.canary))
        case Sampled(bad=bad) if bad > _tolerated(state):
            return _violated(state)
        case Sampled():
            return _judge(_healthier(state), [_watch(state)])
        case Unsampled():
            return same(_watch(state))
        case Ripe():
            return _judge(replace(state, ripe=True), [])
        case Late():
            return _revert(state, "Late")
        case Revert():
            return _revert(state, "Asked")
        case Promote():
            return _promote(state)
    return impossible()


def _judge(state: Rollout, otherwise: list[Effect]) -> Next:
    """On from the canary, once it has been healthy long and often enough."""
    if not _enough(state):
        return state, otherwise
    if state.spec.auto_promote:
        return _promote(state)
    return replace(state, status="waiting"), [_watch(state)]


def _waiting(event: Event, state: Rollout) -> Next:
    match event:
        case Start():
            return reject("Busy")
        case Sampled(bad=bad) if bad > _tolerated(state):
            return _violated(state)
        case Sampled() | Unsampled():
            return same(_watch(state))
        case Promote():
            return _promote(state)
        case Revert():
            return _revert(state, "Asked")
    return impossible()


def _rolling(event: Event, state: Rollout) -> Next:
    match event:
        case Start():
            return reject("Busy")
        case Picked():
            return _found(event, state, _forward)
        case Moved(moved) if moved:
            step = replace(_step(state), moved=state.moved + moved)
            watch = [_watch(state)] if state.spec.health else []
            return step, [_ripen(state), _deadline(state, "rolling"), *watch]
        case Moved() | Unpicked():
            return same(_again(state))
        case Again():
            return same(_forward(state))
        case Sampled(bad=bad) if bad > _tolerated(state):
            return _revert(state, "Unhealthy")
        case Sampled():
            return _go_on(_healthier(state), [_watch(state)])
        case Unsampled():
            return same(_watch(state))
        case Ripe():
            return _go_on(replace(state, ripe=True), [])
        case Promote():
            return same()
        case Late():
            return _revert(state, "Late")
        case Revert():
            return _revert(state, "Asked")
    return impossible()


def _go_on(state: Rollout, otherwise: list[Effect]) -> Next:
    """The next step, once this one has been healthy long and often enough."""
    if not _enough(state):
        return state, otherwise
    return _step(state), [cancel("sample"), _forward(state)]


def _halted(event: Event, state: Rollout) -> Next:
    match event:
        case Start():
            return reject("Busy")
        case Late():
            return _revert(state, "Late")
        case Revert():
            return _revert(state, "Asked")
        case Promote():
            return _promote(state)
    return impossible()


def _reverting(event: Event, state: Rollout) -> Next:
    match event:
        case Start():
            return reject("Busy")
        case Picked():
            return _found(event, state, _back)
        case Moved(moved) if moved:
            left = replace(state, moved=max(state.moved - moved, 0))
            return left, [_back(left)]
        case Moved() | Unpicked():
            return same(_again(state))
        case Again():
            return same(_back(state))
        case Promote():
            return reject("Reverting")
        case Revert():
            return same()
    return impossible()


# --- on the way -----------------------------------------------------------------------------------


def _check(event: Start, state: Rollout) -> Next:
    """Nothing moves before the new version has shown that it does what was recorded."""
    if why := list(flaws(event.spec)):
        return reject("InvalidSpec", {"why": why})
    spec = event.spec
    replay = Replay(state.workflow, spec.version, spec.sample, spec.seed)
    checked = perform(replay, name="check").then(Passed).catch(Failed)
    return state, [checked, _deadline(state, "checking")]


def _promote(state: Rollout) -> Next:
    """From now on jobs are born at the new version, and the others follow step by step."""
    rolling = _step(replace(state, status="rolling", after=None, touched=False))
    return rolling, [cancel("sample"), _forward(rolling), _deadline(rolling, "rolling")]


def _violated(state: Rollout) -> Next:
    if state.spec.auto_revert:
        return _revert(state, "Unhealthy")
    # Who waits for a person has no deadline; who has halted must have one, or it might for ever.
    limit = [_deadline(state, "halted")] if state.status == "waiting" else []
    return replace(state, status="halted"), [cancel("sample"), cancel("pick"), *limit]


def _revert(state: Rollout, why: str) -> Next:
    """From now on jobs are born at the old version again, and those that were moved go back."""
    back = replace(state, status="reverting", after=None, touched=False, refused=Err(why))
    return _step(back), [cancel("sample"), _back(back)]


def _found(event: Picked, state: Rollout, onward: Callable[[Rollout], Effect]) -> Next:
    """Jobs to move; or the end of a pass. The last pass is one that finds nothing to move: whoever
    was being born while the pass before it ran is seen by then."""
    version = state.spec.version if state.status == "rolling" else state.stable
    if event.keys:
        after = None if event.done else event.after
        return replace(state, after=after, touched=True), [_move(state, version, event.keys)]
    if state.touched or state.after is not None:
        again = replace(state, after=None, touched=False)
        return again, [onward(again)]
    return _settle(state, version, state.refused if state.status == "reverting" else None)


def _settle(state: Rollout, stable: int, refused: Err | None) -> Next:
    """The end of a rollout, one way or the other."""
    ended = replace(_step(state), status="stable", stable=stable, after=None, refused=refused)
    return ended, [cancel("check"), cancel("sample")]


def _step(state: Rollout) -> Rollout:
    """The beginning of a step."""
    return replace(state, ripe=False, healthy=0)


def _healthier(state: Rollout) -> Rollout:
    """One more healthy sample; more than are needed are not counted."""
    assert state.spec.health is not None
    return replace(state, healthy=min(state.healthy + 1, state.spec.health.samples))


def _enough(state: Rollout) -> bool:
    health = state.spec.health
    return state.ripe and (health is None or state.healthy >= health.samples)


def _tolerated(state: Rollout) -> int:
    return 0 if state.spec.health is None else state.spec.health.tolerate


# --- effects. A name that is used again withdraws what had it before. -----------------------------


def _pick(state: Rollout, version: int, most: int) -> Effect:
    task = Pick(state.workflow, version, most, state.after)
    return perform(task, name="pick").then(Picked).catch(Unpicked)


def _forward(state: Rollout) -> Effect:
    return _pick(state, state.spec.base, state.spec.max_parallel)


def _back(state: Rollout) -> Effect:
    return _pick(state, state.spec.version, state.spec.max_parallel)


def _again(state: Rollout) -> Effect:
    return sleep(for_=timedelta(milliseconds=state.spec.pause_ms), name="again").then(Again)


def _move(state: Rollout, version: int, keys: Any) -> Effect:
    return perform(Move(state.workflow, version, keys)).then(Moved)


def _watch(state: Rollout) -> Effect:
    assert state.spec.health is not None
    pause = timedelta(milliseconds=state.spec.health.every_ms)
    look = perform(Sample(state.workflow, state.spec.version), name="sample")
    return sleep(for_=pause, name="pause").and_(look).then(Sampled).catch(Unsampled)


def _ripen(state: Rollout) -> Effect:
    return sleep(for_=timedelta(milliseconds=state.spec.min_healthy_ms), name="ripe").then(Ripe)


def _deadline(state: Rollout, *during: str) -> Effect:
    span = timedelta(milliseconds=state.spec.progress_ms)
    return sleep(for_=span, name="deadline", during=during).then(Late)


def _workflow_of(event: Any) -> tuple[str]:
    return (event.workflow,)


ROLLOUT = Workflow(
    "rollout",
    state=Rollout,
    events=(
        *(Start, Promote, Revert, Passed, Failed, Picked, Moved),
        *(Unpicked, Sampled, Unsampled, Ripe, Late, Again),
    ),
    outside=(Start, Promote, Revert),
    tasks=(Replay, Pick, Move, Sample),
    update=update,
    key=("workflow",),
    tag="status",
    epoch="epoch",
)
