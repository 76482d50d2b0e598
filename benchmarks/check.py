"""The model checker: states per second, beside a bare breadth-first loop over the same successors,
and beside TLC, which explores the lease as it was specified by hand.

The model is the lease, all of whose 79,507 states are met. Each loop begins with a machine of its
own, so both pay for the engine's runs. The bare loop tests nothing, and remembers no way. TLC has
as many workers as there are cores, and its time is that of a person who waits, with the start of
Java; it is left out where Java or the wheel that brings TLC is not to be had.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import chain
from os import cpu_count, times
from pathlib import Path
from subprocess import SubprocessError
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

from benchmarks.lease import JOBS, STATES, STEPS, WORKERS, model, sends
from stmflow.check import Alike, explore
from stmflow.check.machine import Machine
from tools import formal


def bare() -> tuple[int, int, float]:
    """States, steps and CPU seconds of a loop with a set and a queue."""
    began = process_time()
    machine = Machine(model())
    first = machine.first()
    met, queue, steps = {first}, deque([first]), 0
    while queue:
        for step in machine.successors(queue.popleft()):
            steps += 1
            if step.state not in met:
                met.add(step.state)
                queue.append(step.state)
    return len(met), steps, process_time() - began


def checked() -> tuple[int, int, float]:
    """The same of the checker, with its property."""
    began = process_time()
    graph = explore(model())
    assert graph.whole
    assert not graph.wrong
    return len(graph.states), graph.steps, process_time() - began


def alike() -> tuple[int, float]:
    """States and CPU seconds, where jobs and workers may trade places."""
    rows = [sends(job, failing=True) for job in JOBS]
    flat = list(chain.from_iterable(rows))
    by = [[one for one in flat if getattr(one.event, "worker", None) == each] for each in WORKERS]
    began = process_time()
    graph = explore(replace(model(), symmetric=[Alike(rows), Alike(by)]))
    return len(graph.states), process_time() - began


def waited() -> dict[str, float]:
    """Seconds until the answer is there, of one core and of all, and of TLC, with its CPU."""
    found = {}
    for name, cores in (("wall_seconds", 1), ("cores_wall_seconds", cpu_count() or 1)):
        began = perf_counter()
        explore(model(), cores=cores)
        found[name] = perf_counter() - began
    try:
        if not formal.runs("java", "-version"):
            return found
        formal.fetch()
    except (OSError, SubprocessError):
        return found
    with TemporaryDirectory() as folder:
        for name in ("Lease.tla", "Lease.cfg"):
            (Path(folder) / name).write_text((formal.ROOT / "formal" / name).read_text())
        began, before = perf_counter(), times()
        theirs = formal.tlc(Path(folder), "Lease")
        after = times()
        found["tlc_wall_seconds"] = perf_counter() - began
    assert theirs == (STATES, STEPS, True)
    found["tlc_seconds"] = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return found


def report(*, rounds: int = 3) -> dict[str, Any]:
    """The best of some rounds, taken in turn."""
    turns = [(bare(), checked()) for _ in range(rounds)]
    for one in turns:
        assert [each[:2] for each in one] == [(STATES, STEPS)] * 2
    loop, ours = (min(turn[which][2] for turn in turns) for which in (0, 1))
    return {
        "states": STATES,
        "steps": STEPS,
        "seconds": ours,
        "states_per_second": STATES / ours,
        "bare_seconds": loop,
        "ratio": ours / loop,
        "alike_states": alike()[0],
        "alike_seconds": alike()[1],
        **waited(),
    }


if __name__ == "__main__":
    for name, value in report(rounds=1).items():
        print(f"{name:18} {value:,.2f}")
