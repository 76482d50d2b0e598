"""The results as a table for people: each figure beside its aim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Line(NamedTuple):
    """One line: what it is, what came out, what was aimed at, whether that was reached."""

    name: str
    found: str
    aim: str = ""
    met: bool | None = None


def text(results: dict[str, Any]) -> str:
    """The whole table; workloads that did not run are left out."""
    lines = [line for name, rows in _ROWS.items() if name in results for line in rows(results)]
    if not lines:
        return ""
    widths = [max(len(str(line[column])) for line in lines) for column in range(3)]
    return "\n".join(_render(line, widths) for line in lines)


def rounded(value: Any) -> Any:
    """Four significant digits are more than a shared machine can give."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _render(line: Line, widths: list[int]) -> str:
    mark = {None: "", True: "  yes", False: "  NO"}[line.met]
    name, found, aim = (
        line.name.ljust(widths[0]),
        line.found.rjust(widths[1]),
        line.aim.ljust(widths[2]),
    )
    return f"{name}  {found}  {aim}{mark}".rstrip()


def _at_least(name: str, value: float, aim: float, unit: str = "") -> Line:
    return Line(name, _number(value) + unit, f">= {_number(aim)}{unit}", value >= aim)


def _at_most(name: str, value: float, aim: float, unit: str = "") -> Line:
    return Line(name, _number(value) + unit, f"<= {_number(aim)}{unit}", value <= aim)


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def _w1(results: dict[str, Any]) -> Iterator[Line]:
    for concurrency, found in results["W1"].items():
        name = f"W1 at {concurrency}: "
        jobs = name + "jobs/s"
        if concurrency == "256":
            yield _at_least(jobs, found["jobs_s"], 2_500)
        else:
            yield Line(jobs, _number(found["jobs_s"]))
        yield Line(name + "jobs/s of the floor", _number(found["floor_jobs_s"]))
        if concurrency == "256":
            yield _at_most(name + "floor / ours, jobs/s", found["rate_ratio"], 2.5)
        else:
            yield Line(name + "floor / ours, jobs/s", _number(found["rate_ratio"]))
        yield Line(name + "p50, p99 ms", _pair(found["p50_ms"], found["p99_ms"]))
        yield Line(
            name + "p50, p99 ms of the floor", _pair(found["floor_p50_ms"], found["floor_p99_ms"])
        )
        if concurrency == "1":
            yield _at_most(name + "ours / floor, p50", found["p50_ratio"], 2)
        else:
            yield Line(name + "ours / floor, p50", _number(found["p50_ratio"]))
        yield Line(name + "CPU µs a job, floor's", _pair(found["cpu_us"], found["floor_cpu_us"]))


def _pair(one: float, other: float) -> str:
    return f"{_number(one)}, {_number(other)}"


def _w2(results: dict[str, Any]) -> Iterator[Line]:
    found = results["W2"]
    yield _at_least("W2: increments/s of one job", found["incr_s"], 10_000)
    yield Line("W2: increments/s of 64 jobs", _number(found["uncontended_s"]))
    yield _at_least("W2: one job / 64 jobs", found["of_uncontended"], 1)
    yield Line("W2: count exact", "yes" if found["exact"] else "no", "exact", bool(found["exact"]))


def _w3(results: dict[str, Any]) -> Iterator[Line]:
    found = results["W3"]
    yield Line("W3: lateness p50 ms", _number(found["late_p50_ms"]))
    yield _at_most("W3: lateness p99 ms", found["late_p99_ms"], 50)
    yield Line("W3: woken early", str(found["early"]), "0", found["early"] == 0)
    yield _at_most("W3: idle CPU", found["idle_cpu_pct"], 2, " %")


def _w4(results: dict[str, Any]) -> Iterator[Line]:
    found = results["W4"]
    yield Line("W4: in flight at SIGKILL", str(found["in_flight"]))
    yield _at_most("W4: seconds until all are finished", found["recover_s"], 1)
    yield Line("W4: lost", str(found["lost"]), "0", found["lost"] == 0)
    yield Line("W4: tasks performed twice", str(found["repeated"]))
    yield Line("W4: tasks begun twice", str(found["begun_again"]))


def _neighbours(results: dict[str, Any]) -> Iterator[Line]:
    found = results["neighbours"]
    yield Line("neighbours: seen after p50 ms", _number(found["seen_p50_ms"]))
    yield _at_most("neighbours: seen after p99 ms", found["seen_p99_ms"], 100)


