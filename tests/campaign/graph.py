"""The dependency graph of what the engine did: no cycle, in real time, over many transactions.

A slice is a virtual world of its own: a few processes on one store in memory, many clients, and
transactions that read and write a handful of cells each. Commits conflict, are re-planned and are
of unknown fate. Two graphs are checked: that of what the clients saw, and that of the revisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio

from scheduler.testing import Faults, FaultyStore, Process, VirtualClock, VirtualLoop
from scheduler.testing.faults import Ground, at_once
from stmflow import CELL, Transactor, Tx
from stmflow.errors import ConflictsExhausted, Indeterminate, Unavailable
from stmflow.store.memory import MemoryStore
from stmflow.testing.jepsen import dumps
from stmflow.testing.microops import check_microops
from stmflow.testing.observed import check_order
from tests.campaign.part import Part, Step, Violation

CLIENTS = 24
EACH = 50
RATES = {"unknown done": 0.02, "unknown lost": 0.02, "storm": 0.02, "slow": 0.01}


class Run:
    """One world: its clients' history, and the store that it leaves."""

    def __init__(self, number: int, *, each: int = EACH) -> None:
        self.random = Random(f"graph {number}")
        self.each = each
        self.cells = [CELL.job(f"cell {n}") for n in range(self.random.choice((4, 30, 300)))]
        self.store = MemoryStore()
        self.history: list[dict[str, Any]] = []
        self.loop = VirtualLoop(Random(f"loop {number}"), max_steps=10_000_000)
        self.faults = Faults(Random(f"faults {number}"), RATES)
        self.faults.active = True
        self.ground = Ground(self.store)
        self.counters: Counter[str] = Counter()
        self.ops = 0

    def go(self) -> None:
        """Run it to its end."""
        try:
            self.loop.run_until_complete(self._live())
        finally:
            self.loop.close()

    async def _live(self) -> None:
        async with anyio.create_task_group() as group:
            for node in range(self.random.randint(1, 3)):
                group.start_soon(self._node, node)

    async def _node(self, node: int) -> None:
        process = Process(f"node{node}")
        clock = VirtualClock(self.loop)
        replans = self.random.random() < 0.5
        random = Random(f"store {node}")
        store: Any = FaultyStore(
            self.ground, self.loop, process, self.faults, random, replans=replans
        )
        async with Transactor(store, [], clock=clock, random=Random(f"t {node}")) as transactor:
            async with anyio.create_task_group() as group:
                for client in range(CLIENTS):
                    group.start_soon(self._client, transactor, node * CLIENTS + client)
            self.counters.update(transactor.counters)

    async def _client(self, transactor: Transactor, client: int) -> None:
        for _ in range(self.each):
            await anyio.sleep(self.random.random() * 0.02)
            self.ops += 1
            await self._transact(transactor, client, self.ops)

    async def _transact(self, transactor: Transactor, client: int, op: int) -> None:
        """One transaction, asked for again under its id until its fate is known; sometimes not."""
        seen = self.random.sample(self.cells, self.random.randint(1, 3))
        wrote = self.random.randint(0, len(seen)) if self.random.random() < 0.8 else 0
        body = _body(seen, wrote, op)
        asked = [["w", cell.key[0], op] for cell in seen[:wrote]]
        line = {"f": "txn", "process": client, "op": op, "job": str(seen[0].id)}
        line["delivery"] = f"op {op}".encode().hex()
        self._write(line, "invoke", asked)
        while True:
            try:
                done = await transactor.transact(body, at=seen[0], delivery=f"op {op}")
            except Indeterminate:
                if self.random.random() < 0.3:
                    self._write(line, "info", asked)
                    return
            except (ConflictsExhausted, Unavailable):
                await anyio.sleep(0.05)
            else:
                self._write(line, "ok", [list(one) for one in done])
                return

    def _write(self, line: Mapping[str, Any], kind: str, value: Any) -> None:
        self.history.append({**line, "type": kind, "value": value, "time": self.loop.time()})


def _body(seen: list[Any], wrote: int, op: int) -> Callable[[Tx], Any]:
    """Read some cells, then set the first of them to the number of this operation."""

    def body(tx: Tx) -> list[list[Any]]:
        held = [(cell, tx.read(cell)) for cell in seen]
        done = [["r", cell.key[0], state and state.value] for cell, state in held]
        for cell in seen[:wrote]:
            tx.write(cell, op)
        return done + [["w", cell.key[0], op] for cell in seen[:wrote]]

    return body


def check(run: Run) -> list[str]:
    """What both graphs say."""
    found = check_microops(run.history)
    found += at_once(check_order(run.store, run.history))
    return [str(one) for one in found]


def _step(number: int) -> Mapping[str, int]:
    run = Run(number)
    run.go()
    if problems := check(run):
        raise Violation("\n".join([*problems, dumps(run.history)]))
    told = Counter(line["type"] for line in run.history)
    return {
        "transactions": told["invoke"],
        "unknown to their client": told["info"],
        "revisions": len(at_once(run.store.log(limit=1_000_000))),
        "conflicts": run.ground.seen["conflict"],
        "planned again": run.counters["replanned"],
        **run.faults.fired,
    }


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    yield _step


PARTS = (Part("graph", "P4 P5", "transactions", 20_000, _open),)
