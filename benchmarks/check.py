"""The model checker: states per second, beside a bare breadth-first loop over the same successors.

The model is the lease, all of whose 79,507 states are met. Each loop begins with a machine of its
own, so both pay for the engine's runs. The bare loop tests nothing, and remembers no way.
"""

from __future__ import annotations

from collections import deque
from time import process_time
from typing import Any

from benchmarks.lease import STATES, STEPS, model
from stmflow.check import explore
from stmflow.check.machine import Machine


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
    }


if __name__ == "__main__":
    for name, value in report(rounds=1).items():
        print(f"{name:18} {value:,.2f}")
