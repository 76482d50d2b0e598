"""Machines that speak to each other at once: in one direction, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from stmflow import Job, Workflow, perform
from stmflow.errors import ReducerFailed
from stmflow.testing import Trace


@dataclass(frozen=True, slots=True)
class Go:
    """Passed on so many times, from one to the next."""

    hops: int


@dataclass(frozen=True, slots=True)
class Pass:
    hops: int


@dataclass(frozen=True, slots=True)
class Reached:
    hops: int


def update(event: Go, state: Reached | None) -> Any:
    onward = [perform(Pass(event.hops - 1))] if event.hops else []
    return Reached(event.hops), onward


RING = Workflow("ring", state=Reached, events=(Go,), outside=(Go,), tasks=(Pass,), update=update)


def play(jobs: int) -> Trace:
    def hand_on(tx: Any, task: Pass) -> None:
        tx.apply(place(jobs - task.hops - 1), Go(task.hops))

    def place(at: int) -> Job:
        return RING.job(*([at % jobs] if at % jobs else []))

    return Trace(RING, transactional={Pass: hand_on})


def test_a_chain_is_one_commit() -> None:
    first = play(3).send(Go(2))
    others = [first.job(RING.job(at)) for at in (1, 2)]
    assert [job.state for job in (first, *others)] == [Reached(2), Reached(1), Reached(0)]
    assert len({job.history[-1].revision for job in (first, *others)}) == 1


def test_a_chain_that_comes_back_is_refused_and_nothing_is_written() -> None:
    first = play(3)
    with pytest.raises(ReducerFailed, match="its own job"):
        first.send(Go(3))
    assert all(first.job(RING.job(*key)).state is None for key in ([], [1], [2]))
