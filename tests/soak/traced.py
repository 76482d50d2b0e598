"""Where memory goes: what a process has allocated since it was warm, written every minute."""

from __future__ import annotations

import gc
import linecache
import tracemalloc
from pathlib import Path

import anyio


async def traced(file: Path) -> None:
    """Compare with how it was after a minute, for ever."""
    tracemalloc.start(8)
    await anyio.sleep(60)
    first = _taken()
    while True:
        await anyio.sleep(60)
        later = _taken()
        grown = later.compare_to(first, "traceback")[:25]
        lines = [f"{one}\n" + "\n".join(one.traceback.format()) for one in grown]
        file.write_text("\n\n".join(lines))


def _taken() -> tracemalloc.Snapshot:
    gc.collect()
    ours = (tracemalloc.__file__, linecache.__file__)
    hidden = [tracemalloc.Filter(False, file) for file in ours]
    return tracemalloc.take_snapshot().filter_traces(hidden)
