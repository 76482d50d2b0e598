"""`python -m benchmarks.peers`: stmflow and its peers in turn, a table, `results/peers.json`.

Exit 0: figures for all; 1: a measurement failed, or what it counted is not on record (the rest is
written); 3: something that a peer needs is missing here, and what that is.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.peers import servers, table
from benchmarks.peers.figures import CONCURRENCIES, Rounds, figures
from benchmarks.peers.runs import PEERS, Bench, Failed
from benchmarks.table import rounded

RESULTS = Path(__file__).parent.parent / "results" / "peers.json"
WORKLOADS = ("W1", "W2", "W3", "W4")
IDLE_SECONDS = 5.0


def main() -> int:
    """Parse, run, print, write."""
    arguments = _arguments()
    names = [name for name in PEERS if name in (arguments.only or PEERS)]
    workloads = arguments.workload or list(WORKLOADS)
    began = time.perf_counter()
    signal.signal(signal.SIGTERM, _leave)  # so that servers and children are ended, too
    try:
        with Bench(names) as bench:
            facts = {**machine.facts(), **bench.facts()}
            rounds = run(bench, names, workloads, arguments.rounds, arguments.seconds)
    except servers.Missing as error:
        print(f"skipped, something is missing here (--only PEER runs the others):\n{error}")
        return 3
    results = report(rounds)
    took_s = round(time.perf_counter() - began, 1)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(table.text(results))
    whole = not arguments.only and not arguments.workload
    output = arguments.output or (RESULTS if whole else None)
    if output is not None:
        written = {"machine": facts, "rounds": arguments.rounds, "seconds": arguments.seconds}
        written |= {"took_s": took_s, "peers": results}
        output.write_text(json.dumps(rounded(written), indent=2) + "\n")
        print(f"written to {output}")
    every = [one for found in rounds.values() for label in found.values() for one in label]
    return int(any("failed" in one or not one.get("exact", True) for one in every))


def _leave(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--only",
        action="append",
        choices=PEERS,
        metavar="PEER",
        help=f"only this one of {', '.join(PEERS)} (may be repeated); peers.json is left alone",
    )
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only this one")
    parser.add_argument(
        "--rounds", type=int, default=2, help="of W1 and W2 (2); W3 and W4 are run once"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window (2)")
    parser.add_argument("--output", type=Path, help="where to write the results")
    return parser.parse_args()


def run(
    bench: Bench, names: list[str], workloads: list[str], rounds: int, seconds: float
) -> dict[str, dict[str, Rounds]]:
    """All measurements, peer after peer within each: neighbours see the same machine."""
    found: dict[str, dict[str, Rounds]] = {name: {} for name in names}
    for turn in range(rounds):
        for label, measure in _measurements(bench, seconds):
            if label[:2] not in workloads or (turn and label[:2] in ("W3", "W4")):
                continue
            for name in names:
                print(f"{label}, {name} …", file=sys.stderr, flush=True)
                try:
                    one = measure(name)
                except Failed as error:
                    one = {"failed": str(error)}
                found[name].setdefault(label, []).append(one)
    return found


def _measurements(bench: Bench, seconds: float) -> Iterator[tuple[str, Callable[[str], Any]]]:
    for clients in CONCURRENCIES:
        yield (
            f"W1 at {clients}",
            lambda name, n=clients: bench.measure(name, "w1", clients=n, seconds=seconds),
        )
    for label, shared in (("W2 shared", True), ("W2 own", False)):
        yield (
            label,
            lambda name, s=shared: bench.measure(name, "w2", clients=64, seconds=seconds, shared=s),
        )
    made_s: dict[str, float] = {}

    def idle(name: str) -> Any:
        one = bench.measure(name, "idle", clients=64, seconds=IDLE_SECONDS)
        made_s[name] = one["made_s"]
        return one

    yield "W3 idle", idle
    yield "W3 wake", lambda name: _wake(bench, name, made_s.get(name, 10.0))
    yield "W4", bench.kill_and_recover


def _wake(bench: Bench, name: str, made_s: float) -> Any:
    lead_seconds = 1.5 * made_s + 2
    for _ in range(3):
        found = bench.measure(name, "wake", clients=64, lead_seconds=lead_seconds)
        if "too_short" not in found:
            return found
        lead_seconds *= 2
    raise Failed(f"{name}: the sleepers could not be begun within {lead_seconds / 2:.0f} s")


def report(rounds: dict[str, dict[str, Rounds]]) -> dict[str, Any]:
    """`{peer: {workload: figures}}`, with the remarks of the peers."""
    results: dict[str, Any] = {}
    for name, found in rounds.items():
        kind = PEERS[name]
        results[name] = figures(found, rounds.get(kind.beside, {}))
        for workload, remark in kind.remarks.items():
            if workload in results[name]:
                results[name][workload]["remark"] = remark
    return results


if __name__ == "__main__":
    sys.exit(main())
