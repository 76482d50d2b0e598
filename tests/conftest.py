"""What all tests share: the event loop's backend, the seed option, Hypothesis' profiles, and that
no secret is let out."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("stmflow.testing")  # before anybody imports it

from tests.secrets import SECRETS, Watch  # noqa: E402

settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Watch(SECRETS), "stmflow-secrets")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=None, help="run the simulation tests with this one seed"
    )


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int | None:
    """The seed that was asked for on the command line, or None."""
    chosen: int | None = request.config.getoption("--seed")
    return chosen


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
