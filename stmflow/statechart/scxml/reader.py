"""SCXML read: a document becomes a chart. The XML itself is lxml's affair.

Document type definitions are refused, nothing is fetched, and what the engine has no way to do (a
child session, a script, another processor) is refused by line unless the caller asks otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from stmflow.errors import InvalidWorkflow, LimitExceeded
from stmflow.limits import LIMITS
from stmflow.statechart.model import Act, Cell, Go, History, Parallel, State
from stmflow.statechart.model import Final as FinalState
from stmflow.statechart.scxml.content import (
    Assign,
    Block,
    Body,
    Cancel,
    Condition,
    Declare,
    Either,
    Element,
    Expression,
    Foreach,
    Gives,
    If,
    Log,
    Raise,
    Send,
    Unknown,
)
from stmflow.statechart.scxml.session import Scxml
from stmflow.statechart.scxml.xml import below, named, parsed, tag

_STATES: Final = ("state", "parallel", "final", "history")


def read(text: str | bytes, *, name: str | None = None, strict: bool = True) -> Scxml:
    """The chart of an SCXML document; its `workflow` goes to the transactor.

    Args:
        name: the workflow's; default: the document's own.
        strict: refuse what is not supported. Otherwise it is let in, fails when it is executed
            (`error.execution`), and stands in `faults`.

    Raises:
        InvalidWorkflow: not XML, not SCXML, not a chart, or not supported; says where.
        LimitExceeded: a document of more than `block_bytes`.
    """
    root = parsed(text)
    reader = _Reader()
    chart = reader.chart(root, name)
    if strict and reader.faults:
        raise InvalidWorkflow("; ".join(reader.faults))
    return chart


class _Reader:
    """One document. `faults`: what is in it and not supported."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._unnamed = 0
        self._late = False

    def chart(self, root: Any, name: str | None) -> Scxml:
        title = root.get("name", "")
        self._late = root.get("binding") == "late"
        if root.get("datamodel", "null") not in ("null", "ecmascript"):
            self._fault(root, f"the data model {root.get('datamodel')}")
        self._script(root)
        entry = [Block((each,)) for each in self._declarations(root)]
        states = self._states(root, depth=1)
        initial = tuple(root.get("initial", "").split())
        return Scxml(
            name or title or "scxml",
            states=states,
            initial=Go(initial) if initial else None,
            entry=entry,
            title=title,
            faults=self.faults,
        )

    def _fault(self, at: Any, what: str) -> None:
        self.faults.append(f"line {at.sourceline}: {what} is not supported")

    def _script(self, at: Any) -> None:
        for script in named(at, "script"):
            self._fault(script, "script")

    # --- states -----------------------------------------------------------------------------------

    def _states(self, around: Any, depth: int) -> list[State]:
        found = [one for one in around if tag(one) in _STATES]
        if found and depth > LIMITS.depth:
            raise LimitExceeded(f"states deeper than {LIMITS.depth}")
        return [self._state(one, depth) for one in found]

    def _state(self, at: Any, depth: int) -> State:
        name, kind = at.get("id") or self._unnamed_state(), tag(at)
        for invoke in named(at, "invoke"):
            self._fault(invoke, "invoke")
        if kind == "history":
            defaults = [cell for _, cell in self._transitions(at)]
            default = defaults[0] if defaults else ""
            assert isinstance(default, (str, Go))
            return History(name, default=default, deep=at.get("type") == "deep")
        transitions = self._transitions(at)
        how: dict[str, Any] = {
            "states": self._states(at, depth + 1),
            "initial": self._initial(at),
            "on": [(event, cell) for event, cell in transitions if event],
            "always": [cell for event, cell in transitions if not event],
            "entry": (*self._late_data(at), *self._blocks(at, "onentry")),
            "exit": self._blocks(at, "onexit"),
        }
        if kind == "final":
            return FinalState(name, **how, gives=self._gives(at))
        return (Parallel if kind == "parallel" else State)(name, **how)

    def _unnamed_state(self) -> str:
        self._unnamed += 1
        return f"state.{self._unnamed}"

    def _initial(self, at: Any) -> Go | None:
        if at.get("initial"):
            return Go(tuple(at.get("initial").split()))
        for initial in named(at, "initial"):
            for _, cell in self._transitions(initial):
                assert isinstance(cell, Go)
                return cell
        return None

    def _transitions(self, at: Any) -> list[tuple[str, Cell]]:
        """(event names, cell) for each, in document order."""
        found: list[tuple[str, Cell]] = []
        for one in named(at, "transition"):
            elements = self._elements(one)
            cell = Go(
                tuple(one.get("target", "").split()) or None,
                None if one.get("cond") is None else Condition(self._expression(one, "cond")),
                Block(elements) if elements else None,
                one.get("type") == "internal",
            )
            names = (_descriptor(event) for event in one.get("event", "").split())
            found.append((" ".join(names), cell))
        return found

    def _blocks(self, at: Any, tag: str) -> tuple[Act, ...]:
        return tuple(Block(self._elements(one)) for one in named(at, tag))

    def _gives(self, at: Any) -> Gives | None:
        for donedata in named(at, "donedata"):
            return Gives(self._body(donedata))
        return None

    # --- data -------------------------------------------------------------------------------------

    def _declarations(self, root: Any) -> Iterator[Declare]:
        """Every variable of the document; bound late, only those at the top have a value yet."""
        for data in below(root, "data"):
            if any(tag(around) == "content" for around in data.iterancestors()):
                continue
            top = tag(data.getparent().getparent()) == "scxml"
            if self._late and not top:
                yield Declare(data.get("id", ""), None, None)
            else:
                yield self._declare(data)

    def _late_data(self, at: Any) -> tuple[Act, ...]:
        if not self._late:
            return ()
        found = [data for model in named(at, "datamodel") for data in named(model, "data")]
        return tuple(Block((self._declare(data, late=True),)) for data in found)

    def _declare(self, data: Any, *, late: bool = False) -> Declare:
        if data.get("src") is not None:
            self._fault(data, "data from elsewhere")
        if len(data):
            self._fault(data, "XML as data")
        text = None if data.get("expr") is not None else (data.text or "").strip() or None
        return Declare(data.get("id", ""), self._optional(data, "expr"), text, late)

    # --- executable content -----------------------------------------------------------------------

    def _elements(self, at: Any) -> tuple[Element, ...]:
        return tuple(self._element(one) for one in at if tag(one) not in ("elseif", "else"))

    def _element(self, at: Any) -> Element:
        match tag(at):
            case "raise":
                return Raise(at.get("event", ""))
            case "assign":
                if len(at):
                    self._fault(at, "XML as a value")
                expression = self._optional(at, "expr")
                return Assign(at.get("location", ""), expression, (at.text or "").strip())
            case "log":
                return Log(at.get("label", ""), self._optional(at, "expr"))
            case "if":
                return If(tuple(self._branches(at)))
            case "foreach":
                array = self._expression(at, "array")
                item, index = at.get("item", ""), at.get("index", "")
                return Foreach(array, item, index, self._elements(at))
            case "send":
                return self._send(at)
            case "cancel":
                return Cancel(self._either(at, "sendid", "sendidexpr"))
        self._fault(at, tag(at))
        return Unknown(tag(at))

    def _branches(self, at: Any) -> Iterator[tuple[Expression | None, tuple[Element, ...]]]:
        condition: Expression | None = self._expression(at, "cond")
        elements: list[Element] = []
        for one in at:
            if tag(one) in ("elseif", "else"):
                yield condition, tuple(elements)
                condition, elements = self._optional(one, "cond"), []
            else:
                elements.append(self._element(one))
        yield condition, tuple(elements)

    def _send(self, at: Any) -> Send:
        return Send(
            self._either(at, "event", "eventexpr"),
            self._either(at, "target", "targetexpr"),
            self._either(at, "type", "typeexpr"),
            self._either(at, "delay", "delayexpr"),
            at.get("id"),
            at.get("idlocation"),
            self._body(at),
        )

    def _body(self, at: Any) -> Body:
        for content in named(at, "content"):
            if len(content):
                self._fault(content, "XML as content")
            expression = self._optional(content, "expr")
            return Body((), expression, None if expression else (content.text or "").strip())
        names = at.get("namelist", "").split()
        params = [(name, Expression.of(name)) for name in names]
        for param in named(at, "param"):
            source = "expr" if param.get("expr") is not None else "location"
            params.append((param.get("name", ""), self._expression(param, source)))
        return Body(tuple(params))

    def _either(self, at: Any, plain: str, dynamic: str) -> Either:
        return Either(at.get(plain), self._optional(at, dynamic))

    def _optional(self, at: Any, attribute: str) -> Expression | None:
        return None if at.get(attribute) is None else self._expression(at, attribute)

    def _expression(self, at: Any, attribute: str) -> Expression:
        expression = Expression.of(at.get(attribute, ""))
        if expression.run is None:
            self._fault(at, f"{attribute}={expression.text!r}")
        return expression


def _descriptor(event: str) -> str:
    """`error.*` and `error.` are `error`; `.*` is `*`."""
    return event.removesuffix("*").rstrip(".") or "*"
