"""Processes by their ids: what they and all that they started have used, and how to end them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.peer import Place

TICKS = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One line of the table of processes."""

    parent: int
    ticks: int
    """CPU of its own and of the children that it has waited for."""


def cpu_seconds(roots: Iterable[int]) -> float:
    """What these processes and their descendants have used so far, the ended ones too.

    A process that ended is counted once its parent has waited for it. Linux only, in ticks of
    10 ms for each process.
    """
    table = dict(_table())
    return sum(table[pid].ticks for pid in _family(roots, table)) / TICKS


def kill(root: int) -> None:
    """SIGKILL to this process and its descendants."""
    for pid in _family([root], dict(_table())):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _family(roots: Iterable[int], table: dict[int, Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    found, waiting = set[int](), list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in table and pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def _table() -> Iterator[tuple[int, Process]]:
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(")")[2].split()
        yield int(entry), Process(int(fields[1]), sum(map(int, fields[11:15])))


@contextmanager
def workers(module: str, place: Place, *, count: int = 1) -> Iterator[None]:
    """Processes of this interpreter that run `worker` of a peer's module; each said it is ready.

    They end with the block, and when the process that started them dies.
    """
    command = [sys.executable, "-m", "benchmarks.peers.child", module, "worker", place.to_json()]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for one in started:
            assert one.stdout is not None
            if one.stdout.readline() != "ready\n":
                raise RuntimeError(f"a worker of {module} did not start")
        yield
    finally:
        for one in started:
            one.kill()
            one.communicate()


def end_with_parent() -> None:
    """In a worker: die when whoever holds the other end of standard input does."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
