"""Every cell of the table of a rollout, and every bound of a spec."""
# ruff: noqa: E501

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, get_args

import pytest

from examples.rollout import Health, Promote, Revert, Rollout, Spec, Start, flaws
from examples.rollout.model import (
    MOST,
    Again,
    Failed,
    Late,
    Move,
    Moved,
    Passed,
    Pick,
    Picked,
    Ripe,
    Sampled,
    Status,
    Unpicked,
    Unsampled,
)
from examples.rollout.workflow import ROLLOUT, update
from stmflow import CID, Err
from stmflow.effect import Cancel, Plan
from stmflow.workflow import Impossible, Reject, Same

HEALTH = Health(every_ms=10, samples=2, tolerate=1)
SPEC = Spec(
    base=1,
    version=2,
    canary=3,
    max_parallel=4,
    min_healthy_ms=50,
    progress_ms=1_000,
    health=HEALTH,
)
AUTO = replace(SPEC, auto_promote=True, auto_revert=True)
NO_CANARY = replace(SPEC, canary=0)
ERR = Err("Diverged", {"seq": 1})
KEYS: Any = (("a",), ("b",), ("c",), ("d",))
SOME = CID.of(b"some job")

EVENTS: dict[str, list[Any]] = {
    "start": [
        Start("w", SPEC),
        Start("w", replace(SPEC, base=7)),
        Start("w", replace(SPEC, health=None)),
    ],
    "passed": [Passed(3, 9)],
    "failed": [Failed(ERR)],
    "picked": [Picked(KEYS, SOME, False), Picked(KEYS, SOME, True), Picked((), None, True)],
    "moved": [Moved(2, 0), Moved(0, 2)],
    "unpicked": [Unpicked(ERR)],
    "sampled": [Sampled(9, 1), Sampled(9, 2)],
    "unsampled": [Unsampled(ERR)],
    "ripe": [Ripe()],
    "late": [Late()],
    "again": [Again()],
    "promote": [Promote("w")],
    "revert": [Revert("w")],
}


CELLS = """
| state | start | passed | failed | picked | moved | unpicked | sampled | unsampled | ripe | late | again | promote | revert |
| none | →checking · R:InvalidSpec | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | R:NotRolling | R:NotRolling |
| stable | →checking · R:Base · R:InvalidSpec | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | R:NotRolling | R:NotRolling |
| checking | R:Busy | →canary · →rolling | →stable | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | →stable | ‼ | R:NotReady | →stable |
| canary | R:Busy | ‼ | ‼ | = | →canary · = | = | →canary · →waiting · →rolling · →halted · →reverting | = | →canary · →waiting · →rolling | →reverting | = | →rolling | →reverting |
| waiting | R:Busy | ‼ | ‼ | ‼ | ‼ | ‼ | = · →halted · →reverting | = | ‼ | ‼ | ‼ | →rolling | →reverting |
| rolling | R:Busy | ‼ | ‼ | →rolling · →stable | →rolling · = | = | →rolling · →reverting | = | →rolling | →reverting | = | = | →reverting |
| halted | R:Busy | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | ‼ | →reverting | ‼ | →rolling | →reverting |
| reverting | R:Busy | ‼ | ‼ | →reverting · →stable | →reverting · = | = | ‼ | ‼ | ‼ | ‼ | = | R:Reverting | = |
"""


def table() -> dict[str, dict[str, set[str]]]:
    """State → event → what may come of it: `→S` the next state, `=` the state stays, `R:code`
    refused, `‼` impossible."""
    lines = CELLS.strip().splitlines()
    (_, *names), *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {
        row[0]: {name: set(cell.split(" · ")) for name, cell in zip(names, row[1:], strict=True)}
        for row in rows
    }


TABLE = table()


def states(status: str) -> list[Rollout | None]:
    """States of that status in which the conditions of cells differ."""
    if status == "none":
        return [None]
    return [
        Rollout(
            "w", status, 1, spec, ripe=ripe, healthy=healthy, touched=touched  # type: ignore[arg-type]
        )
        for spec in (SPEC, AUTO, NO_CANARY)
        for ripe in (False, True)
        for healthy in (0, 1, 2)
        for touched in (False, True)
    ]  # fmt: skip


def told(answer: Any) -> str:
    """An answer in the words of the table."""
    match answer:
        case (Rollout() as state, _):
            return f"→{state.status}"
        case Same():
            return "="
        case Reject(code):
            return f"R:{code}"
        case Impossible():
            return "‼"
    raise AssertionError(answer)


