"""The rollout with one thing broken: the checker finds each, and so does the engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from examples.rollout import check as proofs
from examples.rollout import workflow
from examples.rollout.check import ALONE, NEW, OLD, SPEC, jobs, rolled
from examples.rollout.model import (
    Failed,
    Late,
    Move,
    Moved,
    Passed,
    Picked,
    Promote,
    Revert,
    Ripe,
    Rollout,
    Sampled,
    Spec,
    Unsampled,
)
from examples.rollout.workflow import ROLLOUT
from stmflow import Err, Job, Tx, cancel, same
from stmflow.check import Check
from tests.examples import planted
from tests.project import ROOT

Answer = Callable[[Any, Rollout, Callable[[Any, Any], Any]], Any]

UNCHECKED = "nothing moves unchecked"
FEW = "before the promotion the canaries have moved, and nobody else"
SETTLED = "at the end everybody is on the stable version"
WATCHED = "nobody is moved while a step is watched"
STEPS = "a step moves no more than it may"
BORN = "a job is born where the rollout says"
DIVERGED = "a version that diverges moves nobody"
STOPPED = "a bad sample stops it, and one that failed says nothing"
ENDS = "a rollout ends"
ENDS_OR_WAITS = "a rollout ends, or waits for a person"
IMPOSSIBLE = "no impossible cell is reached"
FAILS = "no task is parked, and no reducer fails"


@dataclass(frozen=True)
class Mutation:
    """What is broken, the property that shows it, and the length of the shortest trace."""

    name: str
    breaks: str
    steps: int
    event: type | None = None
    status: str | None = None
    answer: Answer | None = None
    spec: Spec = SPEC
    how: Mapping[str, Any] = field(default_factory=dict)
    names: str = "abc"

    def of(self) -> Check:
        people = not self.spec.auto_promote
        check = rolled("broken", self.spec, people=people, names=self.names)
        twin = copy(ROLLOUT)
        twin.update = self._update
        asked = [one for one in check.properties if one.name == self.breaks]
        return replace(check, workflows=[OLD, NEW, twin], properties=asked, **self.how)

    def _update(self, event: Any, state: Any) -> Any:
        meant = self.event is not None and isinstance(event, self.event) and state is not None
        if meant and self.status in (None, state.status):
            assert self.answer is not None
            return self.answer(event, state, workflow.update)
        return workflow.update(event, state)


# --- the reducer --------------------------------------------------------------------------------


def without(*names: str) -> Answer:
    """The answer, less the effects that hold a leaf of such a name."""

    def holds(effect: str) -> bool:
        return any(f"name='{name}'" in effect for name in names)

    def answer(event: Any, state: Rollout, update: Any) -> Any:
        given = update(event, state)
        if not isinstance(given, tuple):
            return given
        return given[0], [each for each in given[1] if not holds(repr(each))]

    return answer


def without_withdrawing(event: Any, state: Rollout, update: Any) -> Any:
    given = update(event, state)
    if not isinstance(given, tuple):
        return given
    return given[0], [each for each in given[1] if each != cancel("sample")]


def goes_on(event: Failed, state: Rollout, update: Any) -> Any:
    """What diverges is rolled out."""
    return update(Passed(0, 0), state)


def one_more(event: Moved, state: Rollout, update: Any) -> Any:
    """Looks for more canaries when it has them."""
    if not event.moved:
        return update(event, state)
    after, effects = update(event, state)
    return after, [*effects, workflow._pick(after, 1, 1)]


def uncounted(event: Moved, state: Rollout, update: Any) -> Any:
    if not event.moved:
        return update(event, state)
    after, effects = update(event, state)
    return replace(after, canaries=0), effects


def all_there_are(event: Any, state: Rollout, update: Any) -> Any:
    return same(workflow._pick(state, 1, 200))


def ripe_is_enough(event: Sampled, state: Rollout, update: Any) -> Any:
    """One healthy sample, and the next step begins: nobody waits until it is ripe."""
    return update(event, replace(state, ripe=True))


def blind(event: Sampled, state: Rollout, update: Any) -> Any:
    return update(Sampled(event.jobs, 0), state)


def hopeful(event: Unsampled, state: Rollout, update: Any) -> Any:
    """What could not be sampled is taken for healthy."""
    return update(Sampled(0, 0), state)


def at_once(event: Any, state: Rollout, update: Any) -> Any:
    """A revert that leaves those where they are who have moved."""
    return workflow._settle(state, state.stable, Err("Asked"))


def tired(event: Picked, state: Rollout, update: Any) -> Any:
    """The first pass is the last, although it has begun in the middle."""
    if event.keys:
        return update(event, state)
    return workflow._settle(state, target(state), None)


def first_page(event: Picked, state: Rollout, update: Any) -> Any:
    """One page is the whole."""
    if not event.keys or state.touched:
        return workflow._settle(state, target(state), None)
    return update(event, state)


def target(state: Rollout) -> int:
    return state.spec.version if state.status == "rolling" else state.stable


def changes_its_mind(event: Promote, state: Rollout, update: Any) -> Any:
    """A promotion while it goes back: people may go on so for ever."""
    return workflow._promote(state)


# --- the rest -----------------------------------------------------------------------------------


def eager(tx: Tx, job: Job) -> int | None:
    """Births do not wait for the promotion."""
    if job.workflow != "letter":
        return None
    rollout = tx.read(proofs.HOME)
    return 1 if rollout is None or rollout.status == "stable" else 2


def backward(tx: Tx, job: Job) -> int | None:
    """Births ask nobody."""
    return 1 if job.workflow == "letter" else None


def thorough(tx: Tx, task: Move) -> dict[str, int]:
    """Moves whatever there is."""
    there = [job for job in jobs("abc") if tx.read(job) is not None]
    return {"moved": sum(tx.adopt(job, task.version) for job in there), "stuck": 0}


def miscounting(tx: Tx, task: Move) -> dict[str, int]:
    """Says that it has moved what it could not."""
    return {"moved": len(task.keys), "stuck": 0}


MUTATIONS = [
    Mutation("what diverges is rolled out", DIVERGED, 3, Failed, None, goes_on),
    Mutation("more canaries are looked for", IMPOSSIBLE, 11, Moved, "canary", one_more),
    Mutation("canaries are not counted", FEW, 5, Moved, "canary", uncounted),
    Mutation("births do not wait for the promotion", FEW, 4, how={"chooser": eager}),
    Mutation("births ask nobody", BORN, 5, how={"chooser": backward}),
    Mutation("births ask nobody, to the end", SETTLED, 17, how={"chooser": backward}),
    Mutation("more is moved than was asked for", FEW, 5, how={"transactional": {Move: thorough}}),
    Mutation("a step is as large as it likes", STEPS, 10, Ripe, "rolling", all_there_are),
    Mutation("what was not moved is counted", FEW, 5, how={"transactional": {Move: miscounting}}),
    Mutation("nobody waits until a step is ripe", WATCHED, 9, Sampled, "rolling", ripe_is_enough),
    Mutation("samples of the step before go on", WATCHED, 10, Ripe, "rolling", without_withdrawing),
    Mutation("bad samples are not seen", STOPPED, 9, Sampled, "rolling", blind),
    Mutation("bad canaries are not seen", STOPPED, 8, Sampled, "canary", blind),
    Mutation("no sample is a good sample", STOPPED, 8, Unsampled, None, hopeful),
    Mutation("a revert leaves who has moved", SETTLED, 6, Revert, "rolling", at_once),
    Mutation("a deadline leaves who has moved", SETTLED, 9, Late, "halted", at_once),
    Mutation("one page is the whole", SETTLED, 12, Picked, "rolling", first_page),
    Mutation("a canary without a deadline", ENDS, 11, Passed, None, without("deadline"), ALONE),
    Mutation("nothing has a deadline", ENDS, 23, object, None, without("deadline"), ALONE),
    Mutation(
        "who halts has no deadline", ENDS_OR_WAITS, 13, Sampled, "waiting", without("deadline")
    ),
    Mutation("the last pass is left out", SETTLED, 16, Picked, "rolling", tired, names="sab"),
    Mutation("a promotion keeps the samples", WATCHED, 7, Promote, None, without_withdrawing),
    Mutation("a revert keeps the samples", IMPOSSIBLE, 9, Revert, "canary", without_withdrawing),
    Mutation("back and forth for ever", ENDS_OR_WAITS, 10, Promote, "reverting", changes_its_mind),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_what_is_broken_is_found(mutation: Mutation) -> None:
    await planted.alone(mutation.of(), mutation)


def test_what_the_readme_calls_a_proof_is_there() -> None:
    """Of what the checker takes for granted."""
    readme = (ROOT / "examples/rollout/README.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", readme)
    assert len(named) == 11
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text()
