"""Two jugs, and how to measure what neither of them holds: a first check."""

from __future__ import annotations

from examples.jugs.workflow import (
    JUGS,
    Bring,
    EmptyBig,
    EmptySmall,
    FillBig,
    FillSmall,
    Jugs,
    PourIntoBig,
    PourIntoSmall,
)

app = (JUGS,)

__all__ = [
    "JUGS",
    "Bring",
    "EmptyBig",
    "EmptySmall",
    "FillBig",
    "FillSmall",
    "Jugs",
    "PourIntoBig",
    "PourIntoSmall",
    "app",
]
