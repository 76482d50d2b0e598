"""Pictures of a workflow's states: as Mermaid and as SVG, with a job's place and path marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from stmflow.check.layout import Point, layered
from stmflow.check.table import Table

START = ""
"""The state of a job that is not there yet."""

LETTER, LINE, EDGE = 6.7, 15.0, 14.0
"""The width of a letter, the height of a line, the margin of a box, in pixels."""


class Taken(NamedTuple):
    """A step of a job: from one state to another, by these events (none: an effect's progress)."""

    source: str
    events: tuple[str, ...]
    target: str


class Edge(NamedTuple):
    """A change of state: by which events, and which steps of the job's path took it."""

    source: str
    target: str
    events: tuple[str, ...]
    steps: tuple[int, ...] = ()

    @property
    def text(self) -> list[str]:
        """Its lines: the events, after the numbers of the steps."""
        if not self.steps:
            return list(self.events)
        return [f"({', '.join(map(str, self.steps))})", *self.events]


@dataclass(frozen=True)
class Diagram:
    """The states of a workflow and what leads from one to another.

    Attributes:
        at: where the job stands. path: the states where it has been.
    """

    workflow: str
    states: tuple[str, ...]
    edges: tuple[Edge, ...]
    at: str | None = None
    path: frozenset[str] = frozenset()

    @classmethod
    def of(cls, table: Table, taken: Sequence[Taken] | None = None) -> Diagram:
        """The diagram of a table: what behaviours do, or what `update` says where none was
        explored. `taken`: the steps of a job from its beginning."""
        moves = list(table.moves())
        met = any(each for *_, each in moves)
        events: dict[tuple[str, str], dict[str, None]] = {}
        for source, event, target, each in moves:
            if each or not met:
                events.setdefault((source, target), {})[event] = None
        steps: dict[tuple[str, str], list[int]] = {}
        for number, step in enumerate(taken or (), 1):
            if step.source != step.target or (step.source, step.target) in events:
                steps.setdefault((step.source, step.target), []).append(number)
                known = events.setdefault((step.source, step.target), {})
                known.update(dict.fromkeys(step.events))
        edges = [
            Edge(*pair, tuple(names), tuple(steps.get(pair, ()))) for pair, names in events.items()
        ]
        used = {name for edge in edges for name in edge[:2]}
        states = [START, *(state for state in table.states if state in used - {START})]
        states += [name for name in used if name not in states]
        path = frozenset(name for step in taken or () for name in (step.source, step.target))
        at = taken[-1].target if taken else None
        return cls(table.workflow, tuple(states), tuple(edges), at, path)

    # --- Mermaid ---

    def mermaid(self) -> str:
        """A Mermaid state diagram."""
        names = {state: self._name(number) for number, state in enumerate(self.states)}
        lines = ["stateDiagram-v2"]
        lines += [
            f'    state "{_quoted(state)}" as {name}'
            for state, name in names.items()
            if name not in (state, "[*]")
        ]
        for edge in self.edges:
            text = _quoted(", ".join(edge.text))
            lines.append(f"    {names[edge.source]} --> {names[edge.target]}: {text}")
        if self.at is not None:
            lines += [
                "    classDef been fill:#fff3c4,stroke:#b7791f,color:#222",
                "    classDef here fill:#f6ad55,stroke:#9c4221,stroke-width:3px,color:#222",
            ]
            lines += [
                f"    class {names[state]} {'here' if state == self.at else 'been'}"
                for state in self.states
                if state in self.path and state != START
            ]
        return "\n".join(lines)

    def _name(self, number: int) -> str:
        state = self.states[number]
        if state == START:
            return "[*]"
        return state if re.fullmatch(r"[A-Za-z]\w*", state) and state != "end" else f"s{number}"

    # --- SVG ---

    def svg(self) -> str:
        """An SVG picture that needs nothing else; what leads back to the same state stands in its
        box."""
        number = {state: at for at, state in enumerate(self.states)}
        loops = {edge.source: edge for edge in self.edges if edge.source == edge.target}
        edges = [edge for edge in self.edges if edge.source != edge.target]
        boxes = [self._lines(state, loops.get(state)) for state in self.states]
        sizes = [(16.0, 16.0) if not lines else _size(lines) for lines in boxes]
        pairs = [(number[edge.source], number[edge.target]) for edge in edges]
        found = layered(sizes, pairs, [_text_size(edge.text) for edge in edges])
        width, height = found.size[0] + 2 * EDGE, found.size[1] + 2 * EDGE
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
            f' width="{width:.0f}" height="{height:.0f}" role="img">',
            f"<title>{escape(self.workflow)}</title>",
            _STYLE,
            f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
            f'<g transform="translate({EDGE:.0f} {EDGE:.0f})">',
        ]
        order = sorted(range(len(edges)), key=lambda at: bool(edges[at].steps))
        parts += [_curve(found.lines[at], bool(edges[at].steps)) for at in order]
        for edge, centre in zip(edges, found.labels, strict=True):
            parts += _written(edge.text, centre, "took" if edge.steps else "by")
        for state, lines, size, centre in zip(self.states, boxes, sizes, found.nodes, strict=True):
            parts += self._box(state, lines, size, centre)
        return "\n".join([*parts, "</g>", "</svg>", ""])

    def _lines(self, state: str, loop: Edge | None) -> list[str]:
        if state == START:
            return []
        return [state, *(f"↻ {line}" for line in (loop.text if loop else ()))]

    def _box(
        self, state: str, lines: list[str], size: tuple[float, float], centre: Point
    ) -> Iterator[str]:
        (x, y), (width, height) = centre, size
        mark = "here" if state == self.at else "been" if state in self.path else "state"
        if not lines:
            yield f'<circle class="start" cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
            return
        yield (
            f'<rect class="{mark}" x="{x - width / 2:.1f}" y="{y - height / 2:.1f}"'
            f' width="{width:.1f}" height="{height:.1f}" rx="8"/>'
        )
        for row, line in enumerate(lines):
            at = y + LINE * (row - (len(lines) - 1) / 2) + 4
            name = "loop" if row else "name"
            yield f'<text class="{name}" x="{x:.1f}" y="{at:.1f}">{escape(line)}</text>'


