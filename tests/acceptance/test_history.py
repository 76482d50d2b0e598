"""Several processes on one store: what their clients saw, joined by one clock, has an order."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest

from examples.bank.load import opened
from scheduler.testing.orders import WORKFLOWS, Deposit, purse, transfer
from stmflow import SystemClock, Transactor
from stmflow.testing import Recorder, check_history, check_store
from stmflow.testing.__main__ import main
from stmflow.testing.jepsen import dumps, joined, loads

PURSES = 5
CLIENTS = 4
RANGE = 1_000_000


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_what_two_processes_saw_has_an_order(kind: str, name: str, tmp_path: Path) -> None:
    await has_an_order(tmp_path, name, processes=2, operations=10)


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_four_processes_saw_has_an_order(kind: str, name: str, tmp_path: Path) -> None:
    await has_an_order(tmp_path, name, processes=4, operations=400)


async def has_an_order(folder: Path, name: str, *, processes: int, operations: int) -> None:
    histories = []

    async def process(number: int) -> None:
        command = [sys.executable, "-m", __spec__.name, name, str(number), str(operations)]
        done = await anyio.run_process(command, stderr=None)
        histories.append(loads(done.stdout.decode()))

    async with opened(name) as store:
        async with Transactor(store, WORKFLOWS) as transactor:
            for n in range(PURSES):
                await transactor.send(purse(f"p{n}"), Deposit(f"p{n}", 0, 100), delivery="fund")
        async with anyio.create_task_group() as group:
            for number in range(processes):
                group.start_soon(process, number)
        history = joined(histories)
        assert len(history) == processes * CLIENTS * operations * 2
        assert await check_store(store, history) == []
        assert check_history(history) == []
        file = folder / "history.jsonl"
        file.write_text(dumps(history))
        words = ["check", str(file), "--database", name]
        assert await anyio.to_thread.run_sync(main, words) == 0


async def work(name: str, number: int, operations: int) -> None:
    """One process: clients that send, transfer and look, and what they saw on stdout."""
    history: list[dict[str, Any]] = []
    async with opened(name) as store, Transactor(store, WORKFLOWS) as transactor:
        clock = SystemClock()
        recorder = Recorder(transactor, history, first=number * RANGE, clock=clock)
        async with anyio.create_task_group() as group:
            for client in range(CLIENTS):
                who = f"{number} {client}"
                group.start_soon(_client, recorder, who, operations, number * CLIENTS + client)
    sys.stdout.write(dumps(history))


async def _client(recorder: Recorder, who: str, operations: int, number: int) -> None:
    random = Random(who)
    for turn in range(operations):
        op = number * RANGE + turn + 1
        source, target = random.sample([f"p{n}" for n in range(PURSES)], 2)
        kind = random.random()
        if kind < 0.4:
            body = transfer(source, target, op, random.randint(1, 60))
            await recorder.transact(body, at=purse(source), delivery=f"{who} {turn}")
        elif kind < 0.7:
            await recorder.send(purse(source), Deposit(source, op, 1), delivery=f"{who} {turn}")
        else:
            await recorder.get(purse(source))


if __name__ == "__main__":
    anyio.run(work, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
