"""One request over wires that break: the attempt machine behind every effect that leaves home."""

from examples.transport.model import Cancel, Request, Start, Terms
from examples.transport.workflow import TRANSPORT

__all__ = ["TRANSPORT", "Cancel", "Request", "Start", "Terms"]