def _size(lines: Sequence[str]) -> tuple[float, float]:
    width, height = _text_size(lines)
    return width + 2 * EDGE, height + EDGE


def _text_size(lines: Sequence[str]) -> tuple[float, float]:
    return max(map(len, lines)) * LETTER + 6, len(lines) * LINE + 4


def _written(lines: Sequence[str], centre: Point, name: str) -> Iterator[str]:
    """The text of an edge, on paper of its own."""
    (x, y), (width, height) = centre, _text_size(lines)
    yield (
        f'<rect class="paper" x="{x - width / 2:.1f}" y="{y - height / 2:.1f}"'
        f' width="{width:.1f}" height="{height:.1f}"/>'
    )
    for row, line in enumerate(lines):
        at = y + LINE * (row - (len(lines) - 1) / 2) + 4
        yield f'<text class="{name}" x="{x:.1f}" y="{at:.1f}">{escape(line)}</text>'


def _curve(points: Sequence[Point], took: bool) -> str:
    """A smooth line that leaves and comes upright, with its head."""
    (x, y), *rest = points
    parts = [f"M{x:.1f} {y:.1f}"]
    for u, v in rest:
        bend = (v - y) / 2
        parts.append(f"C{x:.1f} {y + bend:.1f} {u:.1f} {v - bend:.1f} {u:.1f} {v:.1f}")
        x, y = u, v
    up = -1 if points[-1][1] < points[-2][1] else 1
    head = f"M{x:.1f} {y:.1f}l-4 {-8 * up}h8z"
    mark = " took" if took else ""
    return f'<path class="line{mark}" d="{"".join(parts)}"/><path class="head{mark}" d="{head}"/>'


def _quoted(text: str) -> str:
    return text.replace('"', "'").replace("#", "").replace(";", ",").replace(":", "∶")


_STYLE = """<style>
text { font: 12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
text { text-anchor: middle; fill: #334 }
.name { font-weight: bold; fill: #112 } .loop { font-size: 11px; fill: #556 }
.took { fill: #9c4221; font-weight: bold }
.paper { fill: #fff } .start { fill: #223 }
.state { fill: #eef2ff; stroke: #5a67a8 } .been { fill: #fff3c4; stroke: #b7791f }
.here { fill: #f6ad55; stroke: #9c4221; stroke-width: 3 }
.line { fill: none; stroke: #8a90a8; stroke-width: 1.2 } .head { fill: #8a90a8 }
.line.took { fill: none; stroke: #c05621; stroke-width: 2.6 } .head.took { fill: #c05621 }
</style>"""

__all__ = ["START", "Diagram", "Edge", "Taken"]
