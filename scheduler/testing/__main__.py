"""`python -m scheduler.testing`: replay one seed, or run new ones for a while.

python -m scheduler.testing replay 284 --store sqlite --history 284.jsonl
python -m scheduler.testing campaign --minutes 10 --workload parcels:Parcels
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scheduler.testing import Joined, Opening, Outcome, Shop, campaign, simulate

STORES = ("memory", "sqlite", "file")
"""`sqlite`: one connection to `:memory:`. `file`: a file, and each process its own connection."""

_MEMORY = "/dev/shm"
"""Where files lie, if it is there: waiting for a disk takes longer than a world does, and what a
disk does to a file is tried elsewhere."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: every seed held. 1: one did not. 2: what was asked makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.testing")
    commands = parser.add_subparsers(dest="command", required=True)
    replay = commands.add_parser("replay", help="run one seed again and print what happened")
    replay.add_argument("seed", type=int)
    replay.add_argument("--history", type=Path, help="write the history there, as JSON lines")
    new = commands.add_parser("campaign", help="run new seeds for a while")
    new.add_argument("--minutes", type=float, default=10)
    new.add_argument("--first", type=int, default=None, help="default: drawn")
    for command in (replay, new):
        command.add_argument("--store", choices=STORES, default="memory")
        command.add_argument(
            "--workload", metavar="MODULE:NAME", help="default: the project's own", default=None
        )
    options = parser.parse_args(arguments)
    try:
        options.workload = _named(options.workload)
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(f"--workload: {error}")
    logging.disable(logging.CRITICAL)
    return _replay(options) if options.command == "replay" else _campaign(options)


def run(seed: int, store: str, workload: Any = Shop) -> Outcome:
    """One seed on a store of that name."""
    with _fresh(store) as make:
        return simulate(seed, make(), workload=workload)


@contextmanager
def _fresh(store: str) -> Iterator[Callable[[], Opening]]:
    """What makes an empty store, one after the other."""
    if store == "memory":
        yield importlib.import_module("stmflow.store.memory").MemoryStore
        return
    opening = importlib.import_module("stmflow.store.sqlite").SQLiteStore.open
    if store == "sqlite":
        yield lambda: opening(":memory:")
        return
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix="stmflow-world-", dir=memory) as folder:

        def make() -> Opening:
            for left in Path(folder).iterdir():
                left.unlink()
            return Joined(lambda: opening(Path(folder) / "world.db", inline=True))

        yield make


def _named(name: str | None) -> Any:
    if name is None:
        return Shop
    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    workload = getattr(importlib.import_module(module), attribute)
    if not callable(workload):
        raise ValueError(f"{name} makes no Workload")
    return workload


def _replay(options: argparse.Namespace) -> int:
    outcome = run(options.seed, options.store, options.workload)
    if options.history is None:
        for line in outcome.history:
            print(line)
    print(outcome.report())
    if options.history is not None:
        try:
            options.history.write_text("".join(f"{line}\n" for line in outcome.lines()))
        except OSError as error:
            print(error, file=sys.stderr)
            return 2
    return int(bool(outcome.problems))


def _campaign(options: argparse.Namespace) -> int:
    first = secrets.randbelow(2**40) if options.first is None else options.first
    seeds = _until(first, time.monotonic() + options.minutes * 60)
    try:
        with _fresh(options.store) as make:
            seen = campaign(options.workload, make, seeds=seeds)
    except AssertionError as error:
        print(error)
        return 1
    if not seen["seeds"]:
        print("no seed was run: give it some minutes", file=sys.stderr)
        return 2
    print(f"{seen['seeds']} seeds held, from {first} on; {dict(sorted(seen.items()))}")
    return 0


def _until(seed: int, end: float) -> Iterator[int]:
    """Seeds from there on, until that time; how far it is, every hundred."""
    first, began = seed, time.monotonic()
    while time.monotonic() < end:
        yield seed
        seed += 1
        if (count := seed - first) % 100 == 0:
            rate = count / (time.monotonic() - began) * 60
            print(f"{count} seeds held, {rate:.0f} a minute", flush=True)


if __name__ == "__main__":
    sys.exit(main())