def _signed(results: dict[str, Any]) -> Iterator[Line]:
    found = results["signed"]
    for name, ours in found["ours"].items():
        label = f"signed store/add, {name}: "
        yield Line(label + "/s", _number(ours["per_s"]))
        if name == "done at 16":
            yield _at_most(label + "CPU ms each", ours["cpu_ms"], 1.25)
        else:
            yield Line(label + "CPU ms each", _number(ours["cpu_ms"]))
        if "theirs" in found:
            theirs = found["theirs"][name]
            yield Line(label + "JavaScript, /s", _number(theirs["per_s"]))
            yield Line(label + "JavaScript, CPU ms each", _number(theirs["cpu_ms"]))
            yield _at_least(label + "JavaScript / ours, CPU", found["ratio"][name], 8)
    yield Line(
        "signed: done at 16, no cache of proofs, CPU ms", _number(found["no_cache"]["cpu_ms"])
    )
    for name, share in found["shares_ms"].items():
        yield Line(f"signed: done at 16, {name}, CPU ms", _number(share))


def _large(results: dict[str, Any]) -> Iterator[Line]:
    found = results["W1 large"]
    name = f"W1 at 256, {found['finished']:,} finished: "
    yield Line(name + "jobs/s", _number(found["jobs_s"]))
    yield Line(name + "jobs/s of empty", _number(found["empty_jobs_s"]))
    yield _at_least(name + "% of empty", 100 * found["of_empty"], 70)


def _postgres(results: dict[str, Any]) -> Iterator[Line]:
    for workers, found in results["postgres"].items():
        name = f"W1 on PostgreSQL, {workers} workers: "
        yield Line(name + "jobs/s", _number(found["jobs_s"]))
        yield Line(name + "p50, p99 ms", _pair(found["p50_ms"], found["p99_ms"]))
        yield Line(name + "CPU µs a job", _number(found["cpu_us"]))
        yield Line(name + "commits a batch", _number(found["commits_per_batch"]))


def _memory(results: dict[str, Any]) -> Iterator[Line]:
    found = results["memory"]
    name = f"memory: MiB after {found['few']:,}, {found['many']:,} jobs"
    yield Line(name, _pair(found["few_mib"], found["many_mib"]))
    yield _at_most("memory: MiB grown", found["grown_mib"], 20)


def _sleepers(results: dict[str, Any]) -> Iterator[Line]:
    sizes = results["sleepers"]
    fewest = next(iter(sizes.values()))
    for jobs, found in sizes.items():
        name = f"sleepers, {int(jobs):,}: "
        if found is fewest:
            yield Line(name + "MiB resident", _number(found["resident_mib"]))
        else:
            grown = found["resident_mib"] - fewest["resident_mib"]
            yield _at_most(name + "MiB resident beyond the fewest", grown, 10)
        yield _at_most(name + "idle CPU", found["idle_cpu_pct"], 1, " %")
        yield Line(name + "bytes a job", _number(found["bytes_a_job"]))
        yield _at_most(name + "late p99 ms", found["late_p99_ms"], 50)


def _backlog(results: dict[str, Any]) -> Iterator[Line]:
    found = results["backlog"]
    name = f"backlog of {found['jobs']:,}: "
    yield _at_most(name + "seconds until ready", found["ready_s"], 2)
    yield Line(name + "still waiting then", f"{found['left_when_ready']:,}")
    yield Line(name + "new jobs p50, most ms", _pair(found["new_p50_ms"], found["new_max_ms"]))
    yield Line(name + "old jobs/s", _number(found["old_jobs_s"]))


def _scale(results: dict[str, Any]) -> Iterator[Line]:
    found = results["scale"]
    for jobs, one in found["sizes"].items():
        name = f"scale, {int(jobs):,} finished: "
        yield Line(name + "CPU µs a job, jobs/s", _pair(one["cpu_us"], one["jobs_s"]))
    yield _at_most("scale: CPU a job, most / fewest finished", found["flat"], 1.3)


def _imports(results: dict[str, Any]) -> Iterator[Line]:
    found = results["imports"]
    yield Line(
        "import: CPU ms of stmflow; of pydantic, anyio",
        _pair(found["stmflow_ms"], found["pydantic_anyio_ms"]),
    )
    yield _at_most("import: ratio", found["ratio"], 1.5)
    yield Line("import: ratio with TypeAdapter loaded", _number(found["type_adapter_ratio"]))


def _check(results: dict[str, Any]) -> Iterator[Line]:
    found = results["check"]
    yield Line("check: states/s on the lease model", _number(found["states_per_second"]))
    yield _at_most("check: CPU beside a bare breadth-first loop", found["ratio"], 2)
    if "tlc_wall_seconds" in found:
        tlc = found["tlc_wall_seconds"]
        yield _at_most("check: s until the lease is explored, TLC's", found["wall_seconds"], tlc)


_ROWS: dict[str, Callable[[dict[str, Any]], Iterator[Line]]] = {
    "W1": _w1,
    "W1 large": _large,
    "W2": _w2,
    "W3": _w3,
    "W4": _w4,
    "postgres": _postgres,
    "neighbours": _neighbours,
    "signed": _signed,
    "memory": _memory,
    "sleepers": _sleepers,
    "backlog": _backlog,
    "scale": _scale,
    "imports": _imports,
    "check": _check,
}
