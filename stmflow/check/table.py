"""The table of a workflow: what `update` answers to every event in every state.

Cells that some behaviour comes to hold what was answered there. In the others, which stand in
brackets, `update` is asked: with states and events that were met elsewhere, and where none were,
with values made from the declared types. `?`: it took none of them.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typing_extensions

from stmflow.check.answers import Answer, answered
from stmflow.check.machine import SOME
from stmflow.check.search import Graph
from stmflow.cid import CID
from stmflow.schema import is_record, schema_of
from stmflow.workflow import Workflow

LEGEND = (
    "`→state [effects]` next state, `=` no change, `~` ignored, `R:code` refused, `‼` impossible;"
    " in brackets where no behaviour that was explored comes."
)


class Cell(NamedTuple):
    """What one event comes to in one state. `met`: some behaviour comes here."""

    answers: tuple[Answer, ...]
    met: bool

    def __str__(self) -> str:
        told = " or ".join(str(answer) for answer in self.answers) or "?"
        return told if self.met else f"({told})"


@dataclass(frozen=True)
class Table:
    """Every cell of a workflow. The state `""` stands for a job that is not there yet."""

    workflow: str
    states: tuple[str, ...]
    events: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    def markdown(self) -> str:
        """The table in Markdown: a row for each event, a column for each state."""
        head = ["event", *(state or "*no job*" for state in self.states)]
        lines = [_row(head), _row(["---"] * len(head))]
        for event in self.events:
            lines.append(_row([event, *(str(self.cells[state, event]) for state in self.states)]))
        return "\n".join(lines)

    def moves(self) -> Iterator[tuple[str, str, str, bool]]:
        """(state, event, next state, whether some behaviour does it) of each change of state."""
        for (state, event), cell in self.cells.items():
            for to in dict.fromkeys(answer.to for answer in cell.answers):
                if to is not None:
                    yield state, event, to, cell.met


def table(workflow: Workflow, graphs: Sequence[Graph] = ()) -> Table:
    """The table of a workflow, from what was explored of it and by asking for the rest."""
    met: dict[tuple[str, str], dict[Answer, None]] = {}
    for graph in graphs:
        for (name, here, tag), told in graph.machine.cells.items():
            if name == workflow.name:
                met.setdefault((here, tag), {}).update(dict.fromkeys(told))
    values = _states(workflow, graphs)
    met_tags = (state for state, _ in met)
    states = tuple(dict.fromkeys(["", *workflow.state_tags, *met_tags, *values]))
    cells = {}
    for event in workflow.event_tags:
        asked = _events(workflow, event, graphs)
        for state in states:
            found = met.get((state, event))
            answers = list(found or _ask(workflow, values.get(state, []), asked))
            cells[state, event] = Cell(tuple(sorted(answers, key=str)), found is not None)
    return Table(workflow.name, states, workflow.event_tags, cells)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _ask(workflow: Workflow, states: Iterable[Any], events: Sequence[Any]) -> dict[Answer, None]:
    """What `update` says where nobody comes; values that it cannot take say nothing."""
    found: dict[Answer, None] = {}
    for state in states:
        for event in events:
            try:
                found[answered(workflow, state, workflow.update(event, state))] = None
            except Exception:  # the value may be one that never is
                continue
    return found


def _states(workflow: Workflow, graphs: Sequence[Graph]) -> dict[str, list[Any]]:
    """Tag → some states of it, those that were met before those that are made."""
    found: dict[str, list[Any]] = {}
    for graph in graphs:
        for local in graph.machine.locals:
            if local is not None and local.head.name == workflow.name:
                some = found.setdefault(workflow.tag_of(local.head.state), [])
                if len(some) < SOME and local.head.state not in some:
                    some.append(local.head.state)
    made: dict[str, list[Any]] = {}
    for kind in workflow.state_types if workflow.state_tags else ():  # else the tag is anything
        for value in _made(kind):
            made.setdefault(workflow.tag_of(value), []).append(value)
    return {**made, **found, "": [None]}


def _events(workflow: Workflow, tag: str, graphs: Sequence[Graph]) -> list[Any]:
    found: list[Any] = []
    for graph in graphs:
        found += graph.machine.events.get((workflow.name, tag), [])
    return found or _made(workflow.event_schema(tag).type)


# --- values of declared types -------------------------------------------------------------------


def _made(kind: type) -> list[Any]:
    """A few values of a declared record: a plain one, and with each field varied once."""
    hints = typing_extensions.get_type_hints(kind, include_extras=True)
    schema = schema_of(kind)
    names = {*schema.free, schema.at}
    fields = {name: _values(hint) for name, hint in hints.items() if name in names}
    plain = {name: values[0] for name, values in fields.items() if values}
    wanted = [plain]
    for name, values in fields.items():
        wanted += [{**plain, name: value} for value in values[1:]]
    made = []
    for given in wanted:
        try:
            made.append(kind(**given))
        except (TypeError, ValueError):  # a constraint that only its owner can meet
            continue
    return made


def _values(hint: Any) -> list[Any]:
    """One or two values of a declared type."""
    if hint in _ATOMS:
        return _ATOMS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _values(args[0])
    if origin in (Union, types.UnionType):
        return [value for each in args for value in _values(each)]
    if origin is Literal:
        return list(args)
    if origin is tuple:
        if args and args[-1] is not ...:
            return [tuple(_values(each)[0] for each in args)]
        return [(), *((one,) for one in _values(args[0])[:1])]
    if origin in (frozenset, Set):
        return [frozenset(), *(frozenset({one}) for one in _values(args[0])[:1])]
    if origin is Mapping:
        return [{}]
    if is_record(hint):
        return _made(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return list(hint)
    return [None]  # any data


_ATOMS: dict[Any, list[Any]] = {
    None: [None],
    type(None): [None],
    bool: [False, True],
    int: [0, 1],
    float: [0.0],
    str: ["a"],
    bytes: [b"a"],
    CID: [CID.of(b"a", 0x55)],
}

__all__ = ["LEGEND", "Cell", "Table", "table"]
