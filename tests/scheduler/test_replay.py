"""The replay gate as a task."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import Context, Failure, Retry
from scheduler.handlers.replay import Replay, replaying
from stmflow import CID, SystemClock, Transactor, Workflow
from stmflow.store.memory import MemoryStore
from tests.stmflow.versions import ONE, TWO, Grow1, Open, stay, two

CONTEXT = Context(
    key=CID.of(b"task"),
    job=CID.of(b"job"),
    attempt=1,
    token=1,
    deadline=2**60,
    clock=SystemClock(),
)


async def asked(task: Replay, *workflows: Workflow, **options: Any) -> Any:
    """The handler's answer over three jobs of version 1."""
    store = MemoryStore()
    async with Transactor(store, [ONE, TWO], chooser=stay) as transactor:
        for name in "abc":
            await transactor.send(ONE, Open(name))
            await transactor.send(ONE, Grow1(name, 1))
    async with Transactor(store, workflows or (ONE, TWO), chooser=stay) as transactor:
        return await replaying(transactor, **options)(task, CONTEXT)


async def test_it_answers_how_much_was_run_again() -> None:
    assert await asked(Replay("file", 2)) == {"histories": 3, "revisions": 6}
    assert await asked(Replay("file", 2, sample=2)) == {"histories": 2, "revisions": 4}
    nothing = Workflow("nothing", state=(), events=(), update=_no)
    told = await asked(Replay("nothing", 1), ONE, TWO, nothing)
    assert told == {"histories": 0, "revisions": 0}


def _no(event: Any, state: Any) -> Any:
    raise AssertionError


async def test_a_divergence_is_a_failure_that_names_it_and_is_not_tried_again() -> None:
    with pytest.raises(Failure) as caught:
        await asked(Replay("file", 2), ONE, two(update=_no))
    failure = caught.value
    assert (failure.name, failure.retry) == ("Diverged", Retry.FATAL)
    assert failure.detail.keys() == {"job", "seq", "revision", "event", "recorded", "made", "why"}
    assert failure.detail["seq"] == 1
    assert len(failure.detail["why"]) == 1


async def test_one_that_is_meant_is_none() -> None:
    meant = {"allow": lambda found: True}
    assert (await asked(Replay("file", 2), ONE, two(update=_no), **meant))["histories"] == 3


async def test_a_history_that_cannot_be_run_again_is_a_failure_too() -> None:
    with pytest.raises(Failure) as caught:
        await asked(Replay("file", 2), ONE, two(upcasts={}))
    assert (caught.value.name, caught.value.retry) == ("NotRerun", Retry.FATAL)
    assert "no upcast" in caught.value.detail["why"]


async def test_a_version_that_is_not_here_may_be_elsewhere() -> None:
    with pytest.raises(Failure) as caught:
        await asked(Replay("file", 3))
    assert (caught.value.name, caught.value.retry) == ("NotRerun", Retry.SAFE)
