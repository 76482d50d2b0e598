"""Workflows of somebody else in the world: what a user writes, and what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from scheduler import App, Context, Failure, Policy, Retry
from scheduler.testing import Client, Options, Rest, Workload, campaign, crash_points, simulate
from scheduler.testing.__main__ import main
from scheduler.testing.checks import check
from stmflow import ANY, Err, Transactor, Workflow, perform, reject, same, sleep
from stmflow.request import Send
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from tests.simulation.worlds import held

HERE = "tests.simulation.test_workloads:Parcels"


@dataclass(frozen=True, slots=True)
class Order:
    """Somebody wants a parcel."""

    name: str


@dataclass(frozen=True, slots=True)
class Shipped:
    """It is under way."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be shipped."""

    error: Err


@dataclass(frozen=True, slots=True)
class Ship:
    """Ship it."""

    name: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """How often it was shipped, and whether it cannot be."""

    name: str
    times: int = 0
    failed: bool = False


def _update(event: Any, parcel: Parcel | None) -> Any:
    if isinstance(event, Order):
        if parcel is not None:
            return same()
        return Parcel(event.name), [perform(Ship(event.name)).then(Shipped).catch(Failed)]
    if parcel is None:
        return reject("Unknown")
    if isinstance(event, Failed):
        return replace(parcel, failed=True), []
    return replace(parcel, times=parcel.times + 1), []


def _forgetful(event: Any, parcel: Parcel | None) -> Any:
    """The bug of a beginner: an order that comes again is shipped again."""
    if isinstance(event, Order):
        return Parcel(event.name), [perform(Ship(event.name)).then(Shipped).catch(Failed)]
    return _update(event, parcel)


def _workflow(update: Any) -> Workflow:
    return Workflow(
        "parcel",
        state=Parcel,
        events=(Order, Shipped, Failed),
        outside=(Order,),
        tasks=(Ship,),
        update=update,
        key=("name",),
    )


PARCEL = _workflow(_update)


async def _ship(task: Ship, context: Context) -> int:
    return context.attempt


class Parcels(Workload):
    """Clients that order; a parcel is shipped once."""

    app = App(workflows=[PARCEL], handlers={Ship: _ship})

    def __init__(self, random: Random) -> None:
        self.names = random.randint(1, 5)

    async def act(self, client: Client) -> None:
        await client.send(PARCEL, Order(f"parcel {client.random.randrange(self.names)}"))

    def check(self, rest: Rest) -> Iterator[str]:
        for parcel in rest.states("parcel").values():
            runs = sum(len(runs) for runs in rest.performed.values())
            if not parcel.failed and parcel.times != 1:
                yield f"{parcel.name} was shipped {parcel.times} times; {runs} runs in all"


class Forgetful(Parcels):
    """The same with the beginner's bug."""

    app = App(workflows=[_workflow(_forgetful)], handlers={Ship: _ship})


def test_a_users_workload_holds_on_both_stores() -> None:
    seen = campaign(Parcels, MemoryStore, seeds=range(12))
    assert seen["seeds"] == 12
    assert min(seen["crash"], seen["parcel: Shipped gave Parcel"]) > 0
    campaign(Parcels, lambda: SQLiteStore.open(":memory:"), seeds=range(12, 18))


def test_a_users_bug_is_found_and_the_report_names_seed_and_workload() -> None:
    with pytest.raises(AssertionError) as told:
        campaign(Forgetful, MemoryStore, seeds=range(64))
    text = str(told.value).strip()
    assert text.startswith("seed ")
    assert "workload Forgetful({'names':" in text


def test_a_workload_that_does_not_say_what_clients_do_is_told_so() -> None:
    class Silent(Workload):
        app = App(workflows=[PARCEL], handlers={Ship: _ship})

    outcome = simulate(3, MemoryStore(), workload=Silent)
    assert "Silent does not say what a client does" in outcome.problems[0]


def test_one_that_does_not_say_what_runs_is_told_so_too() -> None:
    class Idle(Workload):
        async def act(self, client: Client) -> None:
            """Nothing."""

    outcome = simulate(3, MemoryStore(), workload=Idle)
    assert "'Idle' object has no attribute 'app'" in outcome.problems[0]
    assert not any("Event loop stopped" in problem for problem in outcome.problems)


def test_a_check_that_raises_is_told_with_its_line() -> None:
    class Asserting(Parcels):
        def check(self, rest: Rest) -> Iterator[str]:
            yield "a problem before it"
            assert not rest.states("parcel"), "a parcel is left"

    first, second = simulate(3, MemoryStore(), workload=Asserting).problems
    assert first == "a problem before it"
    assert second.startswith("Asserting.check raised ")
    assert 'assert not rest.states("parcel")' in second
    assert "AssertionError: a parcel is left" in second


