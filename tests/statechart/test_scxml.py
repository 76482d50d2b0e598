"""SCXML: documents become workflows, charts become documents."""

from __future__ import annotations

from typing import Any

import pytest

from examples.statecharts import CHARTS, PLAYER
from stmflow import CID, LIMITS, codec
from stmflow.errors import InvalidWorkflow, LimitExceeded, ReducerFailed
from stmflow.statechart.scxml import Message, Start, read, write
from stmflow.testing import Trace

HEAD = '<scxml xmlns="http://www.w3.org/2005/07/scxml" version="1.0" datamodel="ecmascript"'


def document(body: str, **attributes: str) -> str:
    given = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"{HEAD}{given}>{body}</scxml>"


def begun(body: str, **attributes: str) -> Trace:
    return Trace(read(document(body, **attributes), name="doc").workflow).send(Start("s"))


def tell(trace: Trace, name: str, data: Any = None) -> Trace:
    return trace.send(Message("s", name, data))


def variables(trace: Trace) -> dict[str, Any]:
    return {name: value[0] for name, value in trace.state.data.values.items() if value}


DOOR = """
  <datamodel><data id="opened" expr="0"/><data id="by"/></datamodel>
  <state id="closed">
    <transition event="open" cond="opened &lt; 2" target="open">
      <assign location="by" expr="_event.data.who"/>
    </transition>
    <transition event="open" target="broken"/>
  </state>
  <state id="open">
    <onentry>
      <assign location="opened" expr="opened + 1"/>
      <send id="slam" event="wind" delay="5s"><param name="force" expr="opened * 10"/></send>
    </onentry>
    <onexit><cancel sendid="slam"/></onexit>
    <transition event="close wind.*" target="closed"/>
  </state>
  <final id="broken"/>
"""


def test_a_document_is_a_workflow() -> None:
    trace = begun(DOOR, name="door")
    assert trace.state.active == ("closed",)
    tell(trace, "open", {"who": "ann"})
    assert trace.state.active == ("open",)
    assert variables(trace) == {"opened": 1, "by": "ann"}
    assert tell(trace, "close").timers == []


def test_what_is_sent_for_later_comes_at_its_time() -> None:
    trace = tell(begun(DOOR), "open", {"who": "ann"})
    assert [(timer.name, timer.due) for timer in trace.timers] == [("send", 5_000)]
    assert trace.pass_time(until=4_999).state.active == ("open",)
    assert trace.pass_time(until=5_000).state.active == ("closed",)


def test_a_guard_chooses_and_the_end_is_the_end() -> None:
    trace = begun(DOOR)
    for name in ("open", "close", "open", "close", "open"):
        tell(trace, name, {"who": "ann"})
    assert trace.state.active == ("broken",)
    assert tell(trace, "open").answer.kind == "ignored"
    assert trace.timers == []


def test_a_session_begins_once_and_messages_need_one() -> None:
    workflow = read(document(DOOR), name="door").workflow
    assert Trace(workflow).send(Message("s", "open")).refused == "NoSession"
    trace = Trace(workflow).send(Start("s"))
    assert trace.send(Start("s")).answer.kind == "no change"


def test_several_that_are_due_come_in_the_order_of_their_times() -> None:
    trace = begun(
        """<datamodel><data id="seen" expr="''"/></datamodel>
        <state id="a">
          <onentry>
            <send event="e.late" delay="2s"/><send event="e.soon" delay="1s"/>
            <send id="never" event="e.never" delay="1500ms"/><send event="e.tie" delay="2s"/>
          </onentry>
          <transition event="e.soon">
            <assign location="seen" expr="seen + 's'"/><cancel sendid="never"/>
          </transition>
          <transition event="e.never"><assign location="seen" expr="seen + 'n'"/></transition>
          <transition event="e.late"><assign location="seen" expr="seen + 'l'"/></transition>
          <transition event="e.tie"><assign location="seen" expr="seen + 't'"/></transition>
        </state>"""
    )
    assert variables(trace.pass_time(hours=1))["seen"] == "slt"


def test_all_of_them_in_one_commit_if_nobody_was_awake() -> None:
    trace = begun(
        """<datamodel><data id="n" expr="0"/></datamodel>
        <state id="a">
          <onentry><send event="e" delay="1s"/><send event="e" delay="2s"/></onentry>
          <transition event="e"><assign location="n" expr="n + 1"/></transition>
        </state>"""
    )
    revisions = len(trace.history)
    trace.pass_time(hours=1, late=True).fire("send")
    assert variables(trace)["n"] == 2
    assert (len(trace.history), trace.timers) == (revisions + 1, [])


