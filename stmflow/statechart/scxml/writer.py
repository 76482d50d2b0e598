"""A chart written as SCXML. What came from a document is written as it was read.

Of a chart made of Python functions the structure is written: a guard or act is named by its
function (`cond="last"`, `<script>keep</script>`), `after` becomes a delayed `send` that is
cancelled on exit, an invocation an `<invoke type="task">`. Such a document shows the chart to other
tools; the functions are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stmflow.schema import tag_of
from stmflow.statechart.chart import Chart
from stmflow.statechart.model import Act, Final, Go, History, Invoke, Stay
from stmflow.statechart.picture import condition, name_of_function
from stmflow.statechart.scxml import content, xml
from stmflow.statechart.scxml.session import Scxml
from stmflow.statechart.scxml.xml import add
from stmflow.statechart.tree import Edge, Node, timer


def write(chart: Chart) -> str:
    """The chart as a document: `read` gives one that does the same, if it came from there."""
    document = isinstance(chart, Scxml)
    title = chart.title if isinstance(chart, Scxml) else chart.workflow.name
    datamodel = "ecmascript" if document else "null"
    root = xml.document(version="1.0", datamodel=datamodel, name=title)
    top = chart.tree.root
    _initial_attribute(root, top)
    late = {name for node in chart.tree.nodes for name in _declared(node) if node is not top}
    if late:
        root.set("binding", "late")
    _data(root, top, without=late)
    for child in top.children:
        _node(root, child)
    for edge in () if document else top.edges:
        xml.remark(root, f"in every state: {_summary(edge)}")
    return xml.written(root)


def _summary(edge: Edge) -> str:
    verb = f"go to {' '.join(edge.to)}" if isinstance(edge.cell, Go) else edge.cell
    return f"on {' '.join(edge.events) or 'nothing'}: {verb}"


# --- states ---------------------------------------------------------------------------------------


def _node(around: Any, node: Node) -> None:
    spec = node.spec
    if isinstance(spec, History):
        at = add(around, "history", id=node.name, type="deep" if spec.deep else "shallow")
        _edge(at, node.initial)
        return
    tag = "final" if node.final else "parallel" if node.parallel else "state"
    at = add(around, tag, id=node.name)
    _initial(at, node)
    _data(at, node)
    for act in _acts(spec.entry):
        _block(at, "onentry", act)
    for act in _acts(spec.exit):
        _block(at, "onexit", act)
    for ms in node.timers:
        _timer(at, timer(node, ms), ms)
    for number, invoke in enumerate(node.invokes):
        _invoke(at, f"invoke.{node.name}.{number}", invoke)
    for edge in node.edges:
        _edge(at, edge)
    for child in node.children:
        _node(at, child)
    if isinstance(spec, Final) and isinstance(spec.gives, content.Gives):
        _body(add(at, "donedata"), spec.gives.body)


def _initial_attribute(at: Any, node: Node) -> None:
    if node.spec.initial is not None and node.initial is not None:
        at.set("initial", " ".join(node.initial.to))


def _initial(at: Any, node: Node) -> None:
    if node.initial is not None and node.initial.acts:
        _edge(add(at, "initial"), node.initial)
    else:
        _initial_attribute(at, node)


def _edge(around: Any, edge: Edge | None) -> None:
    assert edge is not None
    if not isinstance(edge.cell, Go):
        verb = "accepted" if isinstance(edge.cell, Stay) else f"refused: {edge.cell.code}"
        xml.remark(around, f"{' '.join(edge.events)} is {verb}")
        return
    at = add(around, "transition", event=" ".join(edge.events), target=" ".join(edge.to))
    if edge.cell.when is not None:
        at.set("cond", condition(edge.cell.when))
    if edge.cell.internal:
        at.set("type", "internal")
    if edge.cell.do is not None:
        _content(at, edge.cell.do)


def _timer(at: Any, name: str, ms: int) -> None:
    add(add(at, "onentry"), "send", event=name, id=name, delay=f"{ms}ms")
    add(add(at, "onexit"), "cancel", sendid=name)


def _invoke(at: Any, name: str, invoke: Invoke) -> None:
    found = add(at, "invoke", id=name, type="task")
    error = "" if invoke.error is None else f", or {tag_of(invoke.error)}"
    xml.remark(found, f"becomes {tag_of(invoke.done)}{error}")


# --- executable content ---------------------------------------------------------------------------


def _acts(acts: Act | Sequence[Act]) -> Sequence[Act]:
    return (acts,) if callable(acts) else acts


def _declares(act: Act) -> bool:
    return isinstance(act, content.Block) and any(
        isinstance(element, content.Declare) for element in act.elements
    )


def _declared(node: Node) -> dict[str, content.Declare]:
    """The variables that are declared on entry."""
    return {
        element.name: element
        for act in _acts(node.spec.entry)
        if isinstance(act, content.Block)
        for element in act.elements
        if isinstance(element, content.Declare)
    }


def _data(at: Any, node: Node, *, without: Iterable[str] = ()) -> None:
    declared = [one for name, one in _declared(node).items() if name not in without]
    model = add(at, "datamodel") if declared else None
    for one in declared:
        data = add(model, "data", id=one.name)
        _given(data, "expr", one.expression)
        data.text = one.text


def _block(around: Any, tag: str, act: Act) -> None:
    if not _declares(act):
        _content(add(around, tag), act)


def _content(at: Any, act: Act) -> None:
    if isinstance(act, content.Block):
        _elements(at, act.elements)
    else:
        add(at, "script").text = name_of_function(act)


def _elements(at: Any, elements: Iterable[content.Element]) -> None:
    for element in elements:
        _WRITERS[type(element)](at, element)


def _raise(at: Any, one: content.Raise) -> None:
    add(at, "raise", event=one.event)


def _assign(at: Any, one: content.Assign) -> None:
    found = add(at, "assign", location=one.location)
    _given(found, "expr", one.expression)
    found.text = one.text or None


def _log(at: Any, one: content.Log) -> None:
    _given(add(at, "log", label=one.label), "expr", one.expression)


def _if(at: Any, one: content.If) -> None:
    found = None
    for when, elements in one.branches:
        if found is None:
            found = add(at, "if")
            _given(found, "cond", when)
        else:
            _given(add(found, "else" if when is None else "elseif"), "cond", when)
        _elements(found, elements)


def _foreach(at: Any, one: content.Foreach) -> None:
    found = add(at, "foreach", array=one.array.text, item=one.item, index=one.index)
    _elements(found, one.elements)


def _send(at: Any, one: content.Send) -> None:
    found = add(at, "send", id=one.id or "", idlocation=one.idlocation or "")
    for name in ("event", "target", "type", "delay"):
        _either(found, name, f"{name}expr", getattr(one, name))
    _body(found, one.body)


def _cancel(at: Any, one: content.Cancel) -> None:
    _either(add(at, "cancel"), "sendid", "sendidexpr", one.sendid)


def _unknown(at: Any, one: content.Unknown) -> None:
    xml.remark(at, f"{one.what} was not supported")


_WRITERS: dict[type, Callable[[Any, Any], None]] = {
    content.Raise: _raise,
    content.Assign: _assign,
    content.Log: _log,
    content.If: _if,
    content.Foreach: _foreach,
    content.Send: _send,
    content.Cancel: _cancel,
    content.Unknown: _unknown,
}


def _body(at: Any, body: content.Body) -> None:
    for name, expression in body.params:
        add(at, "param", name=name, expr=expression.text)
    if body.expression is not None or body.text is not None:
        found = add(at, "content")
        _given(found, "expr", body.expression)
        found.text = body.text


def _either(at: Any, plain: str, dynamic: str, given: content.Either) -> None:
    if given.text is not None:
        at.set(plain, given.text)
    _given(at, dynamic, given.expression)


def _given(at: Any, attribute: str, expression: content.Expression | None) -> None:
    if expression is not None:
        at.set(attribute, expression.text)