def test_a_check_that_asks_for_a_workflow_that_nobody_ran_is_told_which_there_are() -> None:
    class Mistyped(Parcels):
        def check(self, rest: Rest) -> Iterator[str]:
            yield from map(str, rest.states("parcels"))

    (problem,) = simulate(3, MemoryStore(), workload=Mistyped).problems
    assert "no process ran 'parcels': there are cell, parcel" in problem


def test_options_steer_a_run() -> None:
    calm = replace(Options.draw(3), rates={}, nodes=1, clients=2)
    outcome = held(simulate(calm, MemoryStore(), workload=Parcels))
    assert {line["process"] for line in outcome.history} == {0, 1}
    assert all(len(runs) == 1 for runs in outcome.performed.values())


class Flaky(Parcels):
    """Its handler fails by itself, then takes too long, and has less time than a handler may."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.app = App(
            workflows=[PARCEL],
            handlers={Ship: self._flaky},
            policies={Ship: Policy(attempt_ms=50)},
        )

    async def _flaky(self, task: Ship, context: Context) -> int:
        if context.attempt == 1:
            raise Failure("Throttled", None, retry=Retry.THROTTLED)
        if context.attempt == 2:
            await anyio.sleep(60)
        return context.attempt

    def check(self, rest: Rest) -> Iterator[str]:
        if all(len(runs) < 3 for runs in rest.performed.values()):
            yield "no handler failed"


def test_a_handler_that_fails_by_itself_is_tried_again_in_a_world_without_faults_too() -> None:
    for seed in range(4):
        calm = replace(Options.draw(seed), rates={}, queued_requests=16_384)
        held(simulate(calm, MemoryStore(), workload=Flaky))


def test_a_run_that_nothing_explains_is_told_with_what_it_was() -> None:
    calm = replace(Options.draw(3), rates={}, queued_requests=16_384)
    outcome = held(simulate(calm, MemoryStore(), workload=Parcels))
    task, runs = next(iter(outcome.performed.items()))
    runs.append(("node1", 2))
    check(outcome)
    (problem,) = outcome.problems
    assert problem.startswith("Ship {'name': 'parcel ")
    assert problem.endswith(f"}} {task} ran 2 times")


def test_a_handler_that_hangs_is_stopped_by_a_process_whose_timers_are_fast_too() -> None:
    """With attempts of a minute a tenth of it is more than the second that the world grants."""
    for seed in (15, 27, 47, 48):
        rates = {"hang": 0.2, "drift": 0.05, "cancelled": 0.2}
        held(simulate(replace(Options.draw(seed), rates=rates), MemoryStore(), workload=Parcels))


class Counting(Parcels):
    """Its handler counts what it sends by how often it runs, not by the key of its task."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.app = App(workflows=[PARCEL], handlers={Ship: self._counted})
        self._sent: list[str] = []

    async def _counted(self, task: Ship, context: Context) -> int:
        self._sent.append(task.name)
        await anyio.sleep(0.01)
        return context.attempt

    def check(self, rest: Rest) -> Iterator[str]:
        twice = {name for name in self._sent if self._sent.count(name) > 1}
        yield from (f"{name} was sent twice" for name in sorted(twice))


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_users_workload_holds_wherever_its_process_crashes(nodes: int) -> None:
    points = list(crash_points(Parcels, MemoryStore(), seed=1, operations=1, nodes=nodes))
    steps = {crash.step for each in points for crash in each.crashes}
    assert len(points) == 2 * nodes * len(steps) == 2 * nodes * (max(steps) - min(steps) + 1)
    seen = campaign(Parcels, MemoryStore, seeds=points)
    assert len(points) * 0.9 < seen["crash"] <= len(points)  # the last steps are of nobody's life
    assert seen["claims taken from the dead"] > 20  # it was cut in the middle