def test_an_element_that_fails_ends_its_block_and_raises_an_event() -> None:
    trace = begun(
        """<datamodel><data id="x" expr="1"/></datamodel>
        <state id="a">
          <onentry>
            <assign location="x" expr="2"/><assign location="x" expr="missing"/>
            <assign location="x" expr="3"/>
          </onentry>
          <transition event="error.execution" target="b"/>
        </state><state id="b"/>"""
    )
    assert (trace.state.active, variables(trace)) == (("b",), {"x": 2})


def test_branches_and_loops() -> None:
    trace = begun(
        """<datamodel><data id="sum" expr="0"/><data id="list">[1, 2, 3]</data></datamodel>
        <state id="a"><onentry>
          <foreach array="list" item="one" index="at">
            <if cond="one == 1"><assign location="sum" expr="sum + 10"/>
            <elseif cond="at == 1"/><assign location="sum" expr="sum + 100"/>
            <else/><assign location="sum" expr="sum + 1000"/></if>
          </foreach>
        </onentry></state>"""
    )
    assert variables(trace)["sum"] == 1_110


def test_data_is_bound_early_or_late() -> None:
    body = """<state id="a"><onentry><raise event="x"/></onentry>
      <transition event="x" target="b"/></state>
      <state id="b"><datamodel><data id="v" expr="1"/></datamodel></state>"""
    early = begun(body)
    late = begun(body, binding="late")
    assert [past.state.data.values["v"] for past in early.history] == [(1,)]
    assert variables(late) == {"v": 1}
    assert 'binding="late"' in write(read(document(body, binding="late")))


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_what_a_block_executes_is_bounded(off: int) -> None:
    """`chart_content`: the two loops are elements too, and each pass of the outer one."""
    inner, outer = 150, 100
    spare = LIMITS.chart_content - (1 + outer + inner * outer) + off
    more = "<log expr='1'/>" * spare
    trace = begun(
        f"""<state id="a"><transition event="go">{more}
          <foreach array="_event.data[0]" item="x">
            <foreach array="_event.data[1]" item="y"><log expr="y"/></foreach>
          </foreach>
        </transition></state>"""
    )
    if off > 0:
        with pytest.raises(ReducerFailed, match="elements"):
            tell(trace, "go", [[0] * outer, [0] * inner])
    else:
        tell(trace, "go", [[0] * outer, [0] * inner])


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_values_are_bounded(off: int) -> None:
    """`chart_content`: the items inside are counted, not only those at the top."""
    rows, rest = divmod(LIMITS.chart_content + off, 128)
    trace = begun(
        """<datamodel><data id="v"/></datamodel>
        <state id="a"><transition event="go"><assign location="v" expr="_event.data"/></transition>
          <transition event="error.execution" target="b"/></state><state id="b"/>"""
    )
    tell(trace, "go", [*([[0] * 127] * rows), *([0] * rest)])
    assert trace.state.active == (("b",) if off > 0 else ("a",))


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_what_is_sent_for_later_is_bounded(off: int) -> None:
    count = LIMITS.open_tasks_per_job + off
    trace = begun(
        """<state id="a"><transition event="go">
          <foreach array="_event.data" item="x"><send event="e" delay="1s"/></foreach>
        </transition></state>"""
    )
    if off > 0:
        with pytest.raises(ReducerFailed, match="for later"):
            tell(trace, "go", [0] * count)
    else:
        assert len(tell(trace, "go", [0] * count).state.data.pending) == count


