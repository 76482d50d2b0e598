"""The model checker: every behaviour of a workflow, on the reducer that runs in production."""

from stmflow.check.exploring import explore
from stmflow.check.machine import Told
from stmflow.check.model import (
    Alike,
    Check,
    Faults,
    Handler,
    Move,
    Property,
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
from stmflow.check.replay import Diverged, Played, find, regression, replay, words
from stmflow.check.report import Report, prove, walk
from stmflow.check.search import Graph

__all__ = [
    "Alike",
    "Check",
    "Diverged",
    "Faults",
    "Graph",
    "Handler",
    "Move",
    "Played",
    "Property",
    "Report",
    "Send",
    "Told",
    "Transact",
    "View",
    "always",
    "at_rest",
    "eventually",
    "explore",
    "find",
    "leads_to",
    "prove",
    "regression",
    "replay",
    "sometimes",
    "step",
    "walk",
    "words",
]
