"""Rule 2: kill -9 at every boundary that the engine can name; the next process ends every job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stmflow import CID
from tests.acceptance.fakes import (
    FolderBucket,
    Points,
    SetClock,
    balanced,
    machine,
    verified,
)
from tests.acceptance.story import ENDINGS, PROFILES, play, tell
from tests.project import ROOT

SAMPLE = [
    ("local", "commit:before", 3),
    ("local", "commit:inside", 6),
    ("local", "commit:after", 5),
    ("local", "claim:after", 2),
    ("local", "effect:before", 4),
    ("local", "effect:after", 7),
    ("local", "settle:before", 5),
    ("local", "timer:before", 2),
    ("local", "timer:after", 3),
    ("remote", "commit:inside", 9),
    ("remote", "effect:after", 3),
    ("remote", "settle:after", 6),
    ("remote", "defer:after", 1),
    ("remote", "timer:after", 1),
]
CLEAN: dict[str, dict[CID, tuple[str, CID]]] = {}
POINTS = sorted({name for _, name, _ in SAMPLE} | {"claim:before", "defer:before"})


@pytest.mark.parametrize(("profile", "point", "n"), SAMPLE)
async def test_killed_at_a_boundary(tmp_path: Path, profile: str, point: str, n: int) -> None:
    assert killed(tmp_path, profile, point, n), f"{point} is not passed {n} times"
    await finished(tmp_path, profile)


@pytest.mark.acceptance
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_every_boundary(tmp_path: Path, profile: str, point: str) -> None:
    for n in count(1):
        folder = tmp_path / str(n)
        folder.mkdir()
        survived = not killed(folder, profile, point, n)
        await finished(folder, profile)
        if survived:
            assert n > 1, f"{point} is never passed"
            return


@pytest.mark.parametrize("profile", PROFILES)
async def test_the_story_passes_every_named_point(tmp_path: Path, profile: str) -> None:
    points = Points()
    await play(tmp_path, profile, points)
    assert set(points.passed) >= set(POINTS), points.passed
    await finished(tmp_path, profile)


def killed(folder: Path, profile: str, point: str, n: int) -> bool:
    """Run the story in a process of its own; whether it was killed."""
    command = [sys.executable, "-m", "tests.acceptance.story", str(folder), profile, point, str(n)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0


async def finished(folder: Path, profile: str) -> None:
    """The next process tells the story again, and all is as if nothing had happened."""
    clock = SetClock(folder / "clock")
    bucket = FolderBucket(folder / "bucket", clock)
    async with machine(folder / "jobs.db", PROFILES[profile](), bucket) as world:
        await tell(world)
        for (space, data), ending in ENDINGS.items():
            assert await world.tag(space, data) == ending, data
        await balanced(world)
        await verified(world.store, world.profile)
        assert await world.store.tasks() == []
        assert await world.states() == await clean(profile)


async def clean(profile: str) -> dict[CID, tuple[str, CID]]:
    """The states of a run in which nobody is killed."""
    if profile not in CLEAN:
        with TemporaryDirectory() as folder:
            bucket = FolderBucket(Path(folder) / "bucket", SetClock())
            database = Path(folder) / "jobs.db"
            async with machine(database, PROFILES[profile](), bucket) as world:
                await tell(world)
                CLEAN[profile] = await world.states()
    return CLEAN[profile]
