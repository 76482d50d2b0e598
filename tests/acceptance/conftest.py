"""A real S3 server, as the tests of the scheduler have it."""

from __future__ import annotations

from tests.scheduler.conftest import endpoint, seaweed

__all__ = ["endpoint", "seaweed"]