def test_the_table_has_every_state_and_every_event() -> None:
    assert list(TABLE) == ["none", *get_args(Status)]
    assert all(list(row) == list(EVENTS) for row in TABLE.values())
    kinds = {type(event) for events in EVENTS.values() for event in events}
    assert all(ROLLOUT.declares(kind) for kind in kinds)
    assert len(kinds) == len(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("status", TABLE)
def test_every_answer_stands_in_its_cell_and_every_word_of_a_cell_is_given(
    status: str, event: str
) -> None:
    given = {told(update(one, state)) for state in states(status) for one in EVENTS[event]}
    assert given == TABLE[status][event]


@pytest.mark.parametrize("status", TABLE)
def test_every_answer_can_be_stored(status: str) -> None:
    for state in states(status):
        for events in EVENTS.values():
            for event in events:
                answer = update(event, state)
                made = answer[0] if isinstance(answer, tuple) else state
                if made is not None:
                    ROLLOUT.state_bytes(made)
                effects = answer[1] if isinstance(answer, tuple) else getattr(answer, "effects", ())
                for effect in effects:
                    assert isinstance(effect, Cancel) or ROLLOUT.effect_bytes(_during(effect))


def _during(effect: Any) -> Any:
    from stmflow.job import _resolve

    return _resolve(effect, "any")


# --- what is asked for ----------------------------------------------------------------------------


def asked(answer: Any, kind: type) -> list[Any]:
    effects = answer[1] if isinstance(answer, tuple) else answer.effects
    leaves = [
        leaf for effect in effects if not isinstance(effect, Cancel) for leaf in Plan(effect).leaves
    ]
    return [leaf.task for leaf in leaves if isinstance(getattr(leaf, "task", None), kind)]


@pytest.mark.parametrize(("canaries", "most"), [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_no_more_canaries_are_moved_than_there_is_room_for(canaries: int, most: int) -> None:
    state = Rollout("w", "canary", 1, SPEC, canaries=canaries)
    (move,) = asked(update(Picked(KEYS, None, True), state), Move)
    assert move == Move("w", 2, KEYS[:most])


def test_canaries_are_counted_and_watched_from_then_on() -> None:
    state, effects = update(Moved(2, 1), Rollout("w", "canary", 1, SPEC))  # type: ignore[misc]
    assert (state.canaries, state.moved) == (2, 2)
    assert {Plan(effect).leaves[0].name for effect in effects} == {"ripe", "pause"}


def test_a_step_ends_when_it_is_both_ripe_and_healthy() -> None:
    state = Rollout("w", "rolling", 1, SPEC)
    for events in ([Ripe(), Sampled(1, 0), Sampled(1, 0)], [Sampled(1, 0), Sampled(1, 1), Ripe()]):
        step: Any = (state, ())
        for event in events:
            assert asked(step, Pick) == []
            step = update(event, step[0])
        assert asked(step, Pick) == [Pick("w", 1, 4, None)]
        assert (step[0].ripe, step[0].healthy) == (False, 0)


def test_without_a_health_check_a_step_ends_when_it_is_ripe() -> None:
    spec = replace(NO_CANARY, health=None)
    assert asked(update(Ripe(), Rollout("w", "rolling", 1, spec)), Pick) != []


def test_the_last_pass_is_one_that_finds_nothing() -> None:
    state = Rollout("w", "rolling", 1, SPEC)
    found: Any = update(Picked(KEYS, SOME, False), state)
    assert (found[0].after, found[0].touched) == (SOME, True)
    end: Any = update(Picked((), None, True), found[0])
    assert (end[0].after, end[0].touched) == (None, False)
    assert asked(end, Pick) == [Pick("w", 1, 4, None)]
    assert told(update(Picked((), None, True), end[0])) == "→stable"


def test_where_jobs_are_born() -> None:
    for status in get_args(Status):
        born = Rollout("w", status, 1, SPEC).born
        assert born == (2 if status == "rolling" else 1)


def test_a_refusal_says_why_and_the_next_rollout_forgets_it() -> None:
    state: Any = update(Failed(ERR), Rollout("w", "checking", 1, SPEC))
    assert state[0].refused == ERR
    again: Any = update(Start("w", SPEC), state[0])
    assert (again[0].refused, again[0].epoch) == (None, 2)
    late: Any = update(Late(), Rollout("w", "rolling", 1, SPEC))
    back: Any = update(Picked((), None, True), late[0])
    assert (back[0].stable, back[0].refused) == (1, Err("Late"))


# --- specs ----------------------------------------------------------------------------------------

BOUNDS: list[tuple[str, Any, Any]] = [  # field, the last refused value, the first allowed one
    ("base", 0, 3),
    ("version", 0, 3),
    ("version", 1, 2),  # that is base
    ("canary", -1, 1),
    ("canary", MOST + 1, MOST),
    ("max_parallel", 0, 1),
    ("max_parallel", MOST + 1, MOST),
    ("min_healthy_ms", 0, 1),
    ("min_healthy_ms", 1_000, 999),
    ("progress_ms", 50, 51),
    ("pause_ms", 0, 1),
    ("sample", -1, 0),
    ("health", Health(0), Health(1)),
    ("health", Health(1, samples=0), Health(1, samples=1)),
    ("health", Health(1, tolerate=-1), Health(1, tolerate=0)),
    ("health", Health(100, samples=10), Health(99, samples=10)),
    ("health", None, Health(1)),
]


@pytest.mark.parametrize(("field", "refused", "allowed"), BOUNDS)
def test_every_bound_of_a_spec(field: str, refused: Any, allowed: Any) -> None:
    sound = replace(SPEC, health=Health(10, 2))
    assert list(flaws(replace(sound, **{field: allowed}))) == []
    assert len(list(flaws(replace(sound, **{field: refused})))) == 1


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (replace(SPEC, health=None), "promotes nothing"),
        (replace(NO_CANARY, auto_promote=True), "needs a canary"),
        (replace(NO_CANARY, health=None, auto_revert=True), "needs a health check"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_with_its_reason(spec: Spec, why: str) -> None:
    answer = update(Start("w", spec), None)
    assert isinstance(answer, Reject)
    assert answer.code == "InvalidSpec"
    assert any(re.search(why, line) for line in answer.detail["why"])
