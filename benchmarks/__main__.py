"""`python -m benchmarks`: run them all, print a table, write `benchmarks/results/latest.json`."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    backlog,
    check,
    imports,
    machine,
    memory,
    neighbours,
    postgres,
    scale,
    signed,
    sleepers,
    table,
    w1,
    w2,
    w3,
    w4,
)

LATEST = Path(__file__).parent / "results" / "latest.json"
FULL_JOBS = 1_000_000
NAMES = (
    *("W1", "W2", "W3", "W4", "neighbours", "signed", "memory", "imports"),
    *("sleepers", "backlog", "scale", "check", "postgres"),
)


def main() -> int:
    """Parse, run, print, write; 1 where a workload failed, and then nothing is written."""
    arguments = _arguments()
    began = time.perf_counter()
    failed: list[str] = []
    results: dict[str, Any] = {"machine": machine.facts()}
    for name, run in _workloads(arguments).items():
        if arguments.only and name.split()[0] not in arguments.only:
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            results[name] = run()
        except Exception:
            failed.append(name)
            traceback.print_exc()
    results["rounds"] = arguments.rounds
    results["took_s"] = round(time.perf_counter() - began, 1)
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    print(table.text(results))
    if failed:
        print(f"failed: {', '.join(failed)}")
        return 1
    output = arguments.output or (None if arguments.only else LATEST)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(table.rounded(results), indent=2) + "\n")
        print(f"written to {output}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--large", action="store_true", help="also a million jobs; memory")
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        help="run only this one (may be repeated); latest.json is left alone",
    )
    parser.add_argument("--rounds", type=int, default=3, help="medians are of so many (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a window (3)")
    parser.add_argument("--jobs", type=int, default=FULL_JOBS, help="jobs for --large")
    parser.add_argument("--output", type=Path, help="where to write the results")
    return parser.parse_args()


def _workloads(arguments: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """In order of running; each gives what is written under its name."""
    rounds, seconds = arguments.rounds, arguments.seconds
    sizes = (10_000, 100_000, arguments.jobs) if arguments.large else (10_000, 100_000)
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "imports": imports.report,
        "W1": lambda: w1.report(rounds=rounds, seconds=seconds),
        "W2": lambda: w2.report(rounds=rounds, seconds=seconds),
        "W3": lambda: w3.report(rounds=min(rounds, 3), seconds=seconds),
        "W4": lambda: w4.report(rounds=rounds),
        "neighbours": neighbours.report,
        "signed": lambda: signed.report(rounds=min(rounds, 3)),
        "sleepers": lambda: sleepers.report(sizes=sizes, seconds=seconds),
        "backlog": lambda: backlog.report(jobs=100_000 if arguments.large else 10_000),
        "scale": lambda: scale.report(
            sizes=(1_000, *sizes), rounds=min(rounds, 3), seconds=seconds
        ),
        "check": lambda: check.report(rounds=min(rounds, 3)),
    }
    if arguments.large:
        found["W1 large"] = lambda: w1.report_large(
            rounds=rounds, seconds=seconds, jobs=arguments.jobs
        )
    if arguments.large or "postgres" in (arguments.only or ()):
        found["postgres"] = lambda: postgres.report(rounds=rounds, seconds=seconds)
    if arguments.large or "memory" in (arguments.only or ()):
        found["memory"] = memory.report
    return found


if __name__ == "__main__":
    sys.exit(main())
