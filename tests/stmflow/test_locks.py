"""Owner locks: who holds a worker's byte is alive; whoever dies lets go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stmflow.store.locks import OwnerLocks, Turn

HOLDER = """
import sys
from stmflow.store.locks import OwnerLocks
OwnerLocks(sys.argv[1]).take(int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path, worker: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(worker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_worker_of_this_process_is_alive_until_it_lets_go(tmp_path: Path) -> None:
    locks = OwnerLocks(str(tmp_path / "workers"))
    locks.take(7)
    assert not locks.dead(7)
    assert not OwnerLocks(str(tmp_path / "workers")).dead(7)
    assert locks.dead(8)
    locks.drop(7)
    assert locks.dead(7)


def test_a_worker_of_another_process_is_dead_as_soon_as_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "workers"
    locks = OwnerLocks(str(path))
    with holder(path, 3) as process:
        assert not locks.dead(3)
        assert locks.dead(4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks.dead(3)


def test_a_paused_worker_keeps_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "workers"
    with holder(path, 3) as process:
        process.send_signal(signal.SIGSTOP)
        assert not OwnerLocks(str(path)).dead(3)


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "workers")
    OwnerLocks(path).take(1)
    looked = (
        "import sys; from stmflow.store.locks import OwnerLocks;"
        "locks = OwnerLocks(sys.argv[1]); print(locks.dead(1), locks.dead(2))"
    )
    output = subprocess.run(
        [sys.executable, "-c", looked, path], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["False", "True"]
    OwnerLocks(path).drop(1)


def test_a_file_made_anew_under_the_same_name_is_another(tmp_path: Path) -> None:
    """As beside a database that was removed and made again while this process lived."""
    path = tmp_path / "workers"
    first, again = OwnerLocks(str(path)), OwnerLocks(str(path))
    first.take(1)
    path.unlink()
    assert not first.dead(1)
    with holder(path, 1):
        assert not again.dead(1)
        assert again.dead(2)
        again.take(2)
        assert first.dead(2)
        assert again.alive(str(path), 1)
    assert again.dead(1)
    first.close()
    again.close()
    assert OwnerLocks(str(path)).dead(2)


def test_without_a_file_only_this_object_knows(tmp_path: Path) -> None:
    locks = OwnerLocks(None)
    locks.take(1)
    assert not locks.dead(1)
    assert OwnerLocks(None).dead(1)


def test_a_turn_is_taken_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = Turn(str(tmp_path / "turn")), Turn(str(tmp_path / "turn"))
    with first():
        assert os.path.exists(tmp_path / "turn")
    with second():
        pass
    first.close()
    second.close()
