"""The TLA+ export: its tables and its refusals. `make formal` has TLC confirm the rest."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from formal.models import CHECKS, leases
from stmflow.check import Check, Faults, explore
from stmflow.check.tla import module
from stmflow.errors import InvalidWorkflow


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_module_has_a_place_for_every_state_of_a_job(check: Check) -> None:
    graph = explore(check, every=True)
    made = module(check, graph)
    assert made.text.startswith(f"---- MODULE {made.name} ----")
    assert made.text.isascii()
    assert f"{len(graph.states):,} distinct states, {graph.steps:,} steps" in made.text
    assert made.text == module(check, explore(check, every=True)).text


def test_properties_are_sets_of_what_decides_them() -> None:
    check = leases("a", lively=True)
    made = module(check, explore(check))
    assert re.search(r"^P1 == TRUE$", made.text, re.MULTILINE)
    assert re.search(r"^P3 == <>\(\(job\[1\] \\(not)?in \{[\d, ]+\}\) \\/ Cut\)$", made.text, re.M)
    assert "left out: a lease is done" in made.text
    assert made.cfg == "SPECIFICATION Spec\nINVARIANTS P1\nPROPERTIES P3\n"


def test_what_has_no_form_is_refused() -> None:
    check = leases("a")
    for other in (replace(check, parks=True), replace(check, faults=Faults(late=2))):
        with pytest.raises(InvalidWorkflow):
            module(other, explore(other))
    with pytest.raises(InvalidWorkflow, match="to its end"):
        module(check, explore(check, limit=5))
