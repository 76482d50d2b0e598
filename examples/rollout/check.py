"""What is proved of a rollout: how many jobs move, when, and that it ends.

    stmflow check examples/rollout

The reducer, the chooser of births and the task that moves jobs are those of production; what they
move are letters, a workflow in two versions, each of which calls impossible what is of the other.
Histories may diverge, samples may be bad, every handler may fail; promote and revert may come at
any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from examples.rollout.handlers import chooser, moving
from examples.rollout.model import Health, Pick, Promote, Revert, Rollout, Sample, Spec, Start
from examples.rollout.workflow import ROLLOUT
from scheduler.handlers.replay import Replay
from stmflow import Err, Job, Sleep, Tx, Workflow, impossible
from stmflow.check import (
    Check,
    Faults,
    Handler,
    Property,
    Send,
    Told,
    View,
    always,
    leads_to,
    sometimes,
    step,
)

# --- what is moved ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Begin a letter, or go on with it."""

    name: str


@dataclass(frozen=True, slots=True)
class Letter1:
    name: str
    lines: int = 0


@dataclass(frozen=True, slots=True)
class Letter2:
    name: str
    lines: int = 0


def reducer(kind: type[Letter1 | Letter2]) -> Callable[[Any, Any], Any]:
    """Of one version: it reads no letter that is of the other."""

    def update(event: Write, state: Any) -> Any:
        if state is None:
            return kind(event.name), ()
        if not isinstance(state, kind):
            return impossible()
        return replace(state, lines=state.lines + 1), ()

    return update


STUCK: Final = "s"
"""A letter of this name cannot be moved before it was gone on with."""


