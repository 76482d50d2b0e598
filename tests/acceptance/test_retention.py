"""kill -9 while history leaves and the service writes: all is in the store or in the archive."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from scheduler.handlers.archive import FolderShelf
from stmflow import history
from stmflow.archive import Reader
from stmflow.errors import Archived
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing.store_contract_jobs import COUNTER, counter
from tests.project import ROOT

NAMES = "abcdef"

SERVICE = textwrap.dedent("""
    import anyio, sys
    from pathlib import Path
    from scheduler.handlers.archive import FolderShelf
    from stmflow.archive import Reader
    from stmflow.errors import Archived
    from stmflow.retention import DAY, Over, Retention
    from stmflow.store.sqlite import SQLiteStore
    from stmflow.testing.store_contract_jobs import COUNTER, Add
    from stmflow.transactor import Transactor
    from tests.acceptance.test_retention import NAMES

    class Ahead:
        "Sees everything as old."
        def now(self): return 10**14
        async def sleep_until(self, at_ms): await anyio.sleep(0)

    async def main(folder):
        shelf = FolderShelf(folder / "shelf")
        async with SQLiteStore.open(folder / "jobs.db") as store:
            reader, over = Reader(store, shelf), [Over(COUNTER.name, ("Total",), DAY)]
            service = Transactor(store, [COUNTER])
            async with service as transactor, anyio.create_task_group() as group:
                async def write(name):
                    while True:
                        try:
                            answer = await transactor.send(COUNTER, Add(name, 1))
                        except Archived as error:
                            await reader.revive(error.job)
                            continue
                        print(name, answer.seq, flush=True)
                        await anyio.sleep(0.002)
                for name in NAMES:
                    group.start_soon(write, name)
                while True:
                    await Retention(store, shelf, keep_ms=DAY, finished=over, clock=Ahead(),
                                    segment_bytes=4_000).run()
                    await anyio.sleep(0.001)

    anyio.run(main, Path(sys.argv[1]))
""")


@pytest.mark.acceptance
@pytest.mark.parametrize("kills", [10, 100])
async def test_killed_while_history_leaves(tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    answered = dict.fromkeys(NAMES, 0)
    for _ in range(kills):
        for name, seq in _killed(tmp_path, chance.random() * 0.4):
            answered[name] = max(answered[name], seq)
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        reader = Reader(store, FolderShelf(tmp_path / "shelf"))
        assert await store.archives() != []
        for name in NAMES:
            packs = await reader.revisions(counter(name).id)
            assert len(packs) >= answered[name]
            blocks = history.blocks_of(packs)
            report = history.verify(counter(name).id, packs[0].cid, blocks.get, workflows=[COUNTER])
            assert (report.status, report.revisions) == (history.OK, len(packs))
            try:
                await store.heads([counter(name).id])
            except Archived:
                await reader.revive(counter(name).id)
            assert (await store.revisions(counter(name).id))[0].cid == packs[0].cid


def _killed(folder: Path, after_seconds: float) -> list[tuple[str, int]]:
    """What a service answered before it was killed, so long after its first answer."""
    command = [sys.executable, "-c", SERVICE, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        first = service.stdout.readline()
        assert first, "it never came up"
        time.sleep(after_seconds)
        service.send_signal(signal.SIGKILL)
        lines = [first, *service.stdout.read().splitlines(keepends=True)]
    whole = [line.split() for line in lines if line.endswith("\n")]
    return [(name, int(seq)) for name, seq in whole]