def test_a_bug_that_shows_only_after_a_crash_has_a_point_that_shows_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = ["--workload", f"{HERE.partition(':')[0]}:Counting"]
    assert main(["crashes", "1", "--operations", "1", *here]) == 1
    *_, problem, again = capsys.readouterr().out.splitlines()
    assert problem.endswith(" was sent twice")
    words = again.split()
    assert words[:4] == ["again:", "python", "-m", "scheduler.testing"]
    assert main(words[4:]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == problem


def test_a_seed_that_fails_is_told_with_the_command_that_shows_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"{HERE.partition(':')[0]}:Forgetful"
    assert main(["campaign", "--first", "7", "--workload", name]) == 1
    again = capsys.readouterr().out.splitlines()[-1]
    assert again.startswith("again: python -m scheduler.testing replay ")
    assert main(again.split()[4:]) == 1


def test_a_crash_that_cannot_be_is_the_callers_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [["--at", each] for each in ("71", "0:lost", "71:gone", "71:lost:0:1", "x:lost")]
    for words in [*wrong, ["--nodes", "0"], ["--operations", "-1"]]:
        with pytest.raises(SystemExit) as left:
            main(["crashes", "--workload", HERE, *words])
        assert left.value.code == 2
        assert words[0] in capsys.readouterr().err


class Gone(Parcels):
    """Its client leaves a request behind that comes to its turn much later."""

    async def act(self, client: Client) -> None:
        async def leave_behind(transactor: Transactor) -> None:
            job, id = PARCEL.job("late"), b"left behind"
            now = transactor.clock.now()
            send = Send(job.id, job, Order("late"), id, None, now, _nobody, _nobody)
            transactor._committer._later(send, 40_000)

        await client._world.call(leave_behind)

    def check(self, rest: Rest) -> Iterator[str]:
        if [parcel.times for parcel in rest.states("parcel").values()] != [1]:
            yield "what was left behind has not been done, or not ended"


def _nobody(_: Any) -> None:
    """Nobody waits."""


def test_a_world_rests_only_when_what_was_asked_for_has_been_done() -> None:
    """Seed 4808137159: a request in doubt, whose client had gone, slept by a clock that had been
    wrong for a minute, and was committed when all had come to rest."""
    held(simulate(Options.calm(1, operations=1), MemoryStore(), workload=Gone))


@dataclass(frozen=True, slots=True)
class Reminded:
    """A day has gone by."""


def _reminding(event: Any, parcel: Parcel | None) -> Any:
    """Looks after its parcel for three days, whatever becomes of it."""
    day = sleep(for_=timedelta(days=1), during=ANY).then(Reminded)
    if isinstance(event, Order):
        return same() if parcel is not None else (Parcel(event.name), [day])
    assert parcel is not None
    times = parcel.times + 1
    return replace(parcel, times=times), [day] if times < 3 else []


class Reminders(Workload):
    """Parcels that are ordered, and then nothing happens for days."""

    parcel = Workflow(
        "parcel",
        state=Parcel,
        events=(Order, Reminded),
        outside=(Order,),
        update=_reminding,
        key=("name",),
    )
    app = App(workflows=[parcel], handlers={})

    async def act(self, client: Client) -> None:
        await client.send(self.parcel, Order(f"parcel {client.random.randrange(3)}"))

    def check(self, rest: Rest) -> Iterator[str]:
        for parcel in rest.states("parcel").values():
            if parcel.times != 3:
                yield f"{parcel.name} was looked after {parcel.times} times"


def test_a_world_rests_only_when_timers_of_days_have_fired() -> None:
    seen = campaign(Reminders, MemoryStore, seeds=range(6))
    assert seen["parcel: Reminded gave Parcel"] > 0


def test_a_history_is_written_as_json_lines_in_jepsens_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    assert main(["replay", "5", "--workload", HERE, "--history", str(path)]) == 0
    assert capsys.readouterr().out.startswith("seed 5\n")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(len(lines)))
    assert all({"process", "type", "f", "value", "time"} <= line.keys() for line in lines)
    assert all(isinstance(line["time"], int) for line in lines)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert {line["type"] for line in lines} <= {"invoke", "ok", "fail", "info"}


def test_a_process_of_a_history_does_one_thing_at_a_time_and_ends_with_an_unknown_fate() -> None:
    for seed in range(6):
        open: dict[int, int] = {}
        ended: set[int] = set()
        for line in simulate(seed, MemoryStore()).history:
            process = line["process"]
            if line.get("repeat"):
                continue
            assert process not in ended
            if line["type"] == "invoke":
                assert process not in open
                open[process] = line["op"]
            else:
                assert open.pop(process) == line["op"]
            if line["type"] == "info":
                ended.add(process)


def test_a_workload_that_cannot_be_found_is_the_callers_mistake(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = "tests.simulation.test_workloads"
    for name in ("nowhere:Parcels", f"{here}:Nothing", f"{here}:PARCEL", ":"):
        with pytest.raises(SystemExit) as left:
            main(["replay", "5", "--workload", name])
        assert left.value.code == 2
        assert "--workload" in capsys.readouterr().err


def test_a_campaign_that_ran_no_seed_has_shown_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for minutes in ("0", "-1", "nan"):
        assert main(["campaign", "--minutes", minutes, "--workload", HERE]) == 2
        assert capsys.readouterr().err == "no seed was run: give it some minutes\n"


def test_a_history_that_cannot_be_written_is_the_callers_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nowhere" / "history.jsonl"
    assert main(["replay", "5", "--workload", HERE, "--history", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("seed 5\n")
    assert str(path) in told.err
