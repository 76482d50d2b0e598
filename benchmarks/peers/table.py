"""The results for people: figures down, peers across, and what has to be said in words below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LINES = [
    *(
        (f"W1 at {n}: {label}", ("W1", str(n), figure))
        for n in (1, 32, 256)
        for label, figure in (
            ("jobs/s", "jobs_s"),
            ("p50 ms", "p50_ms"),
            ("p99 ms", "p99_ms"),
            ("CPU us a job, all processes", "cpu_us"),
            ("stmflow's jobs/s are ... times", "stmflow_times_rate"),
            ("... times stmflow's CPU", "times_stmflow_cpu"),
            ("all on record", "exact"),
        )
    ),
    ("W2: increments/s of one count", ("W2", "incr_s")),
    ("W2: increments/s of 64 counts", ("W2", "uncontended_s")),
    ("W2: CPU us an increment", ("W2", "cpu_us")),
    ("W2: stmflow's are ... times", ("W2", "stmflow_times_rate")),
    ("W2: count exact", ("W2", "exact")),
    ("W3: lateness p50 ms", ("W3", "late_p50_ms")),
    ("W3: lateness p99 ms", ("W3", "late_p99_ms")),
    ("W3: idle CPU, % of a core", ("W3", "idle_cpu_pct")),
    ("W3: sleepers begun/s", ("W3", "jobs_made_s")),
    ("W4: s until all are finished", ("W4", "recover_s")),
    ("W4: of them until it is open", ("W4", "opened_s")),
    ("W4: lost", ("W4", "lost")),
    ("W4: tasks performed twice", ("W4", "repeated")),
    ("W4: tasks begun twice", ("W4", "begun_again")),
]


def text(peers: dict[str, Any]) -> str:
    """The whole table; lines that no peer has a figure for are left out."""
    rows = [["", *peers]]
    for label, path in LINES:
        cells = [_cell(_at(found, path)) for found in peers.values()]
        if any(cells):
            rows.append([label, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(peers) + 1)]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([*lines, *_words(peers)])


def _line(row: list[str], widths: list[int]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([row[0].ljust(len(first)), *rest]).rstrip()


def _at(found: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The figure at the end of this path; "failed" where its workload gave none."""
    one: Any = found
    for name in path:
        if not isinstance(one, dict):
            return None
        if "failed" in one:
            return "failed"
        one = one.get(name)
    return one


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "NO"
        case str():
            return value
        case int() | float() if value >= 100:
            return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def _words(peers: dict[str, Any]) -> Iterator[str]:
    """Why figures are missing, and what each peer's mean."""
    for peer, found in peers.items():
        for workload, figures in found.items():
            reasons = [figures, *(one for one in figures.values() if isinstance(one, dict))]
            for reason in {one["failed"] for one in reasons if "failed" in one}:
                yield f"{peer}, {workload}: FAILED: {reason}"
            if remark := figures.get("remark"):
                yield f"{peer}, {workload}: {remark}."
