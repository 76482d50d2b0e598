"""`python -m scheduler.testing`: replay one seed, run new ones for a while, or crash at every step.

python -m scheduler.testing replay 284 --store sqlite --history 284.jsonl
python -m scheduler.testing campaign --minutes 10 --workload parcels:Parcels
python -m scheduler.testing crashes --workload parcels:Parcels
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scheduler.testing import (
    Crash,
    Joined,
    Opening,
    Options,
    Outcome,
    Shop,
    campaign,
    crash_points,
    simulate,
)
from scheduler.testing.options import FATES

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
    crashes = commands.add_parser("crashes", help="a short life, crashed before each of its steps")
    crashes.add_argument("seed", type=int, nargs="?", default=0)
    crashes.add_argument("--operations", type=_some, default=2, help="what its client does: 2")
    crashes.add_argument("--nodes", type=_some, default=1, help="how many processes live: 1")
    crashes.add_argument(
        "--at", type=_crash, metavar="STEP:FATE[:NODE]", help="show that one: 71:lost, 71:landed:1"
    )
    for command in (replay, crashes):
        command.add_argument("--history", type=Path, help="write the history there, as JSON lines")
    new = commands.add_parser("campaign", help="run new seeds for a while")
    new.add_argument("--minutes", type=float, default=10)
    new.add_argument("--first", type=int, default=None, help="default: drawn")
    for command in (replay, new, crashes):
        command.add_argument("--store", choices=STORES, default="memory")
        command.add_argument(
            "--workload", metavar="MODULE:NAME", help="default: the project's own", default=None
        )
    options = parser.parse_args(arguments)
    try:
        options.making = _named(options.workload)
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(f"--workload: {error}")
    logging.disable(logging.CRITICAL)
    if options.command == "campaign":
        return _campaign(options)
    if options.command == "replay":
        return _shown(options, options.seed)
    return _crashes(options)


def run(seed: Options | int, store: str, workload: Any = Shop) -> Outcome:
    """One world on a store of that name."""
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


def _some(text: str) -> int:
    """At least one."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _crash(text: str) -> Crash:
    """What `--at` says."""
    step, fate, *node = text.split(":")
    if fate not in FATES or len(node) > 1:
        raise ValueError(text)
    return Crash(_some(step), bool(FATES.index(fate)), *map(int, node))


def _shown(options: argparse.Namespace, world: Options | int) -> int:
    """One world with its history."""
    outcome = run(world, options.store, options.making)
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
    with _fresh(options.store) as make:
        seen = _held(options, make, seeds)
    if seen is None:
        return 1
    if not seen["seeds"]:
        print("no seed was run: give it some minutes", file=sys.stderr)
        return 2
    print(f"{seen['seeds']} seeds held, from {first} on; {dict(sorted(seen.items()))}")
    return 0


def _crashes(options: argparse.Namespace) -> int:
    life = {"operations": options.operations, "nodes": options.nodes}
    if options.at is not None:
        calm = Options.calm(options.seed, **life)
        return _shown(options, replace(calm, crashes=(options.at,)))
    with _fresh(options.store) as make:
        points = crash_points(options.making, make(), seed=options.seed, **life)
        seen = _held(options, make, points)
    if seen is None:
        return 1
    print(f"{seen['seeds']} crash points held; {dict(sorted(seen.items()))}")
    return 0


def _held(
    options: argparse.Namespace, make: Callable[[], Opening], worlds: Iterable[Options | int]
) -> Counter[str] | None:
    """What was seen in these worlds, if all held; else the first that did not is told, and how to
    see it again."""
    tried: list[Options | int] = []

    def each() -> Iterator[Options | int]:
        for world in worlds:
            tried[:] = [world]
            yield world

    try:
        return campaign(options.making, make, seeds=each())
    except AssertionError as error:
        print(error)
        if tried:
            print(f"again: {_again(options, tried[0])}")
        return None


def _again(options: argparse.Namespace, world: Options | int) -> str:
    """The command that shows this world."""
    words = ["python -m scheduler.testing", options.command]
    if isinstance(world, Options):
        step, lands, node = world.crashes[0]
        words += [f"{world.seed} --operations {world.operations} --nodes {world.nodes}"]
        words += [f"--at {step}:{FATES[lands]}:{node}"]
    else:
        words[1] = f"replay {world}"
    if options.workload is not None:
        words += [f"--workload {options.workload}"]
    return " ".join([*words, f"--store {options.store}"])


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
