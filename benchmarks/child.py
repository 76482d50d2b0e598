"""One measurement in a process and a folder of its own, on the disk that holds the project.

A measurement is an async function `module:function` of this package; it gets `folder` and its
options, and returns plain data. The child prints that as one line of JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "bench"
LONGEST_SECONDS = 1_800


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder on the project's disk, removed afterwards."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def start(measurement: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A child that works in this folder."""
    command = [sys.executable, "-m", "benchmarks.child", measurement, str(folder)]
    return subprocess.Popen(
        [*command, json.dumps(options)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def measure(measurement: str, *, inside: Path | None = None, **options: Any) -> dict[str, Any]:
    """What a measurement gives, in a fresh process; in a fresh folder unless one is given."""
    if inside is None:
        with scratch() as folder:
            return measure(measurement, inside=folder, **options)
    with start(measurement, inside, **options) as child:
        try:
            text, _ = child.communicate(timeout=LONGEST_SECONDS)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise RuntimeError(f"{measurement} ended with {child.returncode}")
    found: dict[str, Any] = json.loads(text)
    return found


def fast_loop() -> bool:
    """Whether uvloop is installed: then every measurement runs on it, the floor too."""
    try:
        importlib.import_module("uvloop")
    except ImportError:
        return False
    return True


def main(measurement: str, folder: str, options: str) -> None:
    """Run in this process."""
    module, _, name = measurement.partition(":")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)

    async def run() -> Any:
        return await function(Path(folder), **json.loads(options))

    gc.freeze()  # as docs/performance.md advises a service; the floor runs with the same
    gc.set_threshold(20_000, 50, 100)
    found = anyio.run(run, backend_options={"use_uvloop": fast_loop()})
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
