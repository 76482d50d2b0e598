"""Four airlocks under leaks and button storms: the rules of the crew hold all along."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from examples.spaceship import (
    AIRLOCK,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
    ActiveRequested,
    AskInner,
    AskOuter,
    Leak,
    ReadyRequested,
    RelaxedRequested,
    bay,
    build,
)
from examples.spaceship.check import AIR, GATE, MODE, MOTORS, SHIP, rules, ship
from scheduler import Scheduler, Transaction
from stmflow import Job, Transactor
from stmflow.check import prove
from stmflow.check.machine import RUN, SEND, SETTLE, Machine, State
from stmflow.check.search import Seen
from stmflow.store.sqlite import SQLiteStore

NAMES = ("A", "B", "C", "D")

# --- a walk through what the checker would explore -----------------------------------------------


def test_a_walk_with_four_airlocks() -> None:
    walk(3_000, Random(1))


@pytest.mark.acceptance
def test_a_million_events_with_four_airlocks() -> None:
    met = walk(1_000_000, Random(2))
    assert set(met) == {one.name for one in rules(NAMES) if one.kind == "sometimes"}


def walk(events: int, random: Random) -> Counter[str]:
    """Take steps at random, the engine's own, and try every rule in every state that is new."""
    check = ship("four airlocks", NAMES, leaks=None)
    machine = Machine(check)
    kept = [one for one in check.properties if one.kind == "always"]
    stepwise = [one for one in check.properties if one.kind == "step"]
    reached = [one for one in check.properties if one.kind == "sometimes"]
    leak = next(at for at, send in enumerate(check.sends) if isinstance(send.event, bay.Leak))
    met: Counter[str] = Counter()
    state, seen = machine.first(), set[State]()
    count = 0
    while count < events:
        action, after, wrong = random.choice(list(machine.successors(state)))
        if action[:2] == (SEND, leak) and random.random() < 0.95:
            continue  # or there would never be air
        assert wrong is None, (count, machine.told(action), wrong)
        count += action[0] in (SEND, SETTLE, RUN)
        view = Seen(machine, after)
        if after not in seen:
            seen.add(after)
            broken = [one.name for one in kept if not one.test(view)]
            assert broken == [], (count, machine.told(action))
            met.update(one.name for one in reached if one.test(view))
        before, told = Seen(machine, state), machine.told(action)
        assert all(one.test(before, told, view) for one in stepwise), (count, told)
        state = after
    print(f"\n{events:,} events, {len(seen):,} states, {machine.runs:,} runs of the engine: {met}")
    return met


# --- the ship itself -----------------------------------------------------------------------------


async def test_a_ship_in_motion(tmp_path: Path) -> None:
    await storm(tmp_path / "ship.db", 60, Random(3))


@pytest.mark.acceptance
async def test_a_ship_in_motion_for_long(tmp_path: Path) -> None:
    await storm(tmp_path / "ship.db", 20_000, Random(4))


async def done(task: Any, context: Any) -> None:
    """A motor that is quick."""


async def storm(path: Path, events: int, random: Random) -> None:
    """On a database, with a scheduler; then everything comes to rest as it was ordered."""
    handlers = dict.fromkeys(MOTORS, done) | {
        kind: Transaction(body) for kind, body in TASKS.items()
    }
    locks = [AIRLOCK.job(SHIP, name) for name in NAMES]
    looks = 0

    async def look(db: Transactor) -> None:
        nonlocal looks
        while True:
            check_rules(await db.snapshot([GATE, AIR, MODE, *locks]))
            looks += 1
            await anyio.sleep(0.002)

    async with (
        SQLiteStore.open(path) as store,
        Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL) as db,
        Scheduler(db, handlers),
        anyio.create_task_group() as group,
    ):
        await db.transact(lambda tx: build(tx, SHIP, NAMES))
        group.start_soon(look, db)
        for _ in range(events):
            job, event = press(random)
            await db.send(job, event)
        await db.send(MODE, RelaxedRequested(SHIP))
        await db.wait(MODE, lambda deck: deck.label == "relaxed", timeout=60)
        for lock in locks:
            await db.send(lock, AskInner(SHIP, lock.key[1]))
            await db.wait(lock, lambda one: one.label == "inner open", timeout=60)
        group.cancel_scope.cancel()
    assert looks > 1


def press(random: Random) -> tuple[Job, Any]:
    """A button, now and then an order, once in a while a leak."""
    name = random.choice(NAMES)
    ask: Any = random.choice([AskOuter, AskInner])(SHIP, name)
    order: Any = random.choice([ActiveRequested, ReadyRequested, RelaxedRequested])(SHIP)
    (chosen,) = random.choices(
        [(AIRLOCK.job(SHIP, name), ask), (MODE, order), (AIR, Leak(SHIP))], [80, 15, 5]
    )
    return chosen


class Snapshot:
    """Jobs as of one moment, as properties see them."""

    def __init__(self, states: dict[Job, Any]) -> None:
        self._states = states

    def state(self, job: Job) -> Any:
        return self._states[job]


def check_rules(states: dict[Job, Any]) -> None:
    view: Any = Snapshot(states)
    broken = [one.name for one in rules(NAMES) if one.kind == "always" and not one.test(view)]
    assert broken == [], states


# --- what takes longer to prove -------------------------------------------------------------------


@pytest.mark.acceptance
def test_two_airlocks_are_proved() -> None:
    report = prove(ship("two airlocks", ["A", "B"]))
    assert (report.holds, report.vacuous, len(report.graph.states)) == (True, [], 228_508)
