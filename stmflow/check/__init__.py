"""The model checker: every behaviour of a workflow, on the reducer that runs in production."""

from stmflow.check.model import (
    Check,
    Faults,
    Move,
    Send,
    Transact,
    View,
    always,
    at_rest,
    eventually,
    leads_to,
    sometimes,
    step,
)
from stmflow.check.search import Graph, explore

__all__ = [
    "Check",
    "Faults",
    "Graph",
    "Move",
    "Send",
    "Transact",
    "View",
    "always",
    "at_rest",
    "eventually",
    "explore",
    "leads_to",
    "sometimes",
    "step",
]