@pytest.mark.parametrize("name", ["done.state.a", "done", "error.execution", "error", ""])
def test_nobody_else_can_raise_the_chart_s_own_events(name: str) -> None:
    trace = begun('<state id="a"><transition event="*" target="b"/></state><state id="b"/>')
    assert tell(trace, name).refused == "Reserved"
    assert tell(trace, "done-it").state.active == ("b",)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<scxml", "not XML"),
        ("<scxml/>", "not scxml"),
        ("<other xmlns='http://www.w3.org/2005/07/scxml'/>", "not scxml"),
        (f"<!DOCTYPE scxml [<!ENTITY e 'x'>]>{document('<state id=&quot;a&quot;/>')}", "XML|type"),
        (f"<!DOCTYPE scxml>{document('')}", "document type"),
        (document("<state id='a'/>", datamodel2=""), None),
        (document("<state id='a'><invoke type='scxml'/></state>"), "line 1: invoke is not"),
        (document("<script>x</script><state id='a'/>"), "script"),
        (document("<state id='a'><onentry><other/></onentry></state>"), "other is not supported"),
        (document("<state id='a'><transition event='e' cond='x = 1'/></state>"), "x = 1"),
        (document("<state id='a'><transition target='b'/></state>"), "no state 'b'"),
        (document("<datamodel><data id='x' src='file:///etc/x'/></datamodel><state id='a'/>"),
         "elsewhere"),
        ('<scxml xmlns="http://www.w3.org/2005/07/scxml" datamodel="xpath"/>',
         "xpath"),
    ],
)  # fmt: skip
def test_a_document_that_cannot_work_is_refused(text: str, why: str | None) -> None:
    if why is None:
        read(text)
        return
    with pytest.raises(InvalidWorkflow, match=why):
        read(text)


def test_one_that_is_let_in_says_what_is_missing_and_fails_there() -> None:
    text = document(
        "<state id='a'><onentry><script>x</script></onentry>"
        "<transition event='error.execution' target='b'/></state><state id='b'/>"
    )
    chart = read(text, strict=False)
    assert chart.faults == ("line 1: script is not supported",)
    assert Trace(chart.workflow).send(Start("s")).state.active == ("b",)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_documents_are_bounded(off: int) -> None:
    text = document("<state id='a'/>")
    text += " " * (LIMITS.block_bytes + off - len(text))
    if off > 0:
        with pytest.raises(LimitExceeded):
            read(text)
    else:
        read(text)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_states_are_at_most_so_deep(off: int) -> None:
    depth = LIMITS.depth + off
    text = document("".join(f"<state id='s{n}'>" for n in range(depth)) + "</state>" * depth)
    if off > 0:
        with pytest.raises(LimitExceeded):
            read(text)
    else:
        assert Trace(read(text).workflow).send(Start("s")).state.active == (f"s{depth - 1}",)


# --- there and back -----------------------------------------------------------------------------


def test_what_was_read_is_written_as_it_was() -> None:
    text = write(read(document(DOOR, name="door")))
    assert write(read(text)) == text
    trace = Trace(read(text).workflow).send(Start("s"))
    assert variables(tell(trace, "open", {"who": "ann"})) == {"opened": 1, "by": "ann"}


def test_a_chart_without_functions_does_the_same_as_its_document() -> None:
    """Every configuration of the media player, by the same buttons."""
    chart = read(write(PLAYER))
    assert chart.configurations() == PLAYER.configurations()
    trace = Trace(chart.workflow).send(Start("s"))
    for button, active in [
        ("Play", ("playing", "normal", "windowed")),
        ("Mute", ("playing", "muted", "windowed")),
        ("Stop", ("stopped", "muted", "windowed")),
        ("Fullscreen", ("stopped", "muted", "fullscreen")),
        ("Unmute", ("stopped", "normal", "fullscreen")),
    ]:
        assert tell(trace, button).state.active == active


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.workflow.name)
def test_the_structure_of_every_chart_is_written(chart: Any) -> None:
    again = read(write(chart), strict=False)
    assert again.configurations() == chart.configurations()
    assert [node.name for node in again.tree.nodes] == [node.name for node in chart.tree.nodes]


def test_a_document_is_the_same_workflow_in_every_process() -> None:
    """What has no id gets one by its place; states and tags are those of any other reading."""
    text = document("<state><transition event='x' target='b'/></state><state id='b'/>")
    first, second = (Trace(read(text).workflow).send(Start("s")) for _ in range(2))
    assert first.head is not None
    assert second.head is not None
    assert first.head.revision == second.head.revision
    assert first.state.active == ("state.1",)


def test_sessions_are_told_apart_and_know_their_name() -> None:
    trace = begun(
        """<datamodel><data id="id" expr="_sessionid"/><data id="name" expr="_name"/></datamodel>
        <state id="a"/>""",
        name="who",
    )
    assert variables(trace) == {"id": "s", "name": "who"}
    assert CID.of(codec.encode(["doc", ["s"]])) == trace.head.job  # type: ignore[union-attr]
