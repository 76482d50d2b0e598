"""A lease on real stores: who was away for longer than the lease writes nothing.

The register's history is the witness: every revision of it names the lease that it has read, and
in that the lease was held under the very token that was written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from examples.bank.load import opened
from examples.election.lease import LEASE, LOST, Lease, fenced, release, renew, take
from examples.election.lease_check import KEY, REGISTER
from scheduler import Scheduler
from stmflow import CID, Job, Transactor, Tx, codec
from stmflow.errors import DeadlineExceeded
from stmflow.store import Packed, Store
from tests.project import ROOT

KINDS = ("memory", "sqlite", "postgres")
ROUNDS = 5
LONG_MS = 600_000
SHORT_MS = 20
PATIENCE_SECONDS = 60.0
LEASE_MS = 300


@pytest.mark.parametrize("kind", KINDS)
async def test_an_old_holder_writes_nothing(name: str) -> None:
    """Its lease ends by the clock, another takes it, and both write as fast as they can."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(name))]
        stores += stores if name == "memory" else [await stack.enter_async_context(opened(name))]
        workers = []
        for store in stores:
            clock = getattr(store, "clock", None)
            worker = await stack.enter_async_context(Transactor(store, [LEASE], clock=clock))
            workers.append(worker)
        await stack.enter_async_context(Scheduler(workers[0], {}))
        for round_ in range(ROUNDS):
            old, new = workers if round_ % 2 else reversed(workers)
            await pass_on(old, new, round_)
        tokens = await witnessed(stores[0])
    assert sorted(set(tokens)) == list(range(1, 2 * ROUNDS + 1))


async def pass_on(old: Transactor, new: Transactor, round_: int) -> None:
    first = await old.transact(take(KEY, "old", LONG_MS))
    assert first == 2 * round_ + 1
    assert await new.transact(take(KEY, "new", LONG_MS)) is None
    assert await old.transact(fenced(KEY, first, writing(first))) == "written"
    assert await old.transact(renew(KEY, first, SHORT_MS)) is None
    free = await new.wait(KEY, lambda lease: lease.status == "free", timeout=PATIENCE_SECONDS)
    assert free.state.token == first
    answers: dict[str, set[Any]] = {"old": set(), "new": set()}

    async def write(name: str, worker: Transactor, token: int) -> None:
        for _ in range(5):
            answers[name].add(await worker.transact(fenced(KEY, token, writing(token))))

    async with anyio.create_task_group() as group:
        group.start_soon(write, "old", old, first)
        second = await new.transact(take(KEY, "new", LONG_MS))
        assert second == first + 1
        group.start_soon(write, "new", new, second)
    assert answers == {"old": {LOST}, "new": {"written"}}
    assert await old.transact(renew(KEY, first, LONG_MS)) == LOST
    assert await old.transact(release(KEY, first)) == LOST
    assert await new.transact(release(KEY, second)) is None


def writing(token: int) -> Any:
    def body(tx: Tx) -> str:
        before = tx.read(REGISTER)
        tx.write(REGISTER, [token, 1 if before is None else before.value[1] + 1])
        return "written"

    return body


async def witnessed(store: Store) -> list[int]:
    """The tokens under which the register was written, in order; each was the lease's then."""
    leases = {packed.cid: state_of(packed, KEY) for packed in await store.revisions(KEY.id)}
    tokens = []
    for count, packed in enumerate(reversed(await store.revisions(REGISTER.id)), 1):
        token, writes = state_of(packed, REGISTER)["value"]
        lease = leases[dict(codec.decode(packed.revision)["reads"])[KEY.id]]
        assert (lease["status"], lease["token"], count) == ("held", token, writes)
        tokens.append(token)
    assert tokens == sorted(tokens)
    return tokens


def state_of(packed: Packed, job: Job) -> Any:
    """The fields of a job's state in a revision."""
    (write,) = (one for one in codec.decode(packed.revision)["writes"] if one["job"] == job.id)
    block = next(one for one in packed.blocks if CID.of(one) == write["state"])
    return codec.decode(block)["f"]


# --- processes that are stopped -----------------------------------------------------------------


class Workers:
    """Three processes that take turns, on one store."""

    def __init__(self, where: str, folder: Path) -> None:
        command = [sys.executable, "-m", "examples.election", "work", where]
        self.running = []
        for each in "abc":
            with (folder / f"{each}.out").open("w") as out:
                self.running.append(
                    subprocess.Popen(
                        [*command, each, "--lease-ms", str(LEASE_MS)],
                        cwd=ROOT,
                        env={**os.environ, "PYTHONPATH": str(ROOT)},
                        stdout=out,
                    )
                )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self.running:
            one.send_signal(signal.SIGCONT)
            one.kill()
            one.wait()


def beyond(token: int, lease: Lease) -> bool:
    """Somebody else has it."""
    return lease.status == "held" and lease.token > token


async def turns_are_taken(where: str, folder: Path, turns: int) -> None:
    """Whoever holds the lease is stopped until another has it, again and again."""
    random = Random(7)
    async with (
        opened(where) as store,
        Transactor(store, [LEASE], clock=getattr(store, "clock", None)) as watch,
    ):
        with Workers(where, folder) as workers:
            passed = 0
            while passed < turns:
                held = await watch.wait(
                    KEY, lambda lease: lease.status == "held", timeout=PATIENCE_SECONDS
                )
                token, holder = held.state.token, workers.running["abc".index(held.state.holder)]
                await anyio.sleep(random.uniform(0, LEASE_MS / 1_000))
                holder.send_signal(signal.SIGSTOP)
                with suppress(DeadlineExceeded):  # stopped inside a commit: nobody else can write
                    until = partial(beyond, token)
                    await watch.wait(KEY, until, timeout=10 * LEASE_MS / 1_000)
                    passed += 1
                holder.send_signal(signal.SIGCONT)
        tokens = await witnessed(store)
        print(f"\n{len(tokens)} writes under {len(set(tokens))} tokens")
        assert tokens[-1] > turns


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", KINDS[1:])
async def test_workers_that_are_stopped_write_nothing_late(name: str, tmp_path: Path) -> None:
    await turns_are_taken(name, tmp_path, 50)
