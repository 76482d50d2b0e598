"""What the tests of stores share with these."""

from __future__ import annotations

from tests.stmflow.conftest import postgres

__all__ = ["postgres"]
