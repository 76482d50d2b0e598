"""The comparison with peers: the outbox runs and counts right, the results read right."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import figures, processes, servers, table
from benchmarks.peers.peer import STEPS, Peer, Place
from benchmarks.peers.runs import PEERS
from tests import test_lock

if TYPE_CHECKING:
    from tests.pgservers import PostgresServer

LOCKS = ["absurd", "dbos", "restate"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    pgservers = pytest.importorskip("tests.pgservers", reason="asyncpg is not installed")
    try:
        with pgservers.shared_server() as server:
            yield server
    except pgservers.NoServer as error:
        pytest.skip(str(error))


@pytest.fixture
async def place(postgres: PostgresServer, tmp_path: Path) -> Place:
    return Place(tmp_path, url=await postgres.new_database(), clients=8)


# --- the hand-written outbox ----------------------------------------------------------------------


async def test_the_outbox_takes_every_job_through_its_steps_once(place: Place) -> None:
    from benchmarks.peers import outbox

    async with outbox.opened(place) as peer:
        await _all(peer.job, range(40))
        assert await peer.jobs_ended() == 40
        assert await peer.steps_recorded() == 40 * len(STEPS)


async def test_the_outbox_counts_what_many_add_to_one_count(place: Place) -> None:
    from benchmarks.peers import outbox

    async with outbox.opened(place) as peer:
        await _all(peer.increment, ["shared"] * 30 + ["own"] * 3)
        assert await peer.counted() == 33


async def test_the_outbox_wakes_sleepers_and_none_early(place: Place) -> None:
    from benchmarks.peers import outbox

    async with outbox.opened(place) as peer:
        now = time.time()
        due = {number: now + 0.3 + number / 50 for number in range(10)}
        await _all(lambda number: peer.rest(number, due[number]), due)
        await peer.rest(10, now + 3_600)
        woken = await _until(peer.woken, 10)
        assert set(woken) == set(due)
        assert all(at >= due[number] for number, at in woken.items())
        assert await peer.asleep() == 1


async def test_what_a_dead_process_of_the_outbox_held_is_done_by_the_next(place: Place) -> None:
    from benchmarks.peers import outbox

    slow = Place(place.folder, url=place.url, clients=8, handlers="slow")
    async with outbox.opened(slow) as peer:
        await _all(peer.begin, range(20))
        (place.folder / "gate").touch()
        await _until(lambda: _noted(place.folder), 1)
        assert await peer.jobs_ended() == 0
    noted = Place(place.folder, url=place.url, clients=8, handlers="noted")
    async with outbox.opened(noted) as peer:
        await _until(lambda: _ended(peer), 20)
        assert await peer.steps_recorded() == 20 * len(STEPS)
    done = Counter(line for line in await _noted(place.folder) if line.startswith("done"))
    assert len(done) == 20 * len(STEPS)


async def _all(act: Any, items: Any) -> None:
    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(act, item)


async def _until(look: Any, many: int) -> Any:
    with anyio.fail_after(60):
        while len(found := await look()) < many:
            await anyio.sleep(0.01)
    return found


async def _noted(folder: Path) -> list[str]:
    log = folder / "performed.log"
    return log.read_text().splitlines() if log.exists() else []


async def _ended(peer: Peer) -> range:
    return range(await peer.jobs_ended())


# --- figures and table ----------------------------------------------------------------------------


def a_round(rate: float, cpu_us: float = 100.0, **more: Any) -> dict[str, Any]:
    return {
        "rate": rate,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_us": cpu_us,
        "done": 10,
        "ended": 10,
        "steps": 30,
        "exact": True,
        **more,
    }


def test_figures_are_medians_and_ratios_of_neighbouring_rounds() -> None:
    ours = {"W1 at 32": [a_round(1_000), a_round(100), a_round(400)]}
    theirs = {"W1 at 32": [a_round(100, 300), a_round(50, 200), a_round(40, 100)]}
    found = figures.figures(theirs, ours)["W1"]["32"]
    assert found["jobs_s"] == 50
    assert found["stmflow_times_rate"] == 10  # of 10, 2 and 10
    assert found["times_stmflow_cpu"] == 2
    assert (found["ended"], found["steps"]) == (30, 90)


def test_stmflow_is_not_compared_with_itself_nor_where_it_did_not_run() -> None:
    ours = {"W1 at 1": [a_round(1_000)]}
    assert "stmflow_times_rate" not in figures.figures(ours, ours)["W1"]["1"]
    assert "stmflow_times_rate" not in figures.figures({"W1 at 1": [a_round(1)]}, {})["W1"]["1"]


def test_one_round_that_is_not_on_record_spoils_the_figure() -> None:
    theirs = {"W2 shared": [a_round(10)], "W2 own": [a_round(20, exact=False)]}
    found = figures.figures(theirs, {})["W2"]
    assert (found["exact"], found["of_uncontended"]) == (False, 0.5)


def test_what_failed_is_said_in_words_and_nothing_else_is_lost() -> None:
    rounds = {
        "stmflow-sqlite": {"W1 at 1": [a_round(1_234)], "W4": [{"failed": "no end after 300 s"}]},
        "restate": {"W1 at 1": [{"failed": "its process ended with 1"}]},
    }
    results = command.report(rounds)
    assert results["stmflow-sqlite"]["W4"] == {"failed": "no end after 300 s"}
    text = table.text(results)
    assert "1,234" in text
    assert "restate, W1: FAILED: its process ended with 1" in text
    assert "stmflow-sqlite, W4: FAILED: no end after 300 s" in text
    assert f"restate, W1: {PEERS['restate'].remarks['W1']}." in text


def test_the_table_has_a_column_for_each_peer_and_no_empty_line() -> None:
    first, *lines = table.text(
        {
            "stmflow-sqlite": {"W2": {"incr_s": 12_345.6, "exact": True}},
            "absurd": {"W2": {"incr_s": 0.5, "exact": False}, "W4": {"lost": 0}},
        }
    ).splitlines()
    assert first.split() == ["stmflow-sqlite", "absurd"]
    assert [line.split()[-2:] for line in lines] == [
        ["12,346", "0.5"],
        ["yes", "NO"],
        ["lost", "0"],
    ]


# --- processes, servers, the command --------------------------------------------------------------


def test_the_cpu_of_a_process_is_that_of_its_descendants_too() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    before = processes.cpu_seconds([os.getpid()])
    subprocess.run([sys.executable, "-c", outer], check=True)
    assert processes.cpu_seconds([os.getpid()]) - before >= 0.29


def test_killing_a_process_ends_what_it_started() -> None:
    inner = "import time; time.sleep(600)"
    outer = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {inner!r}])\n"
        "print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        processes.kill(child.pid)
    deadline = time.monotonic() + 30
    while _alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(grandchild)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_restate_without_npm_is_missing_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(servers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(servers.Missing, match=r"Node\.js and npm"):
        servers.restate_server()


def test_what_is_missing_is_named_and_the_exit_code_is_three(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Nothing:
        def __init__(self, names: list[str]) -> None: ...

        def __enter__(self) -> None:
            raise servers.Missing("no PostgreSQL here")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(command, "Bench", Nothing)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["peers", "--only", "outbox"])
    assert command.main() == 3
    assert "no PostgreSQL here" in capsys.readouterr().out


@pytest.mark.parametrize("name", LOCKS)
def test_what_a_peer_runs_on_is_pinned_with_hashes(name: str) -> None:
    folder = "benchmarks/peers/requirements"
    lock = f"{folder}/{name}.lock"
    test_lock.test_every_entry_is_a_pin_with_hashes_and_nothing_else(lock)
    test_lock.test_a_lock_names_no_index_and_no_path(lock)
    pins = test_lock.pinned(lock)
    assert test_lock.unmet(test_lock.wished(f"{folder}/{name}.in"), pins) == []
