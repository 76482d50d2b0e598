"""Imports: the CPU time of `import stmflow`, beside that of its two dependencies alone.

`import pydantic` by itself loads little: its names come when they are asked for. So a third figure
is taken, of the two dependencies with the one name without which no type can be checked.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.child import ROOT

OURS = "stmflow"
THEIRS = "pydantic, anyio"
USED = "anyio; from pydantic import TypeAdapter"
TIMED = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"


def cpu_ms(names: str) -> float:
    """CPU milliseconds of one import in a new interpreter."""
    command = [sys.executable, "-c", TIMED.replace("{}", names)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout) * 1e3


def report(*, rounds: int = 9) -> dict[str, Any]:
    """The best of several, taken in turn; the first turn, which fills the caches, is dropped."""
    turns = [[cpu_ms(names) for names in (OURS, THEIRS, USED)] for _ in range(rounds + 1)][1:]
    ours, theirs, used = (min(column) for column in zip(*turns, strict=True))
    return {
        "stmflow_ms": ours,
        "pydantic_anyio_ms": theirs,
        "ratio": ours / theirs,
        "type_adapter_anyio_ms": used,
        "type_adapter_ratio": ours / used,
    }
