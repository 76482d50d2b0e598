"""`python -m scheduler.testing`: replay one seed, or run new ones for a while."""

from __future__ import annotations

import argparse
import importlib
import logging
import secrets
import sys
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import Any

from scheduler.testing import Options, Outcome, simulate
from scheduler.testing.faults import at_once


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: every seed held."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.testing")
    commands = parser.add_subparsers(dest="command", required=True)
    replay = commands.add_parser("replay", help="run one seed again and print what happened")
    replay.add_argument("seed", type=int)
    campaign = commands.add_parser("campaign", help="run new seeds for a while")
    campaign.add_argument("--minutes", type=float, default=10)
    campaign.add_argument("--first", type=int, default=None, help="default: drawn")
    for command in (replay, campaign):
        command.add_argument(
            "--store",
            choices=["memory", "sqlite"],
            default="memory",
        )
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if options.command == "replay":
        outcome = run(options.seed, options.store)
        for line in outcome.history:
            print(line)
        print(outcome.report())
        return int(bool(outcome.problems))
    return _campaign(options)


def run(seed: int, store: str) -> Outcome:
    """One seed on a store of that name."""
    module = importlib.import_module(f"stmflow.store.{store}")
    if store == "memory":
        return simulate(Options.draw(seed), module.MemoryStore())
    opening: AbstractAsyncContextManager[Any] = module.SQLiteStore.open(":memory:", inline=True)
    opened = at_once(opening.__aenter__())
    try:
        return simulate(Options.draw(seed), opened)
    finally:
        at_once(opening.__aexit__(None, None, None))


def _campaign(options: argparse.Namespace) -> int:
    seed = secrets.randbelow(2**40) if options.first is None else options.first
    began, count, seen = time.monotonic(), 0, Counter[str]()
    while time.monotonic() - began < options.minutes * 60:
        outcome = run(seed, options.store)
        seen.update(outcome.seen)
        count, seed = count + 1, seed + 1
        if outcome.problems:
            print(outcome.report())
            return 1
        if count % 100 == 0:
            rate = count / (time.monotonic() - began) * 60
            print(f"{count} seeds held, {rate:.0f} a minute", flush=True)
    print(f"{count} seeds held, the last {seed - 1}; {dict(sorted(seen.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
