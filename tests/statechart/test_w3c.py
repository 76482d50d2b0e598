"""The W3C's SCXML tests, run on the engine; the documents are downloaded when this is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from stmflow.statechart.scxml import Start, read, write
from stmflow.testing import Trace
from tests.project import ROOT
from tests.statechart.w3c import NOT_PASSED, Missing, files, number


def ends(text: str | bytes) -> str:
    """The leaf in which a session of that document comes to rest, its delays included."""
    workflow = read(text, name="w3c", strict=False).workflow
    trace = Trace(workflow).send(Start("session")).pass_time(minutes=5)
    return str(trace.tag)


@pytest.mark.acceptance
def test_every_w3c_test_passes_but_for_those_that_are_listed(tmp_path: Path) -> None:
    try:
        documents = files(tmp_path)
    except Missing as missing:
        pytest.skip(str(missing))
    left = {name for names in NOT_PASSED.values() for name in names}
    asked = [path for path in documents if number(path) not in left]
    assert left <= {number(path) for path in documents}
    assert len(asked) >= 130
    assert {number(path): ends(path.read_bytes()) for path in asked} == {
        number(path): "pass" for path in asked
    }
    for path in asked:
        text = write(read(path.read_bytes(), strict=False))
        assert ends(text) == "pass", f"{path.name}, written and read again"


def test_the_list_of_those_that_do_not_pass_is_in_the_docs() -> None:
    page = (ROOT / "docs/statecharts.md").read_text()
    for reason, names in NOT_PASSED.items():
        assert f"| {reason} | {', '.join(names)} |" in page


ORDER = """
<scxml xmlns="http://www.w3.org/2005/07/scxml" version="1.0" datamodel="ecmascript">
  <datamodel><data id="n" expr="0"/></datamodel>
  <parallel id="p">
    <onentry><send event="late" delay="1s"/><raise event="one"/><send event="two"/></onentry>
    <state id="left">
      <state id="l0"><transition event="one" target="l1"/></state>
      <state id="l1"><onentry><raise event="three"/></onentry>
        <transition event="three" target="l2"/><transition event="two" target="fail"/></state>
      <state id="l2"><transition event="two" cond="In('r1')" target="l3"/></state>
      <final id="l3"/>
      <history id="was" type="deep"><transition target="l0"/></history>
    </state>
    <state id="right">
      <state id="r0"><transition event="one" target="r1"/></state>
      <state id="r1"><transition event="done.state.left" target="r2">
        <assign location="n" expr="n + 1"/></transition></state>
      <final id="r2"/>
    </state>
    <transition event="done.state.p" target="pass"/>
    <transition event="late" target="fail"/>
  </parallel>
  <final id="pass"/><final id="fail"/>
</scxml>
"""


def test_a_short_one_of_our_own() -> None:
    """Raised before sent, every region for itself, done events in their order."""
    assert ends(ORDER) == "pass"
    assert ends(write(read(ORDER))) == "pass"
