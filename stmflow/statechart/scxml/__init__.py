"""SCXML: documents read as charts and charts written as documents. Needs the extra `scxml`."""

from stmflow.statechart.scxml.reader import read
from stmflow.statechart.scxml.session import Message, Scxml, Start
from stmflow.statechart.scxml.writer import write

__all__ = ["Message", "Scxml", "Start", "read", "write"]
