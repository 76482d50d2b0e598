"""Commits side by side, in every order of their statements: each comes to what some order of whole
commits comes to.

    python -m tests.exhaustive.interleavings            every case on both stores
    python -m tests.exhaustive.interleavings sqlite "write skew" "run 7" 0,1,0,0

The second shows one order again; where it ends, the first lane that can goes on. The run's name is
part of the jobs' names, and so of their order. `tests.exhaustive.cases` says what is tried.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.campaign.part import Violation
from tests.exhaustive.cases import CASES, Case
from tests.exhaustive.postgres_lanes import PostgresLanes
from tests.exhaustive.schedule import Chooser, Trace, following, words
from tests.exhaustive.serial import Outcome, explained, serial_outcomes
from tests.exhaustive.sqlite_lanes import SQLiteLanes
from tests.pgservers import PostgresServer

MOST = 70
"""Orders of one case that are tried one after the other."""
DRAWN = 20
"""Orders that are drawn of a case that has more."""

Tell = Callable[[str, Chooser], Awaitable[Outcome]]


async def _every(kind: str, case: Case, number: int, name: Callable[[], str], tell: Tell) -> Any:
    """Try the orders of a case; what was counted."""
    await _one(kind, case, name(), Chooser([]), tell)  # what a new database needs once, is done
    seen: Counter[str] = Counter(cases=1)
    schedule: list[int] | None = []
    while schedule is not None and seen["orders"] < MOST:
        chooser = Chooser(schedule)
        seen += await _one(kind, case, name(), chooser, tell)
        schedule = following(chooser.trace)
    seen["all orders"] = int(schedule is None)
    random = Random(number)
    for _ in range(0 if schedule is None else DRAWN):
        seen += await _one(kind, case, name(), Chooser(random=random), tell)
    return seen


async def _one(kind: str, case: Case, run: str, chooser: Chooser, tell: Tell) -> Counter[str]:
    outcome: Any
    try:
        outcome = await tell(run, chooser)
    except Exception as error:
        raise Violation(_report(kind, case, run, chooser.trace, repr(error))) from error
    serial = serial_outcomes(case, run)
    order = explained(outcome, serial)
    if order is None:
        raise Violation(_report(kind, case, run, chooser.trace, f"{outcome}", serial))
    return Counter({"orders": 1, "the second came first": int(order[:1] == (1,))})


def _report(kind: str, case: Case, run: str, trace: Trace, what: str, serial: Any = None) -> str:
    schedule = ",".join(str(choice.lane) for choice in trace)
    again = f'python -m tests.exhaustive.interleavings {kind} "{case.name}" "{run}"'
    lines = [f"{again} {schedule}"]
    lines += [words(trace), what]
    lines += [f"in order {order}: {outcome}" for order, outcome in (serial or {}).items()]
    return "\n".join(lines)


def on_sqlite(case: Case, number: int = 0) -> Counter[str]:
    """Every order of a case on a new SQLite file. Raises Violation."""
    with (
        tempfile.TemporaryDirectory(prefix="stmflow-lanes-") as folder,
        SQLiteLanes.open(Path(folder) / "jobs.db") as lanes,
    ):

        async def tell(run: str, chooser: Chooser) -> Outcome:
            return lanes.tell(case, run, chooser)

        seen: Counter[str] = asyncio.run(_every("sqlite", case, number, lanes.run_name, tell))
    return seen


async def on_postgres(
    case: Case, server: PostgresServer, number: int = 0, *, begins: bool = True
) -> Counter[str]:
    """Every order of a case on a new database of that server; `begins`: of two lanes, whose BEGIN
    counts as a step too. Raises Violation."""
    url = await server.new_database()
    async with PostgresLanes.open(url) as lanes:

        async def tell(run: str, chooser: Chooser) -> Outcome:
            return await lanes.tell(case, run, chooser, begins=begins and case.lanes == 2)

        seen: Counter[str] = await _every("postgres", case, number, lanes.run_name, tell)
    await server.give_back(url)
    return seen


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: no order came to what no order of whole commits comes to."""
    if arguments:
        return asyncio.run(_again(*arguments))
    with PostgresServer() as server:
        for case in CASES:
            for kind in ("sqlite", "postgres"):
                if kind == "sqlite":
                    seen = on_sqlite(case)
                else:
                    seen = asyncio.run(on_postgres(case, server))
                every = "all" if seen["all orders"] else "some"
                print(f"{kind}: {case.name}: {seen['orders']} orders, {every}", flush=True)
    return 0


async def _again(kind: str, name: str, run: str, schedule: str) -> int:
    (case,) = [case for case in CASES if case.name == name]
    chooser = Chooser([int(lane) for lane in schedule.split(",")])
    if kind == "sqlite":
        with (
            tempfile.TemporaryDirectory() as folder,
            SQLiteLanes.open(Path(folder) / "jobs.db") as lanes,
        ):
            outcome = lanes.tell(case, run, chooser)
    else:
        with PostgresServer() as server:
            async with PostgresLanes.open(await server.new_database()) as on:
                outcome = await on.tell(case, run, chooser, begins=case.lanes == 2)
    serial = serial_outcomes(case, run)
    print(_report(kind, case, run, chooser.trace, f"{outcome}", serial))
    return int(explained(outcome, serial) is None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
