"""A chart shown: as a table, and as a Mermaid diagram with its states inside one another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from stmflow.schema import tag_of
from stmflow.statechart.chart import Chart
from stmflow.statechart.model import Final, Go, Refuse, Stay
from stmflow.statechart.tree import Edge, Node


def table(chart: Chart) -> str:
    """What each leaf does with each event, as Markdown.

    `→ x`: goes to x. `=`: accepted, nothing changes. `R:code`: rejected. `~`: ignored. Conditions
    stand before what they guard, and are tried in their order. A leaf inside a region speaks for
    its region alone.
    """
    leaves = [node for node in chart.tree.nodes if node.atomic and not node.final]
    edges = [edge for node in chart.tree.nodes for edge in node.edges]
    columns = dict.fromkeys(event for edge in edges for event in edge.events)
    if any(not edge.events for edge in edges):
        columns[""] = None
    rows = [["state", *(_column(name) for name in columns)], ["---"] * (len(columns) + 1)]
    for leaf in leaves:
        rows.append([_path(leaf), *(_cell(chart, leaf, name) for name in columns)])
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows) + "\n"


def mermaid(chart: Chart) -> str:
    """The chart as a Mermaid state diagram: what moves, without what only answers."""
    return "\n".join(["stateDiagram-v2", *_Drawing(chart).lines()]) + "\n"


# --- the table ------------------------------------------------------------------------------------


def _column(name: str) -> str:
    found = re.fullmatch(r"after\.(.*)\.\d+", name)
    return _when(name) + (f" in {found[1]}" if found else "") if name else "always"


def _path(leaf: Node) -> str:
    """The leaf, with the states around it."""
    around = [node.name for node in leaf.ancestors() if node.parent is not None]
    return ".".join([*reversed(around), leaf.name])


def _cell(chart: Chart, leaf: Node, name: str) -> str:
    found = []
    for edge in _candidates(chart, leaf, name):
        found.append(_said(edge))
        if edge.when is None:
            return "; ".join(found)
    return "; ".join([*found, "~" if name else ""]).rstrip("; ")


def _candidates(chart: Chart, leaf: Node, name: str) -> Iterator[Edge]:
    """The cells that the leaf asks, the innermost first."""
    for node in (leaf, *leaf.ancestors()):
        for edge in node.edges:
            if chart.tree.matches(edge, name) if name else not edge.events:
                yield edge


def _said(edge: Edge) -> str:
    guard = f"[{condition(edge.when)}] " if edge.when is not None else ""
    match edge.cell:
        case Stay():
            return f"{guard}="
        case Refuse(code):
            return f"{guard}R:{code}"
    return guard + (f"→ {', '.join(edge.to)}" if edge.to else "acts")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def condition(guard: Any) -> str:
    """A guard in words: its expression, or the name of its function."""
    expression = getattr(guard, "expression", None)
    if expression is not None:
        return str(expression.text)
    return name_of_function(guard)


def name_of_function(function: Callable[..., Any]) -> str:
    """How it is called; a lambda is a `function`."""
    name = str(getattr(function, "__name__", type(function).__name__))
    return "function" if name == "<lambda>" else name


# --- the diagram ----------------------------------------------------------------------------------


class _Drawing:
    """Each arrow stands in the innermost state around both its ends, as Mermaid wants it."""

    def __init__(self, chart: Chart) -> None:
        self.tree = chart.tree
        self.arrows: dict[Node, list[str]] = {}
        for node in self.tree.nodes:
            for edge in node.edges:
                self._arrow(edge)

    def lines(self) -> list[str]:
        """The diagram, line by line."""
        return list(self._inside(self.tree.root, "    "))

    def _arrow(self, edge: Edge) -> None:
        if not isinstance(edge.cell, Go) or not edge.targets:
            return
        scope = self.tree.common([edge.source, *edge.targets], compound=False)
        while scope.parallel:  # no arrow crosses from region to region inside it
            assert scope.parent is not None
            scope = scope.parent
        for target in edge.targets:
            arrow = f"{self._id(edge.source)} --> {self._id(target)} : {_label(edge)}"
            self.arrows.setdefault(scope, []).append(arrow)

    def _inside(self, node: Node, indent: str) -> Iterator[str]:
        if node.parent is None and any(isinstance(edge.cell, Go) for edge in node.edges):
            yield f'{indent}state "in any state" as {self._id(node)}'
        for target in () if node.initial is None else node.initial.targets:
            yield f"{indent}[*] --> {self._id(target)}"
        for at, child in enumerate(node.children):
            if at and node.parallel:
                yield f"{indent}--"
            yield from self._node(child, indent)
        yield from (indent + arrow for arrow in self.arrows.get(node, ()))

    def _node(self, node: Node, indent: str) -> Iterator[str]:
        name = self._id(node)
        shown = node.name.replace('"', "'")
        if node.history:
            deep = getattr(node.spec, "deep", False)
            yield f'{indent}state "{"H*" if deep else "H"} {shown}" as {name}'
            yield from (f"{indent}{name} --> {self._id(t)}" for t in self._first(node))
            return
        if name != node.name:
            yield f'{indent}state "{shown}" as {name}'
        if node.states:
            yield f"{indent}state {name} {{"
            yield from self._inside(node, indent + "    ")
            yield f"{indent}}}"
        elif name == node.name:
            yield f"{indent}{name}"
        for invoke in node.invokes:
            ends = [tag_of(kind) for kind in (invoke.done, invoke.error) if kind is not None]
            yield f"{indent}note right of {name} : invokes, until {' or '.join(ends)}"
        if isinstance(node.spec, Final):
            yield f"{indent}{name} --> [*]"

    def _first(self, node: Node) -> tuple[Node, ...]:
        return () if node.initial is None else node.initial.targets

    def _id(self, node: Node) -> str:
        """Its name, where Mermaid takes it for one."""
        plain = re.fullmatch(r"[A-Za-z]\w*", node.name) and node.name not in (
            "state",
            "note",
            "end",
        )
        return node.name if plain else f"s{node.order}"


def _label(edge: Edge) -> str:
    words = [_when(event) for event in edge.events] or ["always"]
    if edge.when is not None:
        words.append(f"[{condition(edge.when)}]")
    return re.sub(r"[:;#\n]", " ", " ".join(words))


def _when(event: str) -> str:
    found = re.fullmatch(r"after\..*\.(\d+)", event)
    if found:
        return f"after {int(found[1]) / 1_000:g} s"
    return re.sub(r"^done\.state\.(.*)$", r"\1 is done", event)
