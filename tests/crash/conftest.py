"""Where images are laid out: in memory where that can be had, as a thousand a second are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.power_loss import SHM


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone after the test."""
    if not SHM.is_dir():
        yield tmp_path
        return
    with TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)
