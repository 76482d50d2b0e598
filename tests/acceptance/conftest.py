"""Real servers: S3 as the tests of the scheduler have it, PostgreSQL as those of the stores."""

from __future__ import annotations

from tests.scheduler.conftest import endpoint, seaweed
from tests.stmflow.conftest import postgres

__all__ = ["endpoint", "postgres", "seaweed"]
