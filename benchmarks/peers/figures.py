"""From what the rounds gave to figures: medians, and ratios within the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.load import middle, ratio

Rounds = list[dict[str, Any]]
"""What one measurement of one peer gave, round by round; `failed` (a reason) where it gave none."""

CONCURRENCIES = (1, 32, 256)


def figures(rounds: dict[str, Rounds], beside: dict[str, Rounds]) -> dict[str, Any]:
    """The figures of one peer by workload, each beside those of stmflow in the same rounds.

    Args:
        rounds: by measurement: "W1 at 1", "W2 shared", "W2 own", "W3 idle", "W3 wake", "W4".
        beside: the same of the stmflow that it is compared with; may be empty.
    """
    found: dict[str, Any] = {}
    w1 = {str(n): _w1(f"W1 at {n}", rounds, beside) for n in CONCURRENCIES}
    if w1 := {name: one for name, one in w1.items() if one}:
        found["W1"] = w1
    for name, make in _WORKLOADS.items():
        if one := make(rounds, beside):
            found[name] = one
    return found


def _w1(name: str, rounds: dict[str, Rounds], beside: dict[str, Rounds]) -> dict[str, Any]:
    found = _rates("jobs_s", name, rounds, beside)
    if "jobs_s" in found:
        found["ended"] = sum(one["ended"] for one in rounds[name])
        found["steps"] = sum(one["steps"] for one in rounds[name])
    return found


def _w2(rounds: dict[str, Rounds], beside: dict[str, Rounds]) -> dict[str, Any]:
    found = _rates("incr_s", "W2 shared", rounds, beside)
    own = _rates("uncontended_s", "W2 own", rounds, beside)
    if "incr_s" in found and "uncontended_s" in own:
        found["uncontended_s"] = own["uncontended_s"]
        found["of_uncontended"] = ratio(rounds["W2 shared"], rounds["W2 own"], "rate")
        found["exact"] = found["exact"] and own["exact"]
    return found or own


def _rates(
    label: str, name: str, rounds: dict[str, Rounds], beside: dict[str, Rounds]
) -> dict[str, Any]:
    theirs = rounds.get(name, [])
    if not theirs or (failed := _failed(theirs)):
        return failed if theirs else {}
    found: dict[str, Any] = {
        label: middle(theirs, "rate"),
        "p50_ms": middle(theirs, "p50_ms"),
        "p99_ms": middle(theirs, "p99_ms"),
        "cpu_us": middle(theirs, "cpu_us"),
        "exact": all(one["exact"] for one in theirs),
    }
    ours = beside.get(name, [])
    if ours and ours is not theirs and not _failed(ours):
        found["stmflow_times_rate"] = ratio(ours, theirs, "rate")
        found["times_stmflow_cpu"] = ratio(theirs, ours, "cpu_us")
        found["times_stmflow_p50"] = ratio(theirs, ours, "p50_ms")
    return found


def _w3(rounds: dict[str, Rounds], beside: dict[str, Rounds]) -> dict[str, Any]:
    resting, waking = rounds.get("W3 idle", []), rounds.get("W3 wake", [])
    if failed := _failed(resting + waking):
        return failed
    found: dict[str, Any] = {}
    if waking:
        found = {n: middle(waking, n) for n in ("late_p50_ms", "late_p99_ms", "late_max_ms")}
        found["early"] = sum(one["early"] for one in waking)
        found["never"] = sum(one["never"] for one in waking)
    if resting:
        found["idle_cpu_pct"] = middle(resting, "idle_cpu_pct")
        found["sleepers"] = resting[0]["asleep"]
        found["jobs_made_s"] = found["sleepers"] / middle(resting, "made_s")
    return found


def _w4(rounds: dict[str, Rounds], beside: dict[str, Rounds]) -> dict[str, Any]:
    theirs = rounds.get("W4", [])
    if not theirs or (failed := _failed(theirs)):
        return failed if theirs else {}
    worst = ("lost", "unrecorded", "repeated", "begun_again")
    found: dict[str, Any] = {name: max(one[name] for one in theirs) for name in worst}
    found["in_flight"] = min(one["in_flight"] for one in theirs)
    times = {name: middle(theirs, name) for name in ("recover_s", "opened_s")}
    return {**times, **found}


def _failed(rounds: Rounds) -> dict[str, Any]:
    """Why there are no figures, where one of the rounds gave none."""
    reasons = [one["failed"] for one in rounds if "failed" in one]
    return {"failed": reasons[0]} if reasons else {}


_WORKLOADS: dict[str, Callable[[dict[str, Rounds], dict[str, Rounds]], dict[str, Any]]] = {
    "W2": _w2,
    "W3": _w3,
    "W4": _w4,
}