def cast(to: type) -> Any:
    """State and event, from one version to the other."""

    def state(tag: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        if fields["name"] == STUCK and not fields["lines"]:
            raise ValueError("a letter without a line")
        return to.__name__, fields

    return state, lambda tag, fields: (tag, fields)


def letters(version: int, kind: type[Letter1 | Letter2], **casts: Any) -> Workflow:
    return Workflow(
        "letter",
        version=version,
        state=kind,
        events=(Write,),
        outside=(Write,),
        update=reducer(kind),
        key=("name",),
        **casts,
    )


OLD: Final = letters(1, Letter1)
NEW: Final = letters(2, Letter2, upcasts={1: cast(Letter2)}, downcasts={2: cast(Letter1)})
VERSION: Final = {Letter1: 1, Letter2: 2}

HOME: Final = ROLLOUT.job("letter")

# --- the world: how often a look for jobs may still fail ------------------------------------------


def jobs(names: str) -> list[Job]:
    return [OLD.job(name) for name in names]


def replay(task: Replay, failures: int) -> Iterator[tuple[Any, int]]:
    yield {"histories": 1, "revisions": 1}, failures
    yield Err("Diverged", {"seq": 1}), failures


def picking(names: str) -> Callable[..., Iterator[tuple[Any, int]]]:
    """A page of the jobs of one version, in the order of their creation, as it was for a moment."""

    def pick(task: Pick, failures: int, now: int, tx: Tx) -> Iterator[tuple[Any, int]]:
        rows = [(job, type(state)) for job in jobs(names) if (state := tx.read(job)) is not None]
        at = next((at for at, (job, _) in enumerate(rows, 1) if job.id == task.after), 0)
        keys: list[Any] = []
        after = task.after
        done = True
        for job, kind in rows[at:]:
            if len(keys) == task.most:
                done = False
                break
            if VERSION[kind] == task.version:
                keys.append(list(job.key))
            after = job.id
        yield {"keys": keys, "after": after, "done": done}, failures
        if failures:
            yield Err("Exhausted"), failures - 1

    return pick


def sample(task: Sample, failures: int) -> Iterator[tuple[Any, int]]:
    """Good, bad, or none."""
    yield {"jobs": 1, "bad": 0}, failures
    yield {"jobs": 1, "bad": 1}, failures
    yield Err("Exhausted"), failures


# --- what must hold -----------------------------------------------------------------------------


def rules(spec: Spec, names: str) -> list[Property]:
    everybody = jobs(names)

    def rollout(view: View) -> Rollout | None:
        found: Rollout | None = view.state(HOME)
        return found

    def status(view: View) -> str:
        now = rollout(view)
        return "stable" if now is None else now.status

    def versions(view: View) -> list[int]:
        return [VERSION[type(one)] for job in everybody if (one := view.state(job)) is not None]

    def waits(view: View) -> set[Any]:
        return {one.name if isinstance(one, Sleep) else type(one) for one in view.asked(HOME)}

    def unchecked(view: View) -> bool:
        return status(view) != "checking" or spec.version not in versions(view)

    def few(view: View) -> bool:
        if status(view) not in ("canary", "waiting", "halted"):
            return True
        now = rollout(view)
        assert now is not None
        return versions(view).count(spec.version) == now.canaries <= spec.canary

    def settled(view: View) -> bool:
        now = rollout(view)
        return now is None or now.status != "stable" or set(versions(view)) <= {now.stable}

    def watched(view: View) -> bool:
        """Who is watched is not moved on: neither looked for nor waited for."""
        return not waits(view) & {"ripe", Sample} or not waits(view) & {Pick, "again"}

    def in_steps(before: View, action: Told, after: View) -> bool:
        one, other = versions(before), versions(after)
        moved = sum(was != now for was, now in zip(one, other, strict=False))
        most = spec.canary if status(before) == "canary" else spec.max_parallel
        return moved <= (most if action.what == "settle" and isinstance(action.by, Pick) else 0)

    def born(before: View, action: Told, after: View) -> bool:
        home = rollout(before)
        version = spec.base if home is None else home.born
        return all(
            VERSION[type(after.state(job))] == version
            for job in everybody
            if before.state(job) is None and after.state(job) is not None
        )

    def diverged(before: View, action: Told, after: View) -> bool:
        failed = isinstance(action.by, Replay) and isinstance(action.outcome, Err)
        return not (failed and action.what == "settle") or status(after) == "stable"

    def stopped(before: View, action: Told, after: View) -> bool:
        if not isinstance(action.by, Sample) or action.what != "settle":
            return True
        if isinstance(action.outcome, Err):  # it says nothing of the jobs
            return rollout(before) == rollout(after)
        return not action.outcome["bad"] or status(after) in ("reverting", "halted")

    def is_now(wanted: str, view: View) -> bool:
        return status(view) == wanted

    def ended(view: View) -> bool:
        return status(view) == "stable"

    def ended_or_asked(view: View) -> bool:
        return status(view) in ("stable", "waiting")

    end = ended if spec.auto_promote else ended_or_asked
    person = "" if spec.auto_promote else ", or waits for a person"
    statuses = ["rolling", "reverting"]
    statuses += ["canary"] if spec.canary else []
    statuses += ["waiting"] if spec.canary and not spec.auto_promote else []
    statuses += ["halted"] if spec.canary and not spec.auto_revert else []
    return [
        always("nothing moves unchecked", unchecked),
        always("before the promotion the canaries have moved, and nobody else", few),
        always("at the end everybody is on the stable version", settled),
        always("nobody is moved while a step is watched", watched),
        step("a step moves no more than it may", in_steps),
        step("a job is born where the rollout says", born),
        step("a version that diverges moves nobody", diverged),
        step("a bad sample stops it, and one that failed says nothing", stopped),
        leads_to(f"a rollout ends{person}", lambda view: not end(view), end),
        *(sometimes(f"a rollout is {each}", partial(is_now, each)) for each in statuses),
    ]


# --- models -------------------------------------------------------------------------------------

SPEC: Final = Spec(
    base=1,
    version=2,
    canary=1,
    max_parallel=1,
    min_healthy_ms=1,
    progress_ms=3,
    health=Health(every_ms=1),
    pause_ms=1,
)
ALONE: Final = replace(SPEC, auto_promote=True, auto_revert=True)


def rolled(
    name: str,
    spec: Spec,
    *,
    names: str = "abc",
    starts: int = 1,
    people: bool = True,
    late: int = 0,
) -> Check:
    """Letters of these names, the last of which is yet to be born, and a rollout over them.

    Args:
        people: who may promote and revert at any time. late: as `Faults` has it.
    """

    def start(tx: Tx) -> None:
        for job in jobs(names)[:-1]:
            tx.apply(job, Write(job.key[0]))

    asked: list[Any] = [Revert("letter")] if people else []
    asked += [Promote("letter")] if people and spec.canary else []
    handlers: dict[type, Handler] = {Replay: replay, Pick: picking(names)}
    if spec.health is not None:
        handlers[Sample] = sample
    return Check(
        [OLD, NEW, ROLLOUT],
        name=name,
        chooser=chooser({"letter": 1}),
        transactional=moving([OLD]),
        start=start,
        world=1,
        handlers=handlers,
        sends=[
            Send(Start("letter", spec), starts),
            *(Send(each, None) for each in asked),
            Send(Write(names[-1])),
            Send(Write(names[0]), fair=True),
        ],
        faults=Faults(late=late),
        timeless=True,
        properties=rules(spec, names),
    )


CHECKS: Final = (
    rolled("rollout, asked by people, twice", SPEC, starts=2),
    rolled("rollout, by itself, and workers that come late", ALONE, people=False, late=1),
    rolled("rollout, two at a time", replace(SPEC, canary=2, max_parallel=2), names="abcd"),
    rolled("rollout, with a letter that is stuck for a while", SPEC, names=f"{STUCK}ab"),
    rolled("rollout, without canaries", replace(SPEC, canary=0, health=None)),
)
