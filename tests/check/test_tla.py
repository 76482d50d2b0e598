"""The TLA+ export: its tables and its refusals. `make formal` has TLC confirm the rest."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.lease import model
from examples.election.check import arriving
from formal.models import CHECKS
from stmflow.check import Check, Faults, Send, View, at_rest, explore, leads_to, sometimes
from stmflow.check.tla import module
from stmflow.errors import InvalidWorkflow
from tests.check.parcel import Order, parcel
from tests.check.parcel import model as parcels


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_module_has_a_place_for_every_state_of_a_job(check: Check) -> None:
    graph = explore(check, every=True)
    made = module(check, graph)
    assert made.text.startswith(f"---- MODULE {made.name} ----")
    assert made.text.isascii()
    assert f"{len(graph.states):,} distinct states, {graph.steps:,} steps" in made.text
    assert made.text == module(check, explore(check, every=True)).text


def test_properties_are_sets_of_what_decides_them() -> None:
    check = model("a", lively=True)
    never = sometimes("a lease is done", lambda view: False)
    check = replace(check, properties=[*check.properties, never])
    made = module(check, explore(check))
    assert re.search(r"^P1 == TRUE$", made.text, re.MULTILINE)
    assert re.search(r"^P2 == <>\(\(job\[1\] \\(not)?in \{[\d, ]+\}\) \\/ Cut\)$", made.text, re.M)
    assert "left out: a lease is done" in made.text
    assert made.cfg == "SPECIFICATION Spec\nINVARIANTS P1\nPROPERTIES P2\n"


def test_properties_are_asked_only_where_they_are_meant() -> None:
    """As the checker does: `then` once `when` held, and what holds at rest only there."""

    def sent(view: View) -> bool:
        status: str = view.state(parcel("a")).status  # no such job at first
        return status == "sent"

    def here(view: View) -> bool:
        return view.state(parcel("a")) is not None

    ordered = Send(Order("a"), fair=True)
    properties = [leads_to("what is ordered is sent", here, sent), at_rest("all is sent", sent)]
    check = parcels(ordered, properties=properties[:1])
    assert re.search(r"^P1 == \(job\[1\] .*\) ~> \(\(job", _text(check), re.MULTILINE)
    check = parcels(ordered, start=lambda tx: tx.apply(parcel("a"), Order("a")))
    check = replace(check, properties=properties[1:])
    assert re.search(r"^P1 == Rests => \(TRUE\)$", _text(check), re.MULTILINE)


def test_beyond_the_bound_nothing_has_to_happen() -> None:
    """Its tables do not go there."""
    check = arriving("bounded", 1)
    assert re.search(r"^    /\\ WF_vars\(~Cut /\\ Send\(4\)\)$", _text(check), re.MULTILINE)
    assert "WF_vars(Send" not in _text(check)


def _text(check: Check) -> str:
    return module(check, explore(check)).text


def test_what_has_no_form_is_refused() -> None:
    check = model("a")
    faults = (Faults(late=2), Faults(overdue=True))
    for other in (replace(check, parks=True), *(replace(check, faults=each) for each in faults)):
        with pytest.raises(InvalidWorkflow):
            module(other, explore(other))
    with pytest.raises(InvalidWorkflow, match="to its end"):
        module(check, explore(check, limit=5))
