"""`worker` and `workers`: processes that share a database, by version, label and lease."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from stmflow import Transactor
from stmflow.cli import cli
from stmflow.store.sqlite import SQLiteStore
from tests.project import ROOT
from tests.stmflow.cli.worked import NEWER, WORK, Jobs, Put, Store, needs

APP = "tests.stmflow.cli.worked"
SOON = 60.0


class Process:
    """A worker process, ready."""

    def __init__(self, folder: Path, name: str, app: str, *options: str) -> None:
        self.name, self.folder = name, folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stmflow", "worker", "--database", str(folder / "jobs.db"),
             "--app", f"{APP}:{app}", "--json", "--lease", "5", *options],
            cwd=ROOT,
            env={**os.environ, "WORKED_FOLDER": str(folder), "WORKED_NAME": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        said = json.loads(line)
        self.number, self.health = said["worker"], said["health"]

    def ends(self, *signals: signal.Signals) -> int:
        for one in signals:
            self.process.send_signal(one)
        _, self.told = self.process.communicate(timeout=SOON)
        return self.process.returncode

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.health + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(name: str, app: str = "old", *options: str) -> Process:
            worker = Process(tmp_path, name, app, *options)
            stack.enter_context(worker.process)
            stack.callback(worker.process.kill)
            return worker

        yield begin


@asynccontextmanager
async def service(folder: Path, workflows: Any = (WORK,)) -> AsyncIterator[Transactor]:
    """A process that commits and performs nothing."""
    async with (
        SQLiteStore.open(folder / "jobs.db") as store,
        Transactor(store, workflows, needs={Store: needs}) as transactor,
    ):
        yield transactor


async def done(transactor: Transactor, name: str, count: int = 1) -> list[str]:
    def enough(state: Jobs) -> bool:
        return len(state.done) >= count

    head = await transactor.wait(WORK.job(name), enough, timeout=SOON)
    return list(head.state.done)


def performed(folder: Path) -> list[list[str]]:
    path = folder / "performed"
    return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []


async def until(question: Callable[[], bool]) -> None:
    with anyio.fail_after(SOON):
        while not question():
            await anyio.sleep(0.01)


async def listing(folder: Path, *options: str) -> str:
    command = ["--database", str(folder / "jobs.db"), "workers", *options]
    result = await anyio.to_thread.run_sync(CliRunner().invoke, cli, command)
    assert result.exit_code == 0, result.output
    return result.stdout


async def listed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await listing(folder, "--json")).splitlines()]


async def test_a_worker_performs_only_versions_it_has_and_tasks_it_is_placed_for(
    tmp_path: Path, start: Start
) -> None:
    """N3 and N5, over processes: a version apart, and a bucket each."""
    async with service(tmp_path, [WORK, NEWER]) as transactor:
        old = start("old", "old", "--label", "bucket=a")
        await transactor.send(NEWER, Put("newer", "a"))
        await transactor.send(WORK, Put("other", "b"))
        await anyio.sleep(0.3)
        assert performed(tmp_path) == []
        command = ["--database", str(tmp_path / "jobs.db"), "outbox", "--json"]
        shown = await anyio.to_thread.run_sync(CliRunner().invoke, cli, command)
        rows = [json.loads(line) for line in shown.stdout.splitlines()]
        assert {(row["type"], row["needs"]) for row in rows} == {
            ("Store", '{"bucket":"a"}'),
            ("Store", '{"bucket":"b"}'),
        }
        new = start("new", "new", "--label", "bucket=b", "--label", "disk=ssd")
        assert await done(transactor, "other") == ["new"]
        await anyio.sleep(0.2)
        assert len(performed(tmp_path)) == 1  # one lacks the version, the other the bucket
        third = start("third", "new", "--label", "bucket=a")
        assert await done(transactor, "newer") == ["third"]
        both = {row["worker"]: row for row in await listed(tmp_path)}
        assert both[old.number]["versions"] == {"work": {"1": ["Store"]}}
        assert both[new.number]["versions"] == {"work": {"1": ["Store"], "2": ["Store"]}}
        assert both[new.number]["labels"] == {"bucket": "b", "disk": "ssd"}
        assert both[third.number]["pid"] == third.process.pid
        assert both[old.number]["until"] - both[old.number]["beat"] == 5_000
        assert "bucket=b disk=ssd" in await listing(tmp_path)
        assert old.ends(signal.SIGTERM) == new.ends(signal.SIGINT) == 0
        assert {row["worker"] for row in await listed(tmp_path) if row["labels"]} == {third.number}
        assert third.ends(signal.SIGTERM) == 0


async def test_a_signal_drains_and_readiness_turns_false_at_once(
    tmp_path: Path, start: Start
) -> None:
    (tmp_path / "hold").touch()
    async with service(tmp_path, [WORK, NEWER]) as transactor:
        worker = start("w", "new", "--health", "127.0.0.1:0", "--slots", "1", "--grace", "30")
        assert worker.ask("/live") == (200, "alive\n")
        status, body = worker.ask("/ready")
        assert status == 200
        checks = json.loads(body)["checks"]
        assert set(checks) == {"store", "beat", "queue", "handler Store"}
        assert checks["handler Store"] == {"ok": True, "detail": "bucket"}
        assert worker.ask("/metrics") == (200, "up 1\n")
        assert worker.ask("/else")[0] == 404
        await transactor.send(WORK, Put("a", tasks=2))
        await until(lambda: len(performed(tmp_path)) == 1)
        worker.process.send_signal(signal.SIGTERM)
        await until(lambda: worker.ask("/ready")[0] == 503)
        assert "draining" in worker.ask("/ready")[1]
        assert worker.ask("/live")[0] == 200
        assert worker.process.poll() is None
        (tmp_path / "hold").unlink()
        assert worker.ends() == 0
        assert worker.told == ""
        assert await done(transactor, "a") == ["w"]
        assert len(performed(tmp_path)) == 1  # the other was not begun, and waits
        (row,) = await transactor.store.tasks()
        assert (row.worker, row.attempt) == (None, 0)
        assert (tmp_path / "left w").exists()


async def test_a_second_signal_gives_back_what_runs(tmp_path: Path, start: Start) -> None:
    (tmp_path / "hold").touch()
    async with service(tmp_path) as transactor:
        worker = start("w", "old", "--grace", "600")
        await transactor.send(WORK, Put("a"))
        await until(lambda: len(performed(tmp_path)) == 1)
        worker.process.send_signal(signal.SIGTERM)
        await anyio.sleep(0.1)
        assert worker.ends(signal.SIGTERM) == 0
        (row,) = await transactor.store.tasks()
        assert (row.worker, row.attempt) == (None, 0)


async def test_what_a_killed_worker_held_is_performed_by_another(
    tmp_path: Path, start: Start
) -> None:
    (tmp_path / "hold").touch()
    async with service(tmp_path) as transactor:
        first = start("first")
        await transactor.send(WORK, Put("a", tasks=2))
        await until(lambda: len(performed(tmp_path)) == 2)
        first.process.kill()
        (tmp_path / "hold").unlink()
        start("second")
        assert await done(transactor, "a", 2) == ["second", "second"]
        who = Counter((name, attempt) for name, *_, attempt in performed(tmp_path))
        assert who == {("first", "1"): 2, ("second", "2"): 2}


async def many_workers(
    folder: Path, start: Start, count: int, tasks: int, kills: int, pause: float = 0.2
) -> None:
    """Workers, two buckets of two calls each; some are killed and replaced meanwhile."""
    random, calls = Random(7), folder / "calls"

    def begin(n: int) -> Process:
        bucket = "ab"[n % 2]
        return start(f"w{n}", "shared", "--label", f"bucket={bucket}")

    async with service(folder) as transactor:
        running = [begin(n) for n in range(count)]
        for n in range(4):
            await transactor.send(WORK, Put(f"j{n}", "ab"[n % 2], tasks=tasks))
        for n in range(count, count + kills):
            await anyio.sleep(pause)
            one = random.choice([w for w in running if int(w.name[1:]) % 2 == n % 2])
            one.process.send_signal(signal.SIGKILL)
            one.process.wait()
            with calls.open("a") as lines:
                lines.write(f"killed {one.name} - -\n")
            running.remove(one)
            running.append(begin(n))
        for n in range(4):
            await done(transactor, f"j{n}", tasks)
        assert await transactor.store.tasks() == []
        assert [one.ends(signal.SIGTERM) for one in running] == [0] * count
    open_: dict[str, list[tuple[str, str]]] = {"a": [], "b": []}
    seen = Counter[str]()
    for line in calls.read_text().splitlines():
        what, who, bucket, task = line.split(" ")
        if what == "killed":
            open_ = {b: [one for one in each if one[0] != who] for b, each in open_.items()}
        elif what == "begin":
            assert int(who[1:]) % 2 == "ab".index(bucket)  # N3
            open_[bucket].append((who, task))
            seen[task] += 1
        else:
            open_[bucket].remove((who, task))
        assert max(map(len, open_.values())) <= 2, line  # N2
    assert len(seen) == 4 * tasks


async def test_a_pool_is_never_oversubscribed_though_workers_are_killed(
    tmp_path: Path, start: Start
) -> None:
    await many_workers(tmp_path, start, count=2, tasks=8, kills=1)


@pytest.mark.acceptance
async def test_a_pool_is_never_oversubscribed_by_however_many_kills(
    tmp_path: Path, start: Start
) -> None:
    await many_workers(tmp_path, start, count=4, tasks=150, kills=20, pause=3)


async def test_a_bucket_that_cannot_be_reached_makes_a_worker_unready(
    tmp_path: Path, start: Start
) -> None:
    (tmp_path / "unreachable").touch()
    async with service(tmp_path):
        worker = start("w", "old", "--health", "127.0.0.1:0")
        status, body = worker.ask("/ready")
        assert (status, json.loads(body)["ready"]) == (503, False)
        error = json.loads(body)["checks"]["handler Store"]["error"]
        assert error == "ConnectionError: no bucket"
        assert worker.ask("/live")[0] == 200
        assert worker.ask("/metrics")[0] == 404


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--app", f"{APP}:senseless"], "'~2' is no comparison"),
        (["--app", f"{APP}:WORK"], "has `workflows`"),
        (["--app", f"{APP}:nothing"], "AttributeError"),
        (["--label", "bucket"], "is not NAME=VALUE"),
        (["--label", "a=1", "--label", "a=2"], "its name stands twice"),
        (["--label", "a b=1"], "not the name of a label"),
        (["--label", "a=>2"], "reads like a comparison"),
        (["--slots", "0"], "not in the range"),
        (["--slots-for", "Store=x"], "is not a number"),
        (["--slots-for", "Store=0"], "at least one task has to fit"),
        (["--slots-for", "Fetch=1"], "no workflow here has such a task"),
        (["--rate", "Store=0/s"], "a number above 0"),
        (["--rate", "Store=nan"], "a number above 0"),
        (["--weight", "Store=-1"], "a number above 0"),
        (["--lease", "4"], "a lease lasts"),
        (["--lease", "nan"], "is no number of seconds"),
        (["--grace", "inf"], "is no number of seconds"),
        (["--health", "192.0.2.1:80"], "nothing can listen there"),
        (["--health", "8080"], "is not HOST:PORT"),
        (["--health", "localhost:65536"], "is not HOST:PORT"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, options: list[str], why: str
) -> None:
    async def make() -> None:
        async with SQLiteStore.open(tmp_path / "jobs.db"):
            pass

    anyio.run(make)
    command = ["--database", str(tmp_path / "jobs.db"), "--app", f"{APP}:old", "worker", *options]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2, result.output
    assert why in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_an_app_or_a_database_nothing_is_performed(tmp_path: Path) -> None:
    missing = ["--database", str(tmp_path / "jobs.db"), "worker"]
    assert "--app" in CliRunner().invoke(cli, missing).stderr
    result = CliRunner().invoke(cli, [*missing, "--app", f"{APP}:old"])
    assert (result.exit_code, "no database" in result.stderr) == (3, True)
